"""Folders of sentence-transformers: an encoder, pooling, a projection.

modules.json lists what a text passes through. Read are a transformer of one
of our encoder families (the encoder of a T5 among them), pooling by the mean
or the first token, dense layers and normalisation.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import linen as nn

from refine_jax import sharding
from refine_jax.batch import Params
from refine_jax.models import encoder_layers, families, hf, t5_encoder

_POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_ACTIVATIONS = {"Identity": lambda x: x, "Tanh": jnp.tanh}


@dataclasses.dataclass(frozen=True)
class SentenceEncoder:
  """Ids to one vector each.

  Attributes:
    module: of an encoder family.
    pooling: "mean" or "cls".
    activations: of the dense layers, in their order.
    normalize: whether rows have length 1.
    max_tokens: special ones included; what is longer is cut.
  """

  module: nn.Module
  pooling: str = "mean"
  activations: tuple[str, ...] = ()
  normalize: bool = True
  max_tokens: int = 512

  def __call__(
    self,
    params: Params,
    ids_BP: jax.Array,
    mask_BP: jax.Array,
    pooled_BP: jax.Array | None = None,
  ) -> jax.Array:
    """Embeddings, `[B, E]` float32.

    Args:
      params: `encoder`, and `dense`, a list of kernels and biases.
      mask_BP: which positions exist.
      pooled_BP: which of them count in the mean (INSTRUCTOR leaves out its
        instruction); all if None.
    """
    states_BPD = self.module.encode(params["encoder"], ids_BP, mask_BP)
    if self.pooling == "cls":
      first_B11 = jnp.argmax(mask_BP, axis=1)[:, None, None]
      x_BD = jnp.take_along_axis(states_BPD, first_B11, axis=1)[:, 0]
      x_BD = x_BD.astype(jnp.float32)
    else:
      x_BD = encoder_layers.pool(
        states_BPD, mask_BP if pooled_BP is None else pooled_BP
      )
    for dense, name in zip(params["dense"], self.activations, strict=True):
      x_BD = x_BD @ dense["kernel"] + dense.get("bias", 0.0)
      x_BD = _ACTIVATIONS[name](x_BD)
    return encoder_layers.unit(x_BD) if self.normalize else x_BD


def bare(module: nn.Module, params: Params) -> tuple[SentenceEncoder, Params]:
  """An encoder without anything around it: mean pooling, unit rows."""
  length = getattr(module.config, "max_length", 512)
  made = SentenceEncoder(module, max_tokens=length)
  return made, {"encoder": params, "dense": []}


def load(
  folder: str | pathlib.Path,
  *,
  mesh: jax.sharding.Mesh | None = None,
  **choices,
) -> tuple[SentenceEncoder, Params]:
  """A folder's encoder and its parameters.

  Without modules.json it is a plain encoder: mean pooling, unit rows.

  Args:
    choices: fields of the config that are ours to choose: dtype, ...

  Raises:
    BadFolder: no encoder, or one of its parts is not known here.
  """
  folder = pathlib.Path(folder)
  parts = _parts(folder)
  inner = folder / next(path for kind, path in parts if kind == "Transformer")
  module, params = _transformer(inner, mesh, choices)
  made, _ = bare(module, params)
  dense, activations, normalize = [], [], not (folder / _MODULES).exists()
  pooling = "mean"
  for kind, path in parts:
    if kind == "Pooling":
      pooling = _pooling(folder / path / "config.json")
    elif kind == "Dense":
      layer, activation = _dense(folder / path)
      dense.append(layer)
      activations.append(activation)
    elif kind == "Normalize":
      normalize = True
  return dataclasses.replace(
    made,
    pooling=pooling,
    activations=tuple(activations),
    normalize=normalize,
    max_tokens=min(_longest(inner), made.max_tokens),
  ), {"encoder": params, "dense": dense}


_MODULES = "modules.json"
_KINDS = ("Transformer", "Pooling", "Dense", "Normalize")


def _parts(folder: pathlib.Path) -> Sequence[tuple[str, str]]:
  """(kind, folder) of every module, in order."""
  path = folder / _MODULES
  if not path.exists():
    return [("Transformer", "")]
  found = []
  for entry in _json(path):
    kind = entry["type"].rpartition(".")[2]
    if kind not in _KINDS:
      raise hf.BadFolder(
        f"{path}: module {entry['type']!r}, not one of {_KINDS}"
      )
    found.append((kind, entry["path"]))
  return found


def _transformer(folder, mesh, choices):
  config = _json(folder / "config.json")
  if config.get("model_type") != "t5":
    module, params = hf.load(folder, mesh=mesh, **choices)
    if families.of(module).writes:
      raise hf.BadFolder(f"{folder}/config.json: a generator, not an encoder")
    return module, params
  family = t5_encoder.FAMILY
  module = family.module(family.config(**family.from_hf(config), **choices))
  abstract = families.abstract_params(module)
  if mesh is None:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: device, nn.unbox(abstract))
  else:
    shardings = sharding.of_variables(abstract, mesh)
  return module, hf.read(folder, module, shardings)


def _pooling(path: pathlib.Path) -> str:
  config = _json(path)
  wanted = config.get("pooling_mode")
  if wanted is None:
    on = [k for k, v in config.items() if v is True and "pooling_mode" in k]
    wanted = _POOLING.get(on[0]) if len(on) == 1 else str(on)
  if wanted not in _POOLING.values():
    raise hf.BadFolder(f"{path}: pooling {wanted!r}, not mean or cls")
  return wanted


def _dense(folder: pathlib.Path) -> tuple[dict[str, Any], str]:
  config = _json(folder / "config.json")
  name = config["activation_function"].rpartition(".")[2]
  if name not in _ACTIVATIONS:
    raise hf.BadFolder(
      f"{folder}/config.json: activation {name!r}, not one of {[*_ACTIVATIONS]}"
    )
  path = folder / "model.safetensors"
  if not path.is_file():
    raise hf.BadFolder(f"{path}: no such file")
  tensors = safetensors.numpy.load_file(path)
  layer = {"kernel": _float(tensors["linear.weight"]).T}
  if "linear.bias" in tensors:
    layer["bias"] = _float(tensors["linear.bias"])
  return layer, name


def _float(x: np.ndarray) -> np.ndarray:
  return np.asarray(x, np.float32)


def _longest(folder: pathlib.Path) -> int:
  path = folder / "sentence_bert_config.json"
  if not path.exists():
    return 512
  return _json(path).get("max_seq_length") or 512


def _json(path: pathlib.Path) -> Any:
  if not path.is_file():
    raise hf.BadFolder(f"{path}: no such file")
  return json.loads(path.read_text(encoding="utf-8"))
