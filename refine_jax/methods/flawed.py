"""Flawed solutions, and what is known of where they went wrong.

AutoMathCritique's first stage (arXiv 2411.16579): RG1 samples from scratch,
RG2 goes on from a step of a right solution at a raised temperature, RG3
plants an error and lets the actor go on from it. Where the first error is
said to be is confirmed by rollouts for RG2, whose raised steps may be right.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from refine_jax.methods import steps as stepping
from refine_jax.methods.refine import Proposer, Template
from refine_jax.records import Annotated, Attempts, Problem, Prompt
from refine_jax.sampling.settings import Request, Sampling
from refine_jax.tasks.base import Task, squeeze

# Of no published taxonomy; source: unverified.
ERROR_TYPES = (
  "calculation",
  "operator",
  "copied number",
  "missing step",
  "misread quantity",
  "formula",
  "sign or logic",
  "premature answer",
)


@dataclasses.dataclass(frozen=True)
class Actor:
  """Who goes on with half a solution.

  Attributes:
    propose: requests -> samples.
    template: its prompts.
    sampling: settings, of which the temperature is replaced.
  """

  propose: Proposer
  template: Template
  sampling: Sampling

  def tails(
    self, rows: Sequence[tuple[str, str, str]], n: int, temperature: float
  ) -> list[list[str]]:
    """n ways to end each (name, question, prefix)."""
    settings = dataclasses.replace(self.sampling, temperature=temperature)
    requests = [
      Request(name, self._prompt(question, prefix), n=n, sampling=settings)
      for name, question, prefix in rows
    ]
    return [[s.text for s in group] for group in self.propose(requests)]

  def _prompt(self, question: str, prefix: str) -> Prompt:
    start = self.template.first(question)
    return (*start, prefix) if prefix else start


def joined(prefix: str, gap: str, tail: str) -> str:
  """A prefix and what came after it, with what stands between two steps.

  The tail may bring it: a model goes on right behind the prefix, and some
  tokenizers do not give back the white space that a text began with.
  """
  if not prefix or not tail:
    return prefix or tail
  if tail[0].isspace():
    return prefix + tail
  mark = gap.strip()
  if mark and tail.startswith(mark):
    gap = gap[: len(gap) - len(gap.lstrip())]
  return prefix + gap + tail


def row_of(
  task: Task, problem: Problem, response: str, id: str, **fields
) -> Annotated:
  return Annotated(
    id=f"{problem.id}/{id}",
    problem=problem.id,
    question=task.prompt(problem),
    response=response,
    answer=problem.answer,
    gold=task.target(problem),
    steps=tuple(stepping.of(task, response)),
    **fields,
  )


def sampled(
  task: Task,
  problems: Sequence[Problem],
  attempts: Mapping[str, Attempts],
  *,
  right: bool,
  cap: int,
  temperature: float,
) -> list[Annotated]:
  """RG1, or with `right` the positives: at most `cap` distinct ones each.

  Wrong ones have ended by themselves, in some answer.
  """
  rows = []
  for problem in problems:
    seen = set()
    for i, one in enumerate(attempts[problem.id].candidates):
      key = squeeze(one.text)
      usable = one.finish == "eos" and one.answer is not None
      if one.correct != right or not usable or key in seen or len(seen) >= cap:
        continue
      seen.add(key)
      origin = "pos" if right else "rg1"
      gen = {"temperature": temperature, "sample": i}
      rows.append(
        row_of(task, problem, one.text, f"{origin}/{i}", origin=origin, gen=gen)
      )
  return rows


def raised(
  task: Task,
  problems: Mapping[str, Problem],
  good: Sequence[Annotated],
  actor: Actor,
  *,
  ladder: Sequence[float],
  tries: int,
  seed: int,
) -> list[Annotated]:
  """RG2: each good solution left at a random step, hotter until it is wrong.

  Args:
    task: checks.
    problems: by id.
    good: verified solutions, one row out of each at most.
    actor: goes on.
    ladder: temperatures, one after another.
    tries: tails at each.
    seed: of the steps. It is never the last one, the bare answer.
  """
  left = {row.id: (row, *_left(row, [seed, i])) for i, row in enumerate(good)}
  left = {name: found for name, found in left.items() if found[1] is not None}
  found = []
  for temperature in ladder:
    asked = list(left.values())
    starts = [
      (f"{row.id}/rg2/{temperature}", row.question, prefix)
      for row, _, prefix in asked
    ]
    groups = actor.tails(starts, tries, temperature)
    for (row, at, prefix), tails in zip(asked, groups, strict=True):
      gap = stepping.gap(row.response, row.steps, at)
      texts = [joined(prefix, gap, tail) for tail in tails]
      problem = problems[row.problem]
      if wrong := _wrong(task, problem, texts):
        gen = {"temperature": temperature, "from": at, "of": row.id}
        name = f"rg2/{row.id.removeprefix(row.problem + '/')}"
        fields = {"origin": "rg2", "err_step": at, "gen": gen}
        found.append(row_of(task, problem, wrong, name, **fields))
        del left[row.id]
  return found


def _left(row: Annotated, seed) -> tuple[int | None, str]:
  """Where a solution is left, never at its last step, and what is kept."""
  if len(row.steps) < 2:
    return None, ""
  at = int(np.random.default_rng(seed).integers(len(row.steps) - 1))
  prefix = stepping.prefix(row.response, row.steps, at)
  return (None, "") if prefix is None else (at, prefix)


def _wrong(task: Task, problem: Problem, texts: Sequence[str]) -> str | None:
  """The first text that comes to an answer which is wrong."""
  right = task.check_all([problem] * len(texts), texts)
  for text, fine in zip(texts, right, strict=True):
    if not fine and task.answer(text) is not None:
      return text
  return None


def confirmed(
  task: Task,
  problems: Mapping[str, Problem],
  rows: Sequence[Annotated],
  actor: Actor,
  *,
  rollouts: int,
  temperature: float,
  before: float,
  collapse: float,
  tolerance: int = 1,
) -> list[Annotated]:
  """RG2's rows with the error where rollouts find it; others are dropped.

  The first error is the first step after which solutions that went on from
  before it do not come out right any more. It may be `tolerance` steps later
  than where the temperature was raised, since raised steps may be right.

  Args:
    task, problems, rows, actor: as in `raised`.
    rollouts, temperature: per prefix.
    before: the share that must come out right before the step.
    collapse: after it, at most this times the share before.
    tolerance: steps.

  Returns:
    all rows; what could not be confirmed has `kept` False.
  """
  wanted = [
    (i, count)
    for i, row in enumerate(rows)
    for count in range(row.err_step, row.err_step + tolerance + 2)
    if count < len(row.steps)
  ]
  asked = [
    (
      f"{rows[i].id}/upto{count}",
      rows[i].question,
      stepping.prefix(rows[i].response, rows[i].steps, count) or "",
    )
    for i, count in wanted
  ]
  groups = actor.tails(asked, rollouts, temperature)
  share = {}
  for (i, count), (_, _, prefix), tails in zip(
    wanted, asked, groups, strict=True
  ):
    row, problem = rows[i], problems[rows[i].problem]
    gap = stepping.gap(row.response, row.steps, count)
    texts = [joined(prefix, gap, tail) for tail in tails]
    right = task.check_all([problem] * len(texts), texts)
    share[i, count] = float(np.mean(right))
  return [
    _located(row, i, share, before, collapse, tolerance)
    for i, row in enumerate(rows)
  ]


def _located(row, i, share, before, collapse, tolerance) -> Annotated:
  for at in range(row.err_step, row.err_step + tolerance + 1):
    # All steps taken, the answer is known to be wrong.
    good, bad = share.get((i, at), 0.0), share.get((i, at + 1), 0.0)
    if good < before:
      break
    if bad <= collapse * good:
      gen = {**row.gen, "before": good, "after": bad}
      return dataclasses.replace(row, err_step=at, gen=gen)
  return dataclasses.replace(row, kept=False, drop="rg2-unconfirmed")


# What is to go wrong: the problem, a generator, the kind of error.
Wanted = tuple[Problem, np.random.Generator, str]
# Steps with the error last, the place of the error, and the whole solution
# gone wrong; without one the steps again.
Planted = tuple[str, int, str]
# Plants all that is wanted at once; None where there is nothing to plant in.
# The second argument: whether whole solutions are wanted, since nobody else
# will go on from the error.
Planter = Callable[[Sequence[Wanted], bool], list[Planted | None]]


def planter_of(task: Task) -> Planter:
  """A task's own planter (`plant`), which knows the truth of every step."""

  def one(problem, rng, kind):
    found = task.plant(problem, rng, kind)
    if found is None:
      return None
    text, at = found
    prefix = stepping.prefix(text, stepping.of(task, text), at + 1)
    return None if prefix is None else (prefix, at, text)

  return lambda wanted, whole: [one(*row) for row in wanted]


