"""Ids, EOS, learn flags, over-long examples, and rows of arrays."""

import numpy as np
import pytest

from refine_jax import records
from refine_jax.data import encode, tokenizer

BYTE = tokenizer.load("byte")
LIMITS = {"max_prompt": 12, "max_target": 8, "bos": True}


def example(prompt, target, learn=(), id="e"):
  return records.Example(id, tuple(prompt), tuple(target), tuple(learn))


def text(ids):
  return BYTE.decode(ids.tolist())


def test_eos_ends_the_target_and_bos_begins_the_prompt():
  made, outcome = encode.encode_example(
    BYTE, example(["ab", (50, 51)], ["cd"]), **LIMITS
  )
  assert outcome == "kept"
  assert made.prompt_ids.tolist() == [1, *BYTE.encode("ab"), 50, 51]
  assert made.target_ids.tolist() == [*BYTE.encode("cd"), 2]
  assert made.learn.tolist() == [True] * 3
  assert made.prompt_ids.dtype == made.target_ids.dtype == np.int32
  made, _ = encode.encode_example(
    BYTE,
    example(["ab"], []),
    max_prompt=9,
    max_target=1,
    bos=False,
    prompt_eos=True,
  )
  assert made.prompt_ids.tolist() == [*BYTE.encode("ab"), 2]
  assert made.target_ids.tolist() == [2]
  assert made.learn.tolist() == [True]


@pytest.mark.parametrize(
  "learn, want",
  [
    ((True, False, True), [1, 1, 0, 0, 1, 1]),
    ((True, False, False), [1, 1, 0, 0, 0, 0]),  # EOS is the last segment's
  ],
)
def test_learn_flags_follow_segments(learn, want):
  row = example(["q"], ["ab", "cd", (9,)], learn)
  made, _ = encode.encode_example(BYTE, row, **LIMITS)
  assert made.learn.astype(int).tolist() == want


@pytest.mark.parametrize(
  "prompt, target, on_long, outcome, kept",
  [
    ("x" * 11, "y" * 7, "drop", "kept", "x" * 11),
    ("x" * 12, "y" * 7, "drop", "long_prompt", None),
    ("x", "y" * 8, "drop", "long_target", None),
    ("x", "y" * 8, "cut_prompt_left", "long_target", None),
    ("abcdefghijklmn", "y", "cut_prompt_left", "cut", "defghijklmn"),
    ("abcdefghijklmn", "y", "cut_prompt_right", "cut", "abcdefghijk"),
  ],
)
def test_over_long_examples(prompt, target, on_long, outcome, kept):
  made, got = encode.encode_example(
    BYTE, example([prompt], [target]), on_long=on_long, **LIMITS
  )
  assert got == outcome
  if kept is None:
    assert made is None
  else:
    assert made.prompt_ids[0] == BYTE.bos_id  # a cut keeps it
    assert text(made.prompt_ids) == kept
    assert text(made.target_ids) == target


def test_cutting_keeps_both_special_ends():
  for on_long, want in (("cut_prompt_left", "ef"), ("cut_prompt_right", "ab")):
    made, _ = encode.encode_example(
      BYTE,
      example(["abcdef"], ["y"]),
      max_prompt=4,
      max_target=4,
      bos=True,
      prompt_eos=True,
      on_long=on_long,
    )
    assert made.prompt_ids.tolist() == [1, *BYTE.encode(want), 2]


def test_what_cannot_be_encoded_names_the_example():
  with pytest.raises(records.BadRow, match=r"'learn'.*'e7'.* 1 flags for 2"):
    row = example(["q"], ["a", "b"], (True,), id="e7")
    encode.encode_example(BYTE, row, **LIMITS)
  with pytest.raises(records.BadRow, match=r"'prompt'.*'e7': no token"):
    encode.encode_example(
      BYTE, example([""], ["a"], id="e7"), max_prompt=9, max_target=9, bos=False
    )
  with pytest.raises(ValueError, match="on_long"):
    encode.encode_example(BYTE, example("q", "a"), on_long="cut", **LIMITS)


def many():
  rng = np.random.default_rng(0)
  letters = list("abcdefgh")
  return [
    example(
      ["".join(rng.choice(letters, rng.integers(1, 14))), " ", (7, 8)],
      ["".join(rng.choice(letters, rng.integers(0, 9))), "f"],
      (True, False),
      id=f"e{i}",
    )
    for i in range(60)
  ]


