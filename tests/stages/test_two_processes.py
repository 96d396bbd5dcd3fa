"""Two processes share the problems, and their shards read as one file."""

import pathlib
import socket
import subprocess
import sys

import optax
import pytest
import sampling_child

from refine_jax import records
from refine_jax.stages import build, run_sample, train_tokenizer
from refine_jax.training.checkpoint import Checkpointer
from refine_jax.training.state import state_of

CHILD = pathlib.Path(__file__).parent / "sampling_child.py"


def free_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def save_generator(config, root):
  """An untrained one is enough to sample from."""
  train_tokenizer.main(config, root / "tokenizer")
  (root / "generator").mkdir()
  model = build.fresh_model(
    config.train_generator.model,
    config.tokenizer,
    build.mesh(config.mesh),
    root / "generator",
    seed=0,
  )
  with Checkpointer(root / "generator") as checkpointer:
    state = state_of(model.params, optax.sgd(0.0))
    checkpointer.save(state, model.meta)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path):
  config = sampling_child.config_at(tmp_path)
  save_generator(config, tmp_path)
  run_sample.main(config, tmp_path / "one")
  port = str(free_port())
  children = [
    subprocess.Popen([sys.executable, CHILD, str(i), port, tmp_path])
    for i in range(2)
  ]
  assert [child.wait(timeout=120) for child in children] == [0, 0]
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
