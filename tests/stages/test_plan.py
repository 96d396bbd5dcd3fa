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

from refine_jax.planning import architectures, topologies
from refine_jax.planning.programs import Planner
from refine_jax.stages import launch, plan, plan_job, planned

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
    *("fits", "chip_bytes", "peak_bytes", "programs", "seconds", "suggestion"),
    *("placed_with", "stage", "parameters", "estimated"),
  ]
  for program in found["programs"]:
    assert list(program) == [
      *("name", "argument_bytes", "temp_bytes", "peak_bytes"),
      *("donated_bytes", "beside_bytes", "refused", "flops"),
      *("bytes_moved", "bound_seconds", "bound_by", "collectives"),
    ]
  assert found["fits"]
  assert found["suggestion"] == found["placed_with"] == ""
  assert found["peak_bytes"] < found["chip_bytes"]
  assert found["stage"] == "train_reft"
  assert found["estimated"] is True


def test_parameters_are_counted(ppo):
  c = config_of().model.overrides
  layer = 4 * c.width**2 + 3 * c.width * c.mlp + 2 * c.width
  tables = 2 * 300 * c.width + c.width  # and the last norm
  head = c.width + 1
  assert ppo.parameters == c.layers * layer + tables + head
  assert f"train_reft: {ppo.parameters:,} parameters" in ppo.table()


@pytest.mark.parametrize(
  ("model", "stage", "millions"),
  [
    ("codegen_350m", "train_generator", 357),
    ("codeparrot_small", "train_generator", 111),
    ("codet5_770m", "train_generator", 738),
    ("llama_7b", "run_sample", 6738),
  ],
)
def test_published_models_have_their_parameters(model, stage, millions):
  config = launch.load_config(f"{TOP}/configs/reft/ppo.py:model={model}")
  planner = Planner(HERE, plan_job.mesh(config, HERE))
  job = plan_job.Job(config, planner, pathlib.Path("."))
  assert round(planned.parameters(job, stage) / 1e6) == millions


def test_every_model_of_the_published_configs_is_known():
  spec = importlib.util.spec_from_file_location(
    "ppo", f"{TOP}/configs/reft/ppo.py"
  )
  found = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(found)
  for path, _ in found.MODELS.values():
    assert path in architectures.known()


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


@pytest.mark.parametrize(
  "stage", ["train_reranker", "run_sample", "run_evaluate", "embed"]
)
def test_other_stages(stage):
  report = plan.main(config_of(), HERE, stage=stage)
  assert report.fits
  assert report.programs


def test_a_stage_that_is_dealt_out_runs_on_a_processs_devices():
  nodes = topologies.parse("h100:16")
  report = plan.main(config_of(), nodes, stage="run_sample")
  assert report.topology.name == "h100:8"
  assert "each of 2 processes of h100:16" in report.table()
  # As on one node, and with no note of others.
  alone = plan.main(config_of(), report.topology, stage="run_sample")
  assert [p.peak_bytes for p in alone.programs] == [
    p.peak_bytes for p in report.programs
  ]
  assert "processes" not in alone.table()
  assert planned.where(nodes, "run_refine") is nodes


def test_memory_says_how_many_slots_and_a_piece_what_prefill_reads():
  def chunks(**more):
    changes = {f"engine__{name}": x for name, x in more.items()}
    report = plan.main(config_of(**changes), HERE, stage="run_sample")
    return named(report, "decode chunk"), named(report, "prefill")

  given, whole = chunks(slots=8)
  # Too little for more than the eight that are the least of several.
  cache = given.donated_bytes * HERE.count
  fitted, _ = chunks(slots=64, memory=int(cache * 1.2))
  assert fitted.argument_bytes == given.argument_bytes
  _, piece = chunks(slots=8, prefill_chunk=8)
  assert piece.flops < whole.flops


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
  assert report.placed_with == "--config.mesh.tensor=2"
  assert report.suggestion == ""
  assert "fits, if started with --config.mesh.tensor=2" in report.table()
  # With these flags it is planned as it stands.
  config.mesh.tensor = 2
  again = plan.main(config, HERE, stage="train_reft", search=False)
  assert again.placed_with == ""
  assert again.peak_bytes == report.peak_bytes


def test_a_mesh_that_does_not_divide_is_told_in_one_line():
  config = config_of(mesh__tensor=3)
  with pytest.raises(plan_job.BadPlan, match="does not fit 8 devices") as error:
    plan.main(config, HERE)
  assert "\n" not in str(error.value)


