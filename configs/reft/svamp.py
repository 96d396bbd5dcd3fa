"""ReFT from scratch on SVAMP's programs or texts, hours on a CPU.

    --config=configs/reft/svamp.py[:form=...,arm=...,variant=...,seed=...]

The only published set of the paper's whose training solutions are at hand
(3,043 programs, 3,076 texts). A model of 9M parameters and a vocabulary of its
own; no number of the paper can be expected of it.
"""

from refine_jax import config


def get_config(text=""):
  args = config.arguments(
    text,
    model="llama",
    form="program",
    arm="warm_start",
    variant="paper",
    variants="",
    rate=0.0,
    rounds=1000,
    warm=1000,
    path=config.data_folder(),
    seed=0,
    smoke=False,
  )
  sizes = {"width": 256, "heads": 8, "mlp": 1024}
  if args.model == "t5":
    model = config.t5(encoder_layers=4, decoder_layers=4, **sizes)
  else:
    model = config.llama(layers=8, max_length=512, **sizes)
  experiment = config.small_reft(
    task=config.task("svamp", path=args.path, form=args.form, seed=args.seed),
    tokenizer=config.tokenizer(
      "../tokenizer/tokenizer", model_type="bpe", vocab_size=2000, texts=10_000
    ),
    model=model,
    max_prompt=224,
    max_target=160,
    prompt_buckets=(96, 160, 224),
    warm=args.warm,
    rounds=args.rounds,
    rates={
      "warm_start": 1e-3,
      "sft": 1e-3,
      "offline": 1e-3,
      "reft": 1e-4,
      "online_st": 1e-4,
    },
    rate=args.rate,
    arm=args.arm,
    ppo_settings={
      "value_coefficient": 1.0,
      "value_init": "zero",
      "kl_coefficient": 0.02,
    },
    batching="bucket",
    buckets=4,
    seed=args.seed,
  )
  experiment.train_generator.train.eval_rows = 300
  experiment.train_reft.train.eval_rows = 300
  experiment.train_online_st.train.eval_rows = 300
  config.ablate(experiment, args.variant)
  config.evaluate_variants(experiment, args.variants)
  return config.smoke_reft(experiment) if args.smoke else experiment
