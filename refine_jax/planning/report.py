"""What a plan says: one JSON object, or a table."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from refine_jax.planning.compiled import Program
from refine_jax.planning.topologies import Topology

# Of a chip's memory; the rest is the runtime's, and fragmentation.
USABLE = 0.92
# Units, and how many of the least are one of them.
_BYTES = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1))
_MOVED = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1))
_PRODUCTS = (
  *(("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6), ("kFLOP", 1e3)),
  ("FLOP", 1),
)
_TIMES = (("s", 1e6), ("ms", 1e3), ("us", 1))


@dataclasses.dataclass(frozen=True)
class Report:
  """Programs on a topology.

  Attributes:
    seconds: it took to make.
    suggestion: what to change; empty if it fits.
    notes: what was assumed.
    stage: whose programs these are.
    parameters: of its models, wherever they lie.
    placed_with: flags that the stage needs besides those it was planned with,
      so that its batches lie on the mesh; the programs are theirs.
  """

  topology: Topology
  programs: Sequence[Program]
  seconds: float
  suggestion: str = ""
  notes: tuple[str, ...] = ()
  stage: str = ""
  parameters: int = 0
  placed_with: str = ""

  @property
  def chip_bytes(self) -> int:
    return self.topology.chip.memory

  @property
  def peak_bytes(self) -> int:
    return max(p.peak_bytes + p.resident_bytes for p in self.programs)

  @property
  def fits(self) -> bool:
    return self.peak_bytes <= USABLE * self.chip_bytes

  def to_json(self) -> dict[str, Any]:
    return {
      "fits": self.fits,
      "chip_bytes": self.chip_bytes,
      "peak_bytes": self.peak_bytes,
      "programs": [_program(p) for p in self.programs],
      "seconds": round(self.seconds, 1),
      "suggestion": self.suggestion,
      "placed_with": self.placed_with,
      "stage": self.stage,
      "parameters": self.parameters,
      "estimated": self.topology.estimated,
    }

  def table(self) -> str:
    """For people."""
    head = (
      *("program", "arguments", "temp", "peak", "beside", "donated"),
      *("products", "moved", "bound", "by", "collectives (received)"),
    )
    rows = [head, *(_row(p) for p in self.programs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines.append(f"{self.stage}: {self.parameters:,} parameters")
    lines += [self._verdict(), *self.notes]
    if self.suggestion:
      lines.append(f"Suggestion: {self.suggestion}")
    return "\n".join(lines)

  def _verdict(self) -> str:
    used = self.peak_bytes / self.chip_bytes
    about = " (estimated on host devices)" if self.topology.estimated else ""
    verdict = "fits" if self.fits else "does NOT fit"
    if self.placed_with:
      even = "" if self.fits else " even"
      verdict += f",{even} if started with {self.placed_with}"
    return (
      f"{self.topology.name}: {self.topology.count} devices, each of"
      f" {size(self.chip_bytes)}; the most needed at once is"
      f" {size(self.peak_bytes)}, {100 * used:.0f} % of it: {verdict}{about}"
    )


def size(count: float) -> str:
  """Bytes of a memory, for people."""
  return _in_units(count, _BYTES)


def _in_units(x: float, units: Sequence[tuple[str, float]]) -> str:
  """In the largest unit of which it is one at least."""
  unit, each = next((u for u in units if x >= u[1]), units[-1])
  return f"{x / each:.{0 if each == 1 else 2}f} {unit}"


def _program(p: Program) -> dict[str, Any]:
  return {
    "name": p.name,
    "argument_bytes": p.argument_bytes,
    "temp_bytes": p.temp_bytes,
    "peak_bytes": p.peak_bytes,
    "donated_bytes": p.donated_bytes,
    "beside_bytes": p.resident_bytes,
    "refused": p.refused,
    "flops": p.flops,
    "bytes_moved": p.bytes_moved,
    "bound_seconds": p.bound_seconds,
    "bound_by": p.bound_by,
    "collectives": {
      kind: {"count": c.count, "bytes": c.bytes}
      for kind, c in sorted(p.collectives.items())
    },
  }


def _row(p: Program) -> tuple[str, ...]:
  collectives = ", ".join(
    f"{kind} {c.count:.0f} ({_in_units(c.bytes, _MOVED)})"
    for kind, c in sorted(p.collectives.items())
  )
  # A compiler that refuses a program says what it would need in all.
  return (
    p.name,
    size(p.argument_bytes),
    "-" if p.refused else size(p.temp_bytes),
    size(p.peak_bytes),
    size(p.resident_bytes),
    "-" if p.refused else size(p.donated_bytes),
    _in_units(p.flops, _PRODUCTS),
    _in_units(p.bytes_moved, _MOVED),
    _in_units(1e6 * p.bound_seconds, _TIMES),
    p.bound_by,
    collectives or "none",
  )
