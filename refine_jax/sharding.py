"""The one table from logical axes to mesh axes, and what follows from it.

Models name the logical axes of their parameters and of a few activations.
Everything else (placement of parameters, optimizer state, batches and caches)
is derived here. Axes are Auto: GSPMD fills in the rest.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("slice", "data", "fsdp", "tensor")

# Logical axis -> mesh axes. The embedding table has axes of its own: sharded
# on width over the batch's axis, XLA would replicate it at every lookup.
RULES: dict[str, tuple[str, ...]] = {
  "batch": ("slice", "data", "fsdp"),
  "replica": ("slice", "data"),  # rows of a decoding step, see `decoding`
  "table": ("fsdp", "tensor"),  # rows of an embedding table
  "table_width": (),
  "vocab": ("tensor",),  # columns of an untied head, logits
  "embed": ("fsdp",),
  "mlp": ("tensor",),
  "heads": ("tensor",),
  "kv_heads": ("tensor",),
  "head_dim": (),
  "norm": (),
  "layers": (),
  "length": (),
  "width": (),  # an activation's last axis
}


def make_mesh(
  *,
  slice: int = 1,
  data: int = 1,
  fsdp: int = -1,
  tensor: int = 1,
  devices=None,
) -> Mesh:
  """A mesh over all devices; one axis may be -1, "what is left".

  Args:
    slice: where it is left at 1 and another axis is -1, it is the number of
      TPU slices that the devices are of, so that parameters are gathered
      within a slice and only gradients travel between them.

  Raises:
    ValueError: the sizes do not multiply to the number of devices, or one is
      no size.
  """
  devices = np.asarray(jax.devices() if devices is None else devices)
  if slice == 1 and -1 in (data, fsdp, tensor):
    slice = _slices(devices)
  sizes = dict(zip(MESH_AXES, (slice, data, fsdp, tensor), strict=True))
  check_sizes(sizes)
  free = [axis for axis, size in sizes.items() if size == -1]
  known = int(np.prod([s for s in sizes.values() if s != -1]))
  if len(free) > 1:
    raise ValueError(f"at most one mesh axis may be -1, got {free}")
  if free:
    sizes[free[0]] = devices.size // known
  if int(np.prod(list(sizes.values()))) != devices.size:
    raise ValueError(
      f"mesh {sizes} does not fit {devices.size} devices: the sizes must"
      " multiply to that number"
    )
  return Mesh(
    _arranged(tuple(sizes.values()), list(devices.flat)),
    MESH_AXES,
    axis_types=(AxisType.Auto,) * len(MESH_AXES),
  )


def check_sizes(sizes: Mapping[str, int]) -> None:
  """Raises ValueError where a mesh's axis has no device."""
  for axis in MESH_AXES:
    if sizes[axis] < 1 and sizes[axis] != -1:
      raise ValueError(f"{axis}={sizes[axis]}: at least 1, or -1")


def _slices(devices: np.ndarray) -> int:
  # GPUs have such an index, too, but say nothing of a pod's slices by it.
  tpus = [d for d in devices.flat if d.platform == "tpu"]
  return max(1, len({getattr(d, "slice_index", 0) for d in tpus}))


def _arranged(sizes: tuple[int, ...], devices: list[Any]) -> np.ndarray:
  """Neighbours on an axis are neighbours in the machine, where it can be."""
  slices = {getattr(device, "slice_index", 0) for device in devices}
  if len(slices) > 1 and sizes[0] == len(slices):
    return mesh_utils.create_hybrid_device_mesh(
      (1, *sizes[1:]),
      (sizes[0],) + (1,) * (len(sizes) - 1),
      devices=devices,
      allow_split_physical_axes=True,
    )
  # An axis may be a part of one of the machine's: 32 of 4 x 4 x 4.
  return mesh_utils.create_device_mesh(
    sizes, devices, allow_split_physical_axes=True
  )


def spec(
  axes: tuple[str | None, ...], shape: tuple[int, ...], mesh
) -> PartitionSpec:
  """Mesh axes for an array; a dimension that does not divide stays whole."""
  parts: list[Any] = []
  for axis, size in zip(axes, shape, strict=True):
    names = tuple(
      a for a in (RULES[axis] if axis else ()) if mesh.shape.get(a, 1) > 1
    )
    while names and size % int(np.prod([mesh.shape[a] for a in names])):
      names = names[:-1]
    parts.append(names or None)
  return PartitionSpec(*parts)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Pins an activation's layout under `jax.set_mesh`; else returns it as is."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh))


