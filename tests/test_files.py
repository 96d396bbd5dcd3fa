"""Files and records on a disk and in a bucket, with the same calls."""

import pytest

from refine_jax import files, records
from refine_jax.data import sources
from refine_jax.records import Document, appending


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path):
  if request.param == "disk":
    return tmp_path / "run"
  return files.path(f"{request.getfixturevalue('bucket')}/run")


def rows(*numbers):
  return [Document(str(i), f"text {i}") for i in numbers]


def names(folder):
  return sorted(p.name for p in folder.iterdir())


def test_paths():
  assert str(files.path("gs://b/run/../sft/x")) == "gs://b/sft/x"
  assert str(files.resolve("gs://b/run", "../sft")) == "gs://b/sft"
  assert str(files.resolve("gs://b/run", "/data/x")) == "/data/x"
  assert str(files.resolve("/runs/a", "gs://b/x")) == "gs://b/x"
  assert str(files.resolve("/runs/a", "../b")) == "/runs/a/../b"
  assert str(files.absolute("gs://b/x")) == "gs://b/x"
  assert files.absolute("x").is_absolute()


def test_a_file_is_whole_or_absent(folder):
  files.write(folder / "a" / "b.txt", "old\n")
  with pytest.raises(KeyError), files.whole(folder / "a" / "b.txt") as file:
    file.write(b"new")
    raise KeyError
  assert (folder / "a" / "b.txt").read_text() == "old\n"
  assert names(folder / "a") == ["b.txt"]


def test_a_folder_arrives_with_all_that_is_in_it(folder):
  with files.folder(folder / "hf") as made:
    (made / "deep").mkdir(parents=True)
    (made / "deep" / "x").write_bytes(b"1")
    (made / "y").write_bytes(b"2")
  assert (folder / "hf" / "deep" / "x").read_bytes() == b"1"
  assert (folder / "hf" / "y").read_bytes() == b"2"


def test_what_is_settled_outlives_a_kill(folder):
  """Another file may say that it is there."""
  path = folder / "rows.jsonl"
  killed = records.Appender(Document, path)
  killed.append(rows(1, 2))
  killed.settle()
  with records.Appender(Document, path) as again:
    assert again.done == {"1", "2"}
    again.append(rows(3))
  killed.close()
  assert list(records.read(Document, path)) == rows(1, 2, 3)


def test_records_and_their_shards(folder):
  path = folder / "a.jsonl"
  assert records.write(path, rows(1, 2)) == 2
  assert list(records.read(Document, path)) == rows(1, 2)
  path = folder / "b.jsonl"
  for process in range(2):
    mine = rows(*range(5))[process::2]
    records.write(records.shard(path, process, 2), mine)
  assert list(records.read(Document, path)) == rows(*range(5))
  found = sources.open_rows(records.Source(path=str(path)))
  assert [row["id"] for row in found] == list("01234")
  records.shard(path, 1, 2).unlink()
  with pytest.raises(FileNotFoundError, match="shard 1 of 2 is missing"):
    records.shards(path)
  with pytest.raises(FileNotFoundError, match=r"no records at .*holds: a\."):
    sources.open_rows(records.Source(path=str(folder / "c.csv")))


def test_appending_goes_on_where_it_stopped(folder):
  path = folder / "a.jsonl"
  with records.Appender(Document, path) as appender:
    appender.append(rows(1))
    appender.append(rows(2))
  with records.Appender(Document, path) as appender:
    assert appender.done == {"1", "2"}
    appender.append(rows(3))
  assert list(records.read(Document, path)) == rows(1, 2, 3)
  assert names(folder) == ["a.jsonl"]
  records.Appender(Document, folder / "b.jsonl").close()
  assert list(records.read(Document, folder / "b.jsonl")) == []


def test_a_torn_line_is_cut_off(tmp_path):
  path = tmp_path / "a.jsonl"
  records.write(path, rows(1, 2))
  path.write_bytes(path.read_bytes()[:-3])
  with records.Appender(Document, path) as appender:
    assert appender.done == {"1"}
    appender.append(rows(2))
  assert list(records.read(Document, path)) == rows(1, 2)


def test_a_line_that_is_no_record_is_named(folder):
  files.write(folder / "a.jsonl", '{"id": "1", "text": "x"}\n{"id": 7}\n')
  with pytest.raises(records.BadRow, match=r"a\.jsonl:2: field 'id'"):
    records.Appender(Document, folder / "a.jsonl")


class Clock:
  now = 0.0

  def __call__(self):
    return self.now


def test_a_killed_process_loses_half_a_minute_in_a_bucket(bucket):
  path, clock = files.path(f"{bucket}/run/a.jsonl"), Clock()
  killed = records.Appender(Document, path, clock=clock)
  killed.append(rows(1))
  clock.now = appending.SECONDS
  killed.append(rows(2))
  killed.append(rows(3))  # half a minute has not passed again
  with pytest.raises(FileNotFoundError):
    records.shards(path)
  with records.Appender(Document, path, clock=clock) as appender:
    assert appender.done == {"1", "2"}
    appender.append(rows(3))
  assert list(records.read(Document, path)) == rows(1, 2, 3)
  assert not (path.parent / "a.jsonl.parts").exists()


def test_parts_that_were_joined_are_not_joined_again(bucket, monkeypatch):
  path = files.path(f"{bucket}/run/a.jsonl")
  records.write(path, rows(1))
  left = records.Appender(Document, path)
  left.append(rows(2, 3))
  # Killed between joining and removing.
  with monkeypatch.context() as patch:
    patch.setattr(type(path), "unlink", lambda self: None)
    left.close()
  assert (path.parent / "a.jsonl.parts").exists()
  with records.Appender(Document, path) as appender:
    assert appender.done == {"1", "2", "3"}
    appender.append(rows(4))
  assert list(records.read(Document, path)) == rows(1, 2, 3, 4)
