"""Galactica: the OPT architecture.

arXiv:2205.01068 and 2211.09085: learned positions, layer norms before each
half, biases, a plain feed-forward layer, logits from the embedding table.
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from refine_jax.models import decoder, layers

# Where published position tables begin: their first rows stood for padding.
POSITION_OFFSET = 2


@dataclasses.dataclass(frozen=True)
class GalacticaConfig:
  """Sizes and choices; those not explained are as in LlamaConfig.

  Attributes:
    activation: "gelu" (Galactica) or "relu" (OPT).
    bias: biases on every projection.
    affine: layer norms with scale and bias.
    max_length: positions that have a vector; later ones get the last.
  """

  vocab_size: int
  width: int
  layers: int
  heads: int
  mlp: int
  max_length: int = 2048
  activation: str = "gelu"
  bias: bool = True
  affine: bool = True
  norm_eps: float = 1e-5
  tied: bool = True
  init_std: float = 0.02
  attention: str = "auto"
  dtype: str = "float32"
  remat: str = "none"
  unroll: int = 1

  def __post_init__(self):
    if self.width % self.heads:
      raise ValueError(
        f"width={self.width} is no multiple of heads={self.heads}"
      )

  @property
  def head_dim(self) -> int:
    return self.width // self.heads

  @property
  def kv_heads(self) -> int:
    return self.heads


class Mlp(nn.Module):
  """down(act(up(x)))."""

  config: GalacticaConfig

  def setup(self):
    config = self.config

    def dense(size, axes, init):
      dtype = jnp.dtype(config.dtype)
      return layers.Dense(
        (size,), axes, bias=config.bias, dtype=dtype, init=init
      )

    wide = nn.initializers.normal(config.init_std)
    self.up = dense(config.mlp, ("embed", "mlp"), wide)
    self.down = dense(
      config.width, ("mlp", "embed"), decoder.residual_init(config)
    )

  def __call__(self, x_BLD):
    return self.down(layers.activation(self.config.activation)(self.up(x_BLD)))


def _norm(config, **kwargs):
  dtype = jnp.dtype(config.dtype)
  return layers.LayerNorm(config.norm_eps, config.affine, dtype, **kwargs)


class Block(decoder.Block):
  """norm, attention, residual; norm, MLP, residual."""

  def setup(self):
    config = self.config
    self.attention_norm = _norm(config)
    self.attention = decoder.Projections(config, config.bias, config.bias)
    self.mlp_norm = _norm(config)
    self.mlp = Mlp(config)

  def qkv(self, x_BLD, rotation):
    del rotation  # positions came in with the embedding
    return self.attention(self.attention_norm(x_BLD))

  def finish(self, x_BLD, attended_BLNH):
    x_BLD = x_BLD + self.attention.out(attended_BLNH)
    return x_BLD + self.mlp(self.mlp_norm(x_BLD))


class Galactica(decoder.Decoder):
  """The family; `config` is a GalacticaConfig."""

  block = Block

  @nn.nowrap
  def embedder(self, **kwargs):
    config = self.config
    return decoder.InputEmbed(
      config.vocab_size,
      config.width,
      nn.initializers.normal(config.init_std),
      positions=config.max_length + POSITION_OFFSET,
      offset=POSITION_OFFSET,
      dtype=jnp.dtype(config.dtype),
      **kwargs,
    )

  @nn.nowrap
  def norm(self, **kwargs):
    return _norm(self.config, **kwargs)
