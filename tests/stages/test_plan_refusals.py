"""A plan's bad input: one line that names it, and an exit code of its own."""

import pathlib
import subprocess
import sys

import pytest

from refine_jax.planning import topologies
from refine_jax.stages import launch, plan

TOP = pathlib.Path(__file__).parent.parent.parent
SMALL = f"{TOP}/configs/reft/arithmetic.py:smoke"
HERE = topologies.parse("cpu:2")


def small(**changes):
  config = launch.load_config(SMALL)
  config.tokenizer.train.vocab_size = 300
  for name, value in changes.items():
    config.update_from_flattened_dict({name.replace("__", "."): value})
  return config


@pytest.mark.parametrize(
  ("stage", "field", "value", "said"),
  [
    ("train_generator", "mesh.tensor", 0, "config.mesh: tensor=0"),
    ("train_generator", "mesh.devices", -1, "config.mesh: devices=-1"),
    (
      "train_generator",
      "train_generator.train.micro_batches",
      0,
      "config.train_generator.train: micro_batches=0",
    ),
    ("train_generator", "train_generator.train.batch_size", 0, "batch_size=0"),
    ("train_generator", "data.max_target", 0, "config.data: max_target=0"),
    ("train_generator", "data.batching", "heap", "config.data: .*'heap'"),
    ("run_sample", "engine.slots", 0, "config.engine: slots=0"),
    ("run_sample", "engine.cache_dtype", "int5", "config.engine: .*'int5'"),
    ("run_sample", "engine.prompt_buckets", (), "prompt_buckets is empty"),
    ("embed", "engine.prompt_buckets", (0, 8), "prompt_buckets=0"),
    ("run_sample", "run_sample.sampling.max_tokens", 0, "max_tokens = 0"),
    ("train_reft", "train_reft.ppo.reference_memory", "disk", "'disk'"),
    ("train_reft", "train_reft.ppo.reference", "none.", "'none.'"),
    ("train_reft", "train_reft.ppo.minibatch", -1, "minibatch=-1"),
    ("train_reft", "train_reft.rollout.slots", -1, "rollout: slots=-1"),
  ],
)
def test_a_value_that_cannot_be_is_named(stage, field, value, said):
  with pytest.raises(ValueError, match=said) as error:
    plan.main(small(**{field.replace(".", "__"): value}), HERE, stage=stage)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("[1, 2]", "not a list"),
    ('{"model_type": ', "line 1"),
    ('{"model_type": "llama"}', "is missing"),
    ('{"model_type": 3}', "model_type 3"),
  ],
)
def test_a_folder_that_describes_no_model_is_named(tmp_path, text, said):
  (tmp_path / "config.json").write_text(text)
  config = small(model__path=str(tmp_path))
  with pytest.raises(ValueError, match=said) as error:
    plan.main(config, HERE, stage="run_sample")
  assert str(tmp_path / "config.json") in str(error.value)
  assert "\n" not in str(error.value)


def command(*arguments, text=""):
  """The command line, or a program `text` that ends in it."""
  what = ["-c", text] if text else ["-m", "refine_jax.stages.plan"]
  return subprocess.run(
    [sys.executable, *what, f"--config={SMALL}", "--stage=embed", *arguments],
    capture_output=True,
    text=True,
    cwd=TOP,
    timeout=240,
  )


def test_no_slices_are_told_in_one_line():
  made = command("--topology=v5e:2x2*0")
  assert made.returncode == 2
  (line,) = made.stderr.splitlines()
  assert line.startswith("error: topology 'v5e:2x2*0': expected")


NO_LIBTPU = """
import runpy, sys
sys.modules["libtpu"] = None
runpy.run_module("refine_jax.stages.plan", run_name="__main__")
"""
FAULTY = """
import runpy
from refine_jax.stages import planned
planned.stage_of = lambda *_: {}["not here"]
runpy.run_module("refine_jax.stages.plan", run_name="__main__")
"""


def test_a_missing_libtpu_comes_with_the_command_that_installs_it():
  made = command("--topology=v6e:2x4", text=NO_LIBTPU)
  assert made.returncode == 2
  assert made.stderr.splitlines() == [
    "error: topology v6e:2x4: compiling for TPUs needs libtpu;"
    " pip install -e .[plan]"
  ]


def test_a_fault_of_its_own_is_not_a_plan_that_does_not_fit():
  made = command("--topology=cpu:2", "--json", text=FAULTY)
  assert made.returncode == 3
  assert "Traceback" in made.stderr and "'not here'" in made.stderr
  assert made.stdout == ""
