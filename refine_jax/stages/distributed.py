"""Joins the processes of a pod, a cluster, or of this machine alone."""

import os

import jax

# What launch_scripts/local_multiprocess.sh and the Kubernetes manifests set;
# on Cloud TPU and under Slurm JAX finds out by itself.
COORDINATOR = "REFINE_JAX_COORDINATOR"
PROCESSES = "REFINE_JAX_PROCESSES"
PROCESS = "REFINE_JAX_PROCESS"
# A process that is gone is missed after so many seconds, and the others end.
HEARTBEAT = 30


class BadEnvironment(ValueError):
  """A variable that is missing or no number."""


def join() -> None:
  """`jax.distributed.initialize`, before anything asks for devices.

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
  jax.distributed.initialize(**settings)


def _number(name: str) -> int:
  text = os.environ.get(name, "")
  if not text.isdecimal():
    raise BadEnvironment(f"{name} is a number beside {COORDINATOR}: {text!r}")
  return int(text)
