"""Critiques of flawed solutions: by the task's truth, or by who is asked.

A `Writer` takes `Annotated` rows and gives texts. An annotator sees the
reference answer and what is known of the error (arXiv 2411.16579, figure of
AutoMathCritique); the critic that is trained later sees neither.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from refine_jax.methods import flawed
from refine_jax.methods import steps as stepping
from refine_jax.methods.critique import Grammar, Step, StepCritique
from refine_jax.methods.dialogue import CRITIC
from refine_jax.records import Annotated, Problem
from refine_jax.sampling.settings import Request
from refine_jax.tasks.base import Task, squeeze

Writer = Callable[[Sequence[Annotated]], list[str]]
# n texts for every request; see `sampling.annotator`.
Annotator = Callable[[Sequence[Request]], list[list[str]]]


def oracle(
  task: Any, grammar: Grammar, problems: Mapping[str, Problem]
) -> Writer:
  """Critiques of a task that can `judge` every step.

  The first wrong step is told what kind of error it is and which operation
  was due, but no result: that would be the answer at the last step.
  """

  def write(rows: Sequence[Annotated]) -> list[str]:
    return [
      grammar.render(truth(task, grammar, problems[r.problem], r.response))
      for r in rows
    ]

  return write


def truth(
  task: Any, grammar: Grammar, problem: Problem, response: str
) -> StepCritique:
  """What is right and wrong with a response, step by step.

  The final verdict is on the answer, which may be right by luck.
  """
  judged = task.judge(problem, response)
  first = judged.first
  why = "" if first is None else grammar.plain(_why(task, problem, response))
  steps = []
  for i, text in enumerate(task.steps(response)):
    fine = i < len(judged.right) and judged.right[i]
    said = why if i == first else ""
    steps.append(Step(grammar.plain(text), grammar.word(fine), said))
  early = first is not None and first >= len(steps)
  right = task.check(problem, response)
  return StepCritique(tuple(steps), grammar.word(right), why if early else "")


def _why(task: Any, problem: Problem, response: str) -> str:
  """`wrong operator , 6 * 3`: the error's name and the operation due."""
  said = task.feedback(problem, response)
  name = said.partition(" : ")[2].partition(" , ")[0]
  due, equals, _ = (task.fix(problem, response) or "").partition(" = ")
  return f"{name} , {due}" if equals else name


def asked(annotate: Annotator) -> Writer:
  """Critiques by an annotator, who is told what is known of the row."""

  def write(rows: Sequence[Annotated]) -> list[str]:
    requests = [Request(row.id, (request_text(row),)) for row in rows]
    return [texts[0] for texts in annotate(requests)]

  return write


def request_text(row: Annotated) -> str:
  """What the annotator reads."""
  known = [f"Reference answer (for your eyes only): {row.answer or row.gold}"]
  if row.right:
    known.append("The solution is right.")
  if row.err_step is not None:
    known.append(f"The first error is in step {row.err_step + 1}.")
  if row.err_type:
    known.append(f"Its kind: {row.err_type}.")
  solution = "\n".join(row.steps) or row.response
  return (
    f"{CRITIC}\n\nWrite as if you had found everything out by yourself: never"
    " mention the reference answer, nor give the final answer away.\n\n"
    + "\n".join(known)
    + f"\n\nQuestion:\n{row.question}\n\nSolution:\n{solution}"
  )


@dataclasses.dataclass(frozen=True)
class _Place:
  """A step of a gold solution that is written anew.

  Attributes:
    name: of its requests.
    at: the step's number.
    prefix: what stands before it.
    kind: of the error.
    line: the wrong step, once there is one.
  """

  name: str
  problem: Problem
  gold: str
  steps: Sequence[str]
  at: int
  prefix: str
  kind: str
  line: str = ""

  @property
  def wrong(self) -> str:
    """The solution up to the wrong step."""
    gap = stepping.gap(self.gold, self.steps, self.at)
    return flawed.joined(self.prefix, gap, self.line)

  @property
  def next_gap(self) -> str:
    """What stands behind the step. Joined by anything else, steps might begin
    elsewhere, and the error would not be where it is said to be."""
    return stepping.gap(self.gold, self.steps, self.at + 1)


