"""Cosine similarity of documents to what reasoning data sets look like."""

from collections.abc import Sequence

import numpy as np


def centroid(sets: Sequence[np.ndarray], *, pooled: bool = False) -> np.ndarray:
  """What several sets of embeddings `[N, D]` look like, a unit vector.

  The mean of the sets' own directions, so that a large set counts as much as
  a small one. `pooled` is RATIONALYST's code instead: the mean over all rows.

  Raises:
    ValueError: no set, or one without rows.
  """
  if not sets or not all(len(rows) for rows in sets):
    raise ValueError(
      f"a centroid needs rows in every set; there are {[*map(len, sets)]}"
    )
  if pooled:
    return _unit(np.concatenate(sets).astype(np.float64).mean(0))
  means = [_unit(rows.astype(np.float64).mean(0)) for rows in sets]
  return _unit(np.mean(means, axis=0))


def cosine(rows_ND: np.ndarray, direction_D: np.ndarray) -> np.ndarray:
  """Of every row with a direction, `[N]` float64; 0 for a row of zeros."""
  rows_ND = np.asarray(rows_ND, np.float64)
  norm_N = np.linalg.norm(rows_ND, axis=-1)
  return rows_ND @ _unit(direction_D) / np.where(norm_N, norm_N, 1.0)


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
  """The chance that a positive scores above a negative; ties count half.

  Raises:
    ValueError: one of the two kinds is missing.
  """
  scores, labels = np.asarray(scores), np.asarray(labels, bool)
  positive, negative = scores[labels], np.sort(scores[~labels])
  if not len(positive) or not len(negative):
    raise ValueError("an AUC needs positives and negatives")
  below = np.searchsorted(negative, positive, "left")
  up_to = np.searchsorted(negative, positive, "right")
  return float((below + up_to).mean() / (2 * len(negative)))


def _unit(x_D: np.ndarray) -> np.ndarray:
  norm = float(np.linalg.norm(x_D))
  return x_D / norm if norm else x_D
