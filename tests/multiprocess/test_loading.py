"""Two processes read a large model, each its own part and little more."""

import json
import shutil

import loopback
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

WIDTH, LAYERS, HEADS, MLP, VOCAB = 2048, 28, 16, 8192, 32000


def write(folder):
  """A random LLaMA of 2 billion parameters, a file per layer; the sums."""
  rng = np.random.default_rng(0)
  block = rng.integers(-8, 9, WIDTH * MLP).astype(ml_dtypes.bfloat16)
  weights, total = {}, 0

  def save(name, tensors):
    nonlocal total
    save_file(tensors, folder / name, {"format": "pt"})
    weights.update(dict.fromkeys(tensors, name))
    total += sum(t.size for t in tensors.values())

  def tensor(rows, columns):
    return np.resize(np.roll(block, rng.integers(99)), (rows, columns))

  one = np.ones(WIDTH, ml_dtypes.bfloat16)
  save(
    "ends.safetensors",
    {
      "model.embed_tokens.weight": tensor(VOCAB, WIDTH),
      "lm_head.weight": tensor(VOCAB, WIDTH),
      "model.norm.weight": one,
    },
  )
  for i in range(LAYERS):
    at = f"model.layers.{i}"
    square = {
      f"{at}.self_attn.{x}_proj.weight": tensor(WIDTH, WIDTH) for x in "qkvo"
    }
    up = {
      f"{at}.mlp.{x}_proj.weight": tensor(MLP, WIDTH) for x in ("gate", "up")
    }
    save(
      f"{i}.safetensors",
      {
        **square,
        **up,
        f"{at}.mlp.down_proj.weight": tensor(WIDTH, MLP),
        f"{at}.input_layernorm.weight": one,
        f"{at}.post_attention_layernorm.weight": one,
      },
    )
  index = {"metadata": {}, "weight_map": weights}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))
  config = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "intermediate_size": MLP,
    "tie_word_embeddings": False,
  }
  (folder / "config.json").write_text(json.dumps(config))
  return total


@pytest.mark.slow
def test_two_billion_parameters(tmp_path):
  (tmp_path / "model").mkdir()
  total = write(tmp_path / "model")
  assert total > 2e9
  try:
    loopback.run(2, 1, tmp_path, child=loopback.HERE / "loading_child.py")
  finally:
    shutil.rmtree(tmp_path / "model")
  lines = [
    json.loads((tmp_path / "logs" / f"{i}.out").read_text().splitlines()[-1])
    for i in range(2)
  ]
  largest = WIDTH * MLP * 4
  for line in lines:
    print({k: v for k, v in line.items() if k != "sums"})
    assert line["parameters"] == total
    # In float32, half of it; vectors lie on both.
    assert line["shard"] == pytest.approx(2 * total, rel=1e-3)
    assert line["took"] <= line["shard"] + largest
  assert lines[0]["sums"] == lines[1]["sums"]
