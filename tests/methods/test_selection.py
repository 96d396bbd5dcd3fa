"""Tables of samples, figures of rules, and what a reranker learns from."""

import itertools

import numpy as np
import pytest

from refine_jax.methods import reranking, selection
from refine_jax.methods.refine import Template
from refine_jax.records import Attempts, Candidate


def candidate(text, correct):
  vote = text.split("=")[1] if "=" in text else None
  return Candidate(text, vote, vote, correct, float(correct), "eos", 3, -1.0)


def attempts(name, *pairs, suffix=""):
  rows = tuple(candidate(text, correct) for text, correct in pairs)
  return Attempts(name + suffix, name, f"question {name}", "gold", rows)


ROWS = [
  attempts("p", ("a=1", False), ("b=2", True), ("c=2", True), ("d", False)),
  attempts("q", ("a=7", True), ("b=8", False), ("c=8", False), ("e=7", True)),
  attempts("r", ("x", False), ("y", False), ("x", False), ("z", False)),
]
SCORES = {
  ("p", "a=1"): 0.9,
  ("p", "b=2"): 0.1,
  ("p", "c=2"): 0.85,
  ("p", "d"): 1.0,
  ("q", "a=7"): 0.2,
  ("q", "b=8"): 0.3,
  ("q", "c=8"): 0.1,
  ("q", "e=7"): 0.25,
  **{("r", text): 0.5 for text in "xyz"},
}


def test_rules_by_hand():
  table = selection.table(ROWS, SCORES)
  assert table.answers_BS.tolist() == [
    [0, 1, 1, -1],
    [0, 1, 1, 0],
    [-1, -1, -1, -1],
  ]
  found = selection.per_problem(table, None, (1, 4))
  hits = {rule: (values > 0).tolist() for rule, values in found.items()}
  assert hits["vote@4"] == [True, True, False]  # q: a tie, 7 came first
  assert hits["rerank@4"] == [False, False, False]
  assert hits["weighted vote@4"] == [True, True, False]
  assert hits["pass@4"] == [True, True, False]
  assert hits["vote@1"] == hits["rerank@1"] == [False, True, False]
  assert found["pass@1"].tolist() == [50.0, 50.0, 0.0]


def test_without_a_reranker_there_is_no_reranking():
  greedy = selection.table([attempts(r.problem, ("g=1", True)) for r in ROWS])
  found = selection.per_problem(selection.table(ROWS), greedy, (2,))
  assert set(found) == {"top-1", "vote@2", "pass@2"}
  assert found["top-1"].tolist() == [100.0] * 3


def test_records_of_one_problem_merge():
  rows = [*ROWS, attempts("p", ("z=3", True), suffix="@9")]
  merged = selection.merged(rows)
  assert [len(row.candidates) for row in merged] == [5, 4, 4]
  with pytest.raises(ValueError, match="more than one record"):
    selection.table([ROWS[0], ROWS[0]])
  with pytest.raises(ValueError, match=r"\[4, 5\] samples"):
    selection.table(merged)


def systems():
  table = selection.table(ROWS, SCORES)
  one = selection.per_problem(table, table, (1, 4))
  two = selection.per_problem(selection.table(ROWS), table, (1, 4))
  return {"sft": one, "reft": two}


def test_summary_pairs_what_is_comparable():
  found = selection.summary(systems(), ks=(1, 4), resamples=100)
  pairs = {(p["ours"], p["theirs"]): p for p in found["paired"]}
  assert len(pairs) == len(found["paired"])
  assert ("sft: rerank@4", "sft: vote@4") in pairs
  assert ("sft: weighted vote@4", "sft: top-1") in pairs
  assert ("reft: vote@4", "sft: vote@4") in pairs
  assert ("reft: pass@4", "sft: pass@4") in pairs
  assert not any("pass" in a and a.split(":")[0] == b.split(":")[0]
                 for a, b in pairs)  # fmt: skip
  assert ("reft: rerank@4", "sft: rerank@4") not in pairs
  same = pairs["reft: vote@4", "sft: vote@4"]
  assert same["mean"] == same["low"] == same["high"] == 0
  values = systems()["sft"]
  paired = pairs["sft: rerank@4", "sft: vote@4"]
  expected = values["rerank@4"].mean() - values["vote@4"].mean()
  assert paired["mean"] == pytest.approx(expected) and expected < 0


