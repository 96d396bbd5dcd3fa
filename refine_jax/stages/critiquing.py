"""What MathCritique's stages share: actor, critic, annotators, manifests."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from refine_jax import files, records
from refine_jax.data.tokenizer import encode_prompt
from refine_jax.methods import (
  annotation,
  critic_metrics,
  self_training,
  step_critics,
)
from refine_jax.methods.critique import GRAMMARS, Grammar
from refine_jax.methods.refine import Proposer, Template
from refine_jax.sampling import annotator, endpoint
from refine_jax.sampling.engine import Engine
from refine_jax.sampling.settings import Sampling
from refine_jax.stages import build, replies, supervised
from refine_jax.stages.reading import BadConfig
from refine_jax.tasks.base import Task


def grammar(name: str) -> Grammar:
  if name not in GRAMMARS:
    raise BadConfig(f"grammar is one of {', '.join(GRAMMARS)}, not {name!r}")
  return GRAMMARS[name]


def must_judge(task: Task, who: str) -> None:
  """BadConfig where `who` is asked for and the task knows no truth of steps."""
  if not hasattr(task, "judge"):
    raise BadConfig(
      f"{who} needs a task that judges steps, which {type(task).__name__} does"
      " not: take another critic or annotator"
    )


class Workshop:
  """A task with its models; each is loaded once, when it is first needed.

  Actor and critic lie together on the devices of one process: problems are
  dealt out.
  """

  def __init__(self, config: ConfigDict, workdir: pathlib.Path, options=None):
    self.config, self.workdir = config, workdir
    self.endpoint: endpoint.Endpoint | None = None
    self.task: Task = build.task(config.task, options)
    self.template: Template = build.template(config.template)

  @functools.cached_property
  def mesh(self) -> jax.sharding.Mesh:
    return build.own_mesh(self.config.mesh)

  @functools.cache  # noqa: B019, lives as long as the stage
  def model(self, path: str) -> build.Model:
    return build.load_model(build.resolve(path, self.workdir), self.mesh)

  @functools.cache  # noqa: B019
  def engine(self, path: str, tokens: int, critic: bool = False) -> Engine:
    section = self.config.train_critic.engine if critic else self.config.engine
    return build.engine(self.model(path), section, tokens)

  def sampling(self, temperature: float) -> Sampling:
    wanted = build.sampling(self.config.completion, self.config.seed)
    return build.at_temperature(wanted, temperature)

  def actor(self, path: str, temperature: float) -> Proposer:
    tokens = self.config.completion.max_tokens
    propose = build.proposer(
      self.engine(path, tokens),
      self.model(path).params,
      self.sampling(temperature),
    )
    return fitting(propose, self.model(path), self.config.engine, tokens)

  def critic(self, path: str) -> Proposer:
    tokens = self.config.feedback.max_tokens
    propose = build.proposer(
      self.engine(path, tokens, critic=True),
      self.model(path).params,
      build.sampling(self.config.feedback, self.config.seed),
    )
    section = self.config.train_critic.engine
    return fitting(propose, self.model(path), section, tokens)

  def problems(self, split: str, rows: Sequence[int]) -> list[records.Problem]:
    return build.problems(
      self.task, split, self.config.data, rows=(rows[0], rows[1] or None)
    )

  def attempts(
    self,
    problems: Sequence[records.Problem],
    propose: Proposer,
    n: int,
    name: str,
  ) -> list[records.Attempts]:
    """n checked samples of every problem.

    `name` keeps their randomness apart from that of other samples of the same
    problems: bins of difficulty that were made of the very samples which are
    then compared by bin would favour whoever samples again.
    """
    asked = [
      dataclasses.replace(r, id=f"{r.id}/{name}")
      for r in self_training.requests(self.task, self.template, problems, n)
    ]
    return self_training.checked(self.task, problems, propose(asked))


def fitting(
  propose: Proposer, model: build.Model, engine: ConfigDict, tokens: int
) -> Proposer:
  """Prompts that are too long get an empty answer instead of an error.

  They hold what models wrote, who may write without end.
  """
  longest = engine.prompt_buckets[-1]
  if context := getattr(model.module.config, "max_length", 0):
    longest = min(longest, context - tokens)

  def answer(requests):
    lengths = [
      1 + len(encode_prompt(model.tokenizer, r.prompt)) for r in requests
    ]
    short = [r for r, n in zip(requests, lengths, strict=True) if n <= longest]
    found = iter(propose(short) if short else ())
    return [
      next(found)
      if n <= longest
      else [
        records.Sample(f"{r.id}/{i}", "", (), (), (), "length")
        for i in range(r.n)
      ]
      for r, n in zip(requests, lengths, strict=True)
    ]

  return answer


def annotators(
  settings: ConfigDict, shop: Workshop, workdir: pathlib.Path
) -> annotation.Annotator | None:
  """Who answers an annotator's requests; None if it is the task itself."""
  if settings.annotator == "oracle":
    must_judge(shop.task, "an oracle annotator")
    return None
  if settings.annotator == "endpoint":
    if shop.endpoint is None:  # it reads all its replies when it is made
      shop.endpoint = replies.asked(settings, workdir)
    return shop.endpoint
  if settings.annotator == "local":
    return _local(settings.annotator_model, shop)
  raise BadConfig(
    f"annotator is oracle, local or endpoint, not {settings.annotator!r}"
  )


