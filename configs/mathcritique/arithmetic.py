"""MathCritique from scratch on the embedded word problems, in minutes.

    --config=configs/mathcritique/arithmetic.py[:phase=bootstrap,smoke]

The task's truth writes the critiques, in short words. `phase=bootstrap` makes
the first of them, of planted errors, before there is an actor.
"""

from refine_jax import config


def get_config(text=""):
  args = config.arguments(
    text,
    model="llama",
    difficulty=2,
    rows=6000,
    phase="",
    arms="",
    iterations=3,
    smoke=False,
  )
  experiment = _small(args)
  if args.smoke:
    experiment = config.smoke_mathcritique(experiment)
  if args.phase == "bootstrap":
    config.bootstrap(experiment, experiment.task.options.size)
  elif args.phase:
    raise ValueError(f"phase is bootstrap or nothing, not {args.phase!r}")
  return experiment


def _train(learning_rate, steps, **settings):
  return config.train(
    steps=steps,
    batch_size=32,
    optimizer=config.optimizer(
      learning_rate, schedule="linear", warmup_steps=50, b2=0.98
    ),
    **{"eval_every": 500, "eval_rows": 200, "log_every": 100, **settings},
  )


def _small(args):
  model = config.llama(
    width=64, layers=3, heads=4, mlp=192, max_length=320, tied=True
  )
  engine = config.engine(slots=128, prompt_buckets=(32, 64, 112, 160, 240))
  data = config.data(max_prompt=240, max_target=96, batching="bucket")
  return config.mathcritique(
    task=config.task(
      "arithmetic",
      form="text",
      difficulty=args.difficulty,
      gold="canonical",
      size=48 if args.smoke else args.rows,
    ),
    tokenizer=config.tokenizer(
      "../tokenizer/tokenizer",
      model_type="words",
      vocab_size=300,
      texts=2000,
      markers=("line", "right", "because", "final", "wait", "so", "it", "is"),
    ),
    template=config.template(
      hypothesis="answer:",
      feedback="review:",
      generator_end="solve:",
      critic_end="judge:",
    ),
    model=model,
    critic_model=config.checkpoint("../actor0"),
    engine=engine,
    critic_engine=config.engine(slots=128, prompt_buckets=(64, 112, 176)),
    data=data,
    critic_data=data.copy_and_resolve_references(),
    completion=config.sampling(max_tokens=48),
    feedback=config.sampling(max_tokens=96),
    train_actor=_train(2e-3, 1500, best_metric="answer"),
    train_critic=_train(1e-3, 1200, best_metric="disc"),
    make_data=config.make_mathcritique_data(
      grammar="compact",
      annotator="oracle",
      rows=(0, 2000),
      samples=8,
      mc=8,
      gap=" . ",
      study_shuffled=True,
    ),
    self_improve=config.make_self_improve_data(
      grammar="compact", rows=(0, 1000)
    ),
    self_talk=config.make_self_talk_data(
      grammar="compact",
      rows=(0, 1000),
      doubts=("wait",),
      mended=("so it is",),
      gap=" . ",
    ),
    arms=config.standard_critique_arms(),
    grammar="compact",
    systems=config.loop_systems(args.arms, args.iterations),
  )
