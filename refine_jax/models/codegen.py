"""CodeGen (arXiv 2203.13474): GPT-J's block, with Salesforce's layout.

Attention and MLP read one norm of the input and are added together; rotary
positions turn neighbouring pairs of each head's first dimensions; queries,
values and keys are one matrix in four runs of heads, left from the four cores
it was trained on; the untied head has a bias.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from refine_jax.models import decoder, fused, layers, rotary
from refine_jax.models.families import Family, Tensor
from refine_jax.models.pre_norm import Mlp, norm

CHUNKS, ORDER = 4, "qvk"  # of the fused matrix; fixed in published weights


@dataclasses.dataclass(frozen=True)
class CodegenConfig:
  """Sizes and choices; those not explained are as in LlamaConfig.

  Attributes:
    rotary: dimensions of every head that turn; the others stay.
    head_bias: of the untied head.
  """

  vocab_size: int
  width: int
  layers: int
  heads: int
  mlp: int
  rotary: int = 2
  rope_theta: float = 10000.0
  max_length: int = 2048
  activation: str = "gelu_tanh"
  norm_eps: float = 1e-5
  tied: bool = False
  head_bias: bool = True
  init_std: float = 0.02
  attention: str = "auto"
  dtype: str = "float32"
  remat: str = "none"
  unroll: int = 1

  def __post_init__(self):
    if self.width % self.heads or self.heads % CHUNKS:
      raise ValueError(
        f"heads={self.heads} must divide width={self.width} and be a multiple"
        f" of {CHUNKS}"
      )
    if self.rotary % 2 or not 0 < self.rotary <= self.head_dim:
      raise ValueError(
        f"rotary={self.rotary} must be even, and at most {self.head_dim}"
      )

  @property
  def head_dim(self) -> int:
    return self.width // self.heads

  @property
  def kv_heads(self) -> int:
    return self.heads


def rotate(x_BLNH: jax.Array, rotation) -> jax.Array:
  """Turns pairs (2i, 2i + 1) of the first dimensions; passes on the rest."""
  cos_BL1H, sin_BL1H = rotation
  size = 2 * cos_BL1H.shape[-1]
  turning, rest = x_BLNH[..., :size], x_BLNH[..., size:]
  pairs = turning.astype(jnp.float32).reshape(*turning.shape[:-1], -1, 2)
  a, b = pairs[..., 0], pairs[..., 1]
  turned = jnp.stack(
    (a * cos_BL1H - b * sin_BL1H, b * cos_BL1H + a * sin_BL1H), axis=-1
  )
  turned = turned.reshape(turning.shape).astype(x_BLNH.dtype)
  return jnp.concatenate((turned, rest), axis=-1)


class Block(decoder.Block):
  """norm; attention + MLP, both of it; residual."""

  def setup(self):
    config = self.config
    self.attention_norm = norm(config)
    self.attention = fused.Projections(config, CHUNKS, ORDER)
    self.mlp = Mlp(config)

  def qkv(self, x_BLD, rotation):
    q_BLNH, k_BLNH, v_BLNH = self.attention(self.attention_norm(x_BLD))
    return rotate(q_BLNH, rotation), rotate(k_BLNH, rotation), v_BLNH

  def finish(self, x_BLD, attended_BLNH):
    mlp_BLD = self.mlp(self.attention_norm(x_BLD))
    return x_BLD + self.attention.out(attended_BLNH) + mlp_BLD


class Codegen(decoder.Decoder):
  """The family; `config` is a CodegenConfig."""

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
    return norm(self.config, **kwargs)

  @nn.nowrap
  def rotation(self, positions_BL, limit):
    config = self.config
    exponent_H = np.arange(0, config.rotary, 2, dtype=np.float32)
    frequencies_H = config.rope_theta ** -(exponent_H / config.rotary)
    return rotary.rotation(positions_BL, frequencies_H, limit)


# --------------------------------------------------------- Hugging Face's form


def _from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
  return {
    "vocab_size": hf["vocab_size"],
    "width": hf["n_embd"],
    "layers": hf["n_layer"],
    "heads": hf["n_head"],
    "mlp": hf.get("n_inner") or 4 * hf["n_embd"],
    "rotary": hf["rotary_dim"] or hf["n_embd"] // hf["n_head"],
    "max_length": hf["n_positions"],
    "activation": layers.activation_from_hf(hf["activation_function"]),
    "norm_eps": hf.get("layer_norm_epsilon", 1e-5),
    "tied": hf.get("tie_word_embeddings", False),
    "init_std": hf.get("initializer_range", 0.02),
  }


def _to_hf(config: CodegenConfig) -> dict[str, Any]:
  return {
    "architectures": ["CodeGenForCausalLM"],
    "model_type": "codegen",
    "vocab_size": config.vocab_size,
    "n_embd": config.width,
    "n_layer": config.layers,
    "n_head": config.heads,
    "n_inner": config.mlp,
    "rotary_dim": config.rotary,
    "n_positions": config.max_length,
    "n_ctx": config.max_length,
    "activation_function": layers.activation_to_hf(config.activation),
    "layer_norm_epsilon": config.norm_eps,
    "tie_word_embeddings": config.tied,
    "initializer_range": config.init_std,
  }


def _tensors(config: CodegenConfig) -> tuple[Tensor, ...]:
  layer = "transformer.h.{}."
  found = [
    Tensor("embed/table", "transformer.wte.weight"),
    Tensor("layers/attention/qkv/kernel", layer + "attn.qkv_proj.weight", 1),
    Tensor("layers/attention/o/kernel", layer + "attn.out_proj.weight", 2),
  ]
  for ours, theirs in (("up", "fc_in"), ("down", "fc_out")):
    path, name = f"layers/mlp/{ours}/", f"{layer}mlp.{theirs}."
    found.append(Tensor(path + "kernel", name + "weight", 1))
    found.append(Tensor(path + "bias", name + "bias", 0))
  norms = {
    "final_norm/": "transformer.ln_f",
    "layers/attention_norm/": layer + "ln_1",
  }
  for path, name in norms.items():
    found.append(Tensor(path + "scale", name + ".weight"))
    found.append(Tensor(path + "bias", name + ".bias"))
  if not config.tied:
    found.append(Tensor("head/kernel", "lm_head.weight", 1))
    found.append(Tensor("head/bias", "lm_head.bias", 0))
  return tuple(found)


FAMILY = Family(
  name="codegen",
  module=Codegen,
  config=CodegenConfig,
  model_types=("codegen",),
  from_hf=_from_hf,
  to_hf=_to_hf,
  tensors=_tensors,
  prefix="transformer.",
  repeated=("lm_head.weight",),
  # Older files keep the causal mask and the table of angles.
  ignored=(r"\.attn\.(causal_mask|bias|masked_bias|embed_positions)$",),
)
