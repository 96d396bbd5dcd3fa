"""Who chooses among the steps an agent proposes: one interface, many ways.

A selector looks at all live problems of a round at once. It may show the
agent something before it proposes, and is told what was accepted.
"""

import dataclasses
import re
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from refine_jax.algorithms import likelihood
from refine_jax.methods.voices import Scorer, Writer, text_of
from refine_jax.records import Sample

# Question, accepted steps -> one greedy continuation each.
Ask = Callable[[Sequence[tuple[str, tuple[str, ...]]]], list[Sample]]


@dataclasses.dataclass(frozen=True)
class Choice:
  """A candidate and why.

  Attributes:
    scores: one per candidate, the higher the better; ties go to the first.
    rationale: what was written, or "".
    spent: tokens that were generated to choose.
    calls: passes of a model that it took.
    unparsed: answers of a judge that could not be read.
  """

  index: int
  scores: tuple[float, ...] = ()
  rationale: str = ""
  spent: int = 0
  calls: int = 0
  unparsed: int = 0


def best(scores: Sequence[float], **notes) -> Choice:
  """The first of the highest."""
  scores = tuple(float(s) for s in scores)
  return Choice(int(np.argmax(scores)), scores, **notes)


class Selector:
  """The interface; by default shows and follows nothing and takes the first."""

  def open(self, name: str, question: str) -> None:
    """A problem begins."""

  def show(self, names: Sequence[str], turn: int) -> dict[str, str]:
    """Rationales for the agent to read before it proposes."""
    return {}

  def choose(
    self, turn: int, candidates: Mapping[str, Sequence[str]]
  ) -> dict[str, Choice]:
    """One candidate for every problem."""
    return {name: Choice(0) for name in candidates}

  def accept(self, name: str, step: str) -> None:
    """A step was taken."""

  def room(self, name: str) -> float:
    """Tokens that a problem may still grow by."""
    return np.inf

  def close(self, name: str) -> None:
    """A problem ends."""


class First(Selector):
  """The first candidate: sampling without a choice."""


class Random(Selector):
  """One at random, by problem and round."""

  def __init__(self, seed: int):
    self._seed = seed

  def choose(self, turn, candidates):
    return {
      name: Choice(int(self._rng(name, turn).integers(len(texts))))
      for name, texts in candidates.items()
    }

  def _rng(self, name: str, turn: int) -> np.random.Generator:
    return np.random.default_rng([self._seed, zlib.crc32(name.encode()), turn])


class _Scored(Selector):
  """Keeps a scorer's trunks."""

  def __init__(self, scorer: Scorer, aggregate: str):
    self._scorer = scorer
    self._aggregate = likelihood.AGGREGATES[aggregate]

  def open(self, name, question):
    self._scorer.open(name, question)

  def accept(self, name, step):
    self._scorer.accept(name, step)

  def room(self, name):
    return self._scorer.room(name)

  def close(self, name):
    self._scorer.close(name)

  def _scores(self, candidates, rationales=None) -> dict[str, list[float]]:
    found = self._scorer.score(candidates, rationales)
    return {
      name: [self._aggregate(values) for values in listed]
      for name, listed in found.items()
    }


class Likelihood(_Scored):
  """The step the base finds most probable, without any rationale."""

  def choose(self, turn, candidates):
    found = self._scores(candidates)
    return {
      name: best(scores, calls=len(scores)) for name, scores in found.items()
    }


