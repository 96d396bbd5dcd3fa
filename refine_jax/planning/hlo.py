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
from collections.abc import Iterable, Mapping

# Another number when something is counted in another way: figures that are
# remembered (see `compiled.measure`) are then made again.
COUNTING = 2
_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "token": 0}
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
# `%a#1` is the second element of a tuple (newer compilers).
_NAMES = re.compile(r"%([\w.\-]+(?:#\d+)?)")
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
    gathers: (attributes, bytes of the result) of every all-gather.
  """

  flops: float = 0.0
  traffic: float = 0.0
  collectives: Mapping[str, Collective] = dataclasses.field(
    default_factory=dict
  )
  gathers: tuple[tuple[str, float], ...] = ()

  def times(self, n: float) -> "Cost":
    kinds = {
      k: Collective(c.count * n, c.bytes * n)
      for k, c in self.collectives.items()
    }
    return Cost(self.flops * n, self.traffic * n, kinds, self.gathers)

  def __add__(self, other: "Cost") -> "Cost":
    kinds = dict(self.collectives)
    for k, c in other.collectives.items():
      kinds[k] = kinds.get(k, Collective()) + c
    return Cost(
      self.flops + other.flops,
      self.traffic + other.traffic,
      kinds,
      self.gathers + other.gathers,
    )


@dataclasses.dataclass(frozen=True)
class _Line:
  name: str
  shape: str
  op: str
  operands: tuple[str, ...]
  rest: str
  root: bool


def size(shape: str) -> float:
  """Bytes of an array or a tuple as the text writes its type."""
  return sum(
    math.prod(_dimensions(dims)) * _width(kind)
    for kind, dims in _SHAPE.findall(shape)
  )


def _width(kind: str) -> float:
  if kind in _BYTES:
    return _BYTES[kind]
  found = re.search(r"\d+", kind)
  return int(found[0]) / 8 if found else 0


def _dimensions(text: str) -> list[int]:
  return [int(x) for x in text.split(",") if x]


def _shape(text: str) -> list[int]:
  return _dimensions(_SHAPE.search(text)[2])


class Module:
  """A parsed text.

  Args:
    text: the module's.
    devices: of the mesh, for groups that are not written out.
  """

  def __init__(self, text: str, devices: int):
    self._devices = devices
    self._computations, self.entry = _parse(text)

  def parameters(self) -> dict[int, tuple[str, float]]:
    """Number -> name and bytes of what the program is given."""
    found = {}
    for line in self._computations[self.entry]:
      if line.op == "parameter":
        name = re.search(r'op_name="([^"]*)"', line.rest)
        number = int(re.match(r"\d+", line.rest)[0])
        found[number] = (name[1] if name else line.name, size(line.shape))
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
    types = _types(lines)
    users: dict[str, list[_Line]] = {}
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

  def _loop(self, line: _Line, steps: float) -> tuple[Cost, bool]:
    body, inside = self._cost(_attribute(line, "body"), steps)
    trips = self._trips(line)
    if trips is not None:
      return body.times(trips), inside
    if inside or not body.flops:
      return body, inside
    return body.times(steps), True

  def _trips(self, line: _Line) -> int | None:
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', line.rest)
    if known:
      return int(known[1])
    lines = {
      x.name: x for x in self._computations[_attribute(line, "condition")]
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
    counter = _element(root.operands[0], lines)
    return -(-int(found[0]) // self._step(_attribute(line, "body"), counter))

  def _step(self, body: str, counter: int | None) -> int:
    """What a loop's body adds to its counter: the partitioner lets products
    that wait for their operands take two steps at a time."""
    lines = {x.name: x for x in self._computations[body]}
    root = next(x for x in lines.values() if x.root)
    if counter is None or root.op != "tuple":
      return 1
    total, name = 0, root.operands[counter]
    while name in lines and lines[name].op == "add":
      values = [_constant(lines.get(x)) for x in lines[name].operands]
      if values[0] is None:
        values.reverse()
        name = lines[name].operands[0]
      else:
        name = lines[name].operands[1]
      if values[0] is None or values[1] is not None:
        return 1
      total += values[0]
    return total if total and _element(name, lines) == counter else 1

  def _called(self, line: _Line, steps: float) -> tuple[Cost, bool]:
    names = re.findall(
      r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)",
      line.rest,
    )
    branches = re.search(r"branch_computations=\{([^}]*)\}", line.rest)
    if branches:
      names += _NAMES.findall(branches[1])
    parts = [self._cost(n, steps) for n in names if n in self._computations]
    if not parts:
      return Cost(), False
    # Of branches the dearest.
    best = max(parts, key=lambda part: (part[0].flops, part[0].traffic))
    return best[0], any(inside for _, inside in parts)

  def _own(self, line: _Line, types, users) -> Cost:
    if line.op == "dot":
      left = _shape(types[line.operands[0]])
      axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.rest)
      inner = math.prod(left[i] for i in _dimensions(axes[1]))
      moved = size(line.shape) + sum(size(types[x]) for x in line.operands)
      return Cost(2.0 * math.prod(_shape(line.shape)) * inner, moved)
    if line.op == "custom-call":
      return _kernel(line, types)
    op = line.op.removesuffix("-start")
    if op not in _COLLECTIVES:
      return Cost()
    return self._collective(op, line, types, users.get(line.name, []))

  def _collective(self, op: str, line: _Line, types, users) -> Cost:
    n = self._group(line.rest)
    given = sum(size(types[x]) for x in line.operands if x in types)
    whole = size(line.shape) if op == "all-gather" else given
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
    return len(_dimensions(listed[1])) if listed else self._devices


def _kernel(line: _Line, types: Mapping[str, str]) -> Cost:
  """Of a splash attention kernel, as if causality spared it nothing."""
  named = re.search(r"splash_m[hq]a_(\w+?)(?:_|\b)", line.rest)
  if "tpu_custom_call" not in line.rest or not named:
    return Cost()
  given = [types[x] for x in line.operands if x in types]
  floats = [x for x in given if re.match(r"b?f\d+\[\d+,\d+,\d+", x)]
  q, k = _shape(floats[0]), _shape(floats[1])
  pairs = math.prod(q[:-1]) * k[-2]
  moved = size(line.shape) + sum(map(size, given))
  return Cost(2.0 * _KERNELS.get(named[1], 0) * pairs * q[-1], moved)


def aliased(text: str) -> set[int]:
  """Numbers of the parameters that a compiled module writes results into."""
  header = text.split("\n", 1)[0]
  found = re.findall(r"\((\d+), \{[\d, ]*\}, (?:may|must)-alias\)", header)
  return set(map(int, found))


def _element(name: str, lines: Mapping[str, _Line]) -> int | None:
  """Which of a tuple's elements a name is."""
  if "#" in name:
    return int(name.rpartition("#")[2])
  line = lines.get(name)
  if line is None or line.op != "get-tuple-element":
    return None
  return int(re.search(r"index=(\d+)", line.rest)[1])


