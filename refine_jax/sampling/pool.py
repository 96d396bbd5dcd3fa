"""Slots that are refilled on the device, as soon as their rows end.

Prompts wait in a queue, read already; a ticket asks for samples of one of
them. Slots come in groups. A group takes a ticket, copies the prompt beside
its slots, and its slots draw the ticket's samples one after another, all
attending to the one copy. When nothing of the ticket is left and the last of
the slots is done, the group takes the next ticket. With one slot per group
that is a queue of samples; with more, n samples pay for one prompt.

A chunk of steps is two loops: refill what is free, then decode until a slot
ends that could be refilled. What is drawn goes to a log, a line per step.

Pure functions over a model family, like those of `loop`.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from refine_jax import sharding
from refine_jax.models import cache as caches
from refine_jax.sampling import logits as distribution
from refine_jax.sampling import loop
from refine_jax.sampling.settings import Rows
from refine_jax.sampling.waiting import Queue, blank_rows, new_cache

IDLE = -1  # the ticket of a slot or group that has none


@flax.struct.dataclass
class Slots:
  """B slots in G groups.

  Attributes:
    cache: split, with a prompt per group.
    rows, keys_B, seen_BV, last_B, counts_B, finish_B: as in `loop.Progress`.
    tickets_B, samples_B: which ticket and which of its samples a slot draws.
    tickets_G: each group's ticket; next_G: its next sample; left_G: how many
      are left to begin.
    prompts_GP, lengths_G: ids of each group's prompt.
  """

  cache: caches.Cache
  rows: Rows
  keys_B: jax.Array
  seen_BV: jax.Array
  last_B: jax.Array
  counts_B: jax.Array
  finish_B: jax.Array
  tickets_B: jax.Array
  samples_B: jax.Array
  tickets_G: jax.Array
  next_G: jax.Array
  left_G: jax.Array
  prompts_GP: jax.Array
  lengths_G: jax.Array


@flax.struct.dataclass
class Log:
  """What C steps drew, a line per step; only `steps` lines were written.

  Attributes:
    tickets_CB: IDLE where a slot drew nothing.
    finish_CB: how the row stood after the token.
    head: tickets taken by the end.
    running: slots with a row that goes on.
  """

  tickets_CB: jax.Array
  samples_CB: jax.Array
  tokens_CB: jax.Array
  finish_CB: jax.Array
  logprobs_CB: jax.Array
  model_logprobs_CB: jax.Array
  steps: jax.Array
  head: jax.Array
  running: jax.Array


def empty_slots(
  family,
  *,
  slots: int,
  group: int,
  room: int,
  prompt_length: int,
  dtype: Any = None,
  page: int | None = None,
) -> Slots:
  """Idle slots, `group` of them per prompt, with `room` for tokens.

  `page` positions of what is sampled are an array of their own, if given.
  """
  groups, vocab = slots // group, family.config.vocab_size
  own = 1 if family.encoder_decoder else prompt_length
  rows = blank_rows(slots)
  cache = caches.split(
    caches.paged(new_cache(family, slots, room, 1, dtype), page or room),
    new_cache(family, groups, own, prompt_length, dtype),
  )
  column_B = jnp.zeros((slots,), jnp.int32)
  column_G = jnp.zeros((groups,), jnp.int32)
  return Slots(
    cache=loop.pin(cache),
    rows=rows,
    keys_B=distribution.keys(rows),
    seen_BV=jnp.zeros((slots, vocab), bool),
    last_B=column_B,
    counts_B=column_B,
    finish_B=jnp.full((slots,), loop.LENGTH),
    tickets_B=column_B + IDLE,
    samples_B=column_B,
    tickets_G=column_G + IDLE,
    next_G=column_G,
    left_G=column_G,
    prompts_GP=jnp.zeros((groups, prompt_length), jnp.int32),
    lengths_G=column_G,
  )


def _free(slots: Slots) -> jax.Array:
  """`[G, M]`: slots whose row has ended."""
  groups = slots.left_G.shape[0]
  return (slots.finish_B != loop.RUNNING).reshape(groups, -1)


def _idle(slots: Slots) -> jax.Array:
  """Groups that could take a ticket."""
  return (slots.left_G == 0) & jnp.all(_free(slots), axis=1)


def _refillable(slots: Slots, queue: Queue) -> jax.Array:
  waiting = queue.head < queue.tail
  begun = jnp.any(_free(slots) & (slots.left_G > 0)[:, None])
  return begun | (waiting & jnp.any(_idle(slots)))


def _take(family, slots: Slots, queue: Queue) -> tuple[Slots, Queue]:
  """The first idle group takes the ticket at the head."""
  group = jnp.argmax(_idle(slots)).astype(jnp.int32)
  at = queue.head % queue.places_Q.shape[0]
  place = queue.places_Q[at]
  length = queue.lengths_W[place]
  held = length if family.encoder_decoder else length - 1
  cache = caches.load(slots.cache, group, queue.cache, place, held)
  slots = slots.replace(
    cache=loop.pin(cache),
    tickets_G=slots.tickets_G.at[group].set(queue.head),
    next_G=slots.next_G.at[group].set(0),
    left_G=slots.left_G.at[group].set(queue.counts_Q[at]),
    prompts_GP=slots.prompts_GP.at[group].set(queue.prompts_WP[place]),
    lengths_G=slots.lengths_G.at[group].set(length),
  )
  return slots, queue.replace(head=queue.head + 1)


def _begin(family, slots: Slots, queue: Queue) -> Slots:
  """Free slots begin the next samples of their groups' tickets."""
  free_GM = _free(slots)
  rank_GM = jnp.cumsum(free_GM, axis=1) - 1
  begins_GM = free_GM & (rank_GM < slots.left_G[:, None])
  sample_B = (slots.next_G[:, None] + rank_GM).reshape(-1)
  begun_G = jnp.sum(begins_GM, axis=1, dtype=jnp.int32)
  begins_B = begins_GM.reshape(-1)
  each = free_GM.shape[1]
  ticket_B = jnp.repeat(slots.tickets_G, each)
  at_B = jnp.maximum(ticket_B, 0) % queue.places_Q.shape[0]

  def choose(new, old):
    return jnp.where(begins_B.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)

  rows = jax.tree.map(lambda x: x[at_B], queue.rows_Q)
  rows = rows.replace(
    samples_B=rows.samples_B + sample_B.astype(rows.samples_B.dtype)
  )
  rows = jax.tree.map(choose, rows, slots.rows)
  if family.encoder_decoder:
    first_B = jnp.full_like(slots.last_B, family.config.decoder_start)
  else:
    first_G = jnp.take_along_axis(
      slots.prompts_GP, jnp.maximum(slots.lengths_G - 1, 0)[:, None], axis=1
    )[:, 0]
    first_B = jnp.repeat(first_G, each)
  return slots.replace(
    cache=slots.cache.replace(lengths_B=choose(0, slots.cache.lengths_B)),
    rows=rows,
    keys_B=distribution.keys(rows),
    seen_BV=_seen(family, slots, rows, begins_B),
    last_B=choose(first_B, slots.last_B),
    counts_B=choose(0, slots.counts_B),
    finish_B=choose(loop.RUNNING, slots.finish_B),
    tickets_B=choose(ticket_B, slots.tickets_B),
    samples_B=choose(sample_B, slots.samples_B),
    next_G=slots.next_G + begun_G,
    left_G=slots.left_G - begun_G,
  )


