"""A family so small that it compiles in an instant; keeps the contract."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from refine_jax.batch import Batch, Output


@dataclasses.dataclass(frozen=True)
class FakeConfig:
  vocab_size: int = 16
  width: int = 8
  layers: int = 2
  dropout: float = 0.0


class FakeBlock(nn.Module):
  """x + mlp(norm(x)) with a running mean in place of attention."""

  config: FakeConfig

  @nn.compact
  def __call__(self, x_BTD, mask_BT):
    def weight(name, shape, axes):
      init = nn.with_partitioning(nn.initializers.normal(0.3), axes)
      return self.param(name, init, shape)

    width = self.config.width
    scale_D = self.param(
      "norm",
      nn.with_partitioning(nn.initializers.ones, ("norm",)),
      (width,),
    )
    up_DF = weight("up", (width, 2 * width), ("embed", "mlp"))
    down_FD = weight("down", (2 * width, width), ("mlp", "embed"))
    mask_BT1 = mask_BT[..., None]
    past_BTD = (x_BTD * mask_BT1).cumsum(1) / mask_BT1.cumsum(1).clip(1)
    y_BTD = jnp.tanh((past_BTD * scale_D) @ up_DF) @ down_FD
    if self.config.dropout and self.has_rng("dropout"):
      keep = 1 - self.config.dropout
      mask_BTD = jax.random.bernoulli(
        self.make_rng("dropout"), keep, y_BTD.shape
      )
      y_BTD = jnp.where(mask_BTD, y_BTD / keep, 0)
    return x_BTD + y_BTD, None


class FakeFamily(nn.Module):
  """Decoder-only: reads prompt and target, predicts the target."""

  config: FakeConfig = FakeConfig()
  encoder_decoder = False

  @nn.compact
  def __call__(self, batch: Batch) -> Output:
    config = self.config
    table_VD = self.param(
      "table",
      nn.with_partitioning(
        nn.initializers.normal(1.0), ("table", "table_width")
      ),
      (config.vocab_size, config.width),
    )
    tokens_BL = jnp.concatenate([batch.prompt_BP, batch.target_BT], 1)
    mask_BL = jnp.concatenate([batch.prompt_mask_BP, batch.target_mask_BT], 1)
    layers = nn.scan(
      FakeBlock,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=nn.broadcast,
      length=config.layers,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    x_BLD, _ = layers(config, name="layers")(
      jnp.take(table_VD, tokens_BL, axis=0), mask_BL
    )
    start = batch.prompt_BP.shape[1]
    return Output(x_BLD[:, start - 1 : -1], x_BLD[:, start:])

  def unembed(self, params, hidden):
    return hidden.astype(jnp.float32) @ params["table"].T


def fake_batch(
  seed: int, *, rows: int = 8, prompt: int = 4, target: int = 6, vocab: int = 16
) -> Batch:
  """Ragged rows: prompts padded left, targets right."""
  rng = np.random.default_rng(seed)
  lengths = [rng.integers(1, n + 1, rows) for n in (prompt, target)]
  mask_BT = np.arange(target) < lengths[1][:, None]
  return Batch(
    prompt_BP=rng.integers(1, vocab, (rows, prompt)).astype(np.int32),
    prompt_mask_BP=np.arange(prompt)[::-1] < lengths[0][:, None],
    target_BT=rng.integers(1, vocab, (rows, target)).astype(np.int32),
    target_mask_BT=mask_BT,
    loss_mask_BT=mask_BT & (rng.random((rows, target)) < 0.8),
  )
