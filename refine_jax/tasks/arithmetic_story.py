"""Stories of things bought, lost and doubled: what they say, and their text.

A story holds 1-3 kinds of objects, events that change one kind each, and a
question about one kind, or about the sum or difference of two. Its text is
made of about 60 words between single spaces, and is read back exactly.
"""

import functools
import re
from typing import NamedTuple

import numpy as np

OBJECTS = ("apples", "pears", "plums", "nuts", "eggs", "figs", "limes", "pens")
VERBS = {
  "buys": "+",
  "finds": "+",
  "picks": "+",
  "sells": "-",
  "eats": "-",
  "loses": "-",
}
# Verbs that hold their number.
FACTORS = {"doubles": ("*", 2), "triples": ("*", 3), "halves": ("//", 2)}
OPS = ("+", "-", "*", "//")
COMMUTATIVE = frozenset("+*")
ASKS = ("one", "sum", "difference")


class Event(NamedTuple):
  """`verb number thing`, or `verb thing` if the verb holds its number."""

  verb: str
  number: int
  thing: int

  @property
  def op(self) -> str:
    return operator(self.verb)


def operator(verb: str) -> str:
  return VERBS.get(verb) or FACTORS[verb][0]


class Story(NamedTuple):
  """Things and how many there are at first, events, and what is asked.

  Attributes:
    ask: one of `ASKS`; asked: places in `things`, one or two.
  """

  things: tuple[str, ...]
  starts: tuple[int, ...]
  events: tuple[Event, ...]
  ask: str
  asked: tuple[int, ...]


class Level(NamedTuple):
  """One mark of the difficulty dial; ranges include both ends.

  Attributes:
    operations: steps of a shortest solution.
    limit: no quantity on the way is above it.
  """

  things: int
  events: tuple[int, int]
  operations: tuple[int, int]
  largest: int
  limit: int
  asks: tuple[str, ...] = ASKS


# Level 0 has numbers so small that a model of 100k parameters can calculate:
# what it gets wrong is which steps to take. Level 3: a model of 150k parameters
# answers about one in five questions after a short warm-up.
LEVELS = {
  0: Level(1, (1, 2), (1, 2), 6, 30, ("one",)),
  1: Level(1, (1, 2), (1, 2), 9, 99, ("one",)),
  2: Level(2, (1, 2), (1, 2), 12, 99),
  3: Level(2, (2, 3), (2, 3), 12, 99),
  4: Level(3, (3, 4), (3, 4), 12, 99),
  5: Level(3, (4, 6), (4, 5), 20, 199),
}


def values(story: Story) -> tuple[int, ...] | None:
  """The last quantity of each thing; None if one is below 1 or uneven."""
  now = list(story.starts)
  for event in story.events:
    result = apply(event.op, now[event.thing], event.number)
    if result is None or result < 1:
      return None
    now[event.thing] = result
  return tuple(now)


def apply(op: str, left: int, right: int) -> int | None:
  """None where division is by zero or leaves a rest, or the op is unknown."""
  if op == "//":
    return left // right if right and left % right == 0 else None
  if op not in OPS:
    return None
  if op == "-":
    return left - right
  return left + right if op == "+" else left * right


def answer(story: Story) -> int:
  """What the story's question asks for."""
  last = values(story)
  picked = [last[i] for i in story.asked]
  if story.ask == "difference":
    return picked[0] - picked[1]
  return sum(picked)


def operations(story: Story) -> int:
  """How many steps a shortest solution has."""
  relevant = sum(e.thing in story.asked for e in story.events)
  return relevant + (story.ask != "one")


def draw(rng: np.random.Generator, level: Level) -> Story:
  """A story of this level, by rejection."""
  while True:
    story = _draw(rng, level)
    if _fits(story, level):
      return story


def _draw(rng: np.random.Generator, level: Level) -> Story:
  order = rng.permutation(len(OBJECTS))[: level.things]
  starts = rng.integers(2, level.largest + 1, level.things)
  events = []
  for _ in range(rng.integers(level.events[0], level.events[1] + 1)):
    thing, kind = int(rng.integers(level.things)), rng.random()
    verbs = tuple(VERBS) if kind < 0.7 else tuple(FACTORS)
    verb = verbs[int(rng.integers(len(verbs)))]
    number = int(rng.integers(2, level.largest + 1))
    events.append(Event(verb, FACTORS.get(verb, ("", number))[1], thing))
  ask = level.asks[int(rng.integers(len(level.asks)))]
  asked = rng.permutation(level.things)[: 1 if ask == "one" else 2]
  return Story(
    tuple(OBJECTS[i] for i in order),
    tuple(int(s) for s in starts),
    tuple(events),
    ask,
    tuple(int(a) for a in asked),
  )


