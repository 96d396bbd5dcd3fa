"""Rows of actor and critic that stay from one turn to the next.

Both models lie on one mesh, each with a cache of its own. A turn's prompt is
read from where it parts from what its chain's row holds: where a template's
next prompt goes on behind the last answer, all but what is new.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from refine_jax.methods import test_time

# What a summary calls the engine's counts of prompts.
PREFILL = {
  "read": "prompt_tokens",
  "kept": "kept_tokens",
  "extended": "extended",
  "parted": "parted",
}


class Waves:
  """An arm's kept rows: which engines have them, and what they save.

  Chains go through all their turns in waves of as many as there are rows, so
  that a row is still there in the next turn. Without `sessions`, without a
  next turn, with more chains of one problem than rows, or over several
  processes, every turn reads its prompts as a whole.

  Attributes:
    actors: who answers, and who revises.
    names: for `build.conversing`; None if nothing is kept.
  """

  def __init__(self, bench: Any, arm: ConfigDict, plan: test_time.Plan):
    settings = bench.settings
    self.actors = (
      arm.generator or settings.generator,
      arm.reviser or settings.reviser,
    )
    who = [(path, False) for path in dict.fromkeys(self.actors)]
    if arm.critic == "model" and (plan.rounds or plan.weigh):
      who.append((settings.critic, True))
    engines = [bench.engine(path, critic=critic) for path, critic in who]
    # A model that criticises itself has one engine, named after the actor.
    self._engines = {
      id(engine): (critic, engine)
      for (_, critic), engine in zip(who[::-1], engines[::-1], strict=True)
    }
    self._sessions, self._wave, self.names = [], 0, None
    if settings.sessions and plan.rounds and jax.process_count() == 1:
      kept = [bench.session(path, critic=critic) for path, critic in who]
      rows = min(s.capacity // kept.count(s) for s in kept)
      if rows >= plan.chains:
        self._sessions, self._wave = kept, rows // plan.chains
        self.names = test_time.conversations
    self._before = self._counts()

  def of(self, problems: Sequence[Any]) -> Iterator[Sequence[Any]]:
    size = self._wave or max(1, len(problems))
    for start in range(0, len(problems), size):
      yield problems[start : start + size]
      for session in self._sessions:
        session.clear()

  def read(self) -> dict[str, dict[str, int]]:
    """Prompt tokens read and kept by actor and critic since the arm began."""
    return {
      who: {name: n - self._before[who][name] for name, n in counts.items()}
      for who, counts in self._counts().items()
    }

  def _counts(self) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for critic, engine in reversed(self._engines.values()):
      counts = found.setdefault("critic" if critic else "actor", {})
      for name, field in PREFILL.items():
        seen = getattr(engine.statistics, field)
        counts[name] = counts.get(name, 0) + seen
    return found
