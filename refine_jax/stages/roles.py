"""What the stages of RATIONALYST build alike: models in their roles."""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from refine_jax.methods.layout import Layout
from refine_jax.sampling.settings import Sampling
from refine_jax.sampling.trunks import Trunks
from refine_jax.stages import build


def model(path: str, config: ConfigDict, workdir: pathlib.Path) -> build.Model:
  """A checkpoint or a Hugging Face folder, or a name on the hub."""
  mesh = build.own_mesh(config.mesh)
  local = build.resolve(path, workdir)
  if local.exists() or path.startswith("."):
    return build.load_model(local, mesh)
  import huggingface_hub

  kinds = ["*.json", "*.safetensors", "*.model"]
  folder = huggingface_hub.snapshot_download(path, allow_patterns=kinds)
  return build.load_model(pathlib.Path(folder), mesh)


def trunks(model: build.Model, config: ConfigDict) -> Trunks:
  return Trunks(
    model.module,
    model.tokenizer,
    model.params,
    mesh=model.mesh,
    slots=config.slots,
    length=config.length,
    pieces=tuple(config.pieces),
  )


def layout(config: ConfigDict) -> Layout:
  return Layout(**config.to_dict())


def sampling(config: ConfigDict, stop, model: build.Model, seed: int):
  """Settings of a short text; a stop that is one id ends it on the device.

  That needs a tokenizer for which the string is that id wherever it stands;
  otherwise the string itself is looked for as well.
  """
  made = Sampling(**config.to_dict(), seed=seed)
  stop = tuple(stop)
  alone = [model.tokenizer.encode(s) for s in stop]
  ids = tuple(i[0] for i in alone if len(i) == 1)
  if model.tokenizer.kind == "word" and len(ids) == len(stop):
    stop = ()
  return dataclasses.replace(made, stop=stop, stop_ids=ids)
