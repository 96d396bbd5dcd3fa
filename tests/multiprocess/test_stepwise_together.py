"""Two processes answer step by step as one does, byte for byte."""

import json
import subprocess

import loopback
import pytest
import stepwise_child

CHILD = loopback.HERE / "stepwise_child.py"


@pytest.fixture(scope="module")
def one(tmp_path_factory):
  """What one process makes; it compiles what the two need."""
  folder = tmp_path_factory.mktemp("stepwise") / "one"
  folder.mkdir()
  loopback.run(1, 1, folder, "base", "stepwise", child=CHILD)
  return folder


def assert_same(ours, theirs):
  ours, theirs = (loopback.contents(x / "stepwise") for x in (ours, theirs))
  assert ours.keys() == theirs.keys()
  assert ours == theirs


def test_two_processes_answer_as_one_does(one):
  two = loopback.linked(one, "two", ["base"])
  said = loopback.run(2, 1, two, "stepwise", child=CHILD)
  assert_same(two, one)
  lines = said.stdout.splitlines()
  told = [x.split(":")[0] for x in lines if x.endswith("tokens per problem")]
  assert told == list(stepwise_child.ARMS)
  assert "per problem" not in (two / "logs" / "1.out").read_text()
  # Both had some of the three blocks of every arm, and a block's rows.
  shards = [x.split()[-2:] for x in lines if x.startswith("shard ")]
  assert [int(rows) for _, rows in shards] == [5, 3, 2, 1] * len(told)
  table = json.loads((one / "stepwise" / "table.json").read_text())
  assert any(0 < row["accuracy"]["mean"] < 100 for row in table.values())


@pytest.mark.slow
@pytest.mark.parametrize(
  ("process", "moment", "left"),
  [
    # In the third arm, a block's rows are written, its work is not.
    (1, 6, "implicit/trajectories-00001-of-00002.jsonl"),
    # Of the first arm's two joined files there is one, and no summary.
    (0, 7, "random/trajectories.jsonl"),
  ],
)
@pytest.mark.parametrize("after", [1, 2])
def test_one_is_killed_and_others_go_on(one, process, moment, left, after):
  """As many of them, or another number."""
  folder = loopback.linked(one, f"killed{process}-{after}", ["base"])
  arguments, environment = loopback.command(
    2, 1, folder, f"stepwise:{process}:{moment}", child=CHILD
  )
  ended = subprocess.run(arguments, env=environment, capture_output=True)
  assert ended.returncode
  arm = (folder / "stepwise" / left).parent
  assert (folder / "stepwise" / left).read_bytes()
  assert not (arm / "summary.json").exists()
  said = loopback.run(after, 1, folder, "stepwise", child=CHILD)
  assert "Answered 8 problems" in said.stdout
  assert_same(folder, one)
