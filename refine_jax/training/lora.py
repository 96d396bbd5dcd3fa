"""Low-rank adapters (LoRA, arXiv 2106.09685) on any family's matrices.

A matrix W of a family computes `x W + (alpha / rank) (x A) B` where adapters
lie beside it; A starts uniform and B at zero, so training starts at W. The
adapters are a tree of their own: they are what a train state holds, and the
base is given to the loss beside every batch.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from refine_jax.batch import Params
from refine_jax.training.loss import Loss, LossFn
from refine_jax.training.optim import is_stacked
from refine_jax.training.state import check_like, named_leaves
from refine_jax.training.step import Beside

KERNEL, A, B = "kernel", "lora_a", "lora_b"
# Path of a kernel -> how many of its dimensions (without the layers) are
# inputs; a family's table of tensors says it.
Inputs = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Lora:
  """Which matrices get adapters, and of what size.

  Attributes:
    rank: r, the inner dimension.
    alpha: adapters are multiplied by alpha / rank.
    targets: regular expressions on paths of matrices; each must find one.
  """

  rank: int
  alpha: float = 16.0
  targets: tuple[str, ...] = (r"/(q|v|qkv)$",)

  def __post_init__(self):
    if self.rank < 1 or not self.targets:
      raise ValueError(f"LoRA needs a rank of at least 1 and targets: {self}")

  @property
  def scale(self) -> float:
    return self.alpha / self.rank


def chosen(lora: Lora, inputs: Inputs) -> dict[str, int]:
  """Path of a targeted matrix, without `/kernel` -> its input dimensions.

  Raises:
    ValueError: a target that finds nothing; names what there is.
  """
  paths = {
    path.removesuffix(f"/{KERNEL}"): count
    for path, count in inputs.items()
    if is_stacked(path) and path.endswith(f"/{KERNEL}") and count
  }
  for target in lora.targets:
    if not any(re.search(target, path) for path in paths):
      raise ValueError(
        f"LoRA target {target!r} finds no matrix; there are {sorted(paths)}"
      )
  return {
    path: count
    for path, count in paths.items()
    if any(re.search(target, path) for target in lora.targets)
  }


def abstract(params: Any, inputs: Inputs, lora: Lora) -> Any:
  """Shapes of the adapters, lying like the matrices they belong to.

  Args:
    params: the base: placed arrays, or ShapeDtypeStructs.
    inputs: see `Inputs`.
    lora: the choice.
  """
  leaves, tree = named_leaves(params), {}
  for path, count in chosen(lora, inputs).items():
    kernel = leaves[f"{path}/{KERNEL}"]
    cut = 1 + count  # behind the layers and the inputs
    axes = _axes(kernel)
    shapes = {
      A: (
        (*kernel.shape[:cut], lora.rank),
        None if axes is None else (*axes[:cut], None),
      ),
      B: (
        (kernel.shape[0], lora.rank, *kernel.shape[cut:]),
        None if axes is None else (axes[0], None, *axes[cut:]),
      ),
    }
    for name, (shape, spec) in shapes.items():
      _set(tree, f"{path}/{name}", _shaped(kernel, shape, spec))
  return tree


def _axes(kernel: Any) -> tuple | None:
  """A kernel's mesh axes, one entry per dimension."""
  where = getattr(kernel, "sharding", None)
  if not isinstance(where, NamedSharding):
    return None
  return (*where.spec, *[None] * (len(kernel.shape) - len(where.spec)))


def _shaped(kernel, shape, axes) -> jax.ShapeDtypeStruct:
  where = getattr(kernel, "sharding", None)
  if axes is not None:
    where = NamedSharding(where.mesh, PartitionSpec(*axes))
  return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)


def init(params: Params, inputs: Inputs, lora: Lora, rng: jax.Array) -> Params:
  """Adapters under which nothing changes yet.

  A is uniform within 1 / sqrt(inputs), as PEFT starts it, and B is zero.
  """
  shapes = abstract(params, inputs, lora)
  where = jax.tree.map(lambda x: x.sharding, shapes)

  def make(rng):
    leaves, tree = jax.tree.flatten_with_path(shapes)
    made = []
    for i, (path, leaf) in enumerate(leaves):
      if path[-1].key == B:
        made.append(jnp.zeros(leaf.shape))
        continue
      bound = math.prod(leaf.shape[1:-1]) ** -0.5
      key = jax.random.fold_in(rng, i)
      made.append(
        jax.random.uniform(key, leaf.shape, minval=-bound, maxval=bound)
      )
    return tree.unflatten(made)

  return jax.jit(make, out_shardings=where)(rng)


def join(params: Params, adapters: Params, lora: Lora) -> Params:
  """The base with adapters beside its matrices, where `Dense` finds them."""
  joined = _copied(params)
  for path, leaf in named_leaves(adapters).items():
    _set(joined, path, leaf * lora.scale if path.endswith(B) else leaf)
  return joined


def merge(
  params: Params, adapters: Params, inputs: Inputs, lora: Lora
) -> Params:
  """A plain model: `W + (alpha / rank) A B`, computed in float32.

  Raises:
    ValueError: adapters of other matrices, or of other shapes.
  """
  check_like(adapters, abstract(params, inputs, lora), "the adapters")
  merged = _copied(params)
  leaves, parts = named_leaves(params), named_leaves(adapters)
  for path in chosen(lora, inputs):
    kernel = leaves[f"{path}/{KERNEL}"]
    _set(
      merged,
      f"{path}/{KERNEL}",
      _add(kernel, parts[f"{path}/{A}"], parts[f"{path}/{B}"], lora.scale),
    )
  return merged


@jax.jit
def _add(kernel, a, b, scale):
  layers, rank = a.shape[0], a.shape[-1]
  change = jnp.einsum(
    "yir,yro->yio",
    a.reshape(layers, -1, rank).astype(jnp.float32),
    b.reshape(layers, rank, -1).astype(jnp.float32),
    precision="highest",
  )
  total = kernel.astype(jnp.float32) + scale * change.reshape(kernel.shape)
  return total.astype(kernel.dtype)


def loss(loss_fn: LossFn, lora: Lora) -> LossFn:
  """A loss of adapters; its batches are `Beside(base, batch)`."""

  def adapted(adapters: Params, given: Beside, rng: jax.Array | None) -> Loss:
    base = jax.lax.stop_gradient(given.constants)
    return loss_fn(join(base, adapters, lora), given.batch, rng)

  return adapted


def _copied(tree: Any) -> Any:
  """New dicts around the same leaves."""
  if isinstance(tree, Mapping):
    return {key: _copied(value) for key, value in tree.items()}
  return tree


def _set(tree: dict[str, Any], path: str, value: Any) -> None:
  *parents, last = path.split("/")
  for parent in parents:
    tree = tree.setdefault(parent, {})
  tree[last] = value
