"""Keys and values kept between decoding steps, as an explicit pytree."""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Cache:
  """One compact, unpadded row per slot.

  Layers are unrolled: one array per layer lets XLA update it in place in a
  `while_loop` carry, where a stacked cache would be copied.

  Attributes:
    keys, values: per layer `[slots, K, S, H]`.
    lengths_B: how many positions of each slot are filled.
    cross_keys, cross_values: per layer, an encoder's `[slots, K, P, H]`.
    prompt_lengths_B: how many of the encoder's positions exist.
    prefix_keys, prefix_values: per layer `[K, S, H]`, shared by all slots
      and attended before their own.
    key_scales, value_scales: per layer `[slots, K, S, 1]` when keys and
      values are int8.
  """

  keys: tuple[jax.Array, ...]
  values: tuple[jax.Array, ...]
  lengths_B: jax.Array
  cross_keys: tuple[jax.Array, ...] = ()
  cross_values: tuple[jax.Array, ...] = ()
  prompt_lengths_B: jax.Array | None = None
  prefix_keys: tuple[jax.Array, ...] = ()
  prefix_values: tuple[jax.Array, ...] = ()
  key_scales: tuple[jax.Array, ...] = ()
  value_scales: tuple[jax.Array, ...] = ()


def empty(
  *, layers: int, slots: int, kv_heads: int, length: int, head_dim: int, dtype
) -> Cache:
  """A cache with nothing in it."""

  def rows():
    shape = (slots, kv_heads, length, head_dim)
    return tuple(jnp.zeros(shape, dtype) for _ in range(layers))

  return Cache(rows(), rows(), jnp.zeros((slots,), jnp.int32))


def append_one(
  rows_BKSH: jax.Array, new_BKH: jax.Array, lengths_B: jax.Array
) -> jax.Array:
  """Writes one position per slot at `lengths_B`; past the end is dropped."""
  slots = jnp.arange(rows_BKSH.shape[0])
  return rows_BKSH.at[slots, :, lengths_B].set(
    new_BKH.astype(rows_BKSH.dtype), mode="drop"
  )


def append_rows(
  rows_BKSH: jax.Array,
  new_RPKH: jax.Array,
  slots_R: jax.Array,
  starts_R: jax.Array,
  lengths_R: jax.Array,
) -> jax.Array:
  """Writes R ragged rows (padded right to P) into slots from `starts_R` on."""
  size = rows_BKSH.shape[2]
  offset_P = jnp.arange(new_RPKH.shape[1])
  position_RP = starts_R[:, None] + offset_P
  position_RP = jnp.where(offset_P < lengths_R[:, None], position_RP, size)
  return rows_BKSH.at[slots_R[:, None], :, position_RP].set(
    new_RPKH.astype(rows_BKSH.dtype), mode="drop"
  )
