"""Devices to compile for that need not exist, by name.

v5e:4x4   v5p:4x4x4   v5e:4x4*2 (two slices)   cpu:8   h100:8
"""

import contextlib
import dataclasses
import math
import os
import re
from typing import Any

import jax

from refine_jax.planning import chips
from refine_jax.planning.chips import Chip

# Slices that can be rented, small to large (the pages that `chips` cites).
_SHAPES_2D = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SHAPES_3D = (
  *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
  *("8x8x16", "8x16x16"),
)
SHAPES = {
  "v4": _SHAPES_3D,
  "v5e": _SHAPES_2D,
  "v5p": _SHAPES_3D,
  "v6e": _SHAPES_2D,
}
# Chips of a host, of slices of two and of three dimensions; up to eight in two
# are one host's, where Cloud has such hosts (libtpu knows two of four).
_HOST_2D, _HOST_3D, _ONE_HOST_2D = "2x2", "2x2x1", 8
# GPUs of a node, which one process has.
NODE = 8
HINT = (
  "a TPU slice like v5e:4x4 or v5e:4x4*2 (v4, v5e, v5p, v6e), host devices"
  f" cpu:8, or GPUs like h100:8 ({', '.join(chips.GPUS)})"
)


class Unknown(ValueError):
  """A topology nobody has; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Topology:
  """A parsed name.

  Attributes:
    name: as given.
    kind: `tpu`, `gpu` or `cpu`.
    chip: one device's figures.
    count: devices in all.
    slices: groups joined by a data-centre network.
    shape: of one slice, `4x4`; empty for other kinds.
    process: it is what one process has, see `of_process`.
  """

  name: str
  kind: str
  chip: Chip
  count: int
  slices: int = 1
  shape: str = ""
  process: bool = False

  @property
  def estimated(self) -> bool:
    """Whether host devices stand in for the real ones."""
    return self.kind != "tpu"

  def devices(self) -> list[Any]:
    """The devices.

    Raises:
      Unknown: no libtpu, a shape it refuses, or too few host devices.
    """
    if self.kind == "tpu":
      return _tpu_devices(self)
    found = jax.devices("cpu")
    if len(found) < self.count:
      raise Unknown(
        f"topology {self.name}: there are {len(found)} host devices; start"
        " with XLA_FLAGS=--xla_force_host_platform_device_count="
        f"{self.count}"
      )
    return found[: self.count]

  def of_process(self) -> "Topology":
    """What one process of a run there has: the chips of a TPU host, the GPUs
    of a node."""
    name = self.name
    if self.kind == "gpu":
      name = f"{self._generation}:{min(self.count, NODE)}"
    elif self.kind == "tpu":
      name = f"{self._generation}:{self._host()}"
    return dataclasses.replace(parse(name), chip=self.chip, process=True)

  def _host(self) -> str:
    if self.shape.count("x") == 1:
      one = _product(self.shape) <= _ONE_HOST_2D
      return self.shape if one else _HOST_2D
    return _HOST_3D

  def larger(self) -> "list[Topology]":
    """What to rent instead, the smallest first; none for host devices, which
    would only share the same memory. What a process has can only be another
    one's."""
    if self.process:
      own = (t.of_process() for t in self._larger())
      found = {t.name: t for t in own if t.count > self.count}
      return list(found.values())
    return self._larger()

  def _larger(self) -> "list[Topology]":
    if self.kind == "cpu":
      return []
    if self.kind == "gpu":
      return [
        dataclasses.replace(
          self,
          name=f"{self._generation}:{n * self.count}",
          count=n * self.count,
        )
        for n in (2, 4)
      ]
    known = [
      s for s in SHAPES[self._generation] if _product(s) > _product(self.shape)
    ]
    slices = f"*{self.slices}" if self.slices > 1 else ""
    return [parse(f"{self._generation}:{s}{slices}") for s in known]

  @property
  def _generation(self) -> str:
    return self.name.split(":")[0]


def parse(name: str) -> Topology:
  """A topology of its name.

  Raises:
    Unknown: it is none.
  """
  found = re.fullmatch(r"([a-z0-9-]+):(\d+(?:x\d+)*)(?:\*(\d+))?", name)
  if not found:
    raise Unknown(f"topology {name!r}: expected {HINT}")
  kind, shape, slices = found[1], found[2], int(found[3] or 1)
  count = _product(shape) * slices
  if not count:
    raise Unknown(f"topology {name!r}: expected {HINT}")
  if kind in chips.TPUS:
    if shape not in SHAPES[kind]:
      raise Unknown(
        f"topology {name!r}: {kind} slices are {', '.join(SHAPES[kind])}"
      )
    return Topology(name, "tpu", chips.TPUS[kind], count, slices, shape)
  if "x" in shape or slices > 1:
    raise Unknown(f"topology {name!r}: expected {HINT}")
  if kind in chips.GPUS:
    return Topology(name, "gpu", chips.GPUS[kind], count)
  if kind == "cpu":
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Topology(name, "cpu", chips.host(memory // count), count)
  raise Unknown(f"topology {name!r}: expected {HINT}")


def _product(shape: str) -> int:
  return math.prod(map(int, shape.split("x")))


def _tpu_devices(topology: Topology) -> list[Any]:
  # No metadata server to ask, and other processes may plan beside this one.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  try:
    import libtpu  # noqa: F401
  except ImportError:
    raise Unknown(
      f"topology {topology.name}: compiling for TPUs needs libtpu; pip install"
      " -e .[plan]"
    ) from None
  from jax.experimental import topologies

  more: dict[str, Any] = {}
  if topology.name.startswith("v4"):
    more["chip_config_name"] = "megacore"
  if topology.slices > 1:
    more["num_slices"] = topology.slices
  name = topology.name.split("*")[0]
  try:
    with _quiet():
      found = topologies.get_topology_desc(name, platform="tpu", **more)
  except Exception as error:  # of libtpu's own, whatever its type
    first = str(error).strip().splitlines()[0]
    raise Unknown(f"topology {topology.name}: {first}") from None
  return list(found.devices)


@contextlib.contextmanager
def _quiet():
  """libtpu tells stderr at length that this is no TPU machine."""
  kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(nothing, 2)
  try:
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
    os.close(nothing)