def _local(path: str, shop: Workshop) -> annotation.Annotator:
  """A model of ours, asked in the words of a dialogue if there is one."""
  annotate = annotator.local(
    shop.engine(path, shop.config.feedback.max_tokens, critic=True),
    shop.model(path).params,
    build.sampling(shop.config.feedback, shop.config.seed),
  )
  ask = getattr(shop.template, "ask", None)
  if ask is None:
    return annotate
  return lambda requests: annotate(
    [dataclasses.replace(r, prompt=ask(*r.prompt)) for r in requests]
  )


def seal(
  workdir: pathlib.Path, counts: dict[str, Any], names: Sequence[str]
) -> dict[str, Any]:
  """Writes manifest.json, last of all: figures, and a hash of every file.

  They are whole, whoever wrote them: the number of processes changes nothing.
  """
  hashes = {name: digest(workdir / name) for name in names}
  whole = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode())
  manifest = {"hash": whole.hexdigest(), "files": hashes, **counts}
  text = json.dumps(manifest, indent=2) + "\n"
  files.write(workdir / "manifest.json", text)
  return manifest


def digest(path: pathlib.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def sealed(workdir: pathlib.Path) -> dict[str, Any] | None:
  """The manifest of a stage that is complete."""
  path = workdir / "manifest.json"
  return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def validation(
  task: Task,
  template: Template,
  words: Grammar,
  critiques: Sequence[records.Critique],
  engine: Engine,
  sampling: Sampling,
) -> supervised.Validate:
  """Step critics on held-out responses: `disc`, `disc_c`, `disc_i`,
  `first_error`, `parsed` and `exact`, in percent; and how many of them there
  are, `cases`, and which have a first error, `flawed`.

  What is true is what the held-out critiques say.
  """
  asked = [
    records.Trajectory(
      c.id, c.problem, c.question, (records.Turn(c.hypothesis),)
    )
    for c in critiques
  ]

  def validate(params) -> dict[str, float]:
    critic = step_critics.model(
      build.proposer(engine, params, sampling), template, words
    )
    cases, exact = [], []
    for row, said in zip(critiques, critic(asked), strict=True):
      true, found = words.parse(row.feedback), words.parse(said.text)
      exact.append(found == true)
      cases.append(
        critic_metrics.Case(
          right=true.correct is True,
          said=found.correct,
          first_error=true.first_error,
          found=found.first_error,
          readable=found.readable,
        )
      )
    figures = critic_metrics.discriminability(cases)
    return {
      **figures,
      "exact": 100 * float(np.mean(exact)),
      "cases": float(len(cases)),
      "flawed": float(sum(c.first_error is not None for c in cases)),
    }

  return validate
