"""What a config's stage would need on hardware that is not here.

    python -m refine_jax.stages.plan --config=configs/...py[:arguments] \\
        --topology=v5e:4x4 [--stage=...] [--json] [--config.field=value ...]

Compiles the stage's programs for the topology from shapes alone: no weights,
no data, no accelerator. Ends with 1 if they do not fit and 2 on bad input.
"""

import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from refine_jax.planning import report as reports
from refine_jax.planning import topologies
from refine_jax.planning.compiled import Program
from refine_jax.planning.programs import Planner
from refine_jax.planning.topologies import Topology
from refine_jax.stages import plan_job, plan_search, planned


def main(
  config: ConfigDict,
  topology: Topology,
  *,
  stage: str = "",
  search: bool = True,
  workdir: pathlib.Path = pathlib.Path("."),
  known: pathlib.Path | None = None,
) -> reports.Report:
  """Plans one stage.

  Args:
    stage: one of `planned.STAGES`; the config's dearest if empty.
    search: look for a change that fits, if it does not; what comes after the
      first program that does not is left out.
    workdir: what the config's paths are relative to.
    known: a folder that remembers what was compiled.

  Raises:
    plan_job.BadPlan, topologies.Unknown: in one line, what is wrong.
  """
  begun = time.monotonic()
  stage = planned.stage_of(config, stage)
  config, placed = _placed(config, stage, topology)
  paths = workdir, known
  if search:
    made = _attempt(config, topology, stage, *paths)
  else:
    programs = list(_programs(config, topology, stage, *paths))
    made = reports.Report(topology, programs, 0.0)
  advice = placed
  if not made.fits and search:
    advice = plan_search.suggestion(
      config,
      stage,
      topology,
      lambda config, topology: _attempt(config, topology, stage, *paths),
      lambda config, topology: _floor(config, topology, stage, workdir),
    )
    advice = f"{advice} {placed}".strip()
  notes = ()
  if stage == "train_reft":
    notes = planned.notes(_job(config, topology, *paths))
  seconds = time.monotonic() - begun
  return reports.Report(topology, made.programs, seconds, advice, notes)


def _placed(
  config: ConfigDict, stage: str, topology: Topology
) -> tuple[ConfigDict, str]:
  """The config on a mesh that its batches lie on, and the flags for it."""
  flags_ = plan_search.placement(
    config, stage, topology.count // topology.slices, topology.slices
  )
  if not flags_:
    return config, ""
  change = plan_search.Change(tuple(flags_), topology, "placed with")
  return change.apply(config), str(change)


def _job(config, topology, workdir, known) -> plan_job.Job:
  mesh = plan_job.mesh(config, topology)
  return plan_job.Job(config, Planner(topology, mesh, known), workdir)


def _programs(
  config: ConfigDict,
  topology: Topology,
  stage: str,
  workdir: pathlib.Path,
  known: pathlib.Path | None,
) -> Iterator[Program]:
  job = _job(config, topology, workdir, known)
  begun = time.monotonic()
  for program in planned.plan(job, stage):
    print(
      f"{topology.name}: {program.name}, {time.monotonic() - begun:.0f} s",
      file=sys.stderr,
      flush=True,
    )
    yield program
    begun = time.monotonic()


def _attempt(config, topology, stage, workdir, known) -> reports.Report:
  """Stops where something does not fit."""
  config, _ = _placed(config, stage, topology)
  found = []
  for program in _programs(config, topology, stage, workdir, known):
    found.append(program)
    if not reports.Report(topology, found, 0.0).fits:
      break
  return reports.Report(topology, found, 0.0)


def _floor(config, topology, stage, workdir) -> int:
  """Bytes of parameters and optimizer state, by arithmetic."""
  try:
    config, _ = _placed(config, stage, topology)
    mesh = plan_job.mesh(config, topology)
    job = plan_job.Job(config, Planner(topology, mesh), workdir)
    return planned.state_bytes(job, stage)
  except ValueError:
    return 0


def _define() -> None:
  config_flags.DEFINE_config_file(
    "config", None, "file.py[:arguments]: the experiment.", lock_config=True
  )
  flags.DEFINE_string("topology", None, topologies.HINT)
  flags.DEFINE_string(
    "stage", "", f"One of {', '.join(planned.STAGES)}; the dearest if empty."
  )
  flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
  flags.DEFINE_bool("search", True, "Look for what fits, if it does not.")
  flags.DEFINE_string(
    "known", "", "A folder to remember compiled programs' figures in."
  )
  flags.DEFINE_string(
    "workdir", ".", "What paths in the config are relative to."
  )
  flags.mark_flags_as_required(["config", "topology"])


def _start(argv: list[str]) -> None:
  values = flags.FLAGS
  if argv[1:]:
    _stop(f"unexpected arguments {argv[1:]}")
  try:
    topology = topologies.parse(values.topology)
    _prepare(topology)
    made = main(
      values.config,
      topology,
      stage=values.stage,
      search=values.search,
      workdir=pathlib.Path(values.workdir),
      known=pathlib.Path(values.known) if values.known else None,
    )
  except (ValueError, FileNotFoundError) as error:
    _stop(" ".join(str(error).split()))
  text = json.dumps(made.to_json()) if values.json else made.table()
  print(text, flush=True)
  sys.exit(0 if made.fits else 1)


def _prepare(topology: Topology) -> None:
  """Before JAX looks for devices: host ones alone, as many as it takes."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  jax.config.update("jax_platforms", "cpu")
  given = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
  if topology.estimated and not given:
    jax.config.update("jax_num_cpu_devices", topology.count)


def _stop(message: str) -> None:
  print(f"error: {message}", file=sys.stderr)
  sys.exit(2)


if __name__ == "__main__":
  from refine_jax.stages import launch

  _define()
  app.run(_start, flags_parser=launch.parse)
