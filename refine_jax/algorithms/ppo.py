"""PPO's losses per token (arXiv:1707.06347, eq. 7), as ReFT has them.

Per token, so that whoever adds them up chooses the reduction and keeps one
denominator over micro-batches and devices; see `algorithms.xent.weights`.
"""

import jax
import jax.numpy as jnp

from refine_jax.algorithms.kl import log_ratio


def ratios(
  logp_BT: jax.Array, old_BT: jax.Array, *, clamp: float = 20.0
) -> jax.Array:
  """`policy / old policy` of the sampled tokens.

  Args:
    logp_BT: under the policy; differentiated.
    old_BT: under the one that sampled.
    clamp: bound of |log ratio|, so that no exponential overflows; 0 for none.
  """
  return jnp.exp(log_ratio(logp_BT, old_BT, clamp))


def policy_loss(
  ratios_BT: jax.Array, advantages_BT: jax.Array, clip: float
) -> tuple[jax.Array, jax.Array]:
  """`max(-A r, -A clip(r))` of each token, and where the clipped one counts."""
  plain_BT = -advantages_BT * ratios_BT
  clipped_BT = -advantages_BT * jnp.clip(ratios_BT, 1 - clip, 1 + clip)
  return jnp.maximum(plain_BT, clipped_BT), clipped_BT > plain_BT


def value_loss(
  values_BT: jax.Array,
  old_BT: jax.Array,
  returns_BT: jax.Array,
  clip: float,
) -> tuple[jax.Array, jax.Array]:
  """Half the greater squared error of value and clipped value, and where the
  clipped one counts.

  Args:
    values_BT: differentiated.
    old_BT: when the rollout was made; a value that moves further than `clip`
      from it learns nothing from moving on. 0 does not clip.
    returns_BT: the targets.
    clip: see `old_BT`.
  """
  plain_BT = (values_BT - returns_BT) ** 2
  if not clip:
    return plain_BT / 2, jnp.zeros(plain_BT.shape, bool)
  near_BT = old_BT + jnp.clip(values_BT - old_BT, -clip, clip)
  clipped_BT = (near_BT - returns_BT) ** 2
  return jnp.maximum(plain_BT, clipped_BT) / 2, clipped_BT > plain_BT
