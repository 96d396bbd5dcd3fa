"""Sines from tables against sines computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from refine_jax.models import rotary

FREQUENCIES = (1.0 / 1e4 ** (np.arange(4) / 4)).astype(np.float32)


def plain(positions_BL):
  angles = np.float32(positions_BL)[..., None, None] * FREQUENCIES
  return np.cos(np.float64(angles)), np.sin(np.float64(angles))


@pytest.mark.parametrize("limit", [None, 300])
def test_positions_that_are_computed(limit):
  """With a limit from a table, without one on the spot: the same numbers."""
  positions_BL = np.random.default_rng(0).integers(0, 300, (3, 7))
  found = jax.jit(lambda p: rotary.rotation(p, FREQUENCIES, limit))(
    jnp.asarray(positions_BL)
  )
  for ours, exact in zip(found, plain(positions_BL), strict=True):
    assert ours.shape == (3, 7, 1, 4) and ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, exact, atol=2e-7)


def test_positions_that_are_known():
  positions_BL = np.arange(5)[None]
  found = rotary.rotation(positions_BL, FREQUENCIES)
  for ours, exact in zip(found, plain(positions_BL), strict=True):
    assert isinstance(ours, np.ndarray) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, exact, atol=6e-8)


def test_no_program_computes_sines_of_few_positions():
  """They would be computed again for every head and layer."""

  def sines(limit):
    def rotation(positions_BL):
      return rotary.rotation(positions_BL, FREQUENCIES, limit)

    return str(jax.make_jaxpr(rotation)(jnp.zeros((2, 3), int))).count("= sin")

  assert [sines(n) for n in (100, rotary.LARGEST, None)] == [0, 1, 1]
