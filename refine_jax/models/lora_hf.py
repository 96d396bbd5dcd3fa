"""LoRA adapters in PEFT's layout: adapter_config.json and safetensors."""

import dataclasses
import json
import math
import pathlib
import re
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax import linen as nn

from refine_jax import sharding
from refine_jax.batch import Params
from refine_jax.models import families
from refine_jax.models.families import Tensor
from refine_jax.models.hf import BadFolder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base_model_name_or_path"  # the entry of the configuration
_PREFIX = "base_model.model."
_PARTS = {"lora_a": "lora_A", "lora_b": "lora_B"}
# Options of PEFT under which the adapters mean something else.
_REFUSED = (
  "use_rslora",
  "use_dora",
  "rank_pattern",
  "alpha_pattern",
  "modules_to_save",
  "layers_to_transform",
  "lora_bias",
)


@dataclasses.dataclass(frozen=True)
class Adapters:
  """What a folder holds.

  Attributes:
    adapters: path of a matrix -> lora_a `[Y, inputs.., r]` and lora_b
      `[Y, r, outputs..]` as host arrays, in a nested dict.
    targets: a regular expression for each matrix that has them.
    rank, alpha: as in `training.lora`.
    base: the base model's name or folder; may be empty.
  """

  adapters: Params
  targets: tuple[str, ...]
  rank: int
  alpha: float
  base: str


def inputs(module: nn.Module) -> dict[str, int]:
  """Path of each kernel -> how many of its dimensions are inputs."""
  return {
    t.path: t.inputs
    for t in families.of(module).tensors(module.config)
    if t.path.endswith("/kernel") and t.inputs
  }


def save(
  folder: str | pathlib.Path,
  module: nn.Module,
  adapters: Params,
  *,
  rank: int,
  alpha: float,
  base: str = "",
) -> None:
  """Writes a folder that `peft.PeftModel.from_pretrained` loads.

  Every process must call it; the first one writes.

  Args:
    folder: made if it is not there.
    module: of the base model.
    adapters: a tree of `lora_a` and `lora_b` beside the paths of matrices.
    rank, alpha: of the adapters.
    base: the base model's name or folder.
  """
  folder, tensors, names = pathlib.Path(folder), {}, set()
  rows_first = False
  for path, source in _targeted(module, adapters).items():
    a, b = (
      np.asarray(x, np.float32) for x in sharding.fetched(_at(adapters, path))
    )
    names.add(_suffix(source))
    rows_first |= source.rows_first
    for layer in range(a.shape[0]):
      stem = _stem(source, layer)
      tensors[f"{stem}.lora_A.weight"] = a[layer].reshape(-1, rank).T.copy()
      tensors[f"{stem}.lora_B.weight"] = b[layer].reshape(rank, -1).T.copy()
  if jax.process_index():
    return
  folder.mkdir(parents=True, exist_ok=True)
  safetensors.numpy.save_file(tensors, folder / WEIGHTS, {"format": "pt"})
  two = module.encoder_decoder
  config = {
    "peft_type": "LORA",
    "task_type": "SEQ_2_SEQ_LM" if two else "CAUSAL_LM",
    BASE: base,
    "r": rank,
    "lora_alpha": alpha,
    "lora_dropout": 0.0,
    "target_modules": sorted(names),
    "fan_in_fan_out": rows_first,
    "bias": "none",
    "inference_mode": True,
  }
  text = json.dumps(config, indent=2) + "\n"
  (folder / CONFIG).write_text(text, encoding="utf-8")


