"""The families there are, found by walking the package, and descriptions.

A module of this package that has a `FAMILY` is one; nothing else lists them.
A description is JSON, {"family": "llama", "config": {...}}, and rebuilds the
module: checkpoints carry it.
"""

import dataclasses
import difflib
import functools
import importlib
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from refine_jax import models
from refine_jax.batch import Batch, Params
from refine_jax.models import attention, layers


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Where a parameter lies in a Hugging Face file.

  Attributes:
    path: ours, "layers/mlp/up/kernel".
    name: theirs; "{}" stands for the layer if ours is stacked.
    inputs: how many of our leading dimensions are a matrix's columns there,
      the others being its rows; 0 flattens to a vector, None changes nothing.
    rows_first: they are its rows instead (GPT-2's "Conv1D").
  """

  path: str
  name: str
  inputs: int | None = None
  rows_first: bool = False

  @property
  def stacked(self) -> bool:
    return "{}" in self.name


@dataclasses.dataclass(frozen=True)
class Family:
  """A model family and its Hugging Face form.

  Attributes:
    name: as descriptions call it.
    module, config: the classes; `module(config)`.
    model_types: values of "model_type" in config.json that it reads.
    from_hf: config.json -> keyword arguments of `config`. Raises KeyError for
      what is missing and ValueError for what the family does not do.
    to_hf: config -> config.json.
    tensors: config -> every parameter.
    prefix: of tensor names; folders saved without a head lack it.
    repeated: tensors that repeat a tied one, unless the table wants them.
    ignored: patterns of names of tensors that hold no parameter.
    writes: whether it generates; an encoder only embeds: its `__call__` gives
      the states of a batch's prompts.
  """

  name: str
  module: type[nn.Module]
  config: type
  model_types: tuple[str, ...]
  from_hf: Callable[[Mapping[str, Any]], dict[str, Any]]
  to_hf: Callable[[Any], dict[str, Any]]
  tensors: Callable[[Any], tuple[Tensor, ...]]
  prefix: str = ""
  repeated: tuple[str, ...] = ()
  ignored: tuple[str, ...] = ()
  writes: bool = True


@functools.cache
def families() -> Mapping[str, Family]:
  """Every family by name."""
  found = {}
  for info in pkgutil.iter_modules(models.__path__):
    module = importlib.import_module(f"{models.__name__}.{info.name}")
    if isinstance(family := getattr(module, "FAMILY", None), Family):
      found[family.name] = family
  return types.MappingProxyType(found)


def of(module: nn.Module) -> Family:
  """The family of a module; raises ValueError if it has none."""
  for family in families().values():
    if type(module) is family.module:
      return family
  raise ValueError(f"{type(module).__name__} is of no model family")


def describe(module: nn.Module) -> dict[str, Any]:
  """A JSON description from which `build` makes the same module."""
  config = dataclasses.asdict(module.config)
  return {"family": of(module).name, "config": config}


def build(description: Mapping[str, Any]) -> nn.Module:
  """The module of a description.

  Raises:
    ValueError: an unknown family or field, or a missing field.
  """
  name = description["family"]
  if name not in families():
    raise ValueError(f"model family {name!r}: expected one of {[*families()]}")
  family = families()[name]
  config = _config(family.config, description["config"], name)
  _check_choices(config)
  return family.module(config)


def _check_choices(config: Any) -> None:
  """Raises ValueError for a name that only tracing would stumble over."""
  known = {
    "activation": layers.ACTIVATIONS,
    "attention": ("auto", *attention.IMPLEMENTATIONS),
    "dtype": ("float32", "bfloat16", "float16"),
    "remat": ("none", *layers.POLICIES),
  }
  for name, values in known.items():
    value = getattr(config, name, None)
    if value is not None and value not in values:
      raise ValueError(f"{name} {value!r}: expected one of {[*values]}")


def _config(cls: type, values: Mapping[str, Any], place: str) -> Any:
  """A dataclass from a mapping, nested ones included."""
  fields = {field.name: field for field in dataclasses.fields(cls)}
  for name in values:
    if name not in fields:
      near = difflib.get_close_matches(name, fields, 1)
      hint = f"; did you mean {near[0]!r}?" if near else ""
      raise ValueError(f"{place}: {cls.__name__} has no field {name!r}{hint}")
  for name, field in fields.items():
    absent = dataclasses.MISSING
    if name not in values and field.default is field.default_factory is absent:
      raise ValueError(f"{place}: {cls.__name__} needs the field {name!r}")
  hints = typing.get_type_hints(cls)
  nested = {}
  for name, value in values.items():
    if isinstance(value, Mapping):
      inner = next(
        hint
        for hint in (hints[name], *typing.get_args(hints[name]))
        if dataclasses.is_dataclass(hint)
      )
      nested[name] = _config(inner, value, f"{place}.{name}")
  return cls(**{**values, **nested})


def abstract_params(module: nn.Module) -> Params:
  """Shapes and logical axes of the parameters; nothing is computed."""
  ids, mask = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
  batch = Batch(ids, mask, ids, mask, mask)
  return jax.eval_shape(module.init, jax.random.key(0), batch)["params"]