def planter(annotate: Annotator, task: Task) -> flawed.Planter:
  """Errors planted into gold solutions by whoever is asked.

  All wrong steps are asked for at once; then, where whole solutions are
  wanted, how they go on.
  """

  def plant(wanted: Sequence[flawed.Wanted], whole: bool):
    seen = collections.Counter()
    places = {}
    for i, (problem, rng, kind) in enumerate(wanted):
      name = f"{problem.id}/plant{seen[problem.id]}"
      seen[problem.id] += 1
      if place := _place(task, problem, rng, kind, name):
        places[i] = place
    texts = _each(
      annotate,
      [
        (
          p.name,
          plant_text(task.prompt(p.problem), p.prefix, p.steps[p.at], p.kind),
        )
        for p in places.values()
      ],
    )
    places = {
      i: dataclasses.replace(place, line=line)
      for (i, place), text in zip(places.items(), texts, strict=True)
      if (line := _step(task, place, text))
    }
    made = {i: p.wrong for i, p in places.items()}
    if whole:
      made |= _ends(annotate, task, places)
    return [
      (places[i].wrong, places[i].at, made[i]) if made.get(i) else None
      for i in range(len(wanted))
    ]

  return plant


def _place(
  task: Task, problem: Problem, rng: np.random.Generator, kind: str, name: str
) -> _Place | None:
  gold = task.target(problem)
  steps = stepping.of(task, gold)
  if len(steps) < 2:
    return None
  at = int(rng.integers(len(steps) - 1))
  prefix = stepping.prefix(gold, steps, at)
  if prefix is None:
    return None
  name = f"{name}/{at}"
  return _Place(name, problem, gold, steps, at, prefix, kind)


def _each(annotate: Annotator, asked: Sequence[tuple[str, str]]) -> list[str]:
  """The one text that each (name, text) is answered with."""
  requests = [Request(name, (text,)) for name, text in asked]
  return [text for (text,) in annotate(requests)] if requests else []


def _step(task: Task, place: _Place, text: str) -> str:
  """The step that was written; empty if it is the right one, or none."""
  if not text.strip():
    return ""
  right = place.steps[place.at]
  # With a step behind it, so that a line of several sentences is one step.
  whole = flawed.joined(text.strip(), place.next_gap, place.steps[place.at + 1])
  line = stepping.of(task, whole)[0]
  return "" if squeeze(line) == squeeze(right) else line


def _ends(
  annotate: Annotator, task: Task, places: Mapping[int, _Place]
) -> dict[int, str]:
  """Whole solutions of those that go on; empty where that came to nothing."""
  left = {
    i: place
    for i, place in places.items()
    if not flawed.over(task, place.problem, place.wrong)
  }
  tails = _each(
    annotate,
    [
      (f"{p.name}/rest", rest_text(task.prompt(p.problem), p.wrong, _form(p)))
      for p in left.values()
    ],
  )
  return {
    i: _with_rest(task, place, tail)
    for (i, place), tail in zip(left.items(), tails, strict=True)
  }


def _with_rest(task: Task, place: _Place, tail: str) -> str:
  at, line, steps = place.at, place.line, stepping.of(task, tail)
  if line in steps[: at + 1]:  # the solution so far was written anew
    steps = steps[steps.index(line) + 1 :]
  whole = flawed.joined(place.wrong, place.next_gap, place.next_gap.join(steps))
  kept = stepping.of(task, whole)
  return whole if steps and kept[at : at + 1] == [line] else ""


def _form(place: _Place) -> str:
  """The gold's last step without its answer."""
  answer, last = place.problem.answer, place.steps[-1]
  head, found, tail = last.rpartition(answer) if answer else ("", "", "")
  return f"{head}...{tail}" if found else "The answer is ..."


def plant_text(question: str, prefix: str, step: str, kind: str) -> str:
  """The instruction to write one wrong step."""
  return (
    f"Question:\n{question}\n\nThe solution so far:\n{prefix or '(nothing)'}"
    f"\n\nThe right next step:\n{step}\n\nWrite this step anew with one error"
    f" of this kind: {kind}. Write the step only, in the same style, and do"
    " not say that it is wrong."
  )


def rest_text(question: str, wrong: str, form: str) -> str:
  """The instruction to go on from a wrong step."""
  return (
    f"Question:\n{question}\n\nThe solution so far:\n{wrong}\n\nGo on with this"
    " solution to its end as its writer would, who takes every step for right:"
    " build on each result as it stands, correct nothing, and do not say that"
    " anything is wrong. Write only what follows, in the same style, and end"
    f" with its answer in this form:\n{form}"
  )
