"""Experiments in the manner of ReFT (arXiv 2401.08967)."""

from ml_collections import ConfigDict

from refine_jax.config import blocks, evaluation

VARIANTS = ("paper", "no_partial", "no_kl", "separate_value", "no_whitening")
ARMS = ("warm_start", "sft", "offline")


def ppo(
  *,
  passes: int = 2,
  minibatch: int = 0,
  gamma: float = 1.0,
  lam: float = 0.95,
  policy_clip: float = 0.2,
  value_clip: float = 0.2,
  value_coefficient: float = 5.0,
  value_model: str = "shared",
  value_init: str = "uniform",
  kl_kind: str = "k1",
  kl_coefficient: float = 0.01,
  kl_target: float = 0.0,
  kl_horizon: float = 10_000.0,
  kl_stop: float = 0.0,
  kl_floor: float = 0.5,
  reference: str = "generator",
  reference_memory: str = "device",
  whitening: str = "global",
  truncation: str = "terminal",
  log_ratio_clamp: float = 20.0,
  entropy_bonus: float = 0.0,
) -> ConfigDict:
  """PPO as ReFT's released code ran it for 7B models and programs.

  Its paper prints lambda = 1 and gamma = 0.95; its code, and so its results,
  have them the other way round.

  Args:
    passes: over a round's rollouts (section 4.3: 2).
    minibatch: rollouts per update; 0 for all of a round (its code).
    gamma, lam: discount and trace decay (its code: 1.0 and 0.95).
    policy_clip, value_clip: 0.2 and 0.2, fixed in its code.
    value_coefficient: alpha (section 4.3: 5).
    value_model: `shared` backbone, not detached, or `separate` (table 6).
    value_init: `uniform`, as a torch layer starts (its code), or `zero`.
    kl_kind: estimator in the reward (section 3.2: k1).
    kl_coefficient: beta (section 4.3: .01 for programs, .05 for text).
    kl_target, kl_horizon: nats per rollout to steer beta to, and how slowly;
      a target of 0 keeps it (the paper).
    kl_stop: see `stages.reft_learner.Settings`; 0 for never (the paper).
    kl_floor: a mean sampled KL under minus this ends the run: sampler and
      scorer then disagree about what can be drawn.
    reference: `generator`, the warm-up, or `none`.
    reference_memory: where it waits while nobody is scored, `device` or
      `host`. No number changes; a round then takes two copies longer.
    whitening: of advantages, `global` or `none`.
    truncation: `terminal` (its code) or `bootstrap`.
    log_ratio_clamp: 0 for none (the paper); 20 keeps exponentials finite.
    entropy_bonus: none in the paper.
  """
  return ConfigDict(dict(locals()))


def on_policy(
  *,
  temperature: float = 1.0,
  samples: int = 1,
  max_prompt: int = 0,
  buckets: int = 4,
  slots: int = 0,
  check_rows: int = 16,
) -> ConfigDict:
  """How rollouts are made: from the policy itself, nothing cut (its code).

  Args:
    temperature: also that of the scored log-probabilities (section 4.3: 1).
    samples: completions per problem of a round (section 3.2: 1).
    max_prompt: problems with longer prompts are left out, never cut; 0 for
      `data.max_prompt`.
    buckets: lengths that batches are made in.
    slots: instead of the engine's; 0 for its own. With as many slots as
      rollouts most wait for the longest.
    check_rows: completions judged by one call while others are sampled.
  """
  return ConfigDict(dict(locals()))


def train_reft(
  *,
  train: ConfigDict,
  ppo: ConfigDict,
  rollout: ConfigDict,
  model: ConfigDict | None = None,
  split: str = "train",
  eval_split: str = "validation",
  rows: int = 0,
  options: dict | None = None,
) -> ConfigDict:
  """PPO from a warm start, `model`. `train.steps` counts rounds."""
  settings = {**locals(), "options": options or {}}
  settings["model"] = model or blocks.checkpoint("../warm_start")
  return ConfigDict(settings)


def train_online_st(
  *,
  train: ConfigDict,
  rollout: ConfigDict,
  passes: int = 2,
  minibatch: int = 0,
  gold: float = 0.5,
  model: ConfigDict | None = None,
  split: str = "train",
  eval_split: str = "validation",
  rows: int = 0,
  options: dict | None = None,
) -> ConfigDict:
  """Online self-training: half the loss of correct rollouts, half of the gold.

  `gold` is the gold's share (its code: one half), `passes` and `minibatch` as
  in PPO.
  """
  settings = {**locals(), "options": options or {}}
  settings["model"] = model or blocks.checkpoint("../warm_start")
  return ConfigDict(settings)


