"""Filters, metrics, difficulty and unions: formulas and hand-made cases."""

import itertools
import math
import re

import numpy as np
import pytest

from refine_jax.methods import (
  critic_metrics,
  critique_filter,
  difficulty,
  published,
  self_improve,
)
from refine_jax.methods.critic_metrics import Case
from refine_jax.methods.critique import COMPACT
from refine_jax.methods.critique_filter import MonteCarlo
from refine_jax.methods.refine import Template
from refine_jax.methods.self_improve import Flags, Solution
from refine_jax.records import Example

# The Monte-Carlo filter.


@pytest.mark.parametrize(
  ("rule", "correct", "control", "reason"),
  [
    (critique_filter.HARD, 0, None, "mc-hard"),
    (critique_filter.HARD, 1, None, None),
    (critique_filter.SOFT, 2, None, "mc-soft"),
    (critique_filter.SOFT, 3, None, None),
    (critique_filter.ADVANTAGE, 5, 0.4, None),
    (critique_filter.ADVANTAGE, 5, 0.5, "mc-advantage"),
    # Where nine of ten fresh samples are right there is no room for delta.
    (critique_filter.ADVANTAGE, 10, 0.95, None),
    (critique_filter.ADVANTAGE, 9, 0.95, "mc-advantage"),
  ],
)
def test_monte_carlo(rule, correct, control, reason):
  assert rule.reason(correct, control) == reason


def test_monte_carlo_is_monotone():
  rng = np.random.default_rng(0)
  for _ in range(300):
    n = int(rng.integers(1, 12))
    k, tau, delta = int(rng.integers(0, n + 1)), rng.random(), rng.random()
    control = rng.random()
    rule = MonteCarlo(n, k, tau, delta)
    kept = [rule.reason(c, control) is None for c in range(n + 1)]
    assert kept == sorted(kept)  # more right ones never drop a critique
    harder = MonteCarlo(n, min(n, k + 1), min(1, tau + 0.1), delta)
    also = [harder.reason(c, control) is None for c in range(n + 1)]
    assert all(a <= b for a, b in zip(also, kept, strict=True))


def test_monte_carlo_needs_its_control():
  with pytest.raises(ValueError, match="needs a control"):
    critique_filter.ADVANTAGE.reason(5)
  with pytest.raises(ValueError, match="min_correct=11"):
    MonteCarlo(n=10, min_correct=11)


@pytest.mark.parametrize(
  ("text", "answer", "response", "reason"),
  [
    ("This differs from the reference answer.", "", "", "leak-words"),
    ("instead of the correct 7 miles", "7", "so 12", "leak-answer"),
    ("It should be 64,328.", "64328", "so 12", "leak-answer"),
    ("7 was used here", "7", "7 + 5 = 12", None),
    ("17 or 7.5 or x7", "7", "12", None),
    ("the sum is off", "7", "12", None),
    (r"it is $\frac{1}{2}$", r"\frac{1}{2}", "3", "leak-answer"),
    # Words of who has seen the reference, and innocent ones.
    ("The reference correct answer is another.", "", "", "leak-words"),
    ("The provided reference shows it.", "", "", "leak-words"),
    ("The correct count, as found in the reference, is 19.", "", "",
     "leak-words"),
    ("It differs from the ground truth.", "", "", "leak-words"),
    ("It does not match the given answer.", "", "", "leak-words"),
    ("This is not the correct final answer.", "", "", "leak-words"),
    ("Therefore the correct answer is 12.", "", "So the correct answer is 12.",
     None),
    ("the given solution adds the two", "", "", None),
    ("the provided solution claims 3", "", "", None),
    ("the model solution adds", "", "", None),
    ("the correct result of the product", "", "", None),
    ("the correct solution uses the triangle", "", "", None),
    ("an incorrect answer", "", "", None),
    ("the reference angle, with reference to the base", "", "", None),
    ("Correctness of the step: Correct\nAnswer it", "", "", None),
    # Numbers of steps, and what is not the answer.
    ("In step 2 the sum is off", "2", "12", None),
    ("Steps 1, 2 and 3 are fine; see line 2, case (2)", "2", "12", None),
    ("1. fine\n2. off", "2", "12", None),
    ("Step 2 should give 2", "2", "12", "leak-answer"),
    ("It should be 2 or 3 steps", "2", "12", "leak-answer"),
    ("the pair (1,2)", "12", "7", None),
    ("it is 1,328 or 328,000", "328", "7", None),
    ("it is 1,064,328.", "1064328", "7", "leak-answer"),
    ("A step is off, a sum", "A", "12", None),
    ("it is (A)", "A", "12", "leak-answer"),
  ],
)  # fmt: skip
def test_leaks(text, answer, response, reason):
  assert critique_filter.leaks(text, answer, response) == reason


