"""Reads and writes Hugging Face folders: config.json and safetensors.

Reading goes straight into the target shardings: of every parameter each
device's part is read from the files by several threads, placed and forgotten.
So a host holds one part at a time beside what lies on its devices. Families
say in a table what lies where.
"""

import json
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import linen as nn

from refine_jax import sharding
from refine_jax.batch import Params
from refine_jax.models import families, mapped
from refine_jax.models.families import Family, Tensor

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_ALIGNED = 64  # bytes
# Heads that reinforcement learning and classification leave beside a model;
# `hf_heads` reads them.
_HEADS = re.compile(r"^(v_head|score)\.")


class BadFolder(ValueError):
  """A folder that is no model of ours; says which file and which entry."""


# ---------------------------------------------------------------- descriptions


def config_from_hf(hf_config: Mapping[str, Any], **choices) -> Any:
  """Our config for the contents of a config.json.

  Args:
    choices: fields that are ours to choose: dtype, remat, attention, ...

  Raises:
    ValueError: a model type or an option no family has.
    KeyError: an entry is missing.
  """
  family = _family_of(hf_config)
  return family.config(**{**family.from_hf(hf_config), **choices})


def config_to_hf(config: Any) -> dict[str, Any]:
  """The contents of a config.json for one of our configs."""
  for family in families.families().values():
    if type(config) is family.config:
      return family.to_hf(config)
  raise ValueError(f"{type(config).__name__} is of no model family")


def _family_of(hf_config: Mapping[str, Any]) -> Family:
  kind = hf_config.get("model_type")
  known = []
  for family in families.families().values():
    known += family.model_types
    if kind in family.model_types:
      return family
  raise ValueError(f"model_type {kind!r}: expected one of {known}")


def module_of(folder: str | pathlib.Path, **choices) -> nn.Module:
  """The module a folder's config.json describes; see `config_from_hf`.

  Raises:
    BadFolder: no config.json, or one that says what no family does.
  """
  path = pathlib.Path(folder) / "config.json"
  if not path.is_file():
    raise BadFolder(f"{path}: no such file")
  try:
    hf_config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(hf_config, dict):
      raise ValueError(f"an object, not a {type(hf_config).__name__}")
    family = _family_of(hf_config)
    return family.module(config_from_hf(hf_config, **choices))
  except KeyError as error:
    raise BadFolder(f"{path}: {error} is missing") from None
  except (ValueError, TypeError, ArithmeticError) as error:
    # Anybody may have written it.
    raise BadFolder(f"{path}: {error}") from error


# -------------------------------------------------------------------- reading


def load(
  folder: str | pathlib.Path,
  *,
  mesh: jax.sharding.Mesh | None = None,
  **choices,
) -> tuple[nn.Module, Params]:
  """The module and the float32 parameters of a folder.

  Args:
    mesh: where the parameters go, by `sharding.RULES`; the first device if
      there is none.
    choices: see `config_from_hf`.
  """
  module = module_of(folder, **choices)
  abstract = families.abstract_params(module)
  if mesh is None:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: device, nn.unbox(abstract))
  else:
    shardings = sharding.of_variables(abstract, mesh)
  return module, read(folder, module, shardings)


def read(
  folder: str | pathlib.Path,
  module: nn.Module,
  shardings: Params,
  *,
  dtype: Any = jnp.float32,
) -> Params:
  """Parameters of `module`, each read part by part into its sharding.

  Args:
    shardings: a pytree like the unboxed parameters.

  Raises:
    BadFolder: a tensor is missing, extra or misshapen, or there is none.
  """
  family = families.of(module)
  abstract = nn.unbox(families.abstract_params(module))
  table = {t.path: t for t in family.tensors(module.config)}
  files = _Files(pathlib.Path(folder), family)
  _check(files, table, abstract, family)
  with mapped.readers() as pool:

    def one(path, leaf, where):
      source = table[_join(path)]
      return _place(files, source, leaf.shape, where, dtype, pool)

    return jax.tree_util.tree_map_with_path(one, abstract, shardings)


class _Files:
  """All tensors of a folder by name, whichever file holds them."""

  def __init__(self, folder, family: Family):
    self.folder = folder
    self._found = {}
    for path in _weight_files(folder):
      try:
        there = mapped.tensors(path)
      except mapped.BadFile as error:
        raise BadFolder(str(error)) from None
      for name, tensor in there.items():
        ignored = any(re.search(p, name) for p in family.ignored)
        if not ignored and not _HEADS.search(name):
          self._found[name] = (tensor, path)
    prefix = family.prefix
    if prefix and not any(name.startswith(prefix) for name in self._found):
      self._found = {prefix + name: at for name, at in self._found.items()}

  def names(self):
    return self._found.keys()

  def path(self, name: str) -> pathlib.Path:
    return self._found[name][1]

  def view(self, name: str) -> np.ndarray:
    """Of the file, see `mapped`."""
    return self._found[name][0]


