"""ReFT from scratch on generated word problems, minutes on one CPU core.

    --config=configs/reft/arithmetic.py[:arm=...,variant=...,seed=...]

A model of 150k parameters warms up on 2,000 problems and then learns from
checked rewards alone; fresh problems for every seed. `gold=random` shows one
of the valid programs of a problem, `canonical` always the one in the story's
order: much of what is gained over `random` is that PPO settles on one.
"""

from refine_jax import config


def get_config(text=""):
  args = config.arguments(
    text,
    model="llama",
    form="program",
    gold="random",
    difficulty=3,
    arm="warm_start",
    variant="paper",
    rate=0.0,
    rounds=600,
    seed=0,
    smoke=False,
  )
  experiment = _experiment(args)
  config.ablate(experiment, args.variant)
  return config.smoke_reft(experiment) if args.smoke else experiment


def _model(args):
  sizes = {"width": 64, "heads": 4, "mlp": 256}
  if args.model == "t5":
    return config.t5(
      encoder_layers=2,
      decoder_layers=2,
      gated=False,
      unroll=4,
      init_local_slope=True,
      init_tie_qk=True,
      **sizes,
    )
  return config.llama(layers=3, max_length=128, unroll=3, **sizes)


def _train(rate, steps, schedule="linear", **settings):
  return config.train(
    steps=steps,
    optimizer=config.optimizer(
      rate, schedule=schedule, warmup_steps=20, b2=0.98
    ),
    **{
      "batch_size": 64,
      "eval_rows": 1000,
      "log_every": 50,
      "best_metric": "answer",
      **settings,
    },
  )


# Updates of the warm start; every round of PPO makes two more.
WARM = 600


def _supervised(args):
  """The arm of `train_generator`; sft makes as many updates as ReFT in all."""
  if args.arm == "warm_start":
    return _train(args.rate or 1e-3, WARM, "constant", eval_every=100)
  steps = WARM + 2 * args.rounds
  return _train(args.rate or 1e-3, steps, eval_every=100)


def _experiment(args):
  if args.arm not in config.ARMS:
    raise ValueError(f"arm is one of {config.ARMS}, not {args.arm!r}")
  completion = config.sampling(max_tokens=24)
  rollout = config.on_policy(buckets=1)
  sampled = config.sampling(max_tokens=24, temperature=1.0)
  data = config.data(max_prompt=26, max_target=24, batching="pad")
  return config.reft(
    task=config.task(
      "arithmetic",
      form=args.form,
      difficulty=args.difficulty,
      gold=args.gold,
      seed=args.seed,
    ),
    tokenizer=config.tokenizer(
      "../tokenizer/tokenizer", model_type="words", vocab_size=300, texts=2000
    ),
    model=_model(args),
    engine=config.engine(slots=64, prompt_buckets=(26,)),
    data=data,
    completion=completion,
    supervised=_supervised(args),
    examples="../offline_data/examples.jsonl" if args.arm == "offline" else "",
    train_reft=config.train_reft(
      train=_train(
        args.rate or 1e-3, args.rounds, eval_every=50, reduction="sequence"
      ),
      ppo=config.ppo(
        value_coefficient=1.0, value_init="zero", kl_coefficient=0.02
      ),
      rollout=rollout,
    ),
    train_online_st=config.train_online_st(
      train=_train(args.rate or 1e-3, args.rounds, eval_every=50),
      rollout=rollout.copy_and_resolve_references(),
    ),
    run_sample=config.run_sample(n=16, sampling=sampled),
    train_reranker=config.train_reranker(
      model=config.checkpoint("../warm_start"),
      data=data.copy_and_resolve_references(),
      train=config.reranker_training(1e-3, 2000, 64, eval_rows=200),
    ),
    run_evaluate=config.run_evaluate(
      systems={
        "warm-up": config.system("../warm_start"),
        "supervised": config.system("../sft", reranker="../reranker"),
        "offline self-training": config.system("../offline"),
        "online self-training": config.system("../online_st"),
        "ReFT": config.system("../reft", reranker="../reranker"),
        "ReFT, last": config.system("../reft", select="last"),
      },
      sampling=sampled.copy_and_resolve_references(),
    ),
    seed=args.seed,
  )
