"""From scores to advantages, over rows with gaps.

Row b acts at the tokens of `mask_BT`. Other tokens are padding, or belong to
somebody else (a critic's feedback inside the row): they get no reward, and to
whatever flows backwards in time they do not exist. All is float32 whatever
comes in, since integer scores would turn a reward of 0.1 into 0.
"""

import jax
import jax.numpy as jnp


def token_rewards(
  scores_B: jax.Array,
  kl_BT: jax.Array,
  mask_BT: jax.Array,
  coefficient: jax.Array | float,
) -> jax.Array:
  """`-coefficient * kl` at every action, and the score at the last one.

  The last action is EOS where the row ended with it (ReFT, section 3.2).
  """
  steps_T = jnp.arange(mask_BT.shape[1])
  last_B1 = jnp.max(jnp.where(mask_BT, steps_T, -1), axis=1, keepdims=True)
  score_BT = jnp.where(
    steps_T == last_B1, scores_B.astype(jnp.float32)[:, None], 0
  )
  cost_BT = jnp.float32(coefficient) * kl_BT.astype(jnp.float32)
  return jnp.where(mask_BT, score_BT - cost_BT, 0)


def gae(
  rewards_BT: jax.Array,
  values_BT: jax.Array,
  mask_BT: jax.Array,
  *,
  gamma: float,
  lam: float,
  bootstrap_B: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Generalised advantage estimates and returns (arXiv:1506.02438, eq. 16).

  The step after an action is the next action, however many tokens lie between.

  Args:
    rewards_BT, values_BT: at the actions.
    mask_BT: where the actions are.
    gamma: discount; lam: decay of the trace.
    bootstrap_B: value of the state behind the last action; 0 if None: every
      row ends there, truncated ones too (ReFT).

  Returns:
    advantages_BT and returns_BT, 0 where there is no action.
  """
  rewards_BT = rewards_BT.astype(jnp.float32)
  values_BT = values_BT.astype(jnp.float32)
  zeros_B = jnp.zeros(mask_BT.shape[0], jnp.float32)
  next_B = zeros_B if bootstrap_B is None else bootstrap_B.astype(jnp.float32)

  def back(carry, column):
    value_B, trace_B = carry
    reward_B, own_B, mask_B = column
    delta_B = reward_B + gamma * value_B - own_B
    advantage_B = delta_B + gamma * lam * trace_B
    carry = (
      jnp.where(mask_B, own_B, value_B),
      jnp.where(mask_B, advantage_B, trace_B),
    )
    return carry, jnp.where(mask_B, advantage_B, 0)

  columns = rewards_BT.T, values_BT.T, mask_BT.T
  _, advantages_TB = jax.lax.scan(
    back, (next_B, zeros_B), columns, reverse=True
  )
  advantages_BT = advantages_TB.T
  return advantages_BT, jnp.where(mask_BT, advantages_BT + values_BT, 0)


def whiten(x_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
  """Mean 0 and variance 1 over all actions of the global batch.

  Bessel-corrected, 1e-8 under the root, as ReFT does it; the mean is not added
  back. Where one action is left there is nothing to compare: 0.
  """
  count = mask_BT.sum()
  mean = jnp.where(mask_BT, x_BT, 0).sum() / jnp.maximum(count, 1)
  centred_BT = jnp.where(mask_BT, x_BT - mean, 0)
  variance = (centred_BT**2).sum() / jnp.maximum(count - 1, 1)
  return centred_BT / jnp.sqrt(variance + 1e-8)


def explained_variance(
  values_BT: jax.Array, returns_BT: jax.Array, mask_BT: jax.Array
) -> jax.Array:
  """`1 - var(returns - values) / var(returns)`, at least -1; 0 for no variance.

  Over all actions of the global batch.
  """

  def variance(x_BT):
    count = jnp.maximum(mask_BT.sum(), 1)
    mean = jnp.where(mask_BT, x_BT, 0).sum() / count
    return jnp.where(mask_BT, (x_BT - mean) ** 2, 0).sum() / count

  whole = variance(returns_BT)
  share = variance(returns_BT - values_BT) / jnp.where(whole > 0, whole, 1)
  return jnp.where(whole > 0, jnp.maximum(1 - share, -1), 0)
