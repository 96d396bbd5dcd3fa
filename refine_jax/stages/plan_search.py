"""What to change in a config that does not fit, least of all first.

Every candidate is a set of flags for the stage's own command line. What an
estimate of the state alone rules out is not compiled, nor is the same config
twice.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from refine_jax.planning.compiled import CompilerError
from refine_jax.planning.report import USABLE, Report, size
from refine_jax.planning.topologies import Topology

# Plans a config on a topology; stops at the first program that does not fit.
Try = Callable[[ConfigDict, Topology], Report]
# Bytes a device has to hold whatever the programs do.
Floor = Callable[[ConfigDict, Topology], int]
# Larger slices that are compiled for; those that the floor rules out are not.
_LARGER = 6
# Programs that remat and the size of micro-batches change.
_UPDATES = ("train step", "PPO update", "PPO first pass")
# Whose `train` section may ask for adapters.
LORA_STAGES = ("train_generator", "train_critic", "train_rationalyst")
# Of a program or a config that cannot be: batches that do not divide, a
# combination nobody offers, what a compiler cannot do.
REFUSALS = (ValueError, CompilerError, jax.errors.JaxRuntimeError)


@dataclasses.dataclass(frozen=True)
class Change:
  """Flags, and the topology they are for.

  Attributes:
    elsewhere: the topology is another than the one asked about.
  """

  flags: tuple[tuple[str, object], ...]
  topology: Topology
  words: str = ""
  elsewhere: bool = False

  def apply(self, config: ConfigDict) -> ConfigDict:
    changed = ConfigDict(config.to_dict())
    with changed.unlocked():
      for name, value in self.flags:
        parent, _, last = name.rpartition(".")
        _at(changed, parent)[last] = value
    return changed

  @property
  def arguments(self) -> str:
    """The flags, as the stage's command line takes them."""
    return " ".join(f"--config.{name}={value}" for name, value in self.flags)

  def __str__(self) -> str:
    where = self.topology.name if self.elsewhere else ""
    return f"{self.words}: {' '.join(filter(None, (where, self.arguments)))}"


def suggestion(
  config: ConfigDict,
  stage: str,
  topology: Topology,
  attempt: Try,
  floor: Floor,
  *,
  made: bool = False,
  program: str = "",
) -> str:
  """The first change under which the plan fits, said in one line; "" if none.

  Args:
    config: as it was asked about, on whatever mesh.
    attempt, floor: are given configs whose batches lie on their mesh. What is
      said are the flags for just the config that was tried.
    made, program: see `candidates`.
  """
  tried = {_text(placed(Change((), topology), config, stage), config)}
  larger = 0
  found = candidates(config, stage, topology, made=made, program=program)
  for candidate in found:
    change = placed(candidate, config, stage)
    if (text := _text(change, config)) in tried:
      continue
    tried.add(text)
    changed = change.apply(config)
    if floor(changed, change.topology) > USABLE * change.topology.chip.memory:
      continue
    if change.elsewhere and (larger := larger + 1) > _LARGER:
      break
    print(f"trying {change}", file=sys.stderr, flush=True)
    try:
      report = attempt(changed, change.topology)
    except REFUSALS as error:
      print(f"left out: {change}: {error}", file=sys.stderr, flush=True)
      continue
    if report.fits:
      used = 100 * report.peak_bytes / report.chip_bytes
      return (
        f"{change} (then {size(report.peak_bytes)} of"
        f" {size(report.chip_bytes)}, {used:.0f} %)"
      )
  return ""


def placed(change: Change, config: ConfigDict, stage: str) -> Change:
  """The change with the flags for a mesh that its batches then lie on, and
  without what changes nothing."""
  changed = change.apply(config)
  more = placement(changed, stage, *_devices(changed, change.topology))
  flags = dict(change.flags) | dict(more)
  kept = [(name, x) for name, x in flags.items() if _at(config, name) != x]
  return dataclasses.replace(change, flags=tuple(kept))


def _text(change: Change, config: ConfigDict) -> str:
  values = change.apply(config).to_dict()
  return change.topology.name + json.dumps(values, sort_keys=True, default=str)


