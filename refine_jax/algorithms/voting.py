"""One answer out of many samples: votes, reranking, pass@k.

Here B counts problems and S samples of each. An answer is a number that
stands for all completions which vote together, -1 where there is none. Every
rule looks at the first k samples of a problem and gives the index of the
sample it takes, -1 where no sample has an answer (which is then wrong).

Ties go to the answer that was sampled first (ReFT section 4), for votes,
weighted votes and scores alike.
"""

import numpy as np


def vote(answers_BS: np.ndarray, k: int) -> np.ndarray:
  """The first sample of the commonest answer, `[B]`."""
  return weighted_vote(answers_BS, np.ones(np.shape(answers_BS)), k)


def weighted_vote(
  answers_BS: np.ndarray, weights_BS: np.ndarray, k: int
) -> np.ndarray:
  """The first sample of the answer with the largest sum of weights, `[B]`.

  Equal completions count as often as they were sampled.

  Args:
    answers_BS: see the module.
    weights_BS: not negative; a score per sample, such as a reranker's
      probability.
    k: samples looked at.

  Raises:
    ValueError: k of more samples than there are, or a negative weight.
  """
  answers_BS, weights_BS = _first(k, answers_BS, weights_BS)
  if np.any(weights_BS < 0):
    raise ValueError("weights of votes must not be negative")
  same_BSS = answers_BS[:, :, None] == answers_BS[:, None, :]
  # Sample i's answer has this much behind it; argmax takes the first of
  # equals, which is the answer seen first.
  behind_BS = np.einsum("BST,BT->BS", same_BSS, weights_BS)
  return _best(behind_BS, answers_BS)


def rerank(answers_BS: np.ndarray, scores_BS: np.ndarray, k: int) -> np.ndarray:
  """The sample with the largest score among those with an answer, `[B]`.

  Completions sampled twice have one score, so that leaving out the second
  changes nothing.

  Raises:
    ValueError: k of more samples than there are, or a score that is nan.
  """
  answers_BS, scores_BS = _first(k, answers_BS, scores_BS)
  if np.any(np.isnan(scores_BS)):
    raise ValueError("a score is nan")
  return _best(scores_BS, answers_BS)


def _best(values_BS, answers_BS):
  """First argmax where there is an answer; -1 where there is none."""
  there_BS = answers_BS >= 0
  # Ranked, not compared: a score of -inf still beats having no answer.
  index_B = np.argmax(
    np.where(there_BS, np.maximum(values_BS, -1e300), -np.inf), axis=1
  )
  return np.where(there_BS.any(axis=1), index_B, -1)


def _first(k: int, answers_BS, values_BS):
  answers_BS = np.asarray(answers_BS)
  values_BS = np.asarray(values_BS, np.float64)
  if values_BS.shape != answers_BS.shape:
    raise ValueError(
      f"answers and values differ in shape: {answers_BS.shape} and"
      f" {values_BS.shape}"
    )
  if not 1 <= k <= answers_BS.shape[1]:
    raise ValueError(f"k={k} of {answers_BS.shape[1]} samples")
  return answers_BS[:, :k], values_BS[:, :k]


def credit(correct_BS: np.ndarray, index_B: np.ndarray) -> np.ndarray:
  """Whether the sample taken is right, `[B]` float64; -1 is wrong."""
  correct_BS = np.asarray(correct_BS, bool)
  taken_B = np.take_along_axis(
    correct_BS, np.maximum(index_B, 0)[:, None], axis=1
  )
  return np.where(np.asarray(index_B) >= 0, taken_B[:, 0], False).astype(float)


def pass_at(correct_BS: np.ndarray, k: int) -> np.ndarray:
  """The chance that k of the S samples hold a right one, `[B]` float64.

  `1 - C(S - c, k) / C(S, k)` with c right ones: unbiased in the sampler's
  own pass@k (arXiv 2107.03374, eq. 1).

  Raises:
    ValueError: k of more samples than there are.
  """
  correct_BS = np.asarray(correct_BS, bool)
  n = correct_BS.shape[1]
  if not 1 <= k <= n:
    raise ValueError(f"k={k} of {n} samples")
  wrong_B1 = (~correct_BS).sum(axis=1)[:, None]
  # One factor per draw: nothing overflows, and it is 0 as soon as wrong ones
  # run out.
  draw_K = np.arange(k)
  return 1 - np.prod(np.maximum(wrong_B1 - draw_K, 0) / (n - draw_K), axis=1)
