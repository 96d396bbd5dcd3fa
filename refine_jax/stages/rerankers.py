"""Rerankers put together: made, loaded, fed and asked for scores."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from refine_jax import records, sharding
from refine_jax.batch import Params
from refine_jax.data import batches, encode
from refine_jax.data import tokenizer as tokenizers
from refine_jax.methods.reranking import Row
from refine_jax.models import families, hf_heads
from refine_jax.models.reranker import HEAD, Reranker
from refine_jax.stages import build
from refine_jax.stages.reading import BadConfig
from refine_jax.training import checkpoint, state
from refine_jax.training.classify import Labelled

CORRECT = 1  # the class


@dataclasses.dataclass(frozen=True)
class Lengths:
  """Tokens that prompt and completion may have; completions lose their end."""

  max_prompt: int
  max_target: int


def with_head(model: build.Model, *, seed: int) -> build.Model:
  """The model with a fresh head beside its parameters."""
  reranker = Reranker(model.module)
  rng = jax.random.key(seed)
  boxed = jax.eval_shape(reranker.init_head, rng)
  make = jax.jit(
    lambda rng: nn.unbox(reranker.init_head(rng)),
    out_shardings=sharding.of_variables(boxed, model.mesh),
  )
  return model.with_params({**model.params, HEAD: make(rng)})


def is_one(path: pathlib.Path) -> bool:
  """Whether a checkpoint of ours is a reranker's."""
  return not build.is_hf(path) and "reranker" in checkpoint.read_meta(path)


def load(
  path: pathlib.Path, mesh: jax.sharding.Mesh
) -> tuple[build.Model, Lengths]:
  """A reranker from a checkpoint of ours, or from a Hugging Face folder of a
  two-class sequence classifier (which says nothing of lengths: the half of
  what the model can read goes to each part).

  Raises:
    ValueError: a checkpoint that is no reranker.
  """
  if build.is_hf(path):
    return _from_hf(path, mesh)
  meta = checkpoint.read_meta(path)
  if "reranker" not in meta:
    raise BadConfig(f"{path} holds no reranker")
  module = families.build(meta["model"])
  abstract = state.abstract_params(
    Reranker(module), build.example_batch(), mesh
  )
  params = checkpoint.load_params(path, abstract)
  tokenizer = tokenizers.from_state(meta["tokenizer"])
  model = build.Model(module, params, tokenizer, mesh)
  return model, Lengths(**meta["reranker"])


def _from_hf(path, mesh) -> tuple[build.Model, Lengths]:
  module, params, head = hf_heads.load(path, "classes", mesh=mesh)
  model = build.Model(
    module, {**params, HEAD: head}, tokenizers.load(path), mesh
  )
  half = getattr(module.config, "max_length", 1024) // 2
  return model, Lengths(half, half)


def encoded(
  model: build.Model, rows: Sequence[Row], lengths: Lengths, on_long: str
) -> encode.EncodedExamples:
  """Rows in ids; a completion keeps its first `max_target - 1` and gets EOS."""
  texts = list(dict.fromkeys(row.text for row in rows))
  ids = dict(zip(texts, model.tokenizer.encode_all(texts), strict=True))
  room = lengths.max_target - 1
  examples = (
    records.Example(row.id, row.prompt, (tuple(ids[row.text][:room]),))
    for row in rows
  )
  section = ConfigDict({**dataclasses.asdict(lengths), "on_long": on_long})
  return build.encoded(model, examples, section)


class Fed:
  """`Fed(...)[step]`: this process's rows of a batch, with their labels.

  Args:
    made: batches of one example per row.
    labels, weights: one per example.
  """

  def __init__(
    self,
    made: batches.Batches,
    labels: Sequence[int],
    weights: Sequence[float],
  ):
    self._made = made
    self._labels = np.asarray(labels, np.int32)
    self._weights = np.asarray(weights, np.float32)

  def __getitem__(self, step: int) -> Labelled:
    rows = self._made.rows(step)
    rows = rows[self._made.mine]
    size = len(rows)
    label_B, weight_B = np.zeros(size, np.int32), np.zeros(size, np.float32)
    for b, row in enumerate(rows):
      if len(row):
        label_B[b], weight_B[b] = self._labels[row[0]], self._weights[row[0]]
    return Labelled(self._made[step], label_B, weight_B)


class Scorer:
  """Probabilities that completions are right, `[N]` float32 in (0, 1).

  Args:
    model: whose module the reranker reads with; parameters are an argument.
    lengths: see `Lengths`.
    batch_size: rows scored together.
  """

  def __init__(self, model: build.Model, lengths: Lengths, batch_size: int):
    self._model, self._lengths = model, lengths
    ways = model.mesh.size
    self._batch_size = -(-batch_size // ways) * ways
    reranker = Reranker(model.module)

    def score(params, batch):
      logits_B2 = reranker(params, batch)[0]
      return jax.nn.softmax(logits_B2)[:, CORRECT]

    self._score = jax.jit(score, out_shardings=sharding.replicated(model.mesh))

  def __call__(self, params: Params, rows: Sequence[Row]) -> np.ndarray:
    found = np.zeros(len(rows), np.float32)
    for places, scores in self._batches(params, rows):
      for place, score in zip(places, scores, strict=True):
        if len(place):
          found[place[0]] = score
    return found

  def _batches(
    self, params: Params, rows: Sequence[Row]
  ) -> Iterator[tuple[Any, np.ndarray]]:
    if not rows:
      return
    # A prompt is cut on the left: what is asked is at its end.
    examples = encoded(self._model, rows, self._lengths, "cut_prompt_left")
    lengths = dataclasses.asdict(self._lengths)
    made = build.make_batches(
      self._model,
      examples,
      ConfigDict({"batching": "bucket", "buckets": 4, **lengths}),
      batch_size=self._batch_size,
      seed=0,
      shuffle=False,
      epochs=1,
    )
    with jax.set_mesh(self._model.mesh):
      for step in range(len(made)):
        batch = build.place(made[step], self._model.mesh)
        scores = sharding.fetched(self._score(params, batch))
        yield made.rows(step), scores


def cross_entropy(scores: np.ndarray, correct: np.ndarray) -> float:
  """Mean of the classes' negative log-likelihood."""
  scores = np.clip(np.asarray(scores, np.float64), 1e-12, 1 - 1e-12)
  return float(-np.log(np.where(correct, scores, 1 - scores)).mean())
