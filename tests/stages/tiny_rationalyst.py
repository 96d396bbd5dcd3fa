"""RATIONALYST on a tiny base with random weights, on one device."""

import pathlib

import jax

from refine_jax.data import tokenizer as tokenizers
from refine_jax.models import hf
from refine_jax.models.llama import Llama, LlamaConfig
from refine_jax.stages import build, launch
from refine_jax.training import state

TOP = pathlib.Path(__file__).parents[2]


def config_of():
  """The experiment, with the base as its writer."""
  config = launch.load_config(f"{TOP}/configs/rationalyst/hint_chains.py:smoke")
  config.mesh.devices = 1
  config.run_stepwise.writer = "../base"
  return config


def save_base(folder, config):
  """A Hugging Face folder that knows the words of the task."""
  words = [w for text in build.task(config.task).corpus() for w in text.split()]
  tokenizer = tokenizers.WordTokenizer(words)
  sizes = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 8}
  module = Llama(
    LlamaConfig(tokenizer.vocab_size, mlp=32, max_length=64, **sizes)
  )
  params = state.init_params(
    module,
    jax.random.key(0),
    build.own_mesh(config.mesh),
    build.example_batch(),
  )
  hf.save(folder, module, params)
  tokenizer.save(folder)
