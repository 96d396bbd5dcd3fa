"""One folder, one configuration."""

import json

import pytest

from refine_jax.training.workdir import ConfigMismatch, claim, differences

CONFIG = {
  "steps": 10,
  "model": {"width": 8, "sizes": (1, 2)},
  "log_every": 5,
  "data": {"workers": {"number": 2}, "path": None},
}


def changed(**values):
  return {**CONFIG, **values}


def test_first_use_writes_the_configuration(tmp_path):
  workdir = claim(tmp_path / "a" / "b", CONFIG)
  assert json.loads((workdir / "config.json").read_text()) == {
    **CONFIG,
    "model": {"width": 8, "sizes": [1, 2]},
  }
  assert [f.name for f in workdir.iterdir()] == ["config.json"]
  claim(workdir, CONFIG)


def test_another_configuration_is_refused_with_its_differences(tmp_path):
  claim(tmp_path, CONFIG)
  other = changed(
    steps=20, model={"width": 8, "sizes": (1, 2), "depth": 3}, data={}
  )
  with pytest.raises(ConfigMismatch) as error:
    claim(tmp_path, other)
  assert str(error.value).splitlines()[1:] == [
    "  data: not set in the folder, {} now",
    "  data.path: None in the folder, not set now",
    "  data.workers.number: 2 in the folder, not set now",
    "  model.depth: not set in the folder, 3 now",
    "  steps: 10 in the folder, 20 now",
  ]
  assert str(tmp_path) in str(error.value)
  assert json.loads((tmp_path / "config.json").read_text())["steps"] == 10


def test_free_keys_may_differ(tmp_path):
  claim(tmp_path, CONFIG)
  other = changed(log_every=1, data={"workers": {"number": 9}, "path": None})
  claim(tmp_path, other, free=["log_every", "data.workers"])
  assert len(differences(CONFIG, other, free=["data.work"])) == 2


def test_a_broken_file_is_named(tmp_path):
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ConfigMismatch, match=r"config.json is not JSON"):
    claim(tmp_path, CONFIG)
