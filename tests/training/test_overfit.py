"""A tiny model learns 64 texts by heart: nothing stands in its way."""

import jax
import numpy as np
import optax
import pytest

from refine_jax import records, sharding
from refine_jax.data import encode
from refine_jax.data.tokenizer import ByteTokenizer
from refine_jax.models.llama import Llama, LlamaConfig
from refine_jax.training.loss import supervised_loss
from refine_jax.training.state import init_state
from refine_jax.training.step import make_train_step


@pytest.mark.slow
def test_64_rationales_are_learned_to_less_than_a_tenth_of_a_nat():
  rng = np.random.default_rng(0)
  numbers = rng.choice(1000, size=64, replace=False)
  examples = [
    records.Example(
      id=str(i), prompt=(f"{n} <BOT>",), target=f"{rng.integers(100)}"
    )
    for i, n in enumerate(numbers)
  ]
  tokenizer = ByteTokenizer()
  encoded, _ = encode.encode_examples(
    tokenizer, examples, max_prompt=12, max_target=3, bos=True
  )
  batch = encode.collate(
    [[encoded[i]] for i in range(64)], 12, 4, tokenizer.pad_id, packed=False
  )
  family = Llama(
    LlamaConfig(
      vocab_size=tokenizer.vocab_size, width=64, layers=2, heads=2,
      kv_heads=2, head_dim=32, mlp=128,
    )
  )  # fmt: skip
  mesh = sharding.make_mesh(data=1, devices=jax.devices()[:1])
  optimizer = optax.adam(optax.linear_schedule(5e-3, 0.0, 300), b2=0.98)
  state = init_state(family, optimizer, jax.random.key(0), mesh, batch)
  step = make_train_step(supervised_loss(family, chunk=256), optimizer)
  losses = []
  for _ in range(300):
    state, metrics = step(state, batch, jax.random.key(0))
    losses.append(metrics["loss"])
  first, last = losses[0].value(), losses[-1].value()
  assert first > 3 and last < 0.1, (first, last)
