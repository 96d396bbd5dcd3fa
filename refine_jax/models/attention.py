"""Attention behind one dispatcher, whatever the kernel underneath.

Masks arrive as structure (segments, causality, positions), never as a dense
array: a flash kernel is told the structure, and only the reference path
spells it out as a mask.
"""

import jax
import jax.numpy as jnp

from refine_jax.models.cached import MASKED, attend_cache

__all__ = ["IMPLEMENTATIONS", "MASKED", "attend", "attend_cache", "mask"]


def mask(
  length: int,
  size: int,
  *,
  q_segments_BL=None,
  kv_segments_BS=None,
  causal: bool = False,
  q_positions_BL=None,
  kv_positions_BS=None,
) -> jax.Array | None:
  """The dense form of the mask, `[B or 1, L, S]`; None if all is visible."""
  allowed = []
  if causal:
    q_BL = (
      jnp.arange(length)[None] if q_positions_BL is None else q_positions_BL
    )
    kv_BS = (
      jnp.arange(size)[None] if kv_positions_BS is None else kv_positions_BS
    )
    allowed.append(q_BL[:, :, None] >= kv_BS[:, None, :])
  if kv_segments_BS is not None:
    allowed.append((kv_segments_BS != 0)[:, None, :])
  if q_segments_BL is not None and kv_segments_BS is not None:
    allowed.append(q_segments_BL[:, :, None] == kv_segments_BS[:, None, :])
  if not allowed:
    return None
  result = allowed[0]
  for more in allowed[1:]:
    result = result & more
  return result


def _xla(q_BLNH, k_BSKH, v_BSKH, *, bias, scale, **structure):
  """The reference: a batched product per kv head, softmax in float32."""
  batch, length, heads, dim = q_BLNH.shape
  size, kv_heads = k_BSKH.shape[1:3]
  groups = heads // kv_heads
  q_BLKGH = q_BLNH.reshape(batch, length, kv_heads, groups, dim)
  scores_BKGLS = jnp.einsum(
    "BLKGH,BSKH->BKGLS", q_BLKGH, k_BSKH, preferred_element_type=jnp.float32
  )
  scores_BKGLS = scores_BKGLS * scale
  if bias is not None:
    bias = jnp.broadcast_to(
      bias, (*bias.shape[:1], heads, *bias.shape[2:])
    ).reshape(bias.shape[0], kv_heads, groups, *bias.shape[2:])
    scores_BKGLS = scores_BKGLS + bias.astype(jnp.float32)
  allowed_BLS = mask(length, size, **structure)
  if allowed_BLS is not None:
    scores_BKGLS = jnp.where(allowed_BLS[:, None, None], scores_BKGLS, MASKED)
  weights_BKGLS = jax.nn.softmax(scores_BKGLS, axis=-1).astype(v_BSKH.dtype)
  out_BLKGH = jnp.einsum("BKGLS,BSKH->BLKGH", weights_BKGLS, v_BSKH)
  return out_BLKGH.reshape(q_BLNH.shape).astype(q_BLNH.dtype)


def _library(implementation):
  def attend(q_BLNH, k_BSKH, v_BSKH, *, bias, scale, causal, **structure):
    positions = ("q_positions_BL", "kv_positions_BS")
    by_index = all(structure[name] is None for name in positions)
    allowed_BLS = mask(
      q_BLNH.shape[1],
      k_BSKH.shape[1],
      causal=causal and not by_index,
      **structure,
    )
    return jax.nn.dot_product_attention(
      q_BLNH,
      k_BSKH,
      v_BSKH,
      bias=None if bias is None else bias.astype(q_BLNH.dtype),
      mask=None if allowed_BLS is None else allowed_BLS[:, None],
      scale=scale,
      is_causal=causal and by_index,
      implementation=implementation,
    )

  return attend


IMPLEMENTATIONS = {
  "xla": _xla,
  "dot": _library("xla"),
  "cudnn": _library("cudnn"),
}


def choose(
  q_BLNH: jax.Array,
  k_BSKH: jax.Array,
  bias: jax.Array | None,
  platform: str,
  *,
  dense: bool = False,
) -> str:
  """What "auto" means.

  cudnn wants half precision, heads of at most 128 in eights and, where a mask
  is `dense` (more than causality by index), even lengths. T5's bias gradient
  stays with XLA.
  """
  dim = q_BLNH.shape[-1]
  half = q_BLNH.dtype in (jnp.bfloat16, jnp.float16)
  odd = q_BLNH.shape[1] % 2 or k_BSKH.shape[1] % 2
  fits = half and dim <= 128 and dim % 8 == 0 and not (dense and odd)
  if platform == "gpu" and bias is None and fits:
    return "cudnn"
  return "xla"


def attend(
  q_BLNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  *,
  q_segments_BL: jax.Array | None = None,
  kv_segments_BS: jax.Array | None = None,
  causal: bool = False,
  q_positions_BL: jax.Array | None = None,
  kv_positions_BS: jax.Array | None = None,
  bias: jax.Array | None = None,
  scale: float,
  implementation: str = "auto",
) -> jax.Array:
  """Attention of every query over the keys of its segment.

  Args:
    q_BLNH: queries; heads k*G .. k*G+G-1 share key head k, with N = G*K.
    k_BSKH, v_BSKH: keys and values.
    q_segments_BL, kv_segments_BS: a query sees keys of its own number; 0 is
      padding, which nothing sees. With kv segments alone, all but 0 is seen.
    causal: a query sees no key past its position.
    q_positions_BL, kv_positions_BS: positions for `causal`; indices if None.
    bias: added to the scaled scores; broadcastable to [B, N, L, S].
    scale: factor on the scores.
    implementation: a key of IMPLEMENTATIONS, or "auto".

  Returns:
    out_BLNH in the dtype of the queries. A query that sees nothing gets
    something finite.

  Raises:
    ValueError: an unknown implementation.
  """
  if implementation == "auto":
    structure = (kv_segments_BS, q_positions_BL, kv_positions_BS)
    dense = any(part is not None for part in structure)
    implementation = choose(
      q_BLNH, k_BSKH, bias, jax.default_backend(), dense=dense
    )
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
      f"attention implementation {implementation!r}: expected 'auto' or one of"
      f" {sorted(IMPLEMENTATIONS)}"
    )
  return IMPLEMENTATIONS[implementation](
    q_BLNH,
    k_BSKH,
    v_BSKH,
    q_segments_BL=q_segments_BL,
    kv_segments_BS=kv_segments_BS,
    causal=causal,
    q_positions_BL=q_positions_BL,
    kv_positions_BS=kv_positions_BS,
    bias=bias,
    scale=scale,
  )
