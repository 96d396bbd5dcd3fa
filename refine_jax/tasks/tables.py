"""Rows of small files, read on first use, with an id and a line each."""

import csv
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from refine_jax import records

Row = dict[str, Any]


class Table(Sequence[Mapping[str, Any]]):
  """The rows of a csv, json or jsonl file that `keep` keeps.

  Every row gains `id` (`<name>-<number>`, unless it has one) and `line`, see
  `read`.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    name: str,
    keep: Callable[[Row], bool] | None = None,
    start: int = 0,
    stop: int | None = None,
  ):
    self.path = pathlib.Path(path)
    self._name, self._keep = name, keep
    self._slice = slice(start, stop)
    self._rows: list[Row] | None = None

  def _load(self) -> list[Row]:
    if self._rows is None:
      rows = [
        {"id": f"{self._name}-{i}", **row}
        for i, row in enumerate(read(self.path))
      ]
      rows = rows[self._slice]
      self._rows = [r for r in rows if self._keep is None or self._keep(r)]
    return self._rows

  def __len__(self) -> int:
    return len(self._load())

  def __getitem__(self, index):
    return self._load()[index]


def read(path: str | os.PathLike) -> list[Row]:
  """All rows of a .csv (with a header), .json (a list of objects) or .jsonl.

  Each has its `line`, from 1: in json, which has none, the row's number.

  Raises:
    FileNotFoundError, or records.BadRow where the file is not of its format.
  """
  path = pathlib.Path(path)
  with open(path, encoding="utf-8", newline="") as f:
    if path.suffix == ".csv":
      reader = csv.DictReader(f)
      return [{**row, "line": reader.line_num} for row in reader]
    if path.suffix == ".jsonl":
      return [_line(path, i, text) for i, text in enumerate(f) if text.strip()]
    try:
      rows = json.load(f)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
      raise records.BadRow(f"not JSON: {error}", file=str(path)) from None
  if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
    raise records.BadRow("not a list of objects", file=str(path))
  return [{**row, "line": i + 1} for i, row in enumerate(rows)]


def _line(path: pathlib.Path, index: int, text: str) -> Row:
  try:
    row = json.loads(text)
  except json.JSONDecodeError as error:
    reason = f"not JSON: {error}"
  else:
    if isinstance(row, dict):
      return {**row, "line": index + 1}
    reason = "not an object"
  raise records.BadRow(reason, file=str(path), line=index + 1, value=text)


def field(row: Mapping[str, Any], name: str, kind: type | tuple = str) -> Any:
  """`row[name]`, checked; raises `records.BadRow` naming line and field."""
  value = row.get(name)
  if not isinstance(value, kind):
    raise bad(row, "missing or of the wrong type", name, value)
  return value


def bad(row: Mapping[str, Any], reason: str, name: str, value: Any):
  """A `records.BadRow` that knows its line."""
  return records.BadRow(reason, line=row.get("line"), field=name, value=value)