def reft(
  *,
  task: ConfigDict,
  tokenizer: ConfigDict,
  model: ConfigDict,
  engine: ConfigDict,
  data: ConfigDict,
  completion: ConfigDict,
  supervised: ConfigDict,
  train_reft: ConfigDict,
  train_online_st: ConfigDict,
  run_sample: ConfigDict,
  train_reranker: ConfigDict,
  run_evaluate: ConfigDict,
  self_training: ConfigDict | None = None,
  examples: str = "",
  template: ConfigDict | None = None,
  split: str = "train",
  eval_split: str = "validation",
  rows: int = 0,
  seed: int = 0,
) -> ConfigDict:
  """All sections that the binaries of ReFT read.

  The stages of one seed lie side by side: tokenizer, warm_start, sft, reft,
  online_st, samples, offline_data, offline, reranker, evaluation.

  Args:
    supervised: the `train` section of the arm that `train_generator` trains.
    examples: what it trains on instead of the split's golds.
  """
  return ConfigDict(
    {
      "seed": seed,
      "task": task,
      "tokenizer": tokenizer,
      "template": template or blocks.template(),
      "mesh": blocks.mesh(),
      "engine": engine,
      "model": model,
      "data": data,
      "completion": completion,
      "train_generator": {
        "examples": examples,
        "split": split,
        "eval_split": eval_split,
        "rows": rows,
        "share": 1.0,
        "options": {},
        "model": model,
        "train": supervised,
      },
      "train_reft": train_reft,
      "train_online_st": train_online_st,
      "run_sample": run_sample,
      "make_self_training_data": self_training
      or evaluation.make_self_training_data(),
      "train_reranker": train_reranker,
      "run_evaluate": run_evaluate,
      "export_hf": blocks.export_hf("../reft"),
    }
  )


def ablate(experiment: ConfigDict, variant: str) -> ConfigDict:
  """One of ReFT's ablations (table 6), in place.

  Raises:
    ValueError: another variant.
  """
  section = experiment.train_reft
  if variant == "no_partial":
    section.options = {**section.options.to_dict(), "partial": 0.0}
  elif variant == "no_kl":
    section.ppo.kl_coefficient = 0.0
  elif variant == "separate_value":
    section.ppo.value_model = "separate"
  elif variant == "no_whitening":
    section.ppo.whitening = "none"
  elif variant != "paper":
    raise ValueError(
      f"variant is one of {', '.join(VARIANTS)}, not {variant!r}"
    )
  return experiment


def evaluate_variants(experiment: ConfigDict, variants: str) -> None:
  """Adds ReFT's ablations (`no_kl+no_partial`) to what is evaluated."""
  evaluated = experiment.run_evaluate
  for variant in filter(None, variants.split("+")):
    name = f"ReFT, {variant}"
    evaluated.systems[name] = evaluation.system(f"../reft_{variant}")
    evaluated.order += (name,)


def smoke_reft(experiment: ConfigDict) -> ConfigDict:
  """The same experiment in seconds: tiny models, a few updates and rows."""
  few = {
    "micro_batches": 1,
    "log_every": 1,
    "eval_every": 2,
    "eval_rows": 8,
    "save_every": 0,
    "keep_last": 2,
    "max_seconds": 0.0,
    "target": 0.0,
    "patience": 0,
  }
  generator = experiment.train_generator
  generator.rows = 32
  generator.train.update(steps=4, epochs=0, batch_size=8, **few)
  generator.train.optimizer.warmup_steps = 0
  for name in ("train_reft", "train_online_st"):
    section = experiment[name]
    section.rows = 32
    section.train.update(steps=3, batch_size=8, **few)
    section.train.optimizer.warmup_steps = 0
    section.rollout.update(samples=1, slots=0)
    if not section.model.init_from.endswith("warm_start"):
      section.model = blocks.checkpoint("../warm_start")
  experiment.train_reft.ppo.minibatch = 0
  experiment.train_online_st.minibatch = 0
  experiment.engine.slots = 8
  evaluation.smoke_evaluation(experiment)
  if not experiment.model.family:
    _without_weights(experiment)
  for section in (experiment, generator):
    blocks.shrink(section.model.overrides)
  return experiment


def _without_weights(experiment: ConfigDict) -> None:
  """A smoke test needs no weights: random ones, and bytes for tokens."""
  size = {"width": 16, "heads": 2, "mlp": 32}
  longest = 2048
  model = blocks.llama(layers=1, max_length=2 * longest, **size)
  if "t5" in experiment.model.path:
    model = blocks.t5(encoder_layers=1, decoder_layers=1, **size)
  experiment.model = model
  experiment.train_generator.model = model.copy_and_resolve_references()
  experiment.tokenizer = blocks.tokenizer("byte")
  experiment.completion.max_tokens = 32
  experiment.data.update(
    max_prompt=longest, max_target=longest, batching="bucket"
  )
  experiment.engine.prompt_buckets = (longest,)
  experiment.train_reft.rollout.max_prompt = 0
  experiment.train_online_st.rollout.max_prompt = 0
  for name in ("run_sample", "run_evaluate"):
    experiment[name].sampling.max_tokens = 32
  experiment.train_reranker.data.update(max_prompt=longest, max_target=longest)
