"""REFINER's and RATIONALYST's makers of data, dealt out to processes that come
one after another in this one.

In the place of their models is somebody whose every word follows from all that
was asked together with it: files are equal only where every process asks as one
would.
"""

import dataclasses
import functools
import itertools
import pathlib
import types
import zlib

import annotating_server
import numpy as np
import pytest

from refine_jax import config as building
from refine_jax import files, records
from refine_jax.data import tokenizer as tokenizers
from refine_jax.methods import gains
from refine_jax.sampling import endpoint
from refine_jax.stages import (
  build,
  launch,
  make_critic_data,
  make_documents,
  make_rationale_data,
  make_rationales,
  roles,
)
from refine_jax.stages.reading import BadConfig

TOP = pathlib.Path(__file__).parent.parent.parent


class Company:
  """Numbers that follow from everything asked at once.

  Attributes:
    asked: how many that was, every time.
    last: the time that it does not survive.
  """

  def __init__(self):
    self.asked, self.last = [], 0

  def numbers(self, names, *more):
    self.asked.append(len(names))
    if len(self.asked) == self.last:
      raise KeyboardInterrupt
    together = "\n".join(map(str, (*names, *more)))
    return [zlib.crc32(f"{together}\0{name}".encode()) for name in names]


class Speaker(Company):
  """In an engine's place."""

  def generate(self, params, requests, sampling):
    numbers = self.numbers([r.id for r in requests], sampling.temperature)
    return [
      [
        records.Sample(f"{r.id}/{i}", f"{n % 5} alpha {i}", (), (), (), "eos")
        for i in range(r.n)
      ]
      for r, n in zip(requests, numbers, strict=True)
    ]


class Annotator(Company):
  """Some of what it says is at fault."""

  def __call__(self, documents):
    numbers = self.numbers([d.id for d in documents])
    return [
      f"<BOT>use {n % 9}<EOT>{d.text}" if n % 3 else f"<BOT>{d.text}"
      for d, n in zip(documents, numbers, strict=True)
    ]


class Scorer(Company):
  """In the place of `gains.score`; its trunks only count."""

  def __call__(self, rows, trunks, *_):
    numbers = self.numbers([row.id for row in rows])
    trunks.work.scored += 2 * len(rows)
    return [
      dataclasses.replace(row, gain=n % 997 / 500)
      for row, n in zip(rows, numbers, strict=True)
    ]


class Encoder(Company):
  def __call__(self, texts):
    rows = np.array(self.numbers(texts), np.uint32)
    return np.stack([rows % 7 + 1, rows % 11 + 1], axis=1).astype(np.float32)


def critic_data(monkeypatch):
  speaker = Speaker()
  generator = types.SimpleNamespace(params=None), speaker
  monkeypatch.setattr(make_critic_data.Maker, "_generator", generator)
  return make_critic_data.main, speaker


def annotations(monkeypatch):
  annotator = Annotator()
  monkeypatch.setattr(make_rationales, "_annotator", lambda *_: annotator)
  return make_rationales.main, annotator


def scores(monkeypatch):
  scorer = Scorer()
  model = types.SimpleNamespace(tokenizer=tokenizers.ByteTokenizer())
  monkeypatch.setattr(roles, "model", lambda *_: model)
  monkeypatch.setattr(roles, "trunks", lambda *_: types.SimpleNamespace())
  monkeypatch.setattr(gains, "score", scorer)
  return make_rationale_data.main, scorer


def kept_documents(monkeypatch):
  encoder = Encoder()
  monkeypatch.setattr(make_documents, "encoder", lambda *_: encoder)
  return make_documents.main, encoder


@pytest.fixture(params=[critic_data, annotations, scores, kept_documents])
def maker(request, monkeypatch, process):
  """(run(index, count, folder=...), who is asked)."""
  main, asked = request.param(monkeypatch)
  return functools.partial(process, main, config=config_of()), asked


@pytest.fixture(autouse=True)
def read(tmp_path):
  write_what_is_read(tmp_path)


def write_what_is_read(folder):
  """Documents and rationales, beside the folders of the stages."""
  documents = [
    records.Document(f"d{i}", f"start {i} alpha {i + 5}", "ab"[i % 2])
    for i in range(19)
  ]
  records.write(folder / "documents" / "documents.jsonl", documents)
  rationales = [
    records.Rationale(f"d{i}/r0", f"d{i}", "so", "use alpha", "7 alpha so")
    for i in range(45)
  ]
  records.write(folder / "rationales" / "rationales.jsonl", rationales)


def config_of():
  """Chunks, blocks and batches that do not come out even."""
  config = launch.load_config(f"{TOP}/configs/rationalyst/hint_chains.py:smoke")
  with config.unlocked():
    config.make_critic_data = building.make_critic_data(
      generator="../x",
      rows=22,
      temperatures=(0.0, 0.7, 1.3),
      samples=3,
      chunk=3,
    )
  config.make_rationales.update(annotator="../x", rows=0, block=3, gate=0.0)
  section = config.make_rationale_data
  section.update(labels="", evaluation=(), tau=1.0)
  section.lengths.rationale, section.trunks.slots = 99, 4
  config.make_documents.update(
    sources=(building.source("chains", task_split="documents", rows=90),),
    references=(building.source("train", task_split="train", rows=9),),
    evaluation=(),
    tokenizer=building.tokenizer("byte"),
    near_duplicates=0.0,
    threshold=0.9,
    block=16,
  )
  return config


