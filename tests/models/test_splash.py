"""The TPU's attention kernel, interpreted, against the reference path."""

import functools

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
