"""Numbers and letters as models write them, and when two are the same.

`strict` reads what a person would: `1,000`, `$18`, `50%`, `1/2`, `3 1/2`,
`18 apples`; nothing that is not finite is a number. `compat` is Python's
`float` of the whole text, as the published ReFT results were scored.
"""

import math
import re

MODES = ("strict", "compat")
TOLERANCE = 1e-2  # absolute, as the data rounds
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,40})"
_NUMBER = re.compile(
  rf"""(?P<sign>[-+]?)\s?[$€£¥]?\s?(?P<minus>-?)
  (?:(?:(?P<whole>\d{{1,15}})\s)?(?P<top>\d{{1,15}})\s?/\s?(?P<under>\d{{1,15}})
    |(?P<plain>(?:{_DIGITS}(?:\.\d{{0,40}})?|\.\d{{1,40}})
      (?:[eE][-+]?\d{{1,3}})?))
  (?:\s?[%°$€£¥])?""",
  re.VERBOSE | re.ASCII,
)
_UNIT = re.compile(r"(?:\s[^\W\d]\S{0,30}){0,6}")
_NAMED = re.compile(r"[a-z]\s?=\s?", re.IGNORECASE)
_LETTER = re.compile(
  r"[\s(\"']*(?:option\s+|choice\s+)?\(?([a-e])\s*(?:$|[).:\"'].*)",
  re.IGNORECASE | re.DOTALL,
)


def number(value: object, mode: str = "strict") -> float | None:
  """A number as a program returned it or a text says it; None if it is none."""
  if mode == "compat":
    return _float(value)
  if isinstance(value, bool) or value is None:
    return None
  if isinstance(value, int | float):
    found = _float(value)
    return found if found is not None and math.isfinite(found) else None
  return _read(value) if isinstance(value, str) else None


def _float(value: object) -> float | None:
  if not isinstance(value, int | float | str):
    return None
  try:
    return float(value)
  except (ValueError, OverflowError):
    return None


def _read(text: str) -> float | None:
  if len(text) > 200:
    return None
  text = text.strip(" \t\n<>*\"'`").rstrip(".,;!? \n<>*")
  text = text.replace("\N{MINUS SIGN}", "-").replace("\\$", "$")
  if named := _NAMED.match(text):
    text = text[named.end() :]
  found = _NUMBER.match(text)
  if not found or not _UNIT.fullmatch(text[found.end() :]):
    return None
  negative = "-" in found["sign"] + found["minus"]
  if found["top"]:
    if not int(found["under"]):
      return None
    size = int(found["whole"] or 0) + int(found["top"]) / int(found["under"])
  else:
    size = float(found["plain"].replace(",", ""))
  if not math.isfinite(size):
    return None
  return -size if negative else size


def same(found: float, gold: float, mode: str = "strict") -> bool:
  """Within the rounding of the data.

  Below 0.1 `strict` asks for more than the absolute 0.01: for the last digit
  the gold is written with, or for one part in a hundred.
  """
  tolerance = TOLERANCE if mode == "compat" else TOLERANCE + 1e-9
  if mode == "strict" and abs(gold) < 0.1:
    places = len(shown(gold).partition(".")[2])
    tolerance = min(tolerance, max(10.0**-places, abs(gold) / 100))
  return abs(found - gold) <= tolerance


def shown(value: float) -> str:
  """A number's one spelling: `18`, `2.5`, `0.002`; what is not finite too."""
  if not math.isfinite(value):
    return str(value)
  if value == int(value) and abs(value) < 1e15:
    return str(int(value))
  return repr(value) if abs(value) >= 1e-4 else f"{value:.12f}".rstrip("0")


def key(value: float, mode: str = "strict") -> str:
  """The vote of a number: two decimals in `strict`, exact in `compat`."""
  if mode == "compat" or abs(value) < 0.1:
    return shown(value)
  return shown(round(value, 2))


def letter(value: object, mode: str = "strict") -> str | None:
  """A multiple-choice answer: `c`, `(C)`, `c ) 198`, `option c` are `c`.

  In `compat` any text, in lower case and without quotes.
  """
  if mode == "compat":
    return str(value).lower().replace('"', "").replace("'", "").strip()
  if not isinstance(value, str):
    return None
  found = _LETTER.fullmatch(value[:400].strip("<>*. \n"))
  return found[1].lower() if found else None
