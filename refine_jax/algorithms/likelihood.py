"""What a rationale does to the likelihood of what follows it.

RATIONALYST's filter (section 3.2): with S = sum_i 0.9^i log p_i over the
tokens of the text that follows, a rationale is kept if it raises S by at least
a threshold. And the thresholds' calibration on labelled rows.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

DECAY = 0.9  # arXiv 2410.01044, section 3.2


def decayed_sum(logprobs_BT, mask_BT, decay: float = DECAY) -> np.ndarray:
  """sum_i decay^i * logprobs_i over each row's tokens, float64 `[B]`.

  i counts a row's own tokens from 0, wherever its padding is.
  """
  mask_BT = np.asarray(mask_BT, bool)
  index_BT = np.cumsum(mask_BT, axis=1) - 1
  weight_BT = np.where(mask_BT, float(decay) ** index_BT, 0.0)
  logprobs_BT = np.where(mask_BT, np.asarray(logprobs_BT, np.float64), 0.0)
  return (weight_BT * logprobs_BT).sum(axis=1)


def total(logprobs: np.ndarray, decay: float = DECAY) -> float:
  """`decayed_sum` of one row; 0 for one without tokens."""
  logprobs = np.asarray(logprobs, np.float64)[None]
  return float(decayed_sum(logprobs, np.ones(logprobs.shape, bool), decay)[0])


def gain(given: np.ndarray, without: np.ndarray, decay: float = DECAY) -> float:
  """By how much a rationale raises the decayed likelihood of one text.

  Args:
    given, without: log-probabilities of the same tokens, with the rationale
      before them and without.

  Raises:
    ValueError: not the same number of tokens.
  """
  if len(given) != len(without):
    raise ValueError(f"{len(given)} tokens with, {len(without)} without")
  return total(given, decay) - total(without, decay)


def mean(logprobs: np.ndarray) -> float:
  """Per token; minus infinity for no token, which is no continuation."""
  return float(np.mean(logprobs)) if len(logprobs) else -np.inf


def decayed_mean(logprobs: np.ndarray, decay: float = DECAY) -> float:
  """The decayed sum per token, as one of the original's scripts has it."""
  return total(logprobs, decay) / len(logprobs) if len(logprobs) else -np.inf


def plain_sum(logprobs: np.ndarray) -> float:
  """Of all tokens; minus infinity for no token."""
  return float(np.sum(logprobs)) if len(logprobs) else -np.inf


AGGREGATES = {"mean": mean, "decayed": decayed_mean, "sum": plain_sum}


@dataclasses.dataclass(frozen=True)
class Quality:
  """How well "gain >= tau" tells good rationales from bad ones."""

  tau: float
  kept: int
  precision: float
  recall: float
  f1: float


def quality(
  gains: Sequence[float], labels: Sequence[bool], tau: float
) -> Quality:
  """Of one threshold; a gain equal to it is kept. Nothing kept: precision 1."""
  kept = np.asarray(gains, np.float64) >= tau
  labels = np.asarray(labels, bool)
  hits = int((kept & labels).sum())
  precision = hits / kept.sum() if kept.any() else 1.0
  recall = hits / labels.sum() if labels.any() else 0.0
  both = precision + recall
  f1 = 2 * precision * recall / both if both else 0.0
  return Quality(
    float(tau), int(kept.sum()), float(precision), float(recall), float(f1)
  )


def sweep(gains: Sequence[float], labels: Sequence[bool]) -> list[Quality]:
  """At every threshold that makes a difference, ascending."""
  return [quality(gains, labels, tau) for tau in sorted({*map(float, gains)})]


def calibrate(
  gains: Sequence[float], labels: Sequence[bool], precision: float = 0.95
) -> Quality:
  """The smallest threshold whose kept rationales are right often enough.

  Raises:
    ValueError: nothing is labelled, or no threshold that keeps anything
      reaches the precision; names the best one.
  """
  if not len(gains) or len(gains) != len(labels):
    raise ValueError(f"{len(gains)} gains for {len(labels)} labels")
  tried = sweep(gains, labels)
  for found in tried:
    if found.precision >= precision:
      return found
  best = max(tried, key=lambda q: q.precision)
  raise ValueError(
    f"no threshold reaches a precision of {precision}; the best is"
    f" {best.precision:.3f} at {best.tau:.3f}"
  )
