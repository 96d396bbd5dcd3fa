"""One program, compiled for devices that need not exist, and its figures."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import re
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp

from refine_jax.planning import hlo
from refine_jax.planning.topologies import Topology

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class CompilerError(RuntimeError):
  """A compiler refuses a program, but not for memory; the message is a line."""


@dataclasses.dataclass(frozen=True)
class Buffer:
  """An argument's part on one device, and whether a result is put into it."""

  name: str
  bytes: float
  aliased: bool


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
    kernels: how many attention kernels run.
    gathers: (text, bytes) of every all-gather in it.
    buffers: what it is given; empty where the compiler prints no result.
    seconds: that compiling took.
    refused: for its memory. What is temporary and what would be donated is
      then unknown: `temp_bytes` is the rest of the peak.
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
  kernels: float
  gathers: tuple[tuple[str, float], ...]
  buffers: tuple[Buffer, ...]
  bound_seconds: float
  bound_by: str
  seconds: float = 0.0
  refused: bool = False
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
  known: pathlib.Path | None = None,
) -> Program:
  """Compiles and reads off.

  A TPU's compiler refuses what does not fit; the figures are then those of
  its refusal, and what it would have needed is all in the peak.

  Args:
    lowered: of a jitted function.
    arguments: its arguments, as shapes with shardings.
    resident: bytes that lie on the device besides.
    steps: of loops that only the data end; see `hlo.Module.cost`.
    known: a folder of what was compiled before. A program that is there is
      not compiled again; it then has no shardings of its results.

  Raises:
    CompilerError: the compiler refuses it for another reason than memory.
  """
  if known is None:
    return _compiled(name, lowered, arguments, topology, resident, steps)
  key = _key(lowered, topology, steps)
  found = _remembered(known / f"{key}.json")
  if found is None:
    found = _compiled(name, lowered, arguments, topology, resident, steps)
    _remember(known / f"{key}.json", found)
  return dataclasses.replace(found, name=name, resident_bytes=resident)


def _key(lowered: Any, topology: Topology, steps: float) -> str:
  """Names a program by its text, its compiler and its devices."""
  text = re.sub(r"loc\([^)]*\)", "", lowered.as_text())
  where = topology.name, topology.chip
  about = (jax.__version__, _libtpu(), *where, steps, hlo.COUNTING)
  return hashlib.sha256(f"{about}{text}".encode()).hexdigest()[:32]


def _libtpu() -> str:
  try:
    return importlib.metadata.version("libtpu")
  except importlib.metadata.PackageNotFoundError:
    return ""


def _remember(path: pathlib.Path, program: Program) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  kept = dataclasses.replace(program, output_shardings=None, gathers=())
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  text = json.dumps(dataclasses.asdict(kept))
  temporary.write_text(text, encoding="utf-8")
  os.replace(temporary, path)


def _remembered(path: pathlib.Path) -> Program | None:
  if not path.exists():
    return None
  fields = json.loads(path.read_text(encoding="utf-8"))
  fields["collectives"] = {
    kind: hlo.Collective(**c) for kind, c in fields["collectives"].items()
  }
  fields["buffers"] = tuple(Buffer(**b) for b in fields["buffers"])
  fields["gathers"] = ()
  return Program(**fields)


def _compiled(
  name: str,
  lowered: Any,
  arguments: Any,
  topology: Topology,
  resident: int,
  steps: float,
) -> Program:
  begun = time.monotonic()
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
      needed = refused(str(error))
    text = _partitioned(pathlib.Path(folder))
  module = hlo.Module(text, topology.count)
  cost = module.cost(steps)
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
    kernels=cost.kernels,
    gathers=cost.gathers,
    buffers=_buffers(module, compiled),
    bound_seconds=seconds,
    bound_by=by,
    seconds=time.monotonic() - begun,
    refused=compiled is None,
    output_shardings=compiled and compiled.output_shardings,
  )


def _buffers(module: hlo.Module, compiled: Any) -> tuple[Buffer, ...]:
  # Of the final text: which are aliased is decided after the partitioner.
  text = None
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    text = compiled and compiled.as_text()  # libtpu cannot print every program
  if text is None:
    return ()
  aliased = hlo.aliased(text)
  return tuple(
    Buffer(name, size, number in aliased)
    for number, (name, size) in sorted(module.parameters().items())
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


def refused(message: str) -> int:
  """Bytes that a compiler says it would need.

  What it calls temporaries here includes the arguments: of a step on 4 chips
  it says 31 GiB, 19 of them arguments, where one on 16 has 4 of temporaries.

  Raises:
    CompilerError: it says something else.
  """
  number = r"([\d.]+)([KMGT]?)"
  for pattern in (
    rf"Used {number} of [\d.]+[KMGT]? hbm",
    rf"HLO temporaries \({number}\) exceeds",
  ):
    if found := re.search(pattern, message):
      return int(float(found[1]) * _UNITS[found[2]])
  raise CompilerError(message.strip().split("\n")[0])


def _partitioned(folder: pathlib.Path) -> str:
  """The text after the partitioner; of one device's program, any last one."""
  after = sorted(folder.glob("*.after_*spmd-partition*.txt"))
  if not after:
    after = sorted(folder.glob("*before_optimizations.txt"))
  with contextlib.suppress(IndexError):
    return after[-1].read_text(encoding="utf-8")
  raise CompilerError(
    "the compiler wrote no text of the program; with a persistent compilation"
    " cache (jax_enable_compilation_cache) it writes none"
  )
