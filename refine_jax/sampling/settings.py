"""What is asked of a sampler: settings, requests, and their form on device."""

import dataclasses
import zlib
from collections.abc import Sequence

import flax.struct
import jax
import numpy as np

from refine_jax.records import Prompt


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are drawn. Rows of one batch may differ in all of it but beams.

  Attributes:
    temperature: 0 takes the most probable token.
    top_k: keep the k most probable tokens (ties included); 0 keeps all.
    top_p: of those, the fewest most probable tokens of this mass.
    min_p: of those, the ones at least this times as probable as the best.
    repetition_penalty: logits of tokens already in the row (prompt included,
      but for encoder-decoders) are divided by it if positive, else multiplied.
    max_tokens: tokens sampled at most, EOS included.
    min_tokens: before so many, no token that would stop the row is drawn.
    stop: the text ends before the first of these strings.
    stop_ids: token ids that end the row besides EOS.
    beams: above 1, beam search; temperature and its kin are then not used.
    length_penalty: beam scores are divided by length to this power.
    early_stopping: stop once there are `beams` finished ones.
    seed: of the randomness; a request may have its own.
  """

  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  repetition_penalty: float = 1.0
  max_tokens: int = 128
  min_tokens: int = 0
  stop: tuple[str, ...] = ()
  stop_ids: tuple[int, ...] = ()
  beams: int = 1
  length_penalty: float = 1.0
  early_stopping: bool = False
  seed: int = 0

  def __post_init__(self):
    if isinstance(self.stop, str):
      raise ValueError(f"stop is a tuple of strings, got {self.stop!r}")
    rules = {
      "temperature": self.temperature >= 0,
      "top_k": self.top_k >= 0,
      "top_p": 0 < self.top_p <= 1,
      "min_p": 0 <= self.min_p <= 1,
      "repetition_penalty": self.repetition_penalty > 0,
      "max_tokens": self.max_tokens >= 1,
      "min_tokens": 0 <= self.min_tokens <= self.max_tokens,
      "stop": all(self.stop),
      "beams": self.beams >= 1,
    }
    for name, ok in rules.items():
      if not ok:
        raise ValueError(f"Sampling.{name} = {getattr(self, name)!r}")


@dataclasses.dataclass(frozen=True)
class Request:
  """A prompt to continue `n` times.

  Attributes:
    id: names the request; its randomness follows from it.
    prompt: segments, or one text.
    sampling: the engine call's settings if None.
    seed: the settings' seed if None.
  """

  id: str
  prompt: Prompt
  n: int = 1
  sampling: Sampling | None = None
  seed: int | None = None

  def __post_init__(self):
    if isinstance(self.prompt, str):
      object.__setattr__(self, "prompt", (self.prompt,))
    if self.n < 1:
      raise ValueError(f"request {self.id!r}: n = {self.n}")


@flax.struct.dataclass
class Rows:
  """The settings of a batch's rows as traced values: changing them is free.

  Attributes:
    seeds_B, requests_B, samples_B: what a row's randomness is made of (uint32).
    offsets_B: the position of the row's first token in its randomness.
    stop_ids_BE: ids that end a row, EOS among them; filled up with -1.
  """

  seeds_B: jax.Array
  requests_B: jax.Array
  samples_B: jax.Array
  offsets_B: jax.Array
  temperature_B: jax.Array
  top_k_B: jax.Array
  top_p_B: jax.Array
  min_p_B: jax.Array
  repetition_penalty_B: jax.Array
  max_tokens_B: jax.Array
  min_tokens_B: jax.Array
  stop_ids_BE: jax.Array


# How many ids can end a row. A width that followed the requests would be a
# new shape, and a compilation, whenever they changed.
STOP_IDS = 8


def id_hash(name: str) -> int:
  """A request id as 32 bits, the same on every machine and run."""
  return zlib.crc32(name.encode())


def rows(
  settings: Sequence[Sampling],
  *,
  eos_id: int | None,
  size: int | None = None,
  ids: Sequence[str] | None = None,
  samples: Sequence[int] | None = None,
  seeds: Sequence[int] | None = None,
  offsets: Sequence[int] | None = None,
) -> Rows:
  """Host arrays for a batch, filled up to `size` with rows that do nothing."""
  count = len(settings)
  size = count if size is None else size

  def column(values, dtype, fill=0):
    out = np.full((size,), fill, dtype)
    out[:count] = values
    return out

  def each(name, dtype, fill=0):
    return column([getattr(s, name) for s in settings], dtype, fill)

  stop_ids_BE = np.full((size, STOP_IDS), -1, np.int32)
  for row, sampling in enumerate(settings):
    stops = (*(() if eos_id is None else (eos_id,)), *sampling.stop_ids)
    if len(stops) > STOP_IDS:
      raise ValueError(f"at most {STOP_IDS} ids may end a row, got {stops}")
    stop_ids_BE[row, : len(stops)] = stops
  own_seeds = [s.seed for s in settings] if seeds is None else seeds
  return Rows(
    seeds_B=column([s & 0xFFFFFFFF for s in own_seeds], np.uint32),
    requests_B=column([id_hash(i) for i in ids] if ids else 0, np.uint32),
    samples_B=column(0 if samples is None else samples, np.uint32),
    offsets_B=column(0 if offsets is None else offsets, np.int32),
    temperature_B=each("temperature", np.float32),
    top_k_B=each("top_k", np.int32),
    top_p_B=each("top_p", np.float32, 1),
    min_p_B=each("min_p", np.float32),
    repetition_penalty_B=each("repetition_penalty", np.float32, 1),
    max_tokens_B=each("max_tokens", np.int32),
    min_tokens_B=each("min_tokens", np.int32),
    stop_ids_BE=stop_ids_BE,
  )
