"""Bootstrap intervals cover what they should and pair what they are given."""

import numpy as np
import pytest

from refine_jax.algorithms import intervals


def test_a_constant_has_no_spread():
  interval = intervals.bootstrap(np.full(50, 0.25))
  assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)


def test_width_is_that_of_the_normal_approximation():
  values = np.random.default_rng(0).random(400) < 0.3
  interval = intervals.bootstrap(values, seed=1, resamples=4000)
  half = 1.96 * values.std() / np.sqrt(len(values))
  assert interval.high - interval.mean == pytest.approx(half, rel=0.1)
  assert interval.mean - interval.low == pytest.approx(half, rel=0.1)


def test_counts_are_resampled_indices():
  # The multinomial form against drawing indices, in distribution.
  values = np.random.default_rng(0).normal(size=60)
  rng = np.random.default_rng(2)
  means = [values[rng.integers(60, size=60)].mean() for _ in range(4000)]
  interval = intervals.bootstrap(values, resamples=4000)
  low, high = np.percentile(means, [2.5, 97.5])
  assert interval.low == pytest.approx(low, abs=0.03)
  assert interval.high == pytest.approx(high, abs=0.03)


def test_pairing_narrows():
  rng = np.random.default_rng(3)
  hard = rng.random(300)
  ours, theirs = hard + 0.1, hard
  interval = intervals.paired(ours, theirs)
  assert interval.low == pytest.approx(0.1)


def test_refuses_what_it_cannot_pair():
  with pytest.raises(ValueError, match="differ in number"):
    intervals.paired(np.zeros(3), np.zeros(4))
  with pytest.raises(ValueError, match="at least one"):
    intervals.bootstrap(np.zeros(0))


def test_wilson_is_a_score_interval():
  """Its bounds are the shares from which the observed one is z errors away."""
  for hits, count in ((0, 7), (3, 9), (16, 20), (5, 5)):
    found = intervals.wilson(hits, count)
    for bound in (found.low, found.high):
      error = np.sqrt(bound * (1 - bound) / count)
      assert abs(found.mean - bound) == pytest.approx(1.959964 * error)
  with pytest.raises(ValueError, match="3 of 2"):
    intervals.wilson(3, 2)
