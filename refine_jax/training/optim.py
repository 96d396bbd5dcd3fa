"""Optimizers, schedules, and which parameter gets which."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from refine_jax.training.state import name_of

Schedule = Callable[[Any], jax.Array]

NAMES = ("adamw", "adafactor")
SCHEDULES = ("constant", "linear", "cosine")
# Groups of stacked layers: their parameters have the layers as first axis.
_STACK = re.compile(r"(^|/)layers(/|$)")


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
  """An optimizer as plain values.

  Attributes:
    name: `adamw` (arXiv:1711.05101) or `adafactor` (arXiv:1804.04235).
    learning_rate: the peak. With adafactor's `parameter_scale` it is relative
      to each parameter's root mean square.
    schedule: after the warm-up: `constant`, or `linear` or `cosine` down to
      `end_fraction` of the peak at `total_steps`, and there from then on.
    warmup_steps: W; update s = 0, 1, ... < W has `(s + 1) / W` of the peak.
    total_steps: needed by `linear` and `cosine`.
    end_fraction: see `schedule`.
    b1, b2, eps: of AdamW.
    weight_decay: decoupled, times the learning rate.
    no_decay: parameters whose name this regular expression finds are not
      decayed; nor are vectors (per layer).
    clip_norm: the gradient's largest global norm; None does not clip.
    multipliers: regular expression -> factor on the learning rate of the
      parameters it finds; the first that finds a name counts. Each must find
      one.
    first_moment_dtype: of AdamW's first moment and adafactor's momentum.
    momentum, decay_rate, clip_threshold, parameter_scale, min_factored: of
      adafactor; the root mean squares are each layer's own.
  """

  name: str = "adamw"
  learning_rate: float = 1e-3
  schedule: str = "constant"
  warmup_steps: int = 0
  total_steps: int | None = None
  end_fraction: float = 0.0
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.0
  no_decay: str = "norm|bias|scale"
  clip_norm: float | None = 1.0
  multipliers: Mapping[str, float] = dataclasses.field(default_factory=dict)
  first_moment_dtype: str = "float32"
  momentum: float = 0.0
  decay_rate: float = 0.8
  clip_threshold: float = 1.0
  parameter_scale: bool = True
  min_factored: int = 128

  def __post_init__(self):
    if self.name not in NAMES:
      raise ValueError(f"optimizer name {self.name!r} is not one of {NAMES}")
    if self.schedule not in SCHEDULES:
      raise ValueError(f"schedule {self.schedule!r} is not one of {SCHEDULES}")
    if self.schedule != "constant":
      if self.total_steps is None:
        raise ValueError(f"schedule {self.schedule!r} needs total_steps")
      if self.total_steps < self.warmup_steps:
        raise ValueError(
          f"total_steps={self.total_steps} is less than"
          f" warmup_steps={self.warmup_steps}"
        )


def make_schedule(settings: OptimizerSettings) -> Schedule:
  """Learning rate of update 0, 1, ..."""
  warmup, peak = settings.warmup_steps, settings.learning_rate

  def schedule(step) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    left = 1.0
    if settings.schedule != "constant":
      span = max(settings.total_steps - warmup, 1)
      left = 1 - jnp.clip((step - warmup) / span, 0, 1)
    if settings.schedule == "cosine":
      left = (1 - jnp.cos(jnp.pi * left)) / 2
    after = settings.end_fraction + (1 - settings.end_fraction) * left
    return peak * jnp.minimum((step + 1) / max(warmup, 1), after)

  return schedule


def make_optimizer(
  settings: OptimizerSettings,
) -> tuple[optax.GradientTransformation, Schedule]:
  """The transformation and its schedule.

  Raises:
    ValueError: at `init`, a multiplier that finds no parameter.
  """
  schedule = make_schedule(settings)
  if settings.name == "adamw":
    return _adamw(settings, schedule), schedule
  chain = []
  if settings.clip_norm is not None:
    chain.append(optax.clip_by_global_norm(settings.clip_norm))
  chain += _factored(settings)
  if settings.weight_decay:
    chain.append(
      optax.add_decayed_weights(
        settings.weight_decay, lambda params: decay_mask(params, settings)
      )
    )
  if settings.multipliers:
    chain.append(_scale_by_name(settings.multipliers))
  chain.append(optax.scale_by_learning_rate(schedule))
  return optax.chain(*chain), schedule


class AdamState(NamedTuple):
  """Both moments, and how many updates they have seen."""

  count: jax.Array
  first: Any
  second: Any


def _adamw(
  settings: OptimizerSettings, schedule: Schedule
) -> optax.GradientTransformation:
  """AdamW in one expression per parameter.

  XLA on CPU makes one loop of it, 2.5 times faster than of a chain of
  transformations.
  """
  b1, b2, limit = settings.b1, settings.b2, settings.clip_norm
  dtype = jnp.dtype(settings.first_moment_dtype)

  def init(params):
    check_multipliers(settings.multipliers, params)
    return AdamState(
      jnp.zeros((), jnp.int32),
      jax.tree.map(lambda p: jnp.zeros_like(p, dtype=dtype), params),
      jax.tree.map(jnp.zeros_like, params),
    )

  def update(grads, state, params):
    count = state.count + 1
    clip = 1.0
    if limit is not None:
      clip = jnp.minimum(1, limit / optax.tree.norm(grads))
    first_scale = 1 / (1 - b1**count)
    second_scale = 1 / (1 - b2**count)
    rate = schedule(state.count)

    def one(path, g, m, v, p, decays):
      g = g * clip
      m = b1 * m.astype(g.dtype) + (1 - b1) * g
      v = b2 * v + (1 - b2) * g * g
      step = m * first_scale / (jnp.sqrt(v * second_scale) + settings.eps)
      if decays and settings.weight_decay:
        step += settings.weight_decay * p
      factor = _factor(settings.multipliers, name_of(path))
      return -rate * factor * step, m.astype(dtype), v

    mask = decay_mask(params, settings)
    out = jax.tree.map_with_path(
      one, grads, state.first, state.second, params, mask
    )
    is_leaf = lambda x: type(x) is tuple  # noqa: E731
    updates, first, second = (
      jax.tree.map(lambda x, i=i: x[i], out, is_leaf=is_leaf) for i in range(3)
    )
    return updates, AdamState(count, first, second)

  return optax.GradientTransformation(init, update)


def _factored(settings: OptimizerSettings) -> list:
  threshold = settings.clip_threshold
  chain = [
    optax.scale_by_factored_rms(
      decay_rate=settings.decay_rate,
      min_dim_size_to_factor=settings.min_factored,
    ),
    _stateless(
      lambda name, g, p: g / jnp.maximum(1, _rms(name, g) / threshold)
    ),
  ]
  if settings.parameter_scale:
    chain.append(
      _stateless(lambda name, g, p: g * jnp.maximum(_rms(name, p), 1e-3))
    )
  if settings.momentum:
    dtype = jnp.dtype(settings.first_moment_dtype)
    chain.append(
      optax.ema(settings.momentum, debias=False, accumulator_dtype=dtype)
    )
  return chain


def _stateless(function: Callable) -> optax.GradientTransformation:
  """Updates become `function(name, update, parameter)`."""

  def update(updates, state, params):
    return jax.tree.map_with_path(
      lambda path, g, p: function(name_of(path), g, p), updates, params
    ), state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def _rms(name: str, x: jax.Array) -> jax.Array:
  """Root mean square of a parameter, of each layer's when it is stacked."""
  axes = tuple(range(1 if is_stacked(name) else 0, x.ndim))
  return jnp.sqrt(jnp.mean(jnp.square(x), axes, keepdims=True))


