"""Attention over kept rows: shared beginnings, branches, int8."""

import jax.numpy as jnp
import numpy as np
import pytest

from refine_jax.models import attention, cached
from refine_jax.models.cache import quantise

B, GROUPS, N, K, H, S, P, T = 6, 2, 4, 2, 8, 5, 7, 3
OWN = np.array([1, 5, 2, 3, 4, 1])
LENGTHS = np.array([7, 3])


def arrays(seed=0):
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)

  rows, prefix = (B, K, S, H), (GROUPS, K, P, H)
  return (
    normal(B, N, H),
    (normal(*rows), normal(*rows)),
    (normal(*prefix), normal(*prefix)),
  )


def joined(own, prefix, b):
  """Keys or values of slot b in one row, `[1, K, P + S, H]`."""
  g = b // (B // GROUPS)
  return jnp.concatenate(
    [prefix[g : g + 1, :, : LENGTHS[g]], own[b : b + 1]], axis=2
  )


def test_a_shared_prefix_is_part_of_every_row():
  q, own, prefix = arrays()
  bias = jnp.asarray(np.random.default_rng(1).standard_normal((B, N, S)))
  for biased in (None, bias.astype(jnp.float32)):
    found = cached.attend_cache(
      q, *own, OWN, bias=biased, scale=0.3, prefix=(*prefix, LENGTHS)
    )
    for b in range(B):
      more = LENGTHS[b // 3]
      row = None
      if biased is not None:
        row = jnp.pad(biased[b : b + 1], ((0, 0), (0, 0), (more, 0)))
      expected = cached.attend_cache(
        q[b : b + 1],
        joined(own[0], prefix[0], b),
        joined(own[1], prefix[1], b),
        more + OWN[b : b + 1],
        bias=row,
        scale=0.3,
      )
      np.testing.assert_allclose(found[b], expected[0], atol=1e-5)


def test_an_empty_prefix_is_none():
  q, own, prefix = arrays()
  empty = (*prefix, np.zeros(GROUPS, np.int32))
  np.testing.assert_allclose(
    cached.attend_cache(q, *own, OWN, scale=0.3, prefix=empty),
    cached.attend_cache(q, *own, OWN, scale=0.3),
    atol=1e-6,
  )


def test_branches_are_causal_after_their_prefix():
  rng = np.random.default_rng(2)
  q, k, v = (
    jnp.asarray(rng.standard_normal((B, T, heads, H)), jnp.float32)
    for heads in (N, K, K)
  )
  _, _, prefix = arrays()
  found = cached.attend_branch(q, k, v, (*prefix, LENGTHS), scale=0.3)
  for b in range(B):
    rows = [
      joined(x.swapaxes(1, 2), p, b).swapaxes(1, 2)
      for x, p in zip((k, v), prefix, strict=True)
    ]
    expected = attention.attend(
      q[b : b + 1],
      *rows,
      causal=True,
      q_positions_BL=LENGTHS[b // 3] + jnp.arange(T)[None],
      scale=0.3,
    )
    np.testing.assert_allclose(found[b], expected[0], atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_int8_is_near(dtype):
  q, own, prefix = arrays()
  q = q.astype(dtype)
  exact = cached.attend_cache(
    q, *own, OWN, scale=0.3, prefix=(*prefix, LENGTHS)
  )
  found = cached.attend_cache(
    q,
    *map(quantise, own),
    OWN,
    scale=0.3,
    prefix=(*map(quantise, prefix), LENGTHS),
  )
  assert found.dtype == dtype
  np.testing.assert_allclose(
    np.asarray(found, np.float32), np.asarray(exact, np.float32), atol=0.04
  )


def test_quantised_numbers_are_within_half_a_level():
  x = np.random.default_rng(3).standard_normal((2, 3, 4, 16)) * 5
  found = quantise(jnp.asarray(x, jnp.float32))
  step = np.abs(x).max(-1, keepdims=True) / 127
  assert np.all(np.abs(found.plain(jnp.float32) - x) <= step / 2 + 1e-6)
  zeros = quantise(jnp.zeros((1, 1, 1, 4)))
  np.testing.assert_array_equal(zeros.plain(jnp.float32), 0)
