"""ReFT (arXiv 2401.08967) with pretrained weights, as published.

    --config=configs/reft/ppo.py[:task=...,form=...,model=...,arm=...]

`seed=-1` is the published one, and so is `warm=0`, the epochs of warm-up.

Tables are those of the paper and of its released scripts, with global batch
sizes (theirs are per device, times 8), so that no number depends on how many
devices there are. Updates are counted as theirs: ceil(rows / batch) an epoch
of all published rows, though a tenth of them is kept for validation here. The
warm-up is an early epoch of the supervised run, `sft`, and the reference. What
has no published row (LLaMA, T5, 34B) has the values of the 7B models.
"""

from refine_jax import config

# Task -> rows of programs and of text; updates between evaluations of offline
# self-training (scripts).
ROWS = {
  "gsm8k": ((7356, 7465), 175),
  "svamp": ((3043, 3076), 90),
  "mathqa": ((15250, 14862), 350),
  "mathqa_numeric": ((7672, 8955), 175),
}
# Model -> weights and the column of the tables that holds for it.
MODELS = {
  "galactica_6_7b": ("facebook/galactica-6.7b", "7b"),
  "codellama_7b": ("codellama/CodeLlama-7b-hf", "7b"),
  "galactica_125m": ("facebook/galactica-125m", "galactica"),
  "codegen_350m": ("Salesforce/codegen-350M-mono", "codegen"),
  "codeparrot_small": ("codeparrot/codeparrot-small", "codeparrot"),
  # source: unverified from here on; no such rows in the paper.
  "llama_7b": ("meta-llama/Llama-2-7b-hf", "7b"),
  "llama3_8b": ("meta-llama/Meta-Llama-3-8B", "7b"),
  "codellama_34b": ("codellama/CodeLlama-34b-hf", "7b"),
  "t5_large": ("google/flan-t5-large", "7b"),
  "t5_xl": ("google/flan-t5-xl", "7b"),
  "codet5_770m": ("Salesforce/codet5-large", "7b"),
}
SHORT = {"llama": "llama_7b", "t5": "t5_large", "galactica": "galactica_6_7b"}

# Section 4.3, appendix B and the scripts, by column.
BATCH = {"7b": 32, "galactica": 256, "codegen": 128, "codeparrot": 256}
RATE = {"7b": 3e-7, "galactica": 3e-6, "codegen": 3e-6, "codeparrot": 3e-6}
ALPHA = {"7b": 5.0, "galactica": 5.0, "codegen": 0.1, "codeparrot": 1.0}
EPOCHS = {"7b": 300, "galactica": 700, "codegen": 700, "codeparrot": 700}
SFT_RATE = {"7b": 1e-5, "galactica": 2e-5, "codegen": 2e-5, "codeparrot": 2e-5}
SEED = {"codegen": 43}  # of gsm8k and svamp, else 42
SFT_BATCH = 48
# Warm-up epochs of 7B models: programs, text. source: unverified for programs
# of mathqa_numeric, for which there is no script.
WARM = {
  "gsm8k": (2, 2),
  "svamp": (2, 2),
  "mathqa": (2, 5),
  "mathqa_numeric": (10, 10),
}


def get_config(text=""):
  args = config.arguments(
    text,
    task="gsm8k",
    form="program",
    model="codellama_7b",
    arm="sft",
    variant="paper",
    variants="",
    path=config.data_folder(),
    warm=0,
    seed=-1,
    smoke=False,
  )
  args.model = SHORT.get(args.model, args.model)
  for name, known in (("task", ROWS), ("model", MODELS), ("arm", config.ARMS)):
    if args[name] not in known:
      raise ValueError(
        f"{name} is one of {', '.join(known)}, not {args[name]!r}"
      )
  experiment = _experiment(args)
  config.ablate(experiment, args.variant)
  config.evaluate_variants(experiment, args.variants)
  return config.smoke_reft(experiment) if args.smoke else experiment


def _column(args):
  return MODELS[args.model][1]


def _kl(args):
  """Beta: .01 for programs, .05 for text, but for mathqa_numeric's text."""
  text = args.form == "text" and args.task != "mathqa_numeric"
  return 0.05 if text and _column(args) == "7b" else 0.01


def _warm_epochs(args):
  """Epochs of the run that the scripts start from, unless others are wanted."""
  if args.warm:
    return args.warm
  if _column(args) == "7b":
    return WARM[args.task][args.form == "text"]
  if args.task in ("gsm8k", "svamp"):
    return 40 if _column(args) == "codeparrot" else 10
  return 40


