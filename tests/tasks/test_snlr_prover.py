"""The language in two forms, the exact prover, and the steps."""

import collections
import json

import pytest

from refine_jax.tasks import snlr_language, snlr_prover
from refine_jax.tasks.snlr_language import Row, Rule

TWO_RULES = {
  "fact": "Erin is kind and huge.",
  "rules": [
    "If Erin is good or small, then Erin is red.",
    "If person is cold, then person is green.",
    "If person is blue, then person is purple.",
    "If person is big, then person is young.",
    "If Erin is sad, then Erin is weak.",
  ],
}
FILES = {
  "easy/train": 1000,
  "easy/val": 5000,
  "easy/test": 5000,
  "medium/train": 1000,
  "medium/val": 5000,
  "medium/test": 5000,
  "srn_train": 1000,
  "srn_val": 5000,
}


def _row(data):
  return snlr_language.from_sentences(data["rules"], data["fact"])


def _rendered(row, complete=False):
  proof = snlr_prover.prove(row, complete=complete)
  return snlr_prover.render_text(snlr_prover.pairs(proof))


def test_two_rules_fire():
  row = _row(TWO_RULES)
  assert snlr_prover.fired(row) == [0, 3]
  assert snlr_prover.answer(row) == "Erin is red and young."
  assert _rendered(row) == (
    "#0: kind is good #1: huge is big #2: Erin is person #3: Erin is big "
    "#4: Erin is red and young"
  )


@pytest.mark.parametrize(
  ("fact", "rule", "answer"),
  [
    ("red and bad", "a cat is red", "old"),
    ("red and bad", "an animal is bad", "old"),
    ("red and bad", "a plant is bad", ""),
    ("red and bad", "a dog is bad", ""),
    ("red and bad", "a cat is red and bad", "old"),
    ("red and hot", "a cat is red and bad", ""),
    ("red and hot", "a cat is bad or hot", "old"),
    ("evil and hot", "a cat is bad", "old"),
    ("old and hot", "a cat is hot", ""),
    ("ancient and hot", "a cat is hot", ""),
  ],
)
def test_a_rule_fires_when_it_should(fact, rule, answer):
  subject, _, condition = rule.partition(" is ")
  rule = f"If {subject} is {condition}, then the {subject.split()[1]} is old."
  row = snlr_language.from_sentences([rule], f"The cat is {fact}.")
  expected = f"The cat is {answer}." if answer else "Nothing."
  assert snlr_prover.answer(row) == expected


def test_compat_steps_leave_premises_out_and_complete_ones_do_not():
  row = snlr_language.from_text(
    "If a poppy is bad and big, then the poppy is old. "
    "The poppy is evil and big."
  )
  assert _rendered(row) == "#0: evil is bad #1: poppy is old"
  assert _rendered(row, complete=True) == (
    "#0: evil is bad #1: poppy is bad #2: poppy is big #3: poppy is old"
  )


def test_nothing_follows():
  row = snlr_language.from_compact("cat red hot ; plant red > old")
  steps = snlr_prover.pairs(snlr_prover.prove(row))
  assert snlr_prover.render_text(steps) == "#0: The argument is invalid!!"
  assert snlr_prover.render_compact(steps) == "#0 nothing"


def test_both_forms_and_their_numbering():
  row = _row(TWO_RULES)
  compact = (
    "Erin kind huge ; Erin good or small > red ; person cold > green ; "
    "person blue > purple ; person big > young ; Erin sad > weak"
  )
  assert snlr_language.to_compact(row) == compact
  numbered = snlr_language.to_compact(row, numbered=True)
  assert numbered.startswith("Erin kind huge r0 Erin good or small > red r1 ")
  for text in (compact, numbered):
    assert snlr_language.from_compact(text) == row
  assert snlr_language.from_text(snlr_language.to_text(row)) == row


@pytest.mark.parametrize(
  "text",
  [
    "",
    "The cat is red.",
    "The unicorn is red and bad.",
    "The cat is red and furry.",
    "If a cat is red, then the dog is bad. The cat is red and bad.",
    "If a cat is red then the cat is bad. The cat is red and bad.",
  ],
)
def test_what_is_no_row_is_an_error(text):
  with pytest.raises(ValueError):
    snlr_language.from_text(text)


@pytest.mark.parametrize("compact", [False, True])
def test_steps_are_parsed_back(compact):
  steps = (("violet", "purple"), ("poppy", "red and old"), ("", "nothing"))
  render = snlr_prover.render_compact if compact else snlr_prover.render_text
  assert snlr_prover.parse(render(steps), compact=compact) == steps


@pytest.mark.parametrize(
  "text",
  [
    "",
    "poppy red",
    "#0",
    "#0 poppy",
    "#1 poppy red",
    "#0 poppy red #0 poppy old",
    "#0 poppy red old",
    "#0: poppy is red is old",
    "x #0 poppy red",
    "#9999 poppy red",
    "#0 poppy red " * 1000,
  ],
)
def test_what_is_no_proof_is_none(text):
  assert snlr_prover.parse(text, compact=True) is None
  assert snlr_prover.parse(text, compact=False) is None


def test_content_ignores_order():
  one = Row(
    "cat", ("red", "bad"), (Rule("cat", ("hot", "old"), "or", "big"),) * 2
  )
  two = one._replace(
    facts=("bad", "red"), rules=(Rule("cat", ("old", "hot"), "or", "big"),) * 2
  )
  assert snlr_language.content(one) == snlr_language.content(two)
  assert snlr_language.content(one) != snlr_language.content(
    one._replace(facts=("bad", "old"))
  )


@pytest.mark.parametrize(("file", "size"), FILES.items())
def test_published_answers(data_dir, file, size):
  """All 28,000 rows here, answer for answer; and both forms are lossless."""
  path = data_dir / f"refiner/srn/{file}.json"
  rows = json.loads(path.read_text())
  assert len(rows) == size
  for i, data in enumerate(rows):
    row = _row(data)
    said = data["consequents"]
    said = said if isinstance(said, str) else said[0]
    assert snlr_prover.answer(row).rstrip(".") == said.rstrip("."), data
    if i % 10 == 0:
      text = " ".join([*data["rules"], data["fact"]])
      assert snlr_language.to_text(row) == text
      assert snlr_language.from_compact(snlr_language.to_compact(row)) == row


@pytest.mark.parametrize(("file", "share"), [("train", 0.956), ("val", 0.9512)])
def test_published_steps(data_dir, file, share):
  """Ours are the published string on so many rows; see `Snlr`."""
  path = data_dir / f"refiner/srn/srn_{file}.json"
  rows = json.loads(path.read_text())
  same = collections.Counter(
    _rendered(_row(r)) == " ".join(r["explanations"].split()) for r in rows
  )
  assert same[True] / len(rows) >= share
