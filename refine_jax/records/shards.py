"""Files of records: one, or a shard of every process, read in one order."""

import collections
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from refine_jax import files
from refine_jax.records.rows import BadRow, parse, to_json

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(\.jsonl)$")


def shard(path: str | os.PathLike, process: int, of: int) -> files.Path:
  """`a/b.jsonl` -> `a/b-00001-of-00004.jsonl`; unchanged for one process."""
  path = files.path(path)
  if of == 1:
    return path
  return path.with_name(f"{path.stem}-{process:05d}-of-{of:05d}{path.suffix}")


def shards(path: str | os.PathLike) -> list[files.Path]:
  """The files that hold `path`: itself, or every one of its shards.

  Raises:
    FileNotFoundError: nothing there, or a shard of the set is missing.
  """
  path = files.path(path)
  if path.is_file():
    return [path]
  found = sorted(path.parent.glob(f"{path.stem}-*-of-*{path.suffix}"))
  sets = collections.defaultdict(set)
  for file in found:
    if match := _SHARD.search(file.name):
      sets[int(match[2])].add(int(match[1]))
  if not sets:
    raise FileNotFoundError(f"no records at {path}")
  if len(sets) > 1:
    raise FileNotFoundError(
      f"{path}: shards of several runs lie together: of {sorted(sets)}"
    )
  ((of, have),) = sets.items()
  if missing := sorted(set(range(of)) - have):
    raise FileNotFoundError(f"{path}: shard {missing[0]} of {of} is missing")
  return [shard(path, i, of) for i in range(of)]


def read(
  cls: type,
  path: str | os.PathLike,
  *,
  on_bad_row: Callable[[BadRow], None] | None = None,
) -> Iterator[Any]:
  """Records of `cls` in global order.

  Shards are dealt round robin (`write` on process p of n holds rows p, p+n,
  ...), so they are read the same way.

  Args:
    cls: a record class of this module.
    path: the unsharded name.
    on_bad_row: told of each unusable row, which is then left out; by default
      the first one is raised.

  Raises:
    FileNotFoundError: see `shards`.
    BadRow: a line that is not a record, with its file and line.
  """
  iterators = [_parsed(cls, p, on_bad_row) for p in shards(path)]
  while iterators:
    alive = []
    for iterator in iterators:
      item = next(iterator, _END)
      if item is _END:
        continue
      alive.append(iterator)
      if item is not None:
        yield item
    iterators = alive


_END = object()


def _parsed(cls, path, on_bad_row):
  with path.open("rb") as file:
    for number, line in enumerate(file, 1):
      try:
        yield parse(cls, line)
      except BadRow as error:
        error = error.at(str(path), number)
        if on_bad_row is None:
          raise error from None
        on_bad_row(error)
        yield None


def write(path: str | os.PathLike, records: Iterable[Any]) -> int:
  """Writes all records or nothing.

  Returns:
    how many were written.
  """
  count = 0
  with files.whole(path) as file:
    for record in records:
      file.write((to_json(record) + "\n").encode())
      count += 1
  return count
