"""T5's relative positions: distances in buckets, one bias per bucket and head.

Raffel et al. 2020, section 2.1: half of the buckets hold one distance each,
the other half grow logarithmically up to `max_distance`, beyond which all
distances share the last. Two-sided attention spends half on each direction.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from refine_jax.models import layers


@functools.cache
def starts(buckets: int, max_distance: int) -> np.ndarray:
  """The smallest distance in each of one direction's buckets, `[buckets]`.

  In integers: a logarithm in floating point would put a distance that lies
  on a boundary, such as 16, on whichever side it rounds to.
  """
  exact = buckets // 2
  wide = buckets - exact
  found = list(range(exact + 1))
  for bucket in range(1, wide):
    # The least d with log(d / exact) / log(max / exact) >= bucket / wide.
    bound, distance = exact ** (wide - bucket) * max_distance**bucket, exact
    while distance**wide < bound:
      distance += 1
    found.append(distance)
  return np.asarray(found[:buckets], np.int32)


def bucket_of(
  relative: np.ndarray, *, buckets: int, max_distance: int, two_sided: bool
) -> np.ndarray:
  """The bucket of a key `relative` positions after its query.

  One-sided, keys after the query (which causality hides) count as distance 0.
  """
  if two_sided:
    side = buckets // 2
    first = np.where(relative > 0, side, 0)
    distance, edges = np.abs(relative), starts(side, max_distance)
  else:
    first = 0
    distance, edges = -np.minimum(relative, 0), starts(buckets, max_distance)
  return first + np.searchsorted(edges, distance, side="right") - 1


def local_slope(
  heads: int, *, buckets: int, max_distance: int, two_sided: bool
) -> np.ndarray:
  """A table `[buckets, heads]` that makes half of the heads look nearby.

  Head i of that half gets `-distance / 2**i`, the others 0 (the slopes of
  Press et al. 2022, as an initialisation).
  """
  sides = 2 if two_sided else 1
  distance = np.tile(starts(buckets // sides, max_distance), sides)
  local = np.arange(heads) < heads // 2
  slope = np.where(local, 0.5 ** np.arange(heads), 0.0)
  return (-distance[:, None] * slope).astype(np.float32)


class RelativeBias(nn.Module):
  """What a stack adds to its attention scores, shared by its layers.

  The parameter is `table`, `[buckets, heads]`, float32 whatever the
  activations are.
  """

  heads: int
  buckets: int
  max_distance: int
  two_sided: bool
  deviation: float
  local_slope: bool = False

  def setup(self):
    def init(rng, shape):
      table = self.deviation * jax.random.normal(rng, shape)
      if self.local_slope:
        table += local_slope(self.heads, **self._kind())
      return table

    shape = (self.buckets, self.heads)
    self.table = self.param("table", layers.named(init, (None, "heads")), shape)

  def _kind(self) -> dict[str, Any]:
    return {
      "buckets": self.buckets,
      "max_distance": self.max_distance,
      "two_sided": self.two_sided,
    }

  def _by_distance(self, relative_R: np.ndarray) -> jax.Array:
    """The bias of each relative position, `[N, R]`."""
    bucket_R = bucket_of(relative_R, **self._kind())
    # A product: the gradient of a lookup is a scatter of colliding rows.
    onehot_RU = jax.nn.one_hot(bucket_R, self.buckets, dtype=jnp.float32)
    return jnp.einsum(
      "UN,RU->NR",
      self.table.astype(jnp.float32),
      onehot_RU,
      precision=jax.lax.Precision.HIGHEST,
    )

  def __call__(self, length: int) -> jax.Array:
    """`[1, N, length, length]`, the bias of key j for query i.

    It depends on j - i alone, so it holds for left padding and for packed
    rows too, as long as an example's positions are adjacent.
    """
    # Row i of the result is row 0 moved i to the right; repeating a vector one
    # longer than a row is wide moves it so without a gather.
    width = 2 * length - 1
    relative = np.arange(width + 1)
    relative = np.where(relative < length, relative, relative - width - 1)
    vector_NR = self._by_distance(relative)
    tiled = jnp.tile(vector_NR, (1, length))[:, : length * width]
    return tiled.reshape(1, self.heads, length, width)[..., :length]

  def at(self, positions_B: jax.Array, size: int) -> jax.Array:
    """`[B, N, size]`, the bias of key s for a query at `positions_B`."""
    vector_NS = self._by_distance(-np.arange(size))
    distance_BS = positions_B[:, None] - jnp.arange(size)
    distance_BS = jnp.clip(distance_BS, 0, size - 1)
    return jnp.take(vector_NS.T, distance_BS, axis=0).transpose(0, 2, 1)
