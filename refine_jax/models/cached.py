"""Attention of a decoding step: one query per slot over kept keys and values.

A row of a cache belongs to one slot, or to as many adjacent slots as there
are more of them. What several slots share is then read once for all of them,
as one product of all their queries with it.
"""

from typing import Any

import jax
import jax.numpy as jnp

from refine_jax.models.cache import Pages, Quantised

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
    keys, values: `[R, K, S, H]` with R a divisor of B; arrays, `Quantised`, or
      `Pages` of these.
    lengths_R: how many positions of each row are filled.
    bias: added to the scaled scores; broadcastable to [B, N, S].
    prefix: more (keys, values, lengths), of as many rows or fewer. The two
      parts are merged by their log-sum-exps.

  Returns:
    out_BNH in the dtype of the queries; finite for an empty slot.
  """
  if isinstance(keys, Pages):
    parts = _read_pages(q_BNH, keys, values, lengths_R, bias, scale)
  else:
    parts = [_read(q_BNH, keys, values, lengths_R, bias, scale)]
  if prefix is not None:
    parts.append(_read(q_BNH, *prefix, None, scale))
  return _merged(parts).reshape(q_BNH.shape).astype(q_BNH.dtype)


def attend_branch(
  q_BTNH: jax.Array,
  k_BTKH: jax.Array,
  v_BTKH: jax.Array,
  prefix: tuple[Any, Any, jax.Array],
  *,
  scale: float,
) -> jax.Array:
  """Attention of rows over a kept beginning and, causally, over themselves.

  Args:
    prefix: (keys, values, lengths) as in `attend_cache`, read once for all
      positions of all the rows that share it.
  """
  batch, length, heads, dim = q_BTNH.shape
  kv_heads = k_BTKH.shape[2]
  q_BTKGH = q_BTNH.reshape(batch, length, kv_heads, heads // kv_heads, dim)
  scores_BTKGS = scale * jnp.einsum(
    "BTKGH,BSKH->BTKGS", q_BTKGH, k_BTKH, preferred_element_type=jnp.float32
  )
  seen_TS = jnp.tril(jnp.ones((length, length), bool))
  scores_BTKGS = jnp.where(seen_TS[:, None, None], scores_BTKGS, MASKED)
  top_BTKG1 = jnp.max(scores_BTKGS, axis=-1, keepdims=True)
  weights_BTKGS = jnp.exp(scores_BTKGS - top_BTKG1)
  out_BTKGH = jnp.einsum(
    "BTKGS,BSKH->BTKGH",
    weights_BTKGS.astype(v_BTKH.dtype),
    v_BTKH,
    preferred_element_type=jnp.float32,
  )
  total_BTKG1 = jnp.sum(weights_BTKGS, axis=-1, keepdims=True)
  own = [
    x.reshape(batch * length, *x.shape[2:])
    for x in (top_BTKG1, total_BTKG1, out_BTKGH)
  ]
  q_XNH = q_BTNH.reshape(batch * length, heads, dim)
  merged = _merged([tuple(own), _read(q_XNH, *prefix, None, scale)])
  return merged.reshape(q_BTNH.shape).astype(q_BTNH.dtype)


def _merged(parts) -> jax.Array:
  """Joins (best score, sum of weights, weighted values) of parts, by slot."""
  top_BKG1 = parts[0][0]
  for top, _, _ in parts[1:]:
    top_BKG1 = jnp.maximum(top_BKG1, top)
  total_BKG1 = out_BKGH = 0.0
  for top, total, out in parts:
    share_BKG1 = jnp.exp(top - top_BKG1)
    total_BKG1 += share_BKG1 * total
    out_BKGH += share_BKG1 * out
  return out_BKGH / total_BKG1


def _read_pages(q_BNH, keys: Pages, values: Pages, lengths_R, bias, scale):
  """Parts for `_merged`, one per page; a page that no row reaches is not read.

  Nothing of it would count, so that rows do not depend on their company.
  """
  slots, heads, dim = q_BNH.shape
  # An idle slot may say that it is beyond its last position.
  lengths_R = jnp.where(lengths_R <= keys.shape[2], lengths_R, 0)
  found = []
  for start, k, v in zip(keys.starts, keys.parts, values.parts, strict=True):
    size = k.shape[2]
    here = None if bias is None else bias[..., start : start + size]
    rest = (k, v, lengths_R - start, here)
    if not start:
      found.append(_read(q_BNH, *rest, scale))
      continue
    column = (slots, k.shape[1], heads // k.shape[1], 1)

    def nothing(*_, column=column):
      zeros = jnp.zeros(column, jnp.float32)
      out = jnp.zeros((*column[:3], dim), jnp.float32)
      return zeros + MASKED, zeros, out

    found.append(
      jax.lax.cond(
        jnp.any(lengths_R > start),
        lambda q, rest: _read(q, *rest, scale),
        nothing,
        q_BNH,
        rest,
      )
    )
  return found


def _read(q_BNH, keys, values, lengths_R, bias, scale):
  """A part for `_merged`: `[B, K, G, 1]` twice, and `[B, K, G, H]`."""
  slots, heads = q_BNH.shape[:2]
  kv_heads = keys.shape[1]
  scores = _scores(q_BNH, keys, lengths_R, bias, scale)
  # Relative to the part's own best, so that merging touches sums alone.
  top = jnp.max(scores, axis=-1, keepdims=True)
  weights = jnp.exp(scores - top)
  total = jnp.sum(weights, axis=-1, keepdims=True)

  def by_slot(x_RKMGX):
    shape = (slots, kv_heads, heads // kv_heads, x_RKMGX.shape[-1])
    return x_RKMGX.swapaxes(1, 2).reshape(shape)

  return by_slot(top), by_slot(total), by_slot(_weighted(weights, values))


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
