"""Scalar heads on final states: values per token, scores per sequence."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from refine_jax.models import layers


class ScoreHead(nn.Module):
  """A linear map of final states to `outputs` float32 numbers.

  A reranker applies it to the state at the last existing token, see
  `batch.Output.last_BTD`.

  Attributes:
    outputs: how many numbers; the last axis has this size.
    init_std: of the kernel; 0 starts every score at 0.
    bias: whether there is one.
  """

  outputs: int = 1
  init_std: float = 0.02
  bias: bool = True

  @nn.compact
  def __call__(self, hidden: jax.Array) -> jax.Array:
    return layers.Dense(
      (self.outputs,),
      ("embed", "head_dim"),
      bias=self.bias,
      dtype=jnp.float32,
      initializer=nn.initializers.normal(self.init_std),
      name="out",
    )(hidden)


class ValueHead(nn.Module):
  """One float32 number per state: the last axis is gone."""

  init_std: float = 0.0

  @nn.compact
  def __call__(self, hidden: jax.Array) -> jax.Array:
    return ScoreHead(1, self.init_std, name="score")(hidden)[..., 0]
