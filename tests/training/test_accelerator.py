"""Training on whatever there is: a small model here, a large one on a GPU or
TPU (`JAX_PLATFORMS=cuda python -m pytest -m accelerator tests/training`; of
tests/models it runs the attention of cuDNN)."""

import math

import jax
import optax
import pytest

from refine_jax import records, sharding
from refine_jax.data import encode
from refine_jax.data.tokenizer import ByteTokenizer
from refine_jax.models.llama import Llama, LlamaConfig
from refine_jax.training.loss import supervised_loss
from refine_jax.training.state import init_state
from refine_jax.training.step import make_train_step

SMALL = LlamaConfig(
  vocab_size=259, width=16, layers=1, heads=2, kv_heads=2, head_dim=8, mlp=32
)
LARGE = LlamaConfig(
  vocab_size=32_000, width=768, layers=12, heads=12, kv_heads=12, head_dim=64,
  mlp=2048,
)  # fmt: skip


def trained(config, updates, rate):
  """(parameters, losses, their platform) of learning eight texts by heart."""
  tokenizer = ByteTokenizer()
  rows = [
    records.Example(str(i), (f"{i * 37} and {i * 53} are",), (f"{i * 90}",))
    for i in range(8)
  ]
  encoded, _ = encode.encode_examples(
    tokenizer, rows, max_prompt=24, max_target=8, bos=True
  )
  batch = encode.collate(
    [[encoded[i]] for i in range(8)], 24, 8, tokenizer.pad_id, packed=False
  )
  family, optimizer = Llama(config), optax.adam(rate)
  mesh = sharding.make_mesh(data=1, devices=jax.devices()[:1])
  state = init_state(family, optimizer, jax.random.key(0), mesh, batch)
  step = make_train_step(supervised_loss(family, chunk=64), optimizer)
  losses = []
  for _ in range(updates):
    state, metrics = step(state, batch, jax.random.key(0))
    losses.append(metrics["loss"].value())
  leaves = jax.tree.leaves(state.params)
  platforms = {d.platform for leaf in leaves for d in leaf.devices()}
  return sum(math.prod(leaf.shape) for leaf in leaves), losses, platforms


def test_a_small_model_on_what_there_is():
  _, losses, platforms = trained(SMALL, 8, 1e-2)
  assert losses[-1] < 0.9 * losses[0]
  assert platforms == {jax.default_backend()}


@pytest.mark.accelerator
def test_a_hundred_million_parameters_on_an_accelerator():
  if jax.default_backend() == "cpu":
    pytest.skip("no accelerator: this machine has none, or JAX_PLATFORMS=cpu")
  count, losses, platforms = trained(LARGE, 30, 3e-4)
  assert count >= 100_000_000
  assert "cpu" not in platforms
  assert losses[-1] < 0.5 * losses[0], losses
