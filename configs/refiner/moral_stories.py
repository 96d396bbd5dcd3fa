"""REFINER on Moral Stories: a norm as intermediate step, then a moral action.

    --config=configs/refiner/moral_stories.py[:size=small|base|large]

The training rows are not among the published files of REFINER: without them
`train_share` takes that part of the validation rows. `small` is from scratch
and only shows that everything runs.
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
    train_share=0.8,
    control="",
    ablations=False,
    smoke=False,
  )
  task = config.task(
    "moral_stories", path=args.path, train_share=args.train_share
  )
  if args.size == "small":
    experiment = _small(args, task)
  else:
    experiment = config.published_refiner(
      task=task,
      path=PRETRAINED[args.model, args.size],
      decoder_only=args.model == "llama",
      test_split=args.test_split,
      title="REFINER on Moral Stories",
    )
  for stage in (experiment.train_generator, experiment.train_refiner):
    stage.train.best_metric = "norm_exact"
  config.continue_instead(experiment, args.control)
  config.refiner_ablations(experiment, args.ablations)
  return config.smoke(experiment) if args.smoke else experiment


def _small(args, task):
  sizes = {"width": 128, "heads": 4, "mlp": 256}
  if args.model == "llama":
    model = config.llama(layers=4, max_length=512, **sizes)
  else:
    model = config.t5(encoder_layers=2, decoder_layers=2, **sizes)
  return config.small_refiner(
    task=task,
    tokenizer=config.tokenizer(
      "../tokenizer/tokenizer",
      model_type="bpe",
      vocab_size=4000,
      texts=100_000,
    ),
    model=model,
    max_prompt=256,
    max_target=96,
    max_feedback=48,
    test_split=args.test_split,
    title="REFINER on Moral Stories, from scratch",
  )
