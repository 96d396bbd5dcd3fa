"""Our training step against transformers + torch on the same CPU cores.

    python benchmarks/train_vs_torch.py --json

Both sides start from the same weights, read the same batches and update with
the same AdamW in float32, in one process, so that they share its allocator
settings. Steps alternate, ours and theirs, and a ratio is taken of each pair.
The last line of stdout is one JSON object. Needs the test extra.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
  sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from refine_jax.stages import allocator  # noqa: E402

# Before anything allocates; for torch as well as for us.
KEPT = allocator.keep_memory()

import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from refine_jax.batch import Batch  # noqa: E402
from refine_jax.models import hf  # noqa: E402
from refine_jax.training import loss, optim, state, step  # noqa: E402

OPTIMIZER = {"learning_rate": 3e-4, "b2": 0.95, "weight_decay": 0.1}
VOCAB = 4096


@dataclasses.dataclass(frozen=True)
class Shape:
  """A batch: rows of prompt and target, nothing padded."""

  rows: int
  prompt: int
  target: int

  @property
  def tokens(self) -> int:
    return self.rows * (self.prompt + self.target)


def llama() -> transformers.PreTrainedModel:
  config = transformers.LlamaConfig(
    vocab_size=VOCAB,
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=8,
    max_position_embeddings=512,
    tie_word_embeddings=True,
    use_cache=False,
  )
  return transformers.LlamaForCausalLM(config)


def t5() -> transformers.PreTrainedModel:
  config = transformers.T5Config(
    vocab_size=VOCAB,
    d_model=384,
    d_kv=64,
    d_ff=1536,
    num_layers=6,
    num_heads=6,
    feed_forward_proj="relu",  # v1.0: transformers ties the head
    dropout_rate=0.0,
    use_cache=False,
    decoder_start_token_id=0,
  )
  return transformers.T5ForConditionalGeneration(config)


# A prompt of one token: every later one is learned, as theirs does it.
MODELS = {"llama": (llama, Shape(8, 1, 255)), "t5": (t5, Shape(8, 128, 128))}


def make_batch(shape: Shape, seed: int) -> Batch:
  """Ids that repeat within a row, so that there is something to learn."""
  rng = np.random.default_rng(seed)
  length = shape.prompt + shape.target
  words = rng.integers(1, VOCAB, (shape.rows, length // 4))
  picks = rng.integers(0, length // 4, (shape.rows, length))
  ids = np.take_along_axis(words, picks, axis=1).astype(np.int32)
  prompt, target = ids[:, : shape.prompt], ids[:, shape.prompt :]
  exists = np.ones_like
  return Batch(
    prompt,
    exists(prompt, bool),
    target,
    exists(target, bool),
    exists(target, bool),
  )


Side = Callable[[Batch], float]  # trains on a batch, returns its loss


def theirs(model: transformers.PreTrainedModel) -> Side:
  """A plain torch loop with the fused AdamW; vectors are not decayed."""
  model.train()
  params = list(model.parameters())
  decay = OPTIMIZER["weight_decay"]
  optimizer = torch.optim.AdamW(
    [
      {"params": [p for p in params if p.ndim > 1], "weight_decay": decay},
      {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ],
    lr=OPTIMIZER["learning_rate"],
    betas=(0.9, OPTIMIZER["b2"]),
    fused=True,
  )

  def train(batch: Batch) -> float:
    prompt = torch.from_numpy(batch.prompt_BP).long()
    target = torch.from_numpy(batch.target_BT).long()
    if model.config.is_encoder_decoder:
      out = model(input_ids=prompt, labels=target)
    else:
      ids = torch.cat([prompt, target], dim=1)
      out = model(input_ids=ids, labels=ids)
    optimizer.zero_grad(set_to_none=True)
    out.loss.backward()
    optimizer.step()
    return out.loss.item()

  return train


def ours(folder: str, choices: dict[str, Any], batch: Batch) -> Side:
  """Our step on the weights of a Hugging Face folder."""
  module, params = hf.load(folder, **choices)
  optimizer, _ = optim.make_optimizer(
    optim.OptimizerSettings(**OPTIMIZER, no_decay="", clip_norm=None)
  )
  mesh = jax.make_mesh(
    (1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  rng = jax.random.key(0)
  now = state.init_state(module, optimizer, rng, mesh, batch, params)
  train_step = step.make_train_step(loss.supervised_loss(module), optimizer)

  def train(batch: Batch) -> float:
    nonlocal now
    # The loss draws no numbers: there is no dropout.
    now, metrics = train_step(now, batch, rng)
    return float(metrics["loss"].value())

  return train


def compare(
  name: str, pairs: int, warm: int, choices: dict[str, Any]
) -> dict[str, Any]:
  """Alternating steps of the two sides, and how far their losses differ."""
  make, shape = MODELS[name]
  torch.manual_seed(0)
  model = make()
  batches = [make_batch(shape, seed) for seed in range(4)]
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    sides = {"ours": ours(folder, choices, batches[0]), "torch": theirs(model)}
  seconds = {side: [] for side in sides}
  losses = {side: [] for side in sides}
  for index in range(warm + pairs):
    # Who goes first alternates too.
    for side in sorted(sides, reverse=index % 2 == 1):
      start = time.perf_counter()
      losses[side].append(sides[side](batches[index % len(batches)]))
      if index >= warm:
        seconds[side].append(time.perf_counter() - start)
  apart = float(np.abs(np.subtract(losses["ours"], losses["torch"])).max())
  assert apart < 1e-3, f"{name}: losses differ by {apart}: {losses}"
  ratios = [
    t / o for o, t in zip(seconds["ours"], seconds["torch"], strict=True)
  ]
  return {
    f"{name}_train_over_torch": round(statistics.median(ratios), 3),
    f"{name}_min": round(min(ratios), 3),
    f"{name}_max": round(max(ratios), 3),
    f"{name}_pairs": pairs,
    f"{name}_parameters": sum(p.numel() for p in model.parameters()),
    f"{name}_tokens_per_s": round(
      shape.tokens / statistics.median(seconds["ours"])
    ),
    f"{name}_torch_tokens_per_s": round(
      shape.tokens / statistics.median(seconds["torch"])
    ),
    f"{name}_loss_first": round(losses["ours"][0], 5),
    f"{name}_loss_last": round(losses["ours"][-1], 5),
    f"{name}_losses_apart": apart,
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--json", action="store_true", help="print JSON alone")
  parser.add_argument("--models", nargs="+", default=[*MODELS], choices=MODELS)
  parser.add_argument("--pairs", type=int, default=12)
  parser.add_argument("--warm", type=int, default=2, help="uncounted pairs")
  parser.add_argument("--threads", type=int, default=os.cpu_count())
  parser.add_argument(
    "--unroll", type=int, default=8, help="layers per iteration of our loop"
  )
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  result: dict[str, Any] = {}
  for name in args.models:
    figures = compare(name, args.pairs, args.warm, {"unroll": args.unroll})
    if not args.json:
      print(json.dumps(figures, indent=1), flush=True)
    result |= figures
  result |= {"allocator_kept": KEPT, "threads": args.threads}
  print(json.dumps(result))


if __name__ == "__main__":
  main()
