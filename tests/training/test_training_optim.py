"""Schedules are formulas; each parameter gets what it should."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from refine_jax import sharding
from refine_jax.training.optim import (
  OptimizerSettings,
  decay_mask,
  make_optimizer,
  make_schedule,
)
from refine_jax.training.state import named_leaves, state_of

PARAMS = {
  "embed": {"table": (16, 8)},
  "final_norm": {"scale": (8,)},
  "decoder": {"relative_bias": {"table": (32, 4)}},
  "layers": {
    "mlp": {"up": {"kernel": (3, 8, 16), "bias": (3, 16)}},
    "norm": {"scale": (3, 8)},
    "gate": (3, 8),
  },
}


def tree(fill=None):
  """Random, or all `fill`."""
  rng = np.random.default_rng(0)

  def one(shape):
    values = rng.normal(size=shape) if fill is None else np.full(shape, fill)
    return jnp.asarray(values, jnp.float32)

  return jax.tree.map(one, PARAMS, is_leaf=lambda x: isinstance(x, tuple))


def rate(step, warmup, total, end, kind):
  """The schedule as the docstring has it."""
  if step < warmup:
    return (step + 1) / warmup
  if kind == "constant":
    return 1.0
  left = 1 - min((step - warmup) / (total - warmup), 1)
  if kind == "cosine":
    left = (1 + math.cos(math.pi * (1 - left))) / 2
  return end + (1 - end) * left


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 5])
def test_schedule_is_the_formula(kind, warmup):
  settings = OptimizerSettings(
    learning_rate=0.3,
    schedule=kind,
    warmup_steps=warmup,
    total_steps=20,
    end_fraction=0.1,
  )
  steps = np.arange(30)
  got = jax.jit(make_schedule(settings))(steps)
  want = [0.3 * rate(s, warmup, 20, 0.1, kind) for s in steps]
  np.testing.assert_allclose(got, want, rtol=1e-5)


def run(settings, steps=3):
  optimizer, _ = make_optimizer(settings)
  params, grads = tree(), tree(0.5)
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  for _ in range(steps):
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def test_adamw_is_the_paper_s_algorithm():
  settings = OptimizerSettings(
    learning_rate=0.1, weight_decay=0.2, b2=0.95, clip_norm=1.5
  )
  got, _ = run(settings)
  start = tree()
  mask = decay_mask(start, settings)
  norm = np.sqrt(sum(0.25 * x.size for x in jax.tree.leaves(start)))
  g = 0.5 * min(1, 1.5 / norm)

  def one(p, decays):
    p, m, v = np.asarray(p, np.float64), 0, 0
    for t in range(1, 4):
      m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
      step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
      p = p - 0.1 * (step + 0.2 * decays * p)
    return p

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    got,
    jax.tree.map(one, start, mask),
  )


def test_only_matrices_decay():
  mask = decay_mask(tree(), OptimizerSettings())
  assert mask == {
    "embed": {"table": True},
    "final_norm": {"scale": False},
    "decoder": {"relative_bias": {"table": False}},
    "layers": {
      "mlp": {"up": {"kernel": True, "bias": False}},
      "norm": {"scale": False},
      "gate": False,  # a vector per layer, whatever it is called
    },
  }


def test_multipliers_scale_the_learning_rate():
  settings = OptimizerSettings(weight_decay=0.1, clip_norm=None)
  plain, _ = run(settings, 1)
  several = {"relative_bias": 10.0, "table": 0.5}
  got, _ = run(dataclasses.replace(settings, multipliers=several), 1)
  start = tree()
  got, plain = (
    named_leaves(jax.tree.map(np.subtract, x, start)) for x in (got, plain)
  )
  for name, factor in [
    ("decoder/relative_bias/table", 10),
    ("embed/table", 0.5),
    ("layers/gate", 1),
  ]:
    np.testing.assert_allclose(
      got[name], factor * plain[name], rtol=1e-3, atol=1e-7
    )
  wrong = OptimizerSettings(multipliers={"relativ_bias": 10.0})
  with pytest.raises(ValueError, match="'relativ_bias' finds no parameter"):
    make_optimizer(wrong)[0].init(start)


def test_first_moment_dtype():
  for name, more in [("adamw", {}), ("adafactor", {"momentum": 0.9})]:
    settings = OptimizerSettings(name, first_moment_dtype="bfloat16", **more)
    _, state = run(settings, 1)
    dtypes = {x.dtype.name for x in jax.tree.leaves(state)}
    assert dtypes == {"bfloat16", "float32", "int32"}


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_state_lies_like_the_parameters(name):
  """Also with multipliers, which look at names."""
  optimizer, _ = make_optimizer(
    OptimizerSettings(name, multipliers={"table": 2.0}, min_factored=8)
  )
  mesh = sharding.make_mesh(fsdp=4, tensor=2)
  along = jax.NamedSharding(mesh, jax.P("fsdp"))
  params = jax.device_put(
    {"table": np.ones((16, 8)), "scale": np.ones((8,))}, along
  )
  state = state_of(params, optimizer)
  for leaf in jax.tree.leaves(state.opt_state):
    whole = leaf.shape not in ((16, 8), (8,))
    # A factor's statistics may have a vector's shape by chance, not its axis.
    if leaf.ndim == 2 or whole:
      assert leaf.sharding.is_fully_replicated == whole, leaf.shape


def test_adafactor_is_optax_s_layer_by_layer():
  """A stacked parameter moves as its layers would one by one."""
  settings = OptimizerSettings(
    "adafactor", learning_rate=0.1, clip_norm=None, min_factored=4
  )
  got, _ = run(settings)
  reference = optax.adafactor(0.1, min_dim_size_to_factor=4)
  start, grads = tree(), tree(0.5)

  def one(p, g):
    state = reference.init(p)
    update = jax.jit(reference.update)
    for _ in range(3):
      updates, state = update(g, state, p)
      p = p + updates
    return p

  got, start, grads = (named_leaves(x) for x in (got, start, grads))
  name = "layers/mlp/up/kernel"
  want = [one(p, g) for p, g in zip(start[name], grads[name], strict=True)]
  np.testing.assert_allclose(got[name], want, rtol=1e-4)
  name = "embed/table"
  np.testing.assert_allclose(
    got[name], one(start[name], grads[name]), rtol=1e-4
  )


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"name": "adam"}, "'adam'"),
    ({"schedule": "cosin"}, "'cosin'"),
    ({"schedule": "linear"}, "needs total_steps"),
    (
      {"schedule": "linear", "total_steps": 3, "warmup_steps": 4},
      "less than warmup_steps=4",
    ),
  ],
)
def test_bad_settings(fields, message):
  with pytest.raises(ValueError, match=message):
    OptimizerSettings(**fields)
