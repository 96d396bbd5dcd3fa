"""The OPT architecture against transformers on tiny random configs."""

import parity
import pytest
import transformers

from refine_jax.models import galactica, hf

BASE = {
  "vocab_size": 61,
  "hidden_size": 24,
  "word_embed_proj_dim": 24,
  "ffn_dim": 40,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "max_position_embeddings": 80,
  "pad_token_id": 1,
  "bos_token_id": 0,
  "eos_token_id": 2,
}
VARIANTS = {
  "gelu": {"activation_function": "gelu"},
  "relu": {"activation_function": "relu"},
  "bare": {
    "activation_function": "gelu",
    "enable_bias": False,
    "layer_norm_elementwise_affine": False,
  },
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  config = transformers.OPTConfig(**BASE | VARIANTS[request.param])
  model = parity.saved(transformers.OPTForCausalLM, config, folder)
  return model, *hf.load(folder)


def test_logits_and_gradients(pair, tmp_path):
  parity.check_logits_and_gradients(*pair, tmp_path)


def test_greedy_continuation(pair):
  parity.check_continuation(*pair)


def test_export(pair, tmp_path):
  model, module, params = pair
  parity.check_export(type(model), module, params, tmp_path)


def test_folder_without_the_head_model_s_prefix(tmp_path):
  config = transformers.OPTConfig(**BASE)
  parity.saved(transformers.OPTModel, config, tmp_path)
  module, params = hf.load(tmp_path)
  assert params["embed"]["table"].shape == (61, 24)
  assert module.config.activation == "relu"


@pytest.mark.parametrize(
  "change",
  [
    {"word_embed_proj_dim": 12},
    {"do_layer_norm_before": False},
    {"_remove_final_layer_norm": True},
    {"tie_word_embeddings": False},
  ],
  ids=lambda change: next(iter(change)),
)
def test_what_is_not_supported_is_refused(change):
  given = transformers.OPTConfig(**BASE).to_dict() | change
  with pytest.raises(ValueError, match=next(iter(change))):
    hf.config_from_hf(given)


def test_heads_must_divide_the_width():
  with pytest.raises(ValueError, match="heads=5"):
    galactica.GalacticaConfig(9, 8, 1, 5, 16)
