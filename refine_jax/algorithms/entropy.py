"""Entropies of next-token distributions, a chunk of the vocabulary's logits
at a time."""

import jax
import jax.numpy as jnp

from refine_jax.algorithms.logprobs import Unembed, columns_of, cut, join


def of_logits(logits_BTV: jax.Array) -> jax.Array:
  """In nats, float32."""
  logp_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32))
  return -(jnp.exp(logp_BTV) * logp_BTV).sum(-1)


def entropies(
  unembed: Unembed,
  hidden_BTD: jax.Array,
  *,
  chunk: int | None = None,
  temperature: jax.Array | float = 1.0,
) -> jax.Array:
  """Of the distribution that each state predicts, `[B, T]`.

  Args: as of `logprobs.logprobs`.
  """

  def one(hidden_BTD):
    return of_logits(unembed(hidden_BTD).astype(jnp.float32) / temperature)

  length = hidden_BTD.shape[1]
  columns = columns_of(chunk, *hidden_BTD.shape[:2])
  if columns == length:
    return one(hidden_BTD)
  one = jax.checkpoint(one)
  _, out_CBT = jax.lax.scan(
    lambda carry, x: (carry, one(x)), None, cut(hidden_BTD, columns)
  )
  return join(out_CBT, length)
