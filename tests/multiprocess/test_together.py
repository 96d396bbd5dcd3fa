"""Several processes do what one does: losses, samples, records, resumption."""

import os
import pathlib
import shutil
import time

import loopback
import pytest
import together_child


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """With a tokenizer for all."""
  folder = tmp_path_factory.mktemp("together")
  together_child.run(folder, "tokenizer")
  return folder


@pytest.fixture(scope="module")
def pair(root):
  """Two processes of one device each."""
  folder = loopback.beside(root, "pair")
  loopback.run(2, 1, folder, "sft", "reft")
  return folder


@pytest.fixture(scope="module")
def alone(root, pair):
  """This process with two of its devices, from the same warm start."""
  folder = loopback.beside(root, "alone")
  shutil.copytree(pair / "sft", folder / "sft")
  together_child.run(folder, "reft:mesh.devices=2")
  return folder


def test_two_processes_do_what_one_does(pair, alone):
  loopback.assert_same_training(pair, alone, processes=2)


@pytest.mark.slow
def test_two_processes_refine_as_one_does(pair, alone):
  loopback.run(2, 1, pair, "refine")
  together_child.run(alone, "refine:mesh.devices=2")
  loopback.assert_same_refinement(pair, alone, processes=2)


@pytest.mark.slow
def test_a_checkpoint_of_two_is_resumed_by_one(pair, root):
  """It goes on with the batches that one process would have gone on with."""
  more = "sft:mesh.devices=2,train_generator.train.steps=6"
  whole, resumed = (loopback.beside(root, x) for x in ("longer", "resumed"))
  together_child.run(whole, more)
  loopback.assert_same_run(pair / "sft", whole / "sft")
  shutil.copytree(pair / "sft", resumed / "sft")
  together_child.run(resumed, more)
  assert loopback.rows(resumed / "sft")[-1]["step"] == 6
  loopback.assert_same_run(resumed / "sft", whole / "sft")


@pytest.fixture(scope="module")
def one(root):
  """One process of eight devices."""
  folder = loopback.beside(root, "one")
  loopback.run(1, 8, folder, "sft", "reft", "refine")
  return folder


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "each"), [(2, 4), (4, 2)])
def test_eight_devices_however_many_processes(one, root, processes, each):
  folder = loopback.beside(root, f"{processes}x{each}")
  loopback.run(processes, each, folder, "sft", "reft", "refine")
  loopback.assert_same_training(folder, one, processes=processes)
  loopback.assert_same_refinement(folder, one, processes=processes)


@pytest.mark.slow
def test_a_checkpoint_of_two_is_resumed_by_four(root):
  """And by one; both as if two had gone on."""
  begun = loopback.beside(root, "begun")
  loopback.run(2, 4, begun, "sft")
  found = []
  for processes in (1, 2, 4):
    folder = root / f"on_with_{processes}"
    shutil.copytree(begun, folder)
    more = "sft:train_generator.train.steps=8"
    loopback.run(processes, 8 // processes, folder, more)
    found.append(loopback.rows(folder / "sft"))
  for rows in found:
    assert rows[-1]["step"] == 8
    loopback.assert_same_rows(rows, found[0])


@pytest.mark.slow
def test_a_tensor_axis_across_processes(root):
  """Then every process needs all rows of a batch."""
  wanted = "sft:mesh.tensor=2,train_generator.train.steps=2"
  found = []
  for processes, name in ((1, "tensor1"), (2, "tensor2")):
    folder = loopback.beside(root, name)
    loopback.run(processes, 2 // processes, folder, wanted)
    found.append(loopback.rows(folder / "sft"))
  loopback.assert_same_rows(*found)


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


@pytest.mark.slow
def test_one_is_killed_and_the_same_command_resumes(root):
  wanted = "sft:" + ",".join(
    f"train_generator.train.{x}"
    for x in ("steps=80", "save_every=10", "eval_every=100")
  )
  folder = loopback.beside(root, "killed")
  started = loopback.start(2, 1, folder, wanted)
  metrics = folder / "sft" / "metrics.jsonl"
  deadline = time.monotonic() + 200
  while not metrics.exists() or len(metrics.read_text().splitlines()) < 14:
    assert time.monotonic() < deadline and started.poll() is None
    time.sleep(0.2)
  os.kill(process(1, started.pid), 9)
  begun = time.monotonic()
  _, said = started.communicate(timeout=90)
  print(f"ended after {time.monotonic() - begun:.1f} s\n{said}")
  assert time.monotonic() - begun < 60
  assert started.returncode != 0
  assert "process 1 of 2 ended with code 137" in said
  assert "Run the same command to resume" in said
  log = (folder / "logs" / "0.err").read_text()
  assert "error: process 0 of 2 stops: another one is gone" in log
  done = max(row["step"] for row in loopback.rows(folder / "sft"))
  loopback.run(2, 1, folder, wanted)
  found = loopback.rows(folder / "sft")
  assert found[-1]["step"] == 80 > done
  whole = loopback.beside(root, "whole")
  loopback.run(2, 1, whole, wanted)
  loopback.assert_same_rows(found, loopback.rows(whole / "sft"))
