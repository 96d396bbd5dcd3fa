"""Batches as a pure function of (seed, step).

`batches[step]` is the same whatever was read before it and however many
processes read, so resuming needs the step number and nothing else. Every
epoch has its own order of rows and of batches, and its last batch is filled
up with empty rows. Batches lie in a `grain.MapDataset`.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from refine_jax.batch import Batch
from refine_jax.data import packing
from refine_jax.data.encode import EncodedExamples, collate

MODES = ("pack", "bucket", "pad")
_EMPTY = np.zeros(0, np.int64)  # a row without examples


@dataclasses.dataclass(frozen=True, eq=False)
class _Group:
  """Rows that share one static shape."""

  prompt_length: int
  target_length: int
  rows: tuple[np.ndarray, ...]  # the examples of each row


@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
  """One global batch before collation."""

  prompt_length: int
  target_length: int
  rows: tuple[np.ndarray, ...]


class Batches:
  """`Batches(examples, 32, pad_id=0, row_tokens=2048)[step] -> Batch`.

  Modes: `pack` puts many examples in a row and writes segments, so the
  number of examples in a batch varies; `bucket` pads to a few static lengths,
  all rows of a batch to the same; `pad` pads to one.

  Attributes:
    steps_per_epoch: batches that hold every example once.
    padding_fraction: of an epoch's positions, those that carry no token.
    shapes: the (P, T) that batches have; one program each.
    mine: which rows of a batch are this process's.
  """

  def __init__(
    self,
    examples: EncodedExamples,
    batch_size: int,
    *,
    pad_id: int,
    mode: str = "pack",
    seed: int = 0,
    epochs: int | None = None,
    shuffle: bool = True,
    drop_remainder: bool = False,
    row_tokens: int | None = None,
    lengths: tuple[int, int] | None = None,
    buckets: int | Sequence[tuple[int, int]] = 4,
    multiple: int = 8,
    process: tuple[int, int] = (0, 1),
  ):
    """Plans the epochs.

    Args:
      examples: what to batch.
      batch_size: rows of the global batch.
      pad_id: what padding holds.
      mode: one of MODES.
      seed: of the order, and of what is packed together.
      epochs: how many there are; None goes on for ever.
      shuffle: False keeps the order of rows (and of buckets).
      drop_remainder: leave out an epoch's last batch if it is not full.
      row_tokens: `pack`: P + T of a row, split as the data needs it.
      lengths: (P, T), instead of row_tokens or of the longest example.
      buckets: `bucket`: the (P, T) to pad to, or how many to choose.
      multiple: chosen lengths are multiples of it.
      process: (index, count); this process reads its share of every batch.

    Raises:
      ValueError: an example that does not fit, no example, a batch that does
        not divide among the processes.
    """
    if not len(examples):
      raise ValueError("there are no examples to batch")
    index, count = process
    if batch_size % count or not 0 <= index < count:
      raise ValueError(
        f"a batch of {batch_size} rows does not divide among process {index}"
        f" of {count}"
      )
    self._examples, self._pad_id = examples, pad_id
    self._packed, self._batch_size = mode == "pack", batch_size
    share = batch_size // count
    self.mine = slice(index * share, (index + 1) * share)
    groups = _groups(
      examples.lengths_N2,
      mode,
      batch_size,
      seed=seed,
      row_tokens=row_tokens,
      lengths=lengths,
      buckets=buckets,
      multiple=multiple,
    )
    self.shapes = tuple((g.prompt_length, g.target_length) for g in groups)
    self.padding_fraction = _padding(
      groups, examples.lengths_N2, batch_size, drop_remainder
    )
    self._schedule = _Schedule(
      groups, batch_size, shuffle, seed, drop_remainder, epochs
    )
    self.steps_per_epoch = self._schedule.steps_per_epoch
    if not self.steps_per_epoch:
      raise ValueError(
        f"{len(examples)} examples do not fill one batch of {batch_size}"
      )
    self._dataset = grain.MapDataset.source(self._schedule).map(self._collate)

  def __len__(self) -> int:
    """Steps in all; sys.maxsize when epochs are without end."""
    return len(self._schedule)

  def __getitem__(self, step: int) -> Batch:
    """This process's rows of the batch at `step`, as numpy arrays."""
    return self._dataset[self._checked(step)]

  def rows(self, step: int) -> list[np.ndarray]:
    """Which examples lie in each row of the global batch at `step`."""
    batch = self._schedule[self._checked(step)]
    return self._filled(batch)

  def _filled(self, batch: _Rows) -> list[np.ndarray]:
    missing = self._batch_size - len(batch.rows)
    return [*batch.rows, *[_EMPTY] * missing]

  def _checked(self, step: int) -> int:
    if not 0 <= step < len(self):
      raise IndexError(f"step {step} of {len(self)}")
    return int(step)

  def _collate(self, batch: _Rows) -> Batch:
    rows = self._filled(batch)[self.mine]
    return collate(
      [[self._examples[i] for i in row] for row in rows],
      batch.prompt_length,
      batch.target_length,
      self._pad_id,
      packed=self._packed,
    )

  def iterate(self, step: int = 0, prefetch: int = 2) -> Iterator[Batch]:
    """Batches from `step` on, `prefetch` of them made ahead by a thread."""
    options = grain.ReadOptions(
      num_threads=min(prefetch, 1), prefetch_buffer_size=prefetch
    )
    iterator = iter(self._dataset.to_iter_dataset(options))
    iterator.set_state({"next_index": step})
    try:
      yield from iterator
    finally:
      iterator.close()


