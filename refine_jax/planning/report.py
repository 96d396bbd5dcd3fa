"""What a plan says: one JSON object, or a table."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from refine_jax.planning.compiled import Program
from refine_jax.planning.topologies import Topology

# Of a chip's memory; the rest is the runtime's, and fragmentation.
USABLE = 0.92
_GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Report:
  """Programs on a topology.

  Attributes:
    seconds: it took to make.
    suggestion: what to change; empty if nothing has to be.
    notes: what was assumed.
    stage: whose programs these are.
    parameters: of its models, wherever they lie.
  """

  topology: Topology
  programs: Sequence[Program]
  seconds: float
  suggestion: str = ""
  notes: tuple[str, ...] = ()
  stage: str = ""
  parameters: int = 0

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
      "stage": self.stage,
      "parameters": self.parameters,
      "estimated": self.topology.estimated,
    }

  def table(self) -> str:
    """For people."""
    head = (
      *("program", "arguments", "temp", "peak", "beside", "donated"),
      *("TFLOP", "GB moved", "bound", "by", "collectives (received)"),
    )
    rows = [head, *(_row(p) for p in self.programs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines.append(f"{self.stage}: {self.parameters:,} parameters")
    return "\n".join([*lines, self._verdict(), *self.notes, self._advice()])

  def _verdict(self) -> str:
    used = self.peak_bytes / self.chip_bytes
    about = " (estimated on host devices)" if self.topology.estimated else ""
    return (
      f"{self.topology.name}: {self.topology.count} devices, each of"
      f" {self.chip_bytes / _GIB:.1f} GiB; the most needed at once is"
      f" {self.peak_bytes / _GIB:.2f} GiB, {100 * used:.0f} % of it:"
      f" {'fits' if self.fits else 'does NOT fit'}{about}"
    )

  def _advice(self) -> str:
    return f"Suggestion: {self.suggestion}" if self.suggestion else ""


def _program(p: Program) -> dict[str, Any]:
  return {
    "name": p.name,
    "argument_bytes": p.argument_bytes,
    "temp_bytes": p.temp_bytes,
    "peak_bytes": p.peak_bytes,
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
  gib = [
    f"{x / _GIB:.2f} GiB"
    for x in (
      p.argument_bytes,
      p.temp_bytes,
      p.peak_bytes,
      p.resident_bytes,
      p.donated_bytes,
    )
  ]
  collectives = ", ".join(
    f"{kind} {c.count:.0f} ({c.bytes / 1e9:.2f} GB)"
    for kind, c in sorted(p.collectives.items())
  )
  return (
    p.name,
    *gib,
    f"{p.flops / 1e12:.2f}",
    f"{p.bytes_moved / 1e9:.1f}",
    f"{1000 * p.bound_seconds:.1f} ms",
    p.bound_by,
    collectives or "none",
  )
