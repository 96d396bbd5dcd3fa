"""Plans: keys, memory, donation, refusals, and what is suggested instead."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from refine_jax.planning import topologies
from refine_jax.stages import launch, plan, plan_job

TOP = pathlib.Path(__file__).parent.parent.parent
ARITHMETIC = f"{TOP}/configs/reft/arithmetic.py:smoke"
HERE = topologies.parse("cpu:8")
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="libtpu is not installed: nothing to compile for TPUs with",
)


def config_of(text=ARITHMETIC, **changes):
  config = launch.load_config(text)
  # A vocabulary without a tokenizer to be trained.
  config.tokenizer.train.vocab_size = 300
  for name, value in changes.items():
    config.update_from_flattened_dict({name.replace("__", "."): value})
  return config


@pytest.fixture(scope="module")
def ppo():
  return plan.main(config_of(), HERE, stage="train_reft")


def named(report, name):
  return next(p for p in report.programs if p.name == name)


def test_the_object_has_exactly_these_keys(ppo):
  found = json.loads(json.dumps(ppo.to_json()))
  assert list(found) == [
    *("fits", "chip_bytes", "peak_bytes", "programs", "seconds", "suggestion")
  ]
  for program in found["programs"]:
    assert list(program) == [
      *("name", "argument_bytes", "temp_bytes", "peak_bytes", "flops"),
      *("bytes_moved", "bound_seconds", "bound_by", "collectives"),
    ]
  assert found["fits"]
  assert found["suggestion"] == ""
  assert found["peak_bytes"] < found["chip_bytes"]


def test_the_programs_of_ppo(ppo):
  assert [p.name for p in ppo.programs] == [
    *("PPO update", "PPO first pass", "decode weights", "prefill"),
    *("decode chunk", "log-probs and values"),
  ]
  # Policy, value, optimizer: everything the update changes is donated.
  policy = named(ppo, "decode weights").argument_bytes
  for name in ("PPO update", "PPO first pass"):
    assert named(ppo, name).donated_bytes >= 3 * policy
  assert all(p.bound_seconds > 0 for p in ppo.programs)
  for program in ppo.programs:
    assert program.name in ppo.table()


def test_a_reference_on_the_host_counts_only_while_it_is_needed(ppo):
  moved = plan.main(
    config_of(train_reft__ppo__reference_memory="host"),
    HERE,
    stage="train_reft",
  )
  policy = named(ppo, "decode weights").argument_bytes
  saved = {
    a.name: a.resident_bytes - b.resident_bytes
    for a, b in zip(ppo.programs, moved.programs, strict=True)
  }
  scoring = saved.pop("log-probs and values")
  assert scoring == 0
  assert len(saved) == 5 and set(saved.values()) == {policy}
  assert "pinned memory of the host" in moved.table()
  assert "pinned memory" not in ppo.table()


def test_the_cache_is_updated_in_place(ppo):
  chunk = named(ppo, "decode chunk")
  caches = [
    b for b in chunk.buffers if re.search(r"\.cache\..*(keys|values)", b.name)
  ]
  # Keys and values of slots, of their prompts and of the queue.
  assert len(caches) >= 6
  assert [b.name for b in caches if not b.aliased] == []
  assert chunk.donated_bytes >= sum(b.bytes for b in caches)


def test_no_step_gathers_a_whole_parameter(ppo):
  config = config_of()
  width = config.model.overrides.width
  smallest = width * width * 4
  gathers = named(ppo, "decode chunk").gathers
  layers = [
    size
    for text, size in gathers
    if re.search(r"op_name=\"[^\"]*/(attention|mlp)\S*/dot_general", text)
  ]
  assert not [size for size in layers if size >= smallest]


@pytest.mark.parametrize("stage", ["train_reranker", "run_sample", "embed"])
def test_other_stages(stage):
  report = plan.main(config_of(), HERE, stage=stage)
  assert report.fits
  assert report.programs


def test_a_refusal_comes_with_what_fits():
  config = config_of(model__overrides__width=64)
  needed = plan.main(config, HERE, stage="train_reranker").peak_bytes
  # A device on which this is a little too much.
  small = dataclasses.replace(HERE.chip, memory=int(needed * 1.05))
  topology = dataclasses.replace(HERE, chip=small)
  report = plan.main(config, topology, stage="train_reranker")
  assert not report.fits
  assert report.peak_bytes > 0.92 * report.chip_bytes
  found = re.search(r"(--config\.\S+=\S+).*then .*, (\d+) %", report.suggestion)
  assert found, report.suggestion
  assert int(found[2]) <= 92


def test_rows_that_do_not_divide_are_placed():
  config = config_of(train_reft__train__batch_size=4)
  report = plan.main(config, HERE, stage="train_reft", search=False)
  assert "--config.mesh.tensor=2" in report.suggestion


def test_a_mesh_that_does_not_divide_is_told_in_one_line():
  config = config_of(mesh__tensor=3)
  with pytest.raises(plan_job.BadPlan, match="does not fit 8 devices") as error:
    plan.main(config, HERE)
  assert "\n" not in str(error.value)


def test_an_unknown_stage_and_an_unknown_model_are_named():
  with pytest.raises(plan_job.BadPlan, match="stage 'nothing'"):
    plan.main(config_of(), HERE, stage="nothing")
  config = launch.load_config(f"{TOP}/configs/reft/ppo.py")
  config.model.path = "some/where"
  with pytest.raises(plan_job.BadPlan, match="model 'some/where'"):
    plan.main(config, HERE, stage="train_generator")


def command(*arguments, **more):
  environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0", **more}
  return subprocess.run(
    [sys.executable, "-m", "refine_jax.stages.plan", *arguments],
    capture_output=True,
    text=True,
    cwd=TOP,
    env=environment,
    timeout=240,
  )


def test_the_command():
  made = command(
    f"--config={ARITHMETIC}", "--topology=cpu:8", "--stage=embed", "--json"
  )
  assert made.returncode == 0, made.stderr
  assert json.loads(made.stdout)["fits"]
  assert "Involuntary full rematerialization" not in made.stderr


def test_the_command_says_what_is_wrong_in_one_line():
  made = command(f"--config={ARITHMETIC}", "--topology=v5e:3x3")
  assert made.returncode == 2
  (line,) = made.stderr.strip().splitlines()
  assert line.startswith("error: topology 'v5e:3x3'")


def on_tpu(name, *flags):
  """In a process of its own: libtpu ends one whose XLA_FLAGS it does not know.

  Returns:
    the object, and what the compiler said.
  """
  made = command(
    f"--config={ARITHMETIC}",
    f"--topology={name}",
    "--config.tokenizer.train.vocab_size=300",
    "--json",
    *flags,
    XLA_FLAGS="",
  )
  assert made.returncode == 0, made.stderr[-3000:]
  return json.loads(made.stdout), made.stderr


@needs_libtpu
def test_a_tpu_slice():
  report, said = on_tpu("v5e:2x4", "--stage=embed")
  assert report["fits"]
  assert report["chip_bytes"] == 16 << 30
  assert "Involuntary full rematerialization" not in said


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["v4:2x2x2", "v5e:2x4", "v5p:2x2x2", "v6e:2x4", "v5e:2x2*2"]
)
def test_ppo_on_every_generation(name):
  report, said = on_tpu(name, "--stage=train_reft")
  assert report["fits"]
  assert "Involuntary full rematerialization" not in said
