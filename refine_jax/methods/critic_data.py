"""Critic data: hypotheses, what is wrong with them, and both uses of that.

REFINER sections 3.2 and 4: implausible hypotheses come from perturbing the
gold; ours also come from the generator itself, since a critic trained on
perturbations alone misses the errors a generator really makes.
"""

import collections
from collections.abc import Iterable, Sequence

import numpy as np

from refine_jax.methods.refine import Template
from refine_jax.records import Critique, Example, Problem, Sample
from refine_jax.tasks.base import Task


def perturbed(
  task: Task, problems: Sequence[Problem], *, seed: int
) -> list[Critique]:
  """`task.perturb` on every problem, each with a generator of its own."""
  return [
    critique
    for i, problem in enumerate(problems)
    for critique in task.perturb(problem, np.random.default_rng([seed, i]))
  ]


def sampled(
  task: Task,
  problems: Sequence[Problem],
  samples: Sequence[Sequence[Sample]],
  name: str = "s",
) -> list[Critique]:
  """A generator's own hypotheses under the oracle's feedback.

  `name` keeps the ids of several rounds apart.
  """
  rows = []
  for problem, group in zip(problems, samples, strict=True):
    for sample in group:
      feedback = task.feedback(problem, sample.text)
      right = feedback == task.no_hint
      rows.append(
        Critique(
          id=sampled_id(problem, name, sample.id.rpartition("/")[2]),
          problem=problem.id,
          question=task.prompt(problem),
          hypothesis=sample.text,
          feedback=feedback,
          gold=task.target(problem),
          errors=() if right else tuple(task.error_types(feedback)),
          origin="sampled",
        )
      )
  return rows


def sampled_id(problem: Problem, name: str, index: int | str) -> str:
  """Of a row that `sampled` makes."""
  return f"{problem.id}/{name}/{index}"


def round_of(row: Critique) -> str:
  """The `name` of the round that a sampled row is of."""
  return row.id.split("/")[-2]


def select(
  critiques: Iterable[Critique],
  *,
  no_hint: str,
  positives: float | None,
  balance: bool,
  seed: int,
) -> list[Critique]:
  """Distinct rows in a seeded order, balanced as asked.

  Args:
    critiques: any rows.
    no_hint: the task's text for "nothing wrong".
    positives: the share of right hypotheses wanted; the larger side is cut
      down to reach it. None keeps what is there.
    balance: cut every first error type down to the rarest but one fifth of
      the commonest, so that none drowns the others.
    seed: of the order and of what is cut.
  """
  rows = list({(c.question, c.hypothesis): c for c in critiques}.values())
  order = np.random.default_rng(seed).permutation(len(rows))
  rows = [rows[i] for i in order]
  right = [c for c in rows if c.feedback == no_hint]
  wrong = [c for c in rows if c.feedback != no_hint]
  if balance:
    wrong = _balanced(wrong)
  if positives is not None:
    right, wrong = _at_rate(right, wrong, positives)
  kept = {c.id for c in right} | {c.id for c in wrong}
  return [c for c in rows if c.id in kept]


def _balanced(rows: list[Critique]) -> list[Critique]:
  groups = collections.defaultdict(list)
  for row in rows:
    groups[row.errors[:1]].append(row)
  if not groups:
    return []
  sizes = [len(g) for g in groups.values()]
  cap = max(min(sizes), max(sizes) // 5)
  return [row for group in groups.values() for row in group[:cap]]


def _at_rate(right, wrong, rate: float):
  if not 0 <= rate <= 1:
    raise ValueError(f"positives must lie in [0, 1], got {rate}")
  if rate in (0, 1):
    return (right, []) if rate else ([], wrong)
  total = min(len(right) / rate, len(wrong) / (1 - rate))
  return right[: round(total * rate)], wrong[: round(total * (1 - rate))]


def counts(critiques: Iterable[Critique]) -> dict[str, int]:
  """Rows per origin and error type, for the stage's report."""
  table = collections.Counter()
  for critique in critiques:
    for error in critique.errors or ("none",):
      table[f"{critique.origin}/{error}"] += 1
  return dict(sorted(table.items()))


def critic_example(critique: Critique, template: Template) -> Example:
  """(x, z') -> f: what the critic learns."""
  return Example(
    id=f"{critique.id}/critic",
    prompt=template.critique(critique.question, critique.hypothesis),
    target=(critique.feedback,),
  )


def revision_example(critique: Critique, template: Template) -> Example:
  """(x, z', f) -> z: what a generator learns from."""
  return Example(
    id=f"{critique.id}/revision",
    prompt=template.revision(
      critique.question, critique.hypothesis, critique.feedback
    ),
    target=(critique.gold,),
  )
