"""Near-duplicates, 13-grams of test sets, and segments by tokens."""

import numpy as np
import pytest

from refine_jax.data import overlap
from refine_jax.data.segments import segments

WORDS = [f"w{i}" for i in range(4000)]


def text(seed, size=60):
  rng = np.random.default_rng(seed)
  return " ".join(rng.choice(WORDS, size))


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_none():
  test_set = text(0)
  found = overlap.Overlap([test_set])
  at = test_set.split()
  inside = " ".join([text(1), *at[20:33], text(2)])
  assert found(inside) and found(inside.upper().replace(" ", ", "))
  assert not found(" ".join([text(1), *at[20:32], text(2)]))


def test_short_texts_overlap_whole_or_not_at_all():
  short = text(0, 9)
  found = overlap.Overlap([short, "yes it is"])
  assert found(f"{text(1)} {short} {text(2)}")
  assert not found(f"{text(1)} {' '.join(short.split()[:8])} {text(2)}")
  assert not found("yes it is")


def slow_shingles(value):
  tokens = value.split()
  return {tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)}


def test_near_duplicates_are_those_of_jaccard_similarity():
  rng = np.random.default_rng(0)
  seen, kept = overlap.NearDuplicates(0.8), []
  wrong = 0
  for number in range(60):
    value = text(number % 20, 120).split()
    changes = rng.integers(0, 6)  # each breaks up to five shingles
    value[: len(value)] = [
      "new" + str(number) if i in rng.choice(120, changes) else w
      for i, w in enumerate(value)
    ]
    value = " ".join(value)
    shingles = slow_shingles(value)
    similarity = max(
      (len(shingles & k) / len(shingles | k) for k in kept), default=0.0
    )
    duplicate = seen(value)
    # Bands miss a pair at the threshold itself now and then, never a clear
    # one, and the check of shingles lets no false one through.
    if similarity < 0.8:
      assert not duplicate
    elif similarity > 0.9:
      assert duplicate
    else:
      wrong += not duplicate
    if not duplicate:
      kept.append(shingles)
  assert wrong <= 2 and 20 <= len(kept) < 60


def test_the_same_text_twice_is_once_even_if_empty():
  seen = overlap.NearDuplicates()
  assert [seen(t) for t in ("", "", "a b", "a b", "A  b!")] == [
    False,
    True,
    False,
    True,
    True,
  ]


def count(value):
  return len(value.split())


DOCUMENT = (
  "one two three.\n\nfour five. six seven eight!\nnine\n\n\nten "
  + "eleven " * 9
)


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8, 100])
def test_segments_join_to_the_text_and_are_short(limit):
  found = segments(DOCUMENT, limit, count)
  assert "".join(found) == DOCUMENT
  assert all(0 < count(part) <= limit for part in found)


def test_paragraphs_stay_whole_where_they_fit():
  found = segments(DOCUMENT, 6, count)
  assert found[:2] == [
    "one two three.\n\n",
    "four five. six seven eight!\nnine\n\n\n",
  ]
  assert segments("", 3, count) == []
  with pytest.raises(ValueError, match="limit of 0"):
    segments("a", 0, count)
