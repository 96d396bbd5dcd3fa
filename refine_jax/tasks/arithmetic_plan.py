"""How far a solution has come in its story, and plans that solve it."""

from typing import NamedTuple

import numpy as np

from refine_jax.tasks import arithmetic_story
from refine_jax.tasks.arithmetic_story import COMMUTATIVE, Event, Story

BOTH, MORE = "both", "more"  # what the last step of a sum, a difference is of


class Ref(NamedTuple):
  """An operand: a number of the question, or the result of a step."""

  number: int | None = None
  step: int | None = None


class Node(NamedTuple):
  """One step of a plan; `main`, 0 or 1, is the side that is changed."""

  op: str
  left: Ref
  right: Ref
  about: str
  main: int = 0


class State(NamedTuple):
  """Quantities so far, events to come (by place) and the last step's value."""

  values: tuple[int, ...]
  pending: tuple[tuple[int, ...], ...]
  last: int | None = None


def begin(story: Story) -> State:
  pending = tuple(
    tuple(i for i, e in enumerate(story.events) if e.thing == thing)
    for thing in range(len(story.things))
  )
  return State(story.starts, pending)


def available(story: Story, state: State, thing: int) -> tuple[int, ...]:
  """Events of a thing that may come next: neighbours that commute may swap."""
  pending = state.pending[thing]
  if not pending:
    return ()
  kind = _kind(story.events[pending[0]])
  count = 1
  while (
    kind != "//"
    and count < len(pending)
    and _kind(story.events[pending[count]]) == kind
  ):
    count += 1
  return pending[:count]


def _kind(event: Event) -> str:
  return {"+": "+", "-": "+"}.get(event.op, event.op)


def after(
  story: Story, state: State, place: int, *, count: bool = True
) -> State | None:
  """The state once an event has happened; `count=False` only forgets it."""
  event = story.events[place]
  now, pending = list(state.values), list(state.pending)
  if count:
    result = arithmetic_story.apply(event.op, now[event.thing], event.number)
    if result is None:
      return None
    now[event.thing] = result
  pending[event.thing] = tuple(p for p in pending[event.thing] if p != place)
  return State(tuple(now), tuple(pending), state.last)


def last_step(story: Story) -> tuple[str, str] | None:
  """Operator and subject of the step that joins two things, if one does."""
  joins = {"sum": ("+", BOTH), "difference": ("-", MORE)}
  return joins.get(story.ask)


def complete(story: Story, state: State) -> bool:
  """Nothing is left to do before the last step."""
  return not any(state.pending[x] for x in story.asked)


def plan(
  story: Story,
  rng: np.random.Generator | None = None,
  limit: int | None = None,
) -> tuple[Node, ...]:
  """A shortest solution: in the story's order, or any of the valid ones.

  At random are the order of steps that do not depend on each other, the sides
  of additions and products, and whether a double is a sum or a product.

  Args:
    story: has an answer.
    rng: None for the canonical plan.
    limit: random orders keep quantities between 1 and this.
  """
  state, nodes = begin(story), []
  refs = [Ref(number=n) for n in story.starts]
  while not complete(story, state):
    ways = _ways(story, state, limit)
    if not ways:
      return plan(story)  # a random order ran into the limit
    place = min(ways) if rng is None else int(rng.choice(sorted(ways)))
    event = story.events[place]
    node = _node(event, refs[event.thing], story.things[event.thing], rng)
    refs[event.thing] = Ref(step=len(nodes))
    nodes.append(node)
    state = ways[place]
  if joined := last_step(story):
    first, second = (refs[x] for x in story.asked)
    nodes.append(_sides(Node(joined[0], first, second, joined[1]), rng))
  return tuple(nodes)


def _ways(story: Story, state: State, limit: int | None) -> dict[int, State]:
  """Next events of the things asked for, each with the state it leads to."""
  ways = {}
  for thing in story.asked:
    for place in available(story, state, thing):
      then = after(story, state, place)
      if then is None or then.values[thing] < 1:
        continue
      if limit is None or then.values[thing] <= limit:
        ways[place] = then
  return ways


def _node(event: Event, now: Ref, about: str, rng) -> Node:
  node = Node(event.op, now, Ref(number=event.number), about)
  if rng is None:
    return node
  if event.verb == "doubles" and rng.random() < 1 / 3:
    return Node("+", now, now, about)
  return _sides(node, rng)


def _sides(node: Node, rng) -> Node:
  if rng is None or node.op not in COMMUTATIVE or rng.random() < 0.5:
    return node
  return Node(node.op, node.right, node.left, node.about, 1 - node.main)
