"""Online self-training's loss against its formula."""

import jax
import numpy as np
import pytest
from fakes import FakeFamily, fake_batch

from refine_jax.training.online import OnlineBatch, online_loss
from refine_jax.training.step import _mean_gradient

FAMILY = FakeFamily()


@pytest.fixture(scope="module")
def params():
  from flax import linen as nn

  return nn.unbox(FAMILY.init(jax.random.key(0), fake_batch(0))["params"])


def halves(correct):
  rollouts, golds = fake_batch(1), fake_batch(2)
  mask_BT = rollouts.target_mask_BT & np.array(correct)[:, None]
  return rollouts.replace(loss_mask_BT=mask_BT), golds


def slow_nll(params, batch):
  """Mean over the tokens that count; 0 where none does."""
  hidden_BTD = FAMILY.apply({"params": params}, batch).hidden_BTD
  logp_BTV = np.asarray(
    jax.nn.log_softmax(FAMILY.unembed(params, hidden_BTD)), np.float64
  )
  found = [
    -logp_BTV[b, t, batch.target_BT[b, t]]
    for b, t in np.argwhere(batch.loss_mask_BT)
  ]
  return np.mean(found) if found else 0.0


@pytest.mark.parametrize("correct", [[True, False] * 4, [False] * 8])
@pytest.mark.parametrize("pieces", [1, 4])
def test_half_of_each(params, correct, pieces):
  rollouts, golds = halves(correct)
  batch = OnlineBatch.of(rollouts, golds)
  where = jax.tree.map(lambda x: x.sharding, params)
  grads, loss = jax.jit(
    lambda p, b: _mean_gradient(
      online_loss(FAMILY), p, where, b, jax.random.key(0), pieces
    )
  )(params, batch)
  wanted = (slow_nll(params, rollouts) + slow_nll(params, golds)) / 2
  assert float(loss.total / loss.weight) == pytest.approx(wanted, rel=1e-5)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
