"""Which programs a config's stage would run, compiled from shapes alone."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from refine_jax import sharding
from refine_jax.models import families, hf, lora_hf
from refine_jax.models.actor_critic import ActorCritic
from refine_jax.models.reranker import Reranker
from refine_jax.planning import architectures, programs
from refine_jax.planning.compiled import Program, bytes_per_device
from refine_jax.planning.topologies import Topology
from refine_jax.sampling.planning import Shape
from refine_jax.stages import adapters, build, train_reft
from refine_jax.training import checkpoint, lora, ppo, state
from refine_jax.training.classify import Labelled, classification_loss
from refine_jax.training.loss import supervised_loss
from refine_jax.training.online import OnlineBatch, online_loss
from refine_jax.training.step import Beside, make_train_step

# As `build.engine` leaves them.
PREFILL_TOKENS, CHUNK = 16384, 32


class BadPlan(ValueError):
  """A config that cannot be planned; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Job:
  """A config on a topology.

  Attributes:
    workdir: what paths of the config are relative to.
  """

  config: ConfigDict
  planner: programs.Planner
  workdir: pathlib.Path

  @property
  def batch_ways(self) -> int:
    shape = self.planner.mesh.shape
    ways = 1
    for axis in sharding.RULES["batch"]:
      ways *= shape[axis]
    return ways

  def params(self, module: Any) -> Any:
    return state.abstract_params(
      module, build.example_batch(), self.planner.mesh
    )


def mesh(config: ConfigDict, topology: Topology) -> jax.sharding.Mesh:
  """The config's mesh over the topology's devices.

  Raises:
    BadPlan: the sizes do not multiply to their number.
  """
  sizes = config.mesh.to_dict()
  count = sizes.pop("devices")
  if topology.slices > 1 and sizes["slice"] == 1:
    sizes["slice"] = topology.slices
  try:
    return sharding.make_mesh(
      **sizes, devices=topology.devices()[: count or None]
    )
  except ValueError as error:
    raise BadPlan(f"{topology.name}: {error}") from None


def stage_of(config: ConfigDict, asked: str) -> str:
  """The stage to plan: the one asked for, or the config's dearest.

  Raises:
    BadPlan: it is not planned, or not in the config.
  """
  found = [name for name in STAGES if _section(name) in config]
  if not asked and found:
    return found[0]
  if asked in found:
    return asked
  raise BadPlan(
    f"stage {asked!r}: this config has {', '.join(found) or 'none'} of what"
    " can be planned"
  )


def plan(job: Job, stage: str) -> Iterator[Program]:
  """The stage's programs, the likeliest to need most memory first."""
  return STAGES[stage](job)


def state_bytes(job: Job, stage: str) -> int:
  """What training keeps on a device between steps; 0 for other stages."""
  section = job.config.get(stage)
  if section is None or "train" not in section:
    return 0
  named = section.get("model") or job.config.model
  module = module_of(job, named)
  params: Any = job.params(module)
  total = 0
  if section.train.lora.rank:
    total = bytes_per_device(params)
    settings = adapters.of_section(section.train.lora)
    params = lora.abstract(params, lora_hf.inputs(module), settings)
  optimizer = _optimizer(section.train)
  return total + bytes_per_device(state.abstract_state(params, optimizer))


def notes(job: Job) -> tuple[str, ...]:
  """What of train_reft lies elsewhere than on the devices."""
  if not _on_host(job):
    return ()
  size = _reference_bytes(job) / (1 << 30)
  return (
    f"The reference waits in pinned memory of the host, {size:.2f} GiB a"
    " device; on the device it counts only while rollouts are scored.",
  )


def _section(stage: str) -> str:
  return {"embed": "engine", "refine_turn": "run_refine"}.get(stage, stage)


# ---------------------------------------------------------------- the models


def module_of(job: Job, section: ConfigDict) -> nn.Module:
  """The module of a `model` section; reads no weights.

  A checkpoint that is not there yet is of the experiment's own model.

  Raises:
    BadPlan: the architecture is nowhere to be read.
  """
  if section.init_from:
    path = build.resolve(section.init_from, job.workdir)
    if path.exists():
      return _of_checkpoint(path)
    section = job.config.model
  if section.init_from:
    raise BadPlan(f"no checkpoint at {section.init_from}")
  overrides = section.overrides.to_dict()
  if not section.path:
    if not overrides.get("vocab_size"):
      overrides["vocab_size"] = _vocabulary(job)
    return families.build({"family": section.family, "config": overrides})
  if pathlib.Path(section.path).is_dir():
    return hf.module_of(section.path, **overrides)
  known = architectures.hf_config(section.path)
  if known is None:
    raise BadPlan(
      f"model {section.path!r} is no local folder, and its shape is not among"
      f" the known: {', '.join(architectures.known())}"
    )
  shape = hf.config_from_hf(known, **overrides)
  kinds = {f.config: f.module for f in families.families().values()}
  return kinds[type(shape)](shape)


