"""Multiple choice: how options are shown, and which letter a text names.

A letter is read after the last `the answer is`, or where it is all there is.
What names no letter, two letters, or one that is no option has no answer;
nothing is ever guessed. `compat` is the published RATIONALYST evaluation: the
first phrase counts, and the token after it as it stands.
"""

import re
import string
from collections.abc import Mapping, Sequence

MODES = ("strict", "compat")
LETTERS = string.ascii_uppercase[:10]
_ANSWER = re.compile(
  r"\banswer(?:\s+(?:is|would\s+be|must\s+be|should\s+be))?"
  r"(?:\s+indeed)?\s*[:=]?\s+(?:option\s+|choice\s+|letter\s+)?"
  r"|\banswer\s*[:=]\s*",
  re.IGNORECASE,
)
_LETTER = re.compile(
  r"[\s*_\"'`$]*(?:\\boxed\s*\{|\\text\s*\{)*[(\[]?\s*([A-Ja-j])"
  r"(?P<after>\s*[)\]}.:,;*\"'`$!?]|\s+-|\s*$|\s+)"
)
_ANOTHER = re.compile(r"[^\w]{0,3}\s*(?:or|and|/|&)\s*[(\[]?[A-J]\b")
_BARE = re.compile(r"\s*(?:option\s+|choice\s+)?", re.IGNORECASE)
_PHRASES = ("the answer is", "The answer is", "The correct answer is")
_PHRASE_LETTER = re.compile(r"answer is \(?([A-J])\)?")


def shown(choices: Sequence[str]) -> str:
  """`A - first B - second`."""
  pairs = zip(LETTERS, choices, strict=False)
  return " ".join(f"{letter} - {choice}" for letter, choice in pairs)


def letter(
  text: str, count: int, words: Mapping[str, str] | None = None
) -> str | None:
  """The option a text decides for.

  Args:
    text: hostile, of any length.
    count: how many options there are.
    words: options that may be named by a word, in lower case, instead.
  """
  markers = list(_ANSWER.finditer(text))
  if markers:
    return _named(text[markers[-1].end() :][:200], count, words)
  if len(text) > 200:
    return None
  return _named(text[_BARE.match(text).end() :], count, words)


def _named(
  rest: str, count: int, words: Mapping[str, str] | None
) -> str | None:
  for word, option in (words or {}).items():
    if re.match(rf"[\s*_\"'(]*{re.escape(word)}\b", rest, re.IGNORECASE):
      return option
  found = _LETTER.match(rest)
  if not found:
    return None
  name, after = found[1], found["after"]
  tail = rest[found.end(1) :]
  # `a dog` and `I think` are words; so is any small letter before a word.
  is_word = after.isspace() and tail.strip()[:1].isalnum()
  if is_word and (name.islower() or name in "AI"):
    return None
  if _ANOTHER.match(tail) or name.upper() not in LETTERS[:count]:
    return None
  return name.upper()


def published(text: str, *, regex: bool = False) -> str | None:
  """As published; `regex` is the variant of MMLU-Pro, without its dice."""
  if regex:
    found = _PHRASE_LETTER.search(text)
    return found[1] if found else None
  places = [text.find(p) + len(p) for p in _PHRASES if p in text]
  rest = text[min(places) :].lstrip(": \n") if places else ""
  return rest.split()[0] if rest.split() else None
