"""Centroids, cosines and AUC against what they say they are."""

import numpy as np
import pytest

from refine_jax.algorithms import similarity


def sets(seed=0):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=(n, 5)) + shift for n, shift in ((3, 0), (40, 2))]


def slow_centroid(groups):
  total = np.zeros(5)
  for rows in groups:
    mean = sum(rows) / len(rows)
    total += mean / np.sqrt(sum(x * x for x in mean))
  return total / np.sqrt(sum(x * x for x in total))


def test_centroid_is_the_mean_of_the_sets_directions():
  found = similarity.centroid(sets())
  np.testing.assert_allclose(found, slow_centroid(sets()), rtol=1e-12)


def test_a_set_a_hundred_times_over_changes_nothing_unless_pooled():
  small, large = sets()
  many = [np.tile(small, (100, 1)), large]
  once = similarity.centroid([small, large])
  np.testing.assert_allclose(similarity.centroid(many), once, atol=1e-12)
  pooled = similarity.centroid(many, pooled=True)
  assert (
    np.abs(pooled - similarity.centroid([small, large], pooled=True)).max()
    > 0.1
  )
  rows = np.concatenate(many)
  expected = rows.mean(0) / np.linalg.norm(rows.mean(0))
  np.testing.assert_allclose(pooled, expected, rtol=1e-9)


def test_cosine_row_by_row():
  small, large = sets()
  direction = similarity.centroid([small])
  expected = [
    r @ direction / np.linalg.norm(r) / np.linalg.norm(direction) for r in large
  ]
  found = similarity.cosine(large, 3 * direction)
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  assert similarity.cosine(np.zeros((1, 5)), direction) == 0


def test_auc_counts_pairs():
  rng = np.random.default_rng(0)
  scores = rng.integers(0, 6, 40).astype(float)  # many ties
  labels = rng.random(40) < 0.3
  wins = [
    (a > b) + 0.5 * (a == b) for a in scores[labels] for b in scores[~labels]
  ]
  assert np.isclose(similarity.auc(scores, labels), np.mean(wins))
  assert similarity.auc(labels, labels) == 1.0


def test_what_cannot_be_said():
  with pytest.raises(ValueError, match=r"\[3, 0\]"):
    similarity.centroid([np.ones((3, 2)), np.ones((0, 2))])
  with pytest.raises(ValueError, match="positives and negatives"):
    similarity.auc([1.0, 2.0], [True, True])
