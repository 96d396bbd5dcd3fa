"""Galactica: the OPT architecture.

arXiv:2205.01068 and 2211.09085: learned positions, layer norms before each
half, biases, a plain feed-forward layer, logits from the embedding table.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from refine_jax.models import decoder, layers, pre_norm
from refine_jax.models.families import Family, Tensor

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


class Block(pre_norm.Block):
  """Biases, and scales of the norms, where the config has them."""

  def setup(self):
    config = self.config
    self.attention_norm = pre_norm.norm(config, config.affine)
    self.attention = decoder.Projections(config, config.bias, config.bias)
    self.mlp_norm = pre_norm.norm(config, config.affine)
    self.mlp = pre_norm.Mlp(config, config.bias)


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
    return pre_norm.norm(self.config, self.config.affine, **kwargs)


# --------------------------------------------------------- Hugging Face's form


def _from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
  width = hf["hidden_size"]
  if hf.get("word_embed_proj_dim", width) != width:
    raise ValueError("word_embed_proj_dim: must be hidden_size")
  if not hf.get("do_layer_norm_before", True):
    raise ValueError("do_layer_norm_before: must be true")
  if hf.get("_remove_final_layer_norm"):
    raise ValueError("_remove_final_layer_norm: must be false")
  if not hf.get("tie_word_embeddings", True):
    raise ValueError("tie_word_embeddings: must be true")
  return {
    "vocab_size": hf["vocab_size"],
    "width": width,
    "layers": hf["num_hidden_layers"],
    "heads": hf["num_attention_heads"],
    "mlp": hf["ffn_dim"],
    "max_length": hf["max_position_embeddings"],
    "activation": layers.activation_from_hf(hf["activation_function"]),
    "bias": hf.get("enable_bias", True),
    "affine": hf.get("layer_norm_elementwise_affine", True),
    "init_std": hf.get("init_std", 0.02),
  }


def _to_hf(config: GalacticaConfig) -> dict[str, Any]:
  return {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "word_embed_proj_dim": config.width,
    "num_hidden_layers": config.layers,
    "num_attention_heads": config.heads,
    "ffn_dim": config.mlp,
    "max_position_embeddings": config.max_length,
    "activation_function": layers.activation_to_hf(config.activation),
    "enable_bias": config.bias,
    "layer_norm_elementwise_affine": config.affine,
    "do_layer_norm_before": True,
    "tie_word_embeddings": True,
    "init_std": config.init_std,
  }


def _tensors(config: GalacticaConfig) -> tuple[Tensor, ...]:
  root, layer = "model.decoder.", "model.decoder.layers.{}."
  found = [
    Tensor("embed/table", root + "embed_tokens.weight"),
    Tensor("embed/positions", root + "embed_positions.weight"),
  ]
  projections = {
    "attention/q": ("self_attn.q_proj", 1),
    "attention/k": ("self_attn.k_proj", 1),
    "attention/v": ("self_attn.v_proj", 1),
    "attention/o": ("self_attn.out_proj", 2),
    "mlp/up": ("fc1", 1),
    "mlp/down": ("fc2", 1),
  }
  for ours, (theirs, inputs) in projections.items():
    path, name = f"layers/{ours}/", layer + theirs
    found.append(Tensor(path + "kernel", name + ".weight", inputs))
    if config.bias:
      found.append(Tensor(path + "bias", name + ".bias", 0))
  norms = {
    "final_norm/": root + "final_layer_norm",
    "layers/attention_norm/": layer + "self_attn_layer_norm",
    "layers/mlp_norm/": layer + "final_layer_norm",
  }
  for path, name in norms.items() if config.affine else ():
    found.append(Tensor(path + "scale", name + ".weight"))
    found.append(Tensor(path + "bias", name + ".bias"))
  return tuple(found)


FAMILY = Family(
  name="galactica",
  module=Galactica,
  config=GalacticaConfig,
  model_types=("opt",),
  from_hf=_from_hf,
  to_hf=_to_hf,
  tensors=_tensors,
  prefix="model.",
  repeated=("lm_head.weight",),
)
