"""Writes a checkpoint as a Hugging Face folder: weights, config, tokenizer."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from refine_jax import files
from refine_jax.models import hf, hf_heads
from refine_jax.models.reranker import HEAD
from refine_jax.stages import (
  adapters,
  build,
  distributed,
  launch,
  rerankers,
)

SECTIONS = ("mesh", "export_hf")


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Exports `config.export_hf.checkpoint` to <workdir>/hf.

  `transformers` loads the folder, a reranker as a sequence classifier; so
  does `config.pretrained`, or `config.system` for a reranker. A LoRA run is
  written merged, and its adapters in PEFT's layout to <workdir>/adapters.
  What lies on devices of several processes is gathered file by file; the
  first process writes.
  """
  settings = config.export_hf
  path = build.resolve(settings.checkpoint, workdir)
  mesh = build.mesh(config.mesh)
  layout = {"dtype": settings.dtype, "shard_bytes": settings.shard_bytes}
  with files.folder(workdir / "hf") as folder:
    if rerankers.is_one(path):
      model, _ = rerankers.load(path, mesh)
      _save_classifier(folder, model, layout)
    else:
      model = build.load_model(path, mesh)
      hf.save(folder, model.module, model.params, **layout)
    if jax.process_index() == 0:
      model.tokenizer.save(folder)
  if not build.is_hf(path) and adapters.are_in(path):
    with files.folder(workdir / "adapters") as folder:
      build.load_adapters(path, mesh).to_peft(folder)
  distributed.together("the export is written")
  return f"Wrote {workdir / 'hf'}"


def _save_classifier(
  folder: pathlib.Path, model: build.Model, layout: Mapping[str, Any]
) -> None:
  hf_heads.save(
    folder,
    model.module,
    model.params,
    "classes",
    model.params[HEAD],
    pad_id=model.tokenizer.pad_id,
    **layout,
  )


if __name__ == "__main__":
  launch.run(main, SECTIONS)
