"""Which steps of a solution are right, and what is wrong with the first bad.

A step is right if it is true in its story: it makes the next event of a thing
happen to the quantity there is at that point, or joins the two things asked
for once nothing is left to do. Steps on things that are not asked for are
right too. A wrong step changes nothing, so what builds on it is wrong as well.

Numbers, not names, are compared: where two things have equal quantities a
step may mean either, and all readings are followed.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from refine_jax.tasks import arithmetic_plan, arithmetic_story
from refine_jax.tasks.arithmetic_plan import State
from refine_jax.tasks.arithmetic_solution import Step
from refine_jax.tasks.arithmetic_story import COMMUTATIVE, OPS, Story

# The kinds of error, in the order in which an explanation is looked for.
KINDS = (
  "slip",
  "unit",
  "object",
  "operator",
  "missing",
  "extra",
  "operand",
  "answer",
  "unreadable",
)


class Judgement(NamedTuple):
  """Verdicts of all steps; place and kind of the first error.

  Attributes:
    right: one flag per step.
    first: the first wrong step, or the number of steps if the solution ends
      too early; None if it is right.
    kind: one of `KINDS`.
    expected: a step that would have been right there; None where none is.
  """

  right: tuple[bool, ...]
  first: int | None = None
  kind: str | None = None
  expected: Step | None = None


def judge(story: Story, steps: Sequence[Step | None]) -> Judgement:
  """Follows a solution through its story."""
  states = {arithmetic_plan.begin(story)}
  right, first, kind, expected, over = [], None, None, None, False
  for i, step in enumerate(steps):
    reached = set() if over else _reached(story, states, step)
    right.append(bool(reached))
    if not reached and first is None:
      first = i
      expected = None if over else _expected(story, states, step)
      kind = "extra" if over else _kind(story, states, step)
    over = over or (step is not None and step.op == "answer")
    states = reached or states
  if first is None and not over:
    first, kind = len(steps), "missing"
    expected = _expected(story, states, None)
  return Judgement(tuple(right), first, kind, expected)


def mended(story: Story, steps: Sequence[Step | None]) -> list[Step] | None:
  """The steps up to the first error, then what was due there, to the end.

  None where nothing right can follow.
  """
  steps = list(steps)
  while (found := judge(story, steps)).first is not None:
    if found.expected is None:
      return None
    steps = [*steps[: found.first], found.expected]
  return steps


def _reached(
  story: Story, states: Iterable[State], step: Step | None
) -> set[State]:
  """The states a right step leads to; none if it is wrong."""
  if step is None or not step.sound:
    return set()
  return _matches(story, states, step)


def _matches(story: Story, states: Iterable[State], step: Step) -> set[State]:
  """The same, whatever result the step claims."""
  if step.op == "answer":
    return {s for s in states if _asked(story, s) == step.result}
  found = set()
  for state in states:
    found |= _happens(story, state, step)
    if _joins(story, state, step) and arithmetic_plan.complete(story, state):
      value = arithmetic_story.apply(step.op, step.left, step.right)
      found.add(state._replace(last=value))
  return found


def _asked(story: Story, state: State) -> int | None:
  """The answer, once it is there."""
  if story.ask != "one":
    return state.last
  (thing,) = story.asked
  return None if state.pending[thing] else state.values[thing]


def _happens(story: Story, state: State, step: Step) -> set[State]:
  found = set()
  for thing, name in enumerate(story.things):
    if step.about in (None, name):
      for place in arithmetic_plan.available(story, state, thing):
        if _is(step, state.values[thing], *story.events[place][:2]):
          found.add(arithmetic_plan.after(story, state, place))
  return found - {None}


def _is(step: Step, now: int, verb: str, number: int) -> bool:
  """The step applies the event to the quantity `now`."""
  op = arithmetic_story.operator(verb)
  if op == "*" and number == 2 and step.op == "+":
    return step.left == step.right == now
  return step.op == op and _same(op, (step.left, step.right), (now, number))


def _same(op: str, ours: tuple[int, int], wanted: tuple[int, int]) -> bool:
  return ours == wanted or (op in COMMUTATIVE and ours[::-1] == wanted)


def _joins(story: Story, state: State, step: Step) -> bool:
  """The step is the last one, on the quantities there are."""
  joined = arithmetic_plan.last_step(story)
  if joined is None or state.last is not None:
    return False
  if step.op != joined[0] or step.about not in (None, joined[1]):
    return False
  first, second = (state.values[x] for x in story.asked)
  return _same(step.op, (step.left, step.right), (first, second))


def _kind(story: Story, states: set[State], step: Step | None) -> str:
  """The first of `KINDS` that explains a wrong step."""
  if step is None:
    return "unreadable"
  if step.op == "answer":
    done = any(_asked(story, s) is not None for s in states)
    return "answer" if done else "missing"
  for kind, explains in _EXPLANATIONS.items():
    if explains(story, states, step):
      return kind
  done = all(_asked(story, s) is not None for s in states)
  return "extra" if done else "operand"


def _is_unit(story: Story, states: set[State], step: Step) -> bool:
  """Right, had the text named another thing."""
  named = step.about is not None
  return named and bool(_matches(story, states, step._replace(about=None)))


def _is_object(story: Story, states: set[State], step: Step) -> bool:
  """The event of one thing happens to the quantity of another."""
  for state in states:
    for thing, name in enumerate(story.things):
      if step.about not in (None, name):
        continue
      others = {v for x, v in enumerate(state.values) if x != thing}
      for place in arithmetic_plan.available(story, state, thing):
        event = story.events[place]
        if any(_is(step, v, event.verb, event.number) for v in others):
          return True
  return False


def _is_operator(story: Story, states: set[State], step: Step) -> bool:
  others = (step._replace(op=op) for op in OPS if op != step.op)
  return any(_matches(story, states, other) for other in others)


def _is_missing(story: Story, states: set[State], step: Step) -> bool:
  """Right if some events had not been in the story."""
  for state in states:
    if _joins(story, state, step):
      return True
    for pending in state.pending:
      for count in range(1, len(pending)):
        then = state
        for place in pending[:count]:
          then = arithmetic_plan.after(story, then, place, count=False)
        if _happens(story, then, step):
          return True
  return False


def _is_extra(story: Story, states: set[State], step: Step) -> bool:
  """An event that is over happens again."""
  return any(
    _is(step, state.values[event.thing], event.verb, event.number)
    for state in states
    for place, event in enumerate(story.events)
    if place not in state.pending[event.thing]
    and step.about in (None, story.things[event.thing])
  )


_EXPLANATIONS = {
  "slip": _matches,
  "unit": _is_unit,
  "object": _is_object,
  "operator": _is_operator,
  "missing": _is_missing,
  "extra": _is_extra,
}


def _expected(
  story: Story, states: set[State], step: Step | None
) -> Step | None:
  """What should have come, about the same thing as the step if that can be."""
  if step is not None and _matches(story, states, step):
    result = arithmetic_story.apply(step.op, step.left, step.right)
    return step._replace(result=result)
  state = min(states, key=repr)
  if (value := _asked(story, state)) is not None:
    return Step("answer", 0, 0, value)
  about = step.about if step else None
  asked = sorted(story.asked, key=lambda x: story.things[x] != about)
  for thing in asked:
    for place in arithmetic_plan.available(story, state, thing):
      event, now = story.events[place], state.values[thing]
      return _filled(event.op, now, event.number, story.things[thing])
  first, second = (state.values[x] for x in story.asked)
  op, about = arithmetic_plan.last_step(story)
  return _filled(op, first, second, about)


def _filled(op: str, left: int, right: int, about: str) -> Step | None:
  result = arithmetic_story.apply(op, left, right)
  return None if result is None else Step(op, left, right, result, about)
