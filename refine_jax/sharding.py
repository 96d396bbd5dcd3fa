"""The one table from logical axes to mesh axes, and what follows from it.

Models name the logical axes of their parameters and of a few activations.
Everything else (placement of parameters, optimizer state, batches and caches)
is derived here. Axes are Auto: GSPMD fills in the rest.
"""

from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("slice", "data", "fsdp", "tensor")

# Logical axis -> mesh axes. The embedding table has axes of its own: sharded
# on width over the batch's axis, XLA would replicate it at every lookup.
RULES: dict[str, tuple[str, ...]] = {
  "batch": ("slice", "data", "fsdp"),
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

  Raises:
    ValueError: the sizes do not multiply to the number of devices.
  """
  devices = np.asarray(jax.devices() if devices is None else devices)
  sizes = dict(zip(MESH_AXES, (slice, data, fsdp, tensor), strict=True))
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
  return jax.make_mesh(
    tuple(sizes.values()),
    MESH_AXES,
    axis_types=(AxisType.Auto,) * len(MESH_AXES),
    devices=list(devices.flat),
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


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())
