"""Chunks of problems, documents or the like dealt out to the processes, and
their files joined.

What a chunk comes to may follow from where it begins, so whole chunks are
dealt, round robin. Every process appends to shards of its own; joined, they
have the order and the bytes of the file that one process writes.
"""

import contextlib
import heapq
import json
import operator
import re
from collections.abc import Container, Iterator, Sequence
from typing import Any, BinaryIO

import jax

from refine_jax import files, records
from refine_jax.stages.reading import BadConfig

# Number of the first item, and the items.
Chunk = tuple[int, Sequence[Any]]


class Chunks:
  """Those of this process, when walked over.

  Args:
    items: all processes' problems, or whatever else has an id.
    size: of a chunk.
    name: of the size, in the config.

  Attributes:
    total: how many items there are, whoever has them.

  Raises:
    BadConfig: a chunk of nothing.
  """

  def __init__(self, items: Sequence[Any], size: int, name: str = "chunk"):
    if size < 1:
      raise BadConfig(f"{name} must be positive, got {size}")
    self.total = len(items)
    self._all = [
      (start, items[start : start + size])
      for start in range(0, len(items), size)
    ]

  def __iter__(self) -> Iterator[Chunk]:
    return iter(self._all[jax.process_index() :: jax.process_count()])

  def left(self, done: Container[str]) -> list[Chunk]:
    """Those of this process of which an item's id is not among `done`."""
    return [c for c in self if not all(x.id in done for x in c[1])]

  def join(self, *paths: files.Path) -> None:
    """Makes one file of the shards of each; for the first process, once all
    are done. Shards stay, for a run that is killed before it has ended.

    A row names its problem, or has the id of the item that it is made of.
    """
    count = jax.process_count()
    if count == 1:
      return
    chunk_of = {x.id: start for start, part in self._all for x in part}
    for path in paths:
      with contextlib.ExitStack() as stack, files.whole(path) as made:
        shards = [
          stack.enter_context(records.shard(path, i, count).open("rb"))
          for i in range(count)
        ]
        # A shard's chunks come in order, and no other shard has them.
        rows = heapq.merge(
          *(_numbered(file, chunk_of) for file in shards),
          key=operator.itemgetter(0),
        )
        made.writelines(line for _, line in rows)


def _numbered(
  file: BinaryIO, chunk_of: dict[str, int]
) -> Iterator[tuple[int, bytes]]:
  for line in file:
    row = json.loads(line)
    yield chunk_of[row.get("problem", row["id"])], line


def own(path: files.Path) -> files.Path:
  """This process's shard of a file."""
  return records.shard(path, jax.process_index(), jax.process_count())


def remove(*paths: files.Path) -> None:
  """Removes the shards of files that are whole, however many there were."""
  for path in paths:
    for shard in _shards(path):
      shard.unlink(missing_ok=True)


def gather(cls: type, path: files.Path) -> None:
  """Moves the rows of all shards into the file itself, each id once.

  For rows that are worth more than their order: what a run of any number of
  processes has left is there for the next one, of any other.
  """
  shards = _shards(path)
  if not shards:
    return
  rows = {}
  for file in (path, *shards):
    records.Appender(cls, file).close()  # cuts a torn last line
    for row in records.read(cls, file):
      rows.setdefault(row.id, row)
  records.write(path, rows.values())
  remove(path)


def _shards(path: files.Path) -> list[files.Path]:
  """Of any number of processes; in a bucket some may be in parts."""
  name = re.compile(
    rf"({re.escape(path.stem)}-\d{{5}}-of-\d{{5}}{re.escape(path.suffix)})"
    r"(\.parts)?"
  )
  found = path.parent.glob(f"{path.stem}-*-of-*")
  matches = (name.fullmatch(file.name) for file in found)
  return [path.with_name(n) for n in sorted({m[1] for m in matches if m})]
