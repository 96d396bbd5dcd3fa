"""McNemar's exact test: do two methods differ on the same problems?"""

import math

import numpy as np


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> float:
  """The two-sided p-value of equal accuracy (McNemar 1947, exact binomial).

  Args:
    ours, theirs: whether each problem was answered rightly.

  Raises:
    ValueError: not one value per problem each.
  """
  ours, theirs = np.asarray(ours, bool), np.asarray(theirs, bool)
  if ours.shape != theirs.shape:
    raise ValueError(
      f"paired values differ in number: {ours.shape} and {theirs.shape}"
    )
  gained = int((ours & ~theirs).sum())
  lost = int((~ours & theirs).sum())
  n, k = gained + lost, min(gained, lost)
  # In logarithms: 2**n overflows a float from 1,024 discordant pairs on.
  logs = [
    math.lgamma(n + 1)
    - math.lgamma(i + 1)
    - math.lgamma(n - i + 1)
    - n * math.log(2)
    for i in range(k + 1)
  ]
  return min(1.0, 2 * math.fsum(math.exp(x) for x in logs))
