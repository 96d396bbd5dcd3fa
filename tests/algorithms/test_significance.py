"""McNemar's exact p-value against SciPy's binomial test and by hand."""

import numpy as np
import pytest
from scipy import stats

from refine_jax.algorithms.significance import mcnemar


@pytest.mark.parametrize(("gained", "lost"), [(9, 2), (3, 3), (0, 7), (70, 40)])
def test_the_binomial_test_on_discordant_pairs(gained, lost):
  ours = np.r_[np.ones(gained), np.zeros(lost), np.ones(5), np.zeros(4)]
  theirs = np.r_[np.zeros(gained), np.ones(lost), np.ones(5), np.zeros(4)]
  expected = stats.binomtest(gained, gained + lost).pvalue
  assert np.isclose(mcnemar(ours, theirs), expected)
  assert np.isclose(mcnemar(theirs, ours), expected)


def test_by_hand_and_without_overflow():
  assert np.isclose(mcnemar([1, 1, 1, 0], [0, 0, 0, 0]), 2 * 0.5**3)
  assert mcnemar([1, 0], [1, 0]) == 1.0
  many = np.ones(3000), np.zeros(3000)
  assert mcnemar(*many) < 1e-300 or mcnemar(*many) == 0
  with pytest.raises(ValueError, match="differ in number"):
    mcnemar([1], [1, 0])
