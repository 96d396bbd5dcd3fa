"""What the supervised stages share: a run of `training.fit` and validation."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from refine_jax import files, records
from refine_jax.batch import Params
from refine_jax.data.encode import EncodedExamples
from refine_jax.methods import evaluation
from refine_jax.methods.refine import Template
from refine_jax.sampling.engine import Engine
from refine_jax.sampling.planning import Job
from refine_jax.sampling.settings import Request, Sampling
from refine_jax.stages import adapters, build, distributed
from refine_jax.stages.reading import BadConfig, reading
from refine_jax.tasks.base import Task
from refine_jax.training import fit as fitting
from refine_jax.training import flops, hooks, optim, state
from refine_jax.training.checkpoint import Checkpointer, Goal
from refine_jax.training.loss import LossFn, supervised_loss
from refine_jax.training.metrics import Meter, Writer
from refine_jax.training.step import TrainStep, make_train_step

# Parameters -> figures, in percent where they are shares.
Validate = Callable[[Params], Mapping[str, float]]


def run(
  model: build.Model,
  examples: EncodedExamples,
  data: ConfigDict,
  train: ConfigDict,
  *,
  workdir: pathlib.Path,
  config: ConfigDict,
  validate: Validate,
) -> str:
  """Trains on examples, resuming what the workdir holds; says how it ended."""
  train = in_updates(train, len(examples))
  batches = build.make_batches(
    model, examples, data, batch_size=train.batch_size, seed=config.seed
  )
  optimizer, _ = build.optimizer(train.optimizer, train.steps)
  with reading("train.lora"):
    trained = adapters.trained(model, train, seed=config.seed)
  check_pieces(train)
  step = make_train_step(
    trained.loss(loss_function(model, train)),
    optimizer,
    micro_batches=train.micro_batches,
  )
  return fit(
    model,
    step,
    lambda number: trained.batch(build.place(batches[number], model.mesh)),
    train,
    workdir=workdir,
    config=config,
    validate=lambda params: validate(trained.whole(params)),
    meta=trained.meta,
    params=trained.params,
  )


def in_updates(train: ConfigDict, rows: int) -> ConfigDict:
  """A `train` section whose epochs, if it has any, are counted in updates."""
  if not train.epochs:
    return train
  steps = train.epochs * -(-rows // train.batch_size)
  train = ConfigDict({**train.to_dict(), "steps": steps, "epochs": 0})
  train.optimizer.warmup_steps = int(train.warmup_fraction * steps)
  return train


def loss_function(model: build.Model, train: ConfigDict) -> LossFn:
  with reading("train"):
    return supervised_loss(
      model.module,
      chunk=train.xent_chunk,
      label_smoothing=train.label_smoothing,
      reduction=train.reduction,
    )


def check_pieces(train: ConfigDict) -> None:
  """A batch has to be cut into micro-batches of one size."""
  if train.micro_batches < 1 or train.batch_size % train.micro_batches:
    raise BadConfig(
      f"train.batch_size={train.batch_size} cannot be cut into"
      f" train.micro_batches={train.micro_batches} of one size"
    )


def fit(
  model: build.Model,
  step: TrainStep,
  batches: Callable[[int], Any],
  train: ConfigDict,
  *,
  workdir: pathlib.Path,
  config: ConfigDict,
  validate: Validate,
  meta: Mapping[str, Any] | None = None,
  params: Params | None = None,
) -> str:
  """`training.fit` under a `train` section.

  Args:
    meta: what checkpoints say besides the model's own words.
    params: what is trained, if not the model's own parameters.

  Raises:
    BadConfig: the batch does not divide among the mesh's batch axes, or the
      section asks for adapters and gets none, or for what cannot be.
  """
  if params is None:
    with reading("train.lora"):
      adapters.refuse(train)
    params = model.params
  build.check_rows(train.batch_size, model.mesh)
  optimizer, schedule = build.optimizer(train.optimizer, train.steps)
  with reading("train"):
    goal = Goal(train.best_metric, train.best_mode)
    hooks.check_profile(train.profile_steps)
    if train.profile_steps and files.remote(workdir):
      raise ValueError(f"profile_steps: no traces are written to {workdir}")
  with reading("train.optimizer.multipliers"):
    optim.check_multipliers(dict(train.optimizer.multipliers), params)
  with (
    Checkpointer(workdir, keep=train.keep_last, goal=goal) as checkpointer,
    Writer(workdir, total=train.steps) as writer,
  ):
    fitted = fitting.fit(
      state.state_of(params, optimizer),
      step,
      batches,
      steps=train.steps,
      rng=jax.random.key(config.seed),
      eval_fn=lambda params: distributed.spoken(dict(validate(params))),
      eval_every=train.eval_every,
      stopping=hooks.Stopping(
        patience=train.patience or None,
        target=train.target or None,
        max_seconds=train.max_seconds or None,
      ),
      checkpointer=checkpointer,
      save_every=train.save_every or None,
      meta={**model.meta, "config": config.to_dict(), **(meta or {})},
      writer=writer,
      log_every=train.log_every,
      schedule=schedule,
      meter=_meter(model),
      profile=tuple(train.profile_steps) or None,
      profile_dir=workdir / "profile",
    )
  best = "nothing" if fitted.best is None else f"{fitted.best:.1f}"
  return (
    f"Wrote {workdir}/checkpoints: best {train.best_metric} {best} at update"
    f" {fitted.best_step} of {int(fitted.state.step)} (stopped by"
    f" {fitted.stopped}, {fitted.seconds:.0f} s)"
  )


def _meter(model: build.Model) -> Meter:
  peak = flops.peak(jax.devices()[0].device_kind)
  if peak is None:
    return Meter()
  sizes = model.module.config
  two = model.module.encoder_decoder
  counted = flops.of_params(
    model.params,
    layers=sizes.decoder_layers if two else sizes.layers,
    heads=sizes.heads,
    head_dim=sizes.head_dim,
    tied=sizes.tied,
    encoder_layers=sizes.encoder_layers if two else None,
  )
  return Meter(flops=counted, peak=peak * model.mesh.size)


def answering(
  task: Task,
  template: Template,
  problems: Sequence[records.Problem],
  engine: Engine,
  sampling: Sampling,
  *,
  forced: bool = False,
) -> Validate:
  """Answers the bare questions; the task's figures in percent.

  `forced` begins every answer with the task's prefix, if it has one: as
  published not while a generator is trained on its golds (which have it), but
  wherever it is sampled.
  """
  prefixes = [task.prefix(p) if forced else "" for p in problems]
  requests = [
    Request(p.id, (*template.first(task.prompt(p)), *filter(None, [prefix])))
    for p, prefix in zip(problems, prefixes, strict=True)
  ]
  jobs = _fitting(engine, requests, sampling)

  def validate(params: Params) -> dict[str, float]:
    groups = engine.run(params, jobs)
    rows = [
      task.metrics(problem, prefix + sample.text)
      for problem, prefix, (sample,) in zip(
        problems, prefixes, groups, strict=True
      )
    ]
    return {k: 100 * float(np.mean([r[k] for r in rows])) for k in rows[0]}

  return validate


def criticising(
  task: Task,
  template: Template,
  critiques: Sequence[records.Critique],
  engine: Engine,
  sampling: Sampling,
) -> Validate:
  """Criticises held-out hypotheses; figures in percent.

  `exact` whatever the sentences' order, `detection` of wrong ones,
  `acceptance` of right ones, `exact/<type>` per error type, and `balanced`:
  exact on right ones and on wrong ones, half each, which a critic that always
  says the same does not win.
  """
  requests = [
    Request(c.id, template.critique(c.question, c.hypothesis))
    for c in critiques
  ]
  jobs = _fitting(engine, requests, sampling)

  def validate(params: Params) -> dict[str, float]:
    groups = engine.run(params, jobs)
    hits: dict[str, list[bool]] = {"exact": []}
    sides: dict[bool, list[bool]] = {}
    for critique, (sample,) in zip(critiques, groups, strict=True):
      same = evaluation.same_feedback(task, sample.text, critique.feedback)
      hits["exact"].append(same)
      silent = sample.text.strip() == task.no_hint
      right = critique.feedback == task.no_hint
      name = "acceptance" if right else "detection"
      hits.setdefault(name, []).append(silent == right)
      sides.setdefault(right, []).append(same)
      kind = (*critique.errors, "none")[0]
      hits.setdefault(f"exact/{kind}", []).append(same)
    figures = {k: 100 * float(np.mean(v)) for k, v in hits.items()}
    halves = [np.mean(side) for side in sides.values()]
    return {**figures, "balanced": 100 * float(np.mean(halves))}

  return validate


def _fitting(
  engine: Engine, requests: Sequence[Request], sampling: Sampling
) -> list[Job]:
  """Encoded; one that is too long is told now, not at the first validation."""
  jobs = engine.jobs(requests, sampling)
  with reading("engine"):
    engine.check(jobs)
  return jobs
