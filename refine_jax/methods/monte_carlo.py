"""Refinements under a critique, counted: AutoMathCritique's last stage."""

import dataclasses
from collections.abc import Mapping, Sequence

from refine_jax.methods import critique_filter
from refine_jax.methods.critique import Grammar
from refine_jax.methods.critique_filter import MonteCarlo
from refine_jax.methods.refine import Proposer, Template
from refine_jax.records import Annotated, Example, Problem
from refine_jax.sampling.settings import Request
from refine_jax.tasks.base import Task, squeeze


def before_sampling(
  row: Annotated, grammar: Grammar, *, leaks: bool
) -> Annotated:
  """What a critique's words alone decide: its form, and leaks."""
  reason = critique_filter.shape(
    row.critique, grammar, right=row.right, steps=len(row.steps)
  )
  if reason is None and leaks:
    reason = critique_filter.leaks(row.critique, row.answer, row.response)
  return dropped(row, reason) if reason else row


def dropped(row: Annotated, reason: str) -> Annotated:
  return dataclasses.replace(row, kept=False, drop=reason)


def refined(
  rows: Sequence[Annotated],
  propose: Proposer,
  template: Template,
  *,
  n: int,
  name: str = "mc",
) -> list[list[str]]:
  """n refinements of every row under its critique."""
  requests = [
    Request(
      f"{row.id}/{name}",
      template.revision(row.question, row.response, row.critique),
      n=n,
    )
    for row in rows
  ]
  return [[s.text for s in group] for group in propose(requests)]


def judged(
  row: Annotated,
  texts: Sequence[str],
  *,
  task: Task,
  problem: Problem,
  control: float | None,
  rule: MonteCarlo,
) -> Annotated:
  """The row with its figures, its verified refinements and the verdict.

  Args:
    row: has its critique.
    texts: its refinements, `rule.n` of them.
    task, problem: check.
    control: the share of fresh samples of the problem that are right.
    rule: the filter. A right response has nothing to gain, so that for it the
      advantage is not asked for.
  """
  right = task.check_all([problem] * len(texts), texts)
  good = [t for t, fine in zip(texts, right, strict=True) if fine]
  if row.right:
    rule = dataclasses.replace(rule, delta=-1.0)
  reason = rule.reason(sum(right), control)
  if reason is None and critique_filter.copies(row.critique, row.answer, good):
    reason = "copied-answer"
  mc = {"n": float(len(texts)), "correct": float(sum(right))}
  if control is not None:
    mc["control"] = control
  kept = tuple({squeeze(t): t for t in good}.values())
  row = dataclasses.replace(row, mc=mc, refined=kept)
  return dropped(row, reason) if reason else row


def shuffled(rows: Sequence[Annotated]) -> list[Annotated]:
  """The same rows, each with another problem's critique."""
  found, n = [], len(rows)
  for i, row in enumerate(rows):
    others = (rows[(i + k) % n] for k in range(max(1, n // 3), n + n // 3))
    other = next((o for o in others if o.problem != row.problem), None)
    if other is not None:
      found.append(dataclasses.replace(row, critique=other.critique))
  return found


def misfits(
  rows: Sequence[Annotated], template: Template, share: float
) -> list[Example]:
  """Revisions that leave a wrong solution under another problem's critique.

  An actor that was never shown one mends its solution whatever a critique
  says; the filter then measures the actor. This is ours, not the paper's.

  Args:
    rows: right ones and wrong ones, with their critiques.
    template: renders the prompts.
    share: of the wrong rows.
  """
  wrong = {row.id: row for row in rows if not row.right}
  return [
    Example(
      f"{row.id}/misfit",
      template.revision(row.question, row.response, row.critique),
      (row.response,),
    )
    for row in shuffled(list(wrong.values()))[: round(share * len(wrong))]
    if row.critique != wrong[row.id].critique
  ]


def by_id(problems: Sequence[Problem]) -> Mapping[str, Problem]:
  return {problem.id: problem for problem in problems}
