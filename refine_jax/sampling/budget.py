"""How many slots fit a memory budget, and what to change if they do not."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from refine_jax.sampling import pool, waiting
from refine_jax.sampling.planning import Shape

# Of a device's memory, what caches may take beside parameters.
SHARE = 0.9
# More slots than these gain nothing even on large devices.
MOST = 512


def bytes_of(family: Any, shape: Shape, dtype: str | None = None) -> int:
  """What a pool of this shape keeps on the devices."""
  kept = None if dtype is None else jnp.dtype(dtype)

  def make():
    return pool.empty_slots(
      family,
      slots=shape.slots,
      group=shape.group,
      room=shape.room,
      prompt_length=shape.prompt_length,
      dtype=kept,
    ), waiting.empty_queue(
      family,
      places=shape.places,
      length=shape.prompt_length,
      tickets=shape.tickets,
      dtype=kept,
    )

  leaves = jax.tree.leaves(jax.eval_shape(make))
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)


def slots_in(
  family: Any,
  memory: int,
  *,
  prompt_length: int,
  room: int,
  dtype: str | None = None,
) -> int:
  """The largest multiple of 8 (or 1 to 7) of slots that fits.

  Args:
    memory: bytes, over all devices, parameters not counted.
    prompt_length, room: the longest there are.

  Raises:
    ValueError: not even one slot fits; says what it takes.
  """

  def needed(slots):
    return bytes_of(family, Shape(slots, 1, prompt_length, room), dtype)

  each = (needed(16) - needed(8)) // 8
  slots = min(MOST, (memory - needed(8)) // each + 8)
  if slots < 1:
    raise ValueError(
      f"a slot for {prompt_length} prompt and {room} sampled tokens takes"
      f" {each:,} bytes, the budget is {memory:,}: raise memory, or lower the"
      " last of prompt_buckets or token_buckets, or set cache_dtype='int8'"
    )
  return slots - slots % 8 if slots >= 8 else slots


def free_memory(mesh: jax.sharding.Mesh | None) -> int | None:
  """Bytes that the devices have left for caches; None if they do not say."""
  devices = jax.local_devices()[:1] if mesh is None else mesh.local_devices
  total = 0
  for device in devices:
    found = device.memory_stats() or {}
    if "bytes_limit" not in found:
      return None
    total += int(SHARE * found["bytes_limit"]) - found.get("bytes_in_use", 0)
  return total


@contextlib.contextmanager
def explained(family: Any, shape: Shape, dtype: str | None) -> Iterator[None]:
  """Turns running out of memory into an error with numbers and settings."""
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    needed = bytes_of(family, shape, dtype)
    raise MemoryError(
      f"{shape.slots} slots for {shape.prompt_length} prompt and {shape.room}"
      f" sampled tokens keep {needed:,} bytes of keys and values, and more"
      " while they are read: lower slots or prefill_tokens, or the last of"
      " prompt_buckets or token_buckets, or set cache_dtype='int8'"
    ) from error
