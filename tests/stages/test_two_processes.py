"""Two processes share the problems, and their shards read as one file."""

import pathlib
import socket
import subprocess
import sys

import pytest
import sampling_child

from refine_jax import records
from refine_jax.stages import run_sample

CHILD = pathlib.Path(__file__).parent / "sampling_child.py"


def free_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def sample_in_two(folder):
  port = str(free_port())
  children = [
    subprocess.Popen([sys.executable, CHILD, str(i), port, folder])
    for i in range(2)
  ]
  assert [child.wait(timeout=120) for child in children] == [0, 0]


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path):
  config = sampling_child.config_at(tmp_path)
  sampling_child.save_generator(config, tmp_path)
  run_sample.main(config, tmp_path / "one")
  sample_in_two(tmp_path)
  assert not (tmp_path / "two" / "samples.jsonl").exists()
  found = {
    name: list(
      records.read(records.Attempts, tmp_path / name / "samples.jsonl")
    )
    for name in ("one", "two")
  }
  assert len(found["one"]) == 11
  for ours, theirs in zip(found["two"], found["one"], strict=True):
    assert ours.id == theirs.id
    assert [c.text for c in ours.candidates] == [
      c.text for c in theirs.candidates
    ]
  # One has nothing left to do and does not keep the other waiting.
  shard = tmp_path / "two" / "samples-00001-of-00002.jsonl"
  whole = shard.read_text()
  shard.unlink()
  sample_in_two(tmp_path)
  assert shard.read_text() == whole
