"""Beam search, equal to Hugging Face's `generate(num_beams=K)`.

As there, `2 K` continuations are looked at in every step, so that K go on
even if K of them end; those that end among the best K compete, by
`logprob / length ** length_penalty`, for K finished places. A row is over when
its best running beam, at its present length, cannot beat its worst finished
one; with early stopping, as soon as K are finished.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from refine_jax.models.cache import Cache
from refine_jax.sampling import loop
from refine_jax.sampling.logits import CUT
from refine_jax.sampling.settings import Rows

UNFINISHED = -1e9  # the score of a place that nothing has taken


class Found(NamedTuple):
  """The beams of every row, best first, flattened to `[A * K, ...]`.

  `logprobs` are zeros, as for any deterministic choice, so that the score is
  `sum(model_logprobs) / count ** length_penalty`.
  """

  steps: jax.Array
  used: jax.Array
  tokens_BT: jax.Array
  logprobs_BT: jax.Array
  model_logprobs_BT: jax.Array
  counts_B: jax.Array
  finish_B: jax.Array


@flax.struct.dataclass
class Beams:
  """K sequences for each of A rows.

  Attributes:
    scores_AK: log-probabilities while running, penalised when finished.
    tokens_AKT, logprobs_AKT: what was taken, and its log-probabilities.
    counts_AK: how many tokens.
    finish_AK: RUNNING for a finished place that is still free.
  """

  scores_AK: jax.Array
  tokens_AKT: jax.Array
  logprobs_AKT: jax.Array
  counts_AK: jax.Array
  finish_AK: jax.Array


@flax.struct.dataclass
class State:
  """A search in progress; `open_A` are the rows that still search."""

  cache: Cache
  running: Beams
  finished: Beams
  open_A: jax.Array
  steps: jax.Array
  used: jax.Array


@flax.struct.dataclass
class Settings:
  """Per row; `rows` are as in sampling, of which the stops are used."""

  rows: Rows
  penalty_A: jax.Array
  early_A: jax.Array


def search(
  family,
  weights,
  filled: loop.Filled,
  rows: Rows,
  penalty_A: jax.Array,
  early_A: jax.Array,
  *,
  beams: int,
  room: int,
  stops: int,
) -> Found:
  """Searches all rows at once.

  Args:
    family: the model; weights: its decode weights.
    filled: slots with prompts; row a has slots `a * beams` and on, all alike.
      Slots beyond the last row's are left alone.
    rows: settings of the A rows; a row with max_tokens 0 is not searched.
    penalty_A, early_A: length penalty and early stopping.
    beams: K.
    room: for tokens, at least every row's max_tokens.
    stops: how many ids end a row, at most.
  """
  settings = Settings(rows, penalty_A, early_A)
  count = rows.max_tokens_B.shape[0]
  slots = filled.logits_BV.shape[0]
  state = State(
    cache=filled.cache,
    running=_fresh(count, beams, room, jnp.where(jnp.arange(beams), -1e9, 0.0)),
    finished=_fresh(count, beams, room, jnp.full((beams,), UNFINISHED)),
    open_A=rows.max_tokens_B > 0,
    steps=jnp.zeros((), jnp.int32),
    used=jnp.zeros((), jnp.int32),
  )
  state, parents_AK = _advance(state, filled.logits_BV, settings, stops)

  def one(carry):
    state, parents_AK = carry
    last_AK1 = jnp.take_along_axis(
      state.running.tokens_AKT, state.running.counts_AK[..., None] - 1, axis=2
    )
    cache = _reorder(state.cache, _slots(parents_AK, slots))
    active_B = _pad(jnp.repeat(state.open_A, beams), slots)
    logits_BV, cache = family.step(
      weights, cache, _pad(last_AK1.reshape(-1), slots), active_B
    )
    state = state.replace(
      cache=cache,
      steps=state.steps + 1,
      used=state.used + jnp.sum(active_B, dtype=jnp.int32),
    )
    return _advance(state, logits_BV, settings, stops)

  state, _ = jax.lax.while_loop(
    lambda carry: jnp.any(carry[0].open_A), one, (state, parents_AK)
  )
  done = jax.tree.map(
    lambda x: x.reshape(count * beams, *x.shape[2:]), state.finished
  )
  return Found(
    steps=state.steps,
    used=state.used,
    tokens_BT=done.tokens_AKT,
    logprobs_BT=jnp.zeros_like(done.logprobs_AKT),
    model_logprobs_BT=done.logprobs_AKT,
    counts_B=done.counts_AK,
    finish_B=done.finish_AK,
  )


def _fresh(count, beams, room, scores_K) -> Beams:
  table = (count, beams, room)
  return Beams(
    scores_AK=jnp.broadcast_to(scores_K, (count, beams)).astype(jnp.float32),
    tokens_AKT=jnp.zeros(table, jnp.int32),
    logprobs_AKT=jnp.zeros(table, jnp.float32),
    counts_AK=jnp.zeros((count, beams), jnp.int32),
    finish_AK=jnp.full((count, beams), loop.RUNNING),
  )


def _pad(values_B, slots):
  return jnp.pad(values_B, (0, slots - values_B.shape[0]))


def _slots(parents_AK, slots):
  """Which slot each slot goes on from."""
  count, beams = parents_AK.shape
  source = (jnp.arange(count)[:, None] * beams + parents_AK).reshape(-1)
  return jnp.concatenate([source, jnp.arange(source.shape[0], slots)])


def _reorder(cache: Cache, source_B) -> Cache:
  """Moves what differs between beams; an encoder's part does not."""
  names = ("keys", "values", "lengths_B")
  moved = {
    name: jax.tree.map(lambda x: x[source_B], getattr(cache, name))
    for name in names
  }
  return loop.pin(cache.replace(**moved))


