"""Writes a checkpoint as a Hugging Face folder: weights, config, tokenizer."""

import pathlib

import jax
from ml_collections import ConfigDict

from refine_jax import files
from refine_jax.models import hf, hf_heads
from refine_jax.models.reranker import HEAD
from refine_jax.stages import adapters, build, launch, rerankers

SECTIONS = ("mesh", "export_hf")


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Exports `config.export_hf.checkpoint` to <workdir>/hf.

  `transformers` loads the folder, a reranker as a sequence classifier; so
  does `config.pretrained`, or `config.system` for a reranker. A LoRA run is
  written merged, and its adapters in PEFT's layout to <workdir>/adapters.
  """
  settings = config.export_hf
  path = build.resolve(settings.checkpoint, workdir)
  mesh = build.mesh(config.mesh)
  with files.folder(workdir / "hf") as folder:
    if rerankers.is_one(path):
      model = _reranker(path, mesh, folder, settings.dtype)
    else:
      model = build.load_model(path, mesh)
      hf.save(folder, model.module, model.params, dtype=settings.dtype)
    model.tokenizer.save(folder)
  if not build.is_hf(path) and adapters.are_in(path):
    with files.folder(workdir / "adapters") as folder:
      build.load_adapters(path, mesh).to_peft(folder)
  return f"Wrote {workdir / 'hf'}"


def _reranker(
  path: pathlib.Path,
  mesh: jax.sharding.Mesh,
  folder: pathlib.Path,
  dtype: str,
) -> build.Model:
  model, _ = rerankers.load(path, mesh)
  hf_heads.save(
    folder,
    model.module,
    model.params,
    "classes",
    model.params[HEAD],
    pad_id=model.tokenizer.pad_id,
    dtype=dtype,
  )
  return model


if __name__ == "__main__":
  launch.run(main, SECTIONS)
