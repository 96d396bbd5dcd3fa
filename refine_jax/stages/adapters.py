"""LoRA in stages: what is trained, and how it becomes a model again.

A `train` section with `lora.rank` above 0 trains adapters on a model that has
weights. Checkpoints hold the adapters alone and say which model they belong
to; whoever loads one gets the merged model.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from ml_collections import ConfigDict

from refine_jax.batch import Params
from refine_jax.models import lora_hf
from refine_jax.training import checkpoint, lora
from refine_jax.training.loss import LossFn
from refine_jax.training.step import Beside

META = "lora"


@dataclasses.dataclass(frozen=True)
class Trained:
  """What a run trains: a model's parameters, or adapters on them.

  Attributes:
    params: what the state starts with.
    loss: makes the loss of these parameters of a loss of the model's.
    batch: makes what that loss reads of a placed batch.
    whole: makes a model's parameters of them, to generate with.
    meta: what a checkpoint says of it.
  """

  params: Params
  loss: Callable[[LossFn], LossFn] = lambda loss_fn: loss_fn
  batch: Callable[[Any], Any] = lambda batch: batch
  whole: Callable[[Params], Params] = lambda params: params
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def trained(model: Any, train: ConfigDict, *, seed: int) -> Trained:
  """What the `train` section asks for.

  Args:
    model: a `build.Model`.

  Raises:
    ValueError: adapters on a model that was made from nothing.
  """
  if not train.lora.rank:
    return Trained(model.params)
  if not model.source:
    raise ValueError(
      "train.lora: adapters belong to a model that is somewhere; this one is"
      " random"
    )
  settings = of_section(train.lora)
  inputs = lora_hf.inputs(model.module)
  base = model.params
  return Trained(
    params=lora.init(base, inputs, settings, jax.random.key(seed)),
    loss=lambda loss_fn: lora.loss(loss_fn, settings),
    batch=lambda batch: Beside(base, batch),
    whole=lambda params: lora.join(base, params, settings),
    meta={META: {"base": model.source, **dataclasses.asdict(settings)}},
  )


def of_section(section: ConfigDict) -> lora.Lora:
  return lora.Lora(section.rank, section.alpha, tuple(section.targets))


def refuse(train: ConfigDict) -> None:
  """For stages that train whole models only.

  Raises:
    ValueError: the section asks for adapters.
  """
  if train.lora.rank:
    raise ValueError(
      "train.lora: this stage trains no adapters; rank must be 0"
    )


@dataclasses.dataclass(frozen=True)
class Adapted:
  """Adapters and the model they belong to.

  Attributes:
    module: the family; `base` its parameters, `adapters` what is added.
    lora: of which size.
    source: where the base came from.
  """

  module: nn.Module
  base: Params
  adapters: Params
  lora: lora.Lora
  source: str

  @property
  def merged(self) -> Params:
    """A plain model's parameters."""
    inputs = lora_hf.inputs(self.module)
    return lora.merge(self.base, self.adapters, inputs, self.lora)

  def to_peft(self, folder: pathlib.Path) -> None:
    """Writes the adapters as PEFT does."""
    lora_hf.save(
      folder,
      self.module,
      self.adapters,
      rank=self.lora.rank,
      alpha=self.lora.alpha,
      base=self.source,
    )


def are_in(path: pathlib.Path) -> bool:
  """Whether a checkpoint of ours holds adapters."""
  return META in checkpoint.read_meta(path)


def read(
  path: pathlib.Path, meta: Mapping[str, Any], module: nn.Module, base: Params
) -> Adapted:
  """Those of a checkpoint of ours, placed like their base.

  Raises:
    ValueError: shapes differ from the base's; names the matrices.
  """
  known = dict(meta[META])
  source = known.pop("base")
  settings = lora.Lora(**{**known, "targets": tuple(known["targets"])})
  like = lora.abstract(base, lora_hf.inputs(module), settings)
  found = checkpoint.load_params(path, like)
  return Adapted(module, base, found, settings, source)


def from_peft(folder: pathlib.Path, base: Any) -> Adapted:
  """Those of a PEFT folder, placed like `base`, a `build.Model`."""
  found = lora_hf.load(folder, base.module)
  settings = lora.Lora(found.rank, found.alpha, found.targets)
  like = lora.abstract(base.params, lora_hf.inputs(base.module), settings)
  placed = jax.tree.map(
    lambda x, shape: jax.device_put(x, shape.sharding), found.adapters, like
  )
  return Adapted(base.module, base.params, placed, settings, base.source)