def read_others(
  folder: str | pathlib.Path, names: Iterable[str]
) -> dict[str, np.ndarray]:
  """Tensors that are no parameters of a family, as they lie in the files.

  Raises:
    BadFolder: one is missing.
  """
  found, names = {}, tuple(names)
  for path in _weight_files(pathlib.Path(folder)):
    with safetensors.safe_open(path, "np") as handle:
      there = {*handle.keys()}.intersection(names)
      found |= {name: handle.get_tensor(name) for name in there}
  if missing := [name for name in names if name not in found]:
    raise BadFolder(f"{folder}: tensor {missing[0]} is missing")
  return found


def _weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
  if (index := folder / _INDEX).is_file():
    names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    paths = [folder / name for name in sorted(set(names.values()))]
  else:
    paths = [folder / _SINGLE]
  for path in paths:
    if not path.is_file():
      raise BadFolder(
        f"{path}: no such file (other formats than safetensors are not read)"
      )
  return paths


def _join(path) -> str:
  return "/".join(key.key for key in path)


def _names(source: Tensor, shape) -> list[str]:
  if not source.stacked:
    return [source.name]
  return [source.name.format(i) for i in range(shape[0])]


def _their_shape(source: Tensor, shape) -> tuple[int, ...]:
  """Of one layer's tensor in the file, for our (stacked) shape."""
  shape = shape[1:] if source.stacked else shape
  if source.inputs is None:
    return tuple(shape)
  if source.inputs == 0:
    return (math.prod(shape),)
  sizes = math.prod(shape[: source.inputs]), math.prod(shape[source.inputs :])
  return sizes if source.rows_first else sizes[::-1]


def _check(files: _Files, table, abstract, family: Family) -> None:
  expected = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(abstract):
    if _join(path) not in table:
      raise ValueError(f"{family.name}: no tensor for parameter {_join(path)}")
    source = table[_join(path)]
    for name in _names(source, leaf.shape):
      expected[name] = _their_shape(source, leaf.shape)
  for name, shape in expected.items():
    if name not in files.names():
      raise BadFolder(f"{files.folder}: tensor {name} is missing")
    found = files.view(name).shape
    if found != shape:
      raise BadFolder(
        f"{files.path(name)}: tensor {name} has shape {found}, expected {shape}"
      )
  for name in files.names():
    if name not in expected and name not in family.repeated:
      raise BadFolder(
        f"{files.path(name)}: tensor {name} is no parameter of this"
        f" {family.name} model"
      )


def _place(files, source: Tensor, shape, where, dtype, pool) -> jax.Array:
  """Reads every distinct part once, whichever devices share it."""
  owners = {}
  for device, index in where.addressable_devices_indices_map(shape).items():
    bounds = tuple(
      part.indices(size)[:2] for part, size in zip(index, shape, strict=True)
    )
    owners.setdefault(bounds, []).append(device)
  arrays = []
  for bounds, devices in owners.items():
    part = _part(files, source, shape, bounds, np.dtype(dtype), pool)
    # A transfer under way would keep the part on the host beside the next.
    arrays += jax.block_until_ready(
      [jax.device_put(part, device) for device in devices]
    )
  return jax.make_array_from_single_device_arrays(shape, where, arrays)


def _part(files, source: Tensor, shape, bounds, dtype, pool) -> np.ndarray:
  names = _names(source, shape)
  part = _room([b - a for a, b in bounds], dtype)
  if not source.stacked:
    block = _block(files.view(names[0]), source, shape, bounds)
    mapped.copy([(part, block)], pool)
    return part
  (first, stop), bounds = bounds[0], bounds[1:]
  blocks = (
    _block(files.view(name), source, shape[1:], bounds)
    for name in names[first:stop]
  )
  mapped.copy(((part[i, ...], b) for i, b in enumerate(blocks)), pool)
  return part


def _room(shape, dtype) -> np.ndarray:
  """An empty array where XLA wants one: a host device then takes it as it is,
  without a copy."""
  size = math.prod(shape) * dtype.itemsize
  bytes_ = np.empty(size + _ALIGNED, np.uint8)
  start = -bytes_.ctypes.data % _ALIGNED
  return bytes_[start : start + size].view(dtype).reshape(shape)


