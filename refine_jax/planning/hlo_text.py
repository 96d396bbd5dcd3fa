"""XLA's text of a program as lines: names, shapes, operands."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "token": 0}
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
# `%a#1` is the second element of a tuple (newer compilers).
NAMES = re.compile(r"%([\w.\-]+(?:#\d+)?)")


@dataclasses.dataclass(frozen=True)
class Line:
  name: str
  shape: str
  op: str
  operands: tuple[str, ...]
  rest: str
  root: bool


def size(shape: str) -> float:
  """Bytes of an array or a tuple as the text writes its type."""
  return sum(
    math.prod(dimensions(dims)) * _width(kind)
    for kind, dims in _SHAPE.findall(shape)
  )


def _width(kind: str) -> float:
  if kind in _BYTES:
    return _BYTES[kind]
  found = re.search(r"\d+", kind)
  return int(found[0]) / 8 if found else 0


def dimensions(text: str) -> list[int]:
  return [int(x) for x in text.split(",") if x]


def shape_of(text: str) -> list[int]:
  return dimensions(_SHAPE.search(text)[2])


def element(name: str, lines: Mapping[str, Line]) -> int | None:
  """Which of a tuple's elements a name is."""
  if "#" in name:
    return int(name.rpartition("#")[2])
  line = lines.get(name)
  if line is None or line.op != "get-tuple-element":
    return None
  return int(re.search(r"index=(\d+)", line.rest)[1])


def constant(line: Line | None) -> int | None:
  if line is None or line.op != "constant":
    return None
  found = re.match(r"-?\d+", line.rest)
  return int(found[0]) if found else None


def attribute(line: Line, name: str) -> str:
  return re.search(rf"{name}=%?([\w.\-]+)", line.rest)[1]


def parse(text: str) -> tuple[dict[str, list[Line]], str]:
  computations: dict[str, list[Line]] = {}
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


def _line(row: str) -> Line | None:
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
  operands = tuple(NAMES.findall(inside))
  # A constant's value, and a parameter's number, stand where operands would.
  return Line(
    found[2],
    re.sub(r"\{[^}]*\}|/\*.*?\*/", "", shape),
    op,
    operands,
    inside + after if op in ("constant", "parameter") else after,
    bool(found[1]),
  )


def types_of(lines: Iterable[Line]) -> dict[str, str]:
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