def decoding(x: jax.Array) -> jax.Array:
  """Lays the residual stream of a decoding step out, `[B, ..., D]`.

  Its width lies as the rows of the matrices that read it do. So a product
  sums over `fsdp` what each device makes of its part of a matrix, and the few
  activations of a step travel instead of every parameter.
  """
  return constrain(x, "replica", *(None,) * (x.ndim - 2), "embed")


def row(x: jax.Array, index: jax.Array, *axes: str | None) -> jax.Array:
  """`x[index][None]`, of an array whose rows lie on several devices.

  Whoever has the row sends it. Left to the partitioner, every device would be
  sent all the rows first.

  Args:
    x: laid out over `axes`, the first of them its rows'.
    index: a scalar, of a row that exists.
  """
  mesh = jax.sharding.get_abstract_mesh()
  where = None if mesh.empty else spec(axes, x.shape, mesh)
  if not where or not where[0]:
    return jax.lax.dynamic_index_in_dim(x, index, 0, keepdims=True)
  names = where[0]

  def send(mine, index):
    first = jax.lax.axis_index(names) * mine.shape[0]
    at = jnp.clip(index - first, 0, mine.shape[0] - 1)
    found = jax.lax.dynamic_index_in_dim(mine, at, 0, keepdims=True)
    here = index - first == at
    return jax.lax.psum(jnp.where(here, found, 0), names)

  return jax.shard_map(
    send,
    in_specs=(where, PartitionSpec()),
    out_specs=PartitionSpec(None, *where[1:]),
  )(x, index)


def set_row(
  x: jax.Array, index: jax.Array, new: jax.Array, *axes: str | None
) -> jax.Array:
  """`x` with `new[0]` as its row `index`; the inverse of `row`.

  Whoever has the row writes it. Left to the partitioner of TPUs, every device
  would be sent all the rows first.
  """
  mesh = jax.sharding.get_abstract_mesh()
  where = None if mesh.empty else spec(axes, x.shape, mesh)
  if not where or not where[0]:
    return x.at[index[None]].set(new, mode="drop")
  names = where[0]

  def write(mine, index, new):
    at = index - jax.lax.axis_index(names) * mine.shape[0]
    # A negative index would count from the end.
    at = jnp.where(at < 0, mine.shape[0], at)
    return mine.at[at[None]].set(new, mode="drop")

  return jax.shard_map(
    write,
    in_specs=(where, PartitionSpec(), PartitionSpec(None, *where[1:])),
    out_specs=where,
  )(x, index, new)


def of_variables(abstract_variables: Any, mesh: Mesh) -> Any:
  """Shardings for (boxed) abstract variables, as `jax.eval_shape(init)` gives.

  Returns:
    a pytree like the unboxed variables, of NamedSharding.
  """

  def one(leaf):
    if isinstance(leaf, nn.Partitioned):
      return NamedSharding(mesh, spec(leaf.names, leaf.value.shape, mesh))
    return NamedSharding(mesh, PartitionSpec())

  return jax.tree.map(
    one, abstract_variables, is_leaf=lambda x: isinstance(x, nn.Partitioned)
  )


def of_batch(mesh: Mesh) -> NamedSharding:
  """The sharding of every array of a Batch: rows over the batch axes."""
  return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def share(mesh: Mesh) -> tuple[int, int]:
  """(index, count): the equal part of a batch's rows this process's devices
  hold; (0, 1), all of them, where what they hold is no such part."""
  if jax.process_count() == 1:
    return 0, 1
  devices = mesh.devices.reshape(-1, mesh.shape["tensor"])
  here = jax.process_index()
  mine = [
    i
    for i, row in enumerate(devices)
    if any(d.process_index == here for d in row)
  ]
  count, rest = divmod(len(devices), max(1, len(mine)))
  apart = not mine or mine[-1] - mine[0] + 1 != len(mine)
  if apart or rest or mine[0] % len(mine):
    return 0, 1
  return mine[0] // len(mine), count


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def fetched(tree: Any) -> Any:
  """Host arrays of a pytree's, whichever processes' devices they lie on.

  Where they lie on others', every process must ask.
  """

  def gathered(x):
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
      return x
    return multihost_utils.process_allgather(x, tiled=True)

  return jax.device_get(jax.tree.map(gathered, tree))