def _sft_epochs(args):
  if _column(args) == "codeparrot":
    return 100
  return 100 if args.task == "mathqa" and _column(args) != "7b" else 40


def _rows(args):
  return ROWS[args.task][0][args.form == "text"]


def _supervised(args):
  """Scripts of SFT, and of offline self-training, from the base model."""
  epoch = -(-_rows(args) // SFT_BATCH)
  settings = {
    "batch_size": SFT_BATCH,
    "micro_batches": 8,
    "best_metric": "answer",
    "eval_rows": 1000,
    "log_every": 10,
  }

  def optimizer(warmup):
    return config.optimizer(
      SFT_RATE[_column(args)], schedule="linear", warmup_steps=warmup
    )

  if args.arm == "offline":
    return config.train(
      epochs=20,
      warmup_fraction=0.1,
      optimizer=optimizer(0),
      eval_every=ROWS[args.task][1],
      **settings,
    )
  steps = epoch * _sft_epochs(args)
  return config.train(
    steps=steps,
    optimizer=optimizer(steps // 10),
    eval_every=epoch,
    save_every=epoch,
    keep_last=_sft_epochs(args),
    **settings,
  )


def _on_policy(args, micro_batches=8, **settings):
  """Constant rate, no warm-up, no decay of weights, gradients clipped at 1."""
  column = _column(args)
  epoch = -(-_rows(args) // BATCH[column])
  return config.train(
    steps=epoch * EPOCHS[column],
    batch_size=BATCH[column],
    micro_batches=micro_batches,
    optimizer=config.optimizer(RATE[column], schedule="constant"),
    eval_every=epoch,
    eval_rows=1000,
    save_every=epoch,
    keep_last=1,
    log_every=1,
    best_metric="answer",
    **settings,
  )


def _experiment(args):
  path, column = MODELS[args.model]
  epoch = -(-_rows(args) // SFT_BATCH)
  warm = config.checkpoint(f"../sft/checkpoints/{epoch * _warm_epochs(args)}")
  published = SEED.get(column, 42) if args.task in ("gsm8k", "svamp") else 42
  # Prompt and completion: 300 and 700 together; codegen on svamp 500.
  short = column == "codegen" and args.task == "svamp"
  completion = config.sampling(max_tokens=200 if short else 400)
  # Prompt and completion: 1,024. The scripts leave top_k to a default of 50.
  sampled = config.sampling(max_tokens=724, temperature=1.0, top_k=50)
  data = config.data(max_prompt=624, max_target=400, batching="bucket")
  rollout = config.on_policy(max_prompt=300)
  return config.reft(
    task=config.task(args.task, path=args.path, form=args.form),
    tokenizer=config.tokenizer(path),
    model=config.pretrained(path, remat="full", dtype="bfloat16"),
    engine=config.engine(slots=BATCH[column], prompt_buckets=(150, 300, 624)),
    data=data,
    completion=completion,
    supervised=_supervised(args),
    examples="../offline_data/examples.jsonl" if args.arm == "offline" else "",
    train_reft=config.train_reft(
      model=warm,
      train=_on_policy(args, reduction="sequence"),
      ppo=config.ppo(value_coefficient=ALPHA[column], kl_coefficient=_kl(args)),
      rollout=rollout,
    ),
    train_online_st=config.train_online_st(
      model=warm.copy_and_resolve_references(),
      train=_on_policy(args),
      rollout=rollout.copy_and_resolve_references(),
    ),
    run_sample=config.run_sample(
      n=100, sampling=sampled, generator=warm.init_from
    ),
    self_training=config.make_self_training_data(cap=10, choose="first"),
    train_reranker=config.train_reranker(
      model=config.checkpoint("../reft"),
      data=config.data(max_prompt=350, max_target=350, batching="bucket"),
      train=_reranker(args),
    ),
    run_evaluate=config.run_evaluate(
      systems={
        "SFT": config.system("../sft"),
        "ReFT": config.system("../reft", reranker="../reranker"),
      },
      sampling=sampled.copy_and_resolve_references(),
      n=100,
      ks=(1, 10, 100),
    ),
    seed=published if args.seed < 0 else args.seed,
  )


def _reranker(args):
  """Three epochs of batches of 24 at 1e-6 (scripts; the paper's first version
  says 48).

  source: unverified how many distinct samples there are; every problem's 100
  are taken as distinct.
  """
  steps = -(-3 * 100 * _rows(args) // 24)
  return config.reranker_training(
    1e-6, steps, 24, eval_every=1000, eval_rows=500, micro_batches=3
  )
