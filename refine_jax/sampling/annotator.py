"""Annotators: whoever turns requests into texts."""

from collections.abc import Callable, Sequence
from typing import Any

from refine_jax.sampling.engine import Engine
from refine_jax.sampling.settings import Request, Sampling

# n texts for every request, in order.
Annotator = Callable[[Sequence[Request]], list[list[str]]]


def local(engine: Engine, params: Any, sampling: Sampling) -> Annotator:
  """The engine's texts under fixed parameters and default settings."""

  def annotate(requests: Sequence[Request]) -> list[list[str]]:
    groups = engine.generate(params, requests, sampling)
    return [[sample.text for sample in group] for group in groups]

  return annotate
