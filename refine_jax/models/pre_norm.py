"""What families with a layer norm before each half share."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from refine_jax.models import decoder, layers


class Mlp(nn.Module):
  """down(act(up(x))).

  Attributes:
    config: width, mlp, activation, dtype, init_std.
    bias: whether both projections have one.
  """

  config: Any
  bias: bool = True

  def setup(self):
    config = self.config

    def dense(size, axes, init):
      dtype = jnp.dtype(config.dtype)
      return layers.Dense(
        (size,), axes, bias=self.bias, dtype=dtype, initializer=init
      )

    wide = nn.initializers.normal(config.init_std)
    self.up = dense(config.mlp, ("embed", "mlp"), wide)
    self.down = dense(
      config.width, ("mlp", "embed"), decoder.residual_init(config)
    )

  def __call__(self, x_BLD):
    return self.down(layers.activation(self.config.activation)(self.up(x_BLD)))


def norm(config: Any, affine: bool = True, **kwargs) -> layers.LayerNorm:
  dtype = jnp.dtype(config.dtype)
  return layers.LayerNorm(config.norm_eps, affine, dtype, **kwargs)


class Block(decoder.Block):
  """norm, attention, residual; norm, MLP, residual.

  A family's `setup` makes `attention_norm`, `attention`, `mlp_norm`, `mlp`.
  """

  def qkv(self, x_BLD, rotation):
    del rotation  # positions came in with the embedding
    return self.attention(self.attention_norm(x_BLD))

  def finish(self, x_BLD, attended_BLNH):
    x_BLD = x_BLD + self.attention.out(attended_BLNH)
    return x_BLD + self.mlp(self.mlp_norm(x_BLD))
