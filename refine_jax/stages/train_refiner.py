"""Trains a generator with a critic in the loop (REFINER, algorithm 1).

Reads a warm generator, a critic (the oracle in the paper) and a task; writes
checkpoints, metrics, and the last rounds of rollouts as readable Examples.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from refine_jax import records
from refine_jax.data import encode
from refine_jax.methods import critics, evaluation, refine, refiner
from refine_jax.stages import build, distributed, launch, supervised
from refine_jax.stages.reading import BadConfig, reading
from refine_jax.training import checkpoint
from refine_jax.training.step import TrainStep, make_train_step

SECTIONS = (
  "seed",
  "task",
  "template",
  "mesh",
  "engine",
  "data",
  "completion",
  "feedback",
  "train_refiner",
)


# `none` says nothing: the ablation without a critic at training.
CRITICS = ("oracle", "model", "none")


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Trains one generator.

  1. Load the warm generator, the task and the critic.
  2. Every `rollout.every` updates: let it answer new problems, turn by turn,
     with feedback; the prompts that arise, with the gold, are the examples.
  3. Update on them, the loss summed over turns; validate by the same loop.
  """
  settings = config.train_refiner
  if settings.critic not in CRITICS:
    raise BadConfig(
      f"train_refiner.critic is one of {CRITICS}, not {settings.critic!r}"
    )
  rollout_of(settings.rollout)  # told before anything is loaded
  task = build.task(config.task, settings.options)
  template = build.template(config.template)
  mesh = build.mesh(config.mesh)
  model = build.load_model(build.resolve(settings.generator, workdir), mesh)
  stop = settings.rows or None
  problems = build.problems(task, settings.split, config.data, rows=(0, stop))
  held_out = build.problems(
    task,
    settings.eval_split,
    config.data,
    rows=(0, settings.train.eval_rows),
  )
  critic = _critic(task, [*problems, *held_out], config, workdir, mesh)
  optimizer, _ = build.optimizer(settings.train.optimizer, settings.train.steps)
  step = OnPolicyStep(
    make_train_step(
      supervised.loss_function(model, settings.train),
      optimizer,
      accumulate="sum",
    ),
    Rounds(task, problems, model, critic, template, config, workdir),
  )
  return supervised.fit(
    model,
    step,
    lambda number: number,
    settings.train,
    workdir=workdir,
    config=config,
    validate=_validation(task, held_out, model, critic, template, config),
  )


class OnPolicyStep:
  """A train step that makes its batches from the parameters it is given."""

  def __init__(self, step: TrainStep, rounds: "Rounds"):
    self._step, self._rounds = step, rounds

  def __call__(self, state, number: int, rng: jax.Array):
    return self._step(state, self._rounds.batch(state.params, number), rng)


