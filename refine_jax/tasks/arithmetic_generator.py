"""Unlimited rows; a row is a function of (seed, split, index).

The text of a question decides its split, whatever the seed: training rows of
one seed are never among the validation or test rows of another.
"""

import hashlib
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from refine_jax.tasks import arithmetic_story

# Sixteenths of all questions that belong to a split.
SPLITS = {"train": range(0, 12), "validation": range(12, 14), "test": (14, 15)}


def split_of(question: str) -> str:
  digest = hashlib.blake2b(question.encode(), digest_size=2).digest()
  bucket = digest[0] % 16
  return next(name for name, share in SPLITS.items() if bucket in share)


class Rows(Sequence[Mapping[str, Any]]):
  """`size` rows of `id`, `question` and `choice` (which gold to show)."""

  def __init__(self, size: int, *, seed: int, split: str, difficulty: int):
    self._size, self._seed, self._split = size, seed, split
    self._difficulty = difficulty
    self._level = arithmetic_story.LEVELS[difficulty]

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index):
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(self._size))]
    index = operator.index(index)
    if not -self._size <= index < self._size:
      raise IndexError(f"row {index} of {self._size}")
    return self._row(index % self._size)

  def _row(self, index: int) -> Mapping[str, Any]:
    split = list(SPLITS).index(self._split)
    rng = np.random.default_rng([self._seed, self._difficulty, split, index])
    while True:
      story = arithmetic_story.draw(rng, self._level)
      question = arithmetic_story.to_text(story)
      if split_of(question) == self._split:
        break
    return {
      "id": f"arithmetic-{self._difficulty}-{self._split}-{self._seed}-{index}",
      "question": question,
      "choice": int(rng.integers(2**31)),
    }