def load(folder: str | pathlib.Path, module: nn.Module) -> Adapters:
  """The adapters of a folder for a model of this module.

  Raises:
    BadFolder: a file or tensor is missing, extra or misshapen, or an option
      that means something else.
  """
  folder = pathlib.Path(folder)
  config = read_config(folder)
  path = folder / WEIGHTS
  if not path.is_file():
    raise BadFolder(f"{path}: no such file")
  found = safetensors.numpy.load_file(path)
  rank, tree, targets = int(config["r"]), {}, []
  shapes = _shapes(module)
  for source in families.of(module).tensors(module.config):
    layers = shapes.get(source.path, (0,))[0] if source.stacked else 0
    if not layers or f"{_stem(source, 0)}.lora_A.weight" not in found:
      continue
    bare = source.path.removesuffix("/kernel")
    targets.append(f"^{re.escape(bare)}$")
    parts = _read(path, found, source, shapes[source.path], rank)
    for name, value in parts.items():
      _set(tree, f"{bare}/{name}", value)
  if found:
    raise BadFolder(f"{path}: tensor {min(found)} belongs to no matrix here")
  return Adapters(
    tree,
    tuple(targets),
    rank,
    float(config["lora_alpha"]),
    config.get(BASE) or "",
  )


def is_folder(folder: pathlib.Path) -> bool:
  """Whether there are adapters."""
  return (folder / CONFIG).is_file()


def read_config(folder: pathlib.Path) -> dict[str, Any]:
  """adapter_config.json; BadFolder if it is not plain LoRA."""
  path = pathlib.Path(folder) / CONFIG
  if not path.is_file():
    raise BadFolder(f"{path}: no such file")
  config = json.loads(path.read_text(encoding="utf-8"))
  if config.get("peft_type") != "LORA":
    raise BadFolder(f"{path}: peft_type {config.get('peft_type')!r}, not LORA")
  for option in _REFUSED:
    if config.get(option):
      raise BadFolder(f"{path}: {option} is not supported")
  if config.get("bias", "none") != "none":
    raise BadFolder(f"{path}: bias {config['bias']!r} is not supported")
  return config


def _targeted(module, adapters) -> dict[str, Tensor]:
  """Path of a matrix that has adapters -> its tensor."""
  table = {
    t.path.removesuffix("/kernel"): t
    for t in families.of(module).tensors(module.config)
  }
  paths = {
    "/".join(key.key for key in path[:-1])
    for path, _ in jax.tree_util.tree_leaves_with_path(adapters)
  }
  return {path: table[path] for path in sorted(paths)}


def _at(adapters, path: str):
  for key in path.split("/"):
    adapters = adapters[key]
  return adapters["lora_a"], adapters["lora_b"]


def _set(tree, path: str, value) -> None:
  *parents, last = path.split("/")
  for parent in parents:
    tree = tree.setdefault(parent, {})
  tree[last] = value


def _stem(source: Tensor, layer: int) -> str:
  return _PREFIX + source.name.format(layer).removesuffix(".weight")


def _suffix(source: Tensor) -> str:
  """What names the matrix within its layer."""
  return source.name.partition("{}.")[2].removesuffix(".weight")


def _shapes(module) -> dict[str, tuple[int, ...]]:
  abstract = nn.unbox(families.abstract_params(module))
  return {
    "/".join(key.key for key in path): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)
  }


def _read(path, found, source: Tensor, shape, rank) -> dict[str, np.ndarray]:
  """Both parts of one matrix, all layers; takes them out of `found`."""
  ins, outs = shape[1 : 1 + source.inputs], shape[1 + source.inputs :]
  expected = {
    "lora_a": (rank, math.prod(ins)),
    "lora_b": (math.prod(outs), rank),
  }
  ours = {"lora_a": (*ins, rank), "lora_b": (rank, *outs)}
  parts = {}
  for name, theirs in _PARTS.items():
    rows = []
    for layer in range(shape[0]):
      key = f"{_stem(source, layer)}.{theirs}.weight"
      if key not in found:
        raise BadFolder(f"{path}: tensor {key} is missing")
      value = found.pop(key)
      if value.shape != expected[name]:
        raise BadFolder(
          f"{path}: tensor {key} has shape {value.shape}, expected"
          f" {expected[name]}"
        )
      rows.append(value.T.reshape(ours[name]).astype(np.float32))
    parts[name] = np.stack(rows)
  return parts
