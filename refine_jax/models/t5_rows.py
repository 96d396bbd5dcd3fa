"""How targets become decoder inputs, packed or one to a row."""

import jax
import jax.numpy as jnp


def shift(
  target_BT: jax.Array, segments_BT: jax.Array | None, start: int
) -> tuple[jax.Array, jax.Array | None]:
  """Decoder inputs: each example's target one to the right, after `start`."""
  shifted_BT = jnp.pad(target_BT[:, :-1], ((0, 0), (1, 0)))
  if segments_BT is None:
    return shifted_BT.at[:, 0].set(start), None
  return jnp.where(_begins(segments_BT), start, shifted_BT), segments_BT


def extend(
  target_BT: jax.Array, segments_BT: jax.Array | None, start: int
) -> tuple[jax.Array, jax.Array | None, jax.Array]:
  """Decoder inputs with room for `start` before each example's whole target.

  Returns:
    inputs, their segments, and where each position of the target went.
    Without segments rows grow by one; with them they double, because every
    position could be an example of its own.
  """
  batch, length = target_BT.shape
  if segments_BT is None:
    inputs = jnp.pad(target_BT, ((0, 0), (1, 0)), constant_values=start)
    at_BT = jnp.broadcast_to(jnp.arange(1, length + 1), target_BT.shape)
    return inputs, None, at_BT
  begins_BT = _begins(segments_BT)
  at_BT = jnp.arange(length) + jnp.cumsum(begins_BT, axis=1)
  rows_B1 = jnp.arange(batch)[:, None]
  inputs = jnp.full((batch, 2 * length), start, target_BT.dtype)
  inputs = inputs.at[rows_B1, at_BT].set(target_BT)
  segments = jnp.zeros((batch, 2 * length), segments_BT.dtype)
  segments = segments.at[rows_B1, at_BT].set(segments_BT)
  before_BT = jnp.where(begins_BT, at_BT - 1, 2 * length)
  segments = segments.at[rows_B1, before_BT].set(segments_BT, mode="drop")
  return inputs, segments, at_BT


def _begins(segments_BT: jax.Array) -> jax.Array:
  before_BT = jnp.pad(segments_BT[:, :-1], ((0, 0), (1, 0)))
  return (segments_BT != before_BT) & (segments_BT != 0)
