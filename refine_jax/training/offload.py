"""Parameters that wait in the host's memory until they are needed."""

import jax

from refine_jax.batch import Params

MEMORIES = ("device", "host")
HOST = "pinned_host"


class Unavailable(ValueError):
  """Devices from which the host's memory cannot be reached."""


class Waiting:
  """Parameters that are needed now and then.

  Args:
    params: placed; with `host` the caller's may be donated from then on.
    memory: `device`, where they stay as they are, or `host`: pinned memory,
      each device's part beside it, and copied back for as long as somebody
      holds what `on_device` gave.

  Raises:
    Unavailable: there is no such memory.
  """

  def __init__(self, params: Params, memory: str = "device"):
    self.params, self._back = params, None
    if memory == "device":
      return
    self._back = jax.tree.map(lambda x: x.sharding, params)
    for where in jax.tree.leaves(self._back):
      _check(where)
    away = jax.tree.map(lambda s: s.with_memory_kind(HOST), self._back)
    # Not the same bytes, even where host and device are one.
    self.params = jax.device_put(params, away, may_alias=False)

  def on_device(self) -> Params:
    if self._back is None:
      return self.params
    return jax.device_put(self.params, self._back)


def _check(where: jax.sharding.Sharding) -> None:
  device = next(iter(where.addressable_devices))
  kinds = [memory.kind for memory in device.addressable_memories()]
  if HOST not in kinds:
    raise Unavailable(
      f"{device.platform} devices have no {HOST} memory, only"
      f" {', '.join(kinds)}"
    )
