"""The reranker's loss against a slow loop, and what its head looks at."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fakes import FakeFamily, fake_batch

from refine_jax.models.reranker import Reranker, backbone_of
from refine_jax.training.classify import Labelled, classification_loss
from refine_jax.training.state import state_of
from refine_jax.training.step import make_train_step

FAMILY = FakeFamily()
RERANKER = Reranker(FAMILY, init_std=0.5)


def setup():
  batch = fake_batch(0, rows=6)
  params = jax.jit(RERANKER.init)(jax.random.key(0), batch)["params"]
  params = jax.tree.map(
    lambda x: getattr(x, "value", x),
    params,
    is_leaf=lambda x: hasattr(x, "names"),
  )
  rows = Labelled(
    batch,
    np.array([0, 1, 1, 0, 1, 0], np.int32),
    np.array([1, 2, 0.5, 1, 1, 0], np.float32),
  )
  return params, rows


def slow_loss(params, rows, language):
  """Row by row, from the formula."""
  batch, total = rows.batch, 0.0
  output = FAMILY.apply({"params": backbone_of(params)}, batch)
  kernel = np.asarray(params["score"]["out"]["kernel"])
  for b in range(len(rows.label_B)):
    length = int(batch.target_mask_BT[b].sum())
    state = np.asarray(output.hidden_BTD)[b, length - 1]
    logits = state @ kernel
    nll = np.log(np.exp(logits).sum()) - logits[rows.label_B[b]]
    if language and rows.label_B[b] == 1:
      scores = np.asarray(FAMILY.unembed(params, output.hidden_BTD[b]))
      logp = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
      kept = [
        logp[t, batch.target_BT[b, t]]
        for t in range(length)
        if batch.loss_mask_BT[b, t]
      ]
      nll += language * -np.sum(kept) / max(len(kept), 1)
    total += rows.weight_B[b] * nll
  return total / rows.weight_B.sum()


def test_the_loss_is_the_loop():
  params, rows = setup()
  for language in (0.0, 0.7):
    fn = classification_loss(RERANKER, FAMILY, language=language, chunk=5)
    loss = fn(params, rows, None)
    np.testing.assert_allclose(
      loss.total / loss.weight, slow_loss(params, rows, language), rtol=1e-5
    )
  logits_B2, _ = RERANKER(params, rows.batch)
  hit_B = (np.argmax(logits_B2, 1) == rows.label_B) * rows.weight_B
  np.testing.assert_allclose(
    loss.metrics["accuracy"].value(), hit_B.sum() / rows.weight_B.sum()
  )


def test_eos_and_padding_change_no_score():
  params, rows = setup()
  batch = rows.batch
  last_B = batch.target_mask_BT.sum(1) - 1
  target_BT = np.where(batch.target_mask_BT, batch.target_BT, 9)
  target_BT[np.arange(len(last_B)), last_B] = 3
  ours = RERANKER(params, batch)[0]
  other = RERANKER(params, batch.replace(target_BT=target_BT))[0]
  np.testing.assert_allclose(ours, other, atol=1e-6)


def test_it_learns_in_any_number_of_pieces():
  params, rows = setup()
  loss = classification_loss(RERANKER, FAMILY, language=0.1)
  found = []
  for pieces in (1, 3):
    step = make_train_step(loss, optax.adam(0.05), micro_batches=pieces)
    state = state_of(jax.tree.map(jnp.copy, params), optax.adam(0.05))
    losses = []
    for _ in range(20):
      state, metrics = step(state, rows, jax.random.key(0))
      losses.append(float(metrics["loss"].value()))
    found.append(losses)
  np.testing.assert_allclose(found[0], found[1], rtol=2e-4)
  assert found[0][-1] < 0.5 * found[0][0]
