"""Stepwise inference: propose, choose, accept, until an answer is there.

All live problems advance together. A problem ends with the first accepted
step that answers it (words of the question do not count), at the cap, or when
it is stuck: nothing was proposed, a step repeats the one before it, or there
is no room for another.
"""

import dataclasses
from collections.abc import Callable, Sequence

from refine_jax.methods.selectors import Choice, Selector
from refine_jax.methods.voices import Agent, text_of
from refine_jax.records import Trajectory, Turn

# Accepted steps -> whether they hold an answer.
Answered = Callable[[Sequence[str]], bool]

FINISHES = ("answer", "cap", "stuck")


@dataclasses.dataclass
class Live:
  """A problem on its way.

  Attributes:
    finish: one of FINISHES, or "" while it goes on.
    late: the answer is there, and one more round is run for nothing.
  """

  name: str
  question: str
  steps: list[str] = dataclasses.field(default_factory=list)
  turns: list[Turn] = dataclasses.field(default_factory=list)
  notes: list[dict] = dataclasses.field(default_factory=list)
  finish: str = ""
  late: bool = False
  calls: int = 0


@dataclasses.dataclass(frozen=True)
class Rules:
  """When to stop.

  Attributes:
    candidates: proposed per round.
    cap: rounds at most.
    late_stop: the original's loop: an answer is noticed one round late, and
      the last round's choice is never looked at.
  """

  candidates: int = 3
  cap: int = 15
  late_stop: bool = False


def solve(
  problems: Sequence[tuple[str, str]],
  agent: Agent,
  selector: Selector,
  rules: Rules,
  answered: Answered,
) -> list[Live]:
  """Runs (name, question) pairs to their ends, in order."""
  lives = [Live(name, question) for name, question in problems]
  for live in lives:
    agent.open(live.name, live.question)
    selector.open(live.name, live.question)
  for turn in range(rules.cap):
    for live in lives:
      if not live.finish and _room(live, agent, selector) <= 0:
        _end(live, "stuck", agent, selector)
    going = {live.name: live for live in lives if not live.finish}
    if not going:
      break
    _round(turn, going, agent, selector, rules, answered)
  for live in lives:
    if not live.finish:
      _end(live, "cap", agent, selector)
  return lives


def _room(live: Live, agent: Agent, selector: Selector) -> float:
  """Tokens left beside the longest step and a token or two of layout."""
  step = agent.settings.max_tokens + 8
  return min(agent.room(live.name), selector.room(live.name)) - 2 * step


def _round(turn, going, agent, selector, rules, answered) -> None:
  names = list(going)
  shown = selector.show(names, turn)
  proposed = agent.propose(names, rules.candidates, turn, shown)
  texts = {name: [text_of(s) for s in proposed[name]] for name in names}
  chosen = selector.choose(turn, texts)
  taken = {}
  for name, live in going.items():
    choice = chosen[name]
    live.calls += rules.candidates + choice.calls
    spent = sum(len(s.tokens) for s in proposed[name]) + choice.spent
    if live.late or (rules.late_stop and turn == rules.cap - 1):
      _note_waste(live, spent, agent, selector, answered=live.late)
      continue
    step = texts[name][choice.index]
    live.turns.append(_turn(proposed[name][choice.index], step, spent))
    live.notes.append(_note(choice, texts[name]))
    if not step or live.steps[-1:] == [step]:
      _end(live, "stuck", agent, selector)
      continue
    live.steps.append(step)
    if answered(live.steps):
      live.late = rules.late_stop
      if not live.late:
        _end(live, "answer", agent, selector)
        continue
    taken[name] = (choice.index, proposed[name][choice.index])
    selector.accept(name, step)
  agent.accept(taken)


def _note_waste(live, spent, agent, selector, *, answered: bool) -> None:
  """Tokens of a round whose choice is dropped count all the same."""
  if live.turns:
    last = live.turns[-1]
    live.turns[-1] = dataclasses.replace(last, spent=last.spent + spent)
  _end(live, "answer" if answered else "cap", agent, selector)


def _end(live: Live, finish: str, agent: Agent, selector: Selector) -> None:
  live.finish = finish
  agent.close(live.name)
  selector.close(live.name)


def _turn(sample, step: str, spent: int) -> Turn:
  return Turn(hypothesis=step, tokens=sample.tokens, spent=spent)


def _note(choice: Choice, texts: Sequence[str]) -> dict:
  return {
    "candidates": list(texts),
    "index": choice.index,
    "scores": [float(s) for s in choice.scores],
    "rationale": choice.rationale,
    "unparsed": choice.unparsed,
  }


def trajectory(live: Live, *, join: str = "\n", **meta) -> Trajectory:
  """A record; `meta` holds how it ended, its rounds and its answer text."""
  return Trajectory(
    id=live.name,
    problem=live.name,
    question=live.question,
    turns=tuple(live.turns),
    meta={
      "completion": join.join(live.steps),
      "finish": live.finish,
      "calls": live.calls,
      "rounds": live.notes,
      **meta,
    },
  )
