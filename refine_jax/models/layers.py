"""Layers shared by the families; every parameter carries its logical axes.

Parameters are float32 and are cast to `dtype` where they are used.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from refine_jax.sharding import constrain, decoding

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "relu": jax.nn.relu,
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
  "silu": jax.nn.silu,
}

POLICIES: dict[str, Any] = {
  "full": None,  # keep only what enters each layer
  "dots": jax.checkpoint_policies.dots_saveable,
  "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
  """The activation called `name`; raises ValueError if there is none."""
  if name not in ACTIVATIONS:
    raise ValueError(f"activation {name!r}: expected one of {[*ACTIVATIONS]}")
  return ACTIVATIONS[name]


# Hugging Face's names where they differ.
_HF_ACTIVATIONS = {
  "gelu_new": "gelu_tanh",
  "gelu_pytorch_tanh": "gelu_tanh",
  "swish": "silu",
}


def activation_from_hf(name: str) -> str:
  """Our name; raises ValueError for a function we do not have."""
  ours = _HF_ACTIVATIONS.get(name, name)
  activation(ours)
  return ours


def activation_to_hf(name: str) -> str:
  """Hugging Face's name."""
  return "gelu_new" if name == "gelu_tanh" else name


def remat(layer: type[nn.Module], policy: str, **kwargs) -> type[nn.Module]:
  """`layer` that recomputes its activations: "none", "full", "dots", ..."""
  if policy == "none":
    return layer
  if policy not in POLICIES:
    raise ValueError(
      f"remat policy {policy!r}: expected one of {['none', *POLICIES]}"
    )
  # Inside a scan nothing can be merged across iterations, so no barriers.
  return nn.remat(layer, policy=POLICIES[policy], prevent_cse=False, **kwargs)


@flax.struct.dataclass
class Named(nn.Partitioned):
  """A parameter with logical axes.

  Flax's own class would apply them as mesh axes under `jax.set_mesh`;
  placement is `sharding.of_variables`'s alone.
  """

  def unbox(self, apply_constraint: bool = True) -> Any:
    return self.value


def named(init: Callable[..., jax.Array], axes: tuple[str, ...]):
  """`init` whose result carries `axes`."""

  def boxed(*args):
    return Named(init(*args), axes)

  return boxed


class Dense(nn.Module):
  """A projection of the last `inputs` dimensions onto `features`.

  Low-rank adapters among its parameters, `lora_a` and `lora_b` (see
  `training.lora`), add to it.

  Attributes:
    features: output dimensions, e.g. (heads, head_dim).
    axes: logical axes of the kernel: inputs, then features.
    inputs: how many trailing dimensions are contracted.
    bias: adds a parameter of shape `features`.
    dtype: of the computation.
    initializer: of the kernel.
  """

  features: tuple[int, ...]
  axes: tuple[str, ...]
  inputs: int = 1
  bias: bool = False
  dtype: Any = jnp.float32
  initializer: Callable[..., jax.Array] = nn.initializers.normal(0.02)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = x.shape[-self.inputs :] + tuple(self.features)
    kernel = self.param("kernel", named(self.initializer, self.axes), shape)
    y = product(
      x.astype(self.dtype), kernel.astype(self.dtype), range(self.inputs)
    )
    if self.bias:
      init = named(nn.initializers.zeros, self.axes[self.inputs :])
      y = y + self.param("bias", init, self.features).astype(self.dtype)
    if self.has_variable("params", "lora_a"):
      y = y + self._low_rank(x)
    return y

  def _low_rank(self, x: jax.Array) -> jax.Array:
    """`(x A) B` of adapters beside the kernel, B scaled already."""
    a, b = (
      self.get_variable("params", name).astype(self.dtype)
      for name in ("lora_a", "lora_b")
    )
    ours = tuple(range(x.ndim - self.inputs, x.ndim))
    inner = jax.lax.dot_general(
      x.astype(self.dtype), a, ((ours, tuple(range(self.inputs))), ((), ()))
    )
    return jax.lax.dot_general(inner, b, (((inner.ndim - 1,), (0,)), ((), ())))


def product(x: jax.Array, kernel: jax.Array, axes: Sequence[int], **kwargs):
  """The last dimensions of x against `axes` of a kernel without other batch.

  All rows are one dimension: the kernel's gradient then sums over one and not
  over several, for which XLA on CPU would transpose its operands first.
  """
  rows, inputs = x.shape[: x.ndim - len(axes)], x.shape[x.ndim - len(axes) :]
  y = jax.lax.dot_general(
    x.reshape(-1, *inputs),
    kernel,
    ((tuple(range(1, len(inputs) + 1)), tuple(axes)), ((), ())),
    **kwargs,
  )
  return y.reshape(*rows, *y.shape[1:])


def step_logits(
  unembed: Callable[[jax.Array], jax.Array], x_BD: jax.Array, *, tied: bool
) -> jax.Array:
  """Logits of one position a row, `[B, V]`, for which the head does not move.

  A device multiplies all rows of its replica by its own part of the head, and
  the products travel to their rows.

  Args:
    unembed: makes logits of states.
    tied: the head is the embedding table.
  """
  if tied:  # a part is some columns of the logits
    x_BD = constrain(x_BD, "replica", "table_width")
    logits_BV = constrain(unembed(x_BD), "replica", "table")
  else:  # some terms of their sums
    logits_BV = unembed(decoding(x_BD))
  # Straight to whole rows, XLA would send all of them to everybody.
  return constrain(logits_BV, "batch", "vocab")


def lookup(table_VD: jax.Array, ids: jax.Array, dtype: Any) -> jax.Array:
  """Rows of a table; ids past its ends get its first or last row."""
  return jnp.take(table_VD, ids, axis=0, mode="clip").astype(dtype)


class Embed(nn.Module):
  """A table of vectors, looked up by id."""

  rows: int
  width: int
  dtype: Any = jnp.float32
  initializer: Callable[..., jax.Array] = nn.initializers.normal(0.02)

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    init = named(self.initializer, ("table", "table_width"))
    table_VD = self.param("table", init, (self.rows, self.width))
    return lookup(table_VD, ids, self.dtype)


class RMSNorm(nn.Module):
  """Root-mean-square norm over the last axis, in float32."""

  eps: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = named(nn.initializers.ones, ("norm",))
    scale = self.param("scale", init, x.shape[-1:])
    x = x.astype(jnp.float32)
    square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return (x * jax.lax.rsqrt(square + self.eps) * scale).astype(self.dtype)


class LayerNorm(nn.Module):
  """Layer norm over the last axis, in float32, with scale and bias or bare."""

  eps: float
  affine: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
    y = (x - mean) * jax.lax.rsqrt(variance + self.eps)
    if self.affine:
      shape = x.shape[-1:]
      scale = self.param("scale", named(nn.initializers.ones, ("norm",)), shape)
      bias = self.param("bias", named(nn.initializers.zeros, ("norm",)), shape)
      y = y * scale + bias
    return y.astype(self.dtype)
