"""Critic data: both exports, balance, distinctness, seeds."""

import collections

import pytest
from scripted import Echo, problems, sample, text_of

from refine_jax.methods import critic_data, refine

TASK = Echo()
TEMPLATE = refine.Template()


def rows(count=20, seed=0):
  return critic_data.perturbed(TASK, problems(count), seed=seed)


def test_both_exports_come_from_one_row():
  row = next(r for r in rows() if r.errors)
  critic = critic_data.critic_example(row, TEMPLATE)
  revision = critic_data.revision_example(row, TEMPLATE)
  assert text_of(critic.prompt) == (
    f"{row.question} previous answer: {row.hypothesis}"
  )
  assert critic.target == (row.feedback,)
  assert text_of(revision.prompt) == (
    f"{row.question} previous answer: {row.hypothesis} feedback: {row.feedback}"
  )
  assert revision.target == (row.gold,)


def test_seeded():
  assert rows(seed=1) == rows(seed=1)
  assert rows(seed=1) != rows(seed=2)


def test_own_hypotheses_get_the_oracles_words():
  given = problems(2)
  groups = [[sample("p0/0", "0")], [sample("p1/0", "5"), sample("p1/1", "1")]]
  made = critic_data.sampled(TASK, given, groups)
  assert [r.feedback for r in made] == ["No hint", "say 1", "No hint"]
  assert [r.origin for r in made] == ["sampled"] * 3
  assert len({r.id for r in made}) == 3


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5])
def test_positive_rate(rate):
  kept = critic_data.select(
    rows(50), no_hint="No hint", positives=rate, balance=False, seed=0
  )
  right = sum(r.feedback == "No hint" for r in kept)
  assert right / len(kept) == pytest.approx(rate, abs=0.02)


def test_rows_are_distinct():
  twice = rows(10) + rows(10)
  kept = critic_data.select(
    twice, no_hint="No hint", positives=None, balance=False, seed=0
  )
  pairs = [(r.question, r.hypothesis) for r in kept]
  assert len(set(pairs)) == len(pairs) == 20


def test_balance_cuts_the_commonest_type():
  import dataclasses

  made = [
      dataclasses.replace(r, id=f"{i}", hypothesis=f"h{i}", errors=(kind,),
                          feedback="wrong")
      for i, (r, kind) in enumerate(
          (rows(1)[0], kind) for kind in ["a"] * 100 + ["b"] * 30 + ["c"] * 2
      )
  ]  # fmt: skip
  kept = critic_data.select(
    made, no_hint="No hint", positives=None, balance=True, seed=0
  )
  sizes = collections.Counter(r.errors for r in kept)
  assert sizes == {("a",): 20, ("b",): 20, ("c",): 2}


def test_counts_name_origin_and_type():
  counts = critic_data.counts(rows(5))
  assert counts == {"perturbed/none": 5, "perturbed/say": 5}