def _block(tensor, source: Tensor, shape, bounds) -> np.ndarray:
  """A view of one tensor of the file: a block of our array, in our layout."""
  if source.inputs is None:
    return tensor[tuple(slice(a, b) for a, b in bounds)]
  n = source.inputs
  groups = [(shape[n:], bounds[n:])] + ([(shape[:n], bounds[:n])] if n else [])
  if source.rows_first:
    groups.reverse()
  flats = [_flat(sizes, ranges) for sizes, ranges in groups]
  block = tensor[tuple(slice(start, stop) for start, stop, _, _ in flats)]
  block = block.reshape([size for *_, sizes, _ in flats for size in sizes])
  block = block[tuple(cut for *_, cuts in flats for cut in cuts)]
  if source.rows_first:
    return block
  outputs = block.ndim - n
  return block.transpose([*range(outputs, block.ndim), *range(outputs)])


def _flat(sizes, ranges):
  """The flattened range that covers a block, its shape, and what to keep."""
  (start, stop), inner = ranges[0], math.prod(sizes[1:])
  keep = [slice(None)] + [slice(a, b) for a, b in ranges[1:]]
  return start * inner, stop * inner, (stop - start, *sizes[1:]), keep


# -------------------------------------------------------------------- writing


def save(
  folder: str | pathlib.Path,
  module: nn.Module,
  params: Params,
  *,
  dtype: str = "float32",
  shard_bytes: int = 4 << 30,
  others: Mapping[str, np.ndarray] | None = None,
  changes: Mapping[str, Any] | None = None,
) -> None:
  """Writes config.json, safetensors and, if they are several, their index.

  One file's tensors are in host memory at a time. Every process must call it;
  the first one writes.

  Args:
    others: small tensors to lie beside the parameters, in the first file.
    changes: entries of config.json.
  """
  folder = pathlib.Path(folder)
  family = families.of(module)
  folder.mkdir(parents=True, exist_ok=True)
  flat = {
    _join(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }
  plan = _plan(family.tensors(module.config), flat, dtype, shard_bytes)
  first = jax.process_index() == 0
  for i, (file, entries) in enumerate(plan.items()):
    tensors = dict(_fetch(entries, flat, np.dtype(dtype)))
    for name, value in (others or {}).items() if i == 0 else ():
      tensors[name] = np.ascontiguousarray(np.asarray(value).astype(dtype))
    if first:
      safetensors.numpy.save_file(tensors, folder / file, {"format": "pt"})
  if first:
    _write_json(
      folder / "config.json",
      family.to_hf(module.config) | {"dtype": dtype} | (changes or {}),
    )
    _write_index(folder, plan, flat, np.dtype(dtype).itemsize, others or {})


def _plan(tensors, flat, dtype, shard_bytes):
  """File name -> [(their name, tensor, layer or None)] under a size limit."""
  entries = []
  for source in tensors:
    for i, name in enumerate(_names(source, flat[source.path].shape)):
      entries.append((name, source, i if source.stacked else None))
  # Layer by layer, as such files are: a reader of some layers opens few.
  entries.sort(key=lambda entry: -1 if entry[2] is None else entry[2])
  shards, filled = [[]], 0
  for entry in entries:
    leaf, layer = flat[entry[1].path], entry[2]
    size = leaf.size // (1 if layer is None else leaf.shape[0])
    size *= np.dtype(dtype).itemsize
    if shards[-1] and filled + size > shard_bytes:
      shards.append([])
      filled = 0
    shards[-1].append(entry)
    filled += size
  if len(shards) == 1:
    return {_SINGLE: shards[0]}
  return {
    f"model-{i:05d}-of-{len(shards):05d}.safetensors": shard
    for i, shard in enumerate(shards, 1)
  }


def _fetch(entries, flat, dtype) -> Iterator[tuple[str, np.ndarray]]:
  for name, source, layer in entries:
    leaf = flat[source.path]
    shape = _their_shape(source, leaf.shape)
    ours = _to_host(leaf, layer)
    if source.inputs and not source.rows_first:
      n = source.inputs
      ours = ours.transpose([*range(n, ours.ndim), *range(n)])
    yield name, np.ascontiguousarray(ours.reshape(shape).astype(dtype))


def _to_host(leaf: Any, layer: int | None) -> np.ndarray:
  """One layer of a parameter, or all of an unstacked one."""
  if isinstance(leaf, jax.Array):
    (device, *more) = leaf.sharding.device_set
    if device.platform == "cpu" and not more:
      leaf = np.asarray(leaf)  # a view
  leaf = leaf if layer is None else leaf[layer]
  return np.asarray(sharding.fetched(leaf))


def _write_index(folder, plan, flat, itemsize, others) -> None:
  if len(plan) == 1:
    return
  weight_map = {name: file for file in plan for name, *_ in plan[file]}
  weight_map |= dict.fromkeys(others, next(iter(plan)))
  total = sum(leaf.size for leaf in (*flat.values(), *others.values()))
  total *= itemsize
  _write_json(
    folder / _INDEX,
    {"metadata": {"total_size": total}, "weight_map": weight_map},
  )


def _write_json(path: pathlib.Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