class Implicit(_Scored):
  """The step the base finds most probable given the writer's rationale.

  The scorer is the untrained base; the writer's own probabilities are not
  used. With `shuffled` every problem gets another one's rationale.
  """

  def __init__(
    self, scorer: Scorer, writer: Writer, aggregate: str, shuffled: bool = False
  ):
    super().__init__(scorer, aggregate)
    self._writer, self._shuffled = writer, shuffled
    self._names: list[str] = []
    self._last: dict[str, str] = {}

  def open(self, name, question):
    super().open(name, question)
    self._writer.open(name, question)
    self._names.append(name)

  def accept(self, name, step):
    super().accept(name, step)
    self._writer.accept(name, step)

  def room(self, name):
    longest = self._writer.settings.max_tokens
    writer = self._writer.room(name)
    return min(super().room(name) - longest, writer - longest)

  def close(self, name):
    super().close(name)
    self._writer.close(name)

  def choose(self, turn, candidates):
    written = self._writer.write(list(candidates), turn)
    self._last |= {name: text_of(s) for name, s in written.items()}
    used = {name: self._last[self._partner(name)] for name in candidates}
    found = self._scores(candidates, used)
    return {
      name: best(
        scores,
        rationale=used[name],
        spent=len(written[name].tokens),
        calls=1 + len(scores),
      )
      for name, scores in found.items()
    }

  def _partner(self, name: str) -> str:
    """Whose rationale a problem gets: its own, or the next problem's last."""
    if not self._shuffled or len(self._names) < 2:
      return name
    # Half a turn away: neighbours may be alike.
    at = self._names.index(name) + max(1, len(self._names) // 2)
    return self._names[at % len(self._names)]


class _Asking(Selector):
  """Remembers trajectories as text."""

  def __init__(self, ask: Ask):
    self._ask = ask
    self._texts: dict[str, tuple[str, tuple[str, ...]]] = {}

  def open(self, name, question):
    self._texts[name] = (question, ())

  def accept(self, name, step):
    question, steps = self._texts[name]
    self._texts[name] = (question, (*steps, step))

  def _asked(self, candidates) -> dict[str, list[Sample]]:
    """What is said of every problem's trajectory with each candidate."""
    asked = [
      (self._texts[name][0], (*self._texts[name][1], text))
      for name, texts in candidates.items()
      for text in texts
    ]
    answers = iter(self._ask(asked))
    return {
      name: [next(answers) for _ in texts] for name, texts in candidates.items()
    }


class RationaleConfidence(_Asking):
  """The step after which the writer is surest of its own rationale."""

  def choose(self, turn, candidates):
    return {
      name: best(
        [likelihood.mean(np.array(s.model_logprobs)) for s in samples],
        spent=sum(len(s.tokens) for s in samples),
        calls=len(samples),
      )
      for name, samples in self._asked(candidates).items()
    }


class Explicit(_Asking):
  """The rationale is put where the agent reads it.

  The step is chosen by `RationaleConfidence`, and what the writer said after
  it is shown before the next ones; it is not kept in the trajectory.

  Args:
    ready: a rationale that says nothing but that the answer follows; it is
      not shown.
  """

  def __init__(self, ask: Ask, ready: str = ""):
    super().__init__(ask)
    self._ready, self._next, self._paid = ready, {}, {}

  def show(self, names, turn):
    new = [name for name in names if name not in self._next]
    asked = self._ask([self._texts[name] for name in new])
    for name, sample in zip(new, asked, strict=True):
      self._next[name] = text_of(sample)
      self._paid[name] = len(sample.tokens)
    shown = {name: self._next[name] for name in names}
    return {n: r for n, r in shown.items() if r and r != self._ready}

  def choose(self, turn, candidates):
    found = {}
    for name, samples in self._asked(candidates).items():
      shown = self._next[name]
      choice = best(
        [likelihood.mean(np.array(s.model_logprobs)) for s in samples],
        rationale=shown,
        spent=self._paid.pop(name, 0) + sum(len(s.tokens) for s in samples),
        calls=len(samples),
      )
      self._next[name] = text_of(samples[choice.index])
      found[name] = choice
    return found


class Reward(_Asking):
  """A model gives every partial trajectory a reward from 0 to 3.

  An answer without one is counted and scores below all others: nothing here
  is random.
  """

  def choose(self, turn, candidates):
    found = {}
    for name, samples in self._asked(candidates).items():
      read = [reward_of(s.text) for s in samples]
      found[name] = best(
        [-1 if r is None else r for r in read],
        spent=sum(len(s.tokens) for s in samples),
        calls=len(samples),
        unparsed=sum(r is None for r in read),
      )
    return found


_REWARD = re.compile(r"reward\s*(?:is|:|=)?\s*(?:is\s*)?([0-9]+)", re.I)
_ALONE = re.compile(r"\s*\(?([0-9]+)\)?[.!]?\s*")


def reward_of(text: str) -> int | None:
  """0 to 3, as in "2", "Reward: 2" or "the reward is 2"; None for the rest."""
  alone = _ALONE.fullmatch(text)
  found = [alone[1]] if alone else _REWARD.findall(text)
  values = {int(value) for value in found if len(value) < 3}
  if len(values) != 1 or not values <= {0, 1, 2, 3}:
    return None
  return values.pop()
