"""The likelihood filter against loops of its formula, and calibration."""

import math

import numpy as np
import pytest

from refine_jax.algorithms import likelihood


def slow(logprobs, decay):
  """Equation by equation: sum over i of decay to the i times log p_i."""
  result = 0.0
  for i, value in enumerate(logprobs):
    result += decay**i * value
  return result


@pytest.mark.parametrize("decay", [1.0, 0.9, 0.5])
def test_decayed_sums_of_ragged_rows(decay):
  rng = np.random.default_rng(0)
  mask = rng.random((20, 13)) < 0.6  # holes and padding on both sides
  values = np.where(mask, -rng.exponential(size=mask.shape), np.nan)
  expected = [slow(v[m], decay) for v, m in zip(values, mask, strict=True)]
  found = likelihood.decayed_sum(values, mask, decay)
  np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_three_tokens_by_hand():
  given, without = [-0.5, -1.0, -2.0], [-1.0, -1.0, -3.0]
  # 0.5 + 0.9 * 0 + 0.81 * 1
  assert math.isclose(likelihood.gain(given, without), 1.31)
  assert likelihood.gain(without, without) == 0.0
  with pytest.raises(ValueError, match="3 tokens with, 2 without"):
    likelihood.gain(given, without[:2])


def test_aggregates():
  values = np.array([-1.0, -2.0, -4.0])
  aggregates = likelihood.AGGREGATES
  assert math.isclose(aggregates["mean"](values), -7 / 3)
  assert math.isclose(aggregates["sum"](values), -7)
  decayed = -(1 + 0.9 * 2 + 0.81 * 4) / 3
  assert math.isclose(aggregates["decayed"](values), decayed)
  # A candidate without a token is never chosen over one with some.
  assert all(f(values[:0]) == -np.inf for f in aggregates.values())


GAINS = [-2.0, -1.0, 0.0, 0.5, 1.0, 2.0]
LABELS = [False, True, False, True, True, True]


def test_calibration_takes_the_smallest_threshold_that_will_do():
  found = likelihood.calibrate(GAINS, LABELS, 0.95)
  assert found == likelihood.Quality(0.5, 3, 1.0, 0.75, 6 / 7)
  assert likelihood.calibrate(GAINS, LABELS, 0.75).tau == -1.0


def test_ties_are_kept_and_sweeps_are_monotone():
  assert likelihood.quality(GAINS, LABELS, 0.5).kept == 3
  kept = [q.kept for q in likelihood.sweep(GAINS, LABELS)]
  recall = [q.recall for q in likelihood.sweep(GAINS, LABELS)]
  assert kept == sorted(kept, reverse=True) == [6, 5, 4, 3, 2, 1]
  assert recall == sorted(recall, reverse=True)


def test_no_threshold_will_do():
  with pytest.raises(ValueError, match=r"best is 0.500 at 1.000"):
    likelihood.calibrate([1.0, 2.0], [True, False], 0.95)
  with pytest.raises(ValueError, match="0 gains for 0 labels"):
    likelihood.calibrate([], [])
