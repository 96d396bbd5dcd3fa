"""What to change in a config that does not fit, least of all first.

Every candidate is a set of flags for the stage's own command line. What an
estimate of the state alone rules out is not compiled.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

from ml_collections import ConfigDict

from refine_jax.planning.report import USABLE, Report
from refine_jax.planning.topologies import Topology

# Plans a config on a topology; stops at the first program that does not fit.
Try = Callable[[ConfigDict, Topology], Report]
# Bytes a device has to hold whatever the programs do.
Floor = Callable[[ConfigDict, Topology], int]
LORA_STAGES = ("train_generator", "train_critic")


@dataclasses.dataclass(frozen=True)
class Change:
  """Flags, and the topology they are for."""

  flags: tuple[tuple[str, object], ...]
  topology: Topology
  words: str = ""

  def apply(self, config: ConfigDict) -> ConfigDict:
    changed = ConfigDict(config.to_dict())
    with changed.unlocked():
      for name, value in self.flags:
        *parents, last = name.split(".")
        section = changed
        for parent in parents:
          section = section[parent]
        section[last] = value
    return changed

  def __str__(self) -> str:
    flags = [f"--config.{name}={value}" for name, value in self.flags]
    return f"{self.words}: {' '.join(flags or [self.topology.name])}"


def suggestion(
  config: ConfigDict,
  stage: str,
  topology: Topology,
  attempt: Try,
  floor: Floor,
) -> str:
  """The first change under which the plan fits, said in one line."""
  for change in candidates(config, stage, topology):
    changed = change.apply(config)
    if floor(changed, change.topology) > USABLE * change.topology.chip.memory:
      continue
    try:
      report = attempt(changed, change.topology)
    except ValueError:
      continue  # batches that do not divide, a combination nobody offers
    if report.fits:
      used = 100 * report.peak_bytes / report.chip_bytes
      return (
        f"{change} (then {report.peak_bytes / 2**30:.2f} GiB of"
        f" {report.chip_bytes / 2**30:.0f}, {used:.0f} %)"
      )
  return "nothing that was tried fits; see `docs/pods.md`"


def candidates(
  config: ConfigDict, stage: str, topology: Topology
) -> Iterator[Change]:
  """Changes to the run alone, then other ways to train, then more chips."""
  flags: list[tuple[str, object]] = []
  for words, more in _settings(config, stage):
    flags += more
    yield Change(tuple(flags), topology, words)
  mesh = _meshes(config, topology)
  for tensor in mesh:
    extra = (("mesh.tensor", tensor), ("mesh.fsdp", -1))
    yield Change((*flags, *extra), topology, f"a tensor axis of {tensor}")
  if stage in config and "train" in config[stage]:
    name = f"{stage}.train.optimizer"
    half = (f"{name}.first_moment_dtype", "bfloat16")
    yield Change((*flags, half), topology, "a bfloat16 first moment")
    factored = (f"{name}.name", "adafactor")
    yield Change((*flags, factored), topology, "Adafactor")
    if stage in LORA_STAGES:
      rank = (f"{stage}.train.lora.rank", 16)
      yield Change((*flags, rank), topology, "LoRA")
  for larger in topology.larger()[:6]:
    yield Change((), larger, "a larger slice")


def _settings(
  config: ConfigDict, stage: str
) -> Sequence[tuple[str, list[tuple[str, object]]]]:
  """Remat, smaller micro-batches, then the reference moved to the host; each
  on top of those before."""
  found = []
  if stage not in config or "train" not in config[stage]:
    return found
  places = [
    place
    for place in ("model", f"{stage}.model")
    if _has(config, f"{place}.overrides")
  ]
  now = {_at(config, f"{p}.overrides").get("remat", "none") for p in places}
  if places and now != {"full"}:
    found.append(("remat", [(f"{p}.overrides.remat", "full") for p in places]))
  train = config[stage].train
  pieces = train.micro_batches
  for _ in range(3):
    pieces *= 2
    if train.batch_size % pieces == 0:
      name = f"{stage}.train.micro_batches"
      found.append(("smaller micro-batches", [(name, pieces)]))
  ppo = config[stage].get("ppo")
  if ppo and (ppo.reference, ppo.reference_memory) == ("generator", "device"):
    name = f"{stage}.ppo.reference_memory"
    found.append(("the reference on the host", [(name, "host")]))
  return found


def _meshes(config: ConfigDict, topology: Topology) -> list[int]:
  """Sizes of the tensor axis worth a try."""
  now, devices = config.mesh.tensor, topology.count // topology.slices
  return [n for n in (2, 4, 8) if n > now and devices % n == 0]


def _has(config: ConfigDict, name: str) -> bool:
  section = config
  for part in name.split("."):
    if part not in section:
      return False
    section = section[part]
  return True


def _at(config: ConfigDict, name: str) -> ConfigDict:
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
  if stage not in config or "train" not in config[stage]:
    return []
  sizes, train = config.mesh, config[stage].train
  rows = train.batch_size
  if stage == "train_reft":
    rows = config[stage].ppo.minibatch or rows
  ways = slices * devices // (max(1, sizes.data) * sizes.tensor)
  flags: list[tuple[str, object]] = []
  if rows % ways:
    fitting = math.gcd(rows, ways)
    if sizes.fsdp != -1 or fitting % slices:
      return []
    flags.append(("mesh.tensor", sizes.tensor * ways // fitting))
    ways = fitting
  if rows // train.micro_batches < ways:  # rows of a piece for every device
    flags.append((f"{stage}.train.micro_batches", rows // ways))
  return flags
