"""Starts processes joined over loopback, and reads what stages wrote."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from refine_jax import records
from refine_jax.training import checkpoint

HERE = pathlib.Path(__file__).parent
TOP = HERE.parent.parent
SCRIPT = TOP / "launch_scripts" / "local_multiprocess.sh"
CHILD = HERE / "together_child.py"
# Of losses; sums over devices run in another order in another process.
NEAR = 1e-6


def launched(processes, each, root, program, *options):
  """Arguments of the script that runs a program, and its environment."""
  flags = os.environ["XLA_FLAGS"]
  flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", flags)
  cache = pathlib.Path(tempfile.gettempdir()) / "refine_jax_test_programs"
  environment = {
    **os.environ,
    "XLA_FLAGS": flags,
    "REFINE_JAX_LOGS": str(root / "logs"),
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }
  script = ["bash", str(SCRIPT), str(processes), str(each), *options, "--"]
  return [*script, *program], environment


def command(processes, each, root, *wanted, child=CHILD):
  """The same, of `wanted` stages under `root`."""
  program = sys.executable, str(child), str(root), *wanted
  return launched(processes, each, root, program)


def run(processes, each, root, *wanted, timeout=1800, **more):
  """`wanted` stages to their end, in several processes."""
  arguments, environment = command(processes, each, root, *wanted, **more)
  made = subprocess.run(
    arguments, env=environment, capture_output=True, text=True, timeout=timeout
  )
  assert made.returncode == 0, made.stderr[-3000:]
  return made


def linked(one, name, folders):
  """A new folder beside another that reads the same folders."""
  made = one.parent / name
  made.mkdir()
  for folder in folders:
    (made / folder).symlink_to(one / folder)
  return made


def beside(root, name, *more):
  """A new folder with the tokenizer of another, and more of its folders."""
  made = root / name
  for given in ("tokenizer", *more):
    shutil.copytree(root / given, made / given)
  return made


def rows(folder):
  """Metrics without clocks."""
  clocks = ("seconds", "time")
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return [
    {
      k: v
      for k, v in json.loads(line).items()
      if not k.startswith(clocks) and not k.endswith("per_second")
    }
    for line in lines
  ]


def assert_same_rows(ours, theirs):
  assert len(ours) == len(theirs)
  for a, b in zip(ours, theirs, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      near = {"rel": NEAR} if name == "loss" else {"rel": 1e-4, "abs": 1e-5}
      assert a[name] == pytest.approx(b[name], **near), (name, a, b)


def assert_same_parameters(ours, theirs, step):
  """Of the checkpoints of a step."""
  import jax

  trees = [checkpoint.load_params(f, select=step) for f in (ours, theirs)]
  for a, b in zip(*map(jax.tree.leaves, trees), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def contents(folder):
  """Of all files under it, but for what was only half written."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file() and not path.name.startswith(".")
  }


def drawn(folder, process=0):
  """What rounds of rollouts sampled, as this process saw it."""
  return (folder / f"drawn-{process}.jsonl").read_text()


def trajectories(folder):
  """Arm -> its records, whoever wrote them."""
  return {
    arm.name: list(records.read(records.Trajectory, arm / "trajectories.jsonl"))
    for arm in folder.iterdir()
    if arm.is_dir()
  }


def summaries(folder):
  return {
    path.parent.name: json.loads(path.read_text())
    for path in folder.glob("*/summary.json")
  }


def assert_same_run(ours, theirs):
  """Metrics and last parameters; the other run may be longer."""
  made = rows(ours)
  last = made[-1]["step"]
  found = [row for row in rows(theirs) if row["step"] <= last]
  assert_same_rows(made, found)
  assert_same_parameters(ours, theirs, last)


def assert_same_training(ours, theirs, *, processes):
  """Supervised training and PPO: what `processes` did, and what one did."""
  assert_same_run(ours / "sft", theirs / "sft")
  assert_same_run(ours / "reft", theirs / "reft")
  for i in range(processes):
    assert drawn(ours / "reft", i) == drawn(theirs / "reft")


def assert_same_refinement(ours, theirs, *, processes):
  """The refine loop's records, and what is said of them."""
  assert trajectories(ours / "refine") == trajectories(theirs / "refine")
  assert summaries(ours / "refine") == summaries(theirs / "refine")
  for arm in summaries(ours / "refine"):
    written = (ours / "refine" / arm).glob("trajectories-*-of-*.jsonl")
    assert len(list(written)) == processes
