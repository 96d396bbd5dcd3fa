"""Processes that are killed, or told to go: they save, and the same command
resumes to the losses of a run that nobody disturbed."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import loopback
import pytest
import together_child

STEPS = 60  # of at least 0.1 s
pytestmark = pytest.mark.slow


def command(folder, *options, save_every):
  """Of a run of many slow updates, and its environment."""
  train = "--config.train_generator.train"
  program = [
    *(sys.executable, "-m", "refine_jax.stages.train_generator"),
    f"--config={together_child.TRAINED}",
    f"--workdir={folder / 'sft'}",
    f"{train}.steps={STEPS}",
    f"{train}.save_every={save_every}",
    "--config.task.name=graded_task:Slow",
    f"{train}.eval_every=1",
    f"{train}.eval_rows=1",
  ]
  arguments, environment = loopback.launched(2, 1, folder, program, *options)
  # The task's file lies here.
  return arguments, environment | {"PYTHONPATH": str(loopback.HERE)}


def start(arguments, environment, **more):
  return subprocess.Popen(
    arguments, env=environment, stderr=subprocess.PIPE, text=True, **more
  )


def finish(folder, **more):
  arguments, environment = command(folder, **more)
  made = subprocess.run(
    arguments, env=environment, capture_output=True, text=True
  )
  assert made.returncode == 0, made.stderr[-3000:]
  return loopback.rows(folder / "sft")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  folder = tmp_path_factory.mktemp("told")
  together_child.run(folder, "tokenizer")
  return folder


@pytest.fixture(scope="module")
def whole(root):
  """What is written down where nothing happens."""
  return finish(loopback.beside(root, "whole"), save_every=0)


def wait_for(folder, step, *started):
  """Until that update is written down."""
  metrics, row = folder / "sft" / "metrics.jsonl", f'{{"step": {step}, '
  deadline = time.monotonic() + 200
  while not metrics.exists() or row not in metrics.read_text():
    assert time.monotonic() < deadline
    assert all(process.poll() is None for process in started)
    time.sleep(0.05)


def saved(folder):
  """The last step that is whole; it has both processes' parts."""
  steps = (folder / "sft" / "checkpoints").iterdir()
  return max((int(f.name) for f in steps if f.name.isdigit()), default=0)


def process(number, parent):
  """The id of process `number` of those that a script started."""
  for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
      status = (folder / "stat").read_text().rpartition(")")[2].split()
      variables = (folder / "environ").read_bytes().split(b"\0")
    except OSError:
      continue
    mine = int(status[1]) == parent
    if mine and f"REFINE_JAX_PROCESS={number}".encode() in variables:
      return int(folder.name)
  return None


def test_one_is_killed_and_the_same_command_resumes(root, whole):
  folder = loopback.beside(root, "killed")
  started = start(*command(folder, save_every=10))
  wait_for(folder, 14, started)
  os.kill(process(1, started.pid), signal.SIGKILL)
  begun = time.monotonic()
  _, said = started.communicate(timeout=90)
  print(f"ended after {time.monotonic() - begun:.1f} s\n{said}")
  assert time.monotonic() - begun < 60
  assert "process 1 of 2 ended with code 137" in said
  assert "Run the same command to resume" in said
  log = (folder / "logs" / "0.err").read_text()
  assert "error: process 0 of 2 stops: another one is gone" in log
  assert 0 < saved(folder) < STEPS
  loopback.assert_same_rows(finish(folder, save_every=10), whole)


def test_told_to_go_all_save_the_same_step(root, whole):
  """As a slice that is preempted tells them, or Slurm; then a terminal."""
  folder = loopback.beside(root, "told")
  arguments, environment = command(folder, "--dry_run", save_every=0)
  dry = subprocess.check_output(arguments, env=environment, text=True)
  both = [start(shlex.split(x), environment) for x in dry.splitlines()]
  wait_for(folder, 5, *both)
  for one in both:
    one.terminate()
  for one in both:
    _, said = one.communicate(timeout=90)
    assert one.returncode == 143, said
  first = saved(folder)
  assert first == loopback.rows(folder / "sft")[-1]["step"]

  started = start(*command(folder, save_every=0), start_new_session=True)
  wait_for(folder, first + 5, started)
  os.killpg(started.pid, signal.SIGINT)
  _, said = started.communicate(timeout=90)
  assert started.returncode == 130, said
  second = saved(folder)
  assert first < second == loopback.rows(folder / "sft")[-1]["step"] < STEPS
  assert f"continuing from step {first}" in said
  loopback.assert_same_rows(finish(folder, save_every=0), whole)
