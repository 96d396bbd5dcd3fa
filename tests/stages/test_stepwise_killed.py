"""Stepwise inference that ends at any moment goes on where it was."""

import json
import os

import pytest
import tiny_rationalyst
from refiner_child import Interrupting

from refine_jax import records
from refine_jax.methods import stepwise
from refine_jax.stages import run_stepwise
from refine_jax.stages.reading import BadConfig

ARMS = ("implicit", "majority vote")


@pytest.fixture
def solved(monkeypatch):
  """How many problems every call of `stepwise.solve` had."""
  sizes, solve = [], stepwise.solve

  def counting(problems, *args):
    sizes.append(len(problems))
    return solve(problems, *args)

  monkeypatch.setattr(stepwise, "solve", counting)
  return sizes


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  """Three blocks in each of two arms."""
  made = tiny_rationalyst.config_of()
  folder = tmp_path_factory.mktemp("base")
  tiny_rationalyst.save_base(folder, made)
  made.task.name = "lenient_chains:Lenient"
  section = made.run_stepwise
  paths = {k: str(folder) for k in ("agent", "scorer", "writer")}
  section.update(order=ARMS, references=(), rows=(0, 5), together=2, **paths)
  section.arms["majority vote"].candidates = 2
  section.candidates = 2
  return made


def contents(folder):
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in folder.rglob("*")
    if p.is_file()
  }


def interrupted(config, folder, moment):
  with (
    Interrupting(folder, moment).watched(),
    pytest.raises(KeyboardInterrupt),
  ):
    run_stepwise.main(config, folder)


def test_ended_at_any_moment(config, solved, tmp_path):
  whole = tmp_path / "whole"
  with Interrupting(whole).watched() as counted:
    run_stepwise.main(config, whole)
  assert solved == [2, 2, 1, 2, 2, 2, 2, 1, 1]
  # Of each arm two writes a block and a summary, then of two tables; a file
  # that appears has two moments.
  assert counted.count == 2 * (2 * 3 + 2) + 2 * 2
  for moment in range(1, counted.count + 1):
    solved.clear()
    folder = tmp_path / f"ended{moment}"
    interrupted(config, folder, moment)
    run_stepwise.main(config, folder)
    assert contents(folder) == contents(whole), moment
    # At most one block was answered again.
    assert sum(solved) <= 15 + 4, moment
  # What is counted is of all blocks: two candidates a round.
  rows = records.read(records.Trajectory, whole / "implicit/trajectories.jsonl")
  summary = json.loads((whole / "implicit/summary.json").read_text())
  drawn = summary["work"]["agent"]["samples"]
  assert drawn == 2 * sum(len(row.turns) for row in rows) > 0


def test_ended_in_a_line(config, solved, tmp_path):
  """Of the second block's rows."""
  run_stepwise.main(config, tmp_path / "whole")
  folder = tmp_path / "torn"
  interrupted(config, folder, 4)
  rows = folder / "implicit" / "trajectories.jsonl"
  os.truncate(rows, rows.stat().st_size - 7)
  solved.clear()
  run_stepwise.main(config, folder)
  assert solved[:2] == [2, 1]
  assert contents(folder) == contents(tmp_path / "whole")


def test_a_vote_comes_after_the_arm_whose_budget_it_has(config, tmp_path):
  changed = config.copy_and_resolve_references()
  changed.run_stepwise.order = ARMS[::-1]
  with pytest.raises(BadConfig, match="arm 'implicit' did, which comes before"):
    run_stepwise.main(changed, tmp_path)


def test_problems_that_have_no_slots(config, tmp_path):
  changed = config.copy_and_resolve_references()
  changed.run_stepwise.trunks.slots = changed.run_stepwise.together - 1
  with pytest.raises(BadConfig, match=r"trunks\.slots has room for 1"):
    run_stepwise.main(changed, tmp_path)