def _seen(family, slots: Slots, rows: Rows, begins_B) -> jax.Array:
  """What a repetition penalty applies to; kept up only where there is one."""

  def anew():
    groups, length = slots.prompts_GP.shape
    vocab = slots.seen_BV.shape[1]
    prompt_GV = jnp.zeros((groups, vocab), bool)
    if not family.encoder_decoder:
      exists_GP = jnp.arange(length) < slots.lengths_G[:, None]
      ids_GP = jnp.where(exists_GP, slots.prompts_GP, vocab)
      prompt_GV = prompt_GV.at[jnp.arange(groups)[:, None], ids_GP].set(
        True, mode="drop"
      )
    each = begins_B.shape[0] // groups
    return jnp.where(
      begins_B[:, None], jnp.repeat(prompt_GV, each, axis=0), slots.seen_BV
    )

  penalised = jnp.any(rows.repetition_penalty_B != 1)
  return jax.lax.cond(penalised, anew, lambda: slots.seen_BV)


def refill(family, slots: Slots, queue: Queue) -> tuple[Slots, Queue]:
  """Gives every free slot something to do, as far as there is something."""
  slots, queue = jax.lax.while_loop(
    lambda both: (both[1].head < both[1].tail) & jnp.any(_idle(both[0])),
    lambda both: _take(family, *both),
    (slots, queue),
  )
  return _begin(family, slots, queue), queue


