"""Attention whose queries, keys and values are one matrix."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from refine_jax.models import decoder, layers


class Projections(nn.Module):
  """As `decoder.Projections`, with one kernel `[D, C, 3, N / C, H]`.

  Attributes:
    config: heads, head_dim, width, dtype, init_std.
    chunks: C; heads come in so many runs, each with its three parts.
    order: of the parts within a run.
    qkv_bias, out_bias: whether there are biases.
  """

  config: Any
  chunks: int = 1
  order: str = "qkv"
  qkv_bias: bool = False
  out_bias: bool = False

  def setup(self):
    config, dtype = self.config, jnp.dtype(self.config.dtype)
    whole = self.chunks == 1
    self.qkv = layers.Dense(
      (self.chunks, 3, config.heads // self.chunks, config.head_dim),
      (
        "embed",
        None if whole else "heads",
        None,
        "heads" if whole else None,
        "head_dim",
      ),
      bias=self.qkv_bias,
      dtype=dtype,
      initializer=nn.initializers.normal(config.init_std),
    )
    self.o = layers.Dense(
      (config.width,),
      ("heads", "head_dim", "embed"),
      inputs=2,
      bias=self.out_bias,
      dtype=dtype,
      initializer=decoder.residual_init(config),
    )

  def __call__(self, x_BLD):
    x_BLC3NH = self.qkv(x_BLD)
    shape = (*x_BLD.shape[:-1], self.config.heads, self.config.head_dim)
    return tuple(
      x_BLC3NH[..., self.order.index(part), :, :].reshape(shape)
      for part in "qkv"
    )

  def out(self, attended_BLNH):
    return self.o(attended_BLNH)
