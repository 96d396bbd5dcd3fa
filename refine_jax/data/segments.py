"""Long documents as paragraphs put together up to a number of tokens."""

import re
from collections.abc import Callable

# A blank line ends a paragraph; it stays with the paragraph it ends.
_PARAGRAPH = re.compile(r".*?(?:\n\s*\n+|\Z)", re.S)
_SENTENCE = re.compile(r".*?(?:[.!?]\s+|\n|\Z)", re.S)
_WORD = re.compile(r"\s*\S+\s*")


def segments(text: str, limit: int, count: Callable[[str], int]) -> list[str]:
  """Stretches of `text` of at most `limit` tokens each, that join to it.

  Paragraphs are kept whole where they fit, then sentences, then words. A
  word longer than the limit is a stretch of its own.

  Args:
    count: tokens of a text.

  Raises:
    ValueError: the limit is not positive.
  """
  if limit < 1:
    raise ValueError(f"a limit of {limit} tokens")
  return _split(text, limit, count, (_PARAGRAPH, _SENTENCE, _WORD))


def _split(text, limit, count, patterns) -> list[str]:
  if not text:
    return []
  if not patterns or count(text) <= limit:
    return [text]
  pieces = [m[0] for m in patterns[0].finditer(text) if m[0]]
  found, current = [], ""
  for piece in pieces:
    if current and count(current + piece) <= limit:
      current += piece
      continue
    if current:
      found.append(current)
    current = piece
    if count(piece) > limit:
      *whole, current = _split(piece, limit, count, patterns[1:])
      found += whole
  return [*found, current] if current else found
