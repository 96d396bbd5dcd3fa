"""Figures of critics and of what refinement changes; shares in percent."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from refine_jax.algorithms import intervals


@dataclasses.dataclass(frozen=True)
class Case:
  """One response with what a critic said of it.

  Attributes:
    right: whether the response's answer is.
    said: the critic's final verdict, None if it could not be read.
    first_error: the true first wrong step; None if unknown or there is none.
    found: the first step the critic calls wrong, None for none.
    readable: the whole critique could be read.
    refined: whether the refinement is right; None if there is none.
    confidence: the critic's probability of "right", if it was asked.
  """

  right: bool
  said: bool | None
  first_error: int | None = None
  found: int | None = None
  readable: bool = True
  refined: bool | None = None
  confidence: float | None = None


def discriminability(cases: Sequence[Case]) -> dict[str, float]:
  """`disc`, the share of right verdicts; `disc_c` and `disc_i` on right and on
  wrong responses; an unreadable verdict is wrong, and `parsed` says how rare
  they are. `balanced` is the mean of the two sides: by it, a critic that always
  says one thing is never the best. A set without such responses has no
  figure."""
  found = {k: 100 * float(np.mean(v)) for k, v in verdicts(cases).items()}
  sides = [found[k] for k in ("disc_c", "disc_i") if k in found]
  return {**found, "balanced": float(np.mean(sides))} if sides else found


def verdicts(cases: Sequence[Case]) -> dict[str, list[bool]]:
  """The values that `discriminability` is the mean of."""
  rows = {
    "disc": [c.said == c.right for c in cases],
    "disc_c": [c.said is True for c in cases if c.right],
    "disc_i": [c.said is False for c in cases if not c.right],
    "parsed": [c.readable for c in cases],
    "first_error": [
      c.found == c.first_error for c in cases if c.first_error is not None
    ],
  }
  return {k: v for k, v in rows.items() if v}


def helpfulness(cases: Sequence[Case]) -> dict[str, float]:
  """How often a refinement is right where the response was wrong, in all and
  by verdict; `relev` given a right verdict (Critique-RL's test_filter)."""
  return {k: 100 * float(np.mean(v)) for k, v in helped(cases).items()}


def helped(cases: Sequence[Case]) -> dict[str, list[bool]]:
  """The values that `helpfulness` is the mean of."""
  done = [c for c in cases if c.refined is not None]
  wrong = [c for c in done if not c.right]
  judged = [c for c in done if c.said == c.right]
  rows = {
    "helpfulness": [c.refined for c in wrong],
    "helpfulness/called wrong": [c.refined for c in wrong if c.said is False],
    "helpfulness/called right": [c.refined for c in wrong if c.said],
    "relev": [c.refined for c in judged],
    "relev_c": [c.refined for c in judged if c.right],
    "relev_i": [c.refined for c in judged if not c.right],
  }
  return {k: v for k, v in rows.items() if v}


def transitions(
  before: Sequence[bool], after: Sequence[bool]
) -> dict[str, float]:
  """`c2c c2i i2c i2i`, which sum to 100, and `delta` = i2c - c2i."""
  a, b = np.asarray(before, bool), np.asarray(after, bool)
  if a.shape != b.shape or not a.size:
    raise ValueError(f"{a.shape} responses and {b.shape} refinements")
  rows = {"c2c": a & b, "c2i": a & ~b, "i2c": ~a & b, "i2i": ~a & ~b}
  found = {name: 100 * float(np.mean(v)) for name, v in rows.items()}
  return {**found, "delta": found["i2c"] - found["c2i"]}


def calibration(
  confidence: Sequence[float], right: Sequence[bool], bins: int = 10
) -> dict[str, float]:
  """Expected calibration error over equal bins, and the Brier score.

  `confidence` is the probability of "right"; both figures lie in [0, 1].
  """
  p, y = np.asarray(confidence, float), np.asarray(right, float)
  if p.shape != y.shape or not p.size or np.any((p < 0) | (p > 1)):
    raise ValueError("one probability per response, at least one")
  place = np.minimum((p * bins).astype(int), bins - 1)
  error = sum(
    abs(np.mean(p[place == b]) - np.mean(y[place == b])) * np.mean(place == b)
    for b in range(bins)
    if np.any(place == b)
  )
  return {"ece": float(error), "brier": float(np.mean((p - y) ** 2))}


def with_intervals(
  rows: Mapping[str, Sequence[float]], seed: int = 0
) -> dict[str, dict[str, float]]:
  """Name -> mean, low, high of values that are shares, in percent."""
  return {
    name: dataclasses.asdict(
      intervals.bootstrap(100 * np.asarray(values, float), seed=seed)
    )
    for name, values in rows.items()
    if len(values)
  }
