"""REFINER's and RATIONALYST's makers of data in one process, or in one of
several.

A program, see `dealing_child`. Its folders are the keys of `STAGES`: `planted`
has the task's rationales, `annotated` the base's. `models` stands for `base`
and `encoder`, which they read.
"""

import sys

import dealing_child
import joined

STAGES = {
  "critic_data": "make_critic_data",
  "documents": "make_documents",
  "planted": "make_rationales",
  "annotated": "make_rationales",
  "scores": "make_rationale_data",
}


def config_of(folder):
  """Chunks, blocks and batches that do not come out even."""
  import tiny_rationalyst

  from refine_jax import config as building

  config = tiny_rationalyst.config_of()
  with config.unlocked():
    config.make_critic_data = building.make_critic_data(
      generator="../base",
      rows=22,
      temperatures=(0.0, 0.7, 1.3),
      samples=3,
      chunk=5,
    )
  config.make_documents.update(
    sources=(building.source("chains", task_split="documents", rows=70),),
    encoder=building.encoder("../encoder", positions=256),
    tokenizer=building.tokenizer("../base"),
    near_duplicates=0.0,
    threshold=0.94,
    block=16,
  )
  rationales = config.make_rationales
  rationales.update(rows=23, block=5)
  rationales.trunks.slots = 4
  if folder == "annotated":
    # Words at random, some of which are taken for marks.
    rationales.update(annotator="../base", open="g", close="ma", gate=-99.0)
    rationales.sampling.update(temperature=1.3, max_tokens=24)
    rationales.instruction.update(system="", demonstrations=(), user="")
  data = config.make_rationale_data
  data.update(rationales="../planted/rationales.jsonl")
  data.labels = "../planted/labels.jsonl"
  return config


def save_models(root):
  """Both know the words of the task."""
  import jax
  import tiny_rationalyst

  from refine_jax.data import tokenizer as tokenizers
  from refine_jax.models import bert, hf
  from refine_jax.stages import build
  from refine_jax.training import state

  config = config_of("models")
  tiny_rationalyst.save_base(root / "base", config)
  tokenizer = tokenizers.load(root / "base")
  sizes = {"width": 16, "layers": 1, "heads": 2, "head_dim": 8, "mlp": 32}
  module = bert.Bert(bert.BertConfig(tokenizer.vocab_size, **sizes))
  mesh, batch = build.own_mesh(config.mesh), build.example_batch()
  params = state.init_params(module, jax.random.key(0), mesh, batch)
  hf.save(root / "encoder", module, params)
  tokenizer.save(root / "encoder")


def run(root, folder):
  """What the stage in its folder under `root` said."""
  if folder == "models":
    return save_models(root)
  return joined.stage(STAGES[folder], config_of(folder), root / folder)


if __name__ == "__main__":
  dealing_child.main(run, *sys.argv[1:])
