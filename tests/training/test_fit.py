"""The loop: resume to the bit, signals, bad losses, stopping."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import resume_child

from refine_jax.training.checkpoint import (
  Checkpointer,
  Goal,
  find,
  load_params,
  read_meta,
)
from refine_jax.training.fit import fit
from refine_jax.training.hooks import PREEMPTED, Preempted, Stopping
from refine_jax.training.loss import Loss
from refine_jax.training.metrics import NonFinite, Writer
from refine_jax.training.state import named_leaves, state_of
from refine_jax.training.step import make_train_step

HERE = pathlib.Path(__file__).parent


def child(workdir, how, cache):
  path = [str(HERE.parent), str(HERE.parent.parent)]
  env = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(path),
    # Most of a child's life would be compilation.
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }
  return subprocess.run(
    [sys.executable, HERE / "resume_child.py", workdir, how],
    env=env,
    stderr=subprocess.PIPE,
    text=True,
    check=False,
  )


def rows(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run that nobody interrupts."""
  workdir = tmp_path_factory.mktemp("whole")
  resume_child.run(workdir)
  return workdir


def test_killed_runs_end_with_the_same_bits(whole, tmp_path):
  rng = np.random.default_rng()  # other places every time
  run, cache = tmp_path / "run", tmp_path / "cache"
  deaths = [
    f"kill-at-step:{rng.integers(5, 20)}",
    f"kill-in-save:2:{rng.uniform(0, 0.02):.4f}",
    f"kill-in-save:1:{rng.uniform(0, 0.005):.4f}",
  ]
  for how in deaths:
    assert child(run, how, cache).returncode == -9, how
  done = child(run, "term-at-step:38", cache)
  assert done.returncode == PREEMPTED == 143, done.stderr
  assert read_meta(run, select="last")["step"] == 39
  done = child(run, "finish", cache)
  assert done.returncode == 0, done.stderr
  assert find(run, "last").endswith("/40")
  for select in ("last", "best"):
    got = named_leaves(load_params(run, select=select))
    want = named_leaves(load_params(whole, select=select))
    assert got.keys() == want.keys()
    for name in want:
      np.testing.assert_array_equal(got[name], want[name], f"{name} {deaths}")


def test_interrupted_metrics_have_no_gap_and_no_double(whole, tmp_path):
  def die(step):
    if step == 27:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    resume_child.run(tmp_path, die)
  with open(tmp_path / "metrics.jsonl", "a") as f:
    f.write('{"step": 30, "lo')  # torn
  resume_child.run(tmp_path)

  def told(workdir):
    return [(r["step"], r.get("eval/loss")) for r in rows(workdir)]

  assert told(tmp_path) == told(whole)
  assert [r["step"] for r in rows(whole) if "loss" in r] == [*range(5, 41, 5)]
  keys = {
    "accuracy", "examples_per_second", "grad_norm", "learning_rate", "loss",
    "padding", "step", "steps_per_second", "time", "tokens_per_second",
  }  # fmt: skip
  assert set(rows(whole)[0]) == keys


def test_a_run_that_died_before_its_first_checkpoint_starts_clean(tmp_path):
  def die(step):
    if step == 3:
      raise KeyboardInterrupt
    return 1.0

  def go(**kwargs):
    with (
      Checkpointer(tmp_path, goal=Goal("w")) as checkpointer,
      Writer(tmp_path, tensorboard=False, stream=None) as writer,
    ):
      line(checkpointer=checkpointer, writer=writer, log_every=1, **kwargs)

  with pytest.raises(KeyboardInterrupt):
    go(x=die)
  assert [r["step"] for r in rows(tmp_path)] == [1, 2, 3]
  go()
  told = [r["step"] for r in rows(tmp_path) if "loss" in r]
  assert told == [*range(1, 9)]


def test_a_finished_run_returns_at_once(whole):
  def never(step):
    raise AssertionError(f"step {step} of a finished run")

  before = rows(whole)
  fitted = resume_child.run(whole, never)
  assert (fitted.stopped, int(fitted.state.step)) == ("steps", 40)
  assert rows(whole) == before


# The rest trains one number, w, towards 0: loss w ** 2 * x, x from the batch.
OPTIMIZER = optax.sgd(0.25)


def square(params, batch, rng):
  del rng
  one = jnp.float32(1)
  return Loss(params["w"] ** 2 * batch["x"][0], one)


STEP = make_train_step(square, OPTIMIZER)


