"""Step-by-step critiques as values and as text.

    Step sentence: She sold 30 / 2 = 15 eggs
    Correctness of the step: Wrong
    Explanation: The price of an egg is not used.

    Correctness of the final answer: Wrong
    Explanation: The capital is not recovered.

This is MathCritique's form (arXiv 2411.16579). A `Grammar` names its words,
so that a small model can be taught shorter ones.
"""

import dataclasses
import functools
import re

_READ = {"correct": True, "right": True}
_READ |= {"wrong": False, "incorrect": False}


@dataclasses.dataclass(frozen=True)
class Step:
  """One step as the critic repeats it, the verdict's word, and why."""

  text: str
  verdict: str
  explanation: str = ""

  @property
  def correct(self) -> bool | None:
    """None for a verdict nobody can read."""
    return reading(self.verdict)


@dataclasses.dataclass(frozen=True)
class StepCritique:
  """Verdicts on all steps, then on the final answer.

  Attributes:
    steps: in the order of the solution.
    verdict: the word on the final answer; empty where there is none.
    explanation: of the final verdict.
  """

  steps: tuple[Step, ...]
  verdict: str
  explanation: str = ""

  @property
  def correct(self) -> bool | None:
    """The final verdict; None for one nobody can read."""
    return reading(self.verdict)

  @property
  def first_error(self) -> int | None:
    """The first step called wrong, from 0.

    The number of steps if only the final answer is; None if nothing is.
    """
    for i, step in enumerate(self.steps):
      if step.correct is False:
        return i
    return len(self.steps) if self.correct is False else None

  @property
  def readable(self) -> bool:
    """Has steps, and every verdict is one.

    A last step without a verdict is the answer, whose verdict follows.
    """
    judged = self.steps
    if judged and not judged[-1].verdict:
      judged = judged[:-1]
    verdicts = [s.correct for s in judged] + [self.correct]
    return bool(self.steps) and None not in verdicts


def reading(verdict: str) -> bool | None:
  """`Correct`, `Wrong` or a synonym comes first; None if both are said."""
  words = re.findall(r"[a-z]+", verdict.lower())
  said = {_READ[w] for w in words if w in _READ}
  if not words or words[0] not in _READ or len(said) > 1:
    return None
  return said.pop()


@dataclasses.dataclass(frozen=True)
class Grammar:
  """The words of a critique.

  Attributes:
    step, verdict, why, final: what the four kinds of field begin with.
    right, wrong: the verdicts.
    field, block: what stands before a field, and before a step or the final
      verdict.
    anchored: field words count at the beginning of a line only; else as words
      anywhere, and a text must not contain them.
    terse: no explanation is written where there is none.
  """

  step: str = "Step sentence:"
  verdict: str = "Correctness of the step:"
  why: str = "Explanation:"
  final: str = "Correctness of the final answer:"
  right: str = "Correct"
  wrong: str = "Wrong"
  field: str = "\n"
  block: str = "\n\n"
  anchored: bool = True
  terse: bool = False

  def word(self, correct: bool) -> str:
    return self.right if correct else self.wrong

  def render(self, critique: StepCritique) -> str:
    """The text; `parse` gives the critique back.

    Raises:
      ValueError: a text that would be read as something else.
    """
    blocks = [
      self._block(self.step, s.text, self.verdict, s.verdict, s.explanation)
      for s in critique.steps
    ]
    blocks.append(
      self._block("", "", self.final, critique.verdict, critique.explanation)
    )
    return self.block.join(blocks)

  def _block(self, label, text, verdict_label, verdict, explanation) -> str:
    for value in (text, verdict, explanation):
      if value != value.strip() or self._labels.search(value):
        raise ValueError(f"not a text of a critique: {value!r}")
    fields = [f"{label} {text}".strip()] if label else []
    fields.append(f"{verdict_label} {verdict}".strip())
    if explanation or not self.terse:
      fields.append(f"{self.why} {explanation}".strip())
    return self.field.join(fields)

  def parse(self, text: str) -> StepCritique:
    """Reads what a model wrote, as far as it can be read.

    Blank lines, spaces, capitals and markdown around field names do not
    matter; whatever stands before the first field is dropped. Verdicts that
    are missing are empty.
    """
    steps: list[Step] = []
    final: Step | None = None
    for name, value in self._fields(text):
      if name == "step":
        steps.append(Step(value, ""))
      elif name == "final":
        final = Step("", value)
      elif name == "why" and final is not None:
        final = _explained(final, value)
      elif name == "why" and steps:
        steps[-1] = _explained(steps[-1], value)
      elif name == "verdict" and final is not None:
        final = dataclasses.replace(final, verdict=final.verdict or value)
      elif name == "verdict" and steps:
        steps[-1] = dataclasses.replace(steps[-1], verdict=value)
    final = final or Step("", "")
    return StepCritique(tuple(steps), final.verdict, final.explanation)

  def plain(self, text: str) -> str:
    """A text as a step may hold it: stripped, without field words."""
    while self._labels.search(text):
      text = self._labels.sub(" ", text)
    return " ".join(text.split()) if not self.anchored else text.strip()

  def stripped(self, text: str) -> str:
    """The critique without what the model said before its first step."""
    found = self._labels.search(text)
    return text[found.start() :].strip() if found else text.strip()

  def _fields(self, text: str):
    found = list(self._labels.finditer(text))
    ends = [m.start() for m in found[1:]] + [len(text)]
    for match, end in zip(found, ends, strict=False):
      value = text[match.end() : end].strip().rstrip("*").rstrip()
      yield match.lastgroup, value

  @functools.cached_property
  def _labels(self) -> re.Pattern:
    # Longer names first: one may begin with another.
    names = {"step": self.step, "verdict": self.verdict}
    names |= {"why": self.why, "final": self.final}
    if not all(names.values()):
      raise ValueError(f"a grammar needs a word for every field: {names}")
    ordered = sorted(names.items(), key=lambda item: -len(item[1]))
    either = "|".join(f"(?P<{n}>{_spaced(label)})" for n, label in ordered)
    if self.anchored:
      return re.compile(rf"^[ \t>#*_-]*(?:{either})[*_]*", re.M | re.I)
    return re.compile(rf"(?<!\S)(?:{either})(?!\S)")


def _explained(step: Step, value: str) -> Step:
  """With an explanation; a second one goes on from the first."""
  joined = "\n".join(filter(None, (step.explanation, value)))
  return dataclasses.replace(step, explanation=joined)


def _spaced(label: str) -> str:
  """A label's words, whatever space is between them and before a colon."""
  words = label.replace(":", " :").split()
  return r"\s*".join(
    re.escape(w) if w == ":" else rf"{re.escape(w)}(?:[ \t]+|(?=\s*:)|$|(?=\s))"
    for w in words
  )


PUBLISHED = Grammar()
# One id for most fields under a tokenizer of words.
COMPACT = Grammar(
  step="line",
  verdict=":",
  why="because",
  final="final",
  right="right",
  wrong="wrong",
  field=" ",
  block=" ",
  anchored=False,
  terse=True,
)
GRAMMARS = {"published": PUBLISHED, "compact": COMPACT}
