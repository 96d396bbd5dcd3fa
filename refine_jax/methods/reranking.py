"""What a reranker learns from and how it is judged.

ReFT section 4: the warm-up model's samples, prompt and completion, without
repeats within a problem, labelled right or wrong.
"""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from refine_jax.methods import selection
from refine_jax.methods.refine import Template
from refine_jax.records import Attempts, Prompt


@dataclasses.dataclass(frozen=True)
class Row:
  """A completion to be scored.

  Attributes:
    id: of the row; problem: of its problem.
    prompt: what the completion continues.
    text: the completion.
    correct: its label.
  """

  id: str
  problem: str
  prompt: Prompt
  text: str
  correct: bool


def rows(
  attempts: Iterable[Attempts],
  template: Template,
  *,
  per_problem: int = 0,
  seed: int = 0,
) -> list[Row]:
  """Distinct completions of every problem, problem by problem.

  Args:
    attempts: samples, in any number of records per problem.
    template: makes prompts.
    per_problem: a seeded random choice of so many of each; 0 keeps all.
    seed: of the choice.
  """
  groups: dict[str, dict[str, Row]] = collections.defaultdict(dict)
  for record in attempts:
    prompt = template.first(record.question)
    group = groups[record.problem]
    for candidate in record.candidates:
      name = f"{record.problem}/{len(group)}"
      row = Row(name, record.problem, prompt, candidate.text, candidate.correct)
      group.setdefault(candidate.text, row)
  return [
    row
    for i, group in enumerate(groups.values())
    for row in _some(list(group.values()), per_problem, [seed, i])
  ]


def _some(group: list[Row], count: int, seed) -> list[Row]:
  if not count or len(group) <= count:
    return group
  rng = np.random.default_rng(seed)
  return [group[i] for i in np.sort(rng.choice(len(group), count, False))]


def hold_out(
  attempts: Sequence[Attempts], count: int
) -> tuple[list[Attempts], list[Attempts]]:
  """The rest, and the last `count` problems (a fifth at most), whole."""
  problems = list(dict.fromkeys(row.problem for row in attempts))
  count = min(count, len(problems) // 5)
  held = set(problems[len(problems) - count :])
  return (
    [row for row in attempts if row.problem not in held],
    [row for row in attempts if row.problem in held],
  )


def weights(correct: Sequence[bool], balance: float) -> np.ndarray:
  """A weight per row, 1 on average.

  At `balance` 0 all are 1; at 1 both classes weigh the same in all; between,
  in proportion. A single class keeps its ones.

  Raises:
    ValueError: a balance outside [0, 1].
  """
  if not 0 <= balance <= 1:
    raise ValueError(f"balance must lie in [0, 1], got {balance}")
  label = np.asarray(correct, bool)
  share = label.mean() if label.size else 0.0
  if share in (0.0, 1.0):
    return np.ones(label.shape, np.float32)
  even = np.where(label, 0.5 / share, 0.5 / (1 - share))
  return ((1 - balance) + balance * even).astype(np.float32)


def figures(
  attempts: Iterable[Attempts], rows: Sequence[Row], scores: np.ndarray
) -> dict[str, float]:
  """`rerank`, `vote` and `pass`, in percent, over all samples of each problem.

  `scores` are of `rows`, which hold every completion of `attempts`.
  """
  known = {
    (row.problem, row.text): score
    for row, score in zip(rows, scores, strict=True)
  }
  merged = selection.merged(attempts)
  found = {"rerank": [], "vote": [], "pass": []}
  for record in merged:  # one by one: they need not have equally many
    table = selection.table([record], known)
    size = len(record.candidates)
    values = selection.per_problem(table, None, [size])
    for rule, kept in found.items():
      kept.append(values[f"{rule}@{size}"][0])
  return {rule: float(np.mean(kept)) for rule, kept in found.items()}


def auc(scores: np.ndarray, correct: np.ndarray) -> float:
  """The chance that a right one scores above a wrong one; ties count half."""
  scores, correct = np.asarray(scores, float), np.asarray(correct, bool)
  right, wrong = int(correct.sum()), int((~correct).sum())
  if not right or not wrong:
    return float("nan")
  _, place, size = np.unique(scores, return_inverse=True, return_counts=True)
  rank = np.cumsum(size) - (size - 1) / 2  # of equals, the mean of their ranks
  total = rank[place][correct].sum() - right * (right + 1) / 2
  return float(total / (right * wrong))
