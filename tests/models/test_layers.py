"""Layers against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from refine_jax.models import layers

X = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)


def run(module, x=X):
  variables = module.init(jax.random.key(0), x)
  return nn.unbox(variables)["params"], module.apply(variables, x)


def test_dense_is_the_product():
  module = layers.Dense((2, 5), ("embed", "heads", "head_dim"), bias=True)
  params, y = run(module)
  bias = np.arange(10, dtype=np.float32).reshape(2, 5)
  y = module.apply({"params": params | {"bias": bias}}, X)
  expected = np.einsum("bld,dnh->blnh", X, params["kernel"]) + bias
  np.testing.assert_allclose(y, expected, atol=1e-6)


def test_dense_contracts_several_dimensions():
  x = X.reshape(2, 3, 4, 2)
  module = layers.Dense((5,), ("heads", "head_dim", "embed"), inputs=2)
  params, y = run(module, x)
  expected = np.einsum("blnh,nhd->bld", x, params["kernel"])
  np.testing.assert_allclose(y, expected, atol=1e-6)


def test_dense_computes_in_its_dtype_on_float32_parameters():
  module = layers.Dense((5,), ("embed", "mlp"), dtype=jnp.bfloat16)
  params, y = run(module)
  assert params["kernel"].dtype == jnp.float32
  assert y.dtype == jnp.bfloat16


def test_rms_norm_is_the_formula():
  _, y = run(layers.RMSNorm(1e-3))
  expected = X / np.sqrt((X**2).mean(-1, keepdims=True) + 1e-3)
  np.testing.assert_allclose(y, expected, atol=1e-6)


@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm_is_the_formula(affine):
  module = layers.LayerNorm(1e-3, affine)
  params = {}
  expected = (X - X.mean(-1, keepdims=True)) / np.sqrt(
    X.var(-1, keepdims=True) + 1e-3
  )
  if affine:
    params = {"scale": np.arange(8.0), "bias": np.arange(8.0) + 1}
    expected = expected * params["scale"] + params["bias"]
  y = module.apply({"params": params}, X)
  np.testing.assert_allclose(y, expected, atol=1e-5)


def test_norms_compute_in_float32():
  large = (X * 300).astype(jnp.float16)  # squares overflow half precision
  _, y = run(layers.RMSNorm(1e-6, jnp.float16), large)
  assert y.dtype == jnp.float16
  assert np.all(np.isfinite(y))


def test_lookup_clips_ids():
  table = np.arange(6.0).reshape(3, 2)
  found = layers.lookup(table, np.array([-1, 1, 9]), jnp.float32)
  np.testing.assert_array_equal(found, table[[0, 1, 2]])


@pytest.mark.parametrize(
  ("name", "at_one"),
  [
    ("relu", 1.0),
    ("silu", 0.7310586),
    ("gelu", 0.8413447),
    ("gelu_tanh", 0.8411920),
  ],
)
def test_activations(name, at_one):
  np.testing.assert_allclose(layers.activation(name)(1.0), at_one, rtol=1e-6)
  assert layers.activation_from_hf(layers.activation_to_hf(name)) == name


class Squared(nn.Module):
  @nn.compact
  def __call__(self, x):
    return jnp.sin(layers.Dense((8,), ("embed", "mlp"))(x)) ** 2


@pytest.mark.parametrize("policy", ["none", "full", "dots", "dots_no_batch"])
def test_remat_keeps_what_its_policy_says(policy):
  plain = Squared()
  variables = nn.unbox(plain.init(jax.random.key(0), X))
  module = layers.remat(Squared, policy)()

  def total(v, module):
    return module.apply(v, X).sum()

  expected = jax.grad(total)(variables, plain)
  found = jax.grad(total)(variables, module)
  jax.tree.map(np.testing.assert_allclose, found, expected)
  text = str(jax.make_jaxpr(lambda v: jax.grad(total)(v, module))(variables))
  # The product itself, its recomputation, and the kernel's gradient.
  assert text.count("dot_general") == (3 if policy == "full" else 2)


def test_unknown_names_are_told():
  with pytest.raises(ValueError, match="'tanhshrink'"):
    layers.activation("tanhshrink")
  with pytest.raises(ValueError, match="'some'"):
    layers.remat(layers.Dense, "some")


def test_logical_axes_are_no_mesh_axes():
  """Flax's own box would look for a mesh axis called "embed" here."""
  module = layers.Dense((4,), ("embed", "mlp"))
  mesh = jax.make_mesh(
    (8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  with jax.set_mesh(mesh):
    boxed = jax.jit(module.init)(jax.random.key(0), X)["params"]
  assert boxed["kernel"].names == ("embed", "mlp")
