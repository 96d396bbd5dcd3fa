"""MathCritique from scratch on the embedded word problems, in minutes.

    --config=configs/mathcritique/arithmetic.py[:phase=bootstrap,smoke]

The task's truth writes the critiques, in short words. `phase=bootstrap` makes
the first of them, of planted errors, before there is an actor; `phase=plain`
trains on the gold solutions of the loop's problems and nothing else. The first
4,000 problems are for the bootstrap, the next thousand for the loop and
self-talk, the last for errors that the actor makes itself.
"""

from refine_jax import config


def get_config(text=""):
  args = config.arguments(
    text,
    model="llama",
    difficulty=1,
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
    config.bootstrap(experiment, 48 if args.smoke else args.rows - 2000)
  elif args.phase == "plain":
    config.plain(experiment)
  elif args.phase:
    raise ValueError(f"phase is bootstrap or plain, not {args.phase!r}")
  return experiment


def _train(learning_rate, steps, **settings):
  return config.train(
    steps=steps,
    batch_size=32,
    optimizer=config.optimizer(
      learning_rate, schedule="linear", warmup_steps=50, b2=0.98
    ),
    **{"eval_every": 500, "eval_rows": 100, "log_every": 100, **settings},
  )


def _small(args):
  model = config.llama(
    width=64, layers=2, heads=4, mlp=128, max_length=192, tied=True
  )
  engine = config.engine(slots=128, prompt_buckets=(24, 48, 128))
  own = args.rows - 2000  # the first problem of the loop's
  data = config.data(max_prompt=128, max_target=64, batching="bucket")
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
    critic_engine=config.engine(slots=128, prompt_buckets=(48, 80)),
    data=data,
    critic_data=data.copy_and_resolve_references(),
    completion=config.sampling(max_tokens=28),
    feedback=config.sampling(max_tokens=60),
    train_actor=_train(3e-3, 2800, best_metric="answer"),
    train_critic=_train(2e-3, 2400, best_metric="balanced"),
    make_data=config.make_mathcritique_data(
      grammar="compact",
      annotator="oracle",
      rows=(args.rows - 1000, 0),
      samples=8,
      mc=8,
      mc_temperature=0.3,
      planted=2,
      gap=" . ",
      study_shuffled=True,
      # An actor that mends better than it solves, and only what it is told to:
      # otherwise there is nothing for a critique to show.
      golds=200,
      misfits=0.5,
    ),
    self_improve=config.make_self_improve_data(
      grammar="compact", rows=(own, own + 600)
    ),
    self_talk=config.make_self_talk_data(
      grammar="compact",
      doubts=("wait",),
      mended=("so it is",),
      gap=" . ",
    ),
    arms=config.standard_critique_arms(chains=64),
    iterations=args.iterations,
    grammar="compact",
    critiques=(
      "../bootstrap/critiques.jsonl",
      "../critic_data/critiques.jsonl",
    ),
    systems=config.loop_systems(args.arms, args.iterations),
  )
