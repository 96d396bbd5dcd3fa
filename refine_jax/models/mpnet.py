"""MPNet as an encoder of texts (Song et al. 2020; all-mpnet-base-v2 is one).

BERT without token types, with T5's bias of relative positions besides the
absolute ones. Parameters: `tokens/table` [V, D], `positions/table`,
`embed_norm`, `relative_bias/table` [buckets, N], and `layers/...` as in
`encoder_layers`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from refine_jax.batch import Batch, Params
from refine_jax.models import encoder_layers, layers, t5_positions
from refine_jax.models.families import Family, Tensor

# Position 0 is this row: the first ones belonged to padding.
_OFFSET = 2
# Whatever config.json says of the number of buckets, distances are told apart
# as with 32 of them up to 128.
_BUCKETS, _MAX_DISTANCE = 32, 128


@dataclasses.dataclass(frozen=True)
class MPNetConfig:
  """Sizes; the defaults are all-mpnet-base-v2's. See `BertConfig`.

  Attributes:
    positions: rows of the position table, the two of padding included.
  """

  vocab_size: int
  width: int = 768
  layers: int = 12
  heads: int = 12
  head_dim: int = 64
  mlp: int = 3072
  positions: int = 514
  norm_eps: float = 1e-5
  activation: str = "gelu"
  init_std: float = 0.02
  dtype: str = "float32"
  remat: str = "none"
  unroll: int = 1
  attention: str = "auto"

  @property
  def max_length(self) -> int:
    return self.positions - _OFFSET


class MPNet(nn.Module):
  """The family; an encoder has `encode` and `embed`, and writes nothing."""

  config: MPNetConfig
  encoder_decoder: ClassVar[bool] = False

  def setup(self):
    config, dtype = self.config, jnp.dtype(self.config.dtype)
    init = nn.initializers.normal(config.init_std)

    def table(rows):
      return layers.Embed(rows, config.width, dtype=dtype, initializer=init)

    self.tokens = table(config.vocab_size)
    self.positions = table(config.positions)
    self.embed_norm = encoder_layers.norm(config)
    self.relative_bias = t5_positions.RelativeBias(
      heads=config.heads,
      buckets=_BUCKETS,
      max_distance=_MAX_DISTANCE,
      two_sided=True,
      deviation=config.init_std,
    )
    self.layers = encoder_layers.stack(config)

  def __call__(self, batch: Batch) -> jax.Array:
    """States of the prompts; targets are not looked at."""
    return self.states(batch.prompt_BP, batch.prompt_mask_BP)

  def states(self, prompt_BP: jax.Array, mask_BP: jax.Array) -> jax.Array:
    x_BPD = self.tokens(prompt_BP)
    x_BPD += self.positions(encoder_layers.positions(mask_BP) + _OFFSET)
    x_BPD = self.embed_norm(x_BPD)
    bias = self.relative_bias(prompt_BP.shape[1])
    x_BPD, _ = self.layers(x_BPD, bias, mask_BP.astype(jnp.int32))
    return x_BPD

  @nn.nowrap
  def encode(self, params: Params, prompt_BP, mask_BP) -> jax.Array:
    """A state per position, `[B, P, D]`."""
    return self.apply({"params": params}, prompt_BP, mask_BP, method="states")

  @nn.nowrap
  def embed(self, params: Params, prompt_BP, mask_BP) -> jax.Array:
    """Unit rows: the mean of the states, float32."""
    states_BPD = self.encode(params, prompt_BP, mask_BP)
    return encoder_layers.unit(encoder_layers.pool(states_BPD, mask_BP))


def _from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
  if (buckets := hf.get("relative_attention_num_buckets", 32)) != _BUCKETS:
    raise ValueError(f"relative_attention_num_buckets {buckets}: not 32")
  return {
    "vocab_size": hf["vocab_size"],
    "width": hf["hidden_size"],
    "layers": hf["num_hidden_layers"],
    "heads": hf["num_attention_heads"],
    "head_dim": hf["hidden_size"] // hf["num_attention_heads"],
    "mlp": hf["intermediate_size"],
    "positions": hf["max_position_embeddings"],
    "norm_eps": hf.get("layer_norm_eps", 1e-12),
    "activation": layers.activation_from_hf(hf.get("hidden_act", "gelu")),
    "init_std": hf.get("initializer_range", 0.02),
  }


def _to_hf(config: MPNetConfig) -> dict[str, Any]:
  return {
    "architectures": ["MPNetModel"],
    "model_type": "mpnet",
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "num_hidden_layers": config.layers,
    "num_attention_heads": config.heads,
    "intermediate_size": config.mlp,
    "max_position_embeddings": config.positions,
    "relative_attention_num_buckets": _BUCKETS,
    "layer_norm_eps": config.norm_eps,
    "hidden_act": layers.activation_to_hf(config.activation),
    "initializer_range": config.init_std,
  }


def _tensors(config: MPNetConfig) -> tuple[Tensor, ...]:
  del config
  bias = "mpnet.encoder.relative_attention_bias.weight"
  names = {name: f"attention.attn.{name}" for name in "qkvo"}
  names["norm"] = "attention.LayerNorm"
  return (
    *encoder_layers.embedding_tensors("mpnet"),
    Tensor("relative_bias/table", bias),
    *encoder_layers.tensors("mpnet.encoder.layer.{}", names),
  )


FAMILY = Family(
  name="mpnet",
  module=MPNet,
  config=MPNetConfig,
  model_types=("mpnet",),
  from_hf=_from_hf,
  to_hf=_to_hf,
  tensors=_tensors,
  prefix="mpnet.",
  ignored=(r"pooler\.", r"position_ids$", r"^lm_head\."),
  writes=False,
)
