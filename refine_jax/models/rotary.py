"""Sines and cosines of rotary positions (arXiv:2104.09864).

XLA on CPU fuses them into all that uses them, and so works them out again for
every head of every layer; no barrier keeps it from that. So they are numbers
known when a program is compiled: of the positions themselves, or a table to
look positions up in.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Numbers in a table, at most; beyond, sines are computed after all.
LARGEST = 1 << 20


def rotation(
  positions_BL: jax.Array | np.ndarray,
  frequencies_H: np.ndarray,
  limit: int | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Cosines and sines, float32 `[B, L, 1, frequencies]`.

  Args:
    positions_BL: a numpy array if they are known.
    frequencies_H: radians per position.
    limit: no position is as large; None if nobody can say.
  """
  if isinstance(positions_BL, np.ndarray):
    return _shaped(*_table(positions_BL[..., None] * frequencies_H))
  if limit is None or limit * len(frequencies_H) > LARGEST:
    angles_BLH = positions_BL[..., None] * jnp.asarray(frequencies_H)
    return _shaped(jnp.cos(angles_BLH), jnp.sin(angles_BLH))
  tables = _table(np.arange(limit)[:, None] * frequencies_H)
  return _shaped(
    *(jnp.take(table, positions_BL, axis=0, mode="clip") for table in tables)
  )


def _table(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  # Angles in float32 as a model computes them, their sines exactly.
  angles = angles.astype(np.float32).astype(np.float64)
  return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _shaped(cos_BLH, sin_BLH):
  return cos_BLH[:, :, None], sin_BLH[:, :, None]
