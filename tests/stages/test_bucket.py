"""Stages whose folders lie in a bucket do what they do on a disk."""

import importlib
import json
import pathlib
import re

import pytest

from refine_jax import files
from refine_jax.stages import build, launch
from refine_jax.stages.reading import BadConfig
from refine_jax.training import workdir

CONFIG = pathlib.Path(__file__).parents[1] / "multiprocess/together_config.py"
# Folder, stage, and the field that says how long its first run is.
STAGES = (
  ("seed0/tokenizer", "train_tokenizer", ""),
  ("seed0/sft", "train_generator", "train_generator.train.steps"),
  ("seed0/samples", "run_sample", ""),
  ("seed0/reft", "train_reft", "train_reft.train.steps"),
  ("seed0/refiner", "train_refiner", "train_refiner.train.steps"),
  ("seed0/refine", "run_refine", ""),
  ("seed0/exported", "export_hf", ""),
  (".", "make_report", ""),
)
# None of them twice.
UPDATES = {"sft": [1, 2, 3, 4], "reft": [4, 8], "refiner": [1, 2]}
# Of their own time and format; metrics are compared without their clocks.
ASIDE = re.compile(r"checkpoints/|tensorboard/|metrics\.jsonl|report\.html")


def pipeline(root):
  """Runs all stages, training twice: it goes on. What they said."""
  said = {}
  for name, stage, steps in STAGES:
    main = importlib.import_module(f"refine_jax.stages.{stage}").main
    config = launch.load_config(str(CONFIG))
    config.task.name = "reft_task:Graded"
    config.mesh.devices = 1
    folder = files.path(root / name)
    workdir.claim(folder, {"seed": config.seed})
    if steps:
      begun = config.copy_and_resolve_references()
      begun.update_from_flattened_dict({steps: 1})
      main(begun, folder)
    said[name] = main(config, folder).replace(str(root), "..")
  return said


def metrics(folder):
  """Rows without clocks."""
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return [
    {
      k: v
      for k, v in json.loads(line).items()
      if not k.startswith(("time", "seconds")) and "per_second" not in k
    }
    for line in lines
  ]


@pytest.mark.slow
def test_a_pipeline_in_a_bucket(bucket, tmp_path, monkeypatch):
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  there, disk = files.path(bucket) / "run", tmp_path / "run"
  ours, theirs = pipeline(there), pipeline(disk)
  clock = r"\d+ s\)"
  for name in ours:
    assert re.sub(clock, "", ours[name]) == re.sub(clock, "", theirs[name])
  for name, updates in UPDATES.items():
    rows = metrics(there / "seed0" / name)
    assert rows == metrics(disk / "seed0" / name)
    made = [row["step"] for row in rows if "loss" in row]
    assert made == updates
  names = [str(f.relative_to(disk)) for f in disk.rglob("*") if f.is_file()]
  names = [n for n in names if not ASIDE.search(n)]
  assert {"report.json", "seed0/refine/vote/trajectories.jsonl"} <= {*names}
  for name in names:
    assert (there / name).read_bytes() == (disk / name).read_bytes(), name
  # Nothing went astray.
  assert not list((tmp_path / "here").iterdir())


def test_another_config_is_refused_there_too(bucket):
  workdir.claim(f"{bucket}/run", {"seed": 1})
  with pytest.raises(workdir.ConfigMismatch, match="gs://bucket/run was used"):
    workdir.claim(f"{bucket}/run", {"seed": 2})


def test_weights_of_others_have_to_lie_on_a_disk(bucket):
  folder = files.path(bucket) / "hf"
  files.write(folder / "config.json", "{}")
  with pytest.raises(BadConfig, match=r"gs://bucket/hf: .* from a disk"):
    build.load_model(folder, None)
