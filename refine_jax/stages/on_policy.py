"""What the on-policy stages share: rounds of rollouts, and the loop over them.

A round is a function of the configuration, its number and the parameters: its
problems, its noise and the order its minibatches come in. So a run killed
anywhere goes on from its last checkpoint with the rewards and losses it would
have had.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from refine_jax import records
from refine_jax.batch import Params
from refine_jax.methods import rollout, self_training
from refine_jax.sampling.statistics import Statistics
from refine_jax.stages import adapters, build, distributed, supervised
from refine_jax.stages.reading import BadConfig
from refine_jax.tasks.base import Task
from refine_jax.training import hooks
from refine_jax.training.checkpoint import Checkpointer, Goal
from refine_jax.training.metrics import NonFinite, Writer
from refine_jax.training.state import TrainState


class Learner(Protocol):
  """What learns from rollouts.

  Attributes:
    updates: made so far; the name of a checkpoint.
    per_round: updates of a round, at most.
    policy: the generator's present parameters.
  """

  updates: int
  per_round: int
  policy: Params

  def learn(
    self, number: int, rollouts: Sequence[rollout.Rollout]
  ) -> dict[str, float]:
    """Updates on round `number`; its figures, `seconds/...` among them."""

  def packed(self) -> TrainState:
    """Everything on devices; `params` are a generator's and nothing else."""

  def unpack(self, state: TrainState) -> None:
    """The inverse of `packed`."""

  def memory(self) -> dict[str, Any]:
    """Everything that is not on devices; JSON."""

  def recall(self, memory: Mapping[str, Any]) -> None:
    """The inverse of `memory`; ValueError if it is another run's."""


class Rounds:
  """Makes the rollouts of every round.

  Args:
    model: whose family answers; its parameters are not used.
    task, problems: what is answered and judged.
    config: the experiment's; `settings` the stage's section of it.
  """

  def __init__(
    self,
    model: build.Model,
    task: Task,
    problems: Sequence[records.Problem],
    config: ConfigDict,
    settings: ConfigDict,
  ):
    self._task, self._config = task, config
    self._template = build.template(config.template)
    self._size = settings.train.batch_size // settings.rollout.samples
    self._samples = settings.rollout.samples
    if self._size * self._samples != settings.train.batch_size:
      raise BadConfig(
        f"batch_size={settings.train.batch_size} rollouts are no multiple of"
        f" rollout.samples={self._samples}"
      )
    tokens = config.completion.max_tokens
    engine = config.engine.copy_and_resolve_references()
    engine.slots = settings.rollout.slots or engine.slots
    self.engine = build.engine(model, engine, tokens)
    self.shape = rollout.Shape(
      settings.rollout.max_prompt or config.data.max_prompt,
      tokens,
      settings.rollout.buckets,
    )
    self._problems = self._fitting(problems)
    self._checker = rollout.Checker(task, settings.rollout.check_rows)
    self._sampling = build.at_temperature(
      build.sampling(config.completion, config.seed),
      settings.rollout.temperature,
    )
    rollout.whole_distribution(self._sampling)

  def _fitting(self, problems):
    """Those whose prompt fits; a cut one would lose its end, the trigger."""
    fits = [
      p
      for p in problems
      if len(self.engine.encode(self._continued(p))) <= self.shape.prompt
    ]
    if len(fits) < len(problems):
      distributed.tell(
        f"data: {len(problems) - len(fits)} of {len(problems)} problems have"
        f" prompts of more than {self.shape.prompt} tokens and are left out"
      )
    return fits

  def _continued(self, problem: records.Problem) -> records.Prompt:
    return self_training.continued(self._task, self._template, problem)

  def make(
    self, params: Params, number: int
  ) -> tuple[list[rollout.Rollout], dict[str, float]]:
    """Round `number`, and its figures."""
    seed = self._config.seed
    chosen = rollout.places(number, self._size, len(self._problems), seed)
    refused = refusals(self._task)
    before = dataclasses.replace(self.engine.statistics)
    problems = [self._problems[i] for i in np.repeat(chosen, self._samples)]
    rollouts, spent = rollout.roll_out(
      self.engine,
      params,
      problems,
      task=self._task,
      checker=self._checker,
      template=self._template,
      sampling=self._sampling,
      name=str(number),
      # Golds, where there are any, say when to begin, and nothing else.
      expected=[len(p.gold and self._task.target(p)) for p in problems],
      share=(jax.process_index(), jax.process_count()),
      gather=distributed.gathered,
    )
    refused = distributed.gathered(refusals(self._task) - refused)
    return rollouts, {
      **rollout.figures(rollouts),
      **unused(before, self.engine.statistics),
      "programs_refused": sum(refused),
      "seconds/generate": spent.generate,
      "seconds/check": spent.check,
      "seconds/idle": spent.idle,
    }

  def close(self) -> None:
    self._checker.close()
    build.tell_programs(self._task)