def test_report_has_every_figure():
  found = selection.summary(systems(), ks=(1, 4), resamples=100)
  parts = selection.report(found).rstrip("\n").split("\n\n")
  assert parts[0].startswith("3 problems")
  figures, within, top, vote = (part.splitlines() for part in parts[1::2])
  for table, cells in ((figures, 3), (within, 3), (top, 2), (vote, 2)):
    assert {line.count("|") for line in table} == {cells + 1}
  assert figures[0] == "|  | sft | reft |"
  assert any(line.startswith("| rerank@4 | 0.0 [") for line in figures)
  assert len(figures) == 2 + len(found["systems"]["sft"])
  # reft has no scores: nothing to rerank.
  rerank = next(line for line in within if "rerank@4 over vote@4" in line)
  assert rerank.endswith("|  |") and rerank.count("[") == 1
  assert not any("@1 over" in line for line in within)
  assert [line.split(" | ")[0] for line in (top[0], top[2])] == [
    *("| top-1", "| reft"),
  ]
  assert vote[2] == "| reft | 0.0 [0.0, 0.0] |"


# ------------------------------------------------------------------- reranking


def test_rows_are_distinct_within_a_problem():
  rows = [*ROWS, attempts("p", ("a=1", False), ("n=2", True), suffix="@2")]
  found = reranking.rows(rows, Template(generator_end="!"))
  assert [r.text for r in found if r.problem == "p"] == [
    *("a=1", "b=2", "c=2", "d", "n=2"),
  ]
  assert [r.text for r in found if r.problem == "r"] == ["x", "y", "z"]
  assert len({r.id for r in found}) == len(found)
  assert found[0].prompt == ("question p", "!")


def test_some_of_each_problem():
  found = reranking.rows(ROWS, Template(), per_problem=2, seed=1)
  sizes = [
    len(list(g)) for _, g in itertools.groupby(found, lambda r: r.problem)
  ]
  assert sizes == [2, 2, 2]
  assert found == reranking.rows(ROWS, Template(), per_problem=2, seed=1)


def test_whole_problems_are_held_out():
  rows = [attempts(f"p{i}", ("a=1", True), suffix=f"@{j}")
          for i in range(10) for j in (1, 2)]  # fmt: skip
  train, held = reranking.hold_out(rows, 99)
  assert [row.id for row in held] == ["p8@1", "p8@2", "p9@1", "p9@2"]
  assert train + held == rows


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_weights_are_one_on_average(balance):
  label = np.array([True] + [False] * 9)
  weight = reranking.weights(label, balance)
  assert weight.mean() == pytest.approx(1)
  share = weight[label].sum() / weight.sum()
  assert share == pytest.approx((1 - balance) * 0.1 + balance * 0.5)


def test_one_class_has_no_balance():
  assert reranking.weights([False] * 3, 1.0).tolist() == [1, 1, 1]
  with pytest.raises(ValueError, match=r"balance must lie in \[0, 1\]"):
    reranking.weights([True], 2.0)


def test_auc_is_the_count_over_all_pairs():
  rng = np.random.default_rng(0)
  scores, correct = rng.integers(0, 5, 60) / 5, rng.random(60) < 0.3
  wins = [
    (a > b) + 0.5 * (a == b) for a in scores[correct] for b in scores[~correct]
  ]
  assert reranking.auc(scores, correct) == pytest.approx(np.mean(wins))
  assert np.isnan(reranking.auc(scores, np.ones(60)))


def test_figures_of_ragged_groups():
  rows = [*ROWS, attempts("s", ("a=1", True))]
  flat = reranking.rows(rows, Template())
  scores = np.array([SCORES.get((r.problem, r.text), 0.5) for r in flat])
  found = reranking.figures(rows, flat, scores)
  assert found == {"rerank": 25.0, "vote": 75.0, "pass": 75.0}
