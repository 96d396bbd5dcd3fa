"""Chunks dealt out to several processes, one after another in this one."""

import functools
import pathlib

import annotating_server
import pytest

from refine_jax import files, records
from refine_jax.sampling import endpoint
from refine_jax.stages import (
  build,
  critiquing,
  dealt,
  launch,
  make_mathcritique_data,
)
from refine_jax.stages.reading import BadConfig

TOP = pathlib.Path(__file__).parent.parent.parent
ROWS = (0, 22)


def config_of():
  """Errors planted by the task: no model, and five chunks."""
  config = launch.load_config(
    f"{TOP}/configs/mathcritique/arithmetic.py:smoke,phase=bootstrap"
  )
  config.make_mathcritique_data.update(rows=ROWS, chunk=5)
  return config


@pytest.fixture
def process(process):
  """See conftest; of MathCritique's first maker."""
  return functools.partial(process, make_mathcritique_data.main)


def contents(folder):
  return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("count", [2, 3, 7])
def test_however_many_there_are(process, tmp_path, count):
  one, several = tmp_path / "one", tmp_path / "several"
  process(0, 1, config_of(), one)
  for index in reversed(range(count)):
    said = process(index, count, config_of(), several)
    assert bool(said) == (index == 0)
  assert contents(several) == contents(one)
  assert critiquing.sealed(one)["rows"] > 2 * (ROWS[1] - ROWS[0])
  assert "is complete" in process(1, count, config_of(), several)


def test_killed_ones_go_on(process, tmp_path, monkeypatch):
  """In a chunk, in a line, and between the joined files and the manifest."""
  one, two = tmp_path / "one", tmp_path / "two"
  process(0, 1, config_of(), one)
  made = []
  whole = make_mathcritique_data.Maker._chunk

  def chunk(self, problems, start):
    made.append(start)
    if len(made) == 2:
      raise KeyboardInterrupt
    return whole(self, problems, start)

  monkeypatch.setattr(make_mathcritique_data.Maker, "_chunk", chunk)
  with pytest.raises(KeyboardInterrupt):
    process(1, 2, config_of(), two)
  for name in ("annotated", "attempts"):
    path = two / f"{name}-00001-of-00002.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
  process(1, 2, config_of(), two)
  assert made == [5, 15, 5, 15]
  seal = critiquing.seal

  def killed(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(critiquing, "seal", killed)
  with pytest.raises(KeyboardInterrupt):
    process(0, 2, config_of(), two)
  assert (two / "annotated-00000-of-00002.jsonl").exists()
  monkeypatch.setattr(critiquing, "seal", seal)
  before = len(made)
  for index in (1, 0):
    process(index, 2, config_of(), two)
  assert len(made) == before
  assert contents(two) == contents(one)


def test_another_number_of_processes_begins_anew(process, tmp_path):
  one, other = tmp_path / "one", tmp_path / "other"
  process(0, 1, config_of(), one)
  process(1, 2, config_of(), other)  # the first one never came
  for index in (2, 1, 0):
    process(index, 3, config_of(), other)
  assert contents(other) == contents(one)


def test_in_a_bucket(process, tmp_path, bucket):
  there = files.path(bucket) / "data"
  process(0, 1, config_of(), tmp_path / "one")
  for index in (1, 0):
    process(index, 2, config_of(), there)
  for name, data in contents(tmp_path / "one").items():
    assert (there / name).read_bytes() == data
  assert not list(there.glob("*-of-*.jsonl"))


def asking(config):
  """Of an endpoint that fails now and then; the task and the problems."""
  settings = config.make_mathcritique_data
  settings.update(annotator="endpoint", grammar="published")
  settings.endpoint.update(
    key_env="", backoff=0.001, retries=20, per_minute=1e6, workers=4,
    budget=8.0, price_out=1.0,
  )  # fmt: skip
  task = build.task(config.task)
  return task, build.problems(task, "train", config.data, rows=ROWS)


def test_an_endpoint_is_asked_once_whoever_asks(process, tmp_path, monkeypatch):
  """A process of two dies; one goes on with what both have paid for."""
  config = config_of()
  task, problems = asking(config)
  made = []

  class Seen(endpoint.Endpoint):
    def __init__(self, asked, path, **more):
      made.append(asked)
      super().__init__(asked, path, **more)

  monkeypatch.setattr(endpoint, "Endpoint", Seen)
  with annotating_server.serving(task, problems, "") as server:
    config.make_mathcritique_data.endpoint.url = server.url
    process(0, 1, config, tmp_path / "one")
    process(1, 2, config, tmp_path / "two")
    assert (made[1].per_minute, made[1].workers) == (5e5, 2)
    assert made[1].budget == 4.0
    shard = tmp_path / "two" / "replies-00001-of-00002.jsonl"
    paid = [r.id for r in records.read(endpoint.Reply, shard)]
    assert paid
    process(0, 1, config, tmp_path / "two")
  replies = list(
    records.read(endpoint.Reply, tmp_path / "two" / "replies.jsonl")
  )
  ids = [r.id for r in replies]
  assert len(set(ids)) == len(ids) and ids[: len(paid)] == paid
  one, two = (contents(tmp_path / name) for name in ("one", "two"))
  assert one.keys() == two.keys()
  for found in (one, two):  # in the order they came in
    found["replies.jsonl"] = sorted(found["replies.jsonl"].splitlines())
  assert one == two


def test_two_ask_an_endpoint_what_one_asks(process, tmp_path):
  config = config_of()
  task, problems = asking(config)
  with annotating_server.serving(task, problems, "") as server:
    config.make_mathcritique_data.endpoint.url = server.url
    process(0, 1, config, tmp_path / "one")
    for index in (1, 0):
      process(index, 2, config, tmp_path / "two")
  one, two = (critiquing.sealed(tmp_path / name) for name in ("one", "two"))
  assert one == two
  assert not list((tmp_path / "two").glob("*-of-*"))


def test_chunks_hold_something():
  with pytest.raises(BadConfig, match="chunk must be positive, got 0"):
    dealt.Chunks([], 0)