class Rounds:
  """Rounds of rollouts, each for `every` updates.

  A round is written down before it is used, so that a run killed in the middle
  of one goes on with the same batches; see `forget`.
  """

  def __init__(self, task, problems, model, critic, template, config, workdir):
    self._task, self._problems, self._model = task, problems, model
    self._critic, self._template, self._config = critic, template, config
    self._settings = config.train_refiner
    self._rollout = rollout_of(self._settings.rollout)
    self._path = workdir / "rollouts"
    self._engine = build.engine(
      model, config.engine, config.completion.max_tokens
    )
    self._round, self._examples = -1, None
    self._lengths = 0, 0

  def batch(self, params: Any, number: int) -> Any:
    """The `[turns, rows, ...]` batch of an update, placed on the mesh."""
    index, place = divmod(number, self._settings.rollout.every)
    if index != self._round:
      self._examples = build.encoded(
        self._model, self._read_or_make(params, index), self._config.data
      )
      self._round, self._lengths = index, self._padded_lengths()
    turns, size = self._shape()
    span = turns * size
    # A round may yield fewer examples than its updates need: go round again.
    order = np.arange(place * span, (place + 1) * span) % len(self._examples)
    rows = [[self._examples[i]] for i in order]
    batch = encode.collate(
      rows,
      *self._lengths,
      self._model.tokenizer.pad_id,
      packed=False,
    )
    share = jax.tree.map(lambda x: x.reshape(turns, size, *x.shape[1:]), batch)
    return build.place_turns(share, self._model.mesh)

  def _padded_lengths(self) -> tuple[int, int]:
    """(P, T) of a round's batches: the config's, or just long enough."""
    data = self._config.data
    if data.batching != "bucket":
      return data.max_prompt, data.max_target
    longest = self._examples.lengths_N2.max(axis=0)
    prompt, target = (int(-(-n // 8) * 8) for n in longest)
    return min(prompt, data.max_prompt), min(target, data.max_target)

  def _shape(self) -> tuple[int, int]:
    """Turns whose losses are summed, and rows of each."""
    whole = self._rollout.first_turn and not self._rollout.errors_only
    turns = self._rollout.learned_turns if whole else 1
    return turns, self._settings.train.batch_size

  def _read_or_make(self, params, index) -> list[records.Example]:
    path = self._path / f"{index:06d}.jsonl"
    if not distributed.spoken(path.exists()):
      made = self._make(params, index)
      if jax.process_index() == 0:
        records.write(path, made)
        forget(self._path, self._settings.rollout.every)
      distributed.together("a round is written")
    return list(records.read(records.Example, path))

  def _make(self, params, index) -> list[records.Example]:
    turns, size = self._shape()
    wanted = self._settings.rollout.every * turns * size
    sampling = build.sampling(self._config.completion, self._config.seed)
    sampling = dataclasses.replace(
      sampling,
      temperature=self._settings.rollout.temperature,
      top_k=self._settings.rollout.top_k,
      top_p=self._settings.rollout.top_p,
      seed=self._config.seed + index,
    )
    generate = build.proposer(self._engine, params, sampling)
    per_problem = self._settings.rollout.problems or wanted // turns
    by_turn = refiner.roll_out(
      self._task,
      self._chosen(index, per_problem),
      generate=generate,
      critic=self._critic,
      template=self._template,
      rollout=self._rollout,
      seed=self._config.seed + index,
    )
    if turns > 1:  # update by update, turn by turn
      return [
        example
        for start in range(0, per_problem, size)
        for examples in by_turn
        for example in examples[start : start + size]
      ]
    examples = [example for examples in by_turn for example in examples]
    if not examples:
      raise BadConfig(
        "no example to learn from: every hypothesis was accepted, and"
        " rollout.errors_only leaves those out"
      )
    rng = np.random.default_rng([self._config.seed, index])
    return [examples[i] for i in rng.permutation(len(examples))]

  def _chosen(self, index, count) -> list[records.Problem]:
    """The next `count` problems of a seeded order without end."""
    total = len(self._problems)
    places = np.arange(index * count, (index + 1) * count)
    orders = {
      epoch: np.random.default_rng([self._config.seed, epoch]).permutation(
        total
      )
      for epoch in np.unique(places // total)
    }
    return [self._problems[orders[p // total][p % total]] for p in places]


def forget(rounds: pathlib.Path, every: int) -> None:
  """Removes the rounds that no resumed run would read again.

  That of the last checkpoint stays: with the parameters of its middle it could
  not be made once more. Without a checkpoint nothing is removed; a run begins
  again with its first round.
  """
  try:
    last = checkpoint.find(rounds.parent, "last")
  except FileNotFoundError:
    return
  needed = int(pathlib.Path(last).name) // every
  for path in rounds.glob("*.jsonl"):
    if int(path.stem) < needed:
      path.unlink()


def rollout_of(config: ConfigDict) -> refiner.Rollout:
  names = {field.name for field in dataclasses.fields(refiner.Rollout)}
  with reading("train_refiner.rollout"):
    return refiner.Rollout(**{k: v for k, v in config.items() if k in names})


def _critic(task, problems, config, workdir, mesh) -> refine.Critic:
  settings = config.train_refiner
  if settings.critic == "model":
    path = build.resolve(settings.critic_path, workdir)
    model = build.load_model(path, mesh)
    engine = build.engine(model, config.engine, config.feedback.max_tokens)
    generate = build.proposer(
      engine, model.params, build.sampling(config.feedback, config.seed)
    )
    template = build.template(config.template)
    critic = critics.model(generate, template, task.no_hint)
  elif settings.critic == "none":
    critic = critics.none
  else:
    critic = critics.oracle(
      task.feedback, refiner.by_id(problems), task.no_hint
    )
  if settings.noise:
    pool = list(settings.noise_words) or critics.words_of(task, problems[:200])
    critic = critics.noisy(
      critic, rate=settings.noise, pool=pool, seed=config.seed
    )
  return distributed.agreed(critic)


def _validation(task, problems, model, critic, template, config):
  """The loop itself, greedy: figures after the last turn, and `first`."""
  engine = build.engine(model, config.engine, config.completion.max_tokens)
  sampling = build.sampling(config.completion, config.seed)
  sampling = build.at_temperature(sampling, 0.0)
  by_id = refiner.by_id(problems)
  turns = max(2, config.train_refiner.rollout.turns)
  first = config.train_refiner.rollout.first_turn
  warm = build.proposer(engine, model.params, sampling)
  # The train step donates its state; the warm answers are made before it.
  answers = [] if first else _answers(task, problems, warm, template)

  def validate(params) -> dict[str, float]:
    propose = build.proposer(engine, params, sampling)
    done = refine.refine(
      [refine.start(p, task.prompt(p)) for p in problems],
      propose=(lambda _: answers) if answers else propose,
      revise=propose,
      critic=critic,
      template=template,
      turns=turns,
    )
    done = [evaluation.with_metrics(task, by_id, t) for t in done]
    names = list(done[0].turns[0].metrics)
    figures = {
      name: 100 * float(evaluation.at_turn(done, turns, name).mean())
      for name in names
    }
    before = 100 * float(evaluation.at_turn(done, 1, names[0]).mean())
    return {**figures, f"first_{names[0]}": before}

  return validate


def _answers(task, problems, propose, template):
  requests = [
    refine.Request(f"{p.id}/t1", template.first(task.prompt(p)))
    for p in problems
  ]
  return propose(requests)


if __name__ == "__main__":
  launch.run(main, SECTIONS, saves=True)