def candidates(
  config: ConfigDict,
  stage: str,
  topology: Topology,
  *,
  made: bool = False,
  program: str = "",
) -> Iterator[Change]:
  """Changes to the run alone, then other ways to train, then more chips.

  Args:
    made: the stage's model is a checkpoint that is there and describes itself,
      whatever the config says of one.
    program: the first that does not fit, if it is known. Changes to updates
      alone are left out where it is none: a sampler's, say.
  """
  flags: list[tuple[str, object]] = []
  for words, more in _settings(config, stage, made, program):
    flags += more
    yield Change(tuple(flags), topology, words)
  mesh = _meshes(config, topology)
  for tensor in mesh:
    extra = (("mesh.tensor", tensor), ("mesh.fsdp", -1))
    yield Change((*flags, *extra), topology, f"a tensor axis of {tensor}")
  if _trains(config, stage):
    name = f"{stage}.train.optimizer"
    half = (f"{name}.first_moment_dtype", "bfloat16")
    yield Change((*flags, half), topology, "a bfloat16 first moment")
    factored = (f"{name}.name", "adafactor")
    yield Change((*flags, factored), topology, "Adafactor")
    # Adapters belong to a model that has weights.
    model = config[stage].get("model") or config.model
    if stage in LORA_STAGES and (model.path or model.init_from):
      rank = (f"{stage}.train.lora.rank", config[stage].train.lora.rank or 16)
      yield Change((*flags, rank), topology, "LoRA")
  words = "more GPUs" if topology.kind == "gpu" else "a larger slice"
  for larger in topology.larger():
    # All of it, and not as many devices as were asked for on the smaller one.
    yield Change((("mesh.devices", 0),), larger, words, elsewhere=True)


def _settings(
  config: ConfigDict, stage: str, made: bool, program: str
) -> Sequence[tuple[str, list[tuple[str, object]]]]:
  """Remat, smaller micro-batches, then the reference moved to the host; each
  on top of those before."""
  found = []
  if not _trains(config, stage):
    return found
  if not program or program in _UPDATES:
    if not made and (remat := _remat(config, stage)):
      found.append(("remat", remat))
    rows, pieces = _rows(config, stage), config[stage].train.micro_batches
    for _ in range(3):
      pieces *= 2
      if rows % pieces == 0:
        name = f"{stage}.train.micro_batches"
        found.append(("smaller micro-batches", [(name, pieces)]))
  ppo = config[stage].get("ppo")
  if ppo and (ppo.reference, ppo.reference_memory) == ("generator", "device"):
    name = f"{stage}.ppo.reference_memory"
    found.append(("the reference on the host", [(name, "host")]))
  return found


def _remat(config: ConfigDict, stage: str) -> list[tuple[str, object]]:
  """Flags for it, where the config has the field and does not say so yet.

  A checkpoint that is not there yet is planned as the experiment's model, and
  becomes what the stage that writes it is told.
  """
  own = f"{stage}.model"
  if not _has(config, own):
    places = ["model"]
  elif _at(config, own).init_from:
    places = ["model", "train_generator.model"]
  else:
    places = [own]
  flags: list[tuple[str, object]] = []
  for place in places:
    name = f"{place}.overrides.remat"
    if _has(config, name) and _at(config, name) != "full":
      flags.append((name, "full"))
  planned = f"{places[0]}.overrides.remat"
  return flags if (planned, "full") in flags else []


def _meshes(config: ConfigDict, topology: Topology) -> list[int]:
  """Sizes of the tensor axis worth a try."""
  now, (devices, _) = config.mesh.tensor, _devices(config, topology)
  return [n for n in (2, 4, 8) if n > now and devices % n == 0]


def _devices(config: ConfigDict, topology: Topology) -> tuple[int, int]:
  """How many of each slice the config's mesh is of, and of how many slices."""
  each = topology.count // topology.slices
  count = min(config.mesh.devices or topology.count, topology.count)
  slices = math.ceil(count / each)
  return count // slices, slices


def _trains(config: ConfigDict, stage: str) -> bool:
  return stage in config and "train" in config[stage]


def _rows(config: ConfigDict, stage: str) -> int:
  """Of an update."""
  section = config[stage]
  own = section.get("ppo") or section
  return own.get("minibatch") or section.train.batch_size


def _has(config: ConfigDict, name: str) -> bool:
  section: Any = config
  for part in name.split("."):
    if section is None or part not in section:
      return False
    section = section[part]
  return section is not None


def _at(config: ConfigDict, name: str) -> Any:
  for part in name.split("."):
    config = config[part]
  return config


def placement(
  config: ConfigDict, stage: str, devices: int, slices: int
) -> list[tuple[str, object]]:
  """Flags for a mesh on which the stage's batches lie.

  With `mesh.fsdp=-1` all devices share the rows of a batch. Where there are
  more devices than rows, the rest becomes a tensor axis.

  Args:
    devices: of one slice.
    slices: how many there are.
  """
  if not _trains(config, stage):
    return []
  sizes, train = config.mesh, config[stage].train
  rows = _rows(config, stage)
  ways = slices * devices // sizes.tensor
  flags: list[tuple[str, object]] = []
  if not ways:
    return []  # no such mesh; whoever makes it says so
  if rows % ways:
    fitting = math.gcd(rows, ways)
    if sizes.fsdp != -1 or fitting % (max(slices, sizes.slice) * sizes.data):
      return []
    flags.append(("mesh.tensor", sizes.tensor * ways // fitting))
    ways = fitting
  if rows // train.micro_batches < ways:  # rows of a piece for every device
    flags.append((f"{stage}.train.micro_batches", rows // ways))
  return flags
