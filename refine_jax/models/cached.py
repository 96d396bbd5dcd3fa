"""Attention of a decoding step: one query per slot over kept keys and values.

A row of a cache belongs to one slot, or to as many adjacent slots as there
are more of them. What several slots share is then read once for all of them,
as one product of all their queries with it.
"""

from typing import Any

import jax
import jax.numpy as jnp

from refine_jax.models.cache import Quantised

# Finite, so that a row with nothing to attend averages instead of being NaN.
MASKED = -1e30


def attend_cache(
  q_BNH: jax.Array,
  keys: Any,
  values: Any,
  lengths_R: jax.Array,
  *,
  bias: jax.Array | None = None,
  scale: float,
  prefix: tuple[Any, Any, jax.Array] | None = None,
) -> jax.Array:
  """Attention over the filled positions of a cache, softmax in float32.

  Args:
    keys, values: `[R, K, S, H]` with R a divisor of B; arrays or `Quantised`.
    lengths_R: how many positions of each row are filled.
    bias: added to the scaled scores; broadcastable to [B, N, S].
    prefix: more (keys, values, lengths), of as many rows or fewer. The two
      parts are merged by their log-sum-exps.

  Returns:
    out_BNH in the dtype of the queries; finite for an empty slot.
  """
  slots, heads = q_BNH.shape[:2]
  kv_heads = keys.shape[1]
  first = _scores(q_BNH, keys, lengths_R, bias, scale)
  parts = [(first, values)]
  if prefix is not None:
    more = _scores(q_BNH, prefix[0], prefix[2], None, scale)
    parts.append((more, prefix[1]))

  def by_slot(x_RKMGX):
    x_RMKGX = x_RKMGX.swapaxes(1, 2)
    shape = (slots, kv_heads, heads // kv_heads, x_RKMGX.shape[-1])
    return x_RMKGX.reshape(shape)

  tops = [jnp.max(scores, axis=-1, keepdims=True) for scores, _ in parts]
  top_BKG1 = by_slot(tops[0])
  for top in tops[1:]:
    top_BKG1 = jnp.maximum(top_BKG1, by_slot(top))
  total_BKG1 = out_BKGH = 0.0
  for (scores, rows), top in zip(parts, tops, strict=True):
    # Relative to the part's own best, so that merging touches sums alone.
    weights = jnp.exp(scores - top)
    share_BKG1 = jnp.exp(by_slot(top) - top_BKG1)
    total_BKG1 += share_BKG1 * by_slot(jnp.sum(weights, -1, keepdims=True))
    out_BKGH += share_BKG1 * by_slot(_weighted(weights, rows))
  return (out_BKGH / total_BKG1).reshape(q_BNH.shape).astype(q_BNH.dtype)


def _scores(q_BNH, keys, lengths_R, bias, scale) -> jax.Array:
  """`[R, K, M, G, S]`, float32: M slots per row, G heads per key head."""
  slots, heads, dim = q_BNH.shape
  rows, kv_heads, size = keys.shape[:3]
  shape = (rows, slots // rows, kv_heads, heads // kv_heads)
  scaled = isinstance(keys, Quantised)
  scores = jnp.einsum(
    "RMKGH,RKSH->RKMGS",
    q_BNH.reshape(*shape, dim),
    keys.values.astype(q_BNH.dtype) if scaled else keys,
    preferred_element_type=jnp.float32,
  )
  scores = scores * scale
  if scaled:
    scores = scores * keys.scales[:, :, None, None, :, 0]
  if bias is not None:
    bias = jnp.broadcast_to(bias, (slots, heads, size)).reshape(*shape, size)
    scores = scores + bias.swapaxes(1, 2).astype(jnp.float32)
  filled_RS = jnp.arange(size) < lengths_R[:, None]
  return jnp.where(filled_RS[:, None, None, None], scores, MASKED)


def _weighted(weights, rows) -> jax.Array:
  """Sums of a row's values, `[R, K, M, G, H]` in float32."""
  if isinstance(rows, Quantised):
    weights = weights * rows.scales[:, :, None, None, :, 0]
    rows = rows.values.astype(jnp.bfloat16)
  return jnp.einsum(
    "RKMGS,RKSH->RKMGH",
    weights.astype(rows.dtype),
    rows,
    preferred_element_type=jnp.float32,
  )
