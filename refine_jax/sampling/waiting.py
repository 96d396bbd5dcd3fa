"""Prompts that were read and wait on the device until slots take them."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from refine_jax.models import cache as caches
from refine_jax.sampling import loop, settings
from refine_jax.sampling.settings import Rows


@flax.struct.dataclass
class Queue:
  """Prompts that were read (W of them) and a ring of tickets (Q places).

  Attributes:
    cache: a plain cache of W slots.
    prompts_WP: their ids; lengths_W: how many, what comes last included.
    rows_Q: settings; `samples_B` of them is the ticket's first sample.
    places_Q: the prompt's place among the W.
    counts_Q: how many samples.
    head, tail: tickets taken and given so far; ticket t is at t % Q.
  """

  cache: caches.Cache
  prompts_WP: jax.Array
  lengths_W: jax.Array
  rows_Q: Rows
  places_Q: jax.Array
  counts_Q: jax.Array
  head: jax.Array
  tail: jax.Array


def blank_rows(size: int) -> Rows:
  """Settings of rows that do nothing."""
  return jax.tree.map(
    jnp.asarray, settings.rows([settings.Sampling()] * size, eos_id=None)
  )


def new_cache(family, slots, length, prompt_length, dtype):
  """A family's empty cache, of a dtype of its own if that is given."""
  # Only families that quantise know the argument.
  more = () if dtype is None else (dtype,)
  return family.new_cache(slots, length, prompt_length, *more)


def empty_queue(
  family, *, places: int, length: int, tickets: int, dtype: Any = None
) -> Queue:
  """A queue of nothing; prompts have up to `length` tokens."""
  column_W = jnp.zeros((places,), jnp.int32)
  column_Q = jnp.zeros((tickets,), jnp.int32)
  own = 1 if family.encoder_decoder else length
  return Queue(
    cache=loop.pin(new_cache(family, places, own, length, dtype)),
    prompts_WP=jnp.zeros((places, length), jnp.int32),
    lengths_W=column_W,
    rows_Q=blank_rows(tickets),
    places_Q=column_Q,
    counts_Q=column_Q,
    head=jnp.int32(0),
    tail=jnp.int32(0),
  )


def read(
  family,
  weights,
  queue: Queue,
  prompt_RP: jax.Array,
  lengths_R: jax.Array,
  places_R: jax.Array,
  held: jax.Array,
) -> Queue:
  """Reads prompts into places of the queue (past the last one: nowhere).

  A decoder-only model leaves the last token for the first decoding step, so
  that a prompt needs no logits of its own.

  Args:
    prompt_RP: padded right; without the first `held` tokens, which those
      places hold already.
    lengths_R: of the parts given.
  """
  start_R = jnp.broadcast_to(held, places_R.shape)
  cache = queue.cache
  cache = cache.replace(
    lengths_B=cache.lengths_B.at[places_R].set(start_R, mode="drop")
  )
  read_R = lengths_R
  if not family.encoder_decoder:
    read_R = jnp.maximum(lengths_R - 1, 0)
  _, cache = family.prefill(weights, prompt_RP, read_R, cache, places_R)
  offset_P = jnp.arange(prompt_RP.shape[1])
  size = queue.prompts_WP.shape[1]
  at_RP = jnp.where(offset_P < lengths_R[:, None], held + offset_P, size)
  return queue.replace(
    cache=loop.pin(cache),
    prompts_WP=queue.prompts_WP.at[places_R[:, None], at_RP].set(
      prompt_RP, mode="drop"
    ),
    lengths_W=queue.lengths_W.at[places_R].set(held + lengths_R, mode="drop"),
  )


def spread(queue: Queue) -> Queue:
  """Every place begins as the first one does: with the common prefix."""

  def first(x):
    return jnp.broadcast_to(x[:1], x.shape)

  return queue.replace(
    cache=loop.pin(jax.tree.map(first, queue.cache)),
    prompts_WP=first(queue.prompts_WP),
    lengths_W=first(queue.lengths_W),
  )


def enqueue(
  queue: Queue, rows_E: Rows, places_E: jax.Array, counts_E: jax.Array
) -> Queue:
  """Gives tickets; those at the end that ask for 0 samples are none."""
  size = queue.places_Q.shape[0]
  offset_E = jnp.arange(places_E.shape[0])
  given_E = counts_E > 0
  at_E = jnp.where(given_E, (queue.tail + offset_E) % size, size)

  def put(into, new):
    return into.at[at_E].set(new.astype(into.dtype), mode="drop")

  return queue.replace(
    rows_Q=jax.tree.map(put, queue.rows_Q, rows_E),
    places_Q=put(queue.places_Q, places_E),
    counts_Q=put(queue.counts_Q, counts_E),
    tail=queue.tail + jnp.sum(given_E, dtype=jnp.int32),
  )
