"""Which examples share a row: a plan made once from an index of lengths.

A row has room for P prompt and T target tokens. Examples are shuffled by
(seed, epoch) and rows are filled one after the other from a window of the
shuffled order. With two rooms to fill, taking the first example that fits
leaves one of them empty (0.92 of positions used on GSM8K, rows of 1024), so a
row takes the one that keeps the two equally full (0.96).
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
  """Rows of example indices.

  Attributes:
    prompt_length, target_length: a row's room, P and T.
    rows: for every row the indices of its examples.
    fill: the fraction of all P + T positions that carry tokens.
  """

  prompt_length: int
  target_length: int
  rows: tuple[np.ndarray, ...]
  fill: float


def capacities(
  lengths_N2: np.ndarray, row_tokens: int, multiple: int = 8
) -> tuple[int, int]:
  """Splits a row's budget as the data's prompts and targets are to each other.

  Args:
    lengths_N2: prompt and target length of every example.
    row_tokens: P + T, rounded down to the multiple.
    multiple: P and T are multiples of it.

  Raises:
    ValueError: the longest prompt and the longest target do not fit together.
  """
  if not len(lengths_N2):
    raise ValueError("no examples to pack")
  longest = -(-lengths_N2.max(axis=0) // multiple) * multiple
  budget = row_tokens // multiple * multiple
  if budget < longest.sum():
    raise ValueError(
      f"rows of {row_tokens} tokens are too short: the longest prompt takes"
      f" {longest[0]} and the longest target {longest[1]}; use at least"
      f" {longest.sum()} or a lower limit"
    )
  prompts, targets = lengths_N2.sum(axis=0, dtype=np.int64)
  share = budget * prompts / (prompts + targets)
  P = round(share / multiple) * multiple
  P = int(np.clip(P, longest[0], budget - longest[1]))
  return P, int(budget - P)


def plan(
  lengths_N2: np.ndarray,
  prompt_length: int,
  target_length: int,
  *,
  seed: int,
  epoch: int = 0,
  window: int = 512,
) -> Plan:
  """Packs every example exactly once; the same for the same arguments.

  Args:
    lengths_N2: prompt and target length of every example.
    prompt_length, target_length: a row's room.
    seed, epoch: what the order is drawn from.
    window: how many examples a row can choose from.

  Raises:
    ValueError: an example that fits no row.
  """
  lengths_N2 = np.asarray(lengths_N2, np.int64).reshape(-1, 2)
  room = np.asarray([prompt_length, target_length])
  too_long = np.flatnonzero((lengths_N2 > room).any(axis=1))
  if len(too_long):
    i = too_long[0]
    raise ValueError(
      f"example {i} of {lengths_N2[i].tolist()} tokens fits no row of"
      f" {room.tolist()}"
    )
  order = np.random.default_rng([seed, epoch]).permutation(len(lengths_N2))
  pool = _Window(order, lengths_N2, room, window)
  rows = []
  while pool.waiting:
    rows.append(pool.take_row())
  fill = lengths_N2.sum() / max(len(rows) * room.sum(), 1)
  return Plan(prompt_length, target_length, tuple(rows), float(fill))


class _Window:
  """The next examples of the shuffled order, from which rows are filled.

  Sizes are shares of a row's two rooms; an empty slot's are infinite.
  """

  def __init__(self, order, lengths_N2, room, size):
    self._order, self._shares_N2 = order, lengths_N2 / room
    self._next = min(size, len(order))
    self._slots = order[: self._next].copy()
    self._prompt_W, self._target_W = self._shares_N2[self._slots].T.copy()
    self.waiting = len(order)

  def take_row(self) -> np.ndarray:
    free_p = free_t = 1.0 + 1e-9  # a full row may miss one by rounding
    row, slot = [], int(np.argmax(self._prompt_W < np.inf))
    while slot is not None:
      row.append(self._slots[slot])
      free_p -= self._prompt_W[slot]
      free_t -= self._target_W[slot]
      self._refill(slot)
      slot = self._choose(free_p, free_t)
    self.waiting -= len(row)
    return np.asarray(row, np.int64)

  def _refill(self, slot: int) -> None:
    if self._next < len(self._order):
      index = self._slots[slot] = self._order[self._next]
      self._prompt_W[slot], self._target_W[slot] = self._shares_N2[index]
      self._next += 1
    else:
      self._prompt_W[slot] = self._target_W[slot] = np.inf

  def _choose(self, free_p: float, free_t: float) -> int | None:
    """The slot that leaves both rooms equally full, large ones preferred."""
    p_W, t_W = self._prompt_W, self._target_W
    fits = np.flatnonzero((p_W <= free_p) & (t_W <= free_t))
    if not len(fits):
      return None
    p_W, t_W = p_W[fits], t_W[fits]
    tilt_W = np.abs((free_p - p_W) - (free_t - t_W))
    return int(fits[np.argmax(p_W + t_W - 2 * tilt_W)])
