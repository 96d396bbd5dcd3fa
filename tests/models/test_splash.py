"""The TPU's attention kernel, interpreted, against the reference path."""

import functools
import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from refine_jax import sharding
from refine_jax.models import attention

# No multiple of the kernel's tiles; four query heads share two of keys.
B, L, N, K, H = 4, 136, 4, 2, 64
SCALE = H**-0.5


def arrays(length=L, seed=0):
  keys = jax.random.split(jax.random.key(seed), 3)
  q = jax.random.normal(keys[0], (B, length, N, H))
  k, v = (jax.random.normal(key, (B, length, K, H)) for key in keys[1:])
  return q, k, v


def packed_segments():
  rng = np.random.default_rng(0)
  cuts = np.sort(rng.integers(1, L, (B, 3)), axis=1)
  number = (np.arange(L) >= cuts[:, :2, None]).sum(1) + 1
  return np.where(np.arange(L) < cuts[:, 2:], number, 0).astype(np.int32)


SEGMENTS = packed_segments()
STRUCTURES = {
  "causal": {"causal": True},
  "packed": {
    "causal": True,
    "q_segments_BL": SEGMENTS,
    "kv_segments_BS": SEGMENTS,
  },
  "padded keys": {"kv_segments_BS": SEGMENTS},
}


def both(function, arguments, weight):
  """Results and gradients by the reference and by the kernel."""
  found = []
  for name in ("xla", "splash_interpreted"):
    run = functools.partial(function, implementation=name)
    out, back = jax.vjp(run, *arguments)
    found.append((out, *back(jnp.broadcast_to(weight, out.shape))))
  return found


@pytest.mark.parametrize("name", STRUCTURES)
def test_values_and_gradients(name):
  structure = STRUCTURES[name]
  seen = jnp.ones((B, L), bool)
  if "q_segments_BL" in structure:
    seen = SEGMENTS > 0
  weight = jnp.where(seen, 1.0, 0.0)[..., None, None]
  weight = weight * jnp.arange(1, H + 1) / H
  attend = functools.partial(attention.attend, scale=SCALE, **structure)
  ours, theirs = both(attend, arrays(), weight)
  np.testing.assert_allclose(
    jnp.where(seen[..., None, None], ours[0], 0),
    jnp.where(seen[..., None, None], theirs[0], 0),
    atol=1e-5,
  )
  for a, b in zip(ours[1:], theirs[1:], strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_prefill_on_top_of_what_is_kept():
  """Rows begin anywhere; what lies behind them in the cache is not seen."""
  q, k, v = arrays(2 * L)
  starts = np.array([0, 3, 40, L - 1])
  at = starts[:, None] + np.arange(L)

  def taken(x):
    return jnp.take_along_axis(x, jnp.asarray(at)[..., None, None], axis=1)

  new = (taken(k), taken(v))
  found = [
    attention.append(
      taken(q), new, (k, v), starts, scale=SCALE, implementation=name
    )
    for name in ("xla", "splash_interpreted")
  ]
  np.testing.assert_allclose(*found, atol=1e-5)


def test_on_a_mesh():
  """Rows and heads on eight devices, each with its own part."""
  mesh = sharding.make_mesh(fsdp=4, tensor=2)
  attend = jax.jit(
    functools.partial(
      attention.attend,
      scale=SCALE,
      implementation="splash_interpreted",
      **STRUCTURES["packed"],
    )
  )
  alone = attend(*arrays())
  with jax.set_mesh(mesh):
    spread = attend(*arrays())
  np.testing.assert_allclose(alone, spread, atol=1e-6)


@pytest.mark.parametrize(
  ("length", "dim", "bias", "placed", "expected"),
  [
    (256, 128, None, False, "splash"),
    (256, 128, None, True, "xla"),
    (256, 128, np.zeros(1), False, "xla"),
    (64, 128, None, False, "xla"),
    (256, 20, None, False, "xla"),
  ],
)
def test_auto(length, dim, bias, placed, expected):
  q = jnp.zeros((1, length, 2, dim), jnp.bfloat16)
  assert attention.choose(q, q, bias, "tpu", placed=placed) == expected


def test_a_bias_is_refused():
  with pytest.raises(ValueError, match="no bias"):
    attention.attend(
      *arrays(), bias=np.zeros(1), scale=1.0, implementation="splash"
    )


COMPILED = """
import jax, jax.numpy as jnp
jax.config.update("jax_platforms", "cpu")
from jax.sharding import NamedSharding
from refine_jax import sharding
from refine_jax.models import attention
from refine_jax.planning import topologies

axes = ("batch", None, "heads", None)

def shaped(mesh, *shape, dtype=jnp.bfloat16):
  where = sharding.spec(axes[: len(shape)], shape, mesh)
  return jax.ShapeDtypeStruct(
    shape, dtype, sharding=NamedSharding(mesh, where))

def train(q, k, v, segments):
  out = attention.attend(
    q, k, v, q_segments_BL=segments, kv_segments_BS=segments, causal=True,
    scale=0.1)
  return out.astype(jnp.float32).sum()

def prefill(q, new, kept, starts):
  return attention.append(q, new, kept, starts, scale=0.1)

for name in ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"):
  mesh = sharding.make_mesh(
    fsdp=2, tensor=2, devices=topologies.parse(name).devices())
  q, k = shaped(mesh, 4, 300, 8, 128), shaped(mesh, 4, 300, 4, 128)
  kept = shaped(mesh, 4, 500, 4, 128)
  ids = shaped(mesh, 4, 300, dtype=jnp.int32)
  starts = shaped(mesh, 4, dtype=jnp.int32)
  for function, given in (
    (jax.grad(train, (0, 1, 2)), (q, k, k, ids)),
    (prefill, (q, (k, k), (kept, kept), starts)),
  ):
    with jax.set_mesh(mesh):
      lowered = jax.jit(function).lower(*given)
    lowered.compile()
    print(lowered.as_text().count("tpu_custom_call"))
"""


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
def test_it_compiles_for_every_tpu():
  """Forward and both backward kernels, on rows and heads of four chips."""
  made = subprocess.run(
    [sys.executable, "-c", COMPILED],
    capture_output=True,
    text=True,
    env={**os.environ, "XLA_FLAGS": ""},
    timeout=240,
  )
  assert made.returncode == 0, made.stderr[-3000:]
  assert made.stdout.split() == ["3", "1"] * 4
