"""A config on a topology: its mesh, its models, its batches, its samplers."""

import dataclasses
import pathlib
from typing import Any

import jax
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from refine_jax import sharding
from refine_jax.models import families, hf
from refine_jax.planning import architectures, programs
from refine_jax.planning.topologies import Topology
from refine_jax.sampling import budget
from refine_jax.sampling.engine import CHUNK, PREFILL_TOKENS
from refine_jax.sampling.planning import Shape
from refine_jax.stages import build
from refine_jax.training import checkpoint, state


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
    topologies.Unknown: the devices cannot be had.
  """
  sizes = config.mesh.to_dict()
  count = sizes.pop("devices")
  devices = topology.devices()[: count or None]
  try:
    return sharding.make_mesh(**sizes, devices=devices)
  except ValueError as error:
    raise BadPlan(f"{topology.name}: {error}") from None


def module_of(job: Job, section: ConfigDict) -> nn.Module:
  """The module of a `model` section; reads no weights.

  A checkpoint that is not there yet is of the experiment's own model.

  Raises:
    BadPlan: the architecture is nowhere to be read.
  """
  if made(section, job.workdir):
    return _of_checkpoint(build.resolve(section.init_from, job.workdir))
  if section.init_from:
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


def made(section: ConfigDict, workdir: pathlib.Path) -> bool:
  """Whether a `model` section names a checkpoint that is there."""
  name = section.init_from
  return bool(name) and build.resolve(name, workdir).exists()


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


def optimizer(train: ConfigDict) -> optax.GradientTransformation:
  """The schedule's length decides no shape; it is as long as it has to be."""
  steps = max(1, train.steps, train.optimizer.warmup_steps)
  return build.optimizer(train.optimizer, steps)[0]


def sampler(job: Job, module, params, engine, tokens, resident, prefix=""):
  """The sampler of an `engine` section, as `build.engine` makes it."""
  largest = max(engine.prompt_buckets)
  context = getattr(module.config, "max_length", None)
  if not module.encoder_decoder and context:
    largest = min(largest, max(8, context - tokens))
  dtype = engine.get("cache_dtype") or None
  slots = engine.slots
  if engine.get("memory"):
    slots = budget.slots_in(
      module,
      engine.memory,
      prompt_length=max(engine.prompt_buckets),
      room=tokens,
      dtype=dtype,
    )
  return programs.sampler(
    job.planner,
    module,
    params,
    Shape(slots, 1, largest, tokens),
    prefill_tokens=PREFILL_TOKENS,
    chunk=CHUNK,
    resident=resident,
    cache_dtype=dtype,
    piece=engine.get("prefill_chunk") or None,
    prefix=prefix,
  )
