"""Keys and values kept between decoding steps, as an explicit pytree.

A cache is either plain, a row per slot with prompt and continuation in it, or
split: rows of what was sampled, and apart from them rows of prompts, each
shared by a group of adjacent slots.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from refine_jax import sharding


@flax.struct.dataclass
class Quantised:
  """int8 numbers with a factor per position: `values * scales`.

  Attributes:
    values: `[R, K, S, H]`, int8.
    scales: `[R, K, S, 1]`, float32.
  """

  values: jax.Array
  scales: jax.Array

  @property
  def shape(self) -> tuple[int, ...]:
    return self.values.shape

  def plain(self, dtype) -> jax.Array:
    return (self.values * self.scales).astype(dtype)


def quantise(x: jax.Array) -> Quantised:
  """The nearest of 255 levels between each position's extremes."""
  x = x.astype(jnp.float32)
  scales = jnp.max(jnp.abs(x), axis=-1, keepdims=True) / 127
  levels = jnp.round(x / jnp.maximum(scales, 1e-30))
  return Quantised(levels.astype(jnp.int8), scales)


@flax.struct.dataclass
class Pages:
  """Rows in pieces along their positions, so that a step reads those in use.

  Attributes:
    parts: `[R, K, W, H]` each, W for every one its own; arrays or `Quantised`.
  """

  parts: tuple[Any, ...]

  @property
  def shape(self) -> tuple[int, ...]:
    rows, heads, _, dim = self.parts[0].shape
    return rows, heads, sum(part.shape[2] for part in self.parts), dim

  @property
  def starts(self) -> tuple[int, ...]:
    """The position that each part begins with."""
    sizes = [part.shape[2] for part in self.parts]
    return tuple(sum(sizes[:i]) for i in range(len(sizes)))


@flax.struct.dataclass
class Cache:
  """One compact, unpadded row per slot.

  Layers are unrolled: one array per layer lets XLA update it in place in a
  `while_loop` carry, where a stacked cache would be copied. Every array may
  be `Quantised`; `keys` and `values` of a split cache may be `Pages`.

  Attributes:
    keys, values: per layer `[slots, K, S, H]`.
    lengths_B: how many positions of each slot are filled.
    cross_keys, cross_values: per layer, an encoder's `[rows, K, P, H]`.
    prefix_keys, prefix_values: of a decoder-only model's split cache, per
      layer `[rows, K, P, H]`, attended before a slot's own positions.
    prompt_lengths_R: how many positions of these rows exist. There are as
      many rows as slots, or one per group of adjacent slots.
  """

  keys: tuple[Any, ...]
  values: tuple[Any, ...]
  lengths_B: jax.Array
  cross_keys: tuple[Any, ...] = ()
  cross_values: tuple[Any, ...] = ()
  prefix_keys: tuple[Any, ...] = ()
  prefix_values: tuple[Any, ...] = ()
  prompt_lengths_R: jax.Array | None = None


def empty(
  *, layers: int, slots: int, kv_heads: int, length: int, head_dim: int, dtype
) -> Cache:
  """A cache with nothing in it; "int8" makes it quantised."""

  def rows():
    shape = (slots, kv_heads, length, head_dim)
    zeros = [jnp.zeros(shape, dtype) for _ in range(layers)]
    if jnp.dtype(dtype) == jnp.int8:
      scale = (*shape[:3], 1)
      return tuple(Quantised(z, jnp.zeros(scale, jnp.float32)) for z in zeros)
    return tuple(zeros)

  return Cache(rows(), rows(), jnp.zeros((slots,), jnp.int32))


def paged(cache: Cache, size: int) -> Cache:
  """An empty cache whose own rows are in pages of `size` positions."""

  def cut(rows):
    length = rows.shape[2]
    return Pages(
      tuple(
        jax.tree.map(lambda x, at=at: x[:, :, at : at + size], rows)
        for at in range(0, length, size)
      )
    )

  if cache.keys[0].shape[2] <= size:
    return cache
  return cache.replace(
    keys=tuple(map(cut, cache.keys)), values=tuple(map(cut, cache.values))
  )


def append_one(rows_BKSH: Any, new_BKH: jax.Array, lengths_B: jax.Array) -> Any:
  """Writes one position per slot at `lengths_B`; past the end is dropped."""
  if isinstance(rows_BKSH, Pages):
    parts = []
    for start, part in zip(rows_BKSH.starts, rows_BKSH.parts, strict=True):
      size = part.shape[2]
      # Before the page is as much outside of it as past its end.
      at_B = jnp.where(lengths_B < start, size, lengths_B - start)
      parts.append(append_one(part, new_BKH, at_B))
    return Pages(tuple(parts))
  slots = jnp.arange(rows_BKSH.shape[0])
  return _write(rows_BKSH, new_BKH, (slots, slice(None), lengths_B))


def append_rows(
  rows_BKSH: Any,
  new_RPKH: jax.Array,
  slots_R: jax.Array,
  starts_R: jax.Array,
  lengths_R: jax.Array,
) -> Any:
  """Writes R ragged rows (padded right to P) into slots from `starts_R` on."""
  size = rows_BKSH.shape[2]
  offset_P = jnp.arange(new_RPKH.shape[1])
  position_RP = starts_R[:, None] + offset_P
  position_RP = jnp.where(offset_P < lengths_R[:, None], position_RP, size)
  return _write(
    rows_BKSH, new_RPKH, (slots_R[:, None], slice(None), position_RP)
  )


def _write(rows, new, index):
  if isinstance(rows, Quantised):
    return jax.tree.map(
      lambda into, part: into.at[index].set(part, mode="drop"),
      rows,
      quantise(new),
    )
  return rows.at[index].set(new.astype(rows.dtype), mode="drop")


def rows_of(rows_BKSH: Any, slots_R: jax.Array, dtype) -> jax.Array:
  """`[R, S, K, H]` of some slots, no longer quantised."""
  taken = jax.tree.map(
    lambda x: jnp.take(x, slots_R, axis=0, mode="clip"), rows_BKSH
  )
  if isinstance(taken, Quantised):
    taken = taken.plain(dtype)
  return taken.swapaxes(1, 2)


def prompts(cache: Cache) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
  """The keys and values of prompts, wherever this cache has them."""
  if cache.cross_keys:
    return cache.cross_keys, cache.cross_values
  if cache.prefix_keys:
    return cache.prefix_keys, cache.prefix_values
  return cache.keys, cache.values


def split(own: Cache, prompt_rows: Cache) -> Cache:
  """The slots of `own` with the prompts of another (plain) cache."""
  keys, values = prompts(prompt_rows)
  kind = "cross" if prompt_rows.cross_keys else "prefix"
  return own.replace(
    **{f"{kind}_keys": keys, f"{kind}_values": values},
    prompt_lengths_R=jnp.zeros((keys[0].shape[0],), jnp.int32),
  )


def load(
  cache: Cache, row: jax.Array, source: Cache, source_row: jax.Array, length
) -> Cache:
  """A split cache whose prompt `row` is one of another cache's prompts."""

  def one(into, new):
    # A row at a time: only the row is moved, and only it is written.
    axes = ("batch", "kv_heads", None, None)
    part = sharding.row(new, source_row, *axes)
    return sharding.set_row(into, row, part, *axes)

  keys, values = jax.tree.map(one, prompts(cache), prompts(source))
  kind = "cross" if cache.cross_keys else "prefix"
  return cache.replace(
    **{f"{kind}_keys": keys, f"{kind}_values": values},
    prompt_lengths_R=cache.prompt_lengths_R.at[row].set(length),
  )
