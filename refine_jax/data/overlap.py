"""Texts that repeat each other: near-duplicates, and n-grams of test sets."""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

_WORD = re.compile(r"\w+")
_PRIME = (1 << 61) - 1


def words(text: str) -> list[str]:
  """Lower-case runs of letters and digits."""
  return _WORD.findall(text.lower())


def grams(text: str, n: int = 13) -> Iterator[str]:
  """Every run of `n` words; a shorter text is one gram of its own."""
  found = words(text)
  if len(found) < n:
    if found:
      yield " ".join(found)
    return
  for i in range(len(found) - n + 1):
    yield " ".join(found[i : i + n])


class Overlap:
  """Which texts share a 13-gram with an evaluation set.

  Args:
    texts: of the evaluation sets.
    n: words that must agree in a row.
    shortest: an evaluation text of fewer words is left out: that a document
      holds a whole text of three words says nothing.
  """

  def __init__(self, texts: Iterable[str], n: int = 13, shortest: int = 8):
    self._n, self._long, self._short = n, set(), {}
    for text in texts:
      count = len(words(text))
      if count >= n:
        self._long.update(grams(text, n))
      elif count >= shortest:
        self._short.setdefault(count, set()).update(grams(text, count))

  def __call__(self, text: str) -> bool:
    if any(gram in self._long for gram in grams(text, self._n)):
      return True
    return any(
      gram in known
      for size, known in self._short.items()
      for gram in grams(text, size)
    )


class NearDuplicates:
  """Says of each text whether one much like it came before.

  MinHash over word 5-grams in bands (Broder 1997), and then the Jaccard
  similarity of the shingles themselves, so that a chance meeting of hashes
  removes nothing. What is kept depends on the order of texts alone.

  Args:
    threshold: Jaccard similarity from which a text is a duplicate.
    bands, rows: of the signature; a pair at similarity s meets with
      probability 1 - (1 - s**rows)**bands.
  """

  def __init__(
    self,
    threshold: float = 0.8,
    *,
    bands: int = 20,
    rows: int = 5,
    shingle: int = 5,
  ):
    rng = np.random.default_rng(0)
    count = bands * rows
    # Products of 31-bit factors and 30-bit hashes stay within 61 bits.
    self._a = rng.integers(1, 1 << 31, (count, 1), dtype=np.int64)
    self._b = rng.integers(0, 1 << 31, (count, 1), dtype=np.int64)
    self._threshold, self._bands, self._shingle = threshold, bands, shingle
    self._buckets: list[dict[bytes, list[int]]] = [{} for _ in range(bands)]
    self._kept: list[np.ndarray] = []

  def __call__(self, text: str) -> bool:
    """Whether `text` repeats a kept one; if not, it is kept itself."""
    shingles = self._shingles(text)
    keys = self._keys(shingles)
    met = {
      i
      for bucket, key in zip(self._buckets, keys, strict=True)
      for i in bucket.get(key, ())
    }
    for i in sorted(met):
      if _jaccard(shingles, self._kept[i]) >= self._threshold:
        return True
    for bucket, key in zip(self._buckets, keys, strict=True):
      bucket.setdefault(key, []).append(len(self._kept))
    self._kept.append(shingles)
    return False

  def _shingles(self, text: str) -> np.ndarray:
    hashes = {
      zlib.crc32(g.encode()) & 0x3FFFFFFF for g in grams(text, self._shingle)
    }
    return np.array(sorted(hashes), np.int64)

  def _keys(self, shingles: np.ndarray) -> Sequence[bytes]:
    if not len(shingles):
      signature = np.zeros(len(self._a), np.int64)
    else:
      signature = ((self._a * shingles + self._b) % _PRIME).min(axis=1)
    return [band.tobytes() for band in signature.reshape(self._bands, -1)]


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
  if not len(a) and not len(b):
    return 1.0
  both = len(np.intersect1d(a, b, assume_unique=True))
  return both / (len(a) + len(b) - both)
