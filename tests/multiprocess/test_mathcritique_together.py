"""Two processes make the rows that one makes: the same bytes, the same hash."""

import pathlib
import sys

import loopback
import mathcritique_child
import pytest

from refine_jax.stages import critiquing

MADE = ("critic_data", "critic1_data", "talk", "trajectory")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """What the stages read."""
  sys.path.insert(0, str(mathcritique_child.TOP / "tests/stages"))
  folder = tmp_path_factory.mktemp("dealt")
  for name in ("tokenizer", "bootstrap", "actor0"):
    mathcritique_child.run(folder, name)
  return folder


def beside(root, name):
  made = root / name
  made.mkdir()
  for folder in ("tokenizer", "bootstrap", "actor0"):
    (made / folder).symlink_to(root / folder)
  return made


def contents(folder: pathlib.Path):
  return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_two_processes_make_what_one_makes(root):
  one, two = (beside(root, name) for name in ("one", "two"))
  for name in MADE:
    mathcritique_child.run(one, name)
  child = loopback.HERE / "mathcritique_child.py"
  said = loopback.run(2, 1, two, *MADE, child=child)
  for name in MADE:
    ours, theirs = contents(two / name), contents(one / name)
    assert ours.keys() == theirs.keys()
    assert ours == theirs
  shards = [x for x in said.stdout.splitlines() if x.startswith("shard ")]
  assert len(shards) == 12  # of six files, and both processes filled theirs
  assert all(int(line.split()[-1]) for line in shards)
  made = critiquing.sealed(one / "critic_data")
  assert made["filter_kept_percent"]["rows"] > 0
  assert {"rg1", "rg3", "pos"} <= made["made"].keys()
  improved = critiquing.sealed(one / "critic1_data")
  assert improved["refined"] > 0
  assert critiquing.sealed(one / "trajectory")["kept"] > 0