def _fits(story: Story, level: Level) -> bool:
  low, high = level.operations
  if not low <= operations(story) <= high:
    return False
  now = list(story.starts)
  for event in story.events:
    result = apply(event.op, now[event.thing], event.number)
    if result is None or not 1 <= result <= level.limit:
      return False
    now[event.thing] = result
  return 1 <= answer(story) <= level.limit


def to_text(story: Story) -> str:
  """`5 pears and 9 apples . sells 3 apples . how many apples ?`"""
  held = zip(story.starts, story.things, strict=True)
  parts = [" and ".join(f"{n} {thing}" for n, thing in held)]
  for verb, number, thing in story.events:
    middle = "" if verb in FACTORS else f"{number} "
    parts.append(f"{verb} {middle}{story.things[thing]}")
  names = [story.things[i] for i in story.asked]
  if story.ask == "difference":
    parts.append(f"how many more {names[0]} than {names[1]} ?")
  else:
    parts.append(f"how many {' and '.join(names)} ?")
  return " . ".join(parts)


_HELD = re.compile(r"(\d{1,6}) ([a-z]+)")
_EVENT = re.compile(r"([a-z]+) (?:(\d{1,6}) )?([a-z]+)")
_ASK = re.compile(
  r"how many (?:more (?P<more>[a-z]+) than (?P<than>[a-z]+)"
  r"|(?P<one>[a-z]+)(?: and (?P<two>[a-z]+))?) \?"
)


@functools.lru_cache(65536)
def from_text(text: str) -> Story:
  """The converse of `to_text`; ValueError says what is not understood."""
  text = " ".join(re.sub(r"([.?])(?=\s|$)", r" \1", text.lower()).split())
  first, *rest = [p.strip(" .") for p in text.split(" . ")]
  held = [_match(_HELD, p, "how many there are") for p in first.split(" and ")]
  things = tuple(m[2] for m in held)
  if len(set(things)) != len(things):
    raise ValueError(f"a thing is named twice in {first!r}")
  events = [_event(_match(_EVENT, p, "an event"), things) for p in rest[:-1]]
  last = rest[-1] if rest else ""
  found = _match(_ASK, last, "a question")
  names = [found[k] for k in ("more", "than", "one", "two") if found[k]]
  asked = tuple(_place(name, things) for name in names)
  if len(set(asked)) != len(asked):
    raise ValueError(f"a thing is asked for twice in {last!r}")
  ask = "difference" if found["more"] else ASKS[len(asked) - 1]
  story = Story(
    things, tuple(int(m[1]) for m in held), tuple(events), ask, asked
  )
  if values(story) is None:
    raise ValueError(f"less than one of something is left in {text!r}")
  return story


def _match(pattern: re.Pattern, part: str, what: str) -> re.Match:
  found = pattern.fullmatch(part)
  if found is None:
    raise ValueError(f"expected {what}, not {part!r}")
  return found


def _place(name: str, things: tuple[str, ...]) -> int:
  if name not in things:
    raise ValueError(f"no {name!r} among {', '.join(things)}")
  return things.index(name)


def _event(found: re.Match, things: tuple[str, ...]) -> Event:
  verb, number, thing = found[1], found[2], _place(found[3], things)
  if verb in VERBS and number:
    return Event(verb, int(number), thing)
  if verb in FACTORS and not number:
    return Event(verb, FACTORS[verb][1], thing)
  known = ", ".join((*VERBS, *FACTORS))
  raise ValueError(f"{found[0]!r} is no event; verbs are {known}")


def words(level: Level) -> tuple[str, ...]:
  """Every word of questions at this level."""
  numbers = [str(n) for n in range(2, level.largest + 1)]
  asked = ("how", "many", "more", "than", "?", "and", ".")
  return (*numbers, *OBJECTS, *VERBS, *FACTORS, *asked)
