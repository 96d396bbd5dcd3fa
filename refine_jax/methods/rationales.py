"""Texts with rationales in them: the grammar, fidelity, what is worth keeping.

An annotated text is `text (OPEN rationale CLOSE text)*`. A model wrote it, so
anything else is rejected as a whole: nothing of a rationale may end up in the
text that a later one is said to follow.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence

from refine_jax import records


class BadAnnotation(ValueError):
  """An annotated text that is not of the grammar; says why."""


@dataclasses.dataclass(frozen=True)
class Markers:
  """The strings around a rationale, ordinary text to a tokenizer."""

  open: str = "<BOT>"
  close: str = "<EOT>"

  def __post_init__(self):
    if not self.open or not self.close or self.open == self.close:
      raise ValueError(f"markers {self.open!r} and {self.close!r}")


@dataclasses.dataclass(frozen=True)
class Parsed:
  """The parts of an annotated text, as they stand there.

  Attributes:
    texts: one more than rationales; joined they are the text without them.
    rationales: stripped of white space around them.
  """

  texts: tuple[str, ...]
  rationales: tuple[str, ...]

  @property
  def text(self) -> str:
    return "".join(self.texts)

  def triples(self) -> Iterator[tuple[str, str, str]]:
    """(preceding, rationale, following), each without white space around.

    What follows ends at the next rationale; what precedes holds none.
    """
    for i, rationale in enumerate(self.rationales):
      preceding = "".join(self.texts[: i + 1]).strip()
      yield preceding, rationale, self.texts[i + 1].strip()


def parse(text: str, markers: Markers) -> Parsed:
  """Takes an annotated text apart.

  A rationale that was put in with a space of its own takes it out again: of
  the white space on both sides of it one run remains.

  Raises:
    BadAnnotation: nested or unbalanced markers, or an empty rationale.
  """
  pattern = f"({re.escape(markers.open)}|{re.escape(markers.close)})"
  texts, rationales, inside = [""], [], False
  for piece in re.split(pattern, text):
    if piece == markers.open:
      if inside:
        raise BadAnnotation(f"rationale {len(rationales)} holds another one")
      inside = True
      rationales.append("")
    elif piece == markers.close:
      if not inside:
        raise BadAnnotation(f"{markers.close} without {markers.open}")
      if not rationales[-1].strip():
        raise BadAnnotation(f"rationale {len(rationales) - 1} is empty")
      inside = False
      texts.append("")
    elif inside:
      rationales[-1] = piece
    else:
      before = "".join(texts)
      texts[-1] = _joined(before, piece) if rationales else piece
  if inside:
    raise BadAnnotation(f"rationale {len(rationales) - 1} does not end")
  return Parsed(tuple(texts), tuple(r.strip() for r in rationales))


def _joined(before: str, after: str) -> str:
  """`after` without the white space that came with a rationale."""
  if before and not before[-1].isspace():
    return after
  here = before[len(before.rstrip()) :]
  there = after[: len(after) - len(after.lstrip())]
  if there == here:
    return after[len(there) :]
  return after[1:] if after.startswith(" ") else after


def insert(
  text: str, insertions: Iterable[tuple[int, str]], markers: Markers
) -> str:
  """`text` with rationales before the characters at the given places.

  Raises:
    ValueError: a place where `parse` could not tell the text's own white
      space from the rationale's, a marker in the text or in a rationale.
  """
  parts, last = [], 0
  for place, rationale in sorted(insertions):
    _check(rationale, markers)
    if not 0 <= place < len(text) or text[place].isspace():
      raise ValueError(f"a rationale goes before a word, not at {place}")
    begins = not text[:place] or text[place - 1].isspace()
    space = " " if begins else ""
    hint = f"{markers.open}{rationale}{markers.close}{space}"
    parts += [text[last:place], hint]
    last = place
  _check(text or " ", markers)
  return "".join([*parts, text[last:]])


def _check(text: str, markers: Markers) -> None:
  if not text or markers.open in text or markers.close in text:
    raise ValueError(f"empty, or with a marker in it: {text!r}")


# ------------------------------------------------------------------- fidelity


def fidelity(original: str, annotated: Parsed) -> float:
  """1 - edit distance / length, both without any white space.

  1 where only rationales were added; negative where more was written than
  there was.
  """
  ours, theirs = _bare(original), _bare(annotated.text)
  return 1.0 - edit_distance(ours, theirs) / max(len(ours), 1)


def _bare(text: str) -> str:
  return "".join(text.split())


def edit_distance(a: str, b: str) -> int:
  """Insertions, deletions and substitutions that make `b` of `a`.

  A column of the table as bits of two integers (Myers 1999, Hyyro 2003).
  """
  if not a or not b:
    return len(a) or len(b)
  where: dict[str, int] = {}
  for i, character in enumerate(a):
    where[character] = where.get(character, 0) | (1 << i)
  full, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
  up, down, distance = full, 0, len(a)
  for character in b:
    match = where.get(character, 0)
    diagonal = (((match & up) + up) ^ up) | match | down
    more = down | ~(diagonal | up) & full
    less = up & diagonal
    distance += bool(more & last) - bool(less & last)
    more = (more << 1 | 1) & full
    less = less << 1 & full
    up = less | ~(diagonal | more) & full
    down = more & diagonal
  return distance


# -------------------------------------------------------------------- filters

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W\d_]+")


def numbers(text: str) -> set[str]:
  """The numbers in a text, without the commas of thousands."""
  return {m.replace(",", "").rstrip(".") for m in _NUMBER.findall(text)}


def leaks(preceding: str, rationale: str, following: str) -> bool:
  """Whether a rationale gives away a number that only comes after it."""
  new = numbers(following) - numbers(preceding)
  return bool(new & numbers(rationale))


def answer_only(following: str, phrases: Sequence[str]) -> bool:
  """Whether what follows says the answer and nothing else.

  Args:
    phrases: what announces an answer ("####", "the answer is"); without them,
      at most one word or number may remain.
  """
  rest, announced = following.lower(), False
  for phrase in phrases:
    announced |= phrase.lower() in rest
    rest = rest.replace(phrase.lower(), " ")
  content = len(_WORD.findall(rest)) + len(_NUMBER.findall(rest))
  return content == 0 or (announced and content <= 1)


def rationales_of(
  document: str, parsed: Parsed, meta: dict | None = None
) -> list[records.Rationale]:
  """A document's rationales as records; `<document>/r<index>`."""
  return [
    records.Rationale(
      id=f"{document}/r{i}",
      document=document,
      preceding=preceding,
      rationale=rationale,
      following=following,
      meta={**(meta or {}), "index": i},
    )
    for i, (preceding, rationale, following) in enumerate(parsed.triples())
  ]


