"""Attention behind one dispatcher, whatever the kernel underneath.

Masks arrive as structure (segments, causality, positions), never as a dense
array: a flash kernel is told the structure, and only the reference path
spells it out as a mask.
"""

import functools

import jax
import jax.numpy as jnp

from refine_jax.models import splash
from refine_jax.models.cached import MASKED, attend_cache

__all__ = [
  "IMPLEMENTATIONS",
  "MASKED",
  "append",
  "attend",
  "attend_cache",
  "mask",
]


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
  # Heads first, and the queries of a group as one dimension: products, and
  # those of the backward pass, are then batches of plain matrices. In any
  # other order XLA on CPU copies operands of the size of the scores.
  q_BLKGH = q_BLNH.reshape(batch, length, kv_heads, groups, dim)
  q_BKRH = q_BLKGH.transpose(0, 2, 3, 1, 4).reshape(batch, kv_heads, -1, dim)
  k_BKSH, v_BKSH = jnp.swapaxes(k_BSKH, 1, 2), jnp.swapaxes(v_BSKH, 1, 2)
  scores_BKRS = jnp.einsum(
    "BKRH,BKSH->BKRS", q_BKRH, k_BKSH, preferred_element_type=jnp.float32
  )
  scores_BKGLS = scale * scores_BKRS.reshape(
    batch, kv_heads, groups, length, size
  )
  if bias is not None:
    bias = jnp.broadcast_to(
      bias, (*bias.shape[:1], heads, *bias.shape[2:])
    ).reshape(bias.shape[0], kv_heads, groups, *bias.shape[2:])
    scores_BKGLS = scores_BKGLS + bias.astype(jnp.float32)
  allowed_BLS = mask(length, size, **structure)
  if allowed_BLS is not None:
    scores_BKGLS = jnp.where(allowed_BLS[:, None, None], scores_BKGLS, MASKED)
  # A softmax that is divided by its sum behind the product, where there is
  # less to divide; the gradient then needs no sums over scores either.
  top_BKGL1 = jnp.max(scores_BKGLS, axis=-1, keepdims=True)
  weights_BKGLS = jnp.exp(scores_BKGLS - jax.lax.stop_gradient(top_BKGL1))
  total_BKGL1 = jnp.sum(weights_BKGLS, axis=-1, keepdims=True)
  out_BKRH = jnp.einsum(
    "BKRS,BKSH->BKRH",
    weights_BKGLS.astype(v_BSKH.dtype).reshape(scores_BKRS.shape),
    v_BKSH,
    preferred_element_type=jnp.float32,
  )
  out_BKGLH = out_BKRH.reshape(batch, kv_heads, groups, length, dim)
  out_BKGLH = out_BKGLH / total_BKGL1
  out_BLKGH = out_BKGLH.transpose(0, 3, 1, 2, 4)
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


def _splash(q_BLNH, k_BSKH, v_BSKH, *, bias, interpret=False, **structure):
  """The kernel, where it can do what is asked."""
  positions = [
    structure.pop(f"{x}") for x in ("q_positions_BL", "kv_positions_BS")
  ]
  if bias is not None or any(x is not None for x in positions):
    raise ValueError("attention by splash has no bias and no positions")
  return splash.attend(q_BLNH, k_BSKH, v_BSKH, interpret=interpret, **structure)


IMPLEMENTATIONS = {
  "xla": _xla,
  "dot": _library("xla"),
  "cudnn": _library("cudnn"),
  "splash": _splash,
  # The kernel as plain JAX: slow, for tests.
  "splash_interpreted": functools.partial(_splash, interpret=True),
}


def choose(
  q_BLNH: jax.Array,
  k_BSKH: jax.Array,
  bias: jax.Array | None,
  platform: str,
  *,
  dense: bool = False,
  placed: bool = False,
) -> str:
  """What "auto" means.

  cudnn wants half precision, heads of at most 128 in eights and, where a mask
  is `dense` (more than causality by index), even lengths. T5's bias gradient
  stays with XLA; on TPUs so do queries that are `placed` anywhere but at their
  index, see `append`.
  """
  if platform == "tpu" and bias is None and not placed:
    return "splash" if splash.fits(q_BLNH, k_BSKH) else "xla"
  dim = q_BLNH.shape[-1]
  half = q_BLNH.dtype in (jnp.bfloat16, jnp.float16)
  odd = q_BLNH.shape[1] % 2 or k_BSKH.shape[1] % 2
  fits = half and dim <= 128 and dim % 8 == 0 and not (dense and odd)
  if platform == "gpu" and bias is None and fits:
    return "cudnn"
  return "xla"


def platform() -> str:
  """What the program is traced for, which need not be here."""
  mesh = jax.sharding.get_abstract_mesh()
  device = None if mesh.empty else mesh.abstract_device
  return device.platform if device is not None else jax.default_backend()


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
    placed = q_positions_BL is not None or kv_positions_BS is not None
    dense = placed or kv_segments_BS is not None
    implementation = choose(
      q_BLNH, k_BSKH, bias, platform(), dense=dense, placed=placed
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


def append(
  q_BPNH: jax.Array,
  new: tuple[jax.Array, jax.Array],
  kept: tuple[jax.Array, jax.Array],
  starts_B: jax.Array,
  *,
  scale: float,
  implementation: str = "auto",
) -> jax.Array:
  """Attention of rows that continue kept ones: prefill.

  Args:
    q_BPNH: queries at positions `starts_B` and on.
    new: keys and values of the same positions, `[B, P, K, H]`.
    kept: those of the whole rows, `[B, S, K, H]`, the new ones written to
      them; past a row's end is anything.

  Returns:
    out_BPNH.
  """
  if implementation == "auto":
    implementation = choose(q_BPNH, kept[0], None, platform(), dense=True)
  offset_P = jnp.arange(q_BPNH.shape[1])
  if not implementation.startswith("splash"):
    return attend(
      q_BPNH,
      *kept,
      causal=True,
      q_positions_BL=starts_B[:, None] + offset_P,
      scale=scale,
      implementation=implementation,
    )
  # What was there before, then the new: causality is by index again.
  size = kept[0].shape[1]
  before_BS = jnp.arange(size + -size % splash.LANES) < starts_B[:, None]
  keys, values = (
    jnp.concatenate([splash.padded(old), fresh.astype(old.dtype)], axis=1)
    for old, fresh in zip(kept, new, strict=True)
  )
  new_BP = jnp.ones(q_BPNH.shape[:2], bool)
  return splash.attend(
    q_BPNH,
    keys,
    values,
    kv_segments_BS=jnp.concatenate([before_BS, new_BP], axis=1),
    causal=True,
    offset=before_BS.shape[1],
    scale=scale,
    interpret=implementation == "splash_interpreted",
  )
