"""Which documents of a corpus look like reasoning.

Embeddings of reasoning data sets give a direction; a document, or a segment of
a long one, is kept if its cosine with it reaches a threshold.
"""

import dataclasses
import itertools
import re
import string
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from refine_jax.algorithms import similarity
from refine_jax.data.overlap import NearDuplicates, Overlap
from refine_jax.data.segments import segments
from refine_jax.records import Document

# Texts -> one row each.
Embed = Callable[[Sequence[str]], np.ndarray]

_COMMON_WORDS = (
  "a an and are as at be been but by can could did do does for from had has"
  " have he her him his how i if in into is it its me my no not of on or our"
  " she so some than that the their them then there these they this those to"
  " us was we were what when where which who why will with would you your"
)
_COMMON = frozenset(_COMMON_WORDS.split())
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def strip(text: str) -> str:
  """Lower case without punctuation and common words, as the original had it.

  It takes the operators out of mathematics, so it is no default.
  """
  words = text.lower().translate(_PUNCTUATION).split()
  return " ".join(w for w in words if w not in _COMMON)


def hashed(texts: Sequence[str], size: int = 1024) -> np.ndarray:
  """Counts of words and of pairs, hashed: an encoder without weights."""
  rows = np.zeros((len(texts), size), np.float32)
  for row, text in zip(rows, texts, strict=True):
    words = re.findall(r"[a-z]+|\d+|[^\w\s]", text.lower())
    words = ["0" if w.isdigit() else w for w in words]
    pairs = (" ".join(pair) for pair in itertools.pairwise(words))
    for gram in (*words, *pairs):
      row[zlib.crc32(gram.encode()) % size] += 1
  return np.log1p(rows)


@dataclasses.dataclass(frozen=True)
class Filter:
  """What is kept.

  Attributes:
    direction: of the reference sets, see `similarity.centroid`.
    threshold: the lowest cosine that is kept.
    limit: tokens of a segment, as `count` counts them.
    prepare: what becomes of a text before it is embedded.
  """

  direction: np.ndarray
  embed: Embed
  threshold: float
  limit: int
  count: Callable[[str], int]
  prepare: Callable[[str], str] = str

  def __call__(
    self, texts: Iterable[tuple[str, str, str]]
  ) -> tuple[list[Document], dict[str, list[int]]]:
    """Keeps of (id, subset, text) what looks right.

    Returns:
      documents with ids `<id>-<segment>`, and per subset how many segments
      were seen and kept.
    """
    found = [
      (f"{name}-{i:03d}", subset, part)
      for name, subset, text in texts
      for i, part in enumerate(segments(text, self.limit, self.count))
      if part.strip()
    ]
    if not found:
      return [], {}
    rows = self.embed([self.prepare(part) for *_, part in found])
    # Rounded, for what is in a batch beside a text moves the last bits.
    scores = np.round(similarity.cosine(rows, self.direction), 5)
    kept, counts = [], {}
    for (name, subset, part), score in zip(found, scores, strict=True):
      seen = counts.setdefault(subset, [0, 0])
      seen[0] += 1
      if score >= self.threshold:
        seen[1] += 1
        text = part.strip()
        kept.append(Document(name, text, subset, float(score)))
    return kept, counts


def direction(
  sets: Mapping[str, Sequence[str]],
  embed: Embed,
  prepare: Callable[[str], str] = str,
  *,
  pooled: bool = False,
) -> np.ndarray:
  """What the reference sets look like."""
  rows = [embed([prepare(t) for t in texts]) for texts in sets.values()]
  return similarity.centroid(rows, pooled=pooled)


def distinct(
  documents: Iterable[Document],
  evaluation: Overlap | None,
  duplicates: NearDuplicates | None,
  counts: dict[str, int],
) -> Iterator[Document]:
  """Without overlap with test sets and without near-duplicates.

  Of documents that are alike the first is kept. Adds to `counts` what was
  left out.
  """
  for key in ("overlap", "near_duplicates", "kept"):
    counts.setdefault(key, 0)
  for document in documents:
    if evaluation is not None and evaluation(document.text):
      counts["overlap"] += 1
    elif duplicates is not None and duplicates(document.text):
      counts["near_duplicates"] += 1
    else:
      counts["kept"] += 1
      yield document
