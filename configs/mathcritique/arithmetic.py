"""MathCritique from scratch on the embedded word problems, in minutes.

    --config=configs/mathcritique/arithmetic.py[:phase=PHASE,smoke]

The task's truth writes the critiques, in short words, and mends what it has
criticised. Phases of the data: `bootstrap` makes the first critiques, of
planted errors, before there is an actor; `drafts` those of what a first draft
of the actor gets wrong; none, those that the filter keeps. Phases of training:
`draft`; none, the actor, from the draft on both; `loop`, what goes on from the
actor in an iteration or on self-talk; `plain`, on the gold solutions of the
loop's problems alone. The first 8,000 problems are for bootstrap and drafts,
the next thousand for the loop and self-talk, the last for the filter.

Difficulty 0 has stories of one or two steps on small numbers. The actor sees
gold solutions of one step, so that it gets those of two wrong for a reason
that a critique can tell, and mends better than it solves.
"""

from refine_jax import config


def get_config(text=""):
  args = config.arguments(
    text,
    model="llama",
    difficulty=0,
    rows=10000,
    phase="",
    arms="",
    iterations=3,
    smoke=False,
  )
  experiment = _small(args)
  first, steps = args.rows - 2000, (1500, 400)  # of draft and iteration
  if args.smoke:
    experiment = config.smoke_mathcritique(experiment)
    first, steps = 48, (4, 4)
  if args.phase == "bootstrap":
    config.bootstrap(experiment, first)
  elif args.phase == "draft":
    config.draft(experiment, steps[0])
  elif args.phase == "drafts":
    config.drafts(experiment, first)
  elif args.phase == "loop":
    config.in_loop(experiment, steps[1], 1e-3)
  elif args.phase == "plain":
    config.plain(config.in_loop(experiment, steps[1], 1e-3))
  elif args.phase:
    raise ValueError(
      f"phase is bootstrap, draft, drafts, loop or plain, not {args.phase!r}"
    )
  return experiment


def _train(learning_rate, steps, **settings):
  return config.train(
    steps=steps,
    batch_size=64,
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
  data = config.data(max_prompt=128, max_target=96, batching="bucket")
  experiment = config.mathcritique(
    task=config.task(
      "arithmetic",
      form="text",
      difficulty=args.difficulty,
      gold="canonical",
      size=48 if args.smoke else args.rows,
      test_size=400,
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
    critic_engine=config.engine(slots=128, prompt_buckets=(48, 112)),
    data=data,
    critic_data=data.copy_and_resolve_references(),
    # A solution has about 16 tokens; self-correction writes three of them.
    completion=config.sampling(max_tokens=80),
    feedback=config.sampling(max_tokens=60),
    # Validated once, at the end: what an actor is worth here is how it mends,
    # which its answers to bare questions do not tell.
    train_actor=_train(5e-3, 4000, best_metric="answer", eval_every=0),
    train_critic=_train(4e-3, 3000, best_metric="balanced", eval_rows=300),
    make_data=config.make_mathcritique_data(
      grammar="compact",
      annotator="oracle",
      rows=(args.rows - 1000, 0),
      samples=8,
      mc=8,
      mc_temperature=0.3,
      planted=3,
      gap=" . ",
      study_shuffled=True,
      gold_steps=2,  # the answer is the second
      misfits=1.0,
    ),
    self_improve=config.make_self_improve_data(
      grammar="compact",
      rows=(own, own + 600),
      reason0="../bootstrap/reason_examples.jsonl",
      refine0="../critic_data/revision_examples.jsonl",
    ),
    self_talk=config.make_self_talk_data(
      grammar="compact",
      doubts=("wait",),
      mended=("so it is",),
      gap=" . ",
    ),
    arms=config.standard_critique_arms(chains=64),
    iterations=args.iterations,
    start="previous",
    drafts=True,
    grammar="compact",
    critiques=(
      "../bootstrap/critiques.jsonl",
      "../drafts/critiques.jsonl",
      "../critic_data/critiques.jsonl",
    ),
    systems=config.loop_systems(args.arms, args.iterations),
  )
  experiment.train_generator.model = config.checkpoint("../draft")
  return experiment
