"""The loss of online self-training: correct rollouts and golds, side by side.

ReFT's code: half the mean over the tokens of the minibatch's correct
rollouts, half the mean over those of its golds. Where no rollout is correct
the gold's half is left as it is.
"""

from typing import Any

import flax.struct
import jax
import numpy as np

from refine_jax.algorithms.xent import xent
from refine_jax.batch import Batch, Params
from refine_jax.training.loss import Loss, LossFn, Mean


@flax.struct.dataclass
class OnlineBatch:
  """Rollouts with the golds of the same problems.

  The denominators are the whole minibatch's and stand beside every row, so
  that no split into micro-batches changes them.

  Attributes:
    rollouts: `loss_mask_BT` is empty for wrong ones.
    golds: the gold completions.
    rollout_tokens_B, gold_tokens_B: tokens that count, in the minibatch.
    share_B: one over the rows of the minibatch.
  """

  rollouts: Batch
  golds: Batch
  rollout_tokens_B: jax.Array
  gold_tokens_B: jax.Array
  share_B: jax.Array

  @classmethod
  def of(cls, rollouts: Batch, golds: Batch) -> "OnlineBatch":
    """A whole minibatch of host arrays."""
    rows = rollouts.target_BT.shape[0]

    def all_rows(value):
      return np.full((rows,), value, np.float32)

    return cls(
      rollouts,
      golds,
      rollout_tokens_B=all_rows(max(1, rollouts.loss_mask_BT.sum())),
      gold_tokens_B=all_rows(max(1, golds.loss_mask_BT.sum())),
      share_B=all_rows(1 / rows),
    )


def online_loss(
  family: Any, *, gold: float = 0.5, chunk: int | None = None
) -> LossFn:
  """`(1 - gold) * nll(correct rollouts) + gold * nll(golds)`.

  Args:
    family: a model family; in training mode, with dropout if it has any.
    gold: the gold's share.
    chunk: tokens whose logits exist at a time.
  """

  def nll(params: Params, batch: Batch, rng: jax.Array | None, fold: int):
    rngs = {}
    if rng is not None:
      rngs = {"dropout": jax.random.fold_in(rng, fold)}
    output = family.apply({"params": params}, batch, rngs=rngs)
    return xent(
      lambda hidden: family.unembed(params, hidden),
      output.hidden_BTD,
      batch.target_BT,
      batch.loss_mask_BT,
      chunk=chunk,
    )

  def loss(params: Params, made: OnlineBatch, rng: jax.Array | None) -> Loss:
    ours = nll(params, made.rollouts, rng, 0)
    theirs = nll(params, made.golds, rng, 1)
    total = (1 - gold) * ours.nll / made.rollout_tokens_B[0]
    total += gold * theirs.nll / made.gold_tokens_B[0]
    metrics = {
      "rollout_nll": Mean(ours.nll, ours.weight),
      "gold_nll": Mean(theirs.nll, theirs.weight),
    }
    return Loss(total, made.share_B.sum(), metrics)

  return loss