def test_leaks_of_the_published_rows(data_dir):
  """12 mention the reference, 13 the given or correct answer (a search for
  the letters counts 14: one says `incorrect answer`), 3 of them both."""
  mention = re.compile(r"(?:the|provided) reference\b")
  right = re.compile(r"\b(?:given|correct) answer")
  found = {"words": 0, "reference": 0, "answer": 0}
  files = sorted((data_dir / "mathcritique").glob("*-sftdata_0_new.json"))
  rows = [
    row for f in files if "-all-" not in f.name for row in published.read(f)
  ]
  assert len(rows) == 200
  for row in rows:
    seen = bool(mention.search(row.critique.lower()))
    told = bool(right.search(row.critique.lower()))
    found["reference"] += seen
    found["answer"] += told
    reason = critique_filter.leaks(row.critique, "", row.response)
    assert (reason == "leak-words") == (seen or told)
    found["words"] += reason == "leak-words"
  assert found == {"words": 22, "reference": 12, "answer": 13}


def test_copies_and_shortcuts():
  assert critique_filter.copies("so 7", "7", ["The answer is 7."])
  assert not critique_filter.copies("so 7", "7", ["3 + 4 = 7. The answer is 7"])
  assert not critique_filter.copies("so 8", "7", ["7"])
  gold = "3 + 4 = 7 . 7 + 1 = 8"
  assert critique_filter.shortcut("answer 8", gold, gold)
  assert not critique_filter.shortcut("4 + 4 = 8 , answer 8", gold, gold)


def test_shapes():
  text = "line a : right line b : wrong because slip final : wrong"
  assert critique_filter.shape("nothing", COMPACT, right=True) == "unreadable"
  assert critique_filter.shape(text, COMPACT, right=True) == "wrong-verdict"
  good = "line a : right line b : wrong because slip final wrong"
  assert critique_filter.shape(good, COMPACT, right=False, steps=2) is None
  few = critique_filter.shape(good, COMPACT, right=False, steps=5)
  assert few == "steps-missing"
  odd = "line a : wrong final right"
  assert critique_filter.shape(odd, COMPACT, right=True) == (
    "wrong-step-in-right"
  )


# Metrics.


def test_discriminability_by_hand():
  cases = [
    Case(True, True),
    Case(True, False, found=0),
    Case(False, False, first_error=1, found=1),
    Case(False, None, first_error=2, found=None, readable=False),
  ]
  found = critic_metrics.discriminability(cases)
  assert found == {
    "disc": 50.0,
    "disc_c": 50.0,
    "disc_i": 50.0,
    "parsed": 75.0,
    "first_error": 50.0,
    "balanced": 50.0,
  }


def test_a_critic_that_always_says_wrong():
  cases = [Case(right, False) for right in (True, True, False)]
  found = critic_metrics.discriminability(cases)
  assert found["disc_c"] == 0 and found["disc_i"] == 100
  assert found["balanced"] == 50


