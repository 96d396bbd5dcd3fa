"""A peer of the engine, in a process and an environment of its own.

Started by engine_vs_peers.py with the peer's name, a folder with a LLaMA, rows
per batch and threads. Reads a line of JSON per run from stdin (the prompts' ids
and how many tokens each gets) and writes one back: seconds, tokens, and what
the first prompt was continued by. Needs torch and transformers, or
google-tunix, and nothing of refine_jax.
"""

import ctypes
import json
import logging
import os
import pathlib
import sys
import time
import warnings
from collections.abc import Callable

# The same allocator settings as refine_jax/stages/allocator.py.
for name, value in {-4: 0, -1: -1, -2: 64 << 20, -8: 1}.items():
  ctypes.CDLL(None).mallopt(name, value)

Runs = list[tuple[list[int], int]]
Call = Callable[[Runs], list[list[int]]]


def batches(runs: Runs, slots: int):
  """Static batches, each with the largest of its budgets."""
  for start in range(0, len(runs), slots):
    part = runs[start : start + slots]
    yield [ids for ids, _ in part], max(tokens for _, tokens in part)


# ------------------------------------------------------------- transformers


def torch_model(folder: str, threads: int):
  import torch
  import transformers

  transformers.logging.set_verbosity_error()
  torch.set_num_threads(threads)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32
  ).eval()
  model.generation_config.eos_token_id = None
  return model


def generate(folder: str, slots: int, threads: int) -> Call:
  """`model.generate`: what a row draws after its own budget is dropped."""
  import torch

  model = torch_model(folder, threads)

  def batch(prompts, steps):
    longest = max(map(len, prompts))
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
      ids[row, -len(prompt) :] = torch.tensor(prompt)
      mask[row, -len(prompt) :] = 1
    out = model.generate(
      input_ids=ids,
      attention_mask=mask,
      max_new_tokens=steps,
      min_new_tokens=steps,
      do_sample=False,
      pad_token_id=0,
    )
    return out[:, longest:].tolist()

  def call(runs):
    with torch.inference_mode():
      return [row for part in batches(runs, slots) for row in batch(*part)]

  return call


def generate_batch(folder: str, slots: int, threads: int) -> Call:
  """Continuous batching, each request with its own budget."""
  import transformers

  model = torch_model(folder, threads)
  config = transformers.GenerationConfig(
    do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=700
  )
  batching = transformers.ContinuousBatchingConfig(
    max_batch_tokens=max(256, 2 * slots), num_blocks=1024
  )

  def call(runs):
    found: dict[str, list[int]] = {}
    with model.continuous_batching_context_manager(
      generation_config=config, continuous_batching_config=batching
    ) as manager:
      names = [
        manager.add_request(ids, max_new_tokens=tokens, eos_token_id=-1)
        for ids, tokens in runs
      ]
      while len(found) < len(runs):
        result = manager.get_result(timeout=5)
        if result is None:
          if not manager.is_running():
            raise RuntimeError("generate_batch's thread ended")
        elif result.is_finished():
          if result.error:
            raise RuntimeError(result.error)
          found[result.request_id] = list(result.generated_tokens)
    return [found[name] for name in names]

  return call


# ------------------------------------------------------------- google-tunix


class Ids:
  """A tokenizer of prompts that are ids, written as decimal numbers."""

  def encode(self, text: str) -> list[int]:
    return [int(word) for word in text.split()]

  def decode(self, ids: list[int]) -> str:
    return ""

  def bos_id(self) -> int:
    return 0  # its sampler then puts none before a prompt

  def eos_id(self) -> int:
    return -1

  def pad_id(self) -> int:
    return 0


def tunix(folder: str, slots: int, threads: int) -> Call:
  """google-tunix's own sampler and LLaMA.

  Batches are static and compiled for their largest budget; the first run of a
  list of requests compiles, later ones do not.
  """
  del threads  # XLA takes those the process may use
  import jax.numpy as jnp
  from tunix.generate import sampler as samplers
  from tunix.models.llama3 import model as llama
  from tunix.models.llama3 import params

  size = json.loads((pathlib.Path(folder) / "config.json").read_text())
  config = llama.ModelConfig(
    num_layers=size["num_hidden_layers"],
    vocab_size=size["vocab_size"],
    embed_dim=size["hidden_size"],
    hidden_dim=size["intermediate_size"],
    num_heads=size["num_attention_heads"],
    head_dim=size["head_dim"],
    num_kv_heads=size["num_key_value_heads"],
    rope_theta=size["rope_theta"],
    norm_eps=size["rms_norm_eps"],
    weight_tying=size["tie_word_embeddings"],
  )
  model = params.create_model_from_safe_tensors(
    folder, config, dtype=jnp.float32
  )

  def sampler(room: int):
    cache = samplers.CacheConfig(
      room, config.num_layers, config.num_kv_heads, config.head_dim
    )
    return samplers.Sampler(model, Ids(), cache)

  known = {}

  def call(runs):
    longest = max(len(ids) for ids, _ in runs)
    # A cache no larger than what these requests need.
    room = longest + max(tokens for _, tokens in runs)
    one = known.setdefault(room, sampler(room))
    found = []
    for prompts, steps in batches(runs, slots):
      texts = [" ".join(map(str, ids)) for ids in prompts]
      drawn = one(texts, max_generation_steps=steps, max_prompt_length=longest)
      found += [row.tolist() for row in drawn.tokens]
    return found

  return call


def main() -> None:
  side, folder, slots, threads = sys.argv[1:]
  logging.disable(logging.WARNING)
  warnings.simplefilter("ignore")
  # Only answers go to stdout, whatever a library prints.
  answers = os.fdopen(os.dup(1), "w", buffering=1)
  os.dup2(2, 1)
  sides = {"generate": generate, "generate_batch": generate_batch}
  call = {**sides, "tunix": tunix}[side](folder, int(slots), int(threads))
  print(json.dumps({"ready": side}), file=answers)
  for line in sys.stdin:
    runs = json.loads(line)
    start = time.perf_counter()
    rows = call(runs)
    seconds = time.perf_counter() - start
    rows = [row[:n] for row, (_, n) in zip(rows, runs, strict=True)]
    answer = {"seconds": seconds, "tokens": [len(row) for row in rows]}
    print(json.dumps({**answer, "first": rows[0]}), file=answers)


if __name__ == "__main__":
  main()
