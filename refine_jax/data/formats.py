"""File formats as random-access rows: json, jsonl, csv, parquet."""

import abc
import csv
import functools
import gzip
import io
import json
import mmap
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import zstandard
from etils import epath

from refine_jax import files, records

_BLOCK = 1024  # parquet rows are turned into Python objects in such blocks


class Rows(abc.ABC, Sequence):
  """Random access to rows; `place(i)` says where row `i` came from."""

  @abc.abstractmethod
  def __len__(self) -> int: ...

  @abc.abstractmethod
  def row(self, index: int) -> Mapping[str, Any]:
    """Row `index`, 0 <= index < len; raises BadRow if it cannot be read."""

  @abc.abstractmethod
  def place(self, index: int) -> tuple[str, int]:
    """The file, and the 1-based line, or row number where there are none."""

  def __getitem__(self, index):
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    if not -len(self) <= index < len(self):
      raise IndexError(f"row {index} of {len(self)}")
    index = int(index) % len(self)
    try:
      return self.row(index)
    except records.BadRow as error:
      raise error.at(*self.place(index)) from None


class InMemory(Rows):
  """Any sequence of mappings; places count from 1 unless lines are given."""

  def __init__(
    self,
    rows: Sequence[Mapping[str, Any]],
    name: str,
    lines: Sequence[int] | None = None,
  ):
    self._rows, self._name, self._lines = rows, name, lines

  def __len__(self) -> int:
    return len(self._rows)

  def row(self, index: int) -> Mapping[str, Any]:
    row = self._rows[index]
    if isinstance(row, records.BadRow):
      raise row
    return _object(row)

  def place(self, index: int) -> tuple[str, int]:
    return self._name, self._lines[index] if self._lines else index + 1


def _object(row: Any) -> Mapping[str, Any]:
  if not isinstance(row, Mapping):
    raise records.BadRow("not an object with fields", value=row)
  return row


class _JsonLines(Rows):
  """One JSON object per line; blank lines are no rows. Parsed when asked."""

  def __init__(self, name: str, data: bytes | mmap.mmap):
    self._name, self._data = name, data
    starts, lines, position, line = [], [], 0, 0
    while position < len(data):
      end = data.find(b"\n", position)
      end = len(data) if end < 0 else end
      line += 1
      if data[position:end].strip():
        starts.append((position, end))
        lines.append(line)
      position = end + 1
    self._spans = np.asarray(starts, np.int64).reshape(-1, 2)
    self._lines = np.asarray(lines, np.int64)

  def __len__(self) -> int:
    return len(self._spans)

  def row(self, index: int) -> Mapping[str, Any]:
    start, end = self._spans[index]
    data = self._data[start:end]
    try:
      return _object(json.loads(data))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
      raise records.BadRow(f"not JSON: {error}", value=data) from None

  def place(self, index: int) -> tuple[str, int]:
    return self._name, int(self._lines[index])


def _json(name: str, data: bytes) -> Rows:
  """A list of objects; a row's line is where its object begins."""
  text = _decode(name, data)
  decoder, space = json.JSONDecoder(), re.compile(r"[\s,]*")
  try:
    whole = json.loads(text)  # the grammar is checked here, once
  except json.JSONDecodeError as error:
    raise records.BadRow(
      f"not JSON: {error.msg}",
      file=name,
      line=error.lineno,
      value=text[max(error.pos - 40, 0) : error.pos + 40],
    ) from None
  if not isinstance(whole, list):
    raise records.BadRow(
      f"expected a list of objects, not {type(whole).__name__}",
      file=name,
      line=1,
    )
  position, line, lines = text.index("[") + 1, 1, []
  line += text.count("\n", 0, position)
  for _ in whole:
    start = space.match(text, position).end()
    line += text.count("\n", position, start)
    lines.append(line)
    _, position = decoder.raw_decode(text, start)
    line += text.count("\n", start, position)
  return InMemory(whole, name, lines)


