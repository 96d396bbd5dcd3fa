"""LaTeX answers as text: where they are, plain spellings, exact fractions."""

import re
from fractions import Fraction

_LONGEST = 400  # characters of an answer
_MARKER = re.compile(r"\banswer\s+is\s*:?|\banswer\s*:|####", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_DOLLARS = re.compile(r"(?<!\\)\$\$?(.{1,400}?)(?<!\\)\$\$?", re.DOTALL)
_PARENS = re.compile(r"\\\((.{1,400}?)\\\)|\\\[(.{1,400}?)\\\]", re.DOTALL)
_END = re.compile(r"\n|[.;](?=\s|$)|\s(?:because|since)\s")
_WORDS = re.compile(r"\\(?:text|mbox|textnormal|textbf|mathrm|mathbf)\s*\{")
_NAMED = re.compile(r"^\\?[a-zA-Z](?:_\{?\w\}?)?(?:\([a-z]\))?\s*=(?!=)\s*")
_UNIT = re.compile(
  r"(?<=[\d}])\s*(?:\\text|\\mbox|\\mathrm|\\textnormal)\{.*\}"
)
_SHORT_FRAC = re.compile(r"\\frac\s*(\d)\s*(\d)(?!\d)")
_HALF_FRAC = re.compile(r"\\frac\s*(\d)\s*(?=\{)")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\d)")
_SUBSCRIPT = re.compile(r"_(\w)(?!\w)")
_GROUPED = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_DECIMAL = re.compile(r"([-+]?)(\d{0,40})(?:\.(\d{0,40}))?")
_SLASH = re.compile(r"([-+]?)(\d{1,40})/(\d{1,40})")
_FRAC = re.compile(r"([-+]?)(\d{0,9})\\frac\{(-?\d{1,40})\}\{(-?\d{1,40})\}")
_DROPPED = (
  "\\left", "\\right", "\\!", "\\,", "\\;", "\\:", "\\$", "^{\\circ}",
  "^\\circ", "{,}", "\\displaystyle", "\\%", "%",
)  # fmt: skip


def boxed(text: str) -> str | None:
  r"""What the last `\boxed` or `\fbox` holds; None without one."""
  found = None
  for match in _BOX.finditer(text):
    found = _braced(text, match.end()) or found
  return found


def _braced(text: str, start: int) -> str | None:
  if start >= len(text):
    return None
  if text[start] != "{":
    return re.match(r"[^\s$.,]*", text[start : start + 40])[0] or None
  depth = 0
  for i in range(start, min(len(text), start + 2 * _LONGEST)):
    depth += (text[i] == "{") - (text[i] == "}")
    if not depth:
      return text[start + 1 : i].strip()
  return None


def said(text: str, *, lenient: bool = False) -> str | None:
  """The answer of a solution: after the last marker, or in the last box.

  None without either, unless `lenient`: then the last formula, or number.
  """
  markers = list(_MARKER.finditer(text))
  rest = text[markers[-1].end() :] if markers else text
  if (found := boxed(rest)) is not None:
    return found
  if markers:
    return _first_formula(rest.strip())
  if not lenient:
    return None
  formulas = [next(filter(None, m.groups())) for m in _DOLLARS.finditer(text)]
  numbers = re.findall(r"-?\d[\d,]{0,40}(?:\.\d{1,40})?", text)
  return (formulas or numbers or [None])[-1]


def _first_formula(rest: str) -> str | None:
  """What begins a text: a formula between dollars, or its first sentence."""
  rest = rest.lstrip("*_: \n")
  for pattern in (_DOLLARS, _PARENS):
    if found := pattern.match(rest):
      return next(filter(None, found.groups())).strip()
  line = _END.split(rest[: 2 * _LONGEST], maxsplit=1)[0]
  return line.strip(" *_") or None


def plain(text: str) -> str:
  """One spelling of what is only typeset differently; no arithmetic."""
  text = text.strip().strip("$").strip().rstrip(".,;").replace("\n", " ")
  for name in ("dfrac", "tfrac", "cfrac"):
    text = text.replace(f"\\{name}", "\\frac")
  for dropped in _DROPPED:
    text = text.replace(dropped, "")
  text = _NAMED.sub("", _UNIT.sub("", text))
  text = _unwrapped(text)
  text = _SHORT_FRAC.sub(r"\\frac{\1}{\2}", text)
  text = _HALF_FRAC.sub(r"\\frac{\1}", text)
  text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
  text = _SUBSCRIPT.sub(r"_{\1}", text)
  text = re.sub(r"^\(([A-Za-z])\)$", r"\1", text.strip())
  text = re.sub(r"(?<![a-zA-Z\\])\s+|\s+(?![a-zA-Z])", "", text)
  return re.sub(r"(?<!\d)\.(?=\d)", "0.", text)


def _unwrapped(text: str) -> str:
  r"""`\text{even}` as its words."""
  while found := _WORDS.search(text):
    inner = _braced(text, found.end() - 1)
    if inner is None:
      return text
    end = text.index("}", found.end() - 1 + len(inner)) + 1
    text = f"{text[: found.start()]}{inner}{text[end:]}"
  return text


def fraction(text: str) -> Fraction | None:
  """The exact value of a plain number, or None if it is none."""
  text = text[:_LONGEST]
  if _GROUPED.fullmatch(text):
    text = text.replace(",", "")
  if found := _FRAC.fullmatch(text):
    sign, whole, top, under = found.groups()
    if not int(under):
      return None
    size = Fraction(int(whole or 0)) + Fraction(int(top), int(under))
    return -size if sign == "-" else size
  if found := _SLASH.fullmatch(text):
    sign, top, under = found.groups()
    if not int(under):
      return None
    return Fraction(int(top), int(under)) * (-1 if sign == "-" else 1)
  found = _DECIMAL.fullmatch(text)
  if not found or not (found[2] or found[3]):
    return None
  size = Fraction(f"{found[2] or 0}.{found[3] or 0}")
  return -size if found[1] == "-" else size


def parts(text: str) -> tuple[str, list[str]] | None:
  """Brackets and members of a list, tuple or interval; None if it is none.

  The brackets of a bare list are ""; grouped digits (`10,000`) are a number.
  """
  if _GROUPED.fullmatch(text):
    return None
  brackets, inner = "", text
  for pair in ("()", "[]", "(]", "[)", "{}"):
    if text[:1] == pair[0] and text[-1:] == pair[1] and _closed(text[1:-1]):
      brackets, inner = pair, text[1:-1]
  if text.startswith("\\{") and text.endswith("\\}"):
    brackets, inner = "{}", text[2:-2]
  members = _members(inner)
  return (brackets, members) if len(members) > 1 else None


def _closed(text: str) -> bool:
  depth = 0
  for c in text:
    depth += (c in "([{") - (c in ")]}")
    if depth < 0:
      return False
  return depth == 0


def _members(text: str) -> list[str]:
  """Split at commas outside of brackets, and at `or` and `and`."""
  text = re.sub(r",?\s*\b(?:or|and)\b\s*", ",", text)
  found, depth, start = [], 0, 0
  for i, c in enumerate(text):
    depth += (c in "([{") - (c in ")]}")
    if c == "," and not depth:
      found.append(text[start:i])
      start = i + 1
  return [m for m in (*found, text[start:]) if m.strip()]
