"""What a training loop does besides training: signals, profiles, stopping."""

import dataclasses
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from refine_jax.training.checkpoint import Goal

# 128 + SIGTERM, as a shell reports it: not 0, so that a script does not go on
# to the next stage with an unfinished checkpoint; the same command resumes.
PREEMPTED = 143


class Preempted(SystemExit):
  """SIGTERM came and the state is saved; exits with code 143."""

  def __init__(self, step: int):
    self.step = step
    super().__init__(PREEMPTED)


class Preemption:
  """Notices SIGTERM, within a `with` block, instead of dying of it.

  In a run of several processes all of them see it at the same step.
  """

  def __init__(self):
    self._asked = False
    self._old: Any = None

  def __enter__(self) -> "Preemption":
    # With several processes JAX's coordination service listens instead.
    main = threading.current_thread() is threading.main_thread()
    self._installed = main and jax.process_count() == 1
    if self._installed:
      self._old = signal.signal(signal.SIGTERM, self._note)
    return self

  def _note(self, *_) -> None:
    self._asked = True

  def asked(self, step: int) -> bool:
    """Whether to save and go; to be called at every step."""
    if jax.process_count() == 1:
      return self._asked
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)

  def __exit__(self, *_) -> None:
    if self._installed:
      signal.signal(signal.SIGTERM, self._old)


def agree(flag: bool) -> bool:
  """The first process's word, so that all stop at one step."""
  if jax.process_count() == 1:
    return flag
  from jax.experimental import multihost_utils

  return bool(multihost_utils.broadcast_one_to_all(np.asarray(flag)))


def check_profile(steps: Sequence[int] | None) -> None:
  """Raises ValueError unless these are `(first, last)`, or there are none."""
  if steps and not (len(steps) == 2 and 0 <= steps[0] < steps[1]):
    raise ValueError(f"profile steps (first, last): got {tuple(steps)}")


class Profiler:
  """A trace of steps `first <= step < last` for TensorBoard or Perfetto.

  Args:
    folder: where the trace goes.
    steps: `(first, last)`, or None for no trace.
  """

  def __init__(self, folder: str | pathlib.Path, steps: tuple[int, int] | None):
    check_profile(steps)
    self._folder, self._steps, self._on = str(folder), steps, False

  def before(self, step: int) -> None:
    """To be called before each step."""
    if self._steps and not self._on and step == self._steps[0]:
      jax.profiler.start_trace(self._folder)
      self._on = True

  def after(self, step: int, result: Any) -> None:
    """To be called after each step with what it made."""
    if self._on and step + 1 >= self._steps[1]:
      jax.block_until_ready(result)
      self.close()

  def close(self) -> None:
    if self._on:
      jax.profiler.stop_trace()
      self._on = False


@dataclasses.dataclass(frozen=True)
class Stopping:
  """When to stop before the last step.

  Attributes:
    patience: evaluations in a row without a better one.
    target: a value of the goal's metric that is good enough.
    max_seconds: wall-clock time of training, evaluation and saving, over all
      restarts. Checked when a row is logged.
  """

  patience: int | None = None
  target: float | None = None
  max_seconds: float | None = None


@dataclasses.dataclass
class Progress:
  """What a run must remember over a restart, beside its state; JSON.

  Attributes:
    best, best_step: the best value of the goal's metric, and where.
    stale: evaluations since then.
    seconds: spent so far.
    stopped: why the run is over; empty while it is not.
  """

  best: float | None = None
  best_step: int | None = None
  stale: int = 0
  seconds: float = 0.0
  stopped: str = ""

  def evaluated(
    self, step: int, metrics: Mapping[str, float], goal: Goal, rule: Stopping
  ) -> bool:
    """Takes an evaluation; returns whether it is the best so far."""
    value = goal.value(metrics)
    better = goal.better(value, self.best)
    if better:
      self.best, self.best_step, self.stale = value, step, 0
    else:
      self.stale += 1
    if rule.target is not None and not goal.better(rule.target, value):
      if not np.isnan(value):
        self.stopped = "target"
    elif rule.patience is not None and self.stale >= rule.patience:
      self.stopped = "patience"
    return better


class Stopwatch:
  """Seconds since it was made, on top of those before a restart."""

  def __init__(
    self, before: float = 0.0, clock: Callable[[], float] = time.monotonic
  ):
    self._before, self._clock, self._start = before, clock, clock()

  def seconds(self) -> float:
    return self._before + self._clock() - self._start
