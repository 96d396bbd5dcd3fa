"""Trains a reranker: a two-class head on the last state, class 1 is correct.

Reads samples.jsonl and a backbone; writes checkpoints and metrics. The best
checkpoint is the one that reranks validation problems best.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from refine_jax import records
from refine_jax.batch import Params
from refine_jax.methods import reranking
from refine_jax.models.reranker import Reranker
from refine_jax.stages import (
  build,
  distributed,
  launch,
  rerankers,
  sampled,
  supervised,
)
from refine_jax.stages.reading import BadConfig
from refine_jax.training.classify import classification_loss
from refine_jax.training.step import make_train_step

SECTIONS = ("seed", "tokenizer", "template", "mesh", "train_reranker")


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Trains one reranker.

  1. Read the samples; hold validation problems out, or read theirs.
  2. Build the backbone and a fresh head.
  3. Train; validation reranks whole problems.
  """
  settings = config.train_reranker
  if settings.data.batching == "pack":
    raise BadConfig("train_reranker.data.batching is bucket or pad, not pack")
  template = build.template(config.template)
  train, held_out = _read(settings, workdir)
  rows = reranking.rows(
    train, template, per_problem=settings.per_problem, seed=config.seed
  )
  model = build.fresh_model(
    settings.model,
    config.tokenizer,
    build.mesh(config.mesh),
    workdir,
    seed=config.seed,
    markers=template.markers,
  )
  model = rerankers.with_head(model, seed=config.seed)
  lengths = rerankers.Lengths(
    settings.data.max_prompt, settings.data.max_target
  )
  batches, count = _batches(model, rows, lengths, settings, config.seed)
  settings = settings.copy_and_resolve_references()
  settings.train = supervised.in_updates(settings.train, count)
  return supervised.fit(
    model,
    _step(model, settings),
    lambda number: build.place(batches[number], model.mesh),
    settings.train,
    workdir=workdir,
    config=config,
    validate=_validation(model, held_out, template, lengths, settings),
    meta={"reranker": dataclasses.asdict(lengths)},
  )


def _read(settings: ConfigDict, workdir: pathlib.Path):
  attempts = sampled.read(settings.samples, workdir)
  count = settings.train.eval_rows
  if not settings.eval_samples:
    return reranking.hold_out(attempts, count)
  held_out = sampled.read((settings.eval_samples,), workdir)
  return attempts, held_out[:count]


def _batches(model, rows, lengths, settings, seed) -> tuple[rerankers.Fed, int]:
  """Batches, and how many examples they hold."""
  examples = rerankers.encoded(model, rows, lengths, settings.data.on_long)
  label = {row.id: row.correct for row in rows}
  correct = [label[name] for name in examples.ids]
  made = build.make_batches(
    model,
    examples,
    settings.data,
    batch_size=settings.train.batch_size,
    seed=seed,
  )
  distributed.tell(
    f"data: {len(correct)} completions, {100 * np.mean(correct):.1f} % correct"
  )
  weights = reranking.weights(correct, settings.balance)
  return rerankers.Fed(made, correct, weights), len(correct)


def _step(model: build.Model, settings: ConfigDict):
  train = settings.train
  loss = classification_loss(
    Reranker(model.module),
    model.module,
    language=settings.language,
    chunk=train.xent_chunk,
  )
  optimizer, _ = build.optimizer(train.optimizer, train.steps)
  return make_train_step(loss, optimizer, micro_batches=train.micro_batches)


def _validation(
  model: build.Model,
  attempts: Sequence[records.Attempts],
  template,
  lengths: rerankers.Lengths,
  settings: ConfigDict,
) -> supervised.Validate:
  """Reranks held-out problems over all their samples."""
  rows = reranking.rows(attempts, template)
  if not rows:
    raise BadConfig("train_reranker: no problem is left for validation")
  correct = np.array([row.correct for row in rows])
  scorer = rerankers.Scorer(model, lengths, settings.train.batch_size)

  def validate(params: Params) -> dict[str, float]:
    scores = scorer(params, rows)
    return {
      **reranking.figures(attempts, rows, scores),
      "accuracy": 100 * float(np.mean((scores > 0.5) == correct)),
      "auc": 100 * reranking.auc(scores, correct),
      "cross_entropy": rerankers.cross_entropy(scores, correct),
    }

  return validate


if __name__ == "__main__":
  launch.run(main, SECTIONS, saves=True)
