"""Attention of training and prefill on TPU: the Pallas splash kernel.

It is told causality and segments and never writes a score. Every device runs
it on its own rows and heads, under shard_map.
"""

import functools

import jax
import jax.numpy as jnp

from refine_jax import sharding

# Lengths are padded to it; the kernel's tiles are multiples of it.
LANES = 128
_TILES = (512, 256, 128)


def fits(q_BLNH: jax.Array, k_BSKH: jax.Array) -> bool:
  """Whether heads divide among devices as the kernel needs it.

  Too few queries are cheaper without it, and so are narrow heads.
  """
  mesh = jax.sharding.get_abstract_mesh()
  tensor = 1 if mesh.empty else mesh.shape.get("tensor", 1)
  narrow = q_BLNH.shape[1] < LANES or q_BLNH.shape[-1] % 64
  return not narrow and k_BSKH.shape[2] % tensor == 0


def attend(
  q_BLNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  *,
  q_segments_BL: jax.Array | None = None,
  kv_segments_BS: jax.Array | None = None,
  causal: bool = False,
  offset: int = 0,
  scale: float,
  interpret: bool = False,
) -> jax.Array:
  """As `attention.attend`, without a bias.

  Args:
    offset: `causal`: query l sees keys up to l + offset.
    interpret: run as plain JAX, on any device.
  """
  q_BLNH = (q_BLNH.astype(jnp.float32) * scale).astype(q_BLNH.dtype)
  length, size = q_BLNH.shape[1], k_BSKH.shape[1]
  if kv_segments_BS is None and not (causal and offset == 0 and length == size):
    # Whatever is padded has to be hidden from those that look so far.
    kv_segments_BS = jnp.ones(k_BSKH.shape[:2], jnp.int32)
  if kv_segments_BS is not None and q_segments_BL is None:
    q_segments_BL = jnp.ones(q_BLNH.shape[:2], jnp.int32)
    kv_segments_BS = (kv_segments_BS != 0).astype(jnp.int32)
  run = functools.partial(
    _local, causal=causal, offset=offset, interpret=interpret
  )
  q, k, v = (padded(x) for x in (q_BLNH, k_BSKH, v_BSKH))
  segments = ()
  if kv_segments_BS is not None:
    segments = padded(q_segments_BL), padded(kv_segments_BS)
  return _on_devices(run, q, k, v, segments)[:, :length]


def padded(x: jax.Array) -> jax.Array:
  """With zeros behind the second axis, up to whole tiles."""
  more = -x.shape[1] % LANES
  if not more:
    return x
  return jnp.pad(x, ((0, 0), (0, more), *((0, 0),) * (x.ndim - 2)))


def _on_devices(run, q, k, v, segments) -> jax.Array:
  """`run` on every device's rows and heads."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return run(q, k, v, *segments)
  heads = sharding.spec(("batch", None, "kv_heads", None), k.shape, mesh)
  rows = jax.sharding.PartitionSpec(*heads[:1], None)
  return jax.shard_map(
    run,
    in_specs=(heads,) * 3 + (rows,) * len(segments),
    out_specs=heads,
    check_vma=False,  # a kernel does not say what its results vary over
  )(q, k, v, *segments)


def _local(q, k, v, *segments, causal, offset, interpret) -> jax.Array:
  # Here, because the import takes longer than many a small run.
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
  )
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
  )

  shape = q.shape[1], k.shape[1]
  mask = masks.CausalMask(shape, offset) if causal else masks.FullMask(shape)
  block_q, block_kv = map(_tile, shape)
  kernel = kernels.make_splash_mha_single_device(
    masks.MultiHeadMask([mask] * q.shape[2]),
    block_sizes=kernels.BlockSizes(
      block_q=block_q,
      block_kv=block_kv,
      block_q_dkv=block_q,
      block_kv_dkv=block_kv,
      block_q_dq=block_q,
      block_kv_dq=block_kv,
    ),
    interpret=interpret,
  )

  def one(q_LNH, k_SKH, v_SKH, *segments):
    ids = kernels.SegmentIds(*segments) if segments else None
    out_NLH = kernel(
      q_LNH.swapaxes(0, 1), k_SKH.swapaxes(0, 1), v_SKH.swapaxes(0, 1), ids
    )
    return out_NLH.swapaxes(0, 1)

  return jax.vmap(one)(q, k, v, *segments).astype(q.dtype)


def _tile(length: int) -> int:
  return next(tile for tile in _TILES if length % tile == 0)
