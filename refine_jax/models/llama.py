"""LLaMA: RMS norms, rotary positions, grouped queries, a gated MLP.

LLaMA 1, 2 and 3 (arXiv:2302.13971, 2307.09288, 2407.21783), CodeLLaMA, and,
with `qkv_bias`, Qwen2 (arXiv:2407.10671).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from refine_jax.models import decoder, layers, rotary
from refine_jax.models.families import Family, Tensor


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
    qkv_bias, out_bias: biases around attention.
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
  out_bias: bool = False
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
      return layers.Dense((size,), axes, dtype=dtype, initializer=init)

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
    self.attention = decoder.Projections(
      config, config.qkv_bias, config.out_bias
    )
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
  def rotation(self, positions_BL, limit):
    return rotary.rotation(positions_BL, frequencies(self.config), limit)


# --------------------------------------------------------- Hugging Face's form


def _rope_from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
  """Both spellings: rope_theta with rope_scaling, or rope_parameters."""
  rope = dict(hf.get("rope_scaling") or {}) | (hf.get("rope_parameters") or {})
  theta = rope.get("rope_theta", hf.get("rope_theta", 10000.0))
  kind = rope.get("rope_type", rope.get("type", "default"))
  if kind == "default":
    return {"rope_theta": theta}
  if kind == "linear":
    scaling = RopeScaling("linear", rope["factor"])
  elif kind == "llama3":
    scaling = RopeScaling(
      "llama3",
      rope["factor"],
      rope["low_freq_factor"],
      rope["high_freq_factor"],
      rope["original_max_position_embeddings"],
    )
  else:
    raise ValueError(f"rope_type {kind!r}: not default, linear or llama3")
  return {"rope_theta": theta, "rope_scaling": scaling}


def _rope_to_hf(config: LlamaConfig) -> dict[str, Any]:
  # The older spelling: every version of transformers reads it.
  scaling = config.rope_scaling
  if scaling is None:
    return {"rope_theta": config.rope_theta, "rope_scaling": None}
  rope = {"rope_type": scaling.kind, "factor": scaling.factor}
  if scaling.kind == "llama3":
    rope |= {
      "low_freq_factor": scaling.low_freq_factor,
      "high_freq_factor": scaling.high_freq_factor,
      "original_max_position_embeddings": scaling.original_length,
    }
  return {"rope_theta": config.rope_theta, "rope_scaling": rope}


def _from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
  if hf.get("mlp_bias"):
    raise ValueError("mlp_bias: no such biases here")
  windowed = hf.get("sliding_window") and hf.get("use_sliding_window", True)
  if windowed and hf["sliding_window"] < hf["max_position_embeddings"]:
    raise ValueError(f"sliding_window {hf['sliding_window']}: not supported")
  heads = hf["num_attention_heads"]
  qwen = hf["model_type"] == "qwen2"
  return {
    "vocab_size": hf["vocab_size"],
    "width": hf["hidden_size"],
    "layers": hf["num_hidden_layers"],
    "heads": heads,
    "kv_heads": hf.get("num_key_value_heads") or heads,
    "head_dim": hf.get("head_dim") or hf["hidden_size"] // heads,
    "mlp": hf["intermediate_size"],
    "norm_eps": hf.get("rms_norm_eps", 1e-6),
    "tied": hf.get("tie_word_embeddings", False),
    "qkv_bias": qwen or hf.get("attention_bias", False),
    "out_bias": not qwen and hf.get("attention_bias", False),
    "activation": layers.activation_from_hf(hf.get("hidden_act", "silu")),
    "max_length": hf.get("max_position_embeddings", 2048),
    "init_std": hf.get("initializer_range", 0.02),
    **_rope_from_hf(hf),
  }


def _to_hf(config: LlamaConfig) -> dict[str, Any]:
  qwen = config.qkv_bias and not config.out_bias
  bias = {} if qwen else {"attention_bias": config.qkv_bias, "mlp_bias": False}
  return {
    "architectures": ["Qwen2ForCausalLM" if qwen else "LlamaForCausalLM"],
    "model_type": "qwen2" if qwen else "llama",
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "num_hidden_layers": config.layers,
    "num_attention_heads": config.heads,
    "num_key_value_heads": config.kv_heads,
    "head_dim": config.head_dim,
    "intermediate_size": config.mlp,
    "rms_norm_eps": config.norm_eps,
    "tie_word_embeddings": config.tied,
    "hidden_act": layers.activation_to_hf(config.activation),
    "max_position_embeddings": config.max_length,
    "initializer_range": config.init_std,
    **bias,
    **_rope_to_hf(config),
  }


def _tensors(config: LlamaConfig) -> tuple[Tensor, ...]:
  ours, theirs = "layers/attention/", "model.layers.{}.self_attn."
  found = [
    Tensor("embed/table", "model.embed_tokens.weight"),
    Tensor("final_norm/scale", "model.norm.weight"),
    Tensor(
      "layers/attention_norm/scale", "model.layers.{}.input_layernorm.weight"
    ),
    Tensor(
      "layers/mlp_norm/scale",
      "model.layers.{}.post_attention_layernorm.weight",
    ),
    Tensor(ours + "o/kernel", theirs + "o_proj.weight", 2),
  ]
  for x in "qkv":
    found.append(Tensor(f"{ours}{x}/kernel", f"{theirs}{x}_proj.weight", 1))
    if config.qkv_bias:
      found.append(Tensor(f"{ours}{x}/bias", f"{theirs}{x}_proj.bias", 0))
  for x in ("gate", "up", "down"):
    name = f"model.layers.{{}}.mlp.{x}_proj.weight"
    found.append(Tensor(f"layers/mlp/{x}/kernel", name, 1))
  if config.out_bias:
    found.append(Tensor(ours + "o/bias", theirs + "o_proj.bias", 0))
  if not config.tied:
    found.append(Tensor("head/kernel", "lm_head.weight", 1))
  return tuple(found)


FAMILY = Family(
  name="llama",
  module=Llama,
  config=LlamaConfig,
  model_types=("llama", "qwen2", "mistral"),
  from_hf=_from_hf,
  to_hf=_to_hf,
  tensors=_tensors,
  prefix="model.",
  repeated=("lm_head.weight",),
  ignored=(r"rotary_emb\.inv_freq$",),
)