def of_released_row(row: dict, index: int) -> records.Rationale:
  """A row of the published data: `preceeding` (so spelt), no document.

  Rows of one document are told by their first line, which they share.

  Raises:
    KeyError: a field is missing.
  """
  preceding = row["preceeding"] if "preceeding" in row else row["preceding"]
  first = preceding.strip().partition("\n")[0]
  return records.Rationale(
    id=f"released/{index}",
    document=first or f"released/{index}",
    preceding=preceding.strip(),
    rationale=row["rationale"].strip(),
    following=row["following"].strip(),
    meta={"source": str(row.get("source", "released"))},
  )


# ----------------------------------------------------------------- annotating


@dataclasses.dataclass(frozen=True)
class Annotation:
  """What an annotator made of a document.

  Attributes:
    document: the text it was given; `subset` where that is from.
    output: what it wrote, whatever that is.
    fault: why it is rejected, or "".
    fidelity: 1 where nothing but rationales was added; None if unparsed.
  """

  id: str
  subset: str
  document: str
  output: str
  fault: str = ""
  fidelity: float | None = None


@dataclasses.dataclass(frozen=True)
class Instruction:
  """What an annotator is told: an instruction and worked examples.

  Attributes:
    system: the instruction, with {open} and {close} for the markers.
    demonstrations: annotated texts; the plain ones are made of them, so no
      example changes its text.
    user, assistant: before a plain and before an annotated text.
    end: after either.
  """

  system: str
  demonstrations: tuple[str, ...] = ()
  user: str = "Text:\n"
  assistant: str = "\nWith rationales:\n"
  end: str = "\n\n"

  def prefix(self, markers: Markers) -> str:
    """Everything before the document; the same for all of them."""
    told = self.system.format(open=markers.open, close=markers.close)
    parts = [told, self.end] if told else []
    for annotated in self.demonstrations:
      plain = parse(annotated, markers).text
      parts += [self.user, plain, self.assistant, annotated, self.end]
    return "".join([*parts, self.user])

  def prompt(self, document: str, markers: Markers) -> records.Prompt:
    return (self.prefix(markers), document, self.assistant)


def judge(
  document: records.Document, output: str, markers: Markers, gate: float
) -> tuple[Annotation, Parsed | None]:
  """An annotation with its fault, and its parts if there is none."""
  base = Annotation(document.id, document.subset, document.text, output)
  try:
    parsed = parse(output.strip(), markers)
  except BadAnnotation as error:
    return dataclasses.replace(base, fault=str(error)), None
  close = fidelity(document.text, parsed)
  base = dataclasses.replace(base, fidelity=close)
  if close < gate:
    return dataclasses.replace(base, fault="the text was changed"), None
  if not parsed.rationales:
    return dataclasses.replace(base, fault="no rationale"), None
  return base, parsed