def _csv(name: str, data: bytes) -> Rows:
  """A header and rows; a row with a field too many or too few is a bad row."""
  # Broken bytes become surrogates, so that only the rows they are in are bad.
  text = data.decode("utf-8-sig", errors="surrogateescape")
  csv.field_size_limit(2**31 - 1)
  reader = csv.reader(io.StringIO(text, newline=""), strict=True)
  header, rows, lines = next(reader, None), [], []
  if not header:
    raise records.BadRow("no header line", file=name, line=1)
  while True:
    line = reader.line_num + 1
    try:
      values = next(reader)
    except StopIteration:
      break
    except csv.Error as error:
      rows.append(records.BadRow(f"not CSV: {error}"))
    else:
      if not values:
        continue  # a blank line
      rows.append(_csv_row(header, values))
    lines.append(line)
  return InMemory(rows, name, lines)


def _csv_row(header: list[str], values: list[str]):
  if len(values) != len(header):
    short = len(values) < len(header)
    return records.BadRow(
      f"{len(values)} values for {len(header)} columns",
      field=header[len(values)] if short else None,
      value=values,
    )
  for key, value in zip(header, values, strict=True):
    if not value.isascii() and re.search("[\udc80-\udcff]", value):
      raw = value.encode("utf-8", "surrogateescape")
      return records.BadRow("not UTF-8", field=key, value=raw)
  return dict(zip(header, values, strict=True))


class _Parquet(Rows):
  """A parquet file; columns stay in Arrow's memory."""

  def __init__(self, name: str, data: bytes):
    self._name = name
    try:
      self._table = pyarrow.parquet.read_table(pyarrow.BufferReader(data))
    except pyarrow.ArrowInvalid as error:
      raise records.BadRow(f"not parquet: {error}", file=name) from None
    self._block = functools.lru_cache(4)(self._read_block)

  def _read_block(self, block: int) -> list[dict[str, Any]]:
    return self._table.slice(block * _BLOCK, _BLOCK).to_pylist()

  def __len__(self) -> int:
    return self._table.num_rows

  def row(self, index: int) -> Mapping[str, Any]:
    return self._block(index // _BLOCK)[index % _BLOCK]

  def place(self, index: int) -> tuple[str, int]:
    return self._name, index + 1


def _decode(name: str, data: bytes) -> str:
  try:
    return data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    line = data.count(b"\n", 0, error.start) + 1
    raise records.BadRow(
      f"not UTF-8: {error.reason}",
      file=name,
      line=line,
      value=data[error.start : error.end],
    ) from None


FORMATS = {
  ".json": _json,
  ".jsonl": _JsonLines,
  ".csv": _csv,
  ".parquet": _Parquet,
}
PACKED = (".gz", ".zst")


def open_file(path: epath.Path) -> Rows:
  """Opens one file by its ending, `.gz` and `.zst` unpacked in memory.

  Raises:
    ValueError: an ending that is not known.
    BadRow: a file that cannot be read as what its name says.
  """
  endings = [s.lower() for s in path.suffixes]
  packed = endings.pop() if endings and endings[-1] in PACKED else None
  reader = FORMATS.get(endings[-1] if endings else "")
  if reader is None:
    raise ValueError(
      f"{path}: unknown format; known are {', '.join(FORMATS)}, also with"
      f" {' or '.join(PACKED)}"
    )
  return reader(str(path), _read(path, packed))


def _read(path: epath.Path, packed: str | None) -> bytes | mmap.mmap:
  local = not files.remote(path)
  if packed is None and local and path.suffix == ".jsonl":
    with open(path, "rb") as f:
      if f.seek(0, io.SEEK_END):  # an empty file cannot be mapped
        return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
      return b""
  data = path.read_bytes()
  try:
    if packed == ".gz":
      return gzip.decompress(data)
    if packed == ".zst":
      with zstandard.ZstdDecompressor().stream_reader(
        io.BytesIO(data), read_across_frames=True
      ) as f:
        return f.read()
  except (OSError, EOFError, zstandard.ZstdError) as error:
    raise records.BadRow(f"not {packed}: {error}", file=str(path)) from None
  return data
