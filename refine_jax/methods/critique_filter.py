"""Which critiques are kept: no leaks, and refinements that come out right.

MathCritique, stage 3 (arXiv 2411.16579): a critique is worth keeping if an
actor that reads it solves the problem. Every rule is a function that gives
its name as the reason to drop a row, or None.
"""

import dataclasses
import re
from collections.abc import Sequence

from refine_jax.methods.critique import Grammar

# What an annotator says who has seen the reference.
_SEEN = re.compile(
  r"\b(?:reference|gold(?:en)?|ground[- ]truth|given|provided|official|model)"
  r"\s+(?:answer|solution|response)s?\b"
  r"|\b(?:the|a) correct (?:final )?(?:answer|solution|result)\b"
  r"|\bcorrect answer\b",
  re.I,
)
_NUMBER = re.compile(r"\d+")


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
    response: what was criticised; a number in it is no secret.
  """
  if _SEEN.search(critique):
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
  """The answer stands in the text by itself, not inside another number."""
  flat = text.replace(",", "") if answer.replace(",", "").isdigit() else text
  wanted = answer.replace(",", "") if flat is not text else answer
  pattern = rf"(?<![\w.]){re.escape(wanted)}(?![\w]|\.\d)"
  return re.search(pattern, flat) is not None


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
