"""Cross-entropy over a large vocabulary that never holds all logits.

Each chunk's logits are made once: their gradient has a closed form, so it is
pushed back through the unembedding while they still exist, instead of making
them again in the backward pass.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from refine_jax.algorithms import logprobs
from refine_jax.algorithms.logprobs import Unembed

REDUCTIONS = ("token", "sequence")


class Xent(NamedTuple):
  """Weighted sums over a batch; the loss is `nll / weight`.

  Attributes:
    nll: of `w * loss` (with label smoothing: of the smoothed loss).
    weight: of `w`.
    correct: of `w` where the target has the largest logit. No gradient.
  """

  nll: jax.Array
  weight: jax.Array
  correct: jax.Array


def weights(
  mask_BT: jax.Array, reduction: str, segments_BT: jax.Array | None = None
) -> jax.Array:
  """Token weights under which `sum(w * nll) / sum(w)` is the reduction.

  Args:
    mask_BT: which tokens count.
    reduction: `token`, the mean over all tokens; `sequence`, the mean over
      sequences of each one's mean over its tokens. A sequence of which nothing
      counts is left out.
    segments_BT: for packed rows, the sequence each token belongs to, from 1.
  """
  if reduction not in REDUCTIONS:
    raise ValueError(f"reduction is one of {REDUCTIONS}, got {reduction!r}")
  mask_BT = mask_BT.astype(jnp.float32)
  if reduction == "token":
    return mask_BT
  if segments_BT is None:
    return mask_BT / jnp.maximum(mask_BT.sum(-1, keepdims=True), 1)
  # A row of length T has at most T sequences.
  rows_B1 = jnp.arange(mask_BT.shape[0])[:, None]
  empty_BS = jnp.zeros((mask_BT.shape[0], mask_BT.shape[1] + 1))
  counts_BS = empty_BS.at[rows_B1, segments_BT].add(mask_BT)
  return mask_BT / jnp.maximum(counts_BS[rows_B1, segments_BT], 1)


def xent(
  unembed: Unembed,
  hidden_BTD: jax.Array,
  targets_BT: jax.Array,
  mask_BT: jax.Array,
  *,
  chunk: int | None = None,
  label_smoothing: float = 0.0,
  reduction: str = "token",
  segments_BT: jax.Array | None = None,
) -> Xent:
  """Cross-entropy as a numerator and a denominator, float32.

  With label smoothing e the target distribution is `(1 - e) onehot + e / V`.
  Differentiable once, in reverse, in `hidden_BTD` and in whatever `unembed`
  closes over.

  Args:
    unembed: makes logits of hidden states.
    hidden_BTD: `hidden[:, t]` predicts `targets[:, t]`.
    targets_BT: int ids; anything where the mask is False.
    mask_BT: which targets count.
    chunk: tokens whose logits exist at a time; None for all at once.
    label_smoothing: e.
    reduction: see `weights`.
    segments_BT: see `weights`.
  """
  weights_BT = weights(mask_BT, reduction, segments_BT)
  columns = logprobs.columns_of(chunk, *targets_BT.shape)
  shape = jax.ShapeDtypeStruct(
    (hidden_BTD.shape[0], columns, *hidden_BTD.shape[2:]), hidden_BTD.dtype
  )
  function, closed = jax.closure_convert(unembed, shape)
  nll, correct = _sums(
    function,
    label_smoothing,
    columns,
    closed,
    hidden_BTD,
    targets_BT,
    weights_BT,
  )
  return Xent(nll, weights_BT.sum(), jax.lax.stop_gradient(correct))


def _score(smoothing, logits_BTV, targets_BT, weights_BT):
  """`((sum of nll, number correct), log-normaliser)` of some logits."""
  logits_BTV = logits_BTV.astype(jnp.float32)
  norm_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
  target_BT = logprobs.at(logits_BTV, targets_BT)
  nll_BT = norm_BT - (1 - smoothing) * target_BT
  if smoothing:
    nll_BT -= smoothing * logits_BTV.mean(-1)
  # A tie counts as correct: comparing costs nothing beside the log-sum-exp,
  # where an argmax is a second and slower reduction.
  correct_BT = target_BT >= logits_BTV.max(-1)
  sums = (nll_BT * weights_BT).sum(), (correct_BT * weights_BT).sum()
  return sums, norm_BT


def _score_and_gradient(
  function, smoothing, closed, hidden_BTD, targets_BT, weights_BT
):
  """The sums, and the gradients of the first in `closed` and the hidden."""
  logits_BTV, pull = jax.vjp(function, hidden_BTD, *closed)
  sums, norm_BT = _score(smoothing, logits_BTV, targets_BT, weights_BT)
  size = logits_BTV.shape[-1]
  wanted_BTV = (1 - smoothing) * logprobs.one_hot(targets_BT, size)
  wanted_BTV += smoothing / size
  softmax_BTV = jnp.exp(logits_BTV.astype(jnp.float32) - norm_BT[..., None])
  d_BTV = (softmax_BTV - wanted_BTV) * weights_BT[..., None]
  d_BTD, *d_closed = pull(d_BTV.astype(logits_BTV.dtype))
  return sums, d_closed, d_BTD


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _sums(function, smoothing, columns, closed, *arrays):
  """`(sum of nll, number correct)`, one chunk of columns after the other."""

  def one(hidden_BTD, targets_BT, weights_BT):
    logits_BTV = function(hidden_BTD, *closed)
    return _score(smoothing, logits_BTV, targets_BT, weights_BT)[0]

  if columns == arrays[1].shape[1]:
    return one(*arrays)
  zeros = (jnp.zeros(()),) * 2
  xs = tuple(logprobs.cut(x, columns) for x in arrays)
  return jax.lax.scan(lambda c, x: (_add(c, one(*x)), None), zeros, xs)[0]


def _sums_forward(function, smoothing, columns, closed, *arrays):
  one = partial(_score_and_gradient, function, smoothing, closed)
  if columns == arrays[1].shape[1]:
    sums, d_closed, d_BTD = one(*arrays)
    return sums, (d_closed, d_BTD)

  def step(carry, xs):
    sums, d_closed, d_BTD = one(*xs)
    return _add(carry, (sums, _float32(d_closed))), d_BTD

  zeros = (jnp.zeros(()),) * 2, jax.tree.map(jnp.zeros_like, _float32(closed))
  xs = tuple(logprobs.cut(x, columns) for x in arrays)
  (sums, d_closed), d_CBTD = jax.lax.scan(step, zeros, xs)
  d_closed = [d.astype(x.dtype) for d, x in zip(d_closed, closed, strict=True)]
  return sums, (d_closed, logprobs.join(d_CBTD, arrays[1].shape[1]))


def _sums_backward(function, smoothing, columns, residuals, cotangents):
  d_closed, d_BTD = jax.tree.map(
    lambda d: (d * cotangents[0]).astype(d.dtype), residuals
  )
  return d_closed, d_BTD, None, None


_sums.defvjp(_sums_forward, _sums_backward)


def _add(a: Any, b: Any) -> Any:
  return jax.tree.map(jnp.add, a, b)


def _float32(tree: Any) -> Any:
  return jax.tree.map(lambda x: x.astype(jnp.float32), tree)