def _of_checkpoint(path: pathlib.Path) -> nn.Module:
  if build.is_hf(path):
    return hf.module_of(path)
  return families.build(checkpoint.read_meta(path)["model"])


def _vocabulary(job: Job) -> int:
  """Of a tokenizer that may still have to be trained."""
  section = job.config.tokenizer
  size = section.train.get("vocab_size", 0)
  if size:
    return size
  return build.tokenizer(section, job.workdir).vocab_size


# ---------------------------------------------------------------- the stages


def check_rows(job: Job, rows: int, micro_batches: int, what: str) -> None:
  """Raises BadPlan where a batch does not lie on the mesh."""
  ways = job.batch_ways
  if rows % ways:
    raise BadPlan(
      f"{what}: {rows} rows do not divide among the {ways} ways of the mesh"
      f" {dict(job.planner.mesh.shape)}"
    )
  if rows % micro_batches:
    raise BadPlan(
      f"{what}: {rows} rows cannot be cut into {micro_batches} micro-batches"
    )


def lengths(data: ConfigDict) -> tuple[int, int]:
  """Prompt and target length of the largest batch of a `data` section."""
  longest = data.max_prompt + data.max_target
  if data.batching != "pack":
    return data.max_prompt, data.max_target
  room = data.row_tokens or 4 * longest
  # The data decide the split; as the longest ones are to each other.
  prompt = round(room * data.max_prompt / longest / 8) * 8
  return prompt, room - prompt


def _optimizer(train: ConfigDict) -> optax.GradientTransformation:
  """The schedule's length decides no shape; it is as long as it has to be."""
  steps = max(1, train.steps, train.optimizer.warmup_steps)
  return build.optimizer(train.optimizer, steps)[0]


def _supervised(job: Job, section: ConfigDict, data: ConfigDict, model=None):
  """The train step of a supervised stage, and its parameters."""
  train, planner = section.train, job.planner
  module = module_of(job, model or section.model)
  params = job.params(module)
  check_rows(job, train.batch_size, train.micro_batches, "batch_size")
  batch = planner.batch(train.batch_size, *lengths(data))
  if data.batching == "pack":
    batch = batch.replace(
      prompt_segments_BP=planner.rows(batch.prompt_BP.shape, jnp.int32),
      target_segments_BT=planner.rows(batch.target_BT.shape, jnp.int32),
    )
  loss = supervised_loss(
    module,
    chunk=train.xent_chunk,
    label_smoothing=train.label_smoothing,
    reduction=train.reduction,
  )
  trained: Any = params
  if train.lora.rank:
    settings = adapters.of_section(train.lora)
    trained = lora.abstract(params, lora_hf.inputs(module), settings)
    loss, batch = lora.loss(loss, settings), Beside(params, batch)
  optimizer = _optimizer(train)
  step = make_train_step(loss, optimizer, micro_batches=train.micro_batches)
  program, kept = programs.train_step(planner, step, trained, optimizer, batch)
  beside = bytes_per_device(kept)
  if train.lora.rank:
    beside += bytes_per_device(params)
  return program, module, params, beside


def _engine(job: Job, module, params, engine, tokens, resident, prefix=""):
  """The sampler of an `engine` section."""
  largest = max(engine.prompt_buckets)
  context = getattr(module.config, "max_length", None)
  if not module.encoder_decoder and context:
    largest = min(largest, max(8, context - tokens))
  made, beside = programs.sampler(
    job.planner,
    module,
    params,
    Shape(engine.slots, 1, largest, tokens),
    prefill_tokens=PREFILL_TOKENS,
    chunk=CHUNK,
    resident=resident,
    cache_dtype=engine.get("cache_dtype") or None,
    prefix=prefix,
  )
  return made, beside


def _train_generator(job: Job) -> Iterator[Program]:
  section, config = job.config.train_generator, job.config
  program, module, params, beside = _supervised(job, section, config.data)
  # The weights that answered the last validation stay for the next steps.
  sampler, weights = _engine(
    job, module, params, config.engine, config.completion.max_tokens, beside
  )
  yield dataclasses.replace(program, resident_bytes=weights)
  yield from sampler


