"""What a partitioned program does, read from its text.

The text is XLA's right after the SPMD partitioner: products are still plain
`dot`s of one device's shapes and collectives are still whole. XLA's own cost
analysis counts the body of a loop once; here a loop counts as often as it
runs, where its condition says so.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

from refine_jax.planning import hlo_text

# Another number when something is counted in another way: figures that are
# remembered (see `compiled.measure`) are then made again.
COUNTING = 3
# Products that each of the attention kernels makes of queries and keys.
_KERNELS = {"fwd": 2, "dq": 3, "dkv": 4}
_COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)


@dataclasses.dataclass(frozen=True)
class Collective:
  """All collectives of one kind: how many run, and what a device receives."""

  count: float = 0
  bytes: float = 0

  def __add__(self, other: "Collective") -> "Collective":
    return Collective(self.count + other.count, self.bytes + other.bytes)


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one device.

  Attributes:
    flops: of matrix products, those in attention kernels included.
    traffic: bytes of their operands and results.
    collectives: by kind.
    kernels: how many attention kernels run.
    gathers: (attributes, bytes of the result) of every all-gather.
  """

  flops: float = 0.0
  traffic: float = 0.0
  kernels: float = 0
  collectives: Mapping[str, Collective] = dataclasses.field(
    default_factory=dict
  )
  gathers: tuple[tuple[str, float], ...] = ()

  def times(self, n: float) -> "Cost":
    kinds = {
      k: Collective(c.count * n, c.bytes * n)
      for k, c in self.collectives.items()
    }
    return Cost(
      self.flops * n, self.traffic * n, self.kernels * n, kinds, self.gathers
    )

  def __add__(self, other: "Cost") -> "Cost":
    kinds = dict(self.collectives)
    for k, c in other.collectives.items():
      kinds[k] = kinds.get(k, Collective()) + c
    return Cost(
      self.flops + other.flops,
      self.traffic + other.traffic,
      self.kernels + other.kernels,
      kinds,
      self.gathers + other.gathers,
    )


