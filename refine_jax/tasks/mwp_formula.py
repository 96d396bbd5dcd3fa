"""Linear formulas: parsing, execution, equality, and prefix equations.

    formula := step (" | " step)* " | EOS"
    step    := "#"i": "op" ( "arg", "arg" )"
    arg     := numberK | #j (j < i) | constant

Text may come from a model, so nothing here trusts its length, its indices or
its numbers: what is not a formula is None.
"""

import functools
import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

OPERATORS = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"}
SYMBOLS = {name: symbol for symbol, name in OPERATORS.items()}
COMMUTATIVE = frozenset({"add", "multiply"})
END = "EOS"
# The published rows need 7 steps; a shared step doubles what it canonicalises
# to, so the limit also bounds the work that a hostile formula can ask for.
MAX_STEPS = 10
MAX_CHARACTERS = 2000

_STEP = re.compile(
  r"#(\d{1,3}): ?(add|subtract|multiply|divide) ?"
  r"\( ?(\S{1,24}?) ?, ?(\S{1,24}?) ?\)"
)
_NUMBER = re.compile(r"number(\d{1,2})")
_REFERENCE = re.compile(r"#(\d{1,3})")
_CONSTANT = re.compile(r"-?\d{1,12}(?:\.\d{1,12})?")
_PRIME = 2**61 - 1


class Step(NamedTuple):
  """One operation; an operand is `numberK`, `#j` or a constant."""

  op: str
  first: str
  second: str


class Formula(NamedTuple):
  """Steps in order, the last of which is the result.

  A formula without steps is its one operand, `leaf`.
  """

  steps: tuple[Step, ...]
  leaf: str = ""


def parse(text: str) -> Formula | None:
  """Reads a linear formula; None if malformed.

  Forward references, steps that are misnumbered and text after the end are
  malformed. A missing `EOS` is forgiven.
  """
  if len(text) > MAX_CHARACTERS:
    return None
  pieces = [" ".join(piece.split()) for piece in text.split("|")]
  if len(pieces) > 1 and pieces[-1] in (END, ""):
    pieces.pop()
  if len(pieces) == 1 and _is_operand(pieces[0], 0):
    return Formula((), pieces[0])
  if len(pieces) > MAX_STEPS:
    return None
  steps = [_step(piece, i) for i, piece in enumerate(pieces)]
  return None if None in steps else Formula(tuple(steps))


def _step(text: str, index: int) -> Step | None:
  match = _STEP.fullmatch(text)
  if not match or int(match[1]) != index:
    return None
  if not all(_is_operand(arg, index) for arg in match.group(3, 4)):
    return None
  return Step(*match.group(2, 3, 4))


def _is_operand(text: str, index: int) -> bool:
  if reference := _REFERENCE.fullmatch(text):
    return int(reference[1]) < index
  return bool(_NUMBER.fullmatch(text) or _CONSTANT.fullmatch(text))


def render(formula: Formula) -> str:
  """The one spelling of a formula, closed by ` | EOS`."""
  steps = [
    f"#{i}: {s.op} ( {s.first}, {s.second} )"
    for i, s in enumerate(formula.steps)
  ]
  return " | ".join([*(steps or [formula.leaf]), END])


def from_prefix(equation: str) -> Formula:
  """`- number0 * number1 number2` as steps in post-order.

  Raises:
    ValueError: not one complete prefix expression.
  """
  tokens = equation.split()
  steps: list[Step] = []

  def read(position: int, depth: int) -> tuple[str, int]:
    if position >= len(tokens) or depth > MAX_STEPS:
      raise ValueError(f"not a prefix equation: {equation!r}")
    token = tokens[position]
    if token in OPERATORS:
      first, position = read(position + 1, depth + 1)
      second, position = read(position, depth + 1)
      steps.append(Step(OPERATORS[token], first, second))
      return f"#{len(steps) - 1}", position
    if not _is_operand(token, 0):
      raise ValueError(f"not an operand: {token!r} in {equation!r}")
    return token, position + 1

  leaf, end = read(0, 0)
  if end != len(tokens) or len(steps) > MAX_STEPS:
    raise ValueError(f"not one prefix equation: {equation!r}")
  return Formula(tuple(steps), "" if steps else leaf)