@pytest.mark.parametrize("on_long", encode.ON_LONG)
def test_encoding_many_is_encoding_each(on_long, monkeypatch):
  monkeypatch.setattr(encode, "_CHUNK", 16)
  rows = many()
  made, report = encode.encode_examples(BYTE, rows, on_long=on_long, **LIMITS)
  outcomes, want = [], []
  for row in rows:
    one, outcome = encode.encode_example(BYTE, row, on_long=on_long, **LIMITS)
    outcomes.append(outcome)
    if one is not None:
      want.append((row.id, one))
  assert list(made.ids) == [id for id, _ in want]
  for got, (_, one) in zip(made, want, strict=True):
    for name in ("prompt_ids", "target_ids", "learn"):
      np.testing.assert_array_equal(getattr(got, name), getattr(one, name))
  assert made.lengths_N2.tolist() == [
    [len(one.prompt_ids), len(one.target_ids)] for _, one in want
  ]
  assert report.kept == len(want) < len(rows)
  assert report.cut == outcomes.count("cut")
  assert report.long_prompts == outcomes.count("long_prompt")
  assert report.long_targets == outcomes.count("long_target") > 0
  assert report.kept + report.dropped == len(rows)
  assert report.tokens == tuple(made.lengths_N2.sum(0))
  assert report.longest == (17, 10)
  assert f"{report.kept} examples" in str(report)


def test_no_examples():
  made, report = encode.encode_examples(BYTE, [], **LIMITS)
  assert len(made) == 0 and made.lengths_N2.shape == (0, 2)
  assert report.kept == 0
  with pytest.raises(IndexError):
    made[0]


def test_examples_by_negative_index():
  made, _ = encode.encode_examples(
    BYTE, many(), on_long="cut_prompt_left", **LIMITS
  )
  np.testing.assert_array_equal(
    made[-1].target_ids, made[len(made) - 1].target_ids
  )


def encoded(*pairs):
  return [
    encode.Encoded(
      np.asarray(p, np.int32), np.asarray(t, np.int32), np.asarray(l, bool)
    )
    for p, t, l in pairs
  ]


def test_collate_pads_prompts_left_and_targets_right():
  a, b = encoded(([5, 6], [7, 2], [1, 1]), ([8], [9, 9, 2], [0, 1, 1]))
  batch = encode.collate([[a], [b], []], 3, 4, 0, packed=False)
  np.testing.assert_array_equal(
    batch.prompt_BP, [[0, 5, 6], [0, 0, 8], [0] * 3]
  )
  np.testing.assert_array_equal(
    batch.prompt_mask_BP, [[0, 1, 1], [0, 0, 1], [0] * 3]
  )
  np.testing.assert_array_equal(
    batch.target_BT, [[7, 2, 0, 0], [9, 9, 2, 0], [0] * 4]
  )
  np.testing.assert_array_equal(
    batch.target_mask_BT, [[1, 1, 0, 0], [1, 1, 1, 0], [0] * 4]
  )
  np.testing.assert_array_equal(
    batch.loss_mask_BT, [[1, 1, 0, 0], [0, 1, 1, 0], [0] * 4]
  )
  assert batch.prompt_segments_BP is None and batch.target_segments_BT is None
  assert batch.prompt_BP.dtype == np.int32
  assert batch.loss_mask_BT.dtype == np.bool_


def test_collate_numbers_the_examples_of_a_packed_row():
  a, b = encoded(([5, 6], [7, 2], [1, 1]), ([8], [9, 9, 2], [0, 1, 1]))
  batch = encode.collate([[a, b], [b]], 4, 6, 4, packed=True)
  np.testing.assert_array_equal(batch.prompt_BP, [[4, 5, 6, 8], [4, 4, 4, 8]])
  np.testing.assert_array_equal(
    batch.prompt_segments_BP, [[0, 1, 1, 2], [0, 0, 0, 1]]
  )
  np.testing.assert_array_equal(
    batch.target_BT, [[7, 2, 9, 9, 2, 4], [9, 9, 2, 4, 4, 4]]
  )
  np.testing.assert_array_equal(
    batch.target_segments_BT, [[1, 1, 2, 2, 2, 0], [1, 1, 1, 0, 0, 0]]
  )
  np.testing.assert_array_equal(
    batch.loss_mask_BT, [[1, 1, 0, 1, 1, 0], [0, 1, 1, 0, 0, 0]]
  )
  for mask, segments in (
    (batch.prompt_mask_BP, batch.prompt_segments_BP),
    (batch.target_mask_BT, batch.target_segments_BT),
  ):
    np.testing.assert_array_equal(mask, segments > 0)


def test_collate_refuses_what_does_not_fit():
  a, b = encoded(([5, 6], [7, 2], [1, 1]), ([8], [9, 9, 2], [0, 1, 1]))
  with pytest.raises(ValueError, match=r"row 0: 3 \+ 5 tokens in 2 \+ 6"):
    encode.collate([[a, b]], 2, 6, 0, packed=True)
  with pytest.raises(ValueError, match=r"row 0: 3 \+ 5 tokens in 4 \+ 4"):
    encode.collate([[a, b]], 4, 4, 0, packed=True)
  with pytest.raises(ValueError, match="row 0 has 2 examples"):
    encode.collate([[a, b]], 4, 6, 0, packed=False)
