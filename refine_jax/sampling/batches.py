"""Rows of a batch between host and device: ids padded in, tokens drawn out."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from refine_jax.sampling import loop

Array = np.ndarray


class Decoded(NamedTuple):
  """What a batch sampled, on the host; `counts_B` says how much per row."""

  tokens_BT: Array
  logprobs_BT: Array
  model_logprobs_BT: Array
  counts_B: Array
  finish_B: Array


# Told (tokens_BT, counts_B, finish_B) between chunks; which rows to end.
Halt = Callable[[Array, Array, Array], Array]


def padded(
  rows: Sequence[Sequence[int]],
  slots: Sequence[int],
  *,
  length: int,
  number: int,
  nowhere: int,
) -> tuple[Array, Array, Array]:
  """tokens_RP, lengths_R and slots_R of so many rows, padded right.

  What exceeds `length` is left out; rows that only fill up are of length 0
  and go to the slot `nowhere`.
  """
  tokens_RP = np.zeros((number, length), np.int32)
  lengths_R = np.zeros((number,), np.int32)
  slots_R = np.full((number,), nowhere, np.int32)
  for row, (ids, slot) in enumerate(zip(rows, slots, strict=True)):
    part = ids[:length]
    tokens_RP[row, : len(part)], lengths_R[row] = part, len(part)
    slots_R[row] = slot
  return tokens_RP, lengths_R, slots_R


def drain(
  decode: Callable[[Any, Any, Any], tuple[Any, Any]],
  cache: Any,
  progress: Any,
  *,
  steps: int,
  halt: Halt | None,
  put: Callable[[Any], Any],
) -> tuple[Any, Any, Decoded, int]:
  """Decodes until no row runs.

  Args:
    decode: (cache, progress, steps) -> (cache, progress), see `loop.decode`.
    steps: between two looks of the host.
    halt: which rows to end at a look.
    put: host arrays to devices.

  Returns:
    cache, progress, what was drawn, and how often the host waited.
  """
  looks = 0
  while True:
    cache, progress = decode(cache, progress, put(np.int32(steps)))
    names = Decoded._fields
    found = jax.device_get(tuple(getattr(progress, name) for name in names))
    decoded, looks = Decoded(*found), looks + 1
    goes_on_B = decoded.finish_B == loop.RUNNING
    if halt is not None:
      goes_on_B &= ~halt(decoded.tokens_BT, decoded.counts_B, decoded.finish_B)
    if not goes_on_B.any():
      return cache, progress, decoded, looks
    halted_B = (decoded.finish_B == loop.RUNNING) & ~goes_on_B
    if halted_B.any():
      finish_B = np.where(halted_B, loop.STOP, decoded.finish_B)
      progress = progress.replace(finish_B=put(finish_B))