def unused(before: Statistics, after: Statistics) -> dict[str, float]:
  """Shares of the positions worked on between two counts that are no token's.

  Returns:
    slots_idle, of those decoded; prompt_padding, of those prefilled; and
    positions_unused, of both together.
  """
  names = ("slot_steps", "used_slot_steps", "prompt_tokens", "prompt_padding")
  decoded, used, read, padding = (
    getattr(after, name) - getattr(before, name) for name in names
  )
  idle, prefilled = decoded - used, read + padding
  return {
    "slots_idle": idle / max(decoded, 1),
    "prompt_padding": padding / max(prefilled, 1),
    "positions_unused": (idle + padding) / max(decoded + prefilled, 1),
  }


def refusals(task: Task) -> int:
  """Programs that wanted what the sandbox lacks, so far."""
  pool = build.pool_of(task)
  return sum(pool.refused.values()) if pool else 0


@dataclasses.dataclass
class Position:
  """Where a run stands; `number` is the next round."""

  number: int = 0
  progress: hooks.Progress = dataclasses.field(default_factory=hooks.Progress)


def run(
  learner: Learner,
  rounds: Rounds,
  validate: Callable[[Params], Mapping[str, float]],
  train: ConfigDict,
  *,
  workdir: pathlib.Path,
  meta: Mapping[str, Any],
) -> str:
  """Rounds until `train.steps` are made or a stopping rule holds.

  Validation sees the start, every `eval_every` rounds, and the end. What is
  best by it and what is last are both kept.

  Raises:
    NonFinite: a loss is not finite; nothing is saved from then on.
    hooks.Preempted: SIGTERM came; the state is saved.
    ValueError: adapters are asked for, which on-policy stages do not train.
  """
  adapters.refuse(train)
  goal = Goal(train.best_metric, train.best_mode)
  updates = train.steps * learner.per_round
  with (
    Checkpointer(workdir, keep=train.keep_last, goal=goal) as checkpointer,
    Writer(workdir, total=updates) as writer,
    hooks.Preemption() as preemption,
  ):
    loop = _Loop(learner, validate, train, checkpointer, writer, meta)
    try:
      loop.start()
      while not loop.over():
        number = loop.position.number
        begun = time.perf_counter()
        rollouts, made = rounds.make(learner.policy, number)
        figures = {**made, **learner.learn(number, rollouts)}
        seconds = time.perf_counter() - begun
        figures["seconds/step"] = seconds
        figures["rollouts_per_second"] = len(rollouts) / seconds
        loop.step(figures)
        if preemption.asked(loop.position.number):
          loop.save()
          checkpointer.wait()
          raise hooks.Preempted(loop.position.number)
    finally:
      rounds.close()
      checkpointer.wait()
    return loop.line(workdir)


