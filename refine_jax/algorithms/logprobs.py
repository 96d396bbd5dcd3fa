"""Log-probabilities of targets over a large vocabulary, a chunk at a time."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Hidden states of any leading dimensions -> logits, `[..., D]` -> `[..., V]`.
Unembed = Callable[[jax.Array], jax.Array]


@jax.custom_vjp
def of_targets(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
  """`log softmax(logits)` at the targets, float32."""
  return _forward(logits_BTV, targets_BT)[0]


def _forward(logits_BTV, targets_BT):
  logits_BTV = logits_BTV.astype(jnp.float32)
  norm_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
  return at(logits_BTV, targets_BT) - norm_BT, (logits_BTV, norm_BT, targets_BT)


def _backward(residuals, d_BT):
  # Written out, because the gather's own transpose is a scatter into zeros of
  # the logits' size.
  logits_BTV, norm_BT, targets_BT = residuals
  d_BTV = one_hot(targets_BT, logits_BTV.shape[-1]) - jnp.exp(
    logits_BTV - norm_BT[..., None]
  )
  return d_BTV * d_BT[..., None], None


of_targets.defvjp(_forward, _backward)


def at(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
  """The logits of the targets, `[B, T]`."""
  return jnp.take_along_axis(logits_BTV, targets_BT[..., None], -1)[..., 0]


def one_hot(targets_BT: jax.Array, size: int) -> jax.Array:
  """Float32 rows with a one at each target, a form that XLA fuses."""
  return (jnp.arange(size) == targets_BT[..., None]).astype(jnp.float32)


def logprobs(
  unembed: Unembed,
  hidden_BTD: jax.Array,
  targets_BT: jax.Array,
  *,
  chunk: int | None = None,
  temperature: jax.Array | float = 1.0,
) -> jax.Array:
  """Per-token log-probabilities of the targets, `[B, T]` float32.

  Args:
    unembed: makes logits of hidden states.
    hidden_BTD: `hidden[:, t]` predicts `targets[:, t]`.
    targets_BT: int ids; positions that do not exist get a value, too.
    chunk: tokens whose logits exist at a time, forwards and backwards; None
      for all at once.
    temperature: divides the logits.
  """

  def one(hidden_BTD, targets_BT):
    logits_BTV = unembed(hidden_BTD).astype(jnp.float32)
    return of_targets(logits_BTV / temperature, targets_BT)

  columns = columns_of(chunk, *targets_BT.shape)
  if columns == targets_BT.shape[1]:
    return one(hidden_BTD, targets_BT)
  one = jax.checkpoint(one)
  _, out_CBT = jax.lax.scan(
    lambda carry, xs: (carry, one(*xs)),
    None,
    (cut(hidden_BTD, columns), cut(targets_BT, columns)),
  )
  return join(out_CBT, targets_BT.shape[1])


def columns_of(chunk: int | None, rows: int, length: int) -> int:
  """How many positions of every row make a chunk of about `chunk` tokens.

  Chunks are cut along T, so that each holds every row: with rows sharded over
  devices, chunks of whole rows would leave all devices but one idle.
  """
  if chunk is not None and chunk < 1:
    raise ValueError(f"chunk must be positive, got {chunk}")
  if chunk is None or rows * length <= chunk:
    return length
  pieces = math.ceil(length / max(1, chunk // rows))
  return math.ceil(length / pieces)


def cut(x_BT: jax.Array, columns: int) -> jax.Array:
  """`[B, T, ...]` -> `[C, B, columns, ...]`, the last chunk filled with 0."""
  pieces = math.ceil(x_BT.shape[1] / columns)
  fill = [(0, 0)] * x_BT.ndim
  fill[1] = (0, pieces * columns - x_BT.shape[1])
  x_BT = jnp.pad(x_BT, fill)
  shape = (x_BT.shape[0], pieces, columns, *x_BT.shape[2:])
  return jnp.moveaxis(x_BT.reshape(shape), 1, 0)


def join(x_CBT: jax.Array, length: int) -> Any:
  """The inverse of `cut`."""
  x_BCT = jnp.moveaxis(x_CBT, 0, 1)
  shape = (x_BCT.shape[0], -1, *x_BCT.shape[3:])
  return x_BCT.reshape(shape)[:, :length]
