"""BERT as an encoder of texts (Devlin et al. 2019; MiniLM is one).

Parameters: `tokens/table` [V, D], `positions/table`, `kinds/table` (of token
types; a single text has type 0), `embed_norm`, and `layers/...` as in
`encoder_layers`. The pooler is not read: embeddings are means of states.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from refine_jax.batch import Batch, Params
from refine_jax.models import encoder_layers, layers
from refine_jax.models.families import Family, Tensor


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """Sizes; the defaults are all-MiniLM-L6-v2's.

  Attributes:
    vocab_size, width, mlp, heads, head_dim: V, D, F, N and H.
    max_length: rows of the position table.
    kinds: rows of the table of token types.
    dtype, remat, attention: as in the other families.
    unroll: a stack of at most so many layers is no loop.
  """

  vocab_size: int
  width: int = 384
  layers: int = 6
  heads: int = 12
  head_dim: int = 32
  mlp: int = 1536
  max_length: int = 512
  kinds: int = 2
  norm_eps: float = 1e-12
  activation: str = "gelu"
  init_std: float = 0.02
  dtype: str = "float32"
  remat: str = "none"
  unroll: int = 1
  attention: str = "auto"


class Bert(nn.Module):
  """The family; an encoder has `encode` and `embed`, and writes nothing."""

  config: BertConfig
  encoder_decoder: ClassVar[bool] = False

  def setup(self):
    config, dtype = self.config, jnp.dtype(self.config.dtype)
    init = nn.initializers.normal(config.init_std)

    def table(rows):
      return layers.Embed(rows, config.width, dtype=dtype, initializer=init)

    self.tokens = table(config.vocab_size)
    self.positions = table(config.max_length)
    self.kinds = table(config.kinds)
    self.embed_norm = encoder_layers.norm(config)
    self.layers = encoder_layers.stack(config)

  def __call__(self, batch: Batch) -> jax.Array:
    """States of the prompts; targets are not looked at."""
    return self.states(batch.prompt_BP, batch.prompt_mask_BP)

  def states(self, prompt_BP: jax.Array, mask_BP: jax.Array) -> jax.Array:
    x_BPD = self.tokens(prompt_BP)
    x_BPD += self.positions(encoder_layers.positions(mask_BP))
    x_BPD += self.kinds(jnp.zeros((1, 1), jnp.int32))
    x_BPD = self.embed_norm(x_BPD)
    x_BPD, _ = self.layers(x_BPD, None, mask_BP.astype(jnp.int32))
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
  kind = hf.get("position_embedding_type", "absolute")
  if kind != "absolute":
    raise ValueError(f"position_embedding_type {kind!r}: not absolute")
  return {
    "vocab_size": hf["vocab_size"],
    "width": hf["hidden_size"],
    "layers": hf["num_hidden_layers"],
    "heads": hf["num_attention_heads"],
    "head_dim": hf["hidden_size"] // hf["num_attention_heads"],
    "mlp": hf["intermediate_size"],
    "max_length": hf["max_position_embeddings"],
    "kinds": hf.get("type_vocab_size", 2),
    "norm_eps": hf.get("layer_norm_eps", 1e-12),
    "activation": layers.activation_from_hf(hf.get("hidden_act", "gelu")),
    "init_std": hf.get("initializer_range", 0.02),
  }


def _to_hf(config: BertConfig) -> dict[str, Any]:
  return {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "num_hidden_layers": config.layers,
    "num_attention_heads": config.heads,
    "intermediate_size": config.mlp,
    "max_position_embeddings": config.max_length,
    "type_vocab_size": config.kinds,
    "layer_norm_eps": config.norm_eps,
    "hidden_act": layers.activation_to_hf(config.activation),
    "initializer_range": config.init_std,
  }


def _tensors(config: BertConfig) -> tuple[Tensor, ...]:
  del config
  kinds = "bert.embeddings.token_type_embeddings.weight"
  names = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "norm": "attention.output.LayerNorm",
  }
  return (
    *encoder_layers.embedding_tensors("bert"),
    Tensor("kinds/table", kinds),
    *encoder_layers.tensors("bert.encoder.layer.{}", names),
  )


FAMILY = Family(
  name="bert",
  module=Bert,
  config=BertConfig,
  model_types=("bert",),
  from_hf=_from_hf,
  to_hf=_to_hf,
  tensors=_tensors,
  prefix="bert.",
  ignored=(r"pooler\.", r"position_ids$", r"^cls\."),
  writes=False,
)
