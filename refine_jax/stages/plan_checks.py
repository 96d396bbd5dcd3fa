"""What a stage would refuse of its config, before any of it is compiled."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from refine_jax import sharding
from refine_jax.data import batches
from refine_jax.stages import build, reft_learner
from refine_jax.stages.reading import reading

# Of the experiment and of a stage.
_SAMPLING = ("completion", "feedback", "sampling")
_ENGINES = ("engine", "critic_engine")
_LENGTHS = ("max_prompt", "max_target")


def check(config: ConfigDict, stage: str) -> None:
  """Checks what a plan reads of the experiment and of the stage.

  Raises:
    BadConfig: in one line, which value cannot be.
  """
  _mesh(config.mesh)
  _inputs(config, "")
  if stage not in config:  # a part of a stage
    return
  _inputs(config[stage], f"{stage}.")
  if "train" in config[stage]:
    _train(config[stage], stage)
  if "rollout" in config[stage]:
    _rollout(config[stage].rollout, stage)
  if "ppo" in config[stage]:
    _ppo(config[stage], stage)


def _inputs(place: ConfigDict, prefix: str) -> None:
  for name in _ENGINES:
    if name in place:
      with reading(prefix + name):
        _engine(place[name])
  for name in _SAMPLING:
    if name in place:
      build.sampling(place[name])
  if "data" in place:
    with reading(f"{prefix}data"):
      for name in _LENGTHS:
        _at_least(1, name, place.data[name])
      if place.data.batching not in batches.MODES:
        raise ValueError(
          f"batching is one of {batches.MODES}, not {place.data.batching!r}"
        )


def _mesh(sizes: ConfigDict) -> None:
  with reading("mesh"):
    _at_least(0, "devices", sizes.devices)
    sharding.check_sizes(sizes)


def _engine(engine: ConfigDict) -> None:
  if not engine.get("memory"):
    _at_least(1, "slots", engine.slots)
  if not engine.prompt_buckets:
    raise ValueError("prompt_buckets is empty")
  _at_least(1, "prompt_buckets", min(engine.prompt_buckets))
  if dtype := engine.get("cache_dtype"):
    jnp.dtype(dtype)  # TypeError names it


def _train(section: ConfigDict, stage: str) -> None:
  with reading(f"{stage}.train"):
    _at_least(1, "batch_size", section.train.batch_size)
    _at_least(1, "micro_batches", section.train.micro_batches)
  with reading(stage):
    _at_least(0, "minibatch", section.get("minibatch", 0))


def _rollout(rollout: ConfigDict, stage: str) -> None:
  with reading(f"{stage}.rollout"):
    for name in ("slots", "max_prompt"):
      _at_least(0, name, rollout.get(name, 0))


def _ppo(section: ConfigDict, stage: str) -> None:
  ppo, rows = section.ppo, section.train.batch_size
  with reading(f"{stage}.ppo"):
    _at_least(0, "minibatch", ppo.minibatch)
  reft_learner.Settings(
    passes=ppo.passes,
    minibatch=ppo.minibatch or rows,
    reference=ppo.reference,
    reference_memory=ppo.reference_memory,
  ).updates(rows)


def _at_least(least: int, name: str, value: int) -> None:
  if value < least:
    raise ValueError(f"{name}={value}: at least {least}")
