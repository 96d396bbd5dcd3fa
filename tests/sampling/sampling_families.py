"""Tiny families of every kind with random parameters, and their engines."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from refine_jax.batch import Batch
from refine_jax.models.llama import Llama, LlamaConfig
from refine_jax.models.t5 import T5, T5Config

VOCAB = 11  # of fake_family.Letters


def llama(vocab=VOCAB, **changes):
  sizes = {
    "vocab_size": vocab,
    "width": 16,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 4,
    "mlp": 32,
    "init_std": 0.5,
  }
  return Llama(LlamaConfig(**{**sizes, **changes}))


def t5(vocab=VOCAB, **changes):
  sizes = {
    "vocab_size": vocab,
    "width": 16,
    "mlp": 32,
    "heads": 2,
    "head_dim": 8,
    "encoder_layers": 2,
    "decoder_layers": 2,
  }
  return T5(T5Config(**{**sizes, **changes}))


@functools.cache
def initialised(family, seed=0):
  """Random parameters, scaled up so that tokens differ in probability."""
  ones = jnp.ones((1, 2), jnp.int32)
  batch = Batch(ones, ones > 0, ones, ones > 0, ones > 0)
  return nn.unbox(family.init(jax.random.key(seed), batch)["params"])
