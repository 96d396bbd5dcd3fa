"""Entropies of next-token distributions, a chunk of the vocabulary's logits
at a time."""

import jax
import jax.numpy as jnp

from refine_jax.algorithms.logprobs import (
  Unembed,
  columns_of,
  cut,
  join,
  of_targets,
)


def of_logits(logits_BTV: jax.Array) -> jax.Array:
  """In nats, float32."""
  logp_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32))
  return -(jnp.exp(logp_BTV) * logp_BTV).sum(-1)


def scores(
  unembed: Unembed,
  hidden_BTD: jax.Array,
  targets_BT: jax.Array,
  *,
  chunk: int | None = None,
  temperature: jax.Array | float = 1.0,
  learned: bool = True,
) -> tuple[jax.Array, jax.Array]:
  """Log-probabilities of the targets and entropies where they were drawn.

  Of the same logits, which are made once. Args: as of `logprobs.logprobs`;
  entropies have a gradient only if they are `learned`.
  """

  def one(hidden_BTD, targets_BT):
    logits_BTV = unembed(hidden_BTD).astype(jnp.float32) / temperature
    seen_BTV = logits_BTV if learned else jax.lax.stop_gradient(logits_BTV)
    return of_targets(logits_BTV, targets_BT), of_logits(seen_BTV)

  length = targets_BT.shape[1]
  columns = columns_of(chunk, *targets_BT.shape)
  if columns == length:
    return one(hidden_BTD, targets_BT)
  one = jax.checkpoint(one)
  _, (logp_CBT, entropy_CBT) = jax.lax.scan(
    lambda carry, xs: (carry, one(*xs)),
    None,
    (cut(hidden_BTD, columns), cut(targets_BT, columns)),
  )
  return join(logp_CBT, length), join(entropy_CBT, length)
