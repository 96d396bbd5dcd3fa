"""Joins the processes of a pod, a cluster, or of this machine, and lets them
agree.

Stages run in lockstep: every process starts the same programs in the same
order. So whatever decides what runs next, and could differ between processes
(a clock, a file, a checker that ran out of time), is said by one of them.
"""

import contextlib
import dataclasses
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from refine_jax import files, records
from refine_jax.training.hooks import Preempted

# What launch_scripts/local_multiprocess.sh sets; on Cloud TPU, on GKE's TPUs
# and under Slurm JAX finds out by itself.
COORDINATOR = "REFINE_JAX_COORDINATOR"
PROCESSES = "REFINE_JAX_PROCESSES"
PROCESS = "REFINE_JAX_PROCESS"
# A process that is gone is missed after so many seconds, and the others end.
HEARTBEAT = 30


class BadEnvironment(ValueError):
  """A variable that is missing or no number."""


def join(*, saves: bool = False) -> None:
  """`jax.distributed.initialize`, before anything asks for devices.

  Args:
    saves: whether on SIGTERM the stage saves and leaves, see
      `training.hooks.Preemption`. JAX then takes the signal from here on;
      without, it ends the process as ever.

  Raises:
    BadEnvironment: some of the three variables are set and others not.
  """
  settings = {"heartbeat_timeout_seconds": HEARTBEAT}
  if COORDINATOR in os.environ:
    settings |= {
      "coordinator_address": os.environ[COORDINATOR],
      "num_processes": _number(PROCESSES),
      "process_id": _number(PROCESS),
    }
  # Host devices have no collectives between processes but these; the choice
  # means nothing to other platforms.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.config.update("jax_enable_preemption_service", saves)
  jax.distributed.initialize(**settings)


@contextlib.contextmanager
def leaving() -> Iterator[None]:
  """Where something fails, ends this process at once, and says why.

  The others, who wait for it, then fail within seconds. A regular end would
  itself wait for them; so end those that were all told to go and have saved.
  """
  try:
    yield
  except BaseException as error:
    if jax.process_count() == 1 or isinstance(error, Preempted):
      raise
    code = 1
    try:
      code = _last_words(error)
    finally:
      os._exit(code)  # also where nobody takes the words


def _last_words(error: BaseException) -> int:
  """Tells what happened; the exit code."""
  who = f"process {jax.process_index()} of {jax.process_count()}"
  code = error.code if isinstance(error, SystemExit) else 1
  if isinstance(code, str):
    print(code, file=sys.stderr)
    code = 1
  elif isinstance(error, jax.errors.JaxRuntimeError):
    first = str(error).strip().splitlines()[0]
    traceback.print_exception(error)
    print(
      f"error: {who} stops: another one is gone, or a device failed ({first})."
      " The same command resumes.",
      file=sys.stderr,
    )
  elif not isinstance(error, SystemExit):
    traceback.print_exception(error)
    print(f"error: {who} failed; the others end, too", file=sys.stderr)
  sys.stdout.flush()
  sys.stderr.flush()
  return code or 0


def _number(name: str) -> int:
  text = os.environ.get(name, "")
  if not text.isdecimal():
    raise BadEnvironment(f"{name} is a number beside {COORDINATOR}: {text!r}")
  return int(text)


def together(what: str) -> None:
  """Waits for all processes: what one wrote is then there for the others."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def alone(main: Callable[..., str]) -> Callable[..., str]:
  """A stage of files and no models: one process does it, the others wait."""

  @functools.wraps(main)
  def first(config: Any, workdir: Any) -> str:
    return by_first(lambda: main(config, workdir))

  return first


def by_first(work: Callable[[], str]) -> str:
  """What one process does and says, the others wait for, and say nothing."""
  said = work() if jax.process_index() == 0 else ""
  together("the first process is done")
  return said


def gathered(value: Any) -> list[Any]:
  """What every process has, in their order; JSON."""
  if jax.process_count() == 1:
    return [value]
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(len(text)))
  # A few sizes, so that few programs are compiled.
  room = 1 << max(8, int(sizes.max() - 1).bit_length())
  padded = np.zeros(room, np.uint8)
  padded[: len(text)] = text
  rows = np.asarray(multihost_utils.process_allgather(padded))
  return [
    json.loads(row[:size].tobytes())
    for row, size in zip(rows, sizes, strict=True)
  ]


def spoken(value: Any) -> Any:
  """What the first process has, on all of them; JSON."""
  if jax.process_count() == 1:
    return value
  return gathered(value if jax.process_index() == 0 else None)[0]


def found(path: files.Path) -> Any:
  """The JSON in a file as the first process sees it, None if there is none:
  whether a stage is complete decides what runs next."""
  text = path.read_text(encoding="utf-8") if path.exists() else "null"
  return spoken(json.loads(text))


def tell(line: str) -> None:
  """Prints what all processes would say."""
  if jax.process_index() == 0:
    print(line, flush=True)


def agreed(critic: Callable) -> Callable:
  """A critic whose words are the first process's.

  Args:
    critic: trajectories -> `records.Feedback` of each.
  """
  if jax.process_count() == 1:
    return critic

  def critique(trajectories):
    said = [dataclasses.asdict(f) for f in critic(trajectories)]
    return [records.from_mapping(records.Feedback, f) for f in spoken(said)]

  return critique
