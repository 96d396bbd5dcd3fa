"""What a config's stage would need on hardware that is not here.

    python -m refine_jax.stages.plan --config=configs/...py[:arguments] \\
        --topology=v5e:4x4 [--stage=...] [--json] [--config.field=value ...]

Compiles the stage's programs for the topology from shapes alone: no weights,
no data, no accelerator. Ends with 1 if they do not fit, with 2 on bad input
and with 3 if it is itself at fault.
"""

import json
import os
import pathlib
import re
import sys
import time
import traceback
from collections.abc import Iterator

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from refine_jax.planning import report as reports
from refine_jax.planning import topologies
from refine_jax.planning.compiled import CompilerError, Program
from refine_jax.planning.programs import Planner
from refine_jax.planning.topologies import Topology
from refine_jax.stages import plan_checks, plan_job, plan_search, planned

NOTHING = "nothing that was tried fits; see `docs/planning.md`"


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
    plan_job.BadPlan, topologies.Unknown, CompilerError: in one line, what is
      wrong.
  """
  begun = time.monotonic()
  asked, stage = stage, planned.stage_of(config, stage)
  plan_checks.check(config, stage)
  whole, topology = topology, planned.where(topology, stage)
  mesh = plan_search.placed(plan_search.Change((), topology), config, stage)
  own = mesh.apply(config)
  paths = workdir, known
  if search:
    made = _attempt(own, topology, stage, *paths)
  else:
    programs = list(_programs(own, topology, stage, *paths))
    made = reports.Report(topology, programs, 0.0)
  advice = ""
  if not made.fits and search:
    advice = plan_search.suggestion(
      config,
      stage,
      topology,
      lambda config, topology: _attempt(config, topology, stage, *paths),
      lambda config, topology: _floor(config, topology, stage, workdir),
      made=plan_job.made(planned.model_of(config, stage), workdir),
      program=made.programs[-1].name,
    )
    advice = advice or NOTHING
  job = _job(own, topology, *paths)
  notes = () if asked else (planned.choice(config, stage),)
  notes += planned.dealt(whole, stage) + planned.notes(job, stage)
  return reports.Report(
    topology,
    made.programs,
    time.monotonic() - begun,
    advice,
    notes,
    stage,
    planned.parameters(job, stage),
    mesh.arguments,
  )


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
  found = []
  for program in _programs(config, topology, stage, workdir, known):
    found.append(program)
    if not reports.Report(topology, found, 0.0).fits:
      break
  return reports.Report(topology, found, 0.0)


def _floor(config, topology, stage, workdir) -> int:
  """Bytes of parameters and optimizer state, by arithmetic."""
  try:
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
    _prepare(topology, values.search)
    made = main(
      values.config,
      topology,
      stage=values.stage,
      search=values.search,
      workdir=pathlib.Path(values.workdir),
      known=pathlib.Path(values.known) if values.known else None,
    )
  except OSError as error:
    # Of a missing config file, which says at length where it was sought.
    found = re.search(r"\[Errno \d+\] (.+)", str(error))
    _stop(" ".join((found[1] if found else str(error)).split()))
  except ValueError as error:
    _stop(" ".join(str(error).split()))
  except (CompilerError, jax.errors.JaxRuntimeError) as error:
    _stop(f"the compiler says: {str(error).strip().splitlines()[0]}")
  except Exception:
    traceback.print_exc()
    sys.exit(3)  # 1 would say that it does not fit
  text = json.dumps(made.to_json()) if values.json else made.table()
  print(text, flush=True)
  sys.exit(0 if made.fits else 1)


def _prepare(topology: Topology, search: bool) -> None:
  """Before JAX looks for devices: host ones alone, as many as it takes."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  jax.config.update("jax_platforms", "cpu")
  # A program out of the cache has no text to read.
  jax.config.update("jax_enable_compilation_cache", False)
  given = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
  if topology.estimated and not given:
    tried = [topology, *(topology.larger() if search else [])]
    jax.config.update("jax_num_cpu_devices", max(t.count for t in tried))


def _stop(message: str) -> None:
  print(f"error: {message}", file=sys.stderr)
  sys.exit(2)


if __name__ == "__main__":
  from refine_jax.stages import launch

  _define()
  app.run(_start, flags_parser=launch.parse)
