"""Votes, reranking and pass@k against slow loops, ties by hand."""

import itertools
import math

import numpy as np
import pytest

from refine_jax.algorithms import intervals, voting


def slow_vote(answers, weights, k):
  """Counts in order of appearance; the first of equals."""
  sums, first = {}, {}
  for i, (answer, weight) in enumerate(zip(answers, weights, strict=True)):
    if i < k and answer >= 0:
      first.setdefault(answer, i)
      sums[answer] = sums.get(answer, 0.0) + weight
  if not sums:
    return -1
  best = None
  for answer, total in sums.items():
    if best is None or total > sums[best]:
      best = answer
  return first[best]


def slow_rerank(answers, scores, k):
  best = -1
  for i in range(k):
    if answers[i] >= 0 and (best < 0 or scores[i] > scores[best]):
      best = i
  return best


def slow_pass(correct, k):
  """Every way to draw k of them."""
  draws = list(itertools.combinations(correct, k))
  return sum(any(draw) for draw in draws) / len(draws)


@pytest.fixture(scope="module")
def samples():
  rng = np.random.default_rng(0)
  answers = rng.integers(-1, 3, (60, 7))
  answers[0] = -1
  # Few values, so that there are ties.
  scores = rng.integers(0, 4, answers.shape) / 4
  return answers, scores, (answers == 1) | (answers == 2)


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_votes_and_scores_are_the_loops(samples, k):
  answers, scores, _ = samples
  found = {
    "vote": voting.vote(answers, k),
    "weighted": voting.weighted_vote(answers, scores, k),
    "rerank": voting.rerank(answers, scores, k),
  }
  rows = range(len(answers))
  expected = {
    "vote": [slow_vote(answers[i], np.ones(7), k) for i in rows],
    "weighted": [slow_vote(answers[i], scores[i], k) for i in rows],
    "rerank": [slow_rerank(answers[i], scores[i], k) for i in rows],
  }
  for name, want in expected.items():
    assert found[name].tolist() == want, name
  assert found["vote"][0] == -1 and min(found["vote"]) == -1


@pytest.mark.parametrize("k", [1, 3, 6])
def test_pass_at_k_counts_all_draws(samples, k):
  correct = samples[2]
  expected = [slow_pass(row, k) for row in correct]
  np.testing.assert_allclose(voting.pass_at(correct, k), expected, atol=1e-12)


def test_pass_at_k_is_the_formula_of_many_samples():
  correct = np.arange(200)[None] < 13
  expected = 1 - math.comb(187, 100) / math.comb(200, 100)
  np.testing.assert_allclose(voting.pass_at(correct, 100), expected, rtol=1e-12)


def test_ties_go_to_the_answer_sampled_first():
  answers = np.array([[-1, 7, 4, 4, 7, 9]])
  assert voting.vote(answers, 6) == [1]
  assert voting.vote(answers, 4) == [2]
  weights = np.array([[9.0, 0.5, 0.25, 0.25, 0.0, 0.5]])
  assert voting.weighted_vote(answers, weights, 6) == [1]
  assert voting.rerank(answers, weights, 6) == [1]


def test_a_sample_without_an_answer_is_never_taken():
  answers = np.array([[-1, 3], [-1, -1]])
  scores = np.array([[1.0, -np.inf], [1.0, 2.0]])
  assert voting.rerank(answers, scores, 2).tolist() == [1, -1]
  right = np.ones((2, 2), bool)
  taken = voting.credit(right, voting.rerank(answers, scores, 2))
  assert taken.tolist() == [1.0, 0.0]


def test_one_sample_is_top_1(samples):
  answers, scores, correct = samples
  first = np.where(answers[:, 0] >= 0, correct[:, 0], False)
  for index in (voting.vote(answers, 1), voting.rerank(answers, scores, 1)):
    np.testing.assert_array_equal(voting.credit(correct, index), first)
  np.testing.assert_allclose(voting.pass_at(correct, 1), correct.mean(1))


def test_no_rule_beats_any_correct(samples):
  answers, scores, correct = samples
  ceiling = voting.pass_at(correct, 7)
  for index in (voting.vote(answers, 7), voting.rerank(answers, scores, 7)):
    assert np.all(voting.credit(correct, index) <= ceiling)


def test_paired_interval_is_of_the_difference():
  rng = np.random.default_rng(1)
  ours, theirs = rng.random((2, 400)) < [[0.7], [0.5]]
  found = intervals.paired(ours, theirs)
  assert found.mean == pytest.approx(ours.mean() - theirs.mean())
  assert found.low < found.mean < found.high
  draws = rng.integers(0, 400, (4000, 400))
  slow = (ours.astype(float) - theirs)[draws].mean(axis=1)
  np.testing.assert_allclose(
    [found.low, found.high], np.percentile(slow, [2.5, 97.5]), atol=0.01
  )


@pytest.mark.parametrize("k", [0, 8])
def test_k_is_checked(samples, k):
  answers, _, correct = samples
  with pytest.raises(ValueError, match=f"k={k} of 7"):
    voting.vote(answers, k)
  with pytest.raises(ValueError, match=f"k={k} of 7"):
    voting.pass_at(correct, k)


def test_bad_values_are_refused(samples):
  answers, scores, _ = samples
  with pytest.raises(ValueError, match="negative"):
    voting.weighted_vote(answers, scores - 1, 7)
  with pytest.raises(ValueError, match="differ in shape"):
    voting.rerank(answers, scores[:, :3], 3)
  with pytest.raises(ValueError, match="nan"):
    voting.rerank(answers, scores * np.nan, 7)