def test_helpfulness_by_hand():
  cases = [
    Case(False, False, refined=True),
    Case(False, True, refined=False),
    Case(True, True, refined=False),
    Case(True, True, refined=None),
  ]
  found = critic_metrics.helpfulness(cases)
  assert found["helpfulness"] == 50
  assert found["helpfulness/called wrong"] == 100
  assert found["helpfulness/called right"] == 0
  assert (found["relev_c"], found["relev_i"]) == (0, 100)


def test_transitions_sum_to_one_and_delta_is_the_gain():
  rng = np.random.default_rng(1)
  for _ in range(50):
    a, b = rng.random((2, 37)) < rng.random((2, 1))
    found = critic_metrics.transitions(a, b)
    four = [found[k] for k in ("c2c", "c2i", "i2c", "i2i")]
    assert sum(four) == pytest.approx(100)
    assert found["delta"] == pytest.approx(found["i2c"] - found["c2i"])
    assert found["delta"] == pytest.approx(100 * (b.mean() - a.mean()))


def test_calibration():
  exact = critic_metrics.calibration([0.0, 1.0, 1.0], [False, True, True])
  assert exact == {"ece": 0.0, "brier": 0.0}
  half = critic_metrics.calibration([0.55] * 4, [True, False] * 2)
  assert half["ece"] == pytest.approx(0.05)
  assert half["brier"] == pytest.approx(0.2525)


# Difficulty.


def test_bins():
  rates = {"a": 0.0, "b": 0.2, "c": 0.21, "d": 1.0, "e": 0.6}
  assert difficulty.bins(rates) == {"a": 0, "b": 0, "c": 1, "d": 4, "e": 2}
  with pytest.raises(ValueError, match="the pass rate"):
    difficulty.bins({"a": 1.2})


def test_profile_and_tail():
  bin_of = {"hard": 0, "unsolved": 0, "easy": 4}
  first = difficulty.profile({"hard": ["x"], "easy": ["y", "y", "z"]}, bin_of)
  assert first["share"] == [0.25, 0, 0, 0, 0.75]
  assert first["coverage"][0] == 0.5 and first["coverage"][4] == 1
  assert math.isnan(first["coverage"][1])
  assert first["distinct"][4] == 2
  long = difficulty.profile({"hard": ["x = 1", "y"]}, bin_of)
  assert long["words"] == [2, 0, 0, 0, 0]
  same = {"easy": ["1 + 1 = 2 figs", "1+1 = 2"]}
  by_key = difficulty.profile(same, bin_of, key=self_improve.key)
  assert (by_key["distinct"][4], by_key["words"][4]) == (1, 4.5)
  later = difficulty.profile({"easy": ["y"] * 7, "hard": ["x"]}, bin_of)
  assert difficulty.tail_narrowing(first, later) == 0.5
  with pytest.raises(KeyError):
    difficulty.profile({"other": ["x"]}, bin_of)


@pytest.mark.parametrize(
  ("text", "key"),
  [
    ("9 + 4 = 13 figs . 13 - 2 = 11 figs .", "9+4=13 ; 13-2=11"),
    ("She has $5 * 3 = $15, <<5*3=15>>15 of 1,000.", "5*3=15 ; 5*3=15"),
    ("Then 1,000/2=500 and x = 2.", "1000/2=500"),
    ("no  numbers here", "no numbers here"),
  ],
)
def test_equal_solutions_have_equal_equations(text, key):
  assert self_improve.key(text) == key


def test_gini_against_its_definition():
  rng = np.random.default_rng(2)
  for _ in range(20):
    x = rng.integers(0, 9, 7)
    if not x.sum():
      continue
    pairs = sum(abs(a - b) for a, b in itertools.product(x, x))
    assert difficulty.gini(x) == pytest.approx(pairs / (2 * 7 * x.sum()))
  assert difficulty.gini([3, 3, 3]) == pytest.approx(0)


def test_diversity():
  found = difficulty.diversity({"a": ["x", "x", "y"], "b": ["z"], "c": []})
  assert found["distinct"] == 1.5 and found["unique_share"] == 0.75


# Self-improvement.


def rows(name, count):
  return [Example(f"{name}/{i}", ("x",), ("y",)) for i in range(count)]


