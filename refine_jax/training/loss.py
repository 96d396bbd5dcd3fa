"""What a loss function returns, and the supervised one."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from refine_jax.algorithms.xent import weights, xent
from refine_jax.batch import Batch, Params


@flax.struct.dataclass
class Mean:
  """A weighted mean that is not divided yet, so that means can be added."""

  total: jax.Array
  weight: jax.Array

  def value(self) -> jax.Array:
    """`total / weight`; 0 where nothing counted."""
    weight = jnp.where(self.weight == 0, 1, self.weight)
    return jnp.where(self.weight == 0, 0, self.total / weight)


@flax.struct.dataclass
class Loss:
  """A loss as numerator and denominator.

  Attributes:
    total: what is differentiated.
    weight: does not depend on the parameters.
    metrics: name -> Mean.
  """

  total: jax.Array
  weight: jax.Array
  metrics: dict[str, Mean] = flax.struct.field(default_factory=dict)


# (params, any pytree that holds a Batch, rng) -> Loss. With an rng of None
# nothing is random: no dropout.
LossFn = Callable[[Params, Any, jax.Array | None], Loss]


def supervised_loss(
  family: Any,
  *,
  chunk: int | None = None,
  label_smoothing: float = 0.0,
  reduction: str = "token",
) -> LossFn:
  """Cross-entropy of the targets where `loss_mask` is True.

  Args:
    family: a model family (see docs/architecture.md).
    chunk: tokens whose logits exist at a time; None for all at once.
    label_smoothing: see `algorithms.xent`.
    reduction: `token`, the mean over all target tokens, or `sequence`, the
      mean over sequences of their means.
  """

  def loss(params: Params, batch: Batch, rng: jax.Array | None) -> Loss:
    rngs = {} if rng is None else {"dropout": rng}
    output = family.apply({"params": params}, batch, rngs=rngs)
    out = xent(
      lambda hidden: family.unembed(params, hidden),
      output.hidden_BTD,
      batch.target_BT,
      batch.loss_mask_BT,
      chunk=chunk,
      label_smoothing=label_smoothing,
      reduction=reduction,
      segments_BT=batch.target_segments_BT,
    )
    metrics = {"accuracy": Mean(out.correct, out.weight)}
    return Loss(out.nll, out.weight, metrics)

  weights(jnp.ones((1, 1)), reduction)  # a wrong name fails here, not in a jit
  return loss
