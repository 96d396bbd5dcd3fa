"""GPT-2 (Radford et al. 2019), as codeparrot-small uses it.

Learned positions, layer norms before each half, biases, logits from the
embedding table. codeparrot's attention is also divided by the number of its
layer.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from refine_jax.models import decoder, fused, layers, pre_norm
from refine_jax.models.families import Family, Tensor


@dataclasses.dataclass(frozen=True)
class Gpt2Config:
  """Sizes and choices; those not explained are as in LlamaConfig.

  Attributes:
    max_length: positions that have a vector; later ones get the last.
    inverse_layer_scale: divide attention scores of layer i by i, from 1.
  """

  vocab_size: int
  width: int
  layers: int
  heads: int
  mlp: int
  max_length: int = 1024
  activation: str = "gelu_tanh"
  norm_eps: float = 1e-5
  inverse_layer_scale: bool = False
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
  """Biases everywhere; queries, keys and values are one matrix."""

  def setup(self):
    config = self.config
    self.attention_norm = pre_norm.norm(config)
    self.attention = fused.Projections(config, qkv_bias=True, out_bias=True)
    self.mlp_norm = pre_norm.norm(config)
    self.mlp = pre_norm.Mlp(config)


class Gpt2(decoder.Decoder):
  """The family; `config` is a Gpt2Config."""

  block = Block

  @nn.nowrap
  def embedder(self, **kwargs):
    config = self.config
    return decoder.InputEmbed(
      config.vocab_size,
      config.width,
      nn.initializers.normal(config.init_std),
      positions=config.max_length,
      dtype=jnp.dtype(config.dtype),
      **kwargs,
    )

  @nn.nowrap
  def norm(self, **kwargs):
    return pre_norm.norm(self.config, **kwargs)


# --------------------------------------------------------- Hugging Face's form


def _from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
  if hf.get("add_cross_attention"):
    raise ValueError("add_cross_attention: must be false")
  if not hf.get("scale_attn_weights", True):
    raise ValueError("scale_attn_weights: must be true")
  if not hf.get("tie_word_embeddings", True):
    raise ValueError("tie_word_embeddings: must be true")
  # reorder_and_upcast_attn asks for float32 scores, which are so here anyway.
  return {
    "vocab_size": hf["vocab_size"],
    "width": hf["n_embd"],
    "layers": hf["n_layer"],
    "heads": hf["n_head"],
    "mlp": hf.get("n_inner") or 4 * hf["n_embd"],
    "max_length": hf["n_positions"],
    "activation": layers.activation_from_hf(hf["activation_function"]),
    "norm_eps": hf.get("layer_norm_epsilon", 1e-5),
    "inverse_layer_scale": hf.get("scale_attn_by_inverse_layer_idx", False),
    "init_std": hf.get("initializer_range", 0.02),
  }


def _to_hf(config: Gpt2Config) -> dict[str, Any]:
  return {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "vocab_size": config.vocab_size,
    "n_embd": config.width,
    "n_layer": config.layers,
    "n_head": config.heads,
    "n_inner": config.mlp,
    "n_positions": config.max_length,
    "activation_function": layers.activation_to_hf(config.activation),
    "layer_norm_epsilon": config.norm_eps,
    "scale_attn_by_inverse_layer_idx": config.inverse_layer_scale,
    "reorder_and_upcast_attn": config.inverse_layer_scale,
    "tie_word_embeddings": True,
    "initializer_range": config.init_std,
  }


def _tensors(config: Gpt2Config) -> tuple[Tensor, ...]:
  layer = "transformer.h.{}."
  found = [
    Tensor("embed/table", "transformer.wte.weight"),
    Tensor("embed/positions", "transformer.wpe.weight"),
  ]
  # Theirs is a matrix of [inputs, outputs].
  projections = {
    "attention/qkv": ("attn.c_attn", 1),
    "attention/o": ("attn.c_proj", 2),
    "mlp/up": ("mlp.c_fc", 1),
    "mlp/down": ("mlp.c_proj", 1),
  }
  for ours, (theirs, inputs) in projections.items():
    path, name = f"layers/{ours}/", layer + theirs
    found.append(Tensor(path + "kernel", name + ".weight", inputs, True))
    found.append(Tensor(path + "bias", name + ".bias", 0))
  norms = {
    "final_norm/": "transformer.ln_f",
    "layers/attention_norm/": layer + "ln_1",
    "layers/mlp_norm/": layer + "ln_2",
  }
  for path, name in norms.items():
    found.append(Tensor(path + "scale", name + ".weight"))
    found.append(Tensor(path + "bias", name + ".bias"))
  return tuple(found)


FAMILY = Family(
  name="gpt2",
  module=Gpt2,
  config=Gpt2Config,
  model_types=("gpt2",),
  from_hf=_from_hf,
  to_hf=_to_hf,
  tensors=_tensors,
  prefix="transformer.",
  repeated=("lm_head.weight",),
  # Older files keep the causal mask.
  ignored=(r"\.attn\.(masked_)?bias$",),
)
