"""Rows that say what they mean, wherever they go."""

import io
import json

import jax.numpy as jnp
import numpy as np
import pytest

from refine_jax import files
from refine_jax.training.flops import ModelFlops
from refine_jax.training.loss import Mean
from refine_jax.training.metrics import Meter, NonFinite, Progress, Writer
from refine_jax.training.step import Counts


def metrics(loss=1.0, weight=1.0, norm=1.0, tokens=6.0):
  count = Counts(*map(jnp.float32, (2, 10, tokens, 0, 9, 0, 0)))
  return {
    "loss": Mean(jnp.float32(loss), jnp.float32(weight)),
    "grad_norm": Mean(jnp.float32(norm), jnp.float32(1)),
    "counts": count,
  }


def test_meter_weighs_and_counts(monkeypatch):
  clock = iter(range(100))
  monkeypatch.setattr("time.perf_counter", lambda: next(clock))
  flops = ModelFlops(decoder=5, head=0, attention=1)
  meter = Meter(flops=flops, peak=1000.0)
  meter.add(1, metrics(3, 1))  # compiles: in the means, not in the rates
  meter.add(2, metrics(1, 3, norm=2, tokens=2))
  meter.add(3, metrics(0, 4, norm=3, tokens=4))
  row = meter.drain()  # started at 0, ended at 1
  assert row["loss"] == (3 + 1 + 0) / (1 + 3 + 4)
  assert row["grad_norm"] == 2
  assert row["padding"] == 1 - 12 / 30
  assert row["steps_per_second"] == 2
  assert row["tokens_per_second"] == 6
  assert row["examples_per_second"] == 4
  done = 6 * 5 * 6 + 12 * (18 + 6) / 2
  np.testing.assert_allclose(row["model_flops_utilisation"], done / 1000)
  meter.add(4, metrics(tokens=3))
  meter.pause()
  meter.add(5, metrics(tokens=3))
  row = meter.drain()  # two stretches of a second
  assert (row["tokens_per_second"], row["padding"]) == (3, 1 - 6 / 20)


def test_no_peak_no_utilisation():
  meter = Meter(flops=ModelFlops(5, 0, 1))
  meter.add(1, metrics())
  meter.add(2, metrics())
  assert "model_flops_utilisation" not in meter.drain()


@pytest.mark.parametrize(
  "bad, name", [({"loss": np.nan}, "loss"), ({"norm": np.inf}, "grad_norm")]
)
def test_meter_names_the_first_bad_step(bad, name):
  meter = Meter()
  meter.add(6, metrics())
  meter.add(7, metrics(**bad))
  meter.add(8, metrics(loss=np.nan))
  for look in (meter.check, meter.drain):
    with pytest.raises(NonFinite, match=f"{name} is (nan|inf) at step 7"):
      look()


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_bar_on_a_terminal_and_lines_elsewhere():
  plain, terminal = io.StringIO(), Terminal()
  for stream in (plain, terminal):
    progress = Progress(4, stream)
    progress.show(1, {"loss": 1.23456})
    progress.show(2, {"loss": 1.0})
    progress.say("a word")
  assert plain.getvalue() == (
    "step 1/4  loss 1.235\nstep 2/4  loss 1\na word\n"
  )
  first, second, third = terminal.getvalue().split("\r")
  assert first == ""
  assert second.startswith("[#####...............] 1/4  loss 1.235 ")
  assert third.rstrip("\n").endswith("a word")
  assert third.startswith("[##########..........] 2/4  loss 1 ")


def test_rows_reach_files(tmp_path):
  with Writer(tmp_path, stream=None) as writer:
    for step in (1, 2, 3):
      writer.write(step, {"loss": 1 / step})
  with open(tmp_path / "metrics.jsonl", "a") as f:
    f.write('{"step": 1, "torn": ')
  with Writer(tmp_path, tensorboard=False, stream=None) as writer:
    writer.rewind(2)
    writer.write(3, {"loss": 9.0})
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [(r["step"], r["loss"]) for r in rows] == [(1, 1), (2, 0.5), (3, 9)]
  events = list((tmp_path / "tensorboard").glob("events.*"))
  assert b"loss" in events[0].read_bytes()


def test_rows_reach_a_bucket_by_checkpoints(bucket, monkeypatch):
  path = files.path(f"{bucket}/run/metrics.jsonl")

  def steps():
    return [json.loads(x)["step"] for x in path.read_text().splitlines()]

  killed = Writer(f"{bucket}/run", stream=None)
  killed.write(1, {"loss": 1.0})
  killed.flush()
  killed.write(2, {"loss": 0.5})
  assert steps() == [1]  # half a minute has not passed
  monkeypatch.setattr("refine_jax.training.metrics._APART", 0.0)
  killed.write(3, {"loss": 0.4})
  assert steps() == [1, 2, 3]
  with Writer(f"{bucket}/run", stream=None) as writer:
    writer.rewind(2)
    writer.write(3, {"loss": 9.0})
  assert steps() == [1, 2, 3]
  assert [p.name for p in path.parent.iterdir()] == ["metrics.jsonl"]


def test_no_folder_no_files(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with Writer(None, stream=None) as writer:
    writer.rewind(0)
    writer.write(1, {"loss": 1.0})
  assert not list(tmp_path.iterdir())
