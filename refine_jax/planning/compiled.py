"""One program, compiled for devices that need not exist, and its figures."""

import contextlib
import dataclasses
import math
import pathlib
import re
import tempfile
from typing import Any

import jax
import jax.numpy as jnp

from refine_jax.planning import hlo
from refine_jax.planning.topologies import Topology

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclasses.dataclass(frozen=True)
class Program:
  """Figures of one device; bytes and seconds.

  Attributes:
    peak_bytes: arguments, results that lie nowhere else, and temporaries.
    resident_bytes: what the stage keeps beside it meanwhile.
    donated_bytes: of arguments that results were put into.
    flops: of the matrix products, recomputation included.
    bytes_moved: arguments and results once, and what every product reads and
      writes.
    collectives: kind -> how many, and the bytes a device receives.
    gathers: (text, bytes) of every all-gather in it.
  """

  name: str
  argument_bytes: int
  temp_bytes: int
  peak_bytes: int
  resident_bytes: int
  donated_bytes: int
  flops: float
  bytes_moved: float
  collectives: dict[str, hlo.Collective]
  gathers: tuple[tuple[str, float], ...]
  bound_seconds: float
  bound_by: str
  output_shardings: Any = dataclasses.field(default=None, repr=False)


def bytes_per_device(tree: Any) -> int:
  """Of arrays or shapes with shardings, on the device that holds most."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    shape = leaf.shape
    if getattr(leaf, "sharding", None) is not None:
      shape = leaf.sharding.shard_shape(tuple(shape))
    total += math.prod(shape) * _itemsize(leaf.dtype)
  return total


def _itemsize(dtype) -> int:
  if jnp.issubdtype(dtype, jax.dtypes.prng_key):
    return 8
  return jnp.dtype(dtype).itemsize


def measure(
  name: str,
  lowered: Any,
  arguments: Any,
  topology: Topology,
  *,
  resident: int = 0,
  steps: float = 1,
) -> Program:
  """Compiles and reads off.

  A TPU's compiler refuses what does not fit; the figures are then those of
  its refusal, and what it would have needed is all in the peak.

  Args:
    lowered: of a jitted function.
    arguments: its arguments, as shapes with shardings.
    resident: bytes that lie on the device besides.
    steps: of loops that only the data end; see `hlo.Module.cost`.
  """
  given = bytes_per_device(arguments)
  with tempfile.TemporaryDirectory() as folder:
    options = {
      "xla_dump_to": folder,
      "xla_dump_hlo_pass_re": "spmd-partition.*",
      "xla_dump_hlo_as_text": True,
    }
    compiled, needed = None, 0
    try:
      compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
      needed = _refused(str(error))
    text = _partitioned(pathlib.Path(folder))
  cost = hlo.Module(text, topology.count).cost(steps)
  if compiled is None:
    sizes = given, max(0, needed - given), needed, 0, 0
  else:
    sizes = _sizes(compiled.memory_analysis())
  arguments_, temps, peak, donated, made = sizes
  moved = cost.traffic + arguments_ + made
  seconds, by = bound(cost, moved, topology)
  return Program(
    name=name,
    argument_bytes=arguments_,
    temp_bytes=temps,
    peak_bytes=peak,
    resident_bytes=resident,
    donated_bytes=donated,
    flops=cost.flops,
    bytes_moved=moved,
    collectives=dict(cost.collectives),
    gathers=cost.gathers,
    bound_seconds=seconds,
    bound_by=by,
    output_shardings=compiled and compiled.output_shardings,
  )


def _sizes(memory: Any) -> tuple[int, int, int, int, int]:
  """Arguments, temporaries, peak, donated, results."""
  given, made = memory.argument_size_in_bytes, memory.output_size_in_bytes
  donated, temps = memory.alias_size_in_bytes, memory.temp_size_in_bytes
  return given, temps, given + temps + made - donated, donated, made


def bound(
  cost: hlo.Cost, moved: float, topology: Topology
) -> tuple[float, str]:
  """Seconds that a run takes at least, and what of the chip takes them."""
  chip = topology.chip
  received = sum(c.bytes for c in cost.collectives.values())
  times = {
    "compute": cost.flops / chip.flops,
    "memory": moved / chip.bandwidth,
    "network": received / chip.link,
  }
  by = max(times, key=times.get)
  return times[by], by


def _refused(message: str) -> int:
  """Bytes that a compiler says it would need; raises what is no such word."""
  found = re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message)
  if found is None:
    raise RuntimeError(message)
  return int(float(found[1]) * _UNITS[found[2]])


def _partitioned(folder: pathlib.Path) -> str:
  """The text after the partitioner; of one device's program, any last one."""
  after = sorted(folder.glob("*.after_*spmd-partition*.txt"))
  if not after:
    after = sorted(folder.glob("*before_optimizations.txt"))
  with contextlib.suppress(IndexError):
    return after[-1].read_text(encoding="utf-8")
  raise RuntimeError("the compiler wrote no text of the program")
