"""Percentile bootstrap intervals (Efron 1979), alone and paired, and Wilson's
(1927) for a share of which only the counts are known."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Interval:
  """A mean with the bounds of its 95 % interval."""

  mean: float
  low: float
  high: float

  def __str__(self) -> str:
    return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"

  def scaled(self, factor: float) -> "Interval":
    return Interval(*(factor * x for x in dataclasses.astuple(self)))


def bootstrap(
  values: np.ndarray,
  *,
  seed: int = 0,
  resamples: int = 1000,
  level: float = 0.95,
) -> Interval:
  """The interval of the mean of `values`, one value per problem.

  Raises:
    ValueError: no values.
  """
  values = np.asarray(values, np.float64)
  if not values.size:
    raise ValueError("an interval needs at least one value")
  rng = np.random.default_rng(seed)
  # Multinomial counts stand for drawn indices: the same distribution, without
  # an array of resamples x problems indices.
  counts = rng.multinomial(
    values.size, np.full(values.size, 1 / values.size), size=resamples
  )
  means = counts @ values / values.size
  tail = 100 * (1 - level) / 2
  low, high = np.percentile(means, [tail, 100 - tail])
  return Interval(float(values.mean()), float(low), float(high))


def wilson(hits: float, count: float, z: float = 1.959964) -> Interval:
  """The score interval of the share `hits / count`, in [0, 1].

  Raises:
    ValueError: no cases, or more hits than cases.
  """
  if not 0 <= hits <= count or not count:
    raise ValueError(f"{hits} of {count}")
  share, square = hits / count, z * z / count
  centre = (share + square / 2) / (1 + square)
  half = z * math.sqrt(share * (1 - share) / count + square / count / 4)
  half /= 1 + square
  return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def paired(
  ours: np.ndarray, theirs: np.ndarray, *, seed: int = 0, **settings
) -> Interval:
  """The interval of the mean difference on the same problems.

  Raises:
    ValueError: the two do not hold one value per problem each.
  """
  ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
  if ours.shape != theirs.shape:
    raise ValueError(
      f"paired values differ in number: {ours.shape} and {theirs.shape}"
    )
  return bootstrap(ours - theirs, seed=seed, **settings)
