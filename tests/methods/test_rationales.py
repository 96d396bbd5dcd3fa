"""The grammar of annotated texts, the fidelity gate and the filters."""

import pathlib

import numpy as np
import pytest

from refine_jax import config
from refine_jax.methods import rationales
from refine_jax.methods.rationales import BadAnnotation, Markers

MARKERS = Markers()
PIECES = ("a", "bc.", "x = 2;", "}", "42", "\n", "\n\n", " ", "  ", "\t")


def random_text(rng):
  words = [PIECES[i] for i in rng.integers(0, len(PIECES), 20)]
  return " ".join(words).strip() or "a"


def places(text):
  return [i for i, c in enumerate(text) if not c.isspace()]


@pytest.mark.parametrize("seed", range(40))
def test_what_was_put_in_comes_out_again(seed):
  rng = np.random.default_rng(seed)
  text = random_text(rng)
  at = places(text)
  chosen = sorted(
    {int(at[i]) for i in rng.integers(0, len(at), rng.integers(1, 6))}
  )
  hints = [(place, f"hint {i} = {i}") for i, place in enumerate(chosen)]
  parsed = rationales.parse(rationales.insert(text, hints, MARKERS), MARKERS)
  assert parsed.text == text
  assert rationales.fidelity(text, parsed) == 1.0
  ends = [*chosen[1:], len(text)]
  assert list(parsed.triples()) == [
    (text[:place].strip(), hint, text[place:end].strip())
    for (place, hint), end in zip(hints, ends, strict=True)
  ]


@pytest.mark.parametrize(
  ("text", "parts"),
  [
    # Line-initial markers, as in code and in maths; the original lost these.
    (
      "<BOT>we need a loop<EOT>\nfor x in y:\n  <BOT>so add<EOT>z += x\n",
      ["", "\nfor x in y:\n  ", "z += x\n"],
    ),
    ("One. <BOT>r<EOT> Two.", ["One. ", "Two."]),
    ("One.\n<BOT>r<EOT>\nTwo.", ["One.\n", "Two."]),
    ("One.<BOT>r<EOT> Two.", ["One.", " Two."]),
    ("no rationale", ["no rationale"]),
  ],
)
def test_white_space_around_a_rationale(text, parts):
  parsed = rationales.parse(text, MARKERS)
  assert list(parsed.texts) == parts
  bare = "".join(parts)
  assert rationales.fidelity(bare, parsed) == 1.0


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    ("a <BOT>secret b", "does not end"),
    ("a <BOT>one <BOT>two<EOT> b", "holds another"),
    ("a <BOT>one<EOT> b <EOT> c", "<EOT> without"),
    ("a <EOT> b", "<EOT> without"),
    ("a <BOT> <EOT> b", "is empty"),
    ("a <BOT>one<EOT><BOT>", "does not end"),
  ],
)
def test_what_is_not_of_the_grammar_is_rejected_whole(text, reason):
  with pytest.raises(BadAnnotation, match=reason):
    rationales.parse(text, MARKERS)


def test_markers_are_chosen():
  markers = Markers("[[", "]]")
  parsed = rationales.parse("a [[why <BOT>]] b", markers)
  assert parsed.rationales == ("why <BOT>",)
  with pytest.raises(ValueError, match="markers"):
    Markers("x", "x")
  for text, hints in (("a <EOT> b", [(0, "r")]), ("a b", [(1, "r")])):
    with pytest.raises(ValueError, match=r"marker in it|before a word"):
      rationales.insert(text, hints, MARKERS)


def slow_distance(a, b):
  row = list(range(len(b) + 1))
  for i, x in enumerate(a, 1):
    before, row[0] = row[0], i
    for j, y in enumerate(b, 1):
      before, row[j] = (
        row[j],
        min(row[j] + 1, row[j - 1] + 1, before + (x != y)),
      )
  return row[-1]


@pytest.mark.parametrize("seed", range(30))
def test_edit_distance_against_the_table(seed):
  rng = np.random.default_rng(seed)
  a, b = (
    "".join(rng.choice(list("abcd"), rng.integers(0, 90))) for _ in range(2)
  )
  assert rationales.edit_distance(a, b) == slow_distance(a, b)
  assert rationales.edit_distance(a, a) == 0


def test_a_changed_text_is_not_faithful():
  original = "one two three four"
  annotated = rationales.parse("one <BOT>r<EOT> two five", MARKERS)
  expected = 1 - slow_distance("onetwothreefour", "onetwofive") / 15
  assert rationales.fidelity(original, annotated) == pytest.approx(expected)
  much = rationales.parse(original * 3, MARKERS)
  assert rationales.fidelity(original, much) < 0


@pytest.mark.parametrize(
  ("preceding", "rationale", "following", "expected"),
  [
    ("48 clips", "half of 48 is 24", "She sold 24.", True),
    ("48 clips", "take half of 48", "She sold 24.", False),
    ("1,200 people", "1200 less some", "1200 - 200 = 1000", False),
    ("10 apples", "costs 2.50 each", "10 * 2.50 = 25", True),
    ("x", "no number", "5", False),
  ],
)
def test_a_leak_is_a_number_that_only_follows(
  preceding, rationale, following, expected
):
  assert rationales.leaks(preceding, rationale, following) is expected


@pytest.mark.parametrize(
  ("following", "expected"),
  [
    ("#### 72", True),
    ("The answer is: B.", True),
    ("the answer is 7", True),
    ("...", True),
    ("", True),
    ("She sold 24. #### 24", False),
    ("48 / 2 = 24", False),
    ("yes", False),
  ],
)
def test_an_answer_alone_has_no_content(following, expected):
  phrases = ("####", "the answer is")
  assert rationales.answer_only(following, phrases) is expected


def test_released_rows_are_read_as_they_are_spelt():
  row = {"preceeding": "Q: x\nA: y ", "rationale": " r", "following": "z"}
  found = rationales.of_released_row(row, 3)
  assert (found.preceding, found.rationale, found.following) == (
    "Q: x\nA: y",
    "r",
    "z",
  )
  assert found.id == "released/3" and found.document == "Q: x"
  with pytest.raises(KeyError, match="following"):
    rationales.of_released_row({"preceeding": "a", "rationale": "b"}, 0)


GOLDEN = pathlib.Path(__file__).parent / "golden" / "rationale_prompt.txt"


def test_the_annotators_prompt_is_the_golden_one():
  settings = config.rationale_instruction()
  instruction = rationales.Instruction(**settings.to_dict())
  prompt = instruction.prompt("A new text.", MARKERS)
  assert "".join(prompt) == GOLDEN.read_text(encoding="utf-8")
  # All that comes before the document is one segment, read once for all.
  assert prompt[0] == instruction.prefix(MARKERS) and prompt[1] == "A new text."


def test_demonstrations_keep_their_texts():
  for annotated in config.rationale_instruction().demonstrations:
    parsed = rationales.parse(annotated, MARKERS)
    assert len(parsed.rationales) >= 2
    assert rationales.fidelity(parsed.text, parsed) == 1.0
    # No example gives a number away before the text has it.
    assert not any(rationales.leaks(*triple) for triple in parsed.triples())
