"""The loop of the supervised stages: train, log, evaluate, save, resume."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from refine_jax.training import hooks
from refine_jax.training.checkpoint import Checkpointer, Goal
from refine_jax.training.metrics import Meter, Writer
from refine_jax.training.state import TrainState
from refine_jax.training.step import TrainStep


@dataclasses.dataclass(frozen=True)
class Fitted:
  """How a run ended.

  Attributes:
    state: the last state; `Checkpointer` and `load_params` have the best one.
    stopped: `steps`, `patience`, `target` or `time`.
    best, best_step: the best value of the goal's metric, and where.
    seconds: spent, over all restarts.
  """

  state: TrainState
  stopped: str
  best: float | None
  best_step: int | None
  seconds: float


def fit(
  state: TrainState,
  train_step: TrainStep,
  batches: Callable[[int], Any],
  *,
  steps: int,
  rng: jax.Array,
  eval_fn: Callable[[Any], Mapping[str, float]] | None = None,
  eval_every: int | None = None,
  goal: Goal | None = None,
  stopping: hooks.Stopping = hooks.Stopping(),  # noqa: B008, frozen
  checkpointer: Checkpointer | None = None,
  save_every: int | None = None,
  meta: Mapping[str, Any] | Callable[[int], Mapping[str, Any]] | None = None,
  writer: Writer | None = None,
  log_every: int = 10,
  schedule: Callable[[int], Any] | None = None,
  meter: Meter | None = None,
  profile: tuple[int, int] | None = None,
  profile_dir: str | pathlib.Path = "profile",
) -> Fitted:
  """Trains until `steps` updates are made or a stopping rule holds.

  With a checkpointer a run continues from its last checkpoint and ends with
  the very parameters it would have had without the interruption; a finished
  run returns at once.

  Args:
    state: where to start; donated.
    train_step: see `step.make_train_step`.
    batches: update number -> batch on devices; the same number must give the
      same batch.
    steps: updates in all.
    rng: the same at every start.
    eval_fn: parameters -> validation metrics; logged as `eval/<name>`.
    eval_every: updates between evaluations; there is one after the last.
    goal: what best means; the checkpointer's goal, if it has one.
    stopping: early stopping.
    checkpointer: saves the best, every `save_every` updates, and the last.
    save_every: updates between other saves.
    meta: JSON to save beside the parameters, or a function of the step.
    writer: takes metrics and progress.
    log_every: updates between rows; only then does the host wait for devices.
    schedule: step -> learning rate, to be logged.
    meter: counts; give one to have model FLOPs utilisation.
    profile: steps `(first, last)` to trace into `profile_dir`.

  Raises:
    NonFinite: a loss or gradient is not finite, naming the step. Nothing is
      saved from then on.
    Preempted: SIGTERM came; the state is saved. Exits with code 143.
  """
  loop = _Loop(
    goal=goal or (checkpointer.goal if checkpointer else Goal()),
    stopping=stopping,
    checkpointer=checkpointer,
    writer=writer,
    meta=meta,
    meter=meter or Meter(),
    schedule=schedule,
    eval_fn=eval_fn,
  )
  state = loop.resume(state)
  step = int(state.step)
  profiler = hooks.Profiler(profile_dir, profile)
  with hooks.Preemption() as preemption:
    try:
      while step < steps and not loop.progress.stopped:
        profiler.before(step)
        state, metrics = train_step(state, batches(step), rng)
        profiler.after(step, metrics)
        step += 1
        loop.meter.add(step, metrics)
        if step == steps or step % log_every == 0:
          loop.log(step)
        last = step == steps or loop.progress.stopped
        due = last or (eval_every and step % eval_every == 0)
        better = due and loop.evaluate(step, state)
        if preemption.asked(step):
          loop.save(step, state)
          loop.settle()
          raise hooks.Preempted(step)
        if better or (save_every and step % save_every == 0):
          loop.save(step, state)
    finally:
      profiler.close()
      loop.settle()
  loop.finish(step, state)
  return Fitted(
    state,
    loop.progress.stopped or "steps",
    loop.progress.best,
    loop.progress.best_step,
    loop.watch.seconds(),
  )


class _Loop:
  """The parts of `fit`, and what they share."""

  def __init__(self, **parts):
    self.goal: Goal = parts["goal"]
    self.stopping: hooks.Stopping = parts["stopping"]
    self.checkpointer: Checkpointer | None = parts["checkpointer"]
    self.writer: Writer | None = parts["writer"]
    self.meta, self.meter = parts["meta"], parts["meter"]
    self.schedule, self.eval_fn = parts["schedule"], parts["eval_fn"]
    self.progress = hooks.Progress()
    self.watch = hooks.Stopwatch()
    self.metrics: tuple[int, dict[str, float]] = (-1, {})
    self.saved = -1

  def resume(self, state: TrainState) -> TrainState:
    """The last checkpoint's state, or this one if there is none."""
    restored = self.checkpointer and self.checkpointer.restore(state)
    if not restored:
      if self.writer:  # a run that died before its first checkpoint
        self.writer.rewind(int(state.step))
      return state
    # Two states need not fit at once for longer than they must.
    jax.tree.map(lambda x: x.delete(), state)
    state, meta = restored
    self.saved = int(state.step)
    self.progress = hooks.Progress(**meta["progress"])
    self.watch = hooks.Stopwatch(self.progress.seconds)
    if self.writer:
      self.writer.rewind(self.saved)
      self.writer.say(f"continuing from step {self.saved}")
    return state

  def log(self, step: int) -> None:
    """Writes a row; the place where bad losses and clocks are noticed."""
    values = self.meter.drain()
    if self.schedule:
      values["learning_rate"] = float(self.schedule(step - 1))
    if self.writer:
      self.writer.write(step, values)
    limit = self.stopping.max_seconds
    if limit is not None and hooks.agree(self.watch.seconds() >= limit):
      self.progress.stopped = "time"

  def evaluate(self, step: int, state: TrainState) -> bool:
    """Evaluates; returns whether these parameters are the best so far."""
    if self.eval_fn is None:
      return False
    self.meter.pause()
    values = dict(self.eval_fn(state.params))
    self.metrics = step, values
    if self.writer:
      self.writer.write(step, {f"eval/{k}": v for k, v in values.items()})
    return self.progress.evaluated(step, values, self.goal, self.stopping)

  def save(self, step: int, state: TrainState) -> None:
    """Saves unless this step is saved; never what is not finite."""
    if self.checkpointer is None or self.saved == step:
      return
    self.meter.pause()
    self.meter.check()
    self.progress.seconds = self.watch.seconds()
    meta = self.meta(step) if callable(self.meta) else self.meta
    meta = {**(meta or {}), "progress": dataclasses.asdict(self.progress)}
    evaluated, values = self.metrics
    if self.writer:
      self.writer.flush()
    self.checkpointer.save(state, meta, values if evaluated == step else None)
    self.saved = step

  def settle(self) -> None:
    """Waits until all that was saved is on disk."""
    if self.checkpointer:
      self.checkpointer.wait()

  def finish(self, step: int, state: TrainState) -> None:
    """Saves the end of the run."""
    self.save(step, state)
    self.settle()
