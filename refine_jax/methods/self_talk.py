"""Self-talk: criticism and mending inside one solution.

Three stages (MathCritique, its preliminary section): a chain of steps, each
with its criticism, up to the first wrong one; that step anew under the
criticism, and so on, until all is right and the answer is verified; then the
rigid chain is smoothed into one person's monologue.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from refine_jax.methods import steps as stepping
from refine_jax.methods.critique import StepCritique
from refine_jax.tasks.base import Task, squeeze


@dataclasses.dataclass(frozen=True)
class Link:
  """One step of a chain.

  Attributes:
    text: as it was written.
    wrong: it was called wrong, and what follows mends it.
    said: why, in the critic's words.
  """

  text: str
  wrong: bool = False
  said: str = ""


@dataclasses.dataclass(frozen=True)
class Chain:
  """s1 ... si (wrong, and why) si' ... answer.

  Attributes:
    done: the critic has nothing left, or there is nothing to look at.
  """

  links: tuple[Link, ...] = ()
  done: bool = False

  @property
  def good(self) -> list[str]:
    """The steps that stand."""
    return [link.text for link in self.links if not link.wrong]

  @property
  def clean(self) -> bool:
    """Nothing was ever wrong."""
    return not any(link.wrong for link in self.links)


def grown(chain: Chain, steps: Sequence[str], critique: StepCritique) -> Chain:
  """The chain after a continuation was criticised.

  Args:
    chain: so far; its good steps come before `steps`.
    steps: of the continuation.
    critique: of the whole solution, good steps included. Steps are matched by
      place; a first error among the good steps counts as one of the first
      new step, for those were accepted before. After one that cannot be read
      the chain is what it was.
  """
  first = critique.first_error
  if first is None and critique.correct is not True:
    return chain
  start = len(chain.good)
  if first is None:
    links = tuple(Link(text) for text in steps)
    return Chain((*chain.links, *links), done=True)
  at = min(max(first - start, 0), len(steps) - 1)
  said = ""
  if first < len(critique.steps):
    said = critique.steps[first].explanation
  links = [Link(text) for text in steps[:at]]
  if steps:
    links.append(Link(steps[at], True, squeeze(said or critique.explanation)))
  return Chain((*chain.links, *links))


def rigid(chain: Chain, gap: str) -> str:
  """The chain as plain text: the measure for a monologue's length."""
  parts = []
  for link in chain.links:
    parts.append(link.text)
    if link.said:
      parts.append(link.said)
  return gap.join(parts)


def smooth(
  chain: Chain,
  *,
  doubts: Sequence[str],
  mended: Sequence[str],
  gap: str,
  rng: np.random.Generator,
) -> list[tuple[str, bool]]:
  """The offline smoother: pieces of a monologue, and whether each is wrong.

  A wrong step is followed by a doubt, the critic's reason in passing, and a
  turn to what is right. The pieces join to the whole text.
  """
  pieces: list[tuple[str, bool]] = []
  turn = ""
  for i, link in enumerate(chain.links):
    lead = gap if i else ""
    text = f"{turn} {link.text}".strip()
    turn = ""
    if lead:
      pieces.append((lead, False))
    pieces.append((text, link.wrong))
    if link.wrong:
      doubt = doubts[int(rng.integers(len(doubts)))]
      pieces.append((gap + f"{doubt} {link.said}".strip(), False))
      turn = mended[int(rng.integers(len(mended)))]
  return pieces


def refused(
  pieces: Sequence[tuple[str, bool]],
  chain: Chain,
  task: Task,
  *,
  gap: str,
  shortest: float,
  longest: float,
) -> str | None:
  """Why a monologue is not kept, or None.

  Its answer must be the chain's, each wrong step and what mends it must still
  be there, and its length may not leave the given ratios.
  """
  text = "".join(piece for piece, _ in pieces)
  whole = gap.join(chain.good)
  if task.answer(text) != task.answer(whole):
    return "answer-changed"
  at = 0
  for link in chain.links:
    found = text.find(link.text, at)
    if found < 0:
      return "step-lost"
    at = found + len(link.text)
  ratio = len(text) / max(1, len(rigid(chain, gap)))
  return None if shortest <= ratio <= longest else "length"


def trajectory(responses: Sequence[str], critiques: Sequence[str]) -> list[str]:
  """The baseline: solution, critique, solution, ... in one target."""
  parts = [responses[0]]
  for critique, response in zip(critiques, responses[1:], strict=True):
    parts += [critique, response]
  return parts


def prefix_of(chain: Chain, gap: str) -> str:
  """What the actor goes on from: the steps that stand."""
  return gap.join(chain.good)


def new_steps(task: Task, tail: str) -> list[str]:
  return stepping.of(task, tail)
