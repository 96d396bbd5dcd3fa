"""Tiny families of every kind with random parameters, and their engines."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from refine_jax.batch import Batch
from refine_jax.models.galactica import Galactica, GalacticaConfig
from refine_jax.models.llama import Llama, LlamaConfig
from refine_jax.models.t5 import T5, T5Config

VOCAB = 11  # of fake_family.Letters


def llama(vocab=VOCAB, **changes):
  sizes = {
    "vocab_size": vocab,
    "width": 16,
    "layers": 1,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 4,
    "mlp": 32,
  }
  return Llama(LlamaConfig(**{**sizes, **changes}))


def t5(vocab=VOCAB, **changes):
  sizes = {
    "vocab_size": vocab,
    "width": 16,
    "mlp": 32,
    "heads": 2,
    "head_dim": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
  }
  return T5(T5Config(**{**sizes, **changes}))


def galactica(vocab=VOCAB, **changes):
  sizes = {
    "vocab_size": vocab,
    "width": 16,
    "layers": 1,
    "heads": 4,
    "mlp": 32,
    "max_length": 64,
  }
  return Galactica(GalacticaConfig(**{**sizes, **changes}))


def batch():
  ones = jnp.ones((1, 2), jnp.int32)
  return Batch(ones, ones > 0, ones, ones > 0, ones > 0)


def abstract(family):
  """Boxed shapes of the parameters."""
  return jax.eval_shape(family.init, jax.random.key(0), batch())["params"]


@functools.cache
def initialised(family, seed=0):
  """Random parameters; numpy's, since compiling an init takes seconds."""
  rng = np.random.default_rng(seed)

  def leaf(path, x):
    if "norm" in str(path):
      return jnp.ones(x.shape, x.dtype)
    return jnp.asarray(rng.normal(size=x.shape) * 0.4, x.dtype)

  shapes = nn.unbox(abstract(family))
  return jax.tree_util.tree_map_with_path(leaf, shapes)
