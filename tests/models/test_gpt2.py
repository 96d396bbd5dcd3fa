"""GPT-2 against transformers on tiny random configs."""

import parity
import pytest
import transformers

from refine_jax.models import gpt2, hf

BASE = {
  "vocab_size": 61,
  "n_embd": 24,
  "n_inner": 40,
  "n_layer": 3,
  "n_head": 3,
  "n_positions": 80,
  "bos_token_id": 2,
  "eos_token_id": 2,
}
VARIANTS = {
  "plain": {"n_inner": None},
  "codeparrot": {
    "scale_attn_by_inverse_layer_idx": True,
    "reorder_and_upcast_attn": True,
  },
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  config = transformers.GPT2Config(**BASE | VARIANTS[request.param])
  model = parity.saved(transformers.GPT2LMHeadModel, config, folder)
  return model, *hf.load(folder)


def test_logits_and_gradients(pair, tmp_path):
  parity.check_logits_and_gradients(*pair, tmp_path)


def test_greedy_continuation(pair):
  parity.check_continuation(*pair)


def test_export(pair, tmp_path):
  model, module, params = pair
  parity.check_export(type(model), module, params, tmp_path)


def test_the_plain_one_ignores_the_number_of_the_layer(pair):
  model, module, _ = pair
  expected = model.config.scale_attn_by_inverse_layer_idx
  assert module.config.inverse_layer_scale == expected


def test_folder_without_the_head_model_s_prefix(tmp_path):
  config = transformers.GPT2Config(**BASE)
  parity.saved(transformers.GPT2Model, config, tmp_path)
  _, params = hf.load(tmp_path)
  assert params["layers"]["attention"]["qkv"]["kernel"].shape == (
    *(3, 24, 1, 3, 3, 8),
  )


@pytest.mark.parametrize(
  "change",
  [
    {"add_cross_attention": True},
    {"scale_attn_weights": False},
    {"tie_word_embeddings": False},
  ],
  ids=lambda change: next(iter(change)),
)
def test_what_is_not_supported_is_refused(change):
  given = transformers.GPT2Config(**BASE).to_dict() | change
  with pytest.raises(ValueError, match=next(iter(change))):
    hf.config_from_hf(given)


def test_heads_must_divide_the_width():
  with pytest.raises(ValueError, match="heads=5"):
    gpt2.Gpt2Config(9, 8, 1, 5, 16)
