"""Where states lie, and what does not fit."""

import jax
import numpy as np
import optax
import pytest
from fakes import FakeConfig, FakeFamily, fake_batch

from refine_jax import sharding
from refine_jax.training.state import (
  abstract_params,
  init_params,
  init_state,
  named_leaves,
)

BATCH = fake_batch(0)
FAMILY = FakeFamily()


def test_parameters_do_not_depend_on_the_mesh():
  one = sharding.make_mesh(devices=jax.devices()[:1])
  eight = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  a, b = (
    named_leaves(init_params(FAMILY, jax.random.key(3), mesh, BATCH))
    for mesh in (one, eight)
  )
  for name in a:
    np.testing.assert_allclose(a[name], b[name], atol=1e-6, err_msg=name)
  want = named_leaves(abstract_params(FAMILY, BATCH, eight))
  assert {k: v.sharding for k, v in b.items()} == {
    k: v.sharding for k, v in want.items()
  }


def test_given_parameters_are_checked_and_placed():
  mesh = sharding.make_mesh(fsdp=4, tensor=2)
  optimizer = optax.adam(1e-3)
  params = jax.tree.map(
    lambda x: np.ones(x.shape, x.dtype), abstract_params(FAMILY, BATCH, mesh)
  )
  key = jax.random.key(0)
  state = init_state(FAMILY, optimizer, key, mesh, BATCH, params)
  up = state.params["layers"]["up"]
  assert up.sharding.spec == jax.P(None, ("fsdp",), ("tensor",))
  moments = named_leaves(state.opt_state)
  assert moments["0/mu/layers/up"].sharding == up.sharding
  assert moments["0/count"].sharding.is_fully_replicated
  wide = FakeFamily(FakeConfig(width=10))
  message = r"table: shape \(16, 8\), the model has \(16, 10\)"
  with pytest.raises(ValueError, match=message):
    init_state(wide, optimizer, key, mesh, BATCH, params)