def to_prefix(formula: Formula) -> str:
  """The last step as a prefix equation; shared steps are written out."""
  return _write(formula, lambda s, a, b: f"{SYMBOLS[s.op]} {a} {b}", str)


def canonical(formula: Formula) -> str:
  """One string for all orders of steps and of commuting operands."""

  def join(step: Step, first: str, second: str) -> str:
    if step.op in COMMUTATIVE and second < first:
      first, second = second, first
    return f"{SYMBOLS[step.op]} {first} {second}"

  def operand(text: str) -> str:
    return text if _NUMBER.fullmatch(text) else f"{float(text):.12g}"

  return _write(formula, join, operand)


def _write(formula: Formula, join, operand) -> str:
  done: list[str] = []

  def text(arg: str) -> str:
    return done[int(arg[1:])] if arg.startswith("#") else operand(arg)

  for step in formula.steps:
    done.append(join(step, text(step.first), text(step.second)))
  return done[-1] if done else text(formula.leaf)


def execute(formula: Formula, numbers: Sequence[float]) -> float | None:
  """The value of the last step; None if it has none.

  None for a number that the problem does not have, a division by zero and a
  value too large for a float, in any step.
  """
  values: list[float] = []

  def value(arg: str) -> float:
    if arg.startswith("#"):
      return values[int(arg[1:])]
    if number := _NUMBER.fullmatch(arg):
      return float(numbers[int(number[1])])
    return float(arg)

  try:
    for step in formula.steps:
      values.append(_apply(step.op, value(step.first), value(step.second)))
    result = values[-1] if values else value(formula.leaf)
  except (IndexError, ZeroDivisionError, OverflowError):
    return None
  return result if abs(result) < float("inf") else None


def _apply(op: str, first: float, second: float) -> float:
  if op == "add":
    result = first + second
  elif op == "subtract":
    result = first - second
  elif op == "multiply":
    result = first * second
  else:
    result = first / second
  if result != result or abs(result) == float("inf"):
    raise OverflowError(op)
  return result


def same_value(value: float | None, answer: float) -> bool:
  """Equal up to the rounding of the published answers."""
  return value is not None and (
    abs(value - answer) <= 1e-3 + 5e-4 * abs(answer)
  )


@functools.cache
def _points(number: int) -> tuple[int, int]:
  digest = hashlib.blake2b(f"number{number}".encode()).digest()
  return tuple(
    int.from_bytes(digest[i : i + 16], "little") % _PRIME for i in (0, 16)
  )


@functools.lru_cache(8192)
def fingerprint(formula: Formula) -> tuple[int, int] | None:
  """Equal for algebraically equal formulas, and (almost surely) only for them.

  The formula is executed modulo 2^61 - 1 on two random assignments of its
  numbers, exactly (Schwartz-Zippel). None where it divides by what is always
  zero.
  """
  try:
    return _modular(formula, 0), _modular(formula, 1)
  except ZeroDivisionError:
    return None


def _modular(formula: Formula, point: int) -> int:
  values: list[int] = []

  def value(arg: str) -> int:
    if arg.startswith("#"):
      return values[int(arg[1:])]
    if number := _NUMBER.fullmatch(arg):
      return _points(int(number[1]))[point]
    whole, _, decimals = arg.partition(".")
    scale = pow(10, -len(decimals), _PRIME)
    return int(whole + decimals) * scale % _PRIME

  for op, first, second in formula.steps:
    a, b = value(first), value(second)
    if op == "divide":
      if b == 0:
        raise ZeroDivisionError
      values.append(a * pow(b, -1, _PRIME) % _PRIME)
    else:
      sign = {"add": a + b, "subtract": a - b, "multiply": a * b}
      values.append(sign[op] % _PRIME)
  return values[-1] if values else value(formula.leaf)


def same_meaning(ours: Formula, gold: Formula) -> bool:
  """Algebraic equality; a formula without a value equals none."""
  key = fingerprint(ours)
  return key is not None and key == fingerprint(gold)
