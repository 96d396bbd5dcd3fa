"""The refine loop of two models as one compiled program.

Turn by turn: the generator answers, the critic looks at the answer, and the
generator's next input is put together from ids on the device. The host is not
asked anything in between. REFINER (arXiv 2304.01904, section 3): every turn
starts from the original question with only the last answer and feedback.

Equal, token for token, to the same loop over `Engine.generate`.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from refine_jax import sharding
from refine_jax.sampling import loop
from refine_jax.sampling.settings import Rows


@dataclasses.dataclass(frozen=True)
class TemplateIds:
  """The fixed ids between the parts of a prompt.

  A generator's first input is `generator_start x generator_end`, its later
  ones `generator_start x hypothesis z' feedback f generator_end`; a critic's
  is `critic_start x hypothesis z' critic_end`.

  Attributes:
    generator_start, critic_start: BOS for models that begin with it.
    hypothesis, feedback: the words before each.
    generator_end, critic_end: closing words, then EOS for encoders.
    no_hint: what an accepting critic says, without EOS.
  """

  hypothesis: tuple[int, ...]
  feedback: tuple[int, ...]
  no_hint: tuple[int, ...]
  generator_start: tuple[int, ...] = ()
  generator_end: tuple[int, ...] = ()
  critic_start: tuple[int, ...] = ()
  critic_end: tuple[int, ...] = ()


@flax.struct.dataclass
class Inputs:
  """What a run needs besides parameters; all of it traced.

  Attributes:
    x_BP, lengths_B: questions' ids padded right; a row of length 0 takes no
      part.
    generator, critic: the rows' settings; `max_tokens_B` counts EOS and is cut
      to the program's lengths.
    generator_requests_UB, critic_requests_UB: the hash of the request id that
      each turn's randomness follows from, see `settings.id_hash`.
  """

  x_BP: jax.Array
  lengths_B: jax.Array
  generator: Rows
  critic: Rows
  generator_requests_UB: jax.Array
  critic_requests_UB: jax.Array


@flax.struct.dataclass
class Words:
  """Sampled ids: `tokens_BT` of `lengths_B`, EOS not among them."""

  tokens_BT: jax.Array
  lengths_B: jax.Array


@flax.struct.dataclass
class Turns:
  """What happened, turn by turn (U turns).

  Attributes:
    hypotheses, feedback: `tokens_BT` is `[U, B, T]`, `lengths_B` is `[U, B]`.
    accepted_UB: the critic said exactly the no-hint ids.
    taken_UB: the row took this turn; after acceptance it takes no more.
    spent_UB: ids sampled in this turn by both models, EOS included.
  """

  hypotheses: Words
  feedback: Words
  accepted_UB: jax.Array
  taken_UB: jax.Array
  spent_UB: jax.Array


def splice(
  parts: list[tuple[jax.Array, jax.Array]],
) -> tuple[jax.Array, jax.Array]:
  """Joins ragged rows, each padded right, into rows padded right.

  Args:
    parts: (ids_BN, lengths_B) in order.

  Returns:
    ids_BP with P the sum of the widths, and lengths_B.
  """
  width = sum(ids.shape[1] for ids, _ in parts)
  batch = parts[0][0].shape[0]
  out_BP = jnp.zeros((batch, width), jnp.int32)
  start_B = jnp.zeros((batch,), jnp.int32)
  put = jax.vmap(lambda row, at, ids: row.at[at].set(ids, mode="drop"))
  for ids_BN, lengths_B in parts:
    index_N = jnp.arange(ids_BN.shape[1])
    exists_BN = index_N < lengths_B[:, None]
    at_BN = jnp.where(exists_BN, start_B[:, None] + index_N, width)
    out_BP = put(out_BP, at_BN, ids_BN)
    start_B = start_B + lengths_B
  return out_BP, start_B


def _sample(family, weights, prompt, rows: Rows, room: int):
  """Prefill and decode; the words, and how many ids were sampled."""
  prompt_BP, lengths_B = prompt
  slots, prompt_length = prompt_BP.shape
  length = room + (0 if family.encoder_decoder else prompt_length)
  filled = loop.empty(
    family,
    slots=slots,
    length=length,
    prompt_length=prompt_length,
    vocab=family.config.vocab_size,
  )
  filled = loop.prefill(
    family,
    weights,
    filled,
    sharding.constrain(prompt_BP, "batch", None),
    jnp.maximum(lengths_B, 1),
    jnp.arange(slots),
  )
  state = loop.begin(filled.logits_BV, filled.seen_BV, rows, room)
  _, state = loop.decode(family, weights, filled.cache, state, jnp.int32(room))
  # The id that stopped a row is not one of its words.
  words_B = state.counts_B - (
    (state.finish_B == loop.STOP) & (state.counts_B > 0)
  )
  exists_BT = jnp.arange(room) < words_B[:, None]
  tokens_BT = jnp.where(exists_BT, state.tokens_BT, 0)
  return Words(tokens_BT, words_B), state.counts_B


def _equals(words: Words, ids: tuple[int, ...]) -> jax.Array:
  if len(ids) > words.tokens_BT.shape[1]:
    return jnp.zeros(words.lengths_B.shape, bool)
  same_B = jnp.all(
    words.tokens_BT[:, : len(ids)] == jnp.array(ids, jnp.int32), axis=1
  )
  return same_B & (words.lengths_B == len(ids))


def _fixed(ids: tuple[int, ...], batch: int, when: jax.Array | bool = True):
  """The same ids in every row, or in none."""
  ids_BN = jnp.broadcast_to(jnp.array(ids, jnp.int32), (batch, len(ids)))
  length = jnp.where(when, len(ids), 0).astype(jnp.int32)
  return ids_BN, jnp.broadcast_to(length, (batch,))


def make_refine_program(
  generator: Any,
  critic: Any,
  *,
  turns: int,
  hypothesis_length: int,
  feedback_length: int,
  template: TemplateIds,
  mesh: jax.sharding.Mesh | None = None,
) -> Callable[[Any, Any, Inputs], Turns]:
  """The loop as a function (generator params, critic params, Inputs) -> Turns.

  The two may be different families of different sizes, but read and write the
  same ids. Shapes of `Inputs` are the only thing it compiles anew for.

  Args:
    generator, critic: model families.
    turns: hypotheses at most; the last one is criticised, too.
    hypothesis_length, feedback_length: room for sampled ids, EOS included.
    template: what stands between the parts.
    mesh: where the parameters live; None for one device.
  """
  program = jax.jit(
    _Program(
      generator, critic, turns, hypothesis_length, feedback_length, template
    ).run
  )

  def run(generator_params, critic_params, inputs: Inputs) -> Turns:
    scope = contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)
    with scope:
      return program(generator_params, critic_params, inputs)

  return run


@dataclasses.dataclass(frozen=True)
class _Program:
  """`make_refine_program`'s arguments, and what is traced."""

  generator: Any
  critic: Any
  turns: int
  hypothesis_length: int
  feedback_length: int
  template: TemplateIds

  def run(self, generator_params, critic_params, inputs: Inputs) -> Turns:
    batch = inputs.lengths_B.shape[0]
    hypothesis = _nothing(batch, self.hypothesis_length)
    feedback = _nothing(batch, self.feedback_length)
    no_B = jnp.zeros((batch,), bool)
    none = Turns(hypothesis, feedback, no_B, no_B, hypothesis.lengths_B)
    out = jax.tree.map(
      lambda x: jnp.zeros((self.turns, *x.shape), x.dtype), none
    )
    weights = (
      self.generator.decode_weights(generator_params),
      self.critic.decode_weights(critic_params),
    )

    def going(carry):
      u, _, _, live_B, _ = carry
      return (u < self.turns) & jnp.any(live_B)

    def one(carry):
      u, hypothesis, feedback, live_B, out = carry
      now = self._turn(u, hypothesis, feedback, live_B, weights, inputs)
      out = jax.tree.map(lambda all, one: all.at[u].set(one), out, now)
      live_B = live_B & ~now.accepted_UB
      return u + 1, now.hypotheses, now.feedback, live_B, out

    start = (jnp.int32(0), hypothesis, feedback, inputs.lengths_B > 0, out)
    return jax.lax.while_loop(going, one, start)[-1]

  def _turn(self, u, hypothesis, feedback, live_B, weights, inputs) -> Turns:
    """One turn's part of the result, without the axis of turns."""
    hypothesis, spent_B = _sample(
      self.generator,
      weights[0],
      self._generator_prompt(u, inputs, hypothesis, feedback),
      _live(
        inputs.generator,
        live_B,
        inputs.generator_requests_UB[u],
        self.hypothesis_length,
      ),
      self.hypothesis_length,
    )
    feedback, more_B = _sample(
      self.critic,
      weights[1],
      self._critic_prompt(inputs, hypothesis),
      _live(
        inputs.critic,
        live_B,
        inputs.critic_requests_UB[u],
        self.feedback_length,
      ),
      self.feedback_length,
    )
    accepted_B = live_B & _equals(feedback, self.template.no_hint)
    return Turns(hypothesis, feedback, accepted_B, live_B, spent_B + more_B)

  def _generator_prompt(self, u, inputs, hypothesis, feedback):
    template, batch = self.template, inputs.lengths_B.shape[0]
    return splice(
      [
        _fixed(template.generator_start, batch),
        (inputs.x_BP, inputs.lengths_B),
        _fixed(template.hypothesis, batch, u > 0),
        (hypothesis.tokens_BT, hypothesis.lengths_B),
        _fixed(template.feedback, batch, u > 0),
        (feedback.tokens_BT, feedback.lengths_B),
        _fixed(template.generator_end, batch),
      ]
    )

  def _critic_prompt(self, inputs, hypothesis):
    template, batch = self.template, inputs.lengths_B.shape[0]
    return splice(
      [
        _fixed(template.critic_start, batch),
        (inputs.x_BP, inputs.lengths_B),
        _fixed(template.hypothesis, batch),
        (hypothesis.tokens_BT, hypothesis.lengths_B),
        _fixed(template.critic_end, batch),
      ]
    )


def _live(rows: Rows, live_B, requests_B, room: int) -> Rows:
  """This turn's rows; frozen ones have nothing to sample."""
  most_B = jnp.minimum(rows.max_tokens_B, room)
  return rows.replace(
    requests_B=requests_B, max_tokens_B=jnp.where(live_B, most_B, 0)
  )


def _nothing(batch: int, room: int) -> Words:
  return Words(
    jnp.zeros((batch, room), jnp.int32), jnp.zeros((batch,), jnp.int32)
  )
