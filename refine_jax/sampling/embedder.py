"""Texts to embeddings, many at a time and in few shapes."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from refine_jax import sharding
from refine_jax.batch import Params
from refine_jax.data.tokenizer import Tokenizer
from refine_jax.models.sentences import SentenceEncoder

# Lengths that are compiled for; the encoder's own limit ends them.
LADDER = (16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512)


@dataclasses.dataclass
class Statistics:
  """Counts since the embedder was made.

  Attributes:
    texts, tokens: embedded; `padding`: positions beside them.
    cut: texts that were longer than the encoder reads.
  """

  texts: int = 0
  tokens: int = 0
  padding: int = 0
  cut: int = 0


class Embedder:
  """Rows of similar length go through the encoder together.

  Args:
    encoder: ids to vectors.
    tokenizer: of the encoder; texts begin with its BOS (or CLS), where it has
      one, and end with its EOS (or SEP).
    mesh: where the parameters live; None for one device.
    positions: rows times length of a batch, about.
    instruction: text before every text; it is read and not pooled.
  """

  def __init__(
    self,
    encoder: SentenceEncoder,
    tokenizer: Tokenizer,
    *,
    mesh: jax.sharding.Mesh | None = None,
    positions: int = 4096,
    instruction: str = "",
  ):
    self._encoder, self._tokenizer = encoder, tokenizer
    self._mesh, self._positions = mesh, positions
    bos = () if tokenizer.bos_id is None else (tokenizer.bos_id,)
    self._prefix = (*bos, *tokenizer.encode(instruction))
    limit = encoder.max_tokens
    if len(self._prefix) + 1 >= limit:
      raise ValueError(
        f"the instruction has {len(self._prefix)} tokens, the encoder reads"
        f" {limit}"
      )
    self._instructed = bool(instruction)
    self._ladder = (*(n for n in LADDER if n < limit), limit)
    self._program = jax.jit(encoder.__call__)
    self.statistics = Statistics()

  def __call__(self, params: Params, texts: Sequence[str]) -> np.ndarray:
    """One float32 row per text, in order."""
    rows = [self._ids(ids) for ids in self._tokenizer.encode_all(list(texts))]
    self.statistics.texts += len(rows)
    pending = []
    with self._scope():
      for part, arrays in self._batches(rows):
        pending.append((part, self._program(params, *self._put(arrays))))
    out: np.ndarray | None = None
    for part, found in pending:
      vectors = np.asarray(jax.device_get(found))[: len(part)]
      if out is None:
        out = np.zeros((len(rows), vectors.shape[-1]), np.float32)
      out[part] = vectors
    return np.zeros((0, 0), np.float32) if out is None else out

  def _ids(self, ids: Sequence[int]) -> tuple[int, ...]:
    room = self._ladder[-1] - len(self._prefix) - 1
    self.statistics.cut += len(ids) > room
    return (*self._prefix, *ids[:room], self._tokenizer.eos_id)

  def _batches(self, rows) -> Iterator[tuple[list[int], tuple]]:
    """Indices, and (ids, mask, pooled) of their batch."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    at = 0
    for length in self._ladder:
      end = at
      while end < len(order) and len(rows[order[end]]) <= length:
        end += 1
      most = max(8, self._positions // length // 8 * 8)
      while at < end:
        # What is left over goes in eighths: two shapes per length.
        size = most if end - at > most * 7 // 8 else max(1, most // 8)
        part = order[at : min(at + size, end)]
        yield part, self._arrays([rows[i] for i in part], size, length)
        at += len(part)

  def _arrays(self, rows, size: int, length: int):
    ids_BP = np.full((size, length), self._tokenizer.pad_id, np.int32)
    lengths_B = np.zeros((size, 1), np.int32)
    for i, row in enumerate(rows):
      ids_BP[i, : len(row)], lengths_B[i] = row, len(row)
    mask_BP = np.arange(length) < lengths_B
    tokens = int(lengths_B.sum())
    self.statistics.tokens += tokens
    self.statistics.padding += ids_BP.size - tokens
    if not self._instructed:
      return ids_BP, mask_BP
    return ids_BP, mask_BP, mask_BP & (np.arange(length) >= len(self._prefix))

  def _scope(self):
    if self._mesh is None:
      return contextlib.nullcontext()
    return jax.set_mesh(self._mesh)

  def _put(self, arrays: Any) -> Any:
    if self._mesh is None:
      return jax.device_put(arrays)
    # Rows that do not divide among the devices stay whole.
    where = [
      jax.sharding.NamedSharding(
        self._mesh, sharding.spec(("batch", None), x.shape, self._mesh)
      )
      for x in arrays
    ]
    return jax.device_put(arrays, tuple(where))
