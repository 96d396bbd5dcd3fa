"""Two processes make the data that one makes, with the models of REFINER and
RATIONALYST: the same bytes."""

import json
import subprocess

import loopback
import making_child
import numpy as np
import pytest
from refiner_child import Interrupting

CHILD = loopback.HERE / "making_child.py"
MODELS = ("base", "encoder")
READ = (*MODELS, "documents", "planted")
MADE = tuple(making_child.STAGES)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
  """What one process makes; it compiles what the two need."""
  folder = tmp_path_factory.mktemp("making") / "one"
  folder.mkdir()
  loopback.run(1, 1, folder, "models", *MADE, child=CHILD)
  return folder


def contents(folder):
  """All but what every process leaves of its own, beside documents."""
  own = ("scored", "progress") if folder.name == "documents" else ()
  found = loopback.contents(folder).items()
  return {name: data for name, data in found if not name.startswith(own)}


def test_two_processes_make_what_one_makes(one):
  two = loopback.linked(one, "two", MODELS)
  said = loopback.run(2, 1, two, *MADE, child=CHILD).stdout.splitlines()
  for name in MADE:
    ours, theirs = contents(two / name), contents(one / name)
    assert ours.keys() == theirs.keys()
    assert ours == theirs, name
  shards = [x for x in said if x.startswith("shard ")]
  assert len(shards) == 10  # of five files, and both processes filled theirs
  assert all(int(line.split()[-1]) for line in shards)
  assert sum(line.startswith("Wrote ") for line in said) == len(MADE)
  other = (two / "logs" / "1.out").read_text()
  assert not [x for x in other.splitlines() if x and "Gloo" not in x]


def test_there_was_something_to_say(one):
  rows = (one / "critic_data" / "sampled.jsonl").read_text().splitlines()
  names = [json.loads(row)["id"].split("/")[-2:] for row in rows]
  every = [["T0.0", "0"], *([t, n] for t in ("T0.7", "T1.3") for n in "012")]
  assert sorted(names) == sorted(every * 22)
  said = {json.loads(row)["hypothesis"] for row in rows}
  assert len(said) > 60
  report = json.loads((one / "annotated" / "report.json").read_text())
  assert report["kept"] and sum(report["faults"].values()) > 10
  report = json.loads((one / "scores" / "report.json").read_text())
  assert report["scored"] * 2 == report["work"]["scored"] > 80
  report = json.loads((one / "documents" / "report.json").read_text())
  assert 0 < report["kept"] < report["segments"]


@pytest.mark.parametrize("name", ["annotated", "scores"])
def test_ended_at_any_moment_and_started_again(one, name):
  """In this process."""
  whole = loopback.linked(one, f"whole_{name}", READ)
  with Interrupting(whole).watched() as counted:
    making_child.run(whole, name)
  rng = np.random.default_rng()  # other moments every time
  for moment in 1 + rng.choice(counted.count, 3, replace=False):
    ended = loopback.linked(one, f"{name}{moment}", READ)
    with (
      Interrupting(ended, moment).watched(),
      pytest.raises(KeyboardInterrupt),
    ):
      making_child.run(ended, name)
    making_child.run(ended, name)
    assert contents(ended / name) == contents(whole / name), moment


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "process", "moment", "left"),
  [
    # A chunk is sampled three times and written; the next one is begun.
    ("critic_data", 1, 6, "sampled-00001-of-00002.jsonl"),
    # Of the second batch there are the scores, not that they are.
    ("scores", 1, 4, "scored-00001-of-00002.jsonl"),
    # There are rationales, and no report.
    ("annotated", 0, 8, "rationales.jsonl"),
  ],
)
def test_one_is_killed_and_both_go_on(one, name, process, moment, left):
  two = loopback.linked(one, f"killed_{name}", READ)
  arguments, environment = loopback.command(
    2, 1, two, f"{name}:{process}:{moment}", child=CHILD
  )
  ended = subprocess.run(arguments, env=environment, capture_output=True)
  assert ended.returncode
  assert (two / name / left).read_bytes()
  assert not (two / name / "report.json").exists()
  said = loopback.run(2, 1, two, name, child=CHILD)
  assert "Wrote " in said.stdout
  assert contents(two / name) == contents(one / name)