def _train_critic(job: Job) -> Iterator[Program]:
  section = job.config.train_critic
  program, module, params, beside = _supervised(job, section, section.data)
  tokens = job.config.feedback.max_tokens
  sampler, weights = _engine(
    job, module, params, section.engine, tokens, beside
  )
  yield dataclasses.replace(program, resident_bytes=weights)
  yield from sampler


def _train_reranker(job: Job) -> Iterator[Program]:
  section, planner = job.config.train_reranker, job.planner
  module = module_of(job, section.model)
  reranker, train = Reranker(module), section.train
  params = state.abstract_params(reranker, build.example_batch(), planner.mesh)
  check_rows(job, train.batch_size, train.micro_batches, "batch_size")
  rows = train.batch_size
  batch = planner.batch(rows, *lengths(section.data))
  labelled = Labelled(
    batch, planner.rows((rows,), jnp.int32), planner.rows((rows,), jnp.float32)
  )
  loss = classification_loss(
    reranker, module, language=section.language, chunk=train.xent_chunk
  )
  optimizer = _optimizer(train)
  step = make_train_step(loss, optimizer, micro_batches=train.micro_batches)
  program, kept = programs.train_step(
    planner, step, params, optimizer, labelled
  )
  yield program
  yield planner.compile(
    "rerank score",
    jax.jit(lambda params, batch: reranker(params, batch)[0]),
    params,
    batch,
    resident=bytes_per_device(kept.opt_state),
  )


def _run_sample(job: Job) -> Iterator[Program]:
  config = job.config
  module = module_of(job, config.model)
  params = job.params(module)
  tokens = config.run_sample.sampling.max_tokens
  held = bytes_per_device(params)
  made, beside = _engine(job, module, params, config.engine, tokens, held)
  yield from made
  count, prompt = config.engine.slots, max(config.engine.prompt_buckets)
  yield programs.log_probs(
    job.planner,
    module,
    params,
    job.planner.batch(count, prompt, tokens),
    resident=beside,
  )


def _embed(job: Job) -> Iterator[Program]:
  engine = job.config.engine
  module = module_of(job, job.config.model)
  yield programs.embed(
    job.planner,
    module,
    job.params(module),
    engine.slots,
    max(engine.prompt_buckets),
  )


def _run_refine(job: Job) -> Iterator[Program]:
  config, section = job.config, job.config.run_refine
  both = _generator_and_critic(job)
  held = sum(bytes_per_device(params) for _, params in both)
  answers, more = _engine(
    job,
    *both[0],
    config.engine,
    config.completion.max_tokens,
    held,
    "generator: ",
  )
  yield from answers
  feedback, _ = _engine(
    job,
    *both[1],
    section.critic_engine,
    config.feedback.max_tokens,
    held + more,
    "critic: ",
  )
  yield from feedback
  yield from _refine_turn(job)


def _generator_and_critic(job: Job) -> list[tuple[nn.Module, Any]]:
  config = job.config
  modules = (
    module_of(job, section)
    for section in (config.model, config.train_critic.model)
  )
  return [(module, job.params(module)) for module in modules]


def _refine_turn(job: Job) -> Iterator[Program]:
  """The loop of both models that never leaves the devices."""
  config = job.config
  yield programs.refine_turn(
    job.planner,
    *_generator_and_critic(job),
    slots=config.engine.slots,
    prompt=max(config.engine.prompt_buckets),
    hypothesis=config.completion.max_tokens,
    feedback=config.feedback.max_tokens,
    turns_=max(1, config.run_refine.turns),
  )


def _train_refiner(job: Job) -> Iterator[Program]:
  config, section = job.config, job.config.train_refiner
  program, module, params, beside = _supervised(
    job, section, config.data, config.model
  )
  sampler, weights = _engine(
    job, module, params, config.engine, config.completion.max_tokens, beside
  )
  yield dataclasses.replace(program, resident_bytes=weights)
  yield from sampler


def _train_online_st(job: Job) -> Iterator[Program]:
  config, section = job.config, job.config.train_online_st
  planner, train = job.planner, section.train
  module = module_of(job, section.model)
  params = job.params(module)
  rows = section.minibatch or train.batch_size
  check_rows(job, rows, train.micro_batches, "minibatch")
  rollouts = _rollouts(job, section, rows)
  column = planner.rows((rows,), jnp.float32)
  batch = OnlineBatch(rollouts, rollouts, column, column, column)
  optimizer = _optimizer(train)
  loss = online_loss(module, gold=section.gold, chunk=train.xent_chunk)
  step = make_train_step(loss, optimizer, micro_batches=train.micro_batches)
  program, kept = programs.train_step(planner, step, params, optimizer, batch)
  tokens = config.completion.max_tokens
  engine = _rollout_engine(job, section)
  sampler, weights = _engine(
    job, module, params, engine, tokens, bytes_per_device(kept)
  )
  yield dataclasses.replace(program, resident_bytes=weights)
  yield from sampler


