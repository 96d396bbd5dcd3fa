"""Critiques as text and values; steps; the 200 published rows."""

import collections
import os
import pathlib

import pytest

from refine_jax.methods import critique, published, steps
from refine_jax.methods.critique import COMPACT, PUBLISHED, Step, StepCritique

DATA = pathlib.Path(os.environ.get("REFINE_JAX_DATA") or "data", "mathcritique")
FILE = "Meta-Llama-3-8B-{}-sftdata_0_new.json"
WRONG = StepCritique(
  (Step("9 - 3 = 6", "Correct", "so it is"), Step("6 * 3 = 19", "Wrong", "18")),
  "Wrong",
  "19 is not 18",
)
TERSE = StepCritique(
  (Step("9 - 3 = 6", "right"), Step("6 * 3 = 19", "wrong", "slip")), "wrong"
)


def rows(name):
  path = DATA / FILE.format(name)
  if not path.exists():
    pytest.skip("the published rows are not under REFINE_JAX_DATA")
  return published.read(path)


@pytest.mark.parametrize(
  ("name", "wrong", "correct", "incorrect", "final"),
  [("gsm8k", 311, 146, 5, 99), ("math", 368, 97, 0, 100)],
)
def test_published_rows(name, wrong, correct, incorrect, final):
  found = rows(name)
  assert len(found) == 100
  parsed = [PUBLISHED.parse(row.critique) for row in found]
  said = collections.Counter(s.verdict for p in parsed for s in p.steps)
  assert (said["Wrong"], said["Correct"]) == (wrong, correct)
  assert said["Incorrect"] == incorrect
  assert sum(p.correct is False for p in parsed) == final
  assert all(p.correct is not None and p.steps for p in parsed)
  for p in parsed:
    assert PUBLISHED.parse(PUBLISHED.render(p)) == p
  assert all(r.question and r.response and r.refined for r in found)
  # "Correct for the equation but wrong in context" is no verdict.
  assert sum(not p.readable for p in parsed) == (name == "math")


@pytest.mark.parametrize(
  ("grammar", "value"), [(PUBLISHED, WRONG), (COMPACT, TERSE)]
)
def test_render_then_parse_is_the_identity(grammar, value):
  assert grammar.parse(grammar.render(value)) == value
  assert value.first_error == 1 and value.correct is False and value.readable


def test_compact_words():
  assert COMPACT.render(TERSE) == (
    "line 9 - 3 = 6 : right line 6 * 3 = 19 : wrong because slip final wrong"
  )


def test_a_text_that_would_be_read_otherwise_is_refused():
  bad = StepCritique((Step("a\nExplanation: b", "Wrong"),), "Wrong")
  with pytest.raises(ValueError, match="not a text of a critique"):
    PUBLISHED.render(bad)


def test_tolerance():
  text = """Sure, here is my critique.

**Step sentence:**  2 + 2 = 4

correctness of the step :  correct.
Explanation: fine
Step Sentence: 4 * 2 = 9  \n
Correctness  of the step: INCORRECT
Explanation: eight

more of it
Correctness of the final answer:
Wrong
"""
  found = PUBLISHED.parse(text)
  assert [s.correct for s in found.steps] == [True, False]
  assert found.steps[1].explanation == "eight\n\nmore of it"
  assert found.correct is False and found.readable
  assert PUBLISHED.stripped(text).startswith("**Step sentence:**")


@pytest.mark.parametrize("text", ["", "no critique", "Step sentence: x", "\0"])
def test_hostile_texts_are_unreadable_not_errors(text):
  found = PUBLISHED.parse(text)
  assert not found.readable and found.correct is None
  assert COMPACT.parse(text).correct is None


def test_a_truncated_critique_keeps_what_is_there():
  text = COMPACT.render(TERSE).rpartition(" final")[0]
  found = COMPACT.parse(text)
  assert found.first_error == 1 and found.correct is None
  assert not found.readable


@pytest.mark.parametrize(
  ("word", "value"),
  [
    ("Correct", True), ("wrong.", False), ("Incorrect", False),
    ("**Wrong**", False), ("Correct, but wrong later", None), ("maybe", None),
  ],
)  # fmt: skip
def test_readings(word, value):
  assert critique.reading(word) is value


def test_first_error_of_the_final_answer_alone():
  only = StepCritique((Step("a", "Correct"),), "Wrong")
  assert only.first_error == 1
  assert StepCritique((Step("a", "Correct"),), "Correct").first_error is None


def test_lines_are_steps():
  assert steps.split("a = 1\n\n b = 2 \n") == ["a = 1", "b = 2"]


def test_one_line_is_cut_into_sentences_outside_formulas():
  text = r"Let $x = 1. Y$. Then \[a. B\] holds. Mr. Smith has 3.5 pens. Done."
  assert steps.split(text) == [
    "Let $x = 1. Y$.",
    r"Then \[a. B\] holds.",
    "Mr. Smith has 3.5 pens.",
    "Done.",
  ]


def test_displays_and_figures_are_not_cut():
  text = "A:\n\\[\nx\n\\]\nB\n[asy]\ndraw;\n[/asy]\nC $5 and\n$6"
  assert steps.split(text) == [
    "A:", "\\[\nx\n\\]", "B", "[asy]\ndraw;\n[/asy]", "C $5 and", "$6",
  ]  # fmt: skip


def test_prefixes():
  text = "a = 1 . b = 2 . c"
  parts = ["a = 1", "b = 2", "c"]
  assert steps.prefix(text, parts, 0) == ""
  assert steps.prefix(text, parts, 2) == "a = 1 . b = 2"
  assert steps.gap(text, parts, 2) == " . "
  assert steps.prefix(text, ["z"], 1) is None


@pytest.mark.parametrize("grammar", [PUBLISHED, COMPACT])
def test_any_text_can_be_made_plain(grammar):
  bad = " line x : because\nExplanation: final Step sentence: y\n final "
  said = grammar.plain(bad)
  value = StepCritique((Step(said, grammar.wrong),), grammar.wrong)
  assert grammar.parse(grammar.render(value)) == value
