"""Writes a checkpoint as a Hugging Face folder: weights, config, tokenizer."""

import pathlib

from ml_collections import ConfigDict

from refine_jax.models import hf
from refine_jax.stages import build, launch

SECTIONS = ("mesh", "export_hf")


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Exports `config.export_hf.checkpoint` to <workdir>/hf.

  `transformers` loads the folder; so does `config.pretrained`.
  """
  settings = config.export_hf
  model = build.load_model(
    build.resolve(settings.checkpoint, workdir), build.mesh(config.mesh)
  )
  folder = workdir / "hf"
  hf.save(folder, model.module, model.params, dtype=settings.dtype)
  model.tokenizer.save(folder)
  return f"Wrote {folder}"


if __name__ == "__main__":
  launch.run(main, SECTIONS)
