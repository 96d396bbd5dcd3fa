"""Whole experiments in the manner of REFINER, and what is made out of them."""

from ml_collections import ConfigDict

from refine_jax.config import blocks
from refine_jax.config.refiner import (
  make_critic_data,
  plain_arms,
  refiner,
  rollout,
  standard_arms,
)


def small_refiner(
  *,
  task: ConfigDict,
  tokenizer: ConfigDict,
  model: ConfigDict,
  max_prompt: int,
  max_target: int,
  max_feedback: int,
  test_split: str,
  title: str,
) -> ConfigDict:
  """From scratch, for tasks of a few thousand rows; minutes on a CPU.

  The critic and the refiner start from the warm generator; the refiner learns
  from its own errors only, since small models that also see plain examples
  learn to ignore feedback.
  """
  revision = max_prompt + max_target + max_feedback
  long = blocks.data(
    max_prompt=revision, max_target=max_target, batching="bucket"
  )
  critic = blocks.data(
    max_prompt=revision, max_target=max_feedback, batching="bucket"
  )

  def train(learning_rate, steps, **settings):
    return blocks.train(
      steps=steps,
      batch_size=16,
      optimizer=blocks.optimizer(
        learning_rate,
        schedule="linear",
        warmup_steps=50,
        multipliers=_relative_bias(model),
      ),
      eval_every=steps // 10,
      eval_rows=300,
      **settings,
    )

  engine = blocks.engine(slots=64, prompt_buckets=(max_prompt, revision))
  return refiner(
    task=task,
    tokenizer=tokenizer,
    model=model,
    critic_model=blocks.checkpoint("../warm_start"),
    engine=engine,
    critic_engine=blocks.engine(slots=64, prompt_buckets=(revision,)),
    data=long,
    critic_data=critic,
    completion=blocks.sampling(max_tokens=max_target),
    feedback=blocks.sampling(max_tokens=max_feedback),
    warm_start=train(1e-3, 1200),
    train_critic=train(5e-4, 800, best_metric="balanced"),
    train_refiner=train(5e-4, 400),
    make_critic_data=make_critic_data(generator="../warm_start"),
    rollout=rollout(
      turns=2,
      samples=2,
      choose="wrong",
      temperature=0.7,
      top_p=1.0,
      top_k=0,
      first_turn=False,
      errors_only=True,
      mask=0.3,
      mask_rows=0.5,
      every=100,
    ),
    arms={
      **standard_arms(generator="../warm_start", candidates=1),
      **plain_arms(),
    },
    turns=3,
    test_split=test_split,
    title=title,
    subtitle="Generator and critic trained from scratch.",
  )


