"""Corpora too large to open: rows one after another, dealt to processes."""

import gzip
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import zstandard
from etils import epath

from refine_jax import records
from refine_jax.data import formats, sources


def stream(
  source: records.Source,
  *,
  process: int = 0,
  of: int = 1,
  start: int = 0,
  block: int = 1,
) -> Iterator[tuple[int, Mapping[str, Any] | records.BadRow]]:
  """(number, row) of the rows that are this process's, from `start` on.

  Every row has exactly one: blocks of so many rows are dealt round robin. Lines
  of .jsonl(.gz/.zst) and `datasets` are read as they come; what else there is
  is opened by `data.sources`. A row that cannot be read comes as its complaint.

  Raises:
    ValueError: `process` is none of `of`.
    FileNotFoundError: no such source.
  """
  if not 0 <= process < of:
    raise ValueError(f"process {process} of {of}")
  for number, row in _rows(source):
    if number >= start and number // block % of == process:
      yield number, row() if callable(row) else row


def _rows(source: records.Source):
  """(number, row or how to get it)."""
  if source.dataset is not None:
    yield from enumerate(_of_datasets(source))
    return
  path = epath.Path(source.path) if source.path else None
  endings = [] if path is None else [s.lower() for s in path.suffixes]
  plain = [e for e in endings if e not in formats.PACKED]
  if path is not None and plain[-1:] == [".jsonl"] and path.is_file():
    yield from _lines(path, endings[-1])
    return
  rows = sources.open_rows(source)
  for number in range(len(rows)):
    yield number, lambda n=number: _row(rows, n)


def _row(rows: formats.Rows, number: int):
  try:
    return rows[number]
  except records.BadRow as error:
    return error


def _of_datasets(source: records.Source) -> Iterator[Mapping[str, Any]]:
  import datasets  # seconds; only who streams pays

  loaded = datasets.load_dataset(
    source.dataset, source.config, split=source.split or "train", streaming=True
  )
  yield from loaded


def _lines(path: epath.Path, ending: str):
  number = 0
  with path.open("rb") as file, _unpacked(file, ending) as lines:
    for line_number, line in enumerate(lines, 1):
      if not line.strip():
        continue
      yield number, lambda at=line_number, text=line: _parse(path, at, text)
      number += 1


def _unpacked(file: Any, ending: str):
  if ending == ".gz":
    return gzip.open(file)
  if ending == ".zst":
    # Large files are often written as several frames.
    reader = zstandard.ZstdDecompressor().stream_reader(
      file, read_across_frames=True
    )
    return io.BufferedReader(reader)
  return file


def _parse(path: epath.Path, line: int, text: bytes):
  try:
    row = json.loads(text)
  except ValueError as error:
    bad = records.BadRow(f"not JSON: {error}", value=text[:80])
    return bad.at(str(path), line)
  if not isinstance(row, dict):
    return records.BadRow("not an object with fields").at(str(path), line)
  return row


def field(row: Mapping[str, Any], name: str) -> Any:
  """A field, dotted where rows are nested; None if it is not there."""
  value: Any = row
  for part in name.split("."):
    if not isinstance(value, Mapping) or part not in value:
      return None
    value = value[part]
  return value
