"""Prompt and target as one row: how decoder-only families read a Batch."""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from refine_jax.batch import Batch, Output


@flax.struct.dataclass
class Rows:
  """A Batch as a decoder reads it: prompt and target joined, padded right.

  Attributes:
    tokens_BL: ordered by segment, prompt before target.
    segments_BL: None for one example per row: right padding follows every
      real token, so that causality hides it.
    positions_BL: from 0 in every segment; a numpy array `[1, L]` for one
      example per row: then they are known.
    order_BL: where in prompt + target each token stood.
    rank_BL: its inverse, where in the row each prompt or target token went.
  """

  tokens_BL: jax.Array
  segments_BL: jax.Array | None
  positions_BL: jax.Array | np.ndarray
  order_BL: jax.Array
  rank_BL: jax.Array


def compact(batch: Batch) -> Rows:
  """Joins prompts and targets and moves all padding to the right."""
  join = functools.partial(jnp.concatenate, axis=1)
  tokens_BL = join([batch.prompt_BP, batch.target_BT])
  exists_BL = join([batch.prompt_mask_BP, batch.target_mask_BT])
  packed = batch.prompt_segments_BP is not None
  segments_BL = exists_BL.astype(jnp.int32)
  if packed:
    segments_BL *= join([batch.prompt_segments_BP, batch.target_segments_BT])
  last = jnp.iinfo(jnp.int32).max
  order_BL = jnp.argsort(
    jnp.where(segments_BL == 0, last, segments_BL), axis=1, stable=True
  )
  rank_BL = jnp.argsort(order_BL, axis=1)
  tokens_BL = jnp.take_along_axis(tokens_BL, order_BL, axis=1)
  index_L = np.arange(tokens_BL.shape[1])
  if not packed:
    return Rows(tokens_BL, None, index_L[None], order_BL, rank_BL)
  segments_BL = jnp.take_along_axis(segments_BL, order_BL, axis=1)
  new_BL = jnp.diff(segments_BL, axis=1, prepend=-1) != 0
  start_BL = jax.lax.cummax(jnp.where(new_BL, index_L, 0), axis=1)
  return Rows(tokens_BL, segments_BL, index_L - start_BL, order_BL, rank_BL)


@jax.custom_vjp
def _gather(x_BLD, rank_BT, order_BL):
  """Rows `rank_BT` of x, the last T of the permutation `order_BL` undoes."""
  return jnp.take_along_axis(x_BLD, rank_BT[..., None], axis=1)


def _gather_forward(x_BLD, rank_BT, order_BL):
  return _gather(x_BLD, rank_BT, order_BL), order_BL


def _gather_backward(order_BL, g_BTD):
  # Ranks are a permutation, so the gradient is a gather too: autodiff would
  # make a scatter of it, which is serial on CPU and slow elsewhere.
  front = order_BL.shape[1] - g_BTD.shape[1]
  g_BLD = jnp.pad(g_BTD, ((0, 0), (front, 0), (0, 0)))
  return jnp.take_along_axis(g_BLD, order_BL[..., None], axis=1), None, None


_gather.defvjp(_gather_forward, _gather_backward)


def spread(x_BLD: jax.Array, rows: Rows, length: int) -> Output:
  """States of compact rows, put back to where the target's tokens stand.

  A target token without any token before it is predicted by zeros: there is
  no state that has not seen it.
  """
  before_BLD = jnp.pad(x_BLD[:, :-1], ((0, 0), (1, 0), (0, 0)))
  first_BL = jnp.broadcast_to(rows.positions_BL == 0, x_BLD.shape[:2])
  before_BLD = jnp.where(first_BL[..., None], 0, before_BLD)
  rank_BT = rows.rank_BL[:, rows.rank_BL.shape[1] - length :]
  return Output(
    _gather(before_BLD, rank_BT, rows.order_BL),
    _gather(x_BLD, rank_BT, rows.order_BL),
  )
