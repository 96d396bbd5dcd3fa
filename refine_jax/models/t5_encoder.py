"""T5's encoder alone, as sentence-T5 and INSTRUCTOR use it.

Parameters are those of T5 without head and decoder. A folder of a whole T5
can be read as one: its decoder is left where it is.
"""

import dataclasses
from typing import Any, ClassVar

import jax
from flax import linen as nn

from refine_jax.batch import Batch, Params
from refine_jax.models import encoder_layers, layers, t5, t5_hf, t5_layers
from refine_jax.models.families import Family, Tensor


@dataclasses.dataclass(frozen=True)
class T5EncoderConfig(t5.T5Config):
  """See `T5Config`; what it says of a decoder is not used."""


class T5Encoder(nn.Module):
  """The family; an encoder has `encode` and `embed`, and writes nothing."""

  config: T5EncoderConfig
  encoder_decoder: ClassVar[bool] = False

  def setup(self):
    config = self.config
    self.tokens = layers.Embed(
      config.vocab_size,
      config.width,
      dtype=config.compute_dtype,
      initializer=nn.initializers.normal(1.0),
    )
    self.encoder = t5_layers.Stack(
      config,
      t5_layers.EncoderLayer,
      config.encoder_layers,
      inputs=2,
      two_sided=True,
    )

  def __call__(self, batch: Batch) -> jax.Array:
    """States of the prompts; targets are not looked at."""
    return self.states(batch.prompt_BP, batch.prompt_mask_BP)

  def states(self, prompt_BP: jax.Array, mask_BP: jax.Array) -> jax.Array:
    return self.encoder(self.tokens(prompt_BP), mask_BP.astype(int))

  @nn.nowrap
  def encode(self, params: Params, prompt_BP, mask_BP) -> jax.Array:
    """A state per position, `[B, P, D]`."""
    return self.apply({"params": params}, prompt_BP, mask_BP, method="states")

  @nn.nowrap
  def embed(self, params: Params, prompt_BP, mask_BP) -> jax.Array:
    """Unit rows: the mean of the states, float32."""
    states_BPD = self.encode(params, prompt_BP, mask_BP)
    return encoder_layers.unit(encoder_layers.pool(states_BPD, mask_BP))


def _to_hf(config: T5EncoderConfig) -> dict[str, Any]:
  return {
    **t5_hf.FAMILY.to_hf(config),
    "architectures": ["T5EncoderModel"],
    "is_encoder_decoder": False,
  }


def _tensors(config: T5EncoderConfig) -> tuple[Tensor, ...]:
  whole = t5_hf.FAMILY.tensors(config)
  table = Tensor("tokens/table", "shared.weight")
  return (table, *(t for t in whole if t.path.startswith("encoder/")))


FAMILY = Family(
  name="t5_encoder",
  module=T5Encoder,
  config=T5EncoderConfig,
  model_types=(),  # "t5" is the whole; `sentences.load` chooses this one
  from_hf=t5_hf.FAMILY.from_hf,
  to_hf=_to_hf,
  tensors=_tensors,
  repeated=("encoder.embed_tokens.weight",),
  ignored=(r"^decoder\.", r"^lm_head\."),
  writes=False,
)
