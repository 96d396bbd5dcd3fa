"""What trunks run on the device: reading, scoring, drawing, adopting."""

import functools
import types
from typing import Any

import jax
import jax.numpy as jnp

from refine_jax.algorithms.logprobs import logprobs
from refine_jax.sampling import loop
from refine_jax.sampling.score import LOGITS


@functools.cache
def of(family: Any) -> types.SimpleNamespace:
  """Jitted programs of a family; all trunks of it share what is compiled."""
  programs = types.SimpleNamespace()

  def read(weights, cache, last_SD, tokens_RP, lengths_R, slots_R):
    hidden_RPD, cache = family.extend(
      weights, tokens_RP, lengths_R, cache, slots_R
    )
    last_R11 = jnp.maximum(lengths_R - 1, 0)[:, None, None]
    last_RD = jnp.take_along_axis(hidden_RPD, last_R11, axis=1)[:, 0]
    last_SD = last_SD.at[slots_R].set(last_RD.astype(jnp.float32), mode="drop")
    return loop.pin(cache), last_SD

  def score(weights, cache, last_SD, tokens_RP, lengths_R, slots_R):
    own = jnp.arange(len(slots_R))
    # The last token is predicted, not read.
    hidden_RPD, _ = family.extend(
      weights,
      tokens_RP[:, :-1],
      jnp.maximum(lengths_R - 1, 0),
      loop.gather(cache, slots_R),
      own,
    )
    first_R1D = last_SD[slots_R][:, None].astype(hidden_RPD.dtype)
    return logprobs(
      lambda hidden: family.unembed(weights, hidden),
      jnp.concatenate([first_R1D, hidden_RPD], axis=1),
      tokens_RP,
      chunk=max(1, LOGITS // family.config.vocab_size),
    )

  def begin(weights, cache, last_SD, slots_R, settings, room):
    logits_RV = family.unembed(weights, last_SD[slots_R])
    seen_RV = jnp.zeros(logits_RV.shape, bool)
    progress = loop.begin(logits_RV, seen_RV, settings, room)
    return loop.gather(cache, slots_R), progress

  def adopt(cache, branches, rows_S):
    """Trunk s becomes row `rows_S[s]`, or stays if that is negative."""
    source_S = jnp.maximum(rows_S, 0)

    def pick(ours, theirs):
      moves = (rows_S >= 0).reshape((-1,) + (1,) * (ours.ndim - 1))
      return jnp.where(moves, theirs[source_S], ours)

    return loop.pin(jax.tree.map(pick, cache, branches))

  programs.unstack = jax.jit(family.decode_weights)
  programs.empty = jax.jit(family.new_cache, static_argnums=(0, 1))
  programs.read = jax.jit(read, donate_argnums=1)
  programs.score = jax.jit(score)
  programs.begin = jax.jit(begin, static_argnums=5)
  programs.decode = jax.jit(
    lambda weights, cache, progress, steps: loop.decode(
      family, weights, cache, progress, steps
    ),
    donate_argnums=(1, 2),
  )
  programs.adopt = jax.jit(adopt, donate_argnums=0)
  programs.copy = jax.jit(
    lambda cache, last_SD, source_S: (
      loop.gather(cache, source_S),
      last_SD[source_S],
    )
  )
  return programs
