"""A peer of the engine, in a process and an environment of its own.

Started by engine_vs_peers.py. Reads a line of JSON per run from stdin (the
prompts' ids and how many tokens each gets) and writes one back: seconds. Needs
torch and transformers, and nothing of refine_jax.
"""

import ctypes
import json
import logging
import sys
import time

# The same allocator settings as refine_jax/stages/allocator.py.
for name, value in {-4: 0, -1: -1, -2: 64 << 20, -8: 1}.items():
  ctypes.CDLL(None).mallopt(name, value)

import torch  # noqa: E402
import transformers  # noqa: E402

transformers.logging.set_verbosity_error()
logging.disable(logging.WARNING)


def generate(model, runs: list[tuple[list[int], int]], slots: int) -> int:
  """Static batches, each as long as its largest budget; useful tokens."""
  for start in range(0, len(runs), slots):
    part = runs[start : start + slots]
    longest = max(len(ids) for ids, _ in part)
    ids = torch.zeros((len(part), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, _) in enumerate(part):
      ids[row, -len(prompt) :] = torch.tensor(prompt)
      mask[row, -len(prompt) :] = 1
    steps = max(tokens for _, tokens in part)
    out = model.generate(
      input_ids=ids,
      attention_mask=mask,
      max_new_tokens=steps,
      min_new_tokens=steps,
      do_sample=False,
      pad_token_id=0,
    )
    assert out.shape[1] == longest + steps
  return sum(tokens for _, tokens in runs)


def generate_batch(model, runs: list[tuple[list[int], int]], slots: int) -> int:
  """Continuous batching, each request with its own budget."""
  config = transformers.GenerationConfig(
    do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=700
  )
  batching = transformers.ContinuousBatchingConfig(
    max_batch_tokens=max(256, 2 * slots), num_blocks=1024
  )
  done = 0
  with model.continuous_batching_context_manager(
    generation_config=config, continuous_batching_config=batching
  ) as manager:
    for prompt, tokens in runs:
      manager.add_request(prompt, max_new_tokens=tokens, eos_token_id=-1)
    left = len(runs)
    while left:
      result = manager.get_result(timeout=5)
      if result is not None and result.is_finished():
        if result.error:
          raise RuntimeError(result.error)
        left -= 1
        done += len(result.generated_tokens)
      elif result is None and not manager.is_running():
        raise RuntimeError("generate_batch's thread ended")
  return done


def main() -> None:
  side, folder, slots, threads = sys.argv[1:]
  torch.set_num_threads(int(threads))
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32
  ).eval()
  model.generation_config.eos_token_id = None
  call = {"generate": generate, "generate_batch": generate_batch}[side]
  print(json.dumps({"ready": transformers.__version__}), flush=True)
  for line in sys.stdin:
    runs = json.loads(line)
    start = time.perf_counter()
    with torch.inference_mode():
      tokens = call(model, runs, int(slots))
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "tokens": tokens}), flush=True)


if __name__ == "__main__":
  main()
