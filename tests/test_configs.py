"""Every config resolves, with every documented argument, and refuses others."""

import pathlib

import pytest
from ml_collections import ConfigDict

from refine_jax.stages import launch

TOP = pathlib.Path(__file__).parent.parent / "configs"
FILES = sorted(TOP.rglob("*.py"))


def name(path):
  return str(path.relative_to(TOP))


@pytest.mark.parametrize("path", FILES, ids=name)
@pytest.mark.parametrize("text", ["", ":smoke", ":model=llama,smoke"])
def test_resolves(path, text):
  config = launch.load_config(f"{path}{text}")
  assert isinstance(config, ConfigDict)
  config.to_json()  # nothing in it that could not be written down


@pytest.mark.parametrize("path", FILES, ids=name)
def test_smoke_is_smaller(path):
  full = launch.load_config(str(path))
  smoke = launch.load_config(f"{path}:smoke")
  assert smoke.train_generator.train.steps < full.train_generator.train.steps


@pytest.mark.parametrize("path", FILES, ids=name)
def test_unknown_arguments_are_refused_with_a_suggestion(path):
  with pytest.raises(ValueError, match="did you mean 'smoke'"):
    launch.load_config(f"{path}:smok")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_only_the_building_blocks(path):
  text = path.read_text(encoding="utf-8")
  imports = [
    line for line in text.splitlines() if line.startswith(("import ", "from "))
  ]
  assert imports == ["from refine_jax import config"]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_tasks_and_families_exist(path):
  from refine_jax.models import families
  from refine_jax.tasks import base

  config = launch.load_config(f"{path}:smoke")
  base.load(config.task.name, **config.task.options)
  sections = [config, *(config[s] for s in config if s.startswith("train_"))]
  for model in (section.model for section in sections if "model" in section):
    if model.family:
      families.build({"family": model.family, "config": fields(model)})


def fields(model):
  return {**model.overrides.to_dict(), "vocab_size": 32}
