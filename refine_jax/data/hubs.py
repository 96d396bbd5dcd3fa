"""Rows of Hugging Face `datasets` and TensorFlow Datasets.

Both libraries take a second or more to import, so they are imported where
they are used. TensorFlow Datasets is read through `as_data_source`, which
needs array_record and no TensorFlow.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from refine_jax.data import formats


class _Library(formats.Rows):
  """A library's random-access table; values become plain Python objects."""

  def __init__(self, rows: Sequence[Mapping[str, Any]], name: str):
    self._rows, self._name = rows, name

  def __len__(self) -> int:
    return len(self._rows)

  def row(self, index: int) -> Mapping[str, Any]:
    return {k: _plain(v) for k, v in self._rows[index].items()}

  def place(self, index: int) -> tuple[str, int]:
    return self._name, index + 1


def _plain(value: Any) -> Any:
  """bytes to text where they are text, numpy scalars to Python's; deep."""
  if isinstance(value, bytes):
    try:
      return value.decode("utf-8")
    except UnicodeDecodeError:
      return value
  if isinstance(value, np.generic):
    return _plain(value.item())
  if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":
    return _plain(value.tolist())
  if isinstance(value, Mapping):
    return {k: _plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(v) for v in value]
  return value


def open_dataset(name: str, split: str | None, config: str | None):
  """A `datasets` name, a folder of data files or one of `save_to_disk`."""
  import datasets

  if pathlib.Path(name).is_dir() and _saved(epath.Path(name)):
    return open_folder(epath.Path(name), split, config)
  loaded = datasets.load_dataset(name, config)
  return _of_datasets(loaded, f"{name}/{config}" if config else name, split)


def open_folder(path: epath.Path, split: str | None, config: str | None):
  """A folder of `save_to_disk`, of a TFDS builder, or of data files."""
  if (path / "features.json").exists():
    return open_tfds(str(path), split, config)
  if not _saved(path):
    return open_dataset(str(path), split, config)
  import datasets

  return _of_datasets(datasets.load_from_disk(str(path)), str(path), split)


def _saved(path: epath.Path) -> bool:
  return any(
    (path / name).exists() for name in ("state.json", "dataset_dict.json")
  )


def _of_datasets(loaded: Any, name: str, split: str | None) -> formats.Rows:
  import datasets

  if isinstance(loaded, datasets.DatasetDict):
    split = _split(name, split, list(loaded))
    loaded, name = loaded[split], f"{name}[{split}]"
  elif split is not None and str(loaded.split or split) != split:
    raise ValueError(f"{name} is split {loaded.split}, not {split!r}")
  # A saved output format (torch, numpy) is of no use here.
  return _Library(loaded.with_format(None), name)


def _split(name: str, split: str | None, known: Sequence[str]) -> str:
  if split is None and len(known) == 1:
    return known[0]
  if split not in known:
    raise ValueError(f"{name}: no split {split!r}; there are {sorted(known)}")
  return split


def open_tfds(name: str, split: str | None, config: str | None):
  """A TFDS name, or the folder of a prepared builder (ArrayRecord files)."""
  import tensorflow_datasets as tfds

  if epath.Path(name).is_dir():
    builder = tfds.builder_from_directory(name)
  else:
    builder = tfds.builder(
      f"{name}/{config}" if config else name, file_format="array_record"
    )
    builder.download_and_prepare()
  # TFDS understands slices too: train[:10%].
  known = list(builder.info.splits)
  if split is None or split.partition("[")[0] not in known:
    split = _split(name, split, known)
  rows = builder.as_data_source(split=split)
  return _Library(rows, f"{name}[{split}]")