def _rollout_engine(job: Job, section: ConfigDict) -> ConfigDict:
  """As `on_policy.Rounds` has it."""
  engine = job.config.engine.copy_and_resolve_references()
  engine.slots = section.rollout.slots or engine.slots
  return engine


def _rollouts(job: Job, section: ConfigDict, rows: int):
  prompt = section.rollout.max_prompt or job.config.data.max_prompt
  return job.planner.batch(rows, prompt, job.config.completion.max_tokens)


def _train_reft(job: Job) -> Iterator[Program]:
  """PPO: policy and value, reference, the sampler's weights, all at once."""
  config, section = job.config, job.config.train_reft
  planner, train = job.planner, section.train
  module = module_of(job, section.model)
  actor = ActorCritic(
    module, section.ppo.value_model == "separate", section.ppo.value_init
  )
  settings = train_reft.ppo_settings(config)
  policy = job.params(module)
  params = {"policy": policy, "value": _value(job, actor, policy)}
  rows = section.ppo.minibatch or train.batch_size
  check_rows(job, rows, train.micro_batches, "ppo.minibatch")
  check_rows(job, train.batch_size, 1, "batch_size")
  batch = _rollouts(job, section, rows)
  optimizer = _optimizer(train)
  step = make_train_step(
    ppo.ppo_loss(module, actor.values, settings),
    optimizer,
    micro_batches=train.micro_batches,
  )
  reference = _reference_bytes(job)
  waiting = 0 if _on_host(job) else reference
  update, kept = programs.train_step(
    planner,
    step,
    params,
    optimizer,
    programs.experience(planner, batch),
    name="PPO update",
  )
  beside = bytes_per_device(kept) + waiting
  tokens = config.completion.max_tokens
  engine = _rollout_engine(job, section)
  sampler, weights = _engine(job, module, policy, engine, tokens, beside)
  yield dataclasses.replace(update, resident_bytes=waiting + weights)
  yield from sampler
  # While rollouts are scored the reference is on the device, if any.
  beside += reference - waiting
  yield from _scoring(job, actor, settings, params, beside + weights)


def _reference_bytes(job: Job) -> int:
  section = job.config.train_reft
  if section.ppo.reference == "none":
    return 0
  return bytes_per_device(job.params(module_of(job, section.model)))


def _on_host(job: Job) -> bool:
  """Whether there is a reference, and it waits on the host."""
  settings = job.config.train_reft.ppo
  return settings.reference != "none" and settings.reference_memory == "host"


def _value(job: Job, actor: ActorCritic, policy: Any) -> Any:
  boxed = jax.eval_shape(actor.init_head, jax.random.key(0))
  where = sharding.of_variables(boxed, job.planner.mesh)
  head = job.planner.like(nn.unbox(boxed), where)
  more = {"backbone": policy} if actor.separate else {}
  return {"head": head, **more}


def _scoring(job, actor, settings, params, resident) -> Iterator[Program]:
  """What a round's rollouts go through before the updates."""
  planner, section = job.planner, job.config.train_reft
  module = actor.family
  batch = _rollouts(job, section, section.train.batch_size)
  values = None if actor.separate else actor.values

  def look(params, batch):
    return ppo.look(module, params, batch, settings, values)

  name = "log-probs" if actor.separate else "log-probs and values"
  resident -= bytes_per_device(params)
  yield planner.compile(name, jax.jit(look), params, batch, resident=resident)
  if actor.separate:

    def appraise(params, batch):
      return ppo.appraise(params, batch, None, settings, actor.values)

    yield planner.compile(
      "values", jax.jit(appraise), params, batch, resident=resident
    )


STAGES: dict[str, Callable[[Job], Iterator[Program]]] = {
  "train_reft": _train_reft,
  "train_refiner": _train_refiner,
  "train_generator": _train_generator,
  "train_critic": _train_critic,
  "train_reranker": _train_reranker,
  "train_online_st": _train_online_st,
  "run_sample": _run_sample,
  "run_refine": _run_refine,
  "refine_turn": _refine_turn,
  "embed": _embed,
}
