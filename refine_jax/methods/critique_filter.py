"""Which critiques are kept: no leaks, and refinements that come out right.

MathCritique, stage 3 (arXiv 2411.16579): a critique is worth keeping if an
actor that reads it solves the problem. Every rule is a function that gives
its name as the reason to drop a row, or None.
"""

import dataclasses
import re
from collections.abc import Sequence

from refine_jax.methods.critique import Grammar

# What an annotator says who has seen the reference. The given, provided or
# model's solution is what is criticised, the correct solution or result may be
# one's own finding, and a reference angle has been seen by everybody.
_SEEN = re.compile(
  r"\breference +(?:\w+ +)?(?:answer|solution|response)s?\b"
  r"|\b(?:provided|given) +reference\b(?! +(?:angle|point|frame|line)s?\b)"
  r"|\b(?:in|by|from|with|per|to) +the +reference\b(?! *\w)"
  r"|\bthe +reference +(?:shows|says|states|gives|has|uses|indicates)\b"
  r"|\b(?:gold(?:en)?|official|model) +answers?\b"
  r"|\b(?:gold|official) +solutions?\b"
  r"|\bground[- ]truth\b"
  r"|\b(?:given|correct) +(?:final +)?answers?\b",
  re.I,
)
_NUMBER = re.compile(r"\d+")
# Numbers that count the solution's parts, or the critique's.
_LABEL = re.compile(
  r"\b(?:step|line|sentence|case|equation|part|method)s? *[#(]?\d+"
  r"(?:(?:, *|,? (?:and|or|to) |-)\d+)*\b|^ *\d+[.)](?= +\S)",
  re.I | re.M,
)


@dataclasses.dataclass(frozen=True)
class MonteCarlo:
  """Presets: hard (`min_correct=1`), soft (`tau`), advantage (`delta`).

  Attributes:
    n: refinements sampled per critique.
    min_correct: of them right at least; 0 for no such rule.
    tau: the share of them right at least; 0 for none.
    delta: by how much that share must exceed the share of fresh samples that
      are right without a critique; below 0 for no such rule. Where fresh
      samples leave less room than delta, all refinements must be right.
  """

  n: int = 10
  min_correct: int = 1
  tau: float = 0.3
  delta: float = 0.1

  def __post_init__(self):
    if self.n < 1 or not 0 <= self.min_correct <= self.n:
      raise ValueError(f"min_correct={self.min_correct} of n={self.n}")
    if not 0 <= self.tau <= 1 or self.delta > 1:
      raise ValueError(f"tau={self.tau}, delta={self.delta}")

  def reason(self, correct: int, control: float | None = None) -> str | None:
    """Why `correct` right refinements of n are too few.

    Args:
      correct: how many are right.
      control: the share of right ones among fresh samples; None if nobody
        looked, which is an error under a delta.
    """
    if not 0 <= correct <= self.n:
      raise ValueError(f"{correct} right of {self.n}")
    if correct < self.min_correct:
      return "mc-hard"
    share = correct / self.n
    if share < self.tau:
      return "mc-soft"
    if self.delta >= 0:
      if control is None:
        raise ValueError("the rule by advantage needs a control")
      if share < min(1.0, control + self.delta) - 1e-9:
        return "mc-advantage"
    return None


HARD = MonteCarlo(tau=0.0, delta=-1.0)
SOFT = MonteCarlo(delta=-1.0)
ADVANTAGE = MonteCarlo()


def leaks(critique: str, answer: str = "", response: str = "") -> str | None:
  """The critique tells that, or what, the annotator has seen.

  Args:
    critique: its text.
    answer: the gold answer; nothing is compared with an empty one.
    response: what was criticised; its words and numbers are no secret.
  """
  known = response.lower()
  if any(m[0].lower() not in known for m in _SEEN.finditer(critique)):
    return "leak-words"
  if answer and _holds(critique, answer) and not _holds(response, answer):
    return "leak-answer"
  return None


def copies(critique: str, answer: str, refinements: Sequence[str]) -> bool:
  """A leaked answer is all that the refinements are: too short to reason."""
  if not answer or not _holds(critique, answer) or not refinements:
    return False
  return all(len(_NUMBER.findall(text)) <= 2 for text in refinements)


def _holds(text: str, answer: str) -> bool:
  """The answer stands in the text by itself: not inside another number, not
  as the number of a step, nor, being a letter, as a word."""
  text = _LABEL.sub(" ", text)
  if re.fullmatch("[A-Za-z]", answer):
    pattern = (
      rf"[$({{] ?{answer} ?[$)}}]|\b(?:answer|option) (?:is )?{answer}\b"
    )
    return re.search(pattern, text) is not None
  digits = answer.replace(",", "")
  if digits.isdecimal():
    first = len(digits) % 3 or 3
    groups = [digits[:first]]
    groups += [digits[i : i + 3] for i in range(first, len(digits), 3)]
    pattern = rf"(?<![\w.])(?<!\d,){',?'.join(groups)}(?!,\d{{3}})"
  else:
    pattern = rf"(?<![\w.]){re.escape(answer)}"
  return re.search(rf"{pattern}(?!\w|\.\d)", text) is not None


def shape(
  text: str, grammar: Grammar, *, right: bool, steps: int = 0
) -> str | None:
  """The critique can be read, and its verdicts fit what is known.

  Args:
    text: the critique.
    grammar: its form.
    right: whether the response is right.
    steps: the response's steps; 0 if nobody counted. A critic may take a line
      for several steps, but not leave half of them out.
  """
  found = grammar.parse(text)
  if not found.readable:
    return "unreadable"
  if found.correct != right:
    return "wrong-verdict"
  if right and any(step.correct is False for step in found.steps):
    return "wrong-step-in-right"
  if steps and len(found.steps) < steps / 2:
    return "steps-missing"
  return None


def shortcut(refined: str, response: str, gold: str, slack: int = 2) -> bool:
  """A refinement with fewer numbers than reasoning needs (the original's
  barrier): fewer than the poorer of response and gold, less `slack`."""
  least = min(len(_NUMBER.findall(text)) for text in (response, gold))
  return len(_NUMBER.findall(refined)) < least - slack
