"""LaTeX answers as text: where they are, plain spellings, exact fractions."""

import re
from fractions import Fraction

_LONGEST = 400  # characters of an answer
_MANY = 50  # markers, or boxes, that are looked at, from the last back
_MARKER = re.compile(r"\banswer\s+is\s*:?|\banswer\s*:|####", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_DOLLARS = re.compile(r"(?<!\\)\$\$?(.{1,400}?)(?<!\\)\$\$?", re.DOTALL)
_PARENS = re.compile(r"\\\((.{1,400}?)\\\)|\\\[(.{1,400}?)\\\]", re.DOTALL)
_END = re.compile(
  r"\n|[.;](?=\s|$)|,?\s(?:because|since|which|as|so)\s"
  r"|,?\sand\s(?:this|that|it|we|the)\s"
)
# What may stand between a marker and its answer.
_HEDGE = re.compile(
  r"(?:(?:actually|approximately|about|roughly|simply|just|exactly|indeed|"
  r"therefore|thus|then|still|now|only|equal to|given by)[\s,]+){1,4}",
  re.IGNORECASE,
)
_PROSE = re.compile(
  r"(?!(?:sqrt|pi|sin|cos|tan|log|ln|infinity)\b)[^\W\d_]{2,}"
  r"|[AaI]\s+[^\W\d_]{2,}"
)
_CURRENCY = re.compile(r"[.,;?]\s+[^\W\d_]{2,}")  # `$5. They paid $`
_TOLD = re.compile(r"[\d\\]|^[^\w\s]{0,2}[^\W\d_](?![^\W\d_])|[πτ∞√]")
# Said of an answer, never one where something else is said.
_REMARK = re.compile(
  r"(?:not |also |very |indeed |now |quite |clearly )*(?:in)?(?:correct|right|"
  r"wrong|true|false|helpful|reasonable|valid|accurate|consistent|clear|sound|"
  r"verified|confirmed|complete|found|obtained|what|that|as follows|above|"
  r"below|unique|plausible|sensible|good|fine|okay|ok)\b",
  re.IGNORECASE,
)
_WORDS = re.compile(r"\\(?:text|mbox|textnormal|textbf|mathrm|mathbf)\s*\{")
_NAMED = re.compile(
  r"^(?:\\[a-zA-Z]{1,8}|[a-zA-Z])(?:_\{?\w\}?)?(?:\([a-z]\))?\s*"
  r"(?:=(?!=)|\\in\b)\s*"
)
_AND = re.compile(  # the lookbehind keeps it linear in runs of spaces
  r"(?<!\s)(?:,?\s+(?:and|or)\s+"
  r"|,?\s*\\(?:text|mbox|textnormal)\{\s{0,9}(?:and|or)\s{0,9}\}\s*)"
)
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
  for match in reversed(list(_BOX.finditer(text))[-_MANY:]):
    if found := _braced(text, match.end()):
      return found
  return None


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
  """The answer of a solution, whatever is remarked about it afterwards.

  After the last marker that a box, formula or number follows; or in the last
  box; or the word after a marker, of which remarks (`my answer is correct`)
  count least. None without any, unless `lenient`: then the last formula, or
  number.
  """
  words = []
  for tail in reversed(_tails(text)):
    if (found := boxed(tail)) is not None:
      return found
    found, told = _first(tail)
    if told:
      return found
    words += [found] if found else []
  if (found := boxed(text)) is not None:
    return found
  if found := next((w for w in words if not _REMARK.match(w)), None):
    return found
  if lenient and (found := _last(text)) is not None:
    return found
  return words[0] if words else None


def _tails(text: str) -> list[str]:
  """What follows each marker, up to the next."""
  markers = list(_MARKER.finditer(text))[-_MANY:]
  ends = [*(m.start() for m in markers), len(text)][1:]
  return [text[m.end() : e] for m, e in zip(markers, ends, strict=True)]


def _first(rest: str) -> tuple[str | None, bool]:
  """What begins a text, and whether it is more than words.

  A formula between dollars, or the first sentence, which is prose if it
  begins with a word; names of functions and of letters are none.
  """
  rest = rest[: 4 * _LONGEST].lstrip("*_: \n")
  after = rest[hedge.end() :] if (hedge := _HEDGE.match(rest)) else rest
  for start in (after, rest):
    for pattern in (_DOLLARS, _PARENS):
      found = pattern.match(start)
      if found and not _CURRENCY.search(found[0]):
        return next(filter(None, found.groups())).strip(), True
    line = _sentence(start)
    if line and not _PROSE.match(line) and _TOLD.search(line):
      return line, True
  return _sentence(rest) or None, False


def _sentence(rest: str) -> str:
  return _END.split(rest[: 2 * _LONGEST], maxsplit=1)[0].strip(" *_")


def _last(text: str) -> str | None:
  """The last formula, or else the last number."""
  formulas = [next(filter(None, m.groups())) for m in _DOLLARS.finditer(text)]
  numbers = re.findall(r"-?\d[\d,]{0,40}(?:\.\d{1,40})?", text)
  return (formulas or numbers or [None])[-1]


def plain(text: str) -> str:
  """One spelling of what is only typeset differently; no arithmetic."""
  text = text.strip().strip("$").strip().rstrip(".,;").replace("\n", " ")
  for name in ("dfrac", "tfrac", "cfrac"):
    text = text.replace(f"\\{name}", "\\frac")
  for dropped in _DROPPED:
    text = text.replace(dropped, "")
  text = _UNIT.sub("", _AND.sub(",", text))
  text = _unwrapped(_NAMED.sub("", text))
  text = _SHORT_FRAC.sub(r"\\frac{\1}{\2}", text)
  text = _HALF_FRAC.sub(r"\\frac{\1}", text)
  text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
  text = _SUBSCRIPT.sub(r"_{\1}", text)
  text = re.sub(r"^\(([A-Za-z])\)$", r"\1", text.strip())
  text = re.sub(r"(?<![a-zA-Z\\])\s+|\s+(?![a-zA-Z])", "", text)
  return re.sub(r"(?<!\d)\.(?=\d)", "0.", text)


def marks(text: str) -> tuple[str, str]:
  """What `plain` leaves out though it may mean something: `x=`, and `%`."""
  text = text.strip().strip("$").strip()
  found = _NAMED.match(text)
  name = re.sub(r"[\s{}\\]", "", found[0]) if found else ""
  return name, "%" if "%" in text else ""


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
  if (listed := without_braces(text)) != text:
    brackets, inner = "{}", listed
  members = _members(inner)
  return (brackets, members) if len(members) > 1 else None


def without_braces(text: str) -> str:
  r"""What stands in a set, `\{...\}`; any other text as it is."""
  inner = text[2:-2]
  if text[:2] == "\\{" and text[-2:] == "\\}" and _closed(inner):
    return inner
  return text


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