def published_refiner(
  *,
  task: ConfigDict,
  path: str,
  decoder_only: bool,
  title: str,
  train_split: str = "train",
  eval_split: str = "dev",
  test_split: str = "test",
) -> ConfigDict:
  """The paper's settings, with pretrained weights.

  Hyper-parameters as in REFINER's appendix and its code: Adam, learning rate
  1e-4, no warm-up, linear decay, clip 1; 20 epochs with early stopping; source
  256 and target 50 tokens in training; three turns, three nucleus samples
  (p = 0.5, k = 50) of which a random one is criticised; greedy inference, one
  refinement with the trained critic and three with the oracle. The critic is
  UnifiedQA-base for every task and is only used at inference; training hears
  the oracle. Warm start on 10 % of the rows.
  """
  epochs_of_rows = 3138 * 20  # source: the paper's MWP; batch 8
  template = blocks.template(
    generator_end="\nanswer: " if decoder_only else "",
    critic_end="\nfeedback: " if decoder_only else "",
  )
  critic = "allenai/unifiedqa-t5-base"

  def train(steps, **settings):
    return blocks.train(
      steps=steps,
      batch_size=8,
      optimizer=blocks.optimizer(1e-4, schedule="linear"),
      eval_every=max(1, steps // 20),
      patience=20,
      **settings,
    )

  data = blocks.data(max_prompt=512, max_target=128)
  model = blocks.pretrained(path, remat="full", dtype="bfloat16")
  experiment = refiner(
    task=task,
    tokenizer=blocks.tokenizer(path),
    template=template,
    model=model,
    critic_model=blocks.pretrained(
      path if decoder_only else critic, remat="full", dtype="bfloat16"
    ),
    engine=blocks.engine(slots=64, prompt_buckets=(128, 256, 512)),
    critic_engine=blocks.engine(slots=64, prompt_buckets=(128, 256, 512)),
    data=data,
    critic_data=data.copy_and_resolve_references(),
    completion=blocks.sampling(max_tokens=56),
    feedback=blocks.sampling(max_tokens=50),
    warm_start=train(epochs_of_rows // 80),
    train_critic=train(epochs_of_rows // 8),
    train_refiner=train(epochs_of_rows // 8),
    make_critic_data=make_critic_data(split=train_split),
    rollout=rollout(),
    arms=standard_arms(),
    turns=2,
    train_split=train_split,
    eval_split=eval_split,
    test_split=test_split,
    title=title,
    subtitle="Settings of the paper.",
  )
  experiment.train_generator.share = 0.1
  experiment.run_refine.arms["oracle critic"].turns = 4
  return experiment


def _relative_bias(model: ConfigDict) -> dict[str, float]:
  """Ten times the rate for T5's position bias: small models start sooner."""
  return {"relative_bias": 10.0} if model.family == "t5" else {}


def continue_instead(experiment: ConfigDict, control: str) -> None:
  """Turns `train_generator` into a control without a critic.

  `updates`: the warm start goes on for as many updates as the refiner has.
  `compute`: for as many as refiner and critic have together.

  Raises:
    ValueError: another control.
  """
  if not control:
    return
  if control not in ("updates", "compute"):
    raise ValueError(f"control is updates or compute, not {control!r}")
  section = experiment.train_generator
  steps = experiment.train_refiner.train.steps
  if control == "compute":
    steps += experiment.train_critic.train.steps
  section.train.steps = steps
  section.train.target = 0.0
  section.model = blocks.checkpoint("../warm_start")
  # The rows the refiner sees.
  section.options = experiment.train_refiner.options


def refiner_ablations(experiment: ConfigDict, wanted: bool) -> None:
  """Other arms: the paper's ablations and its noise study (figure 4).

  They answer under the oracle, and revise with the refiners that
  `launch_scripts/refiner_ablations.sh` trains beside the first one. Nothing
  happens unless `wanted`.
  """
  if not wanted:
    return
  oracle = experiment.run_refine.arms["oracle critic"].to_dict()

  def other(**changes):
    return ConfigDict({**oracle, **changes})

  arms = {"oracle critic": other()}
  for percent in (25, 50, 75, 100):
    arms[f"{percent} % noise"] = other(noise=percent / 100)
  arms |= {
    "trained without exploration": other(reviser="../refiner.greedy"),
    "trained without a critic": other(reviser="../refiner.alone"),
    "trained with 50 % noise": other(reviser="../refiner.noise"),
    "trained without a critic, none": other(
      critic="none", reviser="../refiner.alone"
    ),
    "its own critic": other(critic="self"),
    "trained critic": other(critic="model"),
  }
  experiment.run_refine.update(arms=ConfigDict(arms), order=tuple(arms))
  experiment.make_report.update(
    title=f"{experiment.make_report.title}: ablations",
    runs="../seed*",
    evaluation="ablations",
    shown="oracle critic",
    command="bash launch_scripts/refiner_ablations.sh",
  )


def smoke(experiment: ConfigDict) -> ConfigDict:
  """The same experiment in seconds: tiny models, a few updates and rows."""
  for section, steps in (
    ("train_generator", 8),
    ("train_critic", 6),
    ("train_refiner", 4),
  ):
    train = experiment[section].train
    blocks.smoke_train(train, steps)
  experiment.train_generator.rows = 64
  experiment.make_critic_data.update(rows=32, perturb_rows=0)
  experiment.train_refiner.rows = 32
  experiment.train_refiner.rollout.every = 2
  experiment.run_refine.rows = (0, 6)
  experiment.engine.slots = 8
  experiment.train_critic.engine.slots = 8
  experiment.run_refine.critic_engine.slots = 8
  if experiment.model.family:
    blocks.shrink(experiment.model.overrides)
  else:
    _replace_pretrained(experiment)
  if experiment.train_critic.model.family:
    blocks.shrink(experiment.train_critic.model.overrides)
  return experiment


def _replace_pretrained(experiment: ConfigDict) -> None:
  """A smoke test needs no weights: random ones and bytes for tokens."""
  size = {"width": 16, "heads": 2, "mlp": 32}
  experiment.model = blocks.t5(encoder_layers=1, decoder_layers=1, **size)
  experiment.train_critic.model = blocks.t5(
    encoder_layers=1, decoder_layers=1, **size
  )
  experiment.tokenizer = blocks.tokenizer("byte")
  for data in (experiment.data, experiment.train_critic.data):
    data.update(max_prompt=1024, max_target=512, batching="bucket")
  for engine in (
    experiment.engine,
    experiment.train_critic.engine,
    experiment.run_refine.critic_engine,
  ):
    engine.prompt_buckets = (1024,)
