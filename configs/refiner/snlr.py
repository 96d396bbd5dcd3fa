"""REFINER on synthetic natural-language reasoning, the main job.

    --config=configs/refiner/snlr.py[:size=small|base|large,model=t5|flan|llama]

`small` trains generator and critic from scratch on generated rows in compact
words, within minutes on two CPU cores; `base` and `large` are the paper's,
with pretrained weights, on the published rows. With published rows at hand
(`path=`, or REFINE_JAX_DATA) the small one is tested on rows 1,000 to 5,000 of
the published validation file; without, on generated ones.
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
    difficulty="hard",
    path=config.data_folder(),
    control="",
    ablations=False,
    smoke=False,
  )
  if args.size == "small":
    experiment = _small(args)
  else:
    experiment = config.published_refiner(
      task=config.task("snlr", path=args.path, difficulty=args.difficulty),
      path=PRETRAINED[args.model, args.size],
      decoder_only=args.model == "llama",
      train_split="published_train",
      eval_split="published_dev",
      test_split="published_test",
      title="REFINER on synthetic reasoning",
    )
  config.continue_instead(experiment, args.control)
  config.refiner_ablations(experiment, args.ablations)
  return config.smoke(experiment) if args.smoke else experiment


def _model(args, width, encoder_layers, decoder_layers):
  sizes = {"width": width, "heads": 4, "mlp": 4 * width}
  if args.model == "llama":
    layers = encoder_layers + decoder_layers
    return config.llama(layers=layers, max_length=256, **sizes)
  return config.t5(
    encoder_layers=encoder_layers,
    decoder_layers=decoder_layers,
    gated=False,
    unroll=8,
    init_local_slope=True,
    init_tie_qk=True,
    **sizes,
  )


def _train(args, learning_rate, steps, **settings):
  bias = {"relative_bias": 10.0} if args.model == "t5" else None
  return config.train(
    steps=steps,
    optimizer=config.optimizer(
      learning_rate,
      schedule="constant",
      warmup_steps=20,
      b2=0.98,
      multipliers=bias,
    ),
    **{
      "batch_size": 16,
      "eval_every": 250,
      "eval_rows": 300,
      "log_every": 100,
      **settings,
    },
  )


def _small(args):
  published = config.has_published_rows(args.path, "refiner/srn/srn_val.json")
  # Seven problems of ten have one to four rules: the jump comes earlier. What
  # follows the warm start trains on problems with all five.
  full = {"curriculum": 0.0}
  data = config.data(max_prompt=96, max_target=24, batching="bucket", buckets=3)
  experiment = config.refiner(
    task=config.task(
      "snlr",
      form="compact",
      detail="rule",
      difficulty=args.difficulty,
      path=args.path if published else None,
      curriculum=0.7,
      size=40_000,
    ),
    tokenizer=config.tokenizer(
      "../tokenizer/tokenizer",
      model_type="words",
      vocab_size=200,
      texts=2000,
      markers=("_",),
    ),
    template=config.template(hypothesis="answer:", feedback="feedback:"),
    model=_model(args, 64, 3, 1),
    critic_model=config.checkpoint("../warm_start"),
    engine=config.engine(slots=256, prompt_buckets=(48, 80)),
    critic_engine=config.engine(slots=256, prompt_buckets=(72,)),
    data=data,
    critic_data=data.copy_and_resolve_references(),
    completion=config.sampling(max_tokens=24),
    feedback=config.sampling(max_tokens=8),
    # At 2e-3 some seeds jump late or never.
    warm_start=_train(args, 1e-3, 5000, target=44.0, eval_every=200),
    train_critic=_train(args, 5e-4, 2500, best_metric="balanced"),
    train_refiner=_train(args, 1e-3, 600, eval_every=100),
    make_critic_data=config.make_critic_data(
      generator="../warm_start",
      rows=4000,
      perturb_rows=350,
      temperatures=(0.0, 0.7),
      balance=False,
      # Without short problems the critic's own jump comes late as well.
      options={"curriculum": 0.5},
    ),
    rollout=config.rollout(
      turns=2,
      samples=2,
      choose="wrong",
      temperature=0.7,
      top_k=0,
      top_p=1.0,
      first_turn=False,
      errors_only=True,
      mask=1.0,
      mask_rows=0.4,
      every=600,
      problems=4000,
    ),
    arms={
      **config.standard_arms(generator="../warm_start"),
      **config.plain_arms(),
    },
    turns=3,
    test_split="published_test" if published else "test",
    title="REFINER on synthetic reasoning",
    subtitle=(
      "A generator and a critic trained from scratch; strict exact match of"
      " all steps and the conclusion."
    ),
  )
  experiment.train_refiner.options = full
  return experiment
