"""CodeGen against transformers on tiny random configs."""

import jax.numpy as jnp
import numpy as np
import parity
import pytest
import transformers

from refine_jax.models import codegen, hf

BASE = {
  "vocab_size": 61,
  "n_embd": 48,
  "n_layer": 2,
  "n_head": 8,
  "n_positions": 80,
  "n_ctx": 80,
  "rotary_dim": 4,
  "bos_token_id": 1,
  "eos_token_id": 2,
}
VARIANTS = {"partial": {}, "whole": {"rotary_dim": 6, "n_inner": 40}}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  config = transformers.CodeGenConfig(**BASE | VARIANTS[request.param])
  model = parity.saved(transformers.CodeGenForCausalLM, config, folder)
  return model, *hf.load(folder)


def test_logits_and_gradients(pair, tmp_path):
  parity.check_logits_and_gradients(*pair, tmp_path)


def test_greedy_continuation(pair):
  parity.check_continuation(*pair)


def test_export(pair, tmp_path):
  model, module, params = pair
  parity.check_export(type(model), module, params, tmp_path)


def test_neighbours_turn_and_the_rest_stays():
  x = np.random.default_rng(0).standard_normal((1, 1, 1, 6)).astype(np.float32)
  angle = np.array([0.3, 1.1], np.float32)
  rotation = jnp.cos(angle)[None, None, None], jnp.sin(angle)[None, None, None]
  turned = np.asarray(codegen.rotate(jnp.asarray(x), rotation))[0, 0, 0]
  for i, theta in enumerate(angle):
    pair = x[0, 0, 0, 2 * i : 2 * i + 2]
    matrix = [[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]]
    np.testing.assert_allclose(
      turned[2 * i : 2 * i + 2], np.array(matrix) @ pair, rtol=1e-5
    )
  np.testing.assert_array_equal(turned[4:], x[0, 0, 0, 4:])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"heads": 6}, "heads=6"),
    ({"rotary": 3}, "rotary=3"),
    ({"rotary": 8}, "rotary=8"),
  ],
)
def test_bad_sizes_are_named(change, message):
  sizes = {"width": 24, "heads": 4, "rotary": 2, "mlp": 16} | change
  with pytest.raises(ValueError, match=message):
    codegen.CodegenConfig(vocab_size=9, layers=1, **sizes)
