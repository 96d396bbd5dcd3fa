"""Critiques of flawed solutions: by the task's truth, or by who is asked.

A `Writer` takes `Annotated` rows and gives texts. An annotator sees the
reference answer and what is known of the error (arXiv 2411.16579, figure of
AutoMathCritique); the critic that is trained later sees neither.
"""

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
  """What is right and wrong with a response, step by step."""
  judged = task.judge(problem, response)
  first = judged.first
  why = "" if first is None else grammar.plain(_why(task, problem, response))
  steps = []
  for i, text in enumerate(task.steps(response)):
    fine = i < len(judged.right) and judged.right[i]
    said = why if i == first else ""
    steps.append(Step(grammar.plain(text), grammar.word(fine), said))
  early = first is not None and first >= len(steps)
  right = task.check(problem, response) and first is None
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


def planter(annotate: Annotator, task: Task) -> flawed.Planter:
  """Errors planted into gold solutions by whoever is asked."""

  def plant(problem: Problem, rng: np.random.Generator, kind: str):
    gold = task.target(problem)
    steps = stepping.of(task, gold)
    if len(steps) < 2:
      return None
    at = int(rng.integers(len(steps) - 1))
    prefix = stepping.prefix(gold, steps, at)
    if prefix is None:
      return None
    text = plant_text(task.prompt(problem), prefix, steps[at], kind)
    ((written,),) = annotate([Request(f"{problem.id}/plant/{at}", (text,))])
    lines = stepping.of(task, written)
    if not lines or squeeze(lines[0]) == squeeze(steps[at]):
      return None
    gap = stepping.gap(gold, steps, at)
    wrong = flawed.joined(prefix, gap, lines[0])
    return wrong, at, wrong

  return plant


def plant_text(question: str, prefix: str, step: str, kind: str) -> str:
  """The instruction to write one wrong step."""
  return (
    f"Question:\n{question}\n\nThe solution so far:\n{prefix or '(nothing)'}"
    f"\n\nThe right next step:\n{step}\n\nWrite this step anew with one error"
    f" of this kind: {kind}. Write the step only, in the same style, and do"
    " not say that it is wrong."
  )
