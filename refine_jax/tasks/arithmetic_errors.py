"""Errors planted on purpose: each of one kind, at a known step.

A planted error changes one step of a plan; what follows is worked out from
the changed quantities, as a model would go on. Only what the judge explains
by the kind that was planted is kept, and only if the answer has become wrong;
a wrong unit alone leaves it right.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from refine_jax.tasks import (
  arithmetic_judge,
  arithmetic_plan,
  arithmetic_solution,
  arithmetic_story,
)
from refine_jax.tasks.arithmetic_plan import Node, Ref
from refine_jax.tasks.arithmetic_story import OPS, Story

_ANY = ("operand", "operator", "missing", "extra", "object", "answer")
# What can be planted; a program has no results that slip and no units.
KINDS = {"text": (*_ANY, "slip", "unit"), "program": _ANY}
_JOINED = (arithmetic_plan.BOTH, arithmetic_plan.MORE)
_SLIPS = (-10, -2, -1, 1, 2, 10)


class Plan(NamedTuple):
  """A plan with what `arithmetic_solution.render` takes besides."""

  nodes: tuple[Node, ...]
  slips: dict[int, int]
  last: int


def plant(
  story: Story,
  rng: np.random.Generator,
  kind: str,
  *,
  form: str,
  limit: int,
  at: int | None = None,
) -> tuple[str, int] | None:
  """A solution with one error, and its step; None if this kind does not fit.

  Args:
    story: has an answer.
    rng: decides everything.
    kind: one of `KINDS[form]`.
    form: `text` or `program`.
    limit: no quantity is above it.
    at: the step to plant it at; None for any.
  """
  if kind not in KINDS[form]:
    known = ", ".join(KINDS[form])
    raise ValueError(f"no kind {kind!r} in form {form!r}; there are {known}")
  nodes = arithmetic_plan.plan(story, rng, limit)
  changed = list(_CHANGES[kind](story, nodes, form, limit))
  for i in rng.permutation(len(changed)):
    completion = _written(changed[i], form, limit)
    if completion is None:
      continue
    steps = arithmetic_solution.parse(completion, form)
    found = arithmetic_judge.judge(story, steps)
    said = arithmetic_solution.answer(completion, form)
    right = said == arithmetic_story.answer(story)
    if found.kind != kind or (right and kind != "unit"):
      continue
    if at is None or found.first == at:
      return completion, found.first
  return None


def _written(plan: Plan, form: str, limit: int) -> str | None:
  """The completion, unless a quantity is none or out of range."""
  if not plan.nodes or len(plan.nodes) > len(arithmetic_solution.NAMES):
    return None
  steps = arithmetic_solution.evaluate(plan.nodes, plan.slips)
  if steps is None or not all(0 <= s.result <= limit for s in steps):
    return None
  return arithmetic_solution.render(plan.nodes, form, plan.slips, plan.last)


def _plan(nodes, slips=None, last=None) -> Plan:
  nodes = tuple(nodes)
  return Plan(nodes, slips or {}, len(nodes) - 1 if last is None else last)


def _with(nodes: tuple[Node, ...], i: int, node: Node) -> Plan:
  return _plan((*nodes[:i], node, *nodes[i + 1 :]))


def _side(node: Node, side: int, ref: Ref) -> Node:
  return node._replace(**{("left", "right")[side]: ref})


def _operand(story, nodes, form, limit) -> Iterator[Plan]:
  held = {*story.starts, *(e.number for e in story.events), *range(2, 10)}
  for i, node in enumerate(nodes):
    for side in (0, 1):
      for number in sorted(held):
        yield _with(nodes, i, _side(node, side, Ref(number=number)))


def _operator(story, nodes, form, limit) -> Iterator[Plan]:
  for i, node in enumerate(nodes):
    for op in OPS:
      if op != node.op:
        yield _with(nodes, i, node._replace(op=op))


def _slip(story, nodes, form, limit) -> Iterator[Plan]:
  for i in range(len(nodes)):
    for slip in _SLIPS:
      yield _plan(nodes, {i: slip})


def _missing(story, nodes, form, limit) -> Iterator[Plan]:
  for i, node in enumerate(nodes):
    stale = (node.left, node.right)[node.main]
    yield _plan(_moved(nodes[:i] + nodes[i + 1 :], i, stale, -1))


def _extra(story, nodes, form, limit) -> Iterator[Plan]:
  """A step again, on its own result."""
  for i, node in enumerate(nodes):
    again = _side(node, node.main, Ref(step=i))
    rest = _moved(nodes[i + 1 :], i, Ref(step=i + 1), 1)
    yield _plan((*nodes[: i + 1], again, *rest))


def _moved(nodes, i: int, new: Ref, by: int) -> list[Node]:
  """Nodes with references to step `i` made `new`, those beyond it moved."""

  def ref(old: Ref) -> Ref:
    if old.step is None or old.step < i:
      return old
    return new if old.step == i else Ref(step=old.step + by)

  return [n._replace(left=ref(n.left), right=ref(n.right)) for n in nodes]


def _object(story, nodes, form, limit) -> Iterator[Plan]:
  """Another thing's quantity."""
  for i, node in enumerate(nodes):
    for number in story.starts:
      yield _with(nodes, i, _side(node, node.main, Ref(number=number)))
    for j in range(i):
      yield _with(nodes, i, _side(node, node.main, Ref(step=j)))


def _unit(story, nodes, form, limit) -> Iterator[Plan]:
  names = (*story.things, *arithmetic_story.OBJECTS[:2], *_JOINED)
  for i, node in enumerate(nodes):
    for name in names:
      yield _with(nodes, i, node._replace(about=name))


def _answer(story, nodes, form, limit) -> Iterator[Plan]:
  for i in range(len(nodes) - 1):
    yield _plan(nodes, last=i)


_CHANGES = {
  "operand": _operand,
  "operator": _operator,
  "slip": _slip,
  "missing": _missing,
  "extra": _extra,
  "object": _object,
  "unit": _unit,
  "answer": _answer,
}
