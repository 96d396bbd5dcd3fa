"""REFINER's binaries in processes of their own, to be killed.

    python refiner_child.py CONFIG ROOT JOBS

JOBS is a JSON list of {"stage", "folder", "moment", "flags"}: the binary
`stage` is started with ROOT/folder as its workdir, and kills itself (-9) at
its moment-th moment unless that is 0. What it says on stderr goes to
ROOT/folder.stderr. Prints a JSON list of exit codes (a signal's is negative).

All of them are forked from one process that has imported JAX and never
started it, so that importing is paid for once.
"""

import contextlib
import importlib
import json
import os
import pathlib
import signal
import sys
import types


class Moments:
  """Counts the moments at which a stage may die; dies at the `last` one.

  Before and after every file that appears in its folder, and before every
  update, every call of an engine and every append of records.
  """

  def __init__(self, folder, last=0):
    self.folder, self.last, self.count = str(folder), last, 0

  def tick(self):
    self.count += 1
    if self.count == self.last:
      os.kill(os.getpid(), signal.SIGKILL)

  @contextlib.contextmanager
  def watched(self):
    from refine_jax import records
    from refine_jax.sampling.engine import Engine
    from refine_jax.training.step import TrainStep

    with (
      self._before(Engine, "generate"),
      self._before(records.Appender, "append"),
      self._before(TrainStep, "__call__"),
      self._around_replace(),
    ):
      yield self

  @contextlib.contextmanager
  def _before(self, cls, name):
    whole = getattr(cls, name)

    def ticking(*args, **kwargs):
      self.tick()
      return whole(*args, **kwargs)

    setattr(cls, name, ticking)
    try:
      yield
    finally:
      setattr(cls, name, whole)

  @contextlib.contextmanager
  def _around_replace(self):
    replace = os.replace

    def ticking(source, target):
      ours = str(target).startswith(self.folder)
      if ours:
        self.tick()
      replace(source, target)
      if ours:
        self.tick()

    os.replace = ticking
    try:
      yield
    finally:
      os.replace = replace


class Interrupting(Moments):
  """Ends a stage at its last moment, and not the process."""

  def tick(self):
    self.count += 1
    if self.count == self.last:
      raise KeyboardInterrupt


def bug(config, workdir):
  raise ValueError("this is nobody's config")


def stage_of(name):
  if name == "bug":
    return types.SimpleNamespace(main=bug, SECTIONS=("seed",))
  return importlib.import_module(f"refine_jax.stages.{name}")


def start(spec, root, job):
  """In a child: what the binary does; leaves by SystemExit."""
  from refine_jax.stages import launch

  workdir = root / job["folder"]
  with open(f"{workdir}.stderr", "w", encoding="utf-8") as said:
    os.dup2(said.fileno(), 2)
  os.dup2(2, 1)
  sys.argv = [
    job["stage"],
    f"--config={spec}",
    f"--workdir={workdir}",
    *job.get("flags", ()),
  ]
  stage = stage_of(job["stage"])
  with Moments(workdir, job.get("moment", 0)).watched():
    launch.run(stage.main, stage.SECTIONS)


def main(spec, root, jobs):
  root, jobs = pathlib.Path(root), json.loads(jobs)
  for name in {job["stage"] for job in jobs}:
    stage_of(name)
  codes = []
  for job in jobs:
    child = os.fork()
    if not child:
      start(spec, root, job)
      os._exit(0)
    _, status = os.waitpid(child, 0)
    codes.append(os.waitstatus_to_exitcode(status))
  print(json.dumps(codes))


if __name__ == "__main__":
  main(*sys.argv[1:])
