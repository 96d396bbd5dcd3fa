"""Rows of every format behind one random-access face, with their places.

`open_rows(source)[i]` is a mapping and `.place(i)` the file and the 1-based
line (row number, where a format has no lines) it came from. A row that cannot
be read raises `records.BadRow` when it is asked for, not before, so that
`parse` can count it and go on.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from etils import epath

from refine_jax import files, records
from refine_jax.data import formats, hubs

T = TypeVar("T")
_MESSAGES = 5  # a report shows this many bad rows in full
_ROW_ERRORS = (KeyError, TypeError, ValueError, AttributeError, IndexError)


class _Joined(formats.Rows):
  """Several files as one sequence, in the order given."""

  def __init__(self, parts: Sequence[formats.Rows]):
    self._parts = parts
    self._starts = [0, *itertools.accumulate(len(p) for p in parts)]

  def __len__(self) -> int:
    return self._starts[-1]

  def _find(self, index: int) -> tuple[formats.Rows, int]:
    part = bisect.bisect_right(self._starts, index) - 1
    return self._parts[part], index - self._starts[part]

  def row(self, index: int) -> Mapping[str, Any]:
    part, index = self._find(index)
    return part.row(index)

  def place(self, index: int) -> tuple[str, int]:
    part, index = self._find(index)
    return part.place(index)


class _Dealt(formats.Rows):
  """Shards that were dealt round robin, put back into one order."""

  def __init__(self, parts: Sequence[formats.Rows]):
    self._parts = parts
    self._order = sorted(
      (row, shard) for shard, p in enumerate(parts) for row in range(len(p))
    )

  def __len__(self) -> int:
    return len(self._order)

  def row(self, index: int) -> Mapping[str, Any]:
    row, shard = self._order[index]
    return self._parts[shard].row(row)

  def place(self, index: int) -> tuple[str, int]:
    row, shard = self._order[index]
    return self._parts[shard].place(row)


def open_rows(source: records.Source) -> formats.Rows:
  """Opens a source; see `records.Source` for what it may name.

  Raises:
    FileNotFoundError: no such file; says what is in the folder.
    ValueError: an unknown format or split; says which there are.
    BadRow: a file that is broken as a whole (not JSON, not parquet).
  """
  if source.rows is not None:
    return formats.InMemory(source.rows, str(source))
  if source.dataset is not None:
    return hubs.open_dataset(source.dataset, source.split, source.config)
  if source.tfds is not None:
    return hubs.open_tfds(source.tfds, source.split, source.config)
  path = epath.Path(source.path)
  if path.is_dir():
    return hubs.open_folder(path, source.split, source.config)
  if path.exists():
    return formats.open_file(path)
  if found := _glob(path):
    return _Joined([formats.open_file(p) for p in found])
  if path.parent.is_dir():
    try:
      shards = records.shards(path)
    except FileNotFoundError as error:
      raise _missing(path, error) from None
    return _Dealt([formats.open_file(epath.Path(p)) for p in shards])
  raise _missing(path)


def _glob(path: epath.Path) -> list[epath.Path]:
  if not any(c in str(path) for c in "*?["):
    return []
  # The pattern may be in any part of the path, not only in the last.
  parts = path.parts
  first = next(i for i, p in enumerate(parts) if any(c in p for c in "*?["))
  root = epath.Path(*parts[:first]) if first else epath.Path(".")
  return sorted(root.glob("/".join(parts[first:])))


def _missing(
  path: epath.Path, reason: Exception | None = None
) -> FileNotFoundError:
  folder = path.parent
  while not files.remote(path) and not folder.is_dir():
    folder = folder.parent
  names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
  shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
  what = f"{path}: no such file" if reason is None else str(reason)
  return FileNotFoundError(f"{what}; {folder} holds: {shown or 'nothing'}")


@dataclasses.dataclass(frozen=True)
class Report:
  """What `parse` made of a source; `str()` is the line to print."""

  source: str
  kept: int
  skipped: int
  messages: tuple[str, ...] = ()

  def __str__(self) -> str:
    if not self.skipped:
      return f"{self.source}: {self.kept} rows"
    head = f"{self.source}: {self.kept} rows kept, {self.skipped} skipped:"
    rest = self.skipped - len(self.messages)
    more = [f"and {rest} more"] if rest else []
    return "\n  ".join([head, *self.messages, *more])


def parse(
  source: records.Source,
  fn: Callable[[Mapping[str, Any]], T],
  *,
  on_bad_row: str = "stop",
) -> tuple[list[T], Report]:
  """Calls `fn` (a `Task.problem`, say) on every row.

  Args:
    source: where the rows are.
    fn: raises KeyError, TypeError, ValueError, AttributeError, IndexError or
      BadRow on a row it cannot use.
    on_bad_row: `stop` raises at the first, `skip` counts them.

  Raises:
    BadRow: with file, line, field and value; under `skip` only when no row
      at all was usable.
  """
  check_policy(on_bad_row)
  results, bad, messages, first = [], 0, [], None
  for result in _parsed(open_rows(source), fn):
    if not isinstance(result, records.BadRow):
      results.append(result)
      continue
    if on_bad_row == "stop":
      raise result
    bad, first = bad + 1, first or result
    if bad <= _MESSAGES:
      messages.append(str(result))
  if bad and not results:
    # A bug in `fn` looks like this too; nothing to go on with either way.
    raise first
  return results, Report(str(source), len(results), bad, tuple(messages))


def check_policy(on_bad_row: str) -> None:
  """Raises ValueError unless `parse` knows it."""
  if on_bad_row not in ("stop", "skip"):
    raise ValueError(f"on_bad_row is 'stop' or 'skip', not {on_bad_row!r}")


def _parsed(rows: formats.Rows, fn: Callable) -> Iterator[Any]:
  for i in range(len(rows)):
    watched = None
    try:
      watched = _Watched(rows.row(i))
      yield fn(watched)
    except _ROW_ERRORS as error:
      yield _explain(error, watched).at(*rows.place(i))


class _Watched(dict):
  """A row that remembers which field was read last, for error messages."""

  last: str | None = None

  def __getitem__(self, key: str) -> Any:
    self.last = key
    return super().__getitem__(key)

  def get(self, key: str, default: Any = None) -> Any:
    self.last = key
    return super().get(key, default)


def _explain(error: Exception, row: _Watched | None) -> records.BadRow:
  """The error as a complaint about a field; the last one read, if unsaid."""
  row = _Watched() if row is None else row
  reason, field = f"{type(error).__name__}: {error}", row.last
  if isinstance(error, records.BadRow):
    if error.value is not None or error.field not in row:
      return error
    reason, field = error.reason, error.field
  elif isinstance(error, KeyError) and error.args[:1] == (row.last,):
    reason = f"is missing; the row has {sorted(map(str, row))}"
  bad = records.BadRow(
    reason, field=field, value=row.get(field) if field else dict(row)
  )
  bad.__cause__ = error
  return bad
