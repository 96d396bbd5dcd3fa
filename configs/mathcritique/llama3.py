"""MathCritique as it was run: Llama-3-8B, GSM8K or MATH.

    --config=configs/mathcritique/llama3.py[:task=gsm8k,size=1b|3b|8b,smoke]
        [,phase=bootstrap|plain]

Actor: Llama-3-8B (base); critic: Llama-3-8B-Instruct (both of the released
scripts). Training as in the repository: learning rate 5e-6, cosine, no warmup,
256 rows an update, one epoch, 4,096 tokens, loss on the response. What no
source that could be verified says is marked so in `config.mathcritique`.
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
ROWS = {"gsm8k": 7473, "competition_math": 7500}
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
  make = experiment.make_mathcritique_data
  if args.phase == "published":
    make.published = (f"{args.path}/mathcritique/{FILES[args.task]}",)
    make.update(leaks=False, positives=0.0, mc=0, actor="")
  elif args.phase == "bootstrap":
    config.bootstrap(experiment)
  elif args.phase == "plain":
    config.plain(experiment)
  elif args.phase:
    raise ValueError(
      f"phase is bootstrap, plain or published, not {args.phase!r}"
    )
  return experiment


def _train(steps, **settings):
  return config.train(
    steps=steps,
    batch_size=256,  # source: repository, 4 x 8 x 8
    micro_batches=32,
    optimizer=config.optimizer(  # source: repository
      5e-6, schedule="cosine", warmup_steps=0, clip_norm=1.0
    ),
    **{"eval_every": max(1, steps // 4), "eval_rows": 256, **settings},
  )


def _paper(args):
  actor, critic = ACTORS[args.size], CRITICS[args.critic_size]
  model = config.pretrained(actor, remat="full", dtype="bfloat16")
  data = config.data(  # source: repository, cutoff 4096 in all
    max_prompt=3072, max_target=1024, batching="bucket"
  )
  updates = ROWS[args.task] // 256
  answer = "number" if args.task == "gsm8k" else "boxed"
  options = {"form": "text"} if args.task == "gsm8k" else {}
  engine = config.engine(slots=64, prompt_buckets=(256, 1024, 3072))
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
    train_actor=_train(2 * updates, best_metric="answer"),
    # Three epochs over 76,321 rows; source: unverified (a sibling has five).
    train_critic=_train(3 * 76_321 // 256, best_metric="balanced"),
    make_data=config.make_mathcritique_data(),
    self_improve=config.make_self_improve_data(),
    self_talk=config.make_self_talk_data(),
    arms=config.standard_critique_arms(chains=64),
    iterations=args.iterations,
    grammar="published",
    systems=config.loop_systems(args.arms, args.iterations),
  )
