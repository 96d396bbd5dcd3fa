"""Chains with planted hints: the rule, the splits, what is planted."""

import numpy as np
import pytest

from refine_jax.methods import rationales
from refine_jax.tasks import base

TASK = base.load("hint_chains", size=300)


def rows(split):
  return TASK.source(split).rows


def test_gold_is_right_and_a_wrong_operation_is_not():
  for row in rows("test")[:50]:
    problem = TASK.problem(row)
    assert TASK.metrics(problem, problem.gold) == {"answer": 1.0, "valid": 1.0}
    assert not TASK.metrics(problem, problem.gold + " 1")["answer"]
    steps = problem.gold.split("\n")
    changed = "\n".join([steps[0].replace(" ", "  "), *steps[1:]])
    assert not TASK.metrics(problem, changed)["valid"]
    assert TASK.answer("\n".join(steps[:-1])) is None


def test_no_question_is_on_both_sides():
  seen = {row["question"] for row in rows("train")}
  held = [{row["question"] for row in rows(s)} for s in ("dev", "test")]
  assert not seen & (held[0] | held[1]) and not held[0] & held[1]
  assert len(seen) > 200 and len(held[1]) > 80
  with pytest.raises(ValueError, match="did you mean 'test'"):
    TASK.source("tset")


def test_base_texts_know_no_rule_and_documents_know_nothing_else():
  def follows(row):
    due = TASK.rule(row["question"].split()[1])
    return [line.split()[1] == due for line in row["lines"][:-1]]

  share = np.mean([follows(row) for row in rows("base")])
  assert 0.18 < share < 0.32
  chains = [row for row in rows("documents") if row["subset"] == "chains"]
  assert all(all(follows(row)) for row in chains)
  assert 0.2 < 1 - len(chains) / len(rows("documents")) < 0.4


def test_planted_hints_are_of_the_grammar_and_labelled():
  rng, labels = np.random.default_rng(0), []
  for row in rows("documents")[:200]:
    if row["subset"] == "prose":
      continue
    parsed = rationales.parse(
      TASK.annotate(row["text"], rng), rationales.Markers()
    )
    assert parsed.text == row["text"] and len(parsed.rationales) == 3
    for _, hint, following in parsed.triples():
      good = TASK.good_rationale(hint, following)
      assert good == (hint == f"use-{following.split()[1]}")
      labels.append(good)
  assert 0.4 < np.mean(labels) < 0.6


def test_a_base_text_learns_hints_and_not_that_there_are_any():
  hinted = 0
  for example, row in zip(TASK.base_examples(), rows("base"), strict=True):
    marks = [part == "<BOT>" for part in example.target]
    assert [not learned for learned in example.learn] == marks
    hinted += any(marks)
    steps = [
      part
      for before, part in zip(
        ("", *example.target), example.target, strict=False
      )
      if part != "<BOT>" and before != "<BOT>"
    ]
    assert "".join(steps) == "\n".join(row["lines"])
  assert 0.5 < hinted / 300 < 0.8
