"""Ids to log-probabilities, values and embeddings, many at a time."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from refine_jax import sharding
from refine_jax.sampling import score as scoring
from refine_jax.sampling.planning import Ladders
from refine_jax.sampling.programs import Programs
from refine_jax.sampling.statistics import Statistics

Ids = Sequence[int]


class Scorer:
  """Batches of few shapes; a prompt of several targets is read once.

  Args:
    family: the model.
    value_head: (params, hidden_BTD) -> values_BT.
    programs: for their mesh.
    ladders: the shapes.
    statistics: counts what is read.
  """

  def __init__(
    self,
    family: Any,
    value_head: Callable[..., jax.Array] | None,
    programs: Programs,
    ladders: Ladders,
    statistics: Statistics,
  ):
    self._programs, self._ladders = programs, ladders
    self._statistics = statistics
    self._shares = hasattr(family, "branches")
    bind = functools.partial
    self._alone = jax.jit(bind(scoring.score, family, value_head))
    shared = bind(scoring.score_shared, family, value_head)
    self._shared = jax.jit(lambda params, batch: shared(params, *batch))
    self._embed = jax.jit(lambda params, both: (family.embed(params, *both),))

  def score(
    self, params: Any, pairs: Sequence[tuple[Ids, Ids]]
  ) -> list[tuple[np.ndarray, np.ndarray]]:
    """Log-probabilities and values of (prompt, target) pairs, per token.

    Raises:
      TooLong: before any work.
    """
    shapes = [
      (
        self._ladders.prompt(f"prompt {i}", len(prompt)),
        self._ladders.room(f"target {i}", len(target)),
      )
      for i, (prompt, target) in enumerate(pairs)
    ]
    groups, alone = [], list(range(len(pairs)))
    if self._shares:
      prompts = [prompt for prompt, _ in pairs]
      groups, alone = scoring.share(prompts, self._ladders.slots[-1])
    out: list[Any] = [None] * len(pairs)
    found = itertools.chain(
      self._score_alone(params, pairs, shapes, alone),
      self._score_shared(params, pairs, shapes, groups),
    )
    for i, arrays in found:
      out[i] = tuple(array[: len(pairs[i][1])] for array in arrays)
    return out

  def _score_alone(self, params, pairs, shapes, members):
    """(index, arrays) of targets whose prompts no other target has."""
    batches = self._batches([shapes[i] for i in members])
    for (length, room), part, rows in batches:
      chosen = [members[k] for k in part]
      batch = scoring.batch_of(
        [pairs[i][0] for i in chosen],
        [pairs[i][1] for i in chosen],
        rows=rows,
        prompt_length=length,
        target_length=room,
      )
      self._statistics.prompt_tokens += sum(len(pairs[i][0]) for i in chosen)
      found = self._fetch(self._alone, params, batch)
      yield from zip(chosen, found, strict=False)

  def _score_shared(self, params, pairs, shapes, groups):
    """(index, arrays) of targets that share prompts."""

    def shape(group):
      places, members = group
      lengths = zip(*(shapes[i] for i in members), strict=True)
      return places, *map(max, lengths)

    for key, listed in itertools.groupby(sorted(groups, key=shape), shape):
      (each, length, room), same = key, [members for _, members in listed]
      rows = max(1, self._ladders.slots[-1] // each)
      for start in range(0, len(same), rows):
        part = same[start : start + rows]
        prompts = [pairs[members[0]][0] for members in part]
        batch = scoring.branches_of(
          prompts,
          [[pairs[i][1] for i in members] for members in part],
          rows=rows,
          each=each,
          prompt_length=length,
          target_length=room,
        )
        self._statistics.prompt_tokens += sum(map(len, prompts))
        found = list(self._fetch(self._shared, params, batch))
        for g, members in enumerate(part):
          yield from zip(members, found[g * each :], strict=False)

  def embed(self, params: Any, texts: Sequence[Ids]) -> np.ndarray:
    """One unit row per text, float32."""
    shapes = [
      (self._ladders.prompt(f"text {i}", len(ids)),)
      for i, ids in enumerate(texts)
    ]
    out: list[Any] = [None] * len(texts)
    for (length,), part, rows in self._batches(shapes):
      batch = scoring.prompts_of(
        [texts[i] for i in part], rows=rows, length=length
      )
      found = self._fetch(self._embed, params, batch)
      for i, (vector,) in zip(part, found, strict=False):
        out[i] = vector
    if not out:
      return np.zeros((0, 0), np.float32)
    return np.stack(out).astype(np.float32)

  def _batches(self, shapes) -> Iterator[tuple[Any, list[int], int]]:
    """(shape, indices, rows) of batches that share a shape."""
    for shape in sorted(set(shapes)):
      members = [i for i, s in enumerate(shapes) if s == shape]
      most = self._ladders.slots[-1]
      for start in range(0, len(members), most):
        part = members[start : start + most]
        rows = next(s for s in self._ladders.slots if s >= len(part))
        yield shape, part, rows

  def _fetch(self, program, params, host_batch) -> Iterator[tuple]:
    """Runs a batch; the arrays of each row, those that fill it up last."""
    with self._programs.scope():
      found = program(params, self._programs.put(host_batch))
      arrays = sharding.fetched(found)
    self._statistics.syncs += 1
    return zip(*arrays, strict=True)
