"""Two processes make the rows that one makes: the same bytes, the same hash."""

import shutil
import subprocess

import loopback
import pytest

from refine_jax.stages import critiquing

CHILD = loopback.HERE / "mathcritique_child.py"
MADE = ("critic_data", "critic1_data", "talk", "trajectory")


BEFORE = ("tokenizer", "bootstrap", "actor0")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
  """What one process makes, and all that is read for it; it compiles what the
  two need."""
  folder = tmp_path_factory.mktemp("dealt") / "one"
  folder.mkdir()
  loopback.run(1, 1, folder, *BEFORE, *MADE, child=CHILD)
  return folder


def test_two_processes_make_what_one_makes(one):
  two = loopback.linked(one, "two", BEFORE)
  said = loopback.run(2, 1, two, *MADE, child=CHILD)
  for name in MADE:
    ours, theirs = (loopback.contents(x / name) for x in (two, one))
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


@pytest.mark.slow
@pytest.mark.parametrize(
  ("process", "moment", "left"),
  [
    # Its chunk's solutions are written, its attempts are not.
    (1, 5, "solutions-00001-of-00002.jsonl"),
    # Of two joined files there is one, and no manifest.
    (0, 13, "explored.jsonl"),
  ],
)
def test_one_is_killed_and_both_go_on(one, process, moment, left):
  two = loopback.linked(one, f"killed{process}", BEFORE)
  shutil.copytree(one / "critic_data", two / "critic_data")
  arguments, environment = loopback.command(
    2, 1, two, f"critic1_data:{process}:{moment}", child=CHILD
  )
  ended = subprocess.run(arguments, env=environment, capture_output=True)
  assert ended.returncode
  assert (two / "critic1_data" / left).read_bytes()
  assert not (two / "critic1_data" / "manifest.json").exists()
  said = loopback.run(2, 1, two, "critic1_data", child=CHILD)
  assert "refined" in said.stdout
  ours, theirs = (loopback.contents(x / "critic1_data") for x in (two, one))
  assert ours == theirs
