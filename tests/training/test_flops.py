"""FLOPs of real families against counts by hand, and decay on their names."""

import jax
import numpy as np
import pytest
from fakes import fake_batch
from flax import linen as nn

from refine_jax.models.galactica import Galactica, GalacticaConfig
from refine_jax.models.llama import Llama, LlamaConfig
from refine_jax.models.t5 import T5, T5Config
from refine_jax.training.flops import of_params, peak
from refine_jax.training.optim import OptimizerSettings, decay_mask
from refine_jax.training.state import named_leaves
from refine_jax.training.step import Counts

V, D, F, N, K, H = 16, 8, 12, 4, 2, 6
PROMPTS, TARGETS = np.array([3, 5]), np.array([2, 4])
COUNTS = Counts(
  examples=2,
  positions=20,
  prompt=PROMPTS.sum(),
  target=TARGETS.sum(),
  prompt_prompt=(PROMPTS**2).sum(),
  prompt_target=(PROMPTS * TARGETS).sum(),
  target_target=(TARGETS**2).sum(),
)


def shapes(family):
  boxed = jax.eval_shape(family.init, jax.random.key(0), fake_batch(0))
  return nn.unbox(boxed["params"])


@pytest.mark.parametrize("tied", [False, True])
def test_llama(tied):
  config = LlamaConfig(
    vocab_size=V, width=D, layers=3, heads=N, kv_heads=K, head_dim=H, mlp=F,
    tied=tied, qkv_bias=True,
  )  # fmt: skip
  params = shapes(Llama(config))
  model = of_params(params, layers=3, heads=N, head_dim=H, tied=tied)
  per_token = 3 * (2 * D * N * H + 2 * D * K * H + 3 * D * F)
  want = 0
  for p, t in zip(PROMPTS, TARGETS, strict=True):
    want += 6 * (per_token * (p + t) + D * V * t)
    for position in range(p + t):
      # Scores and their use, 2 FLOPs each, and twice that backwards.
      want += 3 * (2 + 2) * 3 * N * H * (position + 1)
  assert model.step(COUNTS) == want


def test_t5():
  config = T5Config(
    vocab_size=V, width=D, mlp=F, heads=N, head_dim=H, encoder_layers=2,
    decoder_layers=3,
  )  # fmt: skip
  model = of_params(
    shapes(T5(config)),
    layers=3,
    heads=N,
    head_dim=H,
    tied=False,
    encoder_layers=2,
  )
  attention, mlp = 4 * D * N * H, 3 * D * F
  want = 0
  for p, t in zip(PROMPTS, TARGETS, strict=True):
    want += 6 * 2 * (attention + mlp) * p + 12 * 2 * N * H * p * p
    want += 6 * 3 * (attention + mlp + attention / 2) * t
    want += 6 * 3 * attention / 2 * p  # keys and values of the cross-attention
    want += 6 * D * V * t
    want += 12 * 3 * N * H * (t * (t + 1) / 2 + p * t)
  assert model.step(COUNTS) == want


def test_peaks():
  assert peak("NVIDIA H200") == 989e12
  assert peak("cpu") is None
  assert peak("cpu", 1e11) == 1e11


@pytest.mark.parametrize(
  "family",
  [
    Llama(
      LlamaConfig(
        vocab_size=V, width=D, layers=2, heads=N, kv_heads=K, head_dim=H,
        mlp=F, qkv_bias=True,
      )
    ),
    T5(T5Config(vocab_size=V, width=D, mlp=F, heads=N, head_dim=H)),
    Galactica(
      GalacticaConfig(vocab_size=V, width=D, layers=2, heads=N, mlp=F)
    ),
  ],
  ids=lambda family: type(family).__name__,
)  # fmt: skip
def test_norms_and_biases_of_families_do_not_decay(family):
  mask = named_leaves(decay_mask(shapes(family), OptimizerSettings()))
  decays = {name.split("/")[-1] for name, on in mask.items() if on}
  assert decays <= {"kernel", "table", "positions"}
  still = {name for name, on in mask.items() if not on}
  assert all(
    n.endswith(("scale", "bias", "relative_bias/table")) for n in still
  )
  assert still
