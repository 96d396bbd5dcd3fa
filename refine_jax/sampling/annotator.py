"""Annotators: whoever turns requests into texts."""

from collections.abc import Callable, Sequence
from typing import Any

from refine_jax.sampling.engine import Engine
from refine_jax.sampling.settings import Request, Sampling
from refine_jax.sampling.trunks import Trunks

# n texts for every request, in order.
Annotator = Callable[[Sequence[Request]], list[list[str]]]


def local(engine: Engine, params: Any, sampling: Sampling) -> Annotator:
  """The engine's texts under fixed parameters and default settings."""

  def annotate(requests: Sequence[Request]) -> list[list[str]]:
    groups = engine.generate(params, requests, sampling)
    return [[sample.text for sample in group] for group in groups]

  return annotate


def behind_prefix(trunks: Trunks, prefix: str, sampling: Sampling) -> Annotator:
  """Greedy or sampled texts after an instruction and examples read once.

  Every request's prompt begins with the segment `prefix`.
  """

  def annotate(requests: Sequence[Request]) -> list[list[str]]:
    found: list[list[str]] = []
    trunks.open("prefix", (prefix,))
    room = trunks.slots - 1
    for start in range(0, len(requests), room):
      part = requests[start : start + room]
      names = [request.id for request in part]
      trunks.fork("prefix", names)
      for request in part:
        if request.prompt[0] != prefix:
          raise ValueError(f"request {request.id!r} has another prefix")
        trunks.append(request.id, request.prompt[1:])
      sampled = trunks.propose(names, part[0].n, sampling, ids=names)
      found += [[s.text for s in sampled[name]] for name in names]
      for name in names:
        trunks.close(name)
    trunks.close("prefix")
    return found

  return annotate
