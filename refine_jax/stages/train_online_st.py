"""Trains a generator on its own correct answers as it gives them.

Online self-training, the baseline of ReFT (section 4.2): no value, no
reference, no KL. Reads a warm generator and a task; writes checkpoints.
"""

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from refine_jax import records
from refine_jax.batch import Params
from refine_jax.data import encode
from refine_jax.methods import rollout
from refine_jax.stages import build, launch, on_policy
from refine_jax.stages.reading import BadConfig
from refine_jax.training.online import OnlineBatch, online_loss
from refine_jax.training.state import TrainState, state_of
from refine_jax.training.step import make_train_step, means

SECTIONS = (
  "seed",
  "task",
  "tokenizer",
  "template",
  "mesh",
  "engine",
  "data",
  "completion",
  "train_online_st",
)


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Trains one generator.

  1. Load the warm generator.
  2. Every round: answer new problems, keep the correct answers, and update on
     them and on the golds of the same problems, half the loss each.
  3. Every `eval_every` rounds answer the validation problems, greedily.
  """
  section = config.train_online_st
  task = build.task(config.task, section.options)
  model = build.fresh_model(
    section.model,
    config.tokenizer,
    build.mesh(config.mesh),
    workdir,
    seed=config.seed,
    markers=task.markers,
  )
  problems, held_out = on_policy.problems_of(task, config, section)
  rounds = on_policy.Rounds(model, task, problems, config, section)
  return on_policy.run(
    OnlineLearner(model, task, config, rounds.shape),
    rounds,
    on_policy.validation(rounds, task, held_out, config),
    section.train,
    workdir=workdir,
    meta={**model.meta, "config": config.to_dict()},
  )


class OnlineLearner:
  """See `on_policy.Learner`."""

  def __init__(self, model, task, config: ConfigDict, shape: rollout.Shape):
    section = config.train_online_st
    self._model, self._task, self._config = model, task, config
    self._section, self._shape = section, shape
    self._template = build.template(config.template)
    self._size = section.minibatch or section.train.batch_size
    build.check_rows(self._size, model.mesh)
    if section.train.batch_size % self._size:
      raise BadConfig(
        f"batch_size={section.train.batch_size} is no multiple of"
        f" minibatch={self._size}"
      )
    self.per_round = section.passes * (section.train.batch_size // self._size)
    optimizer, self._schedule = build.optimizer(
      section.train.optimizer, section.train.steps * self.per_round
    )
    self._step = make_train_step(
      online_loss(
        model.module, gold=section.gold, chunk=section.train.xent_chunk
      ),
      optimizer,
      micro_batches=section.train.micro_batches,
    )
    self._state = state_of(on_policy.copy(model.params), optimizer)
    self._rng = jax.random.key(config.seed)

  @property
  def updates(self) -> int:
    return int(self._state.step)

  @property
  def policy(self) -> Params:
    return self._state.params

  def learn(
    self, number: int, rollouts: Sequence[rollout.Rollout]
  ) -> dict[str, float]:
    begun = time.perf_counter()
    golds = self._golds(rollouts)
    metrics = []
    for index in range(self._section.passes):
      rng = np.random.default_rng([self._config.seed, number, index])
      order = rng.permutation(len(rollouts))
      for start in range(0, len(rollouts), self._size):
        part = order[start : start + self._size]
        batch = self._batch([rollouts[i] for i in part], golds, part)
        self._state, made = self._step(self._state, batch, self._rng)
        metrics.append(made)
    metrics = jax.device_get(metrics)
    for row in metrics:
      row.pop("counts")
    return {
      **means(metrics),
      "learning_rate": float(self._schedule(self.updates - 1)),
      "seconds/update": time.perf_counter() - begun,
    }

  def _golds(self, rollouts) -> encode.EncodedExamples:
    examples = [
      records.Example(
        id=f"{i}",
        prompt=self._template.first(self._task.prompt(r.problem)),
        target=(self._task.target(r.problem),),
      )
      for i, r in enumerate(rollouts)
    ]
    return build.encoded(self._model, examples, self._config.data)

  def _batch(self, rollouts, golds, part) -> OnlineBatch:
    batch, beside = rollout.batch_of(rollouts, self._shape)
    batch = batch.replace(
      loss_mask_BT=batch.target_mask_BT & beside["correct_B"][:, None]
    )
    place = {int(name): i for i, name in enumerate(golds.ids)}
    # A gold that is too long was dropped: its row stays empty.
    rows = [[golds[place[i]]] if i in place else [] for i in map(int, part)]
    gold = encode.collate(
      rows,
      self._config.data.max_prompt,
      self._config.data.max_target,
      self._model.tokenizer.pad_id,
      packed=False,
    )
    made = OnlineBatch.of(batch, gold)
    return build.place_whole(made, self._model.mesh)

  def packed(self) -> TrainState:
    return self._state

  def unpack(self, state: TrainState) -> None:
    self._state = state

  def memory(self) -> dict[str, Any]:
    return {"seed": self._config.seed}

  def recall(self, memory: Mapping[str, Any]) -> None:
    del memory  # nothing but the seed, which the config holds


if __name__ == "__main__":
  launch.run(main, SECTIONS, saves=True)
