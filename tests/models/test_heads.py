"""Heads are linear maps to float32."""

import jax
import jax.numpy as jnp
import numpy as np

from refine_jax.models import heads

HIDDEN = np.random.default_rng(0).standard_normal((2, 3, 8))


def test_a_value_per_state_starting_at_zero():
  head = heads.ValueHead()
  hidden = HIDDEN.astype(jnp.bfloat16)
  variables = head.init(jax.random.key(0), hidden)
  values_BT = head.apply(variables, hidden)
  assert values_BT.shape == (2, 3)
  assert values_BT.dtype == jnp.float32
  assert not values_BT.any()


def test_values_and_scores_are_linear():
  hidden = HIDDEN.astype(np.float32)
  kernel = np.arange(16, dtype=np.float32).reshape(8, 2)
  bias = np.array([1.0, -1.0], np.float32)
  params = {"out": {"kernel": kernel, "bias": bias}}
  scores = heads.ScoreHead(2).apply({"params": params}, hidden)
  np.testing.assert_allclose(scores, hidden @ kernel + bias, atol=1e-4)
  params = {"score": {"out": {"kernel": kernel[:, :1], "bias": bias[:1]}}}
  values = heads.ValueHead().apply({"params": params}, hidden)
  np.testing.assert_allclose(values, hidden @ kernel[:, 0] + 1, atol=1e-4)
