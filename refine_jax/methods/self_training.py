"""Offline self-training: sample, check, keep what is right.

ReFT (arXiv 2401.08967, section 1.5 of its code's settings): the warm-up model
answers its own training questions; of the correct completions of each a few
distinct ones join the gold, and a model is trained on them from the start.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from refine_jax.methods.refine import Template
from refine_jax.records import (
  Attempts,
  Candidate,
  Example,
  Problem,
  Prompt,
  Sample,
)
from refine_jax.sampling.settings import Request
from refine_jax.tasks.base import Task

CHOICES = ("random", "first")


def requests(
  task: Task, template: Template, problems: Sequence[Problem], n: int
) -> list[Request]:
  """`n` completions of every problem's bare question.

  Where the task forces a prefix, it ends the prompt that is continued.
  """
  return [Request(p.id, continued(task, template, p), n=n) for p in problems]


def continued(task: Task, template: Template, problem: Problem) -> Prompt:
  """What a sampler goes on from: the bare question and the forced prefix."""
  prefix = task.prefix(problem)
  prompt = template.first(task.prompt(problem))
  return (*prompt, prefix) if prefix else prompt


def checked(
  task: Task,
  problems: Sequence[Problem],
  groups: Sequence[Sequence[Sample]],
  suffix: str = "",
) -> list[Attempts]:
  """What the task thinks of every sample; all are checked in one batch.

  A forced prefix becomes part of the completion. `suffix` is added to ids,
  where several models sample the same problems.
  """
  flat = [
    (problem, sample)
    for problem, group in zip(problems, groups, strict=True)
    for sample in group
  ]
  texts = [task.prefix(problem) + sample.text for problem, sample in flat]
  owners = [problem for problem, _ in flat]
  columns = zip(
    texts,
    (sample for _, sample in flat),
    task.answers(texts),
    task.check_all(owners, texts),
    task.rewards(owners, texts),
    strict=True,
  )
  candidates = [_candidate(task, *column) for column in columns]
  rows, start = [], 0
  for problem, group in zip(problems, groups, strict=True):
    rows.append(
      Attempts(
        id=problem.id + suffix,
        problem=problem.id,
        question=task.prompt(problem),
        # Published test rows have an answer and nothing to learn from.
        gold=task.target(problem) if problem.gold else "",
        candidates=tuple(candidates[start : start + len(group)]),
      )
    )
    start += len(group)
  return rows


def _candidate(task, text, sample, answer, correct, reward) -> Candidate:
  return Candidate(
    text=text,
    answer=answer,
    vote=task.canonical(text),
    correct=bool(correct),
    reward=float(reward),
    finish=sample.finish,
    tokens=len(sample.tokens),
    logprob=float(sum(sample.model_logprobs)),
  )


def examples(
  task: Task,
  problems: Sequence[Problem],
  attempts: Iterable[Attempts],
  template: Template,
  *,
  cap: int,
  choose: str,
  gold: int,
  seed: int,
) -> list[Example]:
  """The training set, problem by problem; a problem never solved has its gold.

  Completions are compared without white space at their ends, and lose what is
  at the right one (a program's body begins with its indent). One that is the
  gold counts as the gold's first copy, so that `gold=1` has it once whatever
  was sampled.

  Args:
    task, problems: give questions and golds.
    attempts: samples of these problems, in any number of records each.
    template: makes prompts.
    cap: distinct correct completions kept per problem at most.
    choose: `random` or `first`; random ones keep the order they came in.
    gold: copies of the gold; 0 leaves it to the samples.
    seed: of the random choice.

  Raises:
    ValueError: another rule, or attempts at a problem that is not among
      `problems`.
  """
  if choose not in CHOICES:
    raise ValueError(f"choose is one of {CHOICES}, not {choose!r}")
  if cap < 0 or gold < 0:
    raise ValueError(f"cap={cap} and gold={gold} must not be negative")
  right = _distinct_correct(problems, attempts)
  made = []
  for i, problem in enumerate(problems):
    texts = list(right[problem.id].values())
    if choose == "random" and len(texts) > cap:
      rng = np.random.default_rng([seed, i])
      kept = np.sort(rng.choice(len(texts), cap, replace=False))
      texts = [texts[j] for j in kept]
    texts = _with_gold(texts[:cap], task.target(problem), gold)
    prompt = template.first(task.prompt(problem))
    made += [
      Example(id=f"{problem.id}/{name}", prompt=prompt, target=(text,))
      for name, text in texts
    ]
  return made


def _distinct_correct(problems, attempts) -> dict[str, dict[str, str]]:
  """Problem -> its correct texts, in order, each once (by its bare text)."""
  right = {problem.id: {} for problem in problems}
  for row in attempts:
    if row.problem not in right:
      raise ValueError(
        f"samples of problem {row.problem!r}, which the split does not have"
      )
    for candidate in row.candidates:
      if candidate.correct:
        text = candidate.text
        right[row.problem].setdefault(text.strip(), text.rstrip())
  return right


def _with_gold(texts: list[str], target: str, copies: int):
  """(name, text) of each example; `copies` of the gold among them."""
  named = [(f"s{i}", text) for i, text in enumerate(texts)]
  there = target.strip() in {text.strip() for text in texts}
  missing = copies - there
  return named + [(f"gold{i}", target) for i in range(missing)]


def counts(
  problems: Sequence[Problem],
  attempts: Sequence[Attempts],
  made: Sequence[Example],
) -> dict[str, float]:
  """Figures for the stage's report."""
  solved = {
    row.problem for row in attempts for c in row.candidates if c.correct
  }
  flat = [c for row in attempts for c in row.candidates]
  return {
    "problems": len(problems),
    "solved": len(solved),
    "samples": len(flat),
    "correct": sum(c.correct for c in flat),
    "examples": len(made),
    "gold": sum(e.id.rpartition("/")[2].startswith("gold") for e in made),
  }