class Module:
  """A parsed text.

  Args:
    text: the module's.
    devices: of the mesh, for groups that are not written out.
  """

  def __init__(self, text: str, devices: int):
    self._devices = devices
    self._computations, self.entry = hlo_text.parse(text)

  def parameters(self) -> dict[int, tuple[str, float]]:
    """Number -> name and bytes of what the program is given."""
    found = {}
    for line in self._computations[self.entry]:
      if line.op == "parameter":
        name = re.search(r'op_name="([^"]*)"', line.rest)
        number = int(re.match(r"\d+", line.rest)[0])
        found[number] = (
          name[1] if name else line.name,
          hlo_text.size(line.shape),
        )
    return found

  def cost(self, steps: float = 1) -> Cost:
    """Of one run.

    Args:
      steps: how often the innermost loops with products run whose trip count
        only the data know (decoding); others of that kind run once.
    """
    return self._cost(self.entry, steps)[0]

  @functools.cache  # noqa: B019, modules are short-lived
  def _cost(self, name: str, steps: float) -> tuple[Cost, bool]:
    """And whether a dynamic loop with products is inside."""
    lines = self._computations[name]
    types = hlo_text.types_of(lines)
    users: dict[str, list[hlo_text.Line]] = {}
    for line in lines:
      for operand in line.operands:
        users.setdefault(operand, []).append(line)
    total, dynamic = Cost(), False
    for line in lines:
      if line.op == "while":
        part, inside = self._loop(line, steps)
        dynamic |= inside
      elif line.op in ("call", "fusion", "conditional"):
        part, inside = self._called(line, steps)
        dynamic |= inside
      else:
        part = self._own(line, types, users)
      total += part
    return total, dynamic

  def _loop(self, line: hlo_text.Line, steps: float) -> tuple[Cost, bool]:
    body, inside = self._cost(hlo_text.attribute(line, "body"), steps)
    trips = self._trips(line)
    if trips is not None:
      return body.times(trips), inside
    if inside or not body.flops:
      return body, inside
    return body.times(steps), True

  def _trips(self, line: hlo_text.Line) -> int | None:
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', line.rest)
    if known:
      return int(known[1])
    lines = {
      x.name: x
      for x in self._computations[hlo_text.attribute(line, "condition")]
    }
    root = next(x for x in lines.values() if x.root)
    if root.op != "compare" or "direction=LT" not in root.rest:
      return None
    limit = lines.get(root.operands[1])
    if limit is None or limit.op != "constant":
      return None
    found = re.match(r"\d+", limit.rest)
    if not found:
      return None
    counter = hlo_text.element(root.operands[0], lines)
    step = self._step(hlo_text.attribute(line, "body"), counter)
    return math.ceil(int(found[0]) / step)

  def _step(self, body: str, counter: int | None) -> int:
    """What a loop's body adds to its counter: the partitioner lets products
    that wait for their operands take two steps at a time."""
    lines = {x.name: x for x in self._computations[body]}
    root = next(x for x in lines.values() if x.root)
    if counter is None or root.op != "tuple":
      return 1
    total, name = 0, root.operands[counter]
    while name in lines and lines[name].op == "add":
      values = [hlo_text.constant(lines.get(x)) for x in lines[name].operands]
      if values[0] is None:
        values.reverse()
        name = lines[name].operands[0]
      else:
        name = lines[name].operands[1]
      if values[0] is None or values[1] is not None:
        return 1
      total += values[0]
    return total if total and hlo_text.element(name, lines) == counter else 1

  def _called(self, line: hlo_text.Line, steps: float) -> tuple[Cost, bool]:
    names = re.findall(
      r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)",
      line.rest,
    )
    branches = re.search(r"branch_computations=\{([^}]*)\}", line.rest)
    if branches:
      names += hlo_text.NAMES.findall(branches[1])
    parts = [self._cost(n, steps) for n in names if n in self._computations]
    if not parts:
      return Cost(), False
    # Of branches the dearest.
    best = max(parts, key=lambda part: (part[0].flops, part[0].traffic))
    return best[0], any(inside for _, inside in parts)

  def _own(self, line: hlo_text.Line, types, users) -> Cost:
    if line.op == "dot":
      left = hlo_text.shape_of(types[line.operands[0]])
      axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.rest)
      inner = math.prod(left[i] for i in hlo_text.dimensions(axes[1]))
      moved = hlo_text.size(line.shape) + sum(
        hlo_text.size(types[x]) for x in line.operands
      )
      return Cost(2.0 * math.prod(hlo_text.shape_of(line.shape)) * inner, moved)
    if line.op == "custom-call":
      return _kernel(line, types)
    op = line.op.removesuffix("-start")
    if op not in _COLLECTIVES:
      return Cost()
    return self._collective(op, line, types, users.get(line.name, []))

  def _collective(self, op: str, line: hlo_text.Line, types, users) -> Cost:
    n = self._group(line.rest)
    given = sum(hlo_text.size(types[x]) for x in line.operands if x in types)
    whole = hlo_text.size(line.shape) if op == "all-gather" else given
    share = (n - 1) / n if n else 0
    sliced = users and all(user.op == "dynamic-slice" for user in users)
    if op == "all-reduce" and sliced:
      op = "reduce-scatter"  # a later pass makes one collective of the two
    received = whole * share * (2 if op == "all-reduce" else 1)
    if op == "collective-permute":
      received = given
    gathers = ((line.rest, whole),) if op == "all-gather" else ()
    return Cost(collectives={op: Collective(1, received)}, gathers=gathers)

  def _group(self, rest: str) -> int:
    """Devices that take part in one of its groups."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", rest)
    if mesh:
      sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
      parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
      return math.prod(int(part or sizes[axis]) for axis, part in parts)
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]<=", rest)
    if iota:
      return int(iota[1])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    return len(hlo_text.dimensions(listed[1])) if listed else self._devices


def _kernel(line: hlo_text.Line, types: Mapping[str, str]) -> Cost:
  """Of a splash attention kernel, as if causality spared it nothing."""
  named = re.search(r"splash_m[hq]a_(\w+?)(?:_|\b)", line.rest)
  if "tpu_custom_call" not in line.rest or not named:
    return Cost()
  given = [types[x] for x in line.operands if x in types]
  floats = [x for x in given if re.match(r"b?f\d+\[\d+,\d+,\d+", x)]
  q, k = hlo_text.shape_of(floats[0]), hlo_text.shape_of(floats[1])
  pairs = math.prod(q[:-1]) * k[-2]
  moved = hlo_text.size(line.shape) + sum(map(hlo_text.size, given))
  return Cost(2.0 * _KERNELS.get(named[1], 0) * pairs * q[-1], moved, 1)


def aliased(text: str) -> set[int]:
  """Numbers of the parameters that a compiled module writes results into."""
  header = text.split("\n", 1)[0]
  found = re.findall(r"\((\d+), \{[\d, ]*\}, (?:may|must)-alias\)", header)
  return set(map(int, found))
