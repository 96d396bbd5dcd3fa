"""From host batches to arrays on a mesh."""

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from jax.sharding import NamedSharding


def place(
  batch: Any,
  sharding: NamedSharding | None = None,
  share: tuple[int, int] = (0, 1),
) -> Any:
  """Puts a pytree of host arrays on devices; the copy runs on its own.

  Args:
    batch: any pytree of arrays whose first dimension is the batch.
    sharding: how rows lie on the mesh; None for the default device.
    share: (index, count): which part of the global batch's rows this is, see
      `sharding.share`; (0, 1) for all of them, though not all stay here.

  Raises:
    ValueError: the rows do not divide among the devices.
  """
  if sharding is None:
    return jax.tree.map(jax.device_put, batch)
  if sharding.is_fully_addressable:
    return jax.tree.map(lambda x: jax.device_put(x, sharding), batch)
  return jax.tree.map(lambda x: _part(x, sharding, *share), batch)


def _part(x, sharding: NamedSharding, index: int, count: int) -> jax.Array:
  first = index * len(x)

  def of_device(where):
    start, stop, _ = where[0].indices(count * len(x))
    return x[(slice(start - first, stop - first), *where[1:])]

  shape = (count * len(x), *x.shape[1:])
  return jax.make_array_from_callback(shape, sharding, of_device)


def prefetch(
  batches: Iterable[Any],
  sharding: NamedSharding | None = None,
  depth: int = 2,
) -> Iterator[Any]:
  """Placed batches; `depth` are on their way while one is being used."""
  waiting = collections.deque()
  try:
    for batch in batches:
      # The next copy starts before the step that uses the oldest.
      waiting.append(place(batch, sharding))
      if len(waiting) > depth:
        yield waiting.popleft()
    yield from waiting
  finally:
    if hasattr(batches, "close"):
      batches.close()
