"""Difficulty of problems, and what a loop of self-improvement does to it.

Self-improvement samples easy problems over and over and hard ones hardly
ever; iteration by iteration the tail of hard problems narrows
(arXiv 2411.00750). Problems are binned once, by the first actor's pass rate.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np


def bins(pass_rates: Mapping[str, float], count: int = 5) -> dict[str, int]:
  """Problem -> bin; 0 is the hardest, of pass rates up to 1 / count.

  Raises:
    ValueError: a rate outside [0, 1].
  """
  for problem, rate in pass_rates.items():
    if not 0 <= rate <= 1:
      raise ValueError(f"problem {problem!r} has the pass rate {rate}")
  # Rounded: of 32 samples, 6.4 is a bound that floats would blur.
  return {
    problem: max(0, int(np.ceil(round(rate * count, 9))) - 1)
    for problem, rate in pass_rates.items()
  }


def pass_rates(
  correct: Iterable[tuple[str, Sequence[bool]]],
) -> dict[str, float]:
  """(problem, whether its samples are right) -> share; records add up."""
  found: dict[str, list[bool]] = {}
  for problem, flags in correct:
    found.setdefault(problem, []).extend(flags)
  return {p: float(np.mean(flags)) for p, flags in found.items() if flags}


def gini(counts: Sequence[float]) -> float:
  """Inequality of rows per problem: 0 for all alike, towards 1 for one."""
  x = np.sort(np.asarray(counts, float))
  if not x.size or x.sum() == 0:
    return 0.0
  n = x.size
  rank = np.arange(1, n + 1)
  return float(2 * (rank * x).sum() / (n * x.sum()) - (n + 1) / n)


def profile(
  rows: Mapping[str, Sequence[str]],
  bin_of: Mapping[str, int],
  count: int = 5,
  key: Callable[[str], str] = str,
) -> dict[str, list[float]]:
  """What a training set holds of every bin.

  Args:
    rows: problem -> its verified solutions.
    bin_of: of all problems that were asked, solved or not.
    count: how many bins.
    key: what equal solutions share.

  Returns:
    `problems`; `share` of all rows; `coverage`, the share of problems with a
    verified solution; `distinct`, solutions per problem that has one; `words`
    of a solution on average. A bin without problems has a coverage of nan.

  Raises:
    KeyError: rows of a problem nobody asked.
  """
  if extra := set(rows) - set(bin_of):
    raise KeyError(f"rows of problems without a bin: {sorted(extra)[:3]}")
  members = [[p for p, b in bin_of.items() if b == i] for i in range(count)]
  sizes = [[len(rows.get(p, ())) for p in group] for group in members]
  total = max(1, sum(map(sum, sizes)))
  solved = [[p for p in group if rows.get(p)] for group in members]
  return {
    "problems": [len(group) for group in members],
    "share": [sum(s) / total for s in sizes],
    "coverage": [
      len(s) / len(g) if g else float("nan")
      for s, g in zip(solved, members, strict=True)
    ],
    "distinct": [
      float(np.mean([len(set(map(key, rows[p]))) for p in s])) if s else 0.0
      for s in solved
    ],
    "words": [
      float(np.mean([len(text.split()) for p in s for text in rows[p]]))
      if s
      else 0.0
      for s in solved
    ],
  }


def tail_narrowing(
  first: Mapping[str, Sequence[float]], later: Mapping[str, Sequence[float]]
) -> float:
  """The hardest bin's share of rows against its share at first.

  Below 1 the tail narrows; nan where there was none.
  """
  before = first["share"][0]
  return later["share"][0] / before if before else float("nan")


def diversity(rows: Mapping[str, Sequence[str]]) -> dict[str, float]:
  """Distinct solutions per solved problem, their share of all rows, Gini."""
  sizes = [len(keys) for keys in rows.values() if keys]
  distinct = [len(set(keys)) for keys in rows.values() if keys]
  return {
    "distinct": float(np.mean(distinct)) if distinct else 0.0,
    "unique_share": sum(distinct) / sum(sizes) if sizes else 0.0,
    "gini": gini(sizes),
  }