def planted(
  task: Task,
  problems: Sequence[Problem],
  plant: Planter,
  kinds: Sequence[str],
  actor: Actor | None,
  *,
  per_problem: int,
  temperature: float,
  seed: int,
  gap: str,
) -> list[Annotated]:
  """RG3: errors of known kind and place; kept where the answer is wrong.

  Args:
    task, problems: what is to go wrong.
    plant: writes the errors; asked once.
    kinds: of error, dealt in turn.
    actor: goes on from the error; the planter's own solution is taken without
      one, where it comes to no answer, and where the error is to have ended.
    per_problem: errors planted in each.
    temperature: of going on.
    seed: of the errors.
    gap: what stands between two steps.
  """
  places = [(i, k) for i in range(len(problems)) for k in range(per_problem)]
  wanted = [
    (
      problems[i],
      np.random.default_rng([seed, i, k]),
      kinds[(i * per_problem + k) % len(kinds)],
    )
    for i, k in places
  ]
  drawn = [
    (problem, kind, k, *found)
    for (_, k), (problem, _, kind), found in zip(
      places, wanted, plant(wanted, actor is None), strict=True
    )
    if found
  ]
  texts = [whole for *_, whole in drawn]
  if actor is not None:
    asked = [
      (f"{problem.id}/rg3/{k}", task.prompt(problem), prefix)
      for problem, _, k, prefix, _, _ in drawn
    ]
    tails = actor.tails(asked, 1, temperature)
    texts = [
      _gone_on(task, problem, prefix, gap, tail, whole)
      for (problem, _, _, prefix, _, whole), (tail,) in zip(
        drawn, tails, strict=True
      )
    ]
  owners = [problem for problem, *_ in drawn]
  rows = []
  for (problem, kind, k, _, at, _), text, right in zip(
    drawn, texts, task.check_all(owners, texts), strict=True
  ):
    if right or task.answer(text) is None:
      continue
    fields = {"origin": "rg3", "err_step": at, "err_type": kind}
    rows.append(row_of(task, problem, text, f"rg3/{k}", **fields))
  return rows


def over(task: Task, problem: Problem, prefix: str) -> bool:
  """Whether the error is an answer that came too early: nobody goes on.

  A task that finds answers in any text cannot tell.
  """
  if task.answer(prefix) is None:
    return False
  gold = task.target(problem)
  steps = stepping.of(task, gold)
  before = stepping.prefix(gold, steps, max(0, len(steps) - 1))
  return not before or task.answer(before) is None


def _gone_on(
  task: Task, problem: Problem, prefix: str, gap: str, tail: str, whole: str
) -> str:
  """The prefix with its tail; `whole` where that comes to no answer, or where
  the error is an answer that came too early."""
  if over(task, problem, prefix):
    return whole
  text = joined(prefix, gap, tail)
  return whole if task.answer(text) is None else text
