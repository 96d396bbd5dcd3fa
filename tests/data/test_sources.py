"""Every format gives the same rows and knows where they came from."""

import csv
import gzip
import json
import re
import sys

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from refine_jax import records
from refine_jax.data import sources

ROWS = [
  {"question": f"how many {i} — é?\nline two", "answer": str(i)}
  for i in range(7)
]


def jsonl(rows):
  return "".join(json.dumps(r) + "\n" for r in rows).encode()


def write(folder, name):
  path = folder / name
  if ".jsonl" in name:
    data = jsonl(ROWS)
    if name.endswith(".gz"):
      data = gzip.compress(data)
    elif name.endswith(".zst"):
      # Two frames, as `cat a.zst b.zst` gives.
      half = len(jsonl(ROWS[:3]))
      data = zstandard.compress(data[:half]) + zstandard.compress(data[half:])
    path.write_bytes(data)
  elif name.endswith(".json"):
    path.write_text(json.dumps(ROWS, indent=2))
  elif name.endswith(".csv"):
    with open(path, "w", newline="") as f:
      writer = csv.DictWriter(f, ["question", "answer"])
      writer.writeheader()
      writer.writerows(ROWS)
  elif name.endswith(".parquet"):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
  return path


FILES = ["a.json", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.parquet"]


@pytest.mark.parametrize("name", FILES)
def test_every_file_format(tmp_path, name):
  path = write(tmp_path, name)
  rows = sources.open_rows(records.Source(path=str(path)))
  assert len(rows) == len(ROWS)
  assert [dict(r) for r in rows] == ROWS
  assert rows[-1] == ROWS[-1] and rows[5] == ROWS[5]  # in any order
  assert rows[1:3] == ROWS[1:3]
  with pytest.raises(IndexError):
    rows[len(ROWS)]
  assert rows.place(0)[0] == str(path)


@pytest.mark.parametrize(
  "name, lines",
  [
    ("a.json", [2, 6, 10]),  # where the object begins
    ("a.jsonl", [1, 2, 3]),
    ("a.csv", [2, 4, 6]),  # a header, and questions of two lines
    ("a.parquet", [1, 2, 3]),
  ],
)
def test_lines_are_those_of_the_file(tmp_path, name, lines):
  rows = sources.open_rows(records.Source(path=str(write(tmp_path, name))))
  assert [rows.place(i)[1] for i in range(3)] == lines


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text('\n{"a": 1}\n\n  \n{"a": 2}')
  rows = sources.open_rows(records.Source(path=str(path)))
  assert [dict(r) for r in rows] == [{"a": 1}, {"a": 2}]
  assert rows.place(1) == (str(path), 5)
  (tmp_path / "empty.jsonl").touch()
  assert not len(
    sources.open_rows(records.Source(path=str(tmp_path / "empty.jsonl")))
  )


def test_rows_in_memory():
  source = records.Source(rows=ROWS, name="generator")
  rows = sources.open_rows(source)
  assert list(rows) == ROWS
  assert rows.place(2) == ("generator", 3)


def test_globs_in_any_part_of_the_path(tmp_path):
  for folder in ("x", "y"):
    (tmp_path / folder).mkdir()
    write(tmp_path / folder, "a.jsonl")
  write(tmp_path / "y", "b.csv")
  rows = sources.open_rows(records.Source(path=f"{tmp_path}/*/[ab].*"))
  assert len(rows) == 3 * len(ROWS)
  assert rows.place(7) == (f"{tmp_path}/y/a.jsonl", 1)
  assert dict(rows[14]) == ROWS[0]
  assert rows.place(15) == (f"{tmp_path}/y/b.csv", 4)


def test_shards_come_back_in_the_order_they_were_dealt(tmp_path):
  path = tmp_path / "out.jsonl"
  for p in range(3):
    records.shard(path, p, 3).write_bytes(jsonl(ROWS[p::3]))
  rows = sources.open_rows(records.Source(path=str(path)))
  assert list(rows) == ROWS
  assert rows.place(4) == (str(records.shard(path, 1, 3)), 2)


def test_a_missing_file_names_what_is_there(tmp_path):
  write(tmp_path, "train.jsonl")
  with pytest.raises(FileNotFoundError, match=r"trian\.jsonl.* train\.jsonl"):
    sources.open_rows(records.Source(path=str(tmp_path / "trian.jsonl")))
  with pytest.raises(FileNotFoundError, match=r"holds: train\.jsonl"):
    sources.open_rows(records.Source(path=str(tmp_path / "no" / "a.jsonl")))
  with pytest.raises(FileNotFoundError, match=r"holds: train\.jsonl"):
    sources.open_rows(records.Source(path=str(tmp_path / "*.csv")))


def test_an_unknown_format_names_the_known_ones(tmp_path):
  (tmp_path / "a.txt").touch()
  with pytest.raises(ValueError, match=r"a\.txt.*\.parquet"):
    sources.open_rows(records.Source(path=str(tmp_path / "a.txt")))


@pytest.mark.parametrize(
  "name, data, message",
  [
    ("a.json", b'[{"a": 1},\n{"a": }]', r"a\.json:2: not JSON"),
    ("a.json", b'{"a": 1}', r"a\.json:1: expected a list"),
    ("a.json", b'[{"a":\n "\xff"}]', r"a\.json:2: not UTF-8"),
    ("a.csv", b"", r"a\.csv:1: no header"),
    ("a.parquet", b"PAR1", r"a\.parquet:\?: not parquet"),
    ("a.jsonl.gz", b"xx", r"a\.jsonl\.gz:\?: not \.gz"),
    ("a.jsonl.zst", b"xx", r"a\.jsonl\.zst:\?: not \.zst"),
  ],
)
def test_a_file_that_is_broken_as_a_whole(tmp_path, name, data, message):
  (tmp_path / name).write_bytes(data)
  with pytest.raises(records.BadRow, match=message):
    sources.open_rows(records.Source(path=str(tmp_path / name)))


def problem(row):
  return records.Problem(
    id=row["answer"], question=row["question"], gold=str(int(row["answer"]))
  )


BAD_JSONL = b"""{"question": "a", "answer": "1"}
{"question": "b", "answer": "two"}
{"question": "c"
{"answer": "4"}
[5]
{"question": "\xff", "answer": "6"}

{"question": "d", "answer": "7"}
"""
JSONL_MESSAGES = [
  r"bad\.jsonl:2: field 'answer': ValueError: .*\(value: 'two'\)",
  r"bad\.jsonl:3: not JSON.*\(value: b'.*\"c\"'\)",
  r"bad\.jsonl:4: field 'question': is missing; the row has \['answer'\]",
  r"bad\.jsonl:5: not an object.*\(value: \[5\]\)",
  r"bad\.jsonl:6: not JSON.*utf-8",
]
BAD_CSV = b"""question,answer
a,1
"b, two
lines",two
c
d,4,5
\xff,6
"e"f,7
g,8
"""
CSV_MESSAGES = [
  r"bad\.csv:3: field 'answer': ValueError: .*\(value: 'two'\)",
  r"bad\.csv:5: field 'answer': 1 values for 2 columns \(value: \['c'\]\)",
  r"bad\.csv:6: 3 values for 2 columns \(value: \['d', '4', '5'\]\)",
  r"bad\.csv:7: field 'question': not UTF-8 \(value: b'\\xff'\)",
  r"bad\.csv:8: not CSV: ",
]


@pytest.mark.parametrize(
  "name, data, messages, good",
  [
    ("bad.jsonl", BAD_JSONL, JSONL_MESSAGES, ["1", "7"]),
    ("bad.csv", BAD_CSV, CSV_MESSAGES, ["1", "8"]),
  ],
)
def test_bad_rows_stop_or_are_counted(tmp_path, name, data, messages, good):
  path = tmp_path / name
  path.write_bytes(data)
  source = records.Source(path=str(path))
  with pytest.raises(records.BadRow, match=messages[0]):
    sources.parse(source, problem)
  problems, report = sources.parse(source, problem, on_bad_row="skip")
  assert [p.id for p in problems] == good
  assert (report.kept, report.skipped) == (2, len(messages))
  for message, shown in zip(messages, report.messages, strict=True):
    assert re.search(message, shown), (message, shown)
  assert "2 rows kept, 5 skipped" in str(report)


def test_a_field_named_by_the_task_gets_its_value():
  def parse_row(row):
    dict(row)  # reading everything says nothing about the culprit
    raise records.BadRow("is not a formula", field="gold")

  source = records.Source(rows=[{"gold": "1 +", "x": 0}], name="rows")
  with pytest.raises(records.BadRow) as error:
    sources.parse(source, parse_row)
  assert str(error.value) == (
    "rows:1: field 'gold': is not a formula (value: '1 +')"
  )


def test_an_error_without_a_field_shows_the_row():
  def parse_row(row):
    raise ValueError("what is this")

  source = records.Source(rows=[{"a": 1}], name="rows")
  with pytest.raises(records.BadRow, match=r"what is this \(value: {'a': 1}"):
    sources.parse(source, parse_row)


def test_only_bad_rows_stop_even_under_skip():
  source = records.Source(rows=[{"a": 1}] * 3, name="rows")
  with pytest.raises(records.BadRow, match="rows:1: field 'b'"):
    sources.parse(source, lambda row: row["b"], on_bad_row="skip")
  assert sources.parse(records.Source(rows=[]), dict)[0] == []


def test_other_exceptions_are_not_dressed_up_as_bad_rows():
  def broken(row):
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    sources.parse(records.Source(rows=[{}]), broken, on_bad_row="skip")


# Hugging Face `datasets`


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp("datasets")
  data = datasets.Dataset.from_list(ROWS)
  data.save_to_disk(str(folder / "one"))
  datasets.DatasetDict(
    {"train": data, "test": data.select([1, 2])}
  ).save_to_disk(str(folder / "two"))
  return folder


@pytest.mark.parametrize("by", ["path", "dataset"])
def test_a_save_to_disk_folder(saved, by):
  def opened(name, **kw):
    return sources.open_rows(records.Source(**{by: str(saved / name)}, **kw))

  assert [dict(r) for r in opened("one")] == ROWS
  rows = opened("two", split="test")
  assert [dict(r) for r in rows] == ROWS[1:3]
  assert rows.place(1) == (f"{saved / 'two'}[test]", 2)
  with pytest.raises(ValueError, match=r"no split 'dev'; .*'test', 'train'"):
    opened("two", split="dev")
  with pytest.raises(ValueError, match="no split None"):
    opened("two")


def test_a_folder_of_data_files_by_its_name(tmp_path, monkeypatch):
  monkeypatch.setattr(
    datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache")
  )
  folder = tmp_path / "set"
  folder.mkdir()
  (folder / "train.jsonl").write_bytes(jsonl(ROWS))
  (folder / "test.jsonl").write_bytes(jsonl(ROWS[:2]))
  source = records.Source(dataset=str(folder), split="test")
  assert [dict(r) for r in sources.open_rows(source)] == ROWS[:2]


# TensorFlow Datasets


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """An ArrayRecord set that a TFDS builder wrote."""
  import tensorflow_datasets as tfds

  class Sums(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      features = {
        "question": tfds.features.Text(),
        "answer": np.int32,
        "tags": tfds.features.Sequence(tfds.features.Text()),
      }
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, manager):
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      for i in range(6):
        row = {"question": f"é + {i}", "answer": i, "tags": ["x"] * (i % 3)}
        yield i, row

  folder = tmp_path_factory.mktemp("tfds")
  builder = Sums(data_dir=str(folder), file_format="array_record")
  builder.download_and_prepare()
  return str(builder.data_dir)


@pytest.mark.parametrize("by", ["tfds", "path"])
def test_an_array_record_set_without_tensorflow(prepared, by):
  rows = sources.open_rows(records.Source(**{by: prepared}, split="train"))
  assert sorted(r["answer"] for r in rows) == list(range(6))
  for row in rows:
    assert type(row["answer"]) is int
    assert row["question"] == f"é + {row['answer']}"
    assert row["tags"] == ["x"] * (row["answer"] % 3)
  assert rows.place(3) == (f"{prepared}[train]", 4)
  assert "tensorflow" not in sys.modules


def test_tfds_splits(prepared):
  half = sources.open_rows(records.Source(tfds=prepared, split="train[:50%]"))
  assert len(half) == 3
  assert len(sources.open_rows(records.Source(tfds=prepared))) == 6
  with pytest.raises(ValueError, match=r"no split 'dev'; .*'train'"):
    sources.open_rows(records.Source(tfds=prepared, split="dev"))