def _constant(line: _Line | None) -> int | None:
  if line is None or line.op != "constant":
    return None
  found = re.match(r"-?\d+", line.rest)
  return int(found[0]) if found else None


def _attribute(line: _Line, name: str) -> str:
  return re.search(rf"{name}=%?([\w.\-]+)", line.rest)[1]


def _parse(text: str) -> tuple[dict[str, list[_Line]], str]:
  computations: dict[str, list[_Line]] = {}
  entry, lines = "", None
  for row in _rows(text):
    if lines is None:
      found = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", row)
      if found:
        lines = computations[found[2]] = []
        entry = found[2] if found[1] else entry
    elif row == "}":
      lines = None
    else:
      line = _line(row)
      if line is not None:
        lines.append(line)
  return computations, entry


def _rows(text: str) -> Iterable[str]:
  """Lines, those of one instruction as one: kernels' metadata has several."""
  row = ""
  for line in text.splitlines():
    starts = not line or line.rstrip() == "}" or re.match(r"\s|%|ENTRY|H", line)
    if starts:
      yield row
      row = line.rstrip() if line.startswith("}") else line
    else:
      row += " " + line
  yield row


def _line(row: str) -> _Line | None:
  found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", row)
  if not found:
    return None
  rest = row[found.end() :]
  if rest.startswith("("):
    end = _closing(rest)
    shape, rest = rest[: end + 1], rest[end + 2 :]
  else:
    shape, _, rest = rest.partition(" ")
  op, _, rest = rest.partition("(")
  end = _closing("(" + rest) - 1
  inside, after = rest[:end], rest[end + 1 :]
  operands = tuple(_NAMES.findall(inside))
  # A constant's value, and a parameter's number, stand where operands would.
  return _Line(
    found[2],
    re.sub(r"\{[^}]*\}|/\*.*?\*/", "", shape),
    op,
    operands,
    inside + after if op in ("constant", "parameter") else after,
    bool(found[1]),
  )


def _types(lines: Iterable[_Line]) -> dict[str, str]:
  """Name -> shape, those of tuples' elements included."""
  types = {}
  for line in lines:
    types[line.name] = line.shape
    for i, element in enumerate(_elements(line.shape)):
      types[f"{line.name}#{i}"] = element
  return types


def _elements(shape: str) -> list[str]:
  """Of a tuple; none of an array. A tuple within is one element."""
  found, depth = [], 0
  for piece in shape[1:-1].split(", ") if shape.startswith("(") else ():
    if depth:
      found[-1] += ", " + piece
    else:
      found.append(piece)
    depth += piece.count("(") - piece.count(")")
  return found


def _closing(text: str) -> int:
  """The index of the bracket that closes the first one."""
  depth = 0
  for i, c in enumerate(text):
    depth += (c == "(") - (c == ")")
    if not depth:
      return i
  return len(text)
