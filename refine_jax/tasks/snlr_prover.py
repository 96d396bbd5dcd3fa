"""The exact prover: which rules fire, and the steps that show it.

One hop, no chaining: a rule fires if it is about the subject or its class and
its antecedents (any for `or`, all for `and`) are among the facts or what they
are synonyms of. Gives the published answer on every published row.
"""

import re
from typing import NamedTuple

from refine_jax.tasks.snlr_language import (
  BASE,
  CLASS_OF,
  NOTHING,
  Row,
  with_article,
)

# Kinds of steps.
SYNONYM, CLASS, PREMISE, CONCLUSION = (
  "synonym",
  "class",
  "premise",
  "conclusion",
)


class Step(NamedTuple):
  """`left` is `right`; `rule` is the index of the rule it serves, or -1.

  The conclusion of a row from which nothing follows is ("", "nothing").
  """

  kind: str
  left: str
  right: str
  rule: int = -1


Pair = tuple[str, str]


def known(row: Row) -> set[str]:
  """The facts and what they are synonyms of."""
  return {*row.facts, *(BASE.get(f, f) for f in row.facts)}


def fired(row: Row) -> list[int]:
  """Indices of the rules that fire, in order."""
  have = known(row)
  subjects = (row.subject, CLASS_OF[row.subject])
  return [
    i
    for i, (subject, antecedents, op, _) in enumerate(row.rules)
    if subject in subjects
    and (
      all(a in have for a in antecedents)
      if op == "and"
      else any(a in have for a in antecedents)
    )
  ]


def conclusions(row: Row) -> list[str]:
  """What follows and is not among the facts already, in rule order."""
  have = known(row)
  found = [row.rules[i].conclusion for i in fired(row)]
  return list(dict.fromkeys(c for c in found if c not in have))


def answer(row: Row) -> str:
  """The published answer: `The poppy is happy.`, or `Nothing.`"""
  found = conclusions(row)
  if not found:
    return "Nothing."
  return f"{with_article(row.subject, 'The')} is {' and '.join(found)}."


def prove(row: Row, *, complete: bool = False) -> tuple[Step, ...]:
  """The steps, conclusion last.

  Args:
    row: any.
    complete: shows every premise. The published steps (False) show one
      premise of an `and` rule, and leave `S is h` out where an instance-level
      rule matches a synonym, which has just been said to be h.
  """
  found = conclusions(row)
  if not found:
    return (Step(CONCLUSION, "", NOTHING),)
  steps: dict[Pair, Step] = {}
  for i in fired(row):
    for step in _steps(row, i, complete):
      steps.setdefault((step.left, step.right), step)
  last = Step(CONCLUSION, row.subject, " and ".join(found))
  return (*steps.values(), last)


def _steps(row: Row, index: int, complete: bool) -> list[Step]:
  rule = row.rules[index]
  matched = [
    (fact, a)
    for a in rule.antecedents
    for fact in row.facts
    if BASE.get(fact, fact) == a
  ]
  if rule.op == "and" and not complete:
    matched = matched[:1]
  general = rule.subject != row.subject
  steps = []
  for fact, attribute in matched:
    if fact != attribute:
      steps.append(Step(SYNONYM, fact, attribute, index))
    if general:
      steps.append(Step(CLASS, row.subject, rule.subject, index))
    if general or fact == attribute or complete:
      steps.append(Step(PREMISE, row.subject, attribute, index))
  return steps


def pairs(steps: tuple[Step, ...]) -> tuple[Pair, ...]:
  return tuple((step.left, step.right) for step in steps)


INVALID = "The argument is invalid!!"
_TEXT_STEP = re.compile(r"(\w+) is (\w+(?: and \w+)*)\.?")
_COMPACT_STEP = re.compile(r"(\w+) (\w+(?: and \w+)*)")
_NUMBER = re.compile(r"#(\d{1,3}):?(?:\s+|$)")
_MAX_CHARACTERS = 2000


def render_text(steps: tuple[Pair, ...]) -> str:
  """`#0: violet is purple #1: poppy is plant ...`, as published."""
  return " ".join(
    f"#{k}: {INVALID}" if right == NOTHING else f"#{k}: {left} is {right}"
    for k, (left, right) in enumerate(steps)
  )


def render_compact(steps: tuple[Pair, ...]) -> str:
  """`#0 violet purple #1 poppy plant ...`"""
  return " ".join(
    f"#{k} {NOTHING}" if right == NOTHING else f"#{k} {left} {right}"
    for k, (left, right) in enumerate(steps)
  )


def parse(text: str, *, compact: bool) -> tuple[Pair, ...] | None:
  """Rendered steps back to pairs; None if malformed or misnumbered.

  The left side of `nothing` is "": no subject is written there.
  """
  if len(text) > _MAX_CHARACTERS:
    return None
  head, *pieces = _NUMBER.split(" ".join(text.split()))
  if head or not pieces:
    return None
  found = []
  for k in range(0, len(pieces), 2):
    if int(pieces[k]) != k // 2:
      return None
    pair = _pair(pieces[k + 1].strip(), compact)
    if pair is None:
      return None
    found.append(pair)
  return tuple(found)


def _pair(text: str, compact: bool) -> Pair | None:
  if text.rstrip(".") == (NOTHING if compact else INVALID):
    return "", NOTHING
  match = (_COMPACT_STEP if compact else _TEXT_STEP).fullmatch(text)
  return (match[1], match[2]) if match else None
