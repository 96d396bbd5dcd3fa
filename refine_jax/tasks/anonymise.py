"""Numbers in free text become number0, number1, ... in the order they come."""

import re
from typing import NamedTuple

_VULGAR = {"½": 0.5, "¼": 0.25, "¾": 0.75, "⅓": 1 / 3, "⅔": 2 / 3}
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,15}(?!\d))"
_NUMBER = re.compile(
  rf"""(?<![\w.])
  (?: (?<!/)(?:(?P<whole>\d{{1,6}})\ )?
      (?P<top>\d{{1,6}})/(?P<under>0*[1-9]\d{{0,5}})(?![\d/])
    | (?:(?P<vulgar_whole>\d{{1,6}})\ ?)?(?P<vulgar>[{"".join(_VULGAR)}])
    | (?P<plain>(?:(?<!\S)-)?(?:{_DIGITS}(?:\.\d{{1,15}})?|\.\d{{1,15}}))
      (?!\d|\.\d|(?:st|nd|rd|th)\b)
  )""",
  re.VERBOSE,
)
_PLACEHOLDER = re.compile(r"number(\d+)")


class Anonymised(NamedTuple):
  """Text with placeholders, their values, and how each was written."""

  text: str
  numbers: tuple[float, ...]
  surfaces: tuple[str, ...]


def anonymise(text: str) -> Anonymised:
  """Replaces every number: 20, 0.5, .5, 1,000, -3, 1/2, 3 1/2, ½.

  Signs that are no part of a number stay: `$4` is `$number0`, `50%` is
  `number0%`. Ordinals (`3rd`) and digits inside words are left alone.
  `restore` gives the text back.

  Raises:
    ValueError: the text holds a placeholder already.
  """
  if found := _PLACEHOLDER.search(text):
    raise ValueError(
      f"the text already holds the placeholder {found[0]!r}; write the number"
    )
  numbers: list[float] = []
  surfaces: list[str] = []

  def replace(match: re.Match) -> str:
    numbers.append(_value(match))
    surfaces.append(match[0])
    return f"number{len(numbers) - 1}"

  text = _NUMBER.sub(replace, text)
  return Anonymised(text, tuple(numbers), tuple(surfaces))


def _value(match: re.Match) -> float:
  if match["top"]:
    fraction = int(match["top"]) / int(match["under"])
    return int(match["whole"] or 0) + fraction
  if match["vulgar"]:
    return int(match["vulgar_whole"] or 0) + _VULGAR[match["vulgar"]]
  return float(match["plain"].replace(",", ""))


def restore(text: str, surfaces: tuple[str, ...]) -> str:
  """Puts the numbers back; a placeholder without one stays as it is."""

  def replace(match: re.Match) -> str:
    index = int(match[1]) if len(match[1]) < 5 else len(surfaces)
    return surfaces[index] if index < len(surfaces) else match[0]

  return _PLACEHOLDER.sub(replace, text)


def tokenised(text: str) -> str:
  """Spaces around punctuation, as the published problems are written."""
  text = re.sub(r"(number\d+)(?=[A-Za-z])", r"\1 ", text)
  text = re.sub(r"([.,!?;:$%()\"])", r" \1 ", text)
  return " ".join(text.split())
