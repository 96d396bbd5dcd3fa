"""From host batches to arrays on a mesh."""

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from jax.sharding import NamedSharding


def place(batch: Any, sharding: NamedSharding | None = None) -> Any:
  """Puts a pytree of host arrays on devices; the copy runs on its own.

  Args:
    batch: this process's rows of the global batch; any pytree of arrays whose
      first dimension is the batch.
    sharding: how rows lie on the mesh; None for the default device.

  Raises:
    ValueError: the rows do not divide among this process's devices.
  """
  if sharding is None:
    return jax.tree.map(jax.device_put, batch)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x), batch
  )


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
