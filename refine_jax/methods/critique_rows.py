"""What criticised solutions become: rows for a critic, and for an actor."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from refine_jax.methods import monte_carlo
from refine_jax.methods import steps as stepping
from refine_jax.methods.refine import Template
from refine_jax.records import Annotated, Critique, Example, Problem
from refine_jax.tasks.base import Task


def critique(row: Annotated) -> Critique:
  """For train_critic."""
  return Critique(
    id=row.id,
    problem=row.problem,
    question=row.question,
    hypothesis=row.response,
    feedback=row.critique,
    gold=row.gold,
    errors=() if row.right else (row.err_type or "unknown",),
    positions=() if row.err_step is None else (f"#{row.err_step}",),
    origin=row.origin,
  )


def with_positives(
  rows: Sequence[Annotated], share: float, seed: int
) -> Sequence[Annotated]:
  """Right and wrong rows at this share; the larger side loses rows.

  All of the wrong ones where the share is 0, or of the side that there is.

  Raises:
    ValueError: a share outside [0, 1).
  """
  if not 0 <= share < 1:
    raise ValueError(f"a share of positives of {share}")
  right = [r for r in rows if r.right]
  wrong = [r for r in rows if not r.right]
  if not right or not wrong or not share:
    return wrong or right
  total = min(len(right) / share, len(wrong) / (1 - share))
  rng = np.random.default_rng(seed)
  ids = set()
  for group, part in ((right, share), (wrong, 1 - share)):
    order = rng.permutation(len(group))[: round(total * part)]
    ids |= {group[i].id for i in order}
  return [r for r in rows if r.id in ids]


def revisions(
  rows: Sequence[Annotated],
  task: Task,
  template: Template,
  problems: Sequence[Problem],
) -> list[Example]:
  """(x, y, c) -> y, mended as c says.

  Args:
    problems: of the rows; empty for rows that were published.
  """
  by_id = monte_carlo.by_id(problems if hasattr(task, "mend") else ())
  return [
    Example(
      f"{row.id}/revision",
      template.revision(row.question, row.response, row.critique),
      (target,),
    )
    for row in rows
    if (target := _mended(row, task, by_id.get(row.problem)))
  ]


def _mended(row: Annotated, task: Any, problem: Problem | None) -> str:
  """What is right already; a refinement that was verified; the task's own
  mending, which follows the critique; or the gold."""
  if row.right:
    return row.response
  if row.refined:
    return row.refined[0]
  return (problem and task.mend(problem, row.response)) or row.gold


def reasoning(
  task: Task,
  template: Template,
  problems: Sequence[Problem],
  golds: int,
  gold_steps: int,
) -> list[Example]:
  """Gold solutions: of the first `golds` problems (0 for all, -1 for none), and
  of those none of more than `gold_steps` steps (0 for any number)."""
  if golds < 0:
    return []
  return [
    Example(f"{p.id}/gold", template.first(task.prompt(p)), (task.target(p),))
    for p in problems[: golds or None]
    if not gold_steps or len(stepping.of(task, task.target(p))) <= gold_steps
  ]


def located(
  rows: Sequence[Annotated], task: Any, problems: Sequence[Problem]
) -> dict[str, Any]:
  """How many errors are where, and of the kind, that rows say, in percent.

  Only a task that judges steps knows. Of RG2, what rollouts have confirmed.
  """
  known = [
    r for r in rows if r.err_step is not None and r.drop != "rg2-unconfirmed"
  ]
  if not known or not hasattr(task, "judge"):
    return {}
  by_id = monte_carlo.by_id(problems)
  found: dict[str, list[bool]] = collections.defaultdict(list)
  for row in known:
    true = task.judge(by_id[row.problem], row.response)
    found[row.origin].append(true.first == row.err_step)
    if row.err_type:
      found["kind"].append(true.kind == row.err_type)
  shares = {k: 100 * float(np.mean(hits)) for k, hits in sorted(found.items())}
  return {"located_percent": shares}


def counts(
  rows: Sequence[Annotated], kept: Sequence[Annotated]
) -> dict[str, Any]:
  """Of rows that were made and used, by origin, and why others were not."""
  drops = collections.Counter(f"{r.origin}/{r.drop}" for r in rows if r.drop)
  return {
    "rows": len(rows),
    "made": dict(sorted(collections.Counter(r.origin for r in rows).items())),
    "dropped": dict(sorted(drops.items())),
    "cut for the share of positives": sum(r.kept for r in rows) - len(kept),
    "used": dict(sorted(collections.Counter(r.origin for r in kept).items())),
  }
