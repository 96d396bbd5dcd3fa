"""Rows of published data sets: local files, or a `datasets` name.

A split's rows are looked for as `<folder>/<split>.jsonl`, `.json`, `.csv` or
`.parquet`, then as a folder `<folder>/<split>` of small json files, one object
each; unless a `datasets` name is given.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from refine_jax import records
from refine_jax.tasks import tables

_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
Row = dict[str, Any]


class Published(Sequence[Mapping[str, Any]]):
  """One split, read on first use; rows have `id`, `line` and what they had.

  Args:
    folder: where local files are.
    split: the name of the file, folder or split.
    dataset: a `datasets` name, read instead of the folder.
    config: its configuration name.
    name: what ids begin with.
    keep: which rows stay.

  Raises (on first use):
    FileNotFoundError: neither file nor folder; says what was looked for.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    split: str,
    *,
    name: str,
    dataset: str | None = None,
    config: str | None = None,
    keep: Callable[[Row], bool] | None = None,
  ):
    self._folder, self._split, self._name = folder, split, name
    self._dataset, self._config, self._keep = dataset, config, keep
    self._rows: list[Row] | None = None

  def __str__(self) -> str:
    if self._dataset:
      return f"{self._dataset} {self._split}"
    return str(self._folder / self._split)

  def _load(self) -> list[Row]:
    if self._rows is None:
      rows = self._hub() if self._dataset else _local(self._folder, self._split)
      named = (
        {"id": f"{self._name}-{self._split}-{i}", "line": i + 1, **row}
        for i, row in enumerate(rows)
      )
      self._rows = [r for r in named if self._keep is None or self._keep(r)]
    return self._rows

  def _hub(self) -> list[Row]:
    import datasets  # takes seconds

    table = datasets.load_dataset(
      self._dataset, self._config, split=self._split
    )
    return table.to_list()

  def __len__(self) -> int:
    return len(self._load())

  def __getitem__(self, index):
    return self._load()[index]


def _local(folder: pathlib.Path, split: str) -> list[Row]:
  for ending in _ENDINGS:
    path = folder / f"{split}{ending}"
    if path.is_file():
      return _parquet(path) if ending == ".parquet" else tables.read(path)
  if (folder / split).is_dir():
    paths = sorted((folder / split).rglob("*.json"))
    return [_single(path) for path in paths]
  tried = ", ".join(f"{split}{ending}" for ending in _ENDINGS)
  raise FileNotFoundError(
    f"{folder} holds none of {tried}, {split}/*.json; see docs/data_formats.md"
  )


def _single(path: pathlib.Path) -> Row:
  try:
    row = json.loads(path.read_text(encoding="utf-8"))
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise records.BadRow(f"not JSON: {error}", file=str(path)) from None
  if not isinstance(row, dict):
    raise records.BadRow("not an object", file=str(path))
  return {"id": "-".join(path.with_suffix("").parts[-3:]), **row}


def _parquet(path: pathlib.Path) -> list[Row]:
  import pyarrow.parquet

  return pyarrow.parquet.read_table(path).to_pylist()


def share(text: str, seed: int = 0) -> float:
  """A place in [0, 1) for a text: equal ones fall on the same side."""
  digest = hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=8).digest()
  return int.from_bytes(digest, "little") / 2**64
