"""Decoding on device: prefill, one token after another, early exit.

Pure functions over a model family; whoever calls them jits them and donates
the state. A batch is a fixed number of slots. Rows that are done keep their
slot and do nothing.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from refine_jax import sharding
from refine_jax.models.cache import Cache
from refine_jax.sampling import logits as distribution
from refine_jax.sampling.settings import Rows

RUNNING, STOP, LENGTH = 0, 1, 2
FINISH = {RUNNING: "running", STOP: "eos", LENGTH: "length"}


@flax.struct.dataclass
class Filled:
  """Slots that hold prompts and have sampled nothing.

  Attributes:
    logits_BV: those that follow each slot's last token.
    seen_BV: tokens a repetition penalty applies to.
  """

  cache: Cache
  logits_BV: jax.Array
  seen_BV: jax.Array


@flax.struct.dataclass
class Progress:
  """How far slots have come; the cache is kept beside it.

  Attributes:
    rows: the settings.
    keys_B: each row's randomness, to be folded with the position.
    last_B: the token sampled last, which the cache does not hold yet.
    counts_B: tokens sampled; `tokens_BT`, `logprobs_BT` and `model_logprobs_BT`
      hold so many per row, EOS included.
    finish_B: RUNNING, STOP or LENGTH.
    steps, used: decoding steps, and slots that had something to do in them.
  """

  rows: Rows
  keys_B: jax.Array
  seen_BV: jax.Array
  last_B: jax.Array
  counts_B: jax.Array
  finish_B: jax.Array
  tokens_BT: jax.Array
  logprobs_BT: jax.Array
  model_logprobs_BT: jax.Array
  steps: jax.Array
  used: jax.Array


def _batch(tree: Any) -> Any:
  """Lays per-row arrays out over the batch axes, the rest left to XLA."""
  return jax.tree.map(
    lambda x: sharding.constrain(x, "batch", *(None,) * (x.ndim - 1)), tree
  )


def pin(cache: Cache) -> Cache:
  """The layout of a cache: slots over the batch axes, heads over `tensor`."""

  def heads(arrays):
    return jax.tree.map(
      lambda x: sharding.constrain(x, "batch", "kv_heads", None, None), arrays
    )

  return cache.replace(
    keys=heads(cache.keys),
    values=heads(cache.values),
    cross_keys=heads(cache.cross_keys),
    cross_values=heads(cache.cross_values),
    prefix_keys=heads(cache.prefix_keys),
    prefix_values=heads(cache.prefix_values),
  )


def empty(
  family, *, slots: int, length: int, prompt_length: int, vocab: int
) -> Filled:
  """Slots with nothing in them."""
  return Filled(
    cache=pin(family.new_cache(slots, length, prompt_length)),
    logits_BV=_batch(jnp.zeros((slots, vocab), jnp.float32)),
    seen_BV=_batch(jnp.zeros((slots, vocab), bool)),
  )


def prefill(
  family,
  weights,
  filled: Filled,
  prompt_RP: jax.Array,
  lengths_R: jax.Array,
  slots_R: jax.Array,
) -> Filled:
  """Puts prompts (padded right) into slots; a slot past the end is dropped."""
  logits_RV, cache = family.prefill(
    weights, prompt_RP, lengths_R, filled.cache, slots_R
  )
  seen_BV = filled.seen_BV
  if not family.encoder_decoder:
    exists_RP = jnp.arange(prompt_RP.shape[1]) < lengths_R[:, None]
    ids_RP = jnp.where(exists_RP, prompt_RP, seen_BV.shape[1])
    seen_BV = seen_BV.at[slots_R[:, None], ids_RP].set(True, mode="drop")
  return Filled(
    cache=pin(cache),
    logits_BV=filled.logits_BV.at[slots_R].set(
      logits_RV.astype(jnp.float32), mode="drop"
    ),
    seen_BV=seen_BV,
  )


def gather(cache: Cache, source_B: jax.Array) -> Cache:
  """Every slot becomes a copy of the slot it names."""
  return pin(jax.tree.map(lambda x: x[source_B], cache))


def expand(filled: Filled, source_B: jax.Array) -> Filled:
  """Copies prompts to the slots that sample from them: one prefill, n rows."""
  return Filled(
    cache=gather(filled.cache, source_B),
    logits_BV=filled.logits_BV[source_B],
    seen_BV=filled.seen_BV[source_B],
  )


def begin(
  logits_BV: jax.Array, seen_BV: jax.Array, rows: Rows, size: int
) -> Progress:
  """Samples every row's first token. `size` is the room for tokens."""
  slots = logits_BV.shape[0]
  column_B = jnp.zeros((slots,), jnp.int32)
  table_BT = jnp.zeros((slots, size), jnp.float32)
  progress = Progress(
    rows=rows,
    keys_B=distribution.keys(rows),
    seen_BV=seen_BV,
    last_B=column_B,
    counts_B=column_B,
    finish_B=jnp.where(rows.max_tokens_B > 0, RUNNING, LENGTH),
    tokens_BT=jnp.zeros((slots, size), jnp.int32),
    logprobs_BT=table_BT,
    model_logprobs_BT=table_BT,
    steps=jnp.zeros((), jnp.int32),
    used=jnp.zeros((), jnp.int32),
  )
  return _record(progress, logits_BV)