def _take(beams: Beams, index_AK) -> Beams:
  def take(x):
    index = index_AK.reshape(index_AK.shape + (1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1)

  return jax.tree.map(take, beams)


def _advance(state: State, logits_BV, settings: Settings, stops: int):
  """One token for every running beam of the open rows.

  Returns:
    the state, and which beam each running beam goes on from.
  """
  rows = settings.rows
  count, beams = state.running.scores_AK.shape
  tried, parents = _continuations(
    state.running, logits_BV, rows, max(2, 1 + stops) * beams
  )
  ends = tried.finish_AK != loop.RUNNING
  going_AK = jax.lax.top_k(
    tried.scores_AK + jnp.where(ends, UNFINISHED, 0), beams
  )[1]
  running = _take(tried, going_AK)
  running = running.replace(
    scores_AK=jnp.take_along_axis(
      tried.scores_AK + jnp.where(ends, UNFINISHED, 0), going_AK, axis=1
    ),
    finish_AK=jnp.full((count, beams), loop.RUNNING),
  )
  finished = _finish(state.finished, tried, ends, settings)
  # Frozen rows keep what they have.
  keep = state.open_A

  def choose(new, old):
    return jnp.where(keep.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

  running = jax.tree.map(choose, running, state.running)
  finished = jax.tree.map(choose, finished, state.finished)
  state = state.replace(
    running=running,
    finished=finished,
    open_A=keep & _open(running, finished, jnp.all(ends, axis=1), settings),
  )
  parents_AK = jnp.where(
    keep[:, None],
    jnp.take_along_axis(parents, going_AK, axis=1),
    jnp.arange(beams),
  )
  return state, parents_AK


def _continuations(running: Beams, logits_BV, rows: Rows, keep: int):
  """The `keep` best one-token continuations, ended ones marked so."""
  count, beams = running.scores_AK.shape
  vocab = logits_BV.shape[1]
  logprobs_AKV = jax.nn.log_softmax(
    logits_BV[: count * beams].astype(jnp.float32)
  ).reshape(count, beams, vocab)
  early_A = running.counts_AK[:, 0] < rows.min_tokens_B
  stops_AE = jnp.where(early_A[:, None], rows.stop_ids_BE, -1)
  banned_AV = jax.vmap(
    lambda ids: (
      jnp.zeros((vocab,), bool)
      .at[jnp.where(ids < 0, vocab, ids)]
      .set(True, mode="drop")
    )
  )(stops_AE)
  total_AKV = running.scores_AK[..., None] + jnp.where(
    banned_AV[:, None], CUT, logprobs_AKV
  )
  keep = min(keep, beams * vocab)
  scores, index = jax.lax.top_k(total_AKV.reshape(count, -1), keep)
  parents, tokens = index // vocab, (index % vocab).astype(jnp.int32)
  chosen = _take(running, parents)
  logprobs = jnp.take_along_axis(logprobs_AKV.reshape(count, -1), index, axis=1)
  at = jnp.arange(chosen.tokens_AKT.shape[2]) == chosen.counts_AK[..., None]
  counts = chosen.counts_AK + 1
  stopped = jnp.any(tokens[..., None] == rows.stop_ids_BE[:, None], axis=2)
  full = counts >= rows.max_tokens_B[:, None]
  tried = Beams(
    scores_AK=scores,
    tokens_AKT=jnp.where(at, tokens[..., None], chosen.tokens_AKT),
    logprobs_AKT=jnp.where(at, logprobs[..., None], chosen.logprobs_AKT),
    counts_AK=counts,
    finish_AK=jnp.where(
      stopped, loop.STOP, jnp.where(full, loop.LENGTH, loop.RUNNING)
    ),
  )
  return tried, parents


def _finish(finished: Beams, tried: Beams, ends, settings) -> Beams:
  """The K best of those finished and those that end now among the best K."""
  beams = finished.scores_AK.shape[1]
  counts = tried.counts_AK.astype(jnp.float32)
  scores = tried.scores_AK / counts ** settings.penalty_A[:, None]
  done_A = jnp.all(finished.finish_AK != loop.RUNNING, axis=1)
  closed_A = done_A & settings.early_A
  counted = ends & (jnp.arange(scores.shape[1]) < beams) & ~closed_A[:, None]
  entering = tried.replace(
    scores_AK=jnp.where(counted, scores, scores + UNFINISHED),
    finish_AK=jnp.where(counted, tried.finish_AK, loop.RUNNING),
  )
  merged = jax.tree.map(
    lambda a, b: jnp.concatenate([a, b], axis=1), finished, entering
  )
  return _take(merged, jax.lax.top_k(merged.scores_AK, beams)[1])


def _open(running: Beams, finished: Beams, ended_A, settings):
  """Whether a row's search can still change its result."""
  counts_A = running.counts_AK[:, 0].astype(jnp.float32)
  best_A = running.scores_AK[:, 0] / counts_A**settings.penalty_A
  done = finished.finish_AK != loop.RUNNING
  worst_A = jnp.min(finished.scores_AK, axis=1)
  improvable_A = jnp.any(
    best_A[:, None] > jnp.where(done, worst_A[:, None], UNFINISHED), axis=1
  )
  full_A = jnp.all(done, axis=1) & settings.early_A
  return improvable_A & ~full_A & ~ended_A