def test_a_stage_that_was_not_asked_for_is_named(tmp_path):
  name = f"{TOP}/configs/rationalyst/hint_chains.py"
  config = config_of(name)
  here = tmp_path / "run"  # with no runs beside it
  report = plan.main(config, HERE, workdir=here)
  assert report.stage == "train_rationalyst"
  assert report.programs[0].name == "train step"
  # Validation scores targets beside generating them.
  assert report.programs[-1].name == "log-probs"
  assert "Planned train_rationalyst" in report.table()
  assert "plans train_generator, embed" in report.table()
  assert re.search(r"cannot be planned: .*run_stepwise", report.table())
  with pytest.raises(plan_job.BadPlan, match="'run_stepwise' cannot be plan"):
    plan.main(config, HERE, stage="run_stepwise", workdir=here)


def test_an_unknown_stage_and_an_unknown_model_are_named():
  with pytest.raises(plan_job.BadPlan, match="stage 'nothing'"):
    plan.main(config_of(), HERE, stage="nothing")
  config = launch.load_config(f"{TOP}/configs/reft/ppo.py")
  config.model.path = "some/where"
  with pytest.raises(plan_job.BadPlan, match="model 'some/where'"):
    plan.main(config, HERE, stage="train_generator")


def command(*arguments, text="", **more):
  """The command line, or a program `text` that ends in it."""
  environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0", **more}
  what = ["-c", text] if text else ["-m", "refine_jax.stages.plan"]
  return subprocess.run(
    [sys.executable, *what, *arguments],
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


def test_a_missing_config_file_is_told_in_one_line():
  made = command("--config=nothing.py", "--topology=cpu:2")
  assert made.returncode == 2
  assert made.stderr.splitlines() == [
    "error: No such file or directory: 'nothing.py'"
  ]


# A GPU so small, and a compiler that cannot do what it is told.
SMALL_GPU = """
import dataclasses, runpy
from refine_jax.planning import chips
chips.GPUS["h100"] = dataclasses.replace(chips.GPUS["h100"], memory=70_000)
runpy.run_module("refine_jax.stages.plan", run_name="__main__")
"""
NO_COMPILER = """
import runpy, jax
def fail(*_, **__):
  raise jax.errors.JaxRuntimeError("INTERNAL: no such kernel\\nat length")
jax.stages.Lowered.compile = fail
runpy.run_module("refine_jax.stages.plan", run_name="__main__")
"""
EMBED = (
  f"--config={ARITHMETIC}",
  "--config.tokenizer.train.vocab_size=300",
  "--stage=embed",
)


def test_what_the_compiler_says_is_told_in_one_line():
  made = command(
    *EMBED, "--topology=cpu:2", text=NO_COMPILER, TF_CPP_MIN_LOG_LEVEL="3"
  )
  assert made.returncode == 2
  (line,) = made.stderr.splitlines()
  assert line == "error: the compiler says: INTERNAL: no such kernel"


def test_more_gpus_are_tried_and_are_enough():
  # Without flags it has to make the devices itself, enough for all it tries.
  how = {"text": SMALL_GPU, "XLA_FLAGS": ""}
  made = command(*EMBED, "--topology=h100:2", "--json", **how)
  assert made.returncode == 1, made.stderr
  said = json.loads(made.stdout)["suggestion"]
  found = re.fullmatch(r"more GPUs: (h100:4) \(then .*, (\d+) %\)", said)
  assert found, said
  again = command(
    *EMBED, f"--topology={found[1]}", "--json", "--nosearch", **how
  )
  assert again.returncode == 0, again.stderr
  report = json.loads(again.stdout)
  assert round(100 * report["peak_bytes"] / 70_000) == int(found[2])


def test_a_compilation_cache_does_not_hide_the_programs(tmp_path):
  flags = {
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
  }
  for _ in range(2):
    made = command(*EMBED, "--topology=cpu:2", "--json", **flags)
    assert made.returncode == 0, made.stderr
  assert not list(tmp_path.iterdir())


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
    TPU_STDERR_LOG_LEVEL="1",  # libtpu's warnings, else in a file
  )
  assert made.returncode == 0, made.stderr[-3000:]
  return json.loads(made.stdout), made.stderr


@needs_libtpu
def test_a_tpu_slice():
  report, said = on_tpu("v5e:2x4", "--stage=embed")
  assert report["fits"]
  assert report["chip_bytes"] == 16 << 30
  assert "Involuntary full rematerialization" not in said
