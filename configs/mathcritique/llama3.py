"""MathCritique as it was run: Llama-3-8B, GSM8K or MATH.

    --config=configs/mathcritique/llama3.py[:task=gsm8k,size=1b|3b|8b,smoke]
        [,phase=bootstrap|published|loop|plain]

Actor: Llama-3-8B (base); critic: Llama-3-8B-Instruct (both of the released
scripts). Training as in the repository: learning rate 5e-6, cosine, no warmup,
256 rows an update, one epoch of however many rows there are, 4,096 tokens, loss
on the response; an iteration's rows are neither made distinct nor capped. What
no source that could be verified says is marked so in `config.mathcritique`.

The original mixes GSM8K and MATH; this trains on one at a time.
`phase=published` reads the published rows of both where both are there, since
of those only words are looked at. No arm asks an oracle: neither task can judge
steps.
"""

from refine_jax import config

ACTORS = {
  "8b": "meta-llama/Meta-Llama-3-8B",
  "3b": "meta-llama/Llama-3.2-3B",
  "1b": "meta-llama/Llama-3.2-1B",
}
CRITICS = {
  "8b": "meta-llama/Meta-Llama-3-8B-Instruct",
  "3b": "meta-llama/Llama-3.2-3B-Instruct",
  "1b": "meta-llama/Llama-3.2-1B-Instruct",
}
# Updates of an epoch of a task's golds, and of the critic's 76,321 rows, less
# the 256 that are held out. With other rows an epoch has others: nothing but
# the critic's evaluations goes by these.
ACTOR_EPOCH = 30
CRITIC_EPOCH = 298
FILES = {
  "gsm8k": "Meta-Llama-3-8B-gsm8k-sftdata_0_new.json",
  "competition_math": "Meta-Llama-3-8B-math-sftdata_0_new.json",
}


def get_config(text=""):
  args = config.arguments(
    text,
    model="llama",
    task="gsm8k",
    size="8b",
    critic_size="8b",
    phase="",
    arms="",
    iterations=3,
    path=config.data_folder(),
    smoke=False,
  )
  experiment = _paper(args)
  if args.smoke:
    experiment = config.smoke_mathcritique(experiment)
    for section in ("train_generator", "train_critic"):
      experiment[section].train.epochs = 0  # its few updates count
  make = experiment.make_mathcritique_data
  if args.phase == "published":
    make.published = _published(args)
    make.update(leaks=False, positives=0.0, mc=0, actor="")
  elif args.phase == "bootstrap":
    config.bootstrap(experiment)
  elif args.phase == "plain":
    config.plain(experiment)
  elif args.phase not in ("", "loop"):  # the loop's actors train as the first
    raise ValueError(
      f"phase is bootstrap, published, loop or plain, not {args.phase!r}"
    )
  return experiment


def _published(args):
  """Both files; where one is missing, the task's own."""
  there = [
    file
    for file in FILES.values()
    if config.has_published_rows(f"{args.path}/mathcritique", file)
  ]
  files = there if len(there) == len(FILES) else [FILES[args.task]]
  return tuple(f"{args.path}/mathcritique/{file}" for file in files)


def _train(epochs, updates, **settings):
  return config.train(
    steps=epochs * updates,
    epochs=epochs,  # which decide
    batch_size=256,  # source: repository, 4 x 8 x 8
    micro_batches=32,
    optimizer=config.optimizer(  # source: repository
      5e-6, schedule="cosine", warmup_steps=0, clip_norm=1.0
    ),
    eval_rows=256,
    **settings,
  )


def _paper(args):
  actor, critic = ACTORS[args.size], CRITICS[args.critic_size]
  model = config.pretrained(actor, remat="full", dtype="bfloat16")
  data = config.data(  # source: repository, cutoff 4096 in all
    max_prompt=3072, max_target=1024, batching="bucket"
  )
  answer = "number" if args.task == "gsm8k" else "boxed"
  options = {"prompt": "bare"}  # the dialogue has words of its own
  if args.task == "gsm8k":  # golds end as the dialogue asks the actor to
    options |= {"form": "text", "ending": "sentence"}
  engine = config.engine(slots=64, prompt_buckets=(256, 1024, 3072))
  arms = config.standard_critique_arms(chains=64)
  del arms["oracle critique"]  # it takes a task that judges steps
  return config.mathcritique(
    task=config.task(args.task, path=args.path, **options),
    tokenizer=config.tokenizer(actor),
    # Source: repository, a base model as actor, an instructed one as critic.
    template=config.dialogue("base", answer, "llama3"),
    model=model,
    critic_model=config.pretrained(critic, remat="full", dtype="bfloat16"),
    engine=engine,
    critic_engine=engine.copy_and_resolve_references(),
    data=data,
    critic_data=config.data(
      max_prompt=2048, max_target=2048, batching="bucket"
    ),
    completion=config.sampling(max_tokens=1024),  # source: repository
    feedback=config.sampling(max_tokens=1536),  # source: repository
    # One epoch, source: repository; its last update is validated, and kept.
    train_actor=_train(1, ACTOR_EPOCH, best_metric="answer", eval_every=0),
    # Three; source: unverified (a sibling has five).
    train_critic=_train(
      3, CRITIC_EPOCH, best_metric="balanced", eval_every=CRITIC_EPOCH
    ),
    make_data=config.make_mathcritique_data(),
    # Source: repository; ours is to drop equal ones and to cap.
    self_improve=config.make_self_improve_data(cap=0, distinct=False),
    self_talk=config.make_self_talk_data(),
    arms=arms,
    iterations=args.iterations,
    grammar="published",
    systems=config.loop_systems(args.arms, args.iterations),
  )
