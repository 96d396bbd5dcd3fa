"""LLaMA: RMS norms, rotary positions, grouped queries, a gated MLP.

LLaMA 1, 2 and 3 (arXiv:2302.13971, 2307.09288, 2407.21783), CodeLLaMA, and,
with `qkv_bias`, Qwen2 (arXiv:2407.10671).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from refine_jax.models import decoder, layers


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """Rotary frequencies stretched for a longer context.

  Attributes:
    kind: "linear" divides every frequency by `factor`; "llama3" only the low
      ones, with a ramp between.
    factor: by how much.
    low_freq_factor, high_freq_factor: wavelengths beyond original_length /
      low are stretched, those under original_length / high are kept.
    original_length: the context trained on before stretching.
  """

  kind: str
  factor: float
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_length: int = 8192

  def __post_init__(self):
    if self.kind not in ("linear", "llama3"):
      raise ValueError(f"rope scaling {self.kind!r}: not linear or llama3")


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
  """Sizes and choices; see `decoder.Decoder` and `layers.remat`.

  Attributes:
    mlp: width of the feed-forward layer.
    tied: logits use the embedding table.
    qkv_bias: biases on queries, keys and values.
    attention: an implementation of `attention.attend`.
    dtype: of activations and of decode weights.
    max_length: the context the model is meant for; nothing enforces it here.
    init_std: of normal initialisation; projections back into the residual
      stream get it divided by sqrt(2 * layers).
    unroll: layers per iteration of the scan.
  """

  vocab_size: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp: int
  rope_theta: float = 10000.0
  rope_scaling: RopeScaling | None = None
  norm_eps: float = 1e-6
  tied: bool = False
  qkv_bias: bool = False
  activation: str = "silu"
  max_length: int = 2048
  init_std: float = 0.02
  attention: str = "auto"
  dtype: str = "float32"
  remat: str = "none"
  unroll: int = 1

  def __post_init__(self):
    if self.heads % self.kv_heads:
      raise ValueError(
        f"heads={self.heads} is no multiple of kv_heads={self.kv_heads}"
      )
    if self.head_dim % 2:
      raise ValueError(f"head_dim={self.head_dim}: rotary pairs need it even")


def frequencies(config: LlamaConfig) -> np.ndarray:
  """Rotary frequencies, float32 [H / 2] (arXiv:2104.09864, eq. 15)."""
  exponent = np.arange(0, config.head_dim, 2, dtype=np.float32)
  plain = 1.0 / config.rope_theta ** (exponent / config.head_dim)
  scaling = config.rope_scaling
  if scaling is None:
    return plain.astype(np.float32)
  stretched = plain / scaling.factor
  if scaling.kind == "linear":
    return stretched.astype(np.float32)
  low, high = scaling.low_freq_factor, scaling.high_freq_factor
  turns = scaling.original_length * plain / (2 * np.pi)
  keep = np.clip((turns - low) / (high - low), 0, 1)
  return ((1 - keep) * stretched + keep * plain).astype(np.float32)


def rotate(x_BLNH: jax.Array, rotation) -> jax.Array:
  """Turns dimension pairs (i, i + H / 2) by the positions' angles."""
  cos_BL1H, sin_BL1H = rotation
  a, b = jnp.split(x_BLNH.astype(jnp.float32), 2, axis=-1)
  turned = (a * cos_BL1H - b * sin_BL1H, b * cos_BL1H + a * sin_BL1H)
  return jnp.concatenate(turned, axis=-1).astype(x_BLNH.dtype)


class Mlp(nn.Module):
  """down(act(gate(x)) * up(x))."""

  config: LlamaConfig

  def setup(self):
    config = self.config

    dtype = jnp.dtype(config.dtype)

    def dense(size, axes, init):
      return layers.Dense((size,), axes, dtype=dtype, init=init)

    wide = nn.initializers.normal(config.init_std)
    self.gate = dense(config.mlp, ("embed", "mlp"), wide)
    self.up = dense(config.mlp, ("embed", "mlp"), wide)
    self.down = dense(
      config.width, ("mlp", "embed"), decoder.residual_init(config)
    )

  def __call__(self, x_BLD):
    act = layers.activation(self.config.activation)
    return self.down(act(self.gate(x_BLD)) * self.up(x_BLD))


class Block(decoder.Block):
  """norm, attention, residual; norm, MLP, residual."""

  def setup(self):
    config = self.config
    dtype = jnp.dtype(config.dtype)
    self.attention_norm = layers.RMSNorm(config.norm_eps, dtype)
    self.attention = decoder.Projections(config, config.qkv_bias)
    self.mlp_norm = layers.RMSNorm(config.norm_eps, dtype)
    self.mlp = Mlp(config)

  def qkv(self, x_BLD, rotation):
    q_BLNH, k_BLKH, v_BLKH = self.attention(self.attention_norm(x_BLD))
    return rotate(q_BLNH, rotation), rotate(k_BLKH, rotation), v_BLKH

  def finish(self, x_BLD, attended_BLNH):
    x_BLD = x_BLD + self.attention.out(attended_BLNH)
    return x_BLD + self.mlp(self.mlp_norm(x_BLD))


class Llama(decoder.Decoder):
  """The family; `config` is a LlamaConfig."""

  block = Block

  @nn.nowrap
  def embedder(self, **kwargs):
    config = self.config
    return decoder.InputEmbed(
      config.vocab_size,
      config.width,
      nn.initializers.normal(config.init_std),
      dtype=jnp.dtype(config.dtype),
      **kwargs,
    )

  @nn.nowrap
  def norm(self, **kwargs):
    config = self.config
    return layers.RMSNorm(config.norm_eps, jnp.dtype(config.dtype), **kwargs)

  @nn.nowrap
  def rotation(self, positions_BL):
    angles_BLH = positions_BL[..., None] * jnp.asarray(frequencies(self.config))
    angles_BL1H = angles_BLH[:, :, None].astype(jnp.float32)
    return jnp.cos(angles_BL1H), jnp.sin(angles_BL1H)
