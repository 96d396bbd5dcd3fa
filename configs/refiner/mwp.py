"""REFINER on maths word problems: MAWPS + ASDiv-A for training, SVAMP to test.

    --config=configs/refiner/mwp.py[:size=small|base|large,model=t5|flan|llama]

`small` is from scratch and barely leaves the constant-formula floor (11.7 %
on SVAMP, an arm of its own): judge it on `test_split=dev` too, training
problems held out by their texts. `base` and
`large` are the paper's (section 5 and appendix): UnifiedQA-T5 or, as the
original code has it, Flan-T5.
"""

from refine_jax import config

PRETRAINED = {
  ("t5", "base"): "allenai/unifiedqa-t5-base",
  ("t5", "large"): "allenai/unifiedqa-t5-large",
  ("flan", "base"): "google/flan-t5-base",
  ("flan", "large"): "google/flan-t5-large",
  ("llama", "base"): "meta-llama/Llama-3.2-1B",
  ("llama", "large"): "meta-llama/Llama-3.2-3B",
}


def get_config(text=""):
  args = config.arguments(
    text,
    model="t5",
    size="small",
    path=config.data_folder(),
    test_split="test",
    control="",
    ablations=False,
    smoke=False,
  )
  if args.size == "small":
    experiment = _small(args)
  else:
    experiment = config.published_refiner(
      task=config.task("mwp", path=args.path),
      path=PRETRAINED[args.model, args.size],
      decoder_only=args.model == "llama",
      test_split=args.test_split,
      title="REFINER on maths word problems",
    )
  floor = config.arm("constant", turns=1, control=True)
  experiment.run_refine.arms["constant formula"] = floor
  experiment.run_refine.order += ("constant formula",)
  # Ten published training rows do not execute to their answers.
  experiment.data.on_bad_row = "skip"
  config.continue_instead(experiment, args.control)
  config.refiner_ablations(experiment, args.ablations)
  return config.smoke(experiment) if args.smoke else experiment


def _small(args):
  sizes = {"width": 128, "heads": 4, "mlp": 256}
  if args.model == "llama":
    model = config.llama(layers=4, max_length=512, **sizes)
  else:
    model = config.t5(
      encoder_layers=3,
      decoder_layers=2,
      init_local_slope=True,
      init_tie_qk=True,
      **sizes,
    )
  return config.small_refiner(
    task=config.task("mwp", path=args.path),
    tokenizer=config.tokenizer(
      "../tokenizer/tokenizer",
      model_type="bpe",
      vocab_size=2000,
      texts=100_000,
    ),
    model=model,
    max_prompt=160,
    max_target=72,
    max_feedback=96,
    test_split=args.test_split,
    title="REFINER on maths word problems, from scratch",
  )