def is_stacked(name: str) -> bool:
  """Whether a parameter's first axis is its layer."""
  return _STACK.search(name) is not None


def decay_mask(params: Any, settings: OptimizerSettings) -> Any:
  """Which parameters weight decay applies to: True or False for each."""
  never = re.compile(settings.no_decay) if settings.no_decay else None

  def decays(path, leaf) -> bool:
    name = name_of(path)
    rank = leaf.ndim - is_stacked(name)
    return rank > 1 and not (never and never.search(name))

  return jax.tree.map_with_path(decays, params)


def _factor(multipliers: Mapping[str, float], name: str) -> float:
  return next((f for k, f in multipliers.items() if re.search(k, name)), 1.0)


def check_multipliers(multipliers: Mapping[str, float], params: Any) -> None:
  """Raises ValueError for a pattern that finds no parameter."""
  names = [name_of(path) for path, _ in jax.tree.leaves_with_path(params)]
  for pattern in multipliers:
    # Optax also calls `init` with a tree of no leaves, to look at the state.
    if names and not any(re.search(pattern, name) for name in names):
      raise ValueError(
        f"multipliers: {pattern!r} finds no parameter; there are {names}"
      )


def _scale_by_name(
  multipliers: Mapping[str, float],
) -> optax.GradientTransformation:
  def init(params):
    check_multipliers(multipliers, params)
    return optax.EmptyState()

  def update(updates, state, params=None):
    del params
    return jax.tree.map_with_path(
      lambda path, g: g * _factor(multipliers, name_of(path)), updates
    ), state

  return optax.GradientTransformation(init, update)
