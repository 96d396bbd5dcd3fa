"""An endpoint that several processes ask, and the file of what it replied.

Each has its share of the rate and of the budget, and a shard of its own. What
a run has paid for is there for the next one, however many there are then.
"""

import dataclasses
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from refine_jax.sampling import endpoint
from refine_jax.stages import dealt

REPLIES = "replies.jsonl"


def asked(settings: ConfigDict, workdir: pathlib.Path) -> endpoint.Endpoint:
  """The endpoint of a stage's section, for this process."""
  wanted = _settings(settings)
  path, count = workdir / REPLIES, jax.process_count()
  if count == 1:
    return endpoint.Endpoint(wanted, path)
  spent = endpoint.figures(wanted, path)["cost"]
  wanted = dataclasses.replace(
    wanted,
    per_minute=wanted.per_minute / count,
    workers=max(1, wanted.workers // count),
    budget=wanted.budget and spent + (wanted.budget - spent) / count,
  )
  return endpoint.Endpoint(wanted, dealt.own(path), before=path)


def gather(settings: ConfigDict, workdir: pathlib.Path) -> None:
  """One file of all processes' replies, before they begin or once they are
  done; the first process makes it."""
  if settings.annotator == "endpoint" and jax.process_index() == 0:
    dealt.gather(endpoint.Reply, workdir / REPLIES)


def spent(settings: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
  """For a report: what an endpoint's replies came to, if one was asked.

  Counted from the file, so that a run that goes on says the same.
  """
  path = workdir / REPLIES
  if settings.annotator != "endpoint" or not path.exists():
    return {}
  return {"endpoint": endpoint.figures(_settings(settings), path)}


def _settings(settings: ConfigDict) -> endpoint.Settings:
  return endpoint.Settings(**settings.endpoint.to_dict())