def line(workdir=None, x=lambda step: 1.0, **kwargs):
  state = state_of({"w": jnp.float32(1)}, OPTIMIZER)
  return fit(
    state,
    STEP,
    lambda step: {"x": np.full(1, x(step), np.float32)},
    rng=jax.random.key(0),
    **{"steps": 8, "eval_fn": lambda p: {"w": float(p["w"])}, **kwargs},
  )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_loss_stops_with_its_step(tmp_path, bad):
  """Noticed late, at step 6, and not saved although saving was due."""
  with (
    Checkpointer(tmp_path, goal=Goal("w")) as checkpointer,
    pytest.raises(NonFinite, match=r"loss is (nan|inf) at step 5") as error,
  ):
    line(
      x=lambda step: bad if step == 4 else 1.0,
      checkpointer=checkpointer,
      save_every=2,
      log_every=100,
    )
  assert error.value.step == 5
  meta = read_meta(tmp_path, select="last")
  assert meta["step"] == 4
  assert load_params(tmp_path, select="last")["w"] == np.float32(0.5**4)


def test_sigterm_saves_between_saves(tmp_path):
  def x(step):
    if step == 2:
      os.kill(os.getpid(), 15)
    return 1.0

  with Checkpointer(tmp_path, goal=Goal("w")) as checkpointer:
    with pytest.raises(Preempted) as error:
      line(x=x, checkpointer=checkpointer)
    assert error.value.code == 143
    assert read_meta(tmp_path, select="last")["step"] == 3
    fitted = line(checkpointer=checkpointer)
  assert fitted.state.params["w"] == np.float32(0.5**8)


def test_patience_counts_over_a_restart(tmp_path):
  values = {2: 5.0, 4: 3.0, 6: 4.0, 8: np.nan, 10: 4.0, 12: 1.0}
  step_of = lambda p: round(-np.log2(float(p["w"])))  # noqa: E731
  kwargs = {
    "eval_fn": lambda p: {"score": values[step_of(p)]},
    "eval_every": 2,
    "stopping": Stopping(patience=3),
    "save_every": 1,
  }

  def die(step):
    if step == 7:
      raise KeyboardInterrupt
    return 1.0

  with Checkpointer(tmp_path, goal=Goal("score")) as checkpointer:
    with pytest.raises(KeyboardInterrupt):
      line(steps=12, x=die, checkpointer=checkpointer, **kwargs)
    fitted = line(steps=12, checkpointer=checkpointer, **kwargs)
    again = line(steps=12, checkpointer=checkpointer, **kwargs)
  for run in (fitted, again):
    assert (run.stopped, int(run.state.step)) == ("patience", 10)
    assert (run.best, run.best_step) == (3.0, 4)
  assert load_params(tmp_path)["w"] == np.float32(0.5**4)
  meta = read_meta(tmp_path)
  assert (meta["step"], meta["metrics"]) == (4, {"score": 3.0})


def test_target_and_time_stop():
  goal = Goal("w", "min")
  fitted = line(eval_every=1, goal=goal, stopping=Stopping(target=0.25))
  assert (fitted.stopped, fitted.best_step, fitted.best) == ("target", 2, 0.25)
  fitted = line(goal=goal, log_every=3, stopping=Stopping(max_seconds=0.0))
  assert (fitted.stopped, int(fitted.state.step)) == ("time", 3)
  assert fitted.best_step == 3  # evaluated although none was due
  with pytest.raises(KeyError, match="'loss'; there are \\['w'\\]"):
    line(eval_every=1)


def test_meta_and_profile(tmp_path):
  with Checkpointer(tmp_path, goal=Goal("w", "max")) as checkpointer:
    line(
      checkpointer=checkpointer,
      meta=lambda step: {"data": {"step": step}, "model": {"width": 8}},
      profile=(1, 3),
      profile_dir=tmp_path / "profile",
    )
  meta = read_meta(tmp_path)
  assert meta["data"] == {"step": 8}
  assert meta["model"] == {"width": 8}
  assert meta["goal"] == {"metric": "w", "mode": "max"}
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))
  with pytest.raises(ValueError, match="profile steps"):
    line(profile=(3, 3))


def test_the_host_does_not_wait_for_every_step(tmp_path, monkeypatch):
  """Metrics are fetched once per row, not once per step."""
  fetched = []
  get = jax.device_get
  monkeypatch.setattr(
    jax, "device_get", lambda x: fetched.append(len(x)) or get(x)
  )
  with Writer(tmp_path, tensorboard=False, stream=None) as writer:
    line(steps=9, writer=writer, log_every=4, goal=Goal("w"))
  assert fetched == [4, 4, 1]
