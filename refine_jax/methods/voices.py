"""The three roles of stepwise inference over kept trunks.

The agent proposes steps, the writer writes rationales, the scorer (the
untrained base) says how probable a step is. Each keeps its own trunk of every
problem, in its own layout and its own tokens.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from refine_jax.methods.layout import Layout
from refine_jax.records import Sample
from refine_jax.sampling.settings import Sampling
from refine_jax.sampling.trunks import Branch, Trunks


@dataclasses.dataclass
class Agent:
  """Proposes next steps.

  Attributes:
    settings: of a step; its stop strings end one.
  """

  trunks: Trunks
  layout: Layout
  settings: Sampling

  def open(self, name: str, question: str) -> None:
    prompt = (*self.layout.begin(question), *self.layout.ask())
    self.trunks.open(name, prompt)

  def room(self, name: str) -> int:
    return self.trunks.room(name)

  def propose(
    self,
    names: Sequence[str],
    count: int,
    turn: int,
    shown: Mapping[str, str],
  ) -> dict[str, list[Sample]]:
    """`count` steps for every problem; `shown` are rationales to be read.

    Randomness follows from the problem, the round and the candidate.
    """
    shared = {
      name: self.layout.hint(shown[name]) for name in names if name in shown
    }
    return self.trunks.propose(
      names,
      count,
      self.settings,
      ids=[f"{name}/r{turn}" for name in names],
      shared=shared,
    )

  def accept(self, chosen: Mapping[str, tuple[int, Sample]]) -> None:
    """Goes on from a candidate by its own ids."""
    self.trunks.adopt({name: index for name, (index, _) in chosen.items()})
    for name, (_, sample) in chosen.items():
      if sample.finish != "stop":  # a stop string is in the ids already
        self.trunks.append(name, (self.layout.join,))

  def close(self, name: str) -> None:
    self.trunks.close(name)


class _Follower:
  """A role that reads what was chosen as text."""

  def __init__(self, trunks: Trunks, layout: Layout):
    self.trunks, self.layout = trunks, layout

  def open(self, name: str, question: str) -> None:
    self.trunks.open(name, self.layout.begin(question))

  def accept(self, name: str, step: str) -> None:
    self.trunks.append(name, self.layout.step(step))

  def room(self, name: str) -> int:
    return self.trunks.room(name)

  def close(self, name: str) -> None:
    self.trunks.close(name)


class Writer(_Follower):
  """Writes one rationale on each trajectory, greedily."""

  def __init__(self, trunks: Trunks, layout: Layout, settings: Sampling):
    super().__init__(trunks, layout)
    self.settings = settings

  def write(self, names: Sequence[str], turn: int) -> dict[str, Sample]:
    found = self.trunks.propose(
      names,
      1,
      self.settings,
      ids=[f"{name}/w{turn}" for name in names],
      shared={name: self.layout.ask() for name in names},
    )
    return {name: samples[0] for name, samples in found.items()}


class Scorer(_Follower):
  """Log-probabilities of candidates after a trajectory and a rationale."""

  def score(
    self,
    candidates: Mapping[str, Sequence[str]],
    rationales: Mapping[str, str] | None = None,
  ) -> dict[str, list[np.ndarray]]:
    """Per token of every candidate; without rationales, after the turn."""
    given = rationales or {}
    branches = {
      name: [Branch((), (self.layout.text(text),)) for text in texts]
      for name, texts in candidates.items()
    }
    shared = {name: self.layout.ask(given.get(name)) for name in candidates}
    return self.trunks.score(branches, shared)


def text_of(sample: Sample) -> str:
  """A sampled text without white space around it."""
  return sample.text.strip()
