"""The loss of a two-class head, with a language loss beside it if asked."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from refine_jax.algorithms.logprobs import logprobs
from refine_jax.batch import Batch, Output, Params
from refine_jax.training.loss import Loss, LossFn, Mean


@flax.struct.dataclass
class Labelled:
  """Rows with a class each.

  Attributes:
    batch: one example per row.
    label_B: int32 class.
    weight_B: float32; 0 for rows that only fill the batch up.
  """

  batch: Batch
  label_B: jax.Array
  weight_B: jax.Array


# (params, batch) -> logits_BC and the model's output.
Classify = Callable[[Params, Batch], tuple[jax.Array, Output]]


def classification_loss(
  classify: Classify,
  family: Any,
  *,
  language: float = 0.0,
  chunk: int | None = None,
) -> LossFn:
  """Weighted mean over rows of the classes' cross-entropy.

  Args:
    classify: see `Classify`.
    family: unembeds, where there is a language loss.
    language: with it each row of class 1 adds this many times the mean
      negative log-likelihood of its target.
    chunk: tokens whose logits exist at a time.
  """

  def loss(params: Params, rows: Labelled, rng: jax.Array | None) -> Loss:
    del rng  # nothing is random
    logits_BC, output = classify(params, rows.batch)
    logp_BC = jax.nn.log_softmax(logits_BC.astype(jnp.float32))
    label_B1 = rows.label_B[:, None]
    total_B = -jnp.take_along_axis(logp_BC, label_B1, axis=1)[:, 0]
    hit_B = (jnp.argmax(logp_BC, axis=1) == rows.label_B) * rows.weight_B
    weight = rows.weight_B.sum()
    metrics = {"accuracy": Mean(hit_B.sum(), weight)}
    if language:
      nll_B = (rows.label_B == 1) * _nll(params, rows.batch, output)
      metrics["language"] = Mean((nll_B * rows.weight_B).sum(), weight)
      total_B += language * nll_B
    return Loss((total_B * rows.weight_B).sum(), weight, metrics)

  def _nll(params, batch, output):
    logp_BT = logprobs(
      lambda hidden: family.unembed(params, hidden),
      output.hidden_BTD,
      batch.target_BT,
      chunk=chunk,
    )
    mask_BT = batch.loss_mask_BT.astype(jnp.float32)
    return -(logp_BT * mask_BT).sum(-1) / jnp.maximum(mask_BT.sum(-1), 1)

  return loss
