"""The layers of BERT and its kin: post-norm blocks that see both sides.

Parameters of a stack; the axis of layers is the first, Y:

    layers/attention/{q,k,v}/{kernel,bias}   [Y, D, N, H], [Y, N, H]
    layers/attention/o/{kernel,bias}         [Y, N, H, D], [Y, D]
    layers/attention_norm/{scale,bias}       [Y, D]
    layers/mlp/up/{kernel,bias}              [Y, D, F], [Y, F]
    layers/mlp/down/{kernel,bias}            [Y, F, D], [Y, D]
    layers/mlp_norm/{scale,bias}             [Y, D]
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from refine_jax.models import attention, layers
from refine_jax.models.families import Tensor
from refine_jax.sharding import constrain


def _dense(config: Any, features, axes, inputs: int = 1) -> layers.Dense:
  return layers.Dense(
    features,
    axes,
    inputs=inputs,
    bias=True,
    dtype=jnp.dtype(config.dtype),
    initializer=nn.initializers.normal(config.init_std),
  )


def norm(config: Any) -> layers.LayerNorm:
  return layers.LayerNorm(config.norm_eps, dtype=jnp.dtype(config.dtype))


class Attention(nn.Module):
  """Attention over the positions that exist."""

  config: Any

  def setup(self):
    config = self.config
    heads, axes = (config.heads, config.head_dim), ("embed", "heads")
    self.q = _dense(config, heads, (*axes, "head_dim"))
    self.k = _dense(config, heads, (*axes, "head_dim"))
    self.v = _dense(config, heads, (*axes, "head_dim"))
    out = ("heads", "head_dim", "embed")
    self.o = _dense(config, (config.width,), out, inputs=2)

  def __call__(self, x_BPD, bias, segments_BP) -> jax.Array:
    axes = ("batch", "length", "heads", "head_dim")
    out_BPNH = attention.attend(
      constrain(self.q(x_BPD), *axes),
      constrain(self.k(x_BPD), *axes),
      constrain(self.v(x_BPD), *axes),
      kv_segments_BS=segments_BP,
      bias=bias,
      scale=self.config.head_dim**-0.5,
      implementation=self.config.attention,
    )
    return self.o(out_BPNH)


class Mlp(nn.Module):
  config: Any

  def setup(self):
    config = self.config
    self.up = _dense(config, (config.mlp,), ("embed", "mlp"))
    self.down = _dense(config, (config.width,), ("mlp", "embed"))

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.down(layers.activation(self.config.activation)(self.up(x)))


class Layer(nn.Module):
  """Attention, then the mlp, each followed by a norm of the sum."""

  config: Any

  def setup(self):
    self.attention = Attention(self.config)
    self.attention_norm = norm(self.config)
    self.mlp = Mlp(self.config)
    self.mlp_norm = norm(self.config)

  def __call__(self, x_BPD, bias, segments_BP):
    attended_BPD = self.attention(x_BPD, bias, segments_BP)
    x_BPD = self.attention_norm(x_BPD + attended_BPD)
    x_BPD = self.mlp_norm(x_BPD + self.mlp(x_BPD))
    return constrain(x_BPD, "batch", "length", "width"), None


def stack(config: Any) -> nn.Module:
  """All layers; called with x_BPD, a bias or None, and segments_BP."""
  # Without a loop, common subexpressions would undo the recomputation.
  short = config.layers <= config.unroll and config.remat == "none"
  scanned = nn.scan(
    layers.remat(Layer, config.remat),
    variable_axes={"params": 0},
    split_rngs={"params": True},
    in_axes=(nn.broadcast,) * 2,
    length=config.layers,
    unroll=config.layers if short else 1,
    metadata_params={nn.PARTITION_NAME: "layers"},
  )
  return scanned(config)


def positions(mask_BP: jax.Array) -> jax.Array:
  """Existing positions counted from 0, on whichever side the padding is."""
  return jnp.maximum(jnp.cumsum(mask_BP, axis=1, dtype=jnp.int32) - 1, 0)


def pool(states_BPD: jax.Array, mask_BP: jax.Array) -> jax.Array:
  """The mean over existing positions, float32; zeros where there is none."""
  weight_BP = mask_BP.astype(jnp.float32)
  total_BD = jnp.einsum("BPD,BP->BD", states_BPD.astype(jnp.float32), weight_BP)
  return total_BD / jnp.maximum(weight_BP.sum(1), 1.0)[:, None]


def unit(x_BD: jax.Array) -> jax.Array:
  """Rows of length 1, float32."""
  x_BD = x_BD.astype(jnp.float32)
  norm_B1 = jnp.linalg.norm(x_BD, axis=-1, keepdims=True)
  return x_BD / jnp.maximum(norm_B1, 1e-12)


def tensors(prefix: str, attention_names: dict[str, str]) -> list[Tensor]:
  """A stack's parameters in a Hugging Face file.

  Args:
    prefix: of a layer, with its "{}".
    attention_names: our q, k, v, o and norm -> their names.
  """
  found = []
  for ours, theirs in attention_names.items():
    inputs = {"o": 2, "norm": None}.get(ours, 1)
    if ours == "norm":
      found += _norm("layers/attention_norm", f"{prefix}.{theirs}")
      continue
    path, name = f"layers/attention/{ours}", f"{prefix}.{theirs}"
    found.append(Tensor(f"{path}/kernel", f"{name}.weight", inputs))
    found.append(Tensor(f"{path}/bias", f"{name}.bias", 0))
  for ours, theirs in (("up", "intermediate"), ("down", "output")):
    path, name = f"layers/mlp/{ours}", f"{prefix}.{theirs}.dense"
    found.append(Tensor(f"{path}/kernel", f"{name}.weight", 1))
    found.append(Tensor(f"{path}/bias", f"{name}.bias", 0))
  return found + _norm("layers/mlp_norm", f"{prefix}.output.LayerNorm")


def _norm(ours: str, theirs: str) -> list[Tensor]:
  return [
    Tensor(f"{ours}/scale", f"{theirs}.weight"),
    Tensor(f"{ours}/bias", f"{theirs}.bias"),
  ]


def embedding_tensors(model: str) -> list[Tensor]:
  """The tables every member has."""
  theirs = f"{model}.embeddings"
  return [
    Tensor("tokens/table", f"{theirs}.word_embeddings.weight"),
    Tensor("positions/table", f"{theirs}.position_embeddings.weight"),
    *_norm("embed_norm", f"{theirs}.LayerNorm"),
  ]
