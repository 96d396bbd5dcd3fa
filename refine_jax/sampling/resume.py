"""A run over many prompts that can be killed at any time and started again."""

import os
from collections.abc import Sequence
from typing import Any

from refine_jax.records import Appender, Sample
from refine_jax.sampling.engine import Engine
from refine_jax.sampling.settings import Request, Sampling


def complete(
  engine: Engine,
  params: Any,
  requests: Sequence[Request],
  path: str | os.PathLike,
  sampling: Sampling | None = None,
) -> int:
  """Appends every sample of every request to a file of records, as they end.

  What the file has is neither sampled again nor written again, and samples do
  not depend on their company, so however often a run is killed the file ends
  up with the same records (in some order).

  Returns:
    how many samples were appended.

  Raises:
    ValueError: two requests have one id.
  """
  ids = [request.id for request in requests]
  if len(set(ids)) < len(ids):
    twice = next(i for i in ids if ids.count(i) > 1)
    raise ValueError(f"two requests have the id {twice!r}")
  added = 0
  with Appender(Sample, path) as appender:
    left = [r for r in requests if not _names(r) <= appender.done]
    for _, sample in engine.stream(params, left, sampling):
      if sample.id not in appender.done:
        appender.append([sample])
        added += 1
  return added


def _names(request: Request) -> set[str]:
  return {f"{request.id}/{index}" for index in range(request.n)}