def contents(folder):
  """All but what make_documents leaves of every process's own."""
  own = ("scored", "progress") if (folder / "documents.jsonl").exists() else ()
  return {
    p.name: p.read_bytes()
    for p in folder.iterdir()
    if p.is_file() and not p.name.startswith((".", *own))
  }


@pytest.mark.parametrize("count", [2, 3, 7])
def test_however_many_there_are(maker, tmp_path, count):
  run, asked = maker
  one, several = tmp_path / "one", tmp_path / "several"
  run(0, 1, folder=one)
  alone, asked.asked = asked.asked, []
  for index in reversed(range(count)):
    said = run(index, count, folder=several)
    assert bool(said) == (index == 0)
  assert contents(several) == contents(one)
  # Nobody was asked twice; everybody embeds the references.
  more = [9] * (count - 1) if isinstance(asked, Encoder) else []
  assert sorted(asked.asked) == sorted([*alone, *more])
  before = len(asked.asked)
  for index in range(count):
    assert run(index, count, folder=several)
  assert len(asked.asked) == before


@pytest.mark.parametrize("place", [2, 3])
def test_one_that_is_killed_goes_on(maker, tmp_path, monkeypatch, place):
  """In the middle of what it writes down."""
  run, asked = maker
  run(0, 1, folder=tmp_path / "one")
  asked.asked.clear()
  run(1, 2, folder=tmp_path / "calm")
  calm, asked.asked = len(asked.asked), []
  append, counts = records.Appender.append, itertools.count(1)

  def half(self, rows):
    rows, last = list(rows), next(counts) == place
    append(self, rows[: len(rows) // 2] if last else rows)
    if last:
      raise KeyboardInterrupt

  monkeypatch.setattr(records.Appender, "append", half)
  with pytest.raises(KeyboardInterrupt):
    run(1, 2, folder=tmp_path / "two")
  asked.asked.clear()
  run(1, 2, folder=tmp_path / "two")
  # At the second place a batch of scores is there, and not that it is.
  assert len(asked.asked) < calm + (place == 2)
  run(0, 2, folder=tmp_path / "two")
  assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_the_first_is_killed_before_it_says_that_all_is_done(
  maker, tmp_path, monkeypatch
):
  run, asked = maker
  run(0, 1, folder=tmp_path / "one")
  run(1, 2, folder=tmp_path / "two")
  write = files.write

  def killed(name, data):
    if files.path(name).name in ("report.json", "counts.json"):
      raise KeyboardInterrupt
    write(name, data)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(files, "write", killed)
    run(0, 2, folder=tmp_path / "two")
  asked.asked.clear()
  for index in (1, 0):
    run(index, 2, folder=tmp_path / "two")
  assert not asked.asked
  assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_in_a_bucket(maker, tmp_path, bucket, monkeypatch):
  """What a killed process has not stored there is lost, and made again."""
  run, asked = maker
  there = files.path(bucket) / "data"
  write_what_is_read(files.path(bucket))
  run(0, 1, folder=tmp_path / "one")
  asked.last = len(asked.asked) + 3
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(records.Appender, "__exit__", lambda *_: None)
    run(1, 2, folder=there)
  for index in (1, 0):
    run(index, 2, folder=there)
  for name, data in contents(tmp_path / "one").items():
    assert (there / name).read_bytes() == data


def test_an_endpoint_is_paid_once(process, tmp_path):
  """Two ask it, of whom one comes alone first; and it often fails."""
  config = config_of()
  with config.unlocked():
    config.make_rationales.endpoint = building.endpoint(
      key_env="", backoff=0.001, retries=20, per_minute=1e6, price_out=1.0
    )
  config.make_rationales.annotator = "endpoint"
  with annotating_server.serving(build.task(config.task), (), "") as server:
    config.make_rationales.endpoint.url = server.url
    run = functools.partial(process, make_rationales.main, config=config)
    run(0, 1, folder=tmp_path / "one")
    run(1, 2, folder=tmp_path / "two")
    shard = tmp_path / "two" / "replies-00001-of-00002.jsonl"
    paid = list(records.read(endpoint.Reply, shard))
    (tmp_path / "two" / "annotations-00001-of-00002.jsonl").unlink()
    for index in (1, 0):
      run(index, 2, folder=tmp_path / "two")
  replies = list(
    records.read(endpoint.Reply, tmp_path / "two" / "replies.jsonl")
  )
  assert len(paid) == 9 and replies[: len(paid)] == paid
  assert len({r.id for r in replies}) == len(replies) == 19
  one, two = (contents(tmp_path / name) for name in ("one", "two"))
  for found in (one, two):  # in the order they came in
    found["replies.jsonl"] = sorted(found["replies.jsonl"].splitlines())
  assert one == two
  assert b'"cost"' in one["report.json"] and b'"kept": 19' in one["report.json"]


@pytest.mark.parametrize(
  ("stage", "name"),
  [
    (make_critic_data, "chunk"),
    (make_rationales, "block"),
    (make_documents, "block"),
  ],
  ids=["critic_data", "annotations", "documents"],
)
def test_a_chunk_holds_something(stage, name, tmp_path):
  config = config_of()
  config[stage.__name__.rpartition(".")[2]][name] = 0
  with pytest.raises(BadConfig, match=f"{name} must be positive, got 0"):
    stage.main(config, tmp_path / "documents")
