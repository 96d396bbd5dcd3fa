"""ReFT from scratch on SVAMP's programs or texts.

    --config=configs/reft/svamp.py[:size=small|medium,form=...,seed=...]

The only published set of the paper's whose training solutions are at hand
(3,043 programs, 3,076 texts), with a vocabulary of its own; no number of the
paper can be expected. `small` has 0.3M parameters and takes minutes an arm on
a CPU core, `medium` 8M and hours.
"""

from refine_jax import config

# Layers, width, heads, vocabulary; updates of the warm start, rounds, and the
# rate of supervised training.
SIZES = {
  "small": (3, 64, 2, 2000, 2000, 100, 2e-3),
  "medium": (8, 256, 8, 4000, 1000, 1000, 1e-3),
}
# Prompts of any split, which show the question twice for a program; a target.
LENGTHS = {
  "program": ((72, 88, 104, 136, 192, 320), 128),
  "text": ((48, 64, 96, 176), 256),
}


def get_config(text=""):
  args = config.arguments(
    text,
    model="llama",
    form="program",
    arm="warm_start",
    variant="paper",
    variants="",
    size="small",
    rate=0.0,
    rounds=0,
    warm=0,
    path=config.data_folder(),
    seed=0,
    smoke=False,
  )
  if args.size not in SIZES:
    raise ValueError(f"size is one of {', '.join(SIZES)}, not {args.size!r}")
  if args.form not in LENGTHS:
    raise ValueError(f"form is {' or '.join(LENGTHS)}, not {args.form!r}")
  prompts, target = LENGTHS[args.form]
  layers, width, heads, vocabulary, warm, rounds, rate = SIZES[args.size]
  sizes = {"width": width, "heads": heads, "mlp": 4 * width}
  if args.model == "t5":
    half = -(-layers // 2)
    model = config.t5(encoder_layers=half, decoder_layers=half, **sizes)
  else:
    model = config.llama(
      layers=layers, max_length=512, unroll=min(layers, 4), **sizes
    )
  experiment = config.small_reft(
    task=config.task("svamp", path=args.path, form=args.form, seed=args.seed),
    tokenizer=config.tokenizer(
      "../tokenizer/tokenizer",
      model_type="bpe",
      vocab_size=vocabulary,
      texts=10_000,
      code=args.form == "program",
      split_digits=False,  # copying one piece is learned before copying three
    ),
    model=model,
    max_prompt=prompts[-1],
    max_target=target,
    prompt_buckets=prompts,
    rollout_slots=8,
    warm=args.warm or warm,
    rounds=args.rounds or rounds,
    rates={
      **dict.fromkeys(("warm_start", "sft", "offline"), rate),
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
    samples=8,
    reranker=(1e-3, 300),
    seed=args.seed,
  )
  experiment.train_generator.train.update(batch_size=32, eval_rows=300)
  experiment.train_reft.train.eval_rows = 300
  experiment.train_online_st.train.eval_rows = 300
  config.ablate(experiment, args.variant)
  config.evaluate_variants(experiment, args.variants)
  return config.smoke_reft(experiment) if args.smoke else experiment
