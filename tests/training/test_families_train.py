"""Real families through the step: pieces and devices against one gradient."""

import jax
import numpy as np
import optax
import pytest
from fakes import fake_batch

from refine_jax import sharding
from refine_jax.models.llama import Llama, LlamaConfig
from refine_jax.models.t5 import T5, T5Config
from refine_jax.training.loss import supervised_loss
from refine_jax.training.state import init_state, named_leaves
from refine_jax.training.step import make_train_step

FAMILIES = [
  Llama(
    LlamaConfig(
      vocab_size=16, width=8, layers=2, heads=4, kv_heads=2, head_dim=4, mlp=16
    )
  ),
  pytest.param(
    T5(
      T5Config(
        vocab_size=16, width=8, mlp=16, heads=2, head_dim=4, encoder_layers=2,
        decoder_layers=2,
      )
    ),
    marks=pytest.mark.slow,
  ),
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_a_sharded_accumulated_step_is_the_plain_gradient(family):
  batch = fake_batch(0, rows=16)
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  optimizer = optax.sgd(1.0)
  state = init_state(family, optimizer, jax.random.key(0), mesh, batch)
  before = jax.tree.map(np.array, state.params)

  def loss(params):
    hidden_BTD = family.apply({"params": params}, batch).hidden_BTD
    nll_BT = optax.softmax_cross_entropy_with_integer_labels(
      family.unembed(params, hidden_BTD), batch.target_BT
    )
    return (nll_BT * batch.loss_mask_BT).sum() / batch.loss_mask_BT.sum()

  value, grads = jax.jit(jax.value_and_grad(loss))(before)
  step = make_train_step(
    supervised_loss(family, chunk=32), optimizer, micro_batches=2
  )
  batch = jax.device_put(batch, sharding.of_batch(mesh))
  state, metrics = step(state, batch, jax.random.key(0))
  np.testing.assert_allclose(metrics["loss"].value(), value, rtol=1e-5)
  got = jax.tree.map(np.subtract, before, jax.device_get(state.params))
  got, want = named_leaves(got), named_leaves(grads)
  for name in want:
    scale = np.abs(want[name]).max()
    # The update is read off parameters, which are rounded to 1e-7 of theirs.
    rounding = 2e-7 * np.abs(named_leaves(before)[name]).max()
    np.testing.assert_allclose(
      got[name], want[name], rtol=0, atol=1e-5 * scale + rounding, err_msg=name
    )