@pytest.mark.parametrize(
  "flags",
  [Flags(*bits) for bits in itertools.product((False, True), repeat=5)],
  ids=lambda f: "".join(str(int(b)) for b in vars(f).values()),
)
def test_unions_of_all_flags(flags):
  """Written out once more, as section 4.2 of the method says it."""
  right, refined, revisions = rows("R", 3), rows("N", 5), rows("V", 7)
  reason0, refine0 = rows("D", 11), rows("F", 13)
  past = [rows("P1", 17), rows("P2", 19)]
  current = self_improve.made(right, refined, revisions, flags)
  found = self_improve.union(
    current, flags, reason0=reason0, refine0=refine0, previous=past
  )
  wanted = {
    "R": 3,
    "N": 5 * flags.use_critic,
    "V": 7 * (flags.use_critic and flags.own_feedback),
    "D": 11 * flags.use_original,
    "F": 13 * (flags.use_original and flags.annotator_feedback),
    "P1": 17 * flags.use_previous,
    "P2": 19 * flags.use_previous,
  }
  expected = {f"{k}/{i}" for k, n in wanted.items() for i in range(n)}
  assert {row.id for row in found} == expected
  assert len(found) == sum(wanted.values())


def test_a_row_twice_is_an_error():
  with pytest.raises(ValueError, match="'R/0' among them"):
    self_improve.union(
      rows("R", 1), Flags(), reason0=rows("R", 1), refine0=[], previous=[]
    )


def solution(problem, i, text=None, refined=False):
  return Solution(
    f"{problem}/{i}",
    problem,
    "q",
    text or f"t{i}",
    response="y" if refined else "",
    critique="c" if refined else "",
  )


def test_distinct_by_words_or_key():
  found = self_improve.distinct(
    [solution("a", 0, "x  y"), solution("a", 1, "x y"), solution("b", 2, "x y")]
  )
  assert [s.id for s in found] == ["a/0", "b/2"]


@pytest.mark.parametrize("shards", [1, 4])
def test_the_cap_holds_at_any_number_of_shards(shards):
  every = [solution(p, i) for p in "abcdefgh" for i in range(5)]
  whole = self_improve.capped(every, 2, seed=3)
  dealt = [
    one
    for k in range(shards)
    for one in self_improve.capped(
      [s for s in every if ord(s.problem) % shards == k], 2, seed=3
    )
  ]
  assert {s.id for s in dealt} == {s.id for s in whole}
  assert len(whole) == 16


def test_the_cap_prefers_direct_solutions():
  every = [solution("a", 0, refined=True), solution("a", 1)]
  assert [s.id for s in self_improve.capped(every, 1, seed=0)] == ["a/1"]


def test_balance():
  every = [solution(p, i) for p in ("hard", "easy") for i in range(9)]
  every += [solution("mid", i) for i in range(2)]
  bin_of = {"hard": 1, "mid": 2, "easy": 4}
  few = [s for s in every if not (s.problem == "hard" and s.id > "hard/2")]
  found = self_improve.balanced(few, bin_of, 2.0, seed=0)
  sizes = {p: sum(s.problem == p for s in found) for p in bin_of}
  assert sizes == {"hard": 3, "mid": 2, "easy": 6}


def test_matched_samples():
  # N + (1 - p) N (1 + M), with N = 5, p = 0.4 and M = 5.
  assert self_improve.matched_samples(5, 0.4, 5) == 5 + 18
  assert self_improve.matched_samples(5, 1.0, 5) == 5


def test_examples_of_solutions():
  template = Template(" A ", " F ")
  right, refined, revisions = self_improve.examples(
    [solution("a", 0), solution("b", 1, refined=True)], template, weight=2
  )
  assert [r.prompt for r in (*right, *refined)] == [("q",), ("q",)]
  assert len(revisions) == 2 and revisions[0].id != revisions[1].id
  assert revisions[0].prompt == ("q", " A ", "y", " F ", "c")
