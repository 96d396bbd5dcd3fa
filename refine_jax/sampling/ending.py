"""Where a row of sampled ids ends as text: EOS, stop ids, stop strings."""

from typing import Any, NamedTuple

import numpy as np

from refine_jax.records import Sample
from refine_jax.sampling import loop
from refine_jax.sampling.planning import Job


def visible(tokens: list[int], sampling, eos_id: int | None) -> list[int]:
  """The ids that are text: all but the stop id a row may end with."""
  if tokens and tokens[-1] in (eos_id, *sampling.stop_ids):
    return tokens[:-1]
  return tokens


def cut(tokens: list[int], stop: tuple[str, ...], tokenizer) -> int | None:
  """How many tokens it takes until a stop string is there; None if none is."""

  def stops(count):
    text = tokenizer.decode(tokens[:count])
    return any(s in text for s in stop)

  if not stop or not stops(len(tokens)):
    return None
  low, high = 0, len(tokens)  # no stop string in `low`, one in `high`
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (low, middle) if stops(middle) else (middle, high)
  return high


def before(text: str, stop: tuple[str, ...]) -> str:
  """The text up to the first of the stop strings."""
  return text[: min(text.index(s) for s in stop if s in text)]


class Halt:
  """Looks at a batch between chunks of steps and ends rows at stop strings."""

  def __init__(self, jobs: list[Job], tokenizer: Any, slots: int):
    self._jobs, self._tokenizer, self._slots = jobs, tokenizer, slots

  def __call__(self, tokens_BT, counts_B, finish_B) -> np.ndarray:
    halted_B = np.zeros((self._slots,), bool)
    for row, job in enumerate(self._jobs):
      stop = job.sampling.stop
      if stop and finish_B[row] == loop.RUNNING:
        tokens = tokens_BT[row, : counts_B[row]].tolist()
        halted_B[row] = cut(tokens, stop, self._tokenizer) is not None
    return halted_B


def sample(
  job: Job, index: int, row: int, decoded: Any, tokenizer: Any
) -> Sample:
  """A row of a decoded batch as a record."""
  return record(job, index, drawn(decoded, row), tokenizer)


class Drawn(NamedTuple):
  """One row's ids, their log-probabilities, and how it stands."""

  tokens: list[int]
  logprobs: list[float]
  model_logprobs: list[float]
  finish: int


def drawn(decoded: Any, row: int) -> Drawn:
  """A row of a decoded batch."""
  count = int(decoded.counts_B[row])
  return Drawn(
    decoded.tokens_BT[row, :count].tolist(),
    decoded.logprobs_BT[row, :count].tolist(),
    decoded.model_logprobs_BT[row, :count].tolist(),
    int(decoded.finish_B[row]),
  )


def record(job: Job, index: int, row: Drawn, tokenizer: Any) -> Sample:
  """A row as a record, cut where a stop string ends it."""
  tokens, finish = row.tokens, loop.FINISH[row.finish]
  shown = visible(tokens, job.sampling, tokenizer.eos_id)
  at = cut(shown, job.sampling.stop, tokenizer)
  if at is None:
    text = tokenizer.decode(shown)
  else:
    tokens, finish = tokens[:at], "stop"
    text = before(tokenizer.decode(tokens), job.sampling.stop)
  return Sample(
    id=f"{job.request.id}/{index}",
    text=text,
    tokens=tuple(tokens),
    logprobs=tuple(row.logprobs[: len(tokens)]),
    model_logprobs=tuple(row.model_logprobs[: len(tokens)]),
    finish=finish,
  )
