"""Stages whose folders lie in a bucket do what they do on a disk."""

import json
import pathlib

import pytest
import reft_child

from refine_jax import files
from refine_jax.stages import (
  build,
  run_sample,
  train_generator,
  train_tokenizer,
)
from refine_jax.stages.reading import BadConfig
from refine_jax.training import workdir

HERE = pathlib.Path(__file__).parent
SPEC = f"{HERE.parent.parent}/configs/reft/arithmetic.py:smoke,model=llama"


def pipeline(root):
  """A tokenizer, a generator that is resumed once, and what it answers."""
  config = reft_child.settings(SPEC)
  config.train_generator.train.update(steps=2, eval_every=1, save_every=1)
  config.run_sample.update(generator="../warm_start", rows=(0, 6), n=2, chunk=4)

  def run(name, stage):
    folder = files.path(root / name)
    workdir.claim(folder, {"seed": config.seed})
    return stage.main(config, folder)

  run("tokenizer", train_tokenizer)
  run("warm_start", train_generator)
  config.train_generator.train.steps = 3
  said = run("warm_start", train_generator)
  return said, run("samples", run_sample)


def metrics(folder):
  """Rows without clocks."""
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return [
    {
      k: v
      for k, v in json.loads(line).items()
      if not k.startswith("time") and "per_second" not in k
    }
    for line in lines
  ]


@pytest.mark.slow
def test_a_pipeline_in_a_bucket(bucket, tmp_path, monkeypatch):
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  there, disk = files.path(bucket) / "run", tmp_path / "run"
  ours, theirs = pipeline(there), pipeline(disk)
  assert "gs://bucket/run/warm_start/checkpoints" in ours[0]
  assert ours[1].replace(str(there), "") == theirs[1].replace(str(disk), "")
  assert [r["step"] for r in metrics(there / "warm_start") if "loss" in r] == [
    1,
    2,
    3,
  ]
  assert metrics(there / "warm_start") == metrics(disk / "warm_start")
  for name in ("samples/samples.jsonl", "tokenizer/config.json"):
    assert (there / name).read_bytes() == (disk / name).read_bytes()
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
