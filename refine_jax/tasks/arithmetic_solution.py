"""Solutions of arithmetic stories as written: text or program.

    text      9 - 3 = 6 apples . 6 * 3 = 18 apples . answer 18
    program   a = 9 - 3 ; b = a * 3 ; return b

A program is the body of a Python function on one line, of a grammar so small
that it is run here; `tasks.programs` runs any other.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from refine_jax.tasks import arithmetic_story
from refine_jax.tasks.arithmetic_plan import Node, Ref

FORMS = ("text", "program")
NAMES = "abcdefgh"
SEPARATOR = {"text": " . ", "program": " ; "}
_INT = r"-?\d{1,12}"  # longer numbers are no numbers
_OPERAND = rf"[a-h]|{_INT}"
_STEP = {
  "text": re.compile(rf"({_INT}) (\+|-|\*|//) ({_INT}) = ({_INT}) ([a-z]+)"),
  "program": re.compile(rf"([a-h]) = ({_OPERAND}) (\+|-|\*|//) ({_OPERAND})"),
}
_LAST = {
  "text": re.compile(rf"answer ({_INT})"),
  "program": re.compile(rf"return ({_OPERAND})"),
}


class Step(NamedTuple):
  """One written step with its numbers filled in.

  Attributes:
    op: an operator, or `answer`, where only `result` counts.
    result: what a text claims and a program computes.
    about: what a text says it is a quantity of; None in a program.
  """

  op: str
  left: int
  right: int
  result: int
  about: str | None = None

  @property
  def sound(self) -> bool:
    """The arithmetic itself is right."""
    if self.op == "answer":
      return True
    return arithmetic_story.apply(self.op, self.left, self.right) == self.result


def split(completion: str, form: str) -> list[str]:
  """The texts of the steps, the answer among them."""
  text = " ".join(completion.split())
  parts = [p.strip() for p in text.split(SEPARATOR[form].strip())]
  return [p for p in parts if p]


def parse(completion: str, form: str) -> list[Step | None]:
  """The steps; None for one that cannot be read (or run, in a program)."""
  read = _text_step if form == "text" else _program_step
  names: dict[str, int] = {}
  return [read(part, names) for part in split(completion, form)]


def _text_step(part: str, names: dict[str, int]) -> Step | None:
  if found := _LAST["text"].fullmatch(part):
    return Step("answer", 0, 0, int(found[1]))
  if found := _STEP["text"].fullmatch(part):
    left, right, result = int(found[1]), int(found[3]), int(found[4])
    return Step(found[2], left, right, result, found[5])
  return None


def _program_step(part: str, names: dict[str, int]) -> Step | None:
  if found := _LAST["program"].fullmatch(part):
    value = _value(found[1], names)
    return None if value is None else Step("answer", 0, 0, value)
  found = _STEP["program"].fullmatch(part)
  if not found:
    return None
  left, right = _value(found[2], names), _value(found[4], names)
  if left is None or right is None:
    return None
  result = _python(found[3], left, right)
  if result is None or abs(result) >= 10**12:
    return None
  names[found[1]] = result
  return Step(found[3], left, right, result)


def _value(operand: str, names: dict[str, int]) -> int | None:
  return names.get(operand) if operand in NAMES else int(operand)


def _python(op: str, left: int, right: int) -> int | None:
  """As Python has it: a division that leaves a rest is rounded down."""
  if op == "//":
    return left // right if right else None
  return arithmetic_story.apply(op, left, right)


def answer(completion: str, form: str) -> int | None:
  """The last answer of a text; what a program returns, if it runs so far."""
  steps = parse(completion, form)
  if form == "text":
    said = [s.result for s in steps if s and s.op == "answer"]
    return said[-1] if said else None
  for step in steps:
    if step is None:
      return None
    if step.op == "answer":
      return step.result
  return None


def evaluate(
  nodes: Sequence[Node], slips: dict[int, int] | None = None
) -> list[Step] | None:
  """A plan's steps with their numbers; None if one has no value.

  Args:
    nodes: the plan.
    slips: what is added to the results of some steps; what follows uses it.
  """
  steps: list[Step] = []
  for i, node in enumerate(nodes):
    left, right = (_number(ref, steps) for ref in (node.left, node.right))
    result = arithmetic_story.apply(node.op, left, right)
    if result is None:
      return None
    result += (slips or {}).get(i, 0)
    steps.append(Step(node.op, left, right, result, node.about))
  return steps


def _number(ref: Ref, steps: Sequence[Step]) -> int:
  return ref.number if ref.step is None else steps[ref.step].result


def render(
  nodes: Sequence[Node],
  form: str,
  slips: dict[int, int] | None = None,
  last: int | None = None,
) -> str:
  """A plan as a completion.

  Args:
    nodes: at least one, and every one has a value.
    form: `text` or `program`.
    slips: see `evaluate`; no effect in a program, which computes for itself.
    last: the step whose result is the answer; the last by default.
  """
  last = len(nodes) - 1 if last is None else last
  if form == "program":
    parts = [
      f"{NAMES[i]} = {_operand(n.left)} {n.op} {_operand(n.right)}"
      for i, n in enumerate(nodes)
    ]
    return " ; ".join((*parts, f"return {NAMES[last]}"))
  steps = evaluate(nodes, slips)
  parts = [step_text(s) for s in steps]
  return " . ".join((*parts, f"answer {steps[last].result}"))


def step_text(step: Step) -> str:
  """A step as texts write it."""
  if step.op == "answer":
    return f"answer {step.result}"
  return f"{step.left} {step.op} {step.right} = {step.result} {step.about}"


def write(steps: Sequence[Step], form: str) -> str | None:
  """Steps as a completion; in a program, results go by their names.

  None for a program of more steps than there are names.
  """
  if form == "text":
    return SEPARATOR[form].join(map(step_text, steps))
  if len(steps) > len(NAMES):
    return None
  names: dict[int, str] = {}
  parts = []
  for name, step in zip(NAMES, steps, strict=False):
    left, right, result = (
      names.get(number, str(number))
      for number in (step.left, step.right, step.result)
    )
    if step.op == "answer":
      parts.append(f"return {result}")
    else:
      parts.append(f"{name} = {left} {step.op} {right}")
      names[step.result] = name
  return SEPARATOR[form].join(parts)


def _operand(ref: Ref) -> str:
  return str(ref.number) if ref.step is None else NAMES[ref.step]


def words(form: str, limit: int) -> tuple[str, ...]:
  """Every word of solutions, apart from the things' names."""
  ops = arithmetic_story.OPS
  if form == "program":
    return (*NAMES, "=", *ops, ";", "return")
  numbers = (str(n) for n in range(limit + 1))
  return (*numbers, "=", *ops, ".", "answer", "both", "more")
