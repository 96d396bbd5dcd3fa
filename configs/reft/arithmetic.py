"""ReFT from scratch on generated word problems, minutes on one CPU core.

    --config=configs/reft/arithmetic.py[:arm=...,variant=...,seed=...]

A model of 150k parameters warms up on 1,000 problems and then learns from
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
    rows=1000,
    arm="warm_start",
    variant="paper",
    variants="",
    rate=0.0,
    rounds=500,
    warm=400,
    seed=0,
    smoke=False,
  )
  experiment = _experiment(args)
  config.ablate(experiment, args.variant)
  config.evaluate_variants(experiment, args.variants)
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


def _experiment(args):
  # The longest question and solution of each difficulty, their ends included.
  prompt, target = {1: (20, 16), 2: (22, 20), 3: (26, 24)}.get(
    args.difficulty, (40, 40)
  )
  target += 4 * (args.form == "text")
  return config.small_reft(
    task=config.task(
      "arithmetic",
      form=args.form,
      difficulty=args.difficulty,
      gold=args.gold,
      size=args.rows,
      seed=args.seed,
    ),
    tokenizer=config.tokenizer(
      "../tokenizer/tokenizer", model_type="words", vocab_size=300, texts=2000
    ),
    model=_model(args),
    max_prompt=prompt,
    max_target=target,
    prompt_buckets=(prompt,),
    warm=args.warm,
    rounds=args.rounds,
    rates={
      "warm_start": 1e-3,
      "sft": 1e-3,
      "offline": 1e-3,
      "reft": 1e-3,
      "online_st": 1e-3,
    },
    rate=args.rate,
    arm=args.arm,
    ppo_settings={
      "value_coefficient": 1.0,
      "value_init": "zero",
      "kl_coefficient": 0.02,
    },
    seed=args.seed,
  )
