"""LLaMA against transformers on tiny random configs, every variant."""

import jax
import numpy as np
import parity
import pytest
import transformers
from flax import linen as nn

from refine_jax.batch import Batch
from refine_jax.models import hf, llama

BASE = {
  "vocab_size": 61,
  "hidden_size": 24,
  "intermediate_size": 40,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 4,
  "max_position_embeddings": 128,
  "pad_token_id": 0,
  "bos_token_id": 1,
  "eos_token_id": 2,
}
LLAMA3 = {
  "rope_type": "llama3",
  "rope_theta": 100.0,
  "factor": 4.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 10000.0}
VARIANTS = {
  "plain": {},
  "tied_grouped": {"num_key_value_heads": 2, "tie_word_embeddings": True},
  "linear_one_kv_head_biases": {
    "rope_parameters": LINEAR,
    "num_key_value_heads": 1,
    "attention_bias": True,
  },
  "llama3_odd_head_dim": {"rope_parameters": LLAMA3, "head_dim": 10},
  "qwen2": {"num_key_value_heads": 2},
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
  qwen = request.param == "qwen2"
  config_class = transformers.Qwen2Config if qwen else transformers.LlamaConfig
  model_class = (
    transformers.Qwen2ForCausalLM if qwen else transformers.LlamaForCausalLM
  )
  folder = tmp_path_factory.mktemp(request.param)
  config = config_class(**BASE | VARIANTS[request.param])
  model = parity.saved(model_class, config, folder)
  return model, *hf.load(folder)


def test_logits_and_gradients(pair, tmp_path):
  parity.check_logits_and_gradients(*pair, tmp_path)


def test_greedy_continuation(pair):
  parity.check_continuation(*pair)


def test_export(pair, tmp_path):
  model, module, params = pair
  parity.check_export(type(model), module, params, tmp_path)


def test_older_spelling_of_rope_scaling():
  config = hf.config_from_hf(
    BASE
    | {
      "model_type": "llama",
      "rope_theta": 5e5,
      "rope_scaling": {"type": "linear", "factor": 2.0},
    }
  )
  assert config.rope_theta == 5e5
  assert config.rope_scaling == llama.RopeScaling("linear", 2.0)


def tiny(**kwargs):
  return llama.LlamaConfig(11, 8, 1, 2, 1, 4, 16, **kwargs)


def test_frequencies_are_the_formula():
  config = tiny(rope_theta=100.0)
  np.testing.assert_allclose(llama.frequencies(config), [1.0, 0.1], rtol=1e-6)
  config = tiny(rope_theta=100.0, rope_scaling=llama.RopeScaling("linear", 4.0))
  np.testing.assert_allclose(llama.frequencies(config), [0.25, 0.025])


def test_llama3_keeps_high_and_stretches_low_frequencies():
  scaling = llama.RopeScaling("llama3", 8.0, 1.0, 4.0, 20)
  plain = llama.frequencies(tiny(rope_theta=1e6))
  scaled = llama.frequencies(tiny(rope_theta=1e6, rope_scaling=scaling))
  # 20 positions are 3.2 turns of the first, in the ramp, none of the second.
  turns = 20 / (2 * np.pi)
  keep = (turns - 1) / 3
  expected = plain * [keep + (1 - keep) / 8, 1 / 8]
  np.testing.assert_allclose(scaled, expected, rtol=1e-6)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"kv_heads": 3}, "kv_heads=3"),
    ({"head_dim": 5}, "head_dim=5"),
  ],
)
def test_bad_sizes_are_named(change, message):
  sizes = {"heads": 4, "kv_heads": 2, "head_dim": 4} | change
  with pytest.raises(ValueError, match=message):
    llama.LlamaConfig(vocab_size=9, width=8, layers=1, mlp=8, **sizes)


@pytest.mark.parametrize(
  "change",
  [
    {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
    {"sliding_window": 16, "model_type": "mistral"},
    {"mlp_bias": True},
    {"hidden_act": "quick_gelu"},
  ],
  ids=lambda change: next(iter(change)),
)
def test_what_is_not_supported_is_refused(change):
  with pytest.raises(ValueError, match="|".join(["yarn", *change, "gelu"])):
    hf.config_from_hf(BASE | {"model_type": "llama"} | change)


def test_initialisation():
  config = llama.LlamaConfig(64, 64, 4, 4, 4, 16, 128, init_std=0.1)
  ids = np.zeros((1, 2), np.int32)
  batch = Batch(ids, ids == 0, ids, ids == 0, ids == 0)
  boxed = jax.jit(llama.Llama(config).init)(jax.random.key(0), batch)["params"]
  params = nn.unbox(boxed)
  deviations = jax.tree.map(np.std, params)
  mlp = deviations["layers"]["mlp"]
  np.testing.assert_allclose(mlp["up"]["kernel"], 0.1, rtol=0.03)
  np.testing.assert_allclose(mlp["down"]["kernel"], 0.1 / 8**0.5, rtol=0.03)
  np.testing.assert_allclose(deviations["embed"]["table"], 0.1, rtol=0.05)
  first, second = params["layers"]["mlp"]["up"]["kernel"][:2]
  assert np.any(np.asarray(first) != np.asarray(second)), "layers are alike"