def step(family, weights, slots: Slots, log: Log) -> tuple[Slots, Log]:
  """One more token for every running slot."""
  active_B = slots.finish_B == loop.RUNNING
  logits_BV, cache = family.step(weights, slots.cache, slots.last_B, active_B)
  logits_BV = sharding.constrain(logits_BV.astype(jnp.float32), "batch", None)
  rows = slots.rows
  tokens_B, logprobs_B, model_logprobs_B = distribution.sample(
    logits_BV, rows, slots.keys_B, slots.counts_B, slots.seen_BV
  )
  counts_B = slots.counts_B + active_B
  finish_B = jnp.where(
    active_B, loop.ended(rows, tokens_B, counts_B), slots.finish_B
  )
  log = log.replace(
    tickets_CB=_line(
      log, "tickets_CB", jnp.where(active_B, slots.tickets_B, IDLE)
    ),
    samples_CB=_line(log, "samples_CB", slots.samples_B),
    tokens_CB=_line(log, "tokens_CB", tokens_B),
    finish_CB=_line(log, "finish_CB", finish_B),
    logprobs_CB=_line(log, "logprobs_CB", logprobs_B),
    model_logprobs_CB=_line(log, "model_logprobs_CB", model_logprobs_B),
    steps=log.steps + 1,
  )
  return slots.replace(
    cache=loop.pin(cache),
    seen_BV=loop.see(slots.seen_BV, tokens_B, rows),
    last_B=jnp.where(active_B, tokens_B, slots.last_B),
    counts_B=counts_B,
    finish_B=finish_B,
  ), log


def _line(log: Log, name: str, values_B) -> jax.Array:
  table_CB = getattr(log, name)
  return jax.lax.dynamic_update_index_in_dim(
    table_CB, values_B.astype(table_CB.dtype), log.steps, 0
  )


def empty_log(steps: int, slots: int) -> Log:
  ids_CB = jnp.full((steps, slots), IDLE, jnp.int32)
  floats_CB = jnp.zeros((steps, slots), jnp.float32)
  zero = jnp.int32(0)
  return Log(
    tickets_CB=ids_CB,
    samples_CB=ids_CB,
    tokens_CB=ids_CB,
    finish_CB=ids_CB,
    logprobs_CB=floats_CB,
    model_logprobs_CB=floats_CB,
    steps=zero,
    head=zero,
    running=zero,
  )


def _halt(slots: Slots, tickets_B: jax.Array, samples_B: jax.Array) -> Slots:
  """Ends rows, where a slot still draws the sample named."""
  same_B = (slots.tickets_B == tickets_B) & (slots.samples_B == samples_B)
  ends_B = same_B & (slots.finish_B == loop.RUNNING)
  return slots.replace(finish_B=jnp.where(ends_B, loop.STOP, slots.finish_B))


def chunk(
  family,
  weights,
  slots: Slots,
  queue: Queue,
  more: jax.Array,
  halted: tuple[jax.Array, jax.Array],
  *,
  steps: int,
) -> tuple[Slots, Queue, Log]:
  """At most `steps` steps of all slots.

  Args:
    halted: a ticket and a sample per slot, which end if it still draws them.
    more: there are prompts that the queue had no place for. Then an empty
      queue ends the chunk once an eighth of the slots is free.
  """
  size = slots.finish_B.shape[0]

  def goes_on(slots, queue, log, refillable):
    running_B = slots.finish_B == loop.RUNNING
    empty = (queue.head == queue.tail) & ~refillable
    starved = more & empty & (jnp.sum(~running_B) > size // 8)
    busy = jnp.any(running_B) | refillable
    return (log.steps < steps) & busy & ~starved

  def outer(carry):
    slots, queue, log = carry
    slots, queue = refill(family, slots, queue)
    slots, log = jax.lax.while_loop(
      lambda both: (
        ~_refillable(both[0], queue)
        & goes_on(both[0], queue, both[1], jnp.bool_(False))
      ),
      lambda both: step(family, weights, *both),
      (slots, log),
    )
    return slots, queue, log

  slots, queue, log = jax.lax.while_loop(
    lambda carry: goes_on(*carry, _refillable(carry[0], carry[1])),
    outer,
    (_halt(slots, *halted), queue, empty_log(steps, size)),
  )
  log = log.replace(
    head=queue.head,
    running=jnp.sum(slots.finish_B == loop.RUNNING, dtype=jnp.int32),
  )
  return slots, queue, _everywhere(log)


def _everywhere(log: Log) -> Log:
  """Whole on every device, so that every process can read it."""
  return jax.tree.map(lambda x: sharding.constrain(x, *(None,) * x.ndim), log)
