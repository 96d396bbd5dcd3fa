"""Trains the writer of rationales: text so far -> rationale.

Reads train.jsonl and dev.jsonl of make_rationale_data; writes checkpoints and
metrics. The loss is on the rationale and its end alone; a long text is cut at
its left, so that the rationale is always whole. With `target: following` it
trains the control that learns the solutions themselves from the same rows.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from refine_jax import records
from refine_jax.methods.layout import Layout, cut_left
from refine_jax.records import Example, Rationale
from refine_jax.sampling.settings import Request
from refine_jax.stages import build, launch, roles, supervised
from refine_jax.stages.reading import BadConfig
from refine_jax.tasks.base import squeeze

SECTIONS = (
  "seed",
  "tokenizer",
  "mesh",
  "engine",
  "layouts",
  "train_rationalyst",
)


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Trains one writer.

  1. Read the kept rationales, split by document already.
  2. Build the model from the base.
  3. Train; validation is the loss on held-out documents, and how many
     rationales are written word for word.
  """
  settings = config.train_rationalyst
  rows = {
    name: list(records.read(Rationale, build.resolve(path, workdir)))
    for name, path in (("train", settings.rows), ("dev", settings.dev_rows))
  }
  model = build.fresh_model(
    settings.model,
    config.tokenizer,
    build.mesh(config.mesh),
    workdir,
    seed=config.seed,
  )
  if settings.target not in ("rationale", "following"):
    raise BadConfig(f"target {settings.target!r}: rationale or following")
  role = "writer" if settings.target == "rationale" else "agent"
  layout = roles.layout(config.layouts[role])
  limit = settings.data.max_prompt - 1  # BOS
  made = {
    name: [
      example(row, model.tokenizer, layout, limit, settings.target)
      for row in part
    ]
    for name, part in rows.items()
  }
  return supervised.run(
    model,
    build.encoded(model, made["train"], settings.data),
    settings.data,
    settings.train,
    workdir=workdir,
    validate=_validation(model, made["dev"], config),
    config=config,
  )


def example(
  row: Rationale, tokenizer, layout: Layout, limit: int, target: str
) -> Example:
  """One pair; `limit` is of the prompt, in tokens without BOS."""
  text = row.rationale if target == "rationale" else row.following
  prompt = cut_left(tokenizer, layout, row.preceding, limit)
  return Example(row.id, prompt, (layout.text(text),))


def _validation(
  model: build.Model, examples: Sequence[Example], config: ConfigDict
) -> supervised.Validate:
  """`loss` in nats per token, `exact` in percent, on the first examples."""
  settings = config.train_rationalyst
  shown = list(examples)[: settings.train.eval_rows]
  if not shown:
    raise BadConfig("there are no held-out rationales to validate on")
  tokens = settings.data.max_target
  engine = build.engine(model, settings.engine, tokens)
  sampling = build.sampling(settings.sampling)
  ids = model.tokenizer.eos_id
  targets = [(*e.target, (ids,)) for e in shown]
  requests = [Request(e.id, e.prompt) for e in shown]

  def validate(params) -> dict[str, float]:
    scores = engine.score(params, [e.prompt for e in shown], targets)
    groups = engine.generate(params, requests, sampling)
    same = [
      squeeze(sample.text) == squeeze(e.target[0])
      for e, (sample,) in zip(shown, groups, strict=True)
    ]
    total = sum(len(s) for s in scores)
    return {
      "loss": -float(sum(s.sum() for s in scores) / total),
      "exact": 100 * float(np.mean(same)),
    }

  return validate


if __name__ == "__main__":
  launch.run(main, SECTIONS, saves=True)
