"""PPO with a reference and values, as the compilers of TPUs make it: it fits,
nothing is replicated, no decoding step is sent a matrix, caches stay in place.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import tpu_child

from refine_jax.planning import chips
from refine_jax.planning.report import USABLE
from refine_jax.stages.plan_job import CHUNK

CHILD = pathlib.Path(__file__).parent / "tpu_child.py"
WARNING = "Involuntary full rematerialization"
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="libtpu is not installed: nothing to compile for TPUs with",
)


@dataclasses.dataclass(frozen=True)
class Cell:
  """A slice, and what its plan has that the others do not.

  Attributes:
    first: a round is one minibatch, so its first pass is a program.
  """

  topology: str
  family: str = "llama"
  tensor: int = 1
  first: bool = False

  def __str__(self):
    return f"{self.topology}-{self.family}-tensor{self.tensor}"

  @property
  def chip(self):
    return chips.TPUS[self.topology.split(":")[0]]

  @property
  def changes(self):
    return {
      "family": self.family,
      "mesh.tensor": self.tensor,
      "train_reft.ppo.minibatch": 0 if self.first else 4,
    }


CELLS = (
  Cell("v4:2x2x2", family="t5", tensor=2),
  Cell("v5e:2x4", first=True),
  Cell("v5p:2x2x1"),
  Cell("v6e:2x4", tensor=2),
  Cell("v5e:2x2*2"),
)


def child(*arguments):
  """(stdout, stderr); libtpu's warnings go to a file unless it is told."""
  heard = {"TPU_STDERR_LOG_LEVEL": "1", "TPU_LOG_DIR": "disabled"}
  made = subprocess.run(
    [sys.executable, str(CHILD), *arguments],
    capture_output=True,
    text=True,
    # libtpu ends a process whose flags it does not know.
    env={**os.environ, **heard, "XLA_FLAGS": ""},
    timeout=240,
  )
  assert made.returncode == 0, made.stderr[-3000:]
  return made.stdout, made.stderr


@needs_libtpu
def test_the_partitioners_warning_is_heard():
  assert WARNING in child("rematerialize", "v5e:2x4")[1]


@needs_libtpu
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_ppo(cell):
  changes = (f"{name}={json.dumps(x)}" for name, x in cell.changes.items())
  out, said = child("plan", cell.topology, *changes)
  assert WARNING not in said
  report = json.loads(out)
  programs = {program["name"]: program for program in report["programs"]}
  first = ("PPO first pass",) if cell.first else ()
  assert [*programs] == [
    *("PPO update", *first),
    *("decode weights", "prefill", "decode chunk", "log-probs and values"),
  ]
  check_memory(cell, report)
  check_decoding(cell, programs["decode chunk"])
  if cell.family != "t5":  # whose scores have a bias
    check_kernels(programs)


def check_memory(cell, report):
  assert report["fits"]
  for program in report["programs"]:
    used = program["peak_bytes"] + program["resident_bytes"]
    assert 0 < used <= USABLE * cell.chip.memory


def check_decoding(cell, chunk):
  caches = [
    b
    for b in chunk["buffers"]
    if re.search(r"\.cache\..*(keys|val)", b["name"])
  ]
  # Keys and values of two layers: of slots, and of prompts in the queue.
  assert len(caches) >= 8
  assert [b["name"] for b in caches if not b["aliased"]] == []
  assert chunk["donated_bytes"] >= sum(b["bytes"] for b in caches)
  # What a step is sent in any way is less than a device's part of a matrix
  # would be, were it whole on the batch's axes.
  kinds = ("all-gather", "all-to-all", "collective-permute")
  sent = [chunk["collectives"].get(kind, {"bytes": 0}) for kind in kinds]
  matrix = tpu_child.SIZES["width"] ** 2 * 4 / cell.tensor
  assert 0 < sum(x["bytes"] for x in sent) < CHUNK * matrix / 2
  assert max(size for _, size in chunk["gathers"]) < matrix


def check_kernels(programs):
  """Attention of training, scoring and prefill is splash, once per layer."""
  layers = tpu_child.LLAMA["layers"]
  expected = {
    "PPO update": 3 * layers,  # forward, and two backward
    "PPO first pass": 3 * layers,
    "log-probs and values": layers,
    "prefill": layers - 1,  # the last one's result is not needed
  }
  found = {name: program["kernels"] for name, program in programs.items()}
  assert found == {name: expected.get(name, 0) for name in programs}