class _Schedule:
  """The rows of every global batch, step by step.

  grain's own shuffle would do, but takes milliseconds per row where there are
  only a few rows.
  """

  def __init__(self, groups, batch_size, shuffle, seed, drop, epochs):
    self._groups, self._batch_size = groups, batch_size
    self._shuffle, self._seed = shuffle, seed
    # (group, first row) of each of an epoch's batches, in order of groups.
    self._starts = [
      (g, start)
      for g, group in enumerate(groups)
      for start in range(0, len(group.rows), batch_size)
      if not drop or start + batch_size <= len(group.rows)
    ]
    self.steps_per_epoch = len(self._starts)
    self._length = sys.maxsize if epochs is None else epochs * len(self._starts)
    self._epoch = functools.lru_cache(2)(self._draw)

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, step: int) -> _Rows:
    epoch, step = divmod(int(step), self.steps_per_epoch)
    batches, orders = self._epoch(epoch)
    g, start = self._starts[batches[step]]
    group, rows = self._groups[g], orders[g][start : start + self._batch_size]
    return _Rows(
      group.prompt_length,
      group.target_length,
      tuple(group.rows[row] for row in rows),
    )

  def _draw(self, epoch: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The epoch's order of batches, and of the rows of each group."""
    sizes = [len(g.rows) for g in self._groups]
    if not self._shuffle:
      return np.arange(len(self._starts)), [np.arange(n) for n in sizes]
    rng = np.random.default_rng([self._seed, epoch, 1])
    orders = [rng.permutation(n) for n in sizes]
    return rng.permutation(len(self._starts)), orders


def _padding(groups, lengths_N2, batch_size: int, drop: bool) -> float:
  """Empty positions of an epoch; on average where a remainder is dropped."""
  tokens = positions = 0.0
  for group in groups:
    count = len(group.rows)
    batches = count // batch_size if drop else -(-count // batch_size)
    used = min(batches * batch_size / count, 1.0)
    tokens += used * lengths_N2[np.concatenate(group.rows)].sum()
    shape = group.prompt_length + group.target_length
    positions += batches * batch_size * shape
  return 1.0 - tokens / max(positions, 1.0)


def _groups(
  lengths_N2, mode, batch_size, *, seed, row_tokens, lengths, buckets, multiple
) -> list[_Group]:
  if mode == "pack":
    if (row_tokens is None) == (lengths is None):
      raise ValueError("packing needs either row_tokens or lengths=(P, T)")
    if lengths is None:
      lengths = packing.capacities(lengths_N2, row_tokens, multiple)
    return [
      _Group(*lengths, packing.plan(lengths_N2, *lengths, seed=seed).rows)
    ]
  if mode == "bucket":
    if isinstance(buckets, int):
      buckets = choose_buckets(lengths_N2, buckets, multiple)
    return _bucketed(lengths_N2, buckets, batch_size)
  if mode == "pad":
    shapes = [lengths] if lengths else choose_buckets(lengths_N2, 1, multiple)
    return _bucketed(lengths_N2, shapes, batch_size)
  raise ValueError(f"mode is one of {MODES}, not {mode!r}")


def choose_buckets(
  lengths_N2: np.ndarray, number: int, multiple: int = 8
) -> list[tuple[int, int]]:
  """At most `number` nested (P, T), with the least padding among quantiles.

  The candidates are equal quantiles of prompt and of target lengths, so that
  each fits into the next; which of them to take is a shortest path.
  """
  levels = np.concatenate(
    [np.linspace(0, 0.9, 31)[1:], np.linspace(0.91, 1, 10)]
  )
  shapes_C2 = np.quantile(lengths_N2, levels, axis=0, method="higher")
  shapes_C2 = np.unique(-(-shapes_C2 // multiple) * multiple, axis=0)
  shapes_C2 = shapes_C2.astype(np.int64)
  # below_C[i]: how many examples fit candidate i; 0 before the first.
  fits_CN = (lengths_N2[None] <= shapes_C2[:, None]).all(axis=2)
  below_C = np.concatenate([[0], fits_CN.sum(axis=1)])
  cost_C = np.where(below_C == 0, 0.0, np.inf)
  cost_C[0], paths = 0.0, [[] for _ in below_C]
  for _ in range(number):
    new_cost, new_paths = cost_C.copy(), list(paths)
    for end in range(1, len(below_C)):
      counts = below_C[end] - below_C[:end]
      costs = cost_C[:end] + counts * shapes_C2[end - 1].sum()
      start = int(np.argmin(costs))
      if costs[start] < new_cost[end]:
        new_cost[end] = costs[start]
        new_paths[end] = [*paths[start], tuple(map(int, shapes_C2[end - 1]))]
    cost_C, paths = new_cost, new_paths
  return paths[-1]


def _bucketed(lengths_N2, shapes, batch_size) -> list[_Group]:
  """Examples in the smallest shape that has room for them.

  What a bucket has beyond whole batches moves up to the next one that is
  larger, so that at most one batch of an epoch is not full.
  """
  shapes = sorted((int(p), int(t)) for p, t in shapes)
  remaining = np.arange(len(lengths_N2))
  groups, carried = [], _EMPTY
  for i, shape in enumerate(shapes):
    fits = (lengths_N2[remaining] <= shape).all(axis=1)
    here, remaining = remaining[fits], remaining[~fits]
    # The longest go on; those carried here are shorter than the rest.
    order = np.argsort(lengths_N2[here].sum(axis=1), kind="stable")
    here = np.concatenate([carried, here[order]])
    carried = _EMPTY
    larger = i + 1 < len(shapes) and shapes[i + 1][1] >= shape[1]
    if larger:
      whole = len(here) // batch_size * batch_size
      here, carried = here[:whole], here[whole:]
    if len(here):
      rows = tuple(np.sort(here)[:, None])
      groups.append(_Group(*shape, rows))
  if len(remaining):
    i = remaining[0]
    raise ValueError(
      f"example {i} of {lengths_N2[i].tolist()} tokens fits none of the"
      f" lengths {shapes}"
    )
  return groups