def _record(progress: Progress, logits_BV: jax.Array) -> Progress:
  """Draws a token for every running row and notes it."""
  logits_BV = sharding.constrain(logits_BV, "batch", None)
  rows, counts_B = progress.rows, progress.counts_B
  tokens_B, logprobs_B, model_logprobs_B = distribution.sample(
    logits_BV.astype(jnp.float32),
    rows,
    progress.keys_B,
    counts_B,
    progress.seen_BV,
  )
  active_B = progress.finish_B == RUNNING
  at_BT = jnp.arange(progress.tokens_BT.shape[1]) == counts_B[:, None]
  at_BT = at_BT & active_B[:, None]

  def put(table_BT, values_B):
    return jnp.where(at_BT, values_B[:, None], table_BT)

  counts_B = counts_B + active_B
  ended_B = ended(rows, tokens_B, counts_B)
  return progress.replace(
    seen_BV=see(progress.seen_BV, tokens_B, rows),
    last_B=jnp.where(active_B, tokens_B, progress.last_B),
    counts_B=counts_B,
    finish_B=jnp.where(active_B, ended_B, progress.finish_B),
    tokens_BT=put(progress.tokens_BT, tokens_B),
    logprobs_BT=put(progress.logprobs_BT, logprobs_B),
    model_logprobs_BT=put(progress.model_logprobs_BT, model_logprobs_B),
  )


def ended(rows: Rows, tokens_B: jax.Array, counts_B: jax.Array) -> jax.Array:
  """How rows stand after a token that made them `counts_B` long."""
  stops_B = jnp.any(tokens_B[:, None] == rows.stop_ids_BE, axis=1)
  full_B = counts_B >= rows.max_tokens_B
  return jnp.where(stops_B, STOP, jnp.where(full_B, LENGTH, RUNNING))


def see(seen_BV: jax.Array, tokens_B: jax.Array, rows: Rows) -> jax.Array:
  """Notes tokens for the repetition penalty, where any row has one."""

  def note():
    slots = jnp.arange(tokens_B.shape[0])
    return seen_BV.at[slots, tokens_B].set(True)

  penalised = jnp.any(rows.repetition_penalty_B != 1)
  return jax.lax.cond(penalised, note, lambda: seen_BV)


def decode(
  family, weights, cache: Cache, progress: Progress, steps: jax.Array
) -> tuple[Cache, Progress]:
  """At most `steps` more tokens for every running row."""
  limit = progress.steps + steps

  def running(carry):
    _, progress = carry
    return (progress.steps < limit) & jnp.any(progress.finish_B == RUNNING)

  def one(carry):
    cache, progress = carry
    active_B = progress.finish_B == RUNNING
    logits_BV, cache = family.step(weights, cache, progress.last_B, active_B)
    progress = progress.replace(
      steps=progress.steps + 1,
      used=progress.used + jnp.sum(active_B, dtype=jnp.int32),
    )
    return pin(cache), _record(progress, logits_BV)

  return jax.lax.while_loop(running, one, (cache, progress))
