"""A task in under 40 lines and a config, through all five binaries.

Neither is part of the package: nothing else is touched. Every stage is then
started again and has nothing to do, or is refused with another config.
"""

import json
import pathlib

import pytest

from refine_jax import records
from refine_jax.stages import (
  export_hf,
  launch,
  make_critic_data,
  make_report,
  run_refine,
  train_critic,
  train_generator,
  train_refiner,
  train_tokenizer,
)

HERE = pathlib.Path(__file__).parent
STAGES = (
  ("tokenizer", train_tokenizer),
  ("warm_start", train_generator),
  ("critic_data", make_critic_data),
  ("critic", train_critic),
  ("refiner", train_refiner),
  ("refine", run_refine),
)


@pytest.fixture(scope="module", params=["t5", "llama"])
def run(request, tmp_path_factory):
  """All stages once; (config, root folder, what each said)."""
  root = tmp_path_factory.mktemp(request.param)
  config = launch.load_config(f"{HERE}/reverse_config.py:model={request.param}")
  said = {}
  for folder, stage in STAGES:
    workdir = root / "seed0" / folder
    workdir.mkdir(parents=True)
    said[folder] = stage.main(config, workdir)
  return config, root, said


def test_the_task_is_short():
  lines = (HERE / "reverse_task.py").read_text().splitlines()
  assert len(lines) < 40


def test_every_stage_says_what_it_made(run):
  _, _, said = run
  assert said["tokenizer"].startswith("Wrote")
  for name in ("warm_start", "critic", "refiner"):
    assert "/checkpoints: best exact" in said[name]
  assert said["refine"] == "Answered 12 problems in 8 arms"


def test_critic_data_has_both_exports(run):
  _, root, _ = run
  folder = root / "seed0" / "critic_data"
  rows = list(records.read(records.Critique, folder / "critiques.jsonl"))
  critic = list(records.read(records.Example, folder / "critic_examples.jsonl"))
  revise = list(
    records.read(records.Example, folder / "revision_examples.jsonl")
  )
  assert {r.origin for r in rows} >= {"gold", "perturbed", "sampled"}
  assert [c.target[0] for c in critic] == [r.feedback for r in rows]
  wrong = [r for r in rows if r.feedback != "no hint"]
  assert [e.target[0] for e in revise] == [r.gold for r in wrong]


def test_arms_answer_the_same_problems(run):
  config, root, _ = run
  arms = {}
  for name in config.run_refine.order:
    path = root / "seed0" / "refine" / name / "trajectories.jsonl"
    arms[name] = list(records.read(records.Trajectory, path))
  ids = [t.id for t in arms["without critic"]]
  assert all([t.id for t in ts] == ids for ts in arms.values())
  assert all(len(t.turns) == 1 for t in arms["without critic"])
  # An untrained model is always wrong, so an oracle uses the whole budget.
  assert max(len(t.turns) for t in arms["oracle critic"]) == 2


def test_first_turns_agree_between_arms(run):
  _, root, _ = run
  first = {}
  for name in ("without critic", "trained critic", "oracle critic"):
    path = root / "seed0" / "refine" / name / "trajectories.jsonl"
    first[name] = [
      t.turns[0].hypothesis for t in records.read(records.Trajectory, path)
    ]
  assert first["without critic"] == first["trained critic"]
  assert first["without critic"] == first["oracle critic"]


def test_a_finished_stage_does_nothing_again(run):
  config, root, said = run
  for folder, stage in STAGES[1:]:
    before = contents(root / "seed0" / folder)
    again = stage.main(config, root / "seed0" / folder)
    assert contents(root / "seed0" / folder) == before, folder
    if folder in ("warm_start", "critic"):
      assert again.split("(")[0] == said[folder].split("(")[0]


def contents(folder):
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in folder.rglob("*")
    if p.is_file() and "tensorboard" not in p.parts
  }


def test_report(run, capsys):
  config, root, _ = run
  line = make_report.main(config, root)
  assert "report.html" in line
  page = (root / "report.html").read_text()
  assert "__DATA__" not in page and "trained critic" in page
  numbers = json.loads((root / "report.json").read_text())
  assert list(numbers["arms"]) == list(config.run_refine.order)
  assert "oracle critic" in capsys.readouterr().out


def test_export(run):
  config, root, _ = run
  workdir = root / "seed0" / "export"
  workdir.mkdir(exist_ok=True)
  assert export_hf.main(config, workdir) == f"Wrote {workdir}/hf"
  assert (workdir / "hf" / "config.json").exists()