class _Loop:
  """The parts of `run`, and what they share."""

  def __init__(self, learner, validate, train, checkpointer, writer, meta):
    self._learner, self._validate, self._train = learner, validate, train
    self._checkpointer, self._writer = checkpointer, writer
    self._meta = meta
    self.position = Position()
    self._watch = hooks.Stopwatch()
    self._saved = -1
    self._evaluated: tuple[int, dict[str, float]] = (-1, {})
    self._stopping = hooks.Stopping(
      patience=train.patience or None, target=train.target or None
    )

  def start(self) -> None:
    """The last checkpoint, or the start, which is evaluated."""
    restored = self._checkpointer.restore(self._learner.packed())
    if not restored:
      self._evaluate()
      self.save()
      return
    state, meta = restored
    self._learner.recall(meta["learner"])
    self._learner.unpack(state)
    self._saved = self._learner.updates
    self.position = Position(
      meta["position"], hooks.Progress(**meta["progress"])
    )
    self._watch = hooks.Stopwatch(self.position.progress.seconds)
    self._writer.rewind(self._learner.updates)
    self._writer.say(
      f"continuing from round {self.position.number}, update"
      f" {self._learner.updates}"
    )

  def over(self) -> bool:
    enough = self.position.number >= self._train.steps
    return enough or bool(self.position.progress.stopped)

  def step(self, figures: Mapping[str, float]) -> None:
    """After a round: log, validate, save."""
    self.position.number += 1
    number, train = self.position.number, self._train
    for name in ("loss", "grad_norm"):
      if not np.isfinite(figures[name]):
        raise NonFinite(self._learner.updates, name, figures[name])
    limit = train.max_seconds
    if limit and hooks.agree(self._watch.seconds() >= limit):
      self.position.progress.stopped = "time"
    last = self.over()
    if last or number % train.log_every == 0:
      row = {"round": number, **figures}
      self._writer.write(self._learner.updates, row)
    due = last or number % train.eval_every == 0
    better = due and self._evaluate()
    if better or self.over() or number % (train.save_every or number + 1) == 0:
      self.save()

  def _evaluate(self) -> bool:
    # What decides over saving is one process's word.
    values = distributed.spoken(dict(self._validate(self._learner.policy)))
    updates = self._learner.updates
    self._evaluated = updates, values
    self._writer.write(updates, {f"eval/{k}": v for k, v in values.items()})
    return self.position.progress.evaluated(
      updates, values, self._checkpointer.goal, self._stopping
    )

  def save(self) -> None:
    """Saves, unless this update is saved: processes may not disagree on it."""
    if self._saved == self._learner.updates:
      return
    self._saved = self._learner.updates
    self.position.progress.seconds = self._watch.seconds()
    updates, values = self._evaluated
    known = values if updates == self._learner.updates else None
    meta = {
      **self._meta,
      "position": self.position.number,
      "progress": dataclasses.asdict(self.position.progress),
      "learner": self._learner.memory(),
    }
    self._writer.flush()
    self._checkpointer.save(self._learner.packed(), meta, known)

  def line(self, workdir: pathlib.Path) -> str:
    progress, metric = self.position.progress, self._train.best_metric
    updates, values = self._evaluated
    last = values.get(metric)
    return (
      f"Wrote {workdir}/checkpoints: best {metric} {progress.best:.1f} at"
      f" update {progress.best_step},"
      + (f" last {last:.1f} at {updates}" if last is not None else "")
      + f" (stopped by {progress.stopped or 'steps'},"
      f" {progress.seconds:.0f} s)"
    )


def problems_of(
  task: Task, config: ConfigDict, settings: ConfigDict
) -> tuple[list[records.Problem], list[records.Problem]]:
  """Training problems, and those of the validation split."""
  build.refuse_test(config, settings.split, settings.eval_split)
  stop = settings.rows or None
  train = build.problems(task, settings.split, config.data, rows=(0, stop))
  held_out = build.problems(
    task, settings.eval_split, config.data, rows=(0, settings.train.eval_rows)
  )
  return train, held_out


def validation(
  rounds: Rounds, task: Task, held_out, config: ConfigDict
) -> supervised.Validate:
  """Greedy answers by the engine that samples the rollouts."""
  return supervised.answering(
    task,
    build.template(config.template),
    held_out,
    rounds.engine,
    build.at_temperature(build.sampling(config.completion), 0.0),
    forced=True,
  )


def copy(params: Params) -> Params:
  """Arrays of their own, placed alike: a train step donates its state."""
  return jax.tree.map(
    lambda x: jax.device_put(jax.numpy.copy(x), x.sharding), params
  )
