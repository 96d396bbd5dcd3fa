"""Adapters on every family: merged is unmerged, and PEFT's layout."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import parity
import pytest
import tiny_families as tiny
import torch
import transformers
from safetensors.numpy import load_file, save_file

from refine_jax import sharding
from refine_jax.models import families, hf, lora_hf
from refine_jax.training import lora
from refine_jax.training.loss import supervised_loss
from refine_jax.training.state import named_leaves, state_of
from refine_jax.training.step import Beside, make_train_step

WRITERS = sorted(n for n, f in families.families().items() if f.writes)
EVERYTHING = lora.Lora(3, 6.0, (r"/(q|k|v|qkv|o)$", r"/mlp/"))


def random_adapters(module, params, settings, seed=0):
  """Both parts random: at the start of training B would hide A."""
  like = lora.abstract(params, lora_hf.inputs(module), settings)
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(0.2 * rng.standard_normal(x.shape), jnp.float32), like
  )


@pytest.fixture(scope="module", params=WRITERS)
def adapted(request):
  """(module, base, adapters, merged)."""
  module, params = tiny.tiny(request.param)
  adapters = random_adapters(module, params, EVERYTHING)
  inputs = lora_hf.inputs(module)
  merged = lora.merge(params, adapters, inputs, EVERYTHING)
  return module, params, adapters, merged


def test_merged_is_unmerged(adapted):
  module, params, adapters, merged = adapted
  joined = lora.join(params, adapters, EVERYTHING)
  ours = tiny.states(module, joined, tiny.batch())
  theirs = tiny.states(module, merged, tiny.batch())
  before = tiny.states(module, params, tiny.batch())
  for mine, other, old in zip(ours, theirs, before, strict=True):
    np.testing.assert_allclose(mine, other, atol=1e-5, rtol=0)
    assert np.abs(mine - old).max() > 1e-2


def test_merged_is_unmerged_when_decoding(adapted):
  module, params, adapters, merged = adapted
  prompt_BP, mask_BP = tiny._pad(
    [prompt for prompt, _ in tiny.EXAMPLES], 5, 0, left=False
  )

  @jax.jit
  def logits(weights):
    weights = module.decode_weights(weights)
    cache = module.new_cache(4, 8, prompt_length=5)
    first, cache = module.prefill(
      weights, prompt_BP, mask_BP.sum(1), cache, jnp.arange(4)
    )
    second, _ = module.step(weights, cache, jnp.argmax(first, -1))
    return first, second

  joined = lora.join(params, adapters, EVERYTHING)
  for ours, theirs in zip(logits(joined), logits(merged), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def test_every_adapter_learns(adapted):
  module, params, adapters, _ = adapted
  loss = lora.loss(supervised_loss(module), EVERYTHING)
  batch = jax.tree.map(jnp.asarray, tiny.batch())

  @jax.jit
  def gradient(adapters):
    return jax.grad(lambda x: loss(x, Beside(params, batch), None).total)(
      adapters
    )

  for name, slope in named_leaves(gradient(adapters)).items():
    by_layer = np.abs(slope).reshape(slope.shape[0], -1).max(axis=1)
    assert np.all(by_layer > 1e-4), name


def slow_merge(kernel, a, b, count, scale):
  """Entry by entry, layer by layer."""
  out = np.array(kernel)
  for layer in range(kernel.shape[0]):
    ins, outs = kernel.shape[1 : 1 + count], kernel.shape[1 + count :]
    for i in np.ndindex(*ins):
      for o in np.ndindex(*outs):
        change = sum(
          a[(layer, *i, r)] * b[(layer, r, *o)] for r in range(a.shape[-1])
        )
        out[(layer, *i, *o)] += scale * change
  return out


def test_merging_is_the_formula():
  module, params = tiny.tiny("gpt2", width=8, mlp=6, heads=2)
  adapters = random_adapters(module, params, EVERYTHING)
  inputs = lora_hf.inputs(module)
  merged = named_leaves(lora.merge(params, adapters, inputs, EVERYTHING))
  base, parts = named_leaves(params), named_leaves(adapters)
  found = lora.chosen(EVERYTHING, inputs)
  assert len(found) == 4
  for path, count in found.items():
    expected = slow_merge(
      np.asarray(base[f"{path}/kernel"]),
      np.asarray(parts[f"{path}/lora_a"]),
      np.asarray(parts[f"{path}/lora_b"]),
      count,
      2.0,
    )
    np.testing.assert_allclose(merged[f"{path}/kernel"], expected, atol=1e-5)
  untouched = [k for k in base if k.removesuffix("/kernel") not in found]
  assert all(merged[k] is base[k] for k in untouched)


def test_training_moves_adapters_alone_in_any_number_of_pieces():
  module, params = tiny.tiny("llama")
  settings = lora.Lora(4, 8.0)
  inputs = lora_hf.inputs(module)
  batch = jax.tree.map(jnp.asarray, tiny.batch())
  loss = lora.loss(supervised_loss(module), settings)
  start = lora.init(params, inputs, settings, jax.random.key(1))
  whole = lora.merge(params, start, inputs, settings)
  jax.tree.map(np.testing.assert_array_equal, whole, params)  # B is zero
  optimizer, found = optax.adam(0.02), []
  before = jax.tree.map(np.array, params)
  for pieces in (1, 2):
    step = make_train_step(loss, optimizer, micro_batches=pieces)
    state = state_of(jax.tree.map(jnp.copy, start), optimizer)
    losses = []
    for _ in range(12):
      state, metrics = step(state, Beside(params, batch), jax.random.key(0))
      losses.append(float(metrics["loss"].value()))
    found.append(losses)
  np.testing.assert_allclose(found[0], found[1], rtol=1e-3)
  assert found[0][-1] < 0.8 * found[0][0]
  assert float(metrics["counts"].examples) == len(tiny.EXAMPLES)
  jax.tree.map(np.testing.assert_array_equal, before, params)
  sizes = [sum(x.size for x in jax.tree.leaves(t)) for t in (start, params)]
  assert sizes[0] < sizes[1] / 5


def test_adapters_lie_like_their_matrices():
  module, params = tiny.tiny("llama")
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  where = sharding.of_variables(families.abstract_params(module), mesh)
  placed = jax.device_put(params, where)
  settings = lora.Lora(4, targets=("/q$", "/o$"))
  inputs = lora_hf.inputs(module)
  adapters = lora.init(placed, inputs, settings, jax.random.key(0))
  q = adapters["layers"]["attention"]["q"]
  kernel = placed["layers"]["attention"]["q"]["kernel"]
  assert q["lora_a"].sharding.spec[:2] == kernel.sharding.spec[:2]
  assert q["lora_b"].sharding.spec[2:] == kernel.sharding.spec[2:]
  loss = lora.loss(supervised_loss(module), settings)
  batch = tiny.batch()
  expected = loss(
    lora.init(params, inputs, settings, jax.random.key(0)),
    Beside(params, jax.tree.map(jnp.asarray, batch)),
    None,
  )
  with jax.set_mesh(mesh):
    found = jax.jit(loss, static_argnums=2)(
      adapters,
      Beside(placed, jax.device_put(batch, sharding.of_batch(mesh))),
      None,
    )
  np.testing.assert_allclose(found.total, expected.total, rtol=1e-5)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"rank": 0}, "rank of at least 1"),
    ({"rank": 2, "targets": ("/qq$",)}, "'/qq\\$' finds no matrix"),
    ({"rank": 2, "targets": ("^head",)}, "finds no matrix"),
  ],
)
def test_bad_choices_are_refused(settings, message):
  module, _ = tiny.tiny("llama")
  with pytest.raises(ValueError, match=message):
    lora.chosen(lora.Lora(**settings), lora_hf.inputs(module))


# ------------------------------------------------------------------ PEFT's form


def test_round_trip(adapted, tmp_path):
  module, _, adapters, _ = adapted
  lora_hf.save(tmp_path, module, adapters, rank=3, alpha=6.0, base="some/model")
  found = lora_hf.load(tmp_path, module)
  assert (found.rank, found.alpha, found.base) == (3, 6.0, "some/model")
  jax.tree.map(np.testing.assert_array_equal, found.adapters, adapters)
  again = lora.Lora(found.rank, found.alpha, found.targets)
  inputs = lora_hf.inputs(module)
  assert lora.chosen(again, inputs) == lora.chosen(EVERYTHING, inputs)


T5 = {
  "vocab_size": 61, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 2,
  "num_heads": 3, "relative_attention_num_buckets": 8, "dropout_rate": 0.0,
  "decoder_start_token_id": 0,
}  # fmt: skip
MODELS = {
  "llama": (
    transformers.LlamaForCausalLM,
    transformers.LlamaConfig(
      vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
      num_attention_heads=4, num_key_value_heads=2,
    ),
  ),
  "gpt2": (
    transformers.GPT2LMHeadModel,
    transformers.GPT2Config(
      vocab_size=61, n_embd=24, n_layer=2, n_head=3, n_positions=80
    ),
  ),
  "codegen": (
    transformers.CodeGenForCausalLM,
    transformers.CodeGenConfig(
      vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=80,
      n_ctx=80, rotary_dim=4,
    ),
  ),
  "galactica": (
    transformers.OPTForCausalLM,
    transformers.OPTConfig(
      vocab_size=61, hidden_size=24, word_embed_proj_dim=24, ffn_dim=40,
      num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=80,
      activation_function="gelu",
    ),
  ),
  "t5": (
    transformers.T5ForConditionalGeneration,
    transformers.T5Config(**T5, feed_forward_proj="relu"),
  ),
  "t5 gated": (
    transformers.T5ForConditionalGeneration,
    transformers.T5Config(**T5, feed_forward_proj="gated-gelu"),
  ),
}  # fmt: skip


def test_every_family_is_compared_with_torch():
  assert {name.split()[0] for name in MODELS} == set(WRITERS)


@pytest.fixture(scope="module", params=MODELS)
def base(request, tmp_path_factory):
  """(torch's model, module, parameters)."""
  folder = tmp_path_factory.mktemp("base")
  model = parity.saved(*MODELS[request.param], folder)
  return model, *hf.load(folder)


def with_adapters(model, folder):
  """What PEFT makes of a model and a folder: `W + (alpha / r) B A` on the
  module that each tensor's name means, transposed where it is told so."""
  told = json.loads((folder / "adapter_config.json").read_text())
  tensors = load_file(folder / "adapter_model.safetensors")
  stems = {n.removesuffix(".lora_A.weight") for n in tensors if "lora_A" in n}
  assert 2 * len(stems) == len(tensors)
  model = copy.deepcopy(model)
  for stem in stems:
    where = stem.removeprefix("base_model.model.")
    assert any(where.endswith(f".{t}") for t in told["target_modules"])
    a, b = (tensors[f"{stem}.lora_{x}.weight"] for x in "AB")
    change = torch.tensor(told["lora_alpha"] / told["r"] * b @ a)
    with torch.no_grad():
      weight = model.get_submodule(where).weight
      weight += change.T if told["fan_in_fan_out"] else change
  return model


def check_logits(model, module, params):
  rows = parity.batch(61)
  hidden_BTD = tiny.apply(module, params, rows).hidden_BTD
  logits_BTV = module.unembed(params, hidden_BTD)
  for i, theirs in enumerate(parity.torch_logits(model, rows)):
    ours = np.asarray(logits_BTV)[i][rows.target_mask_BT[i]]
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-4)


def test_torch_with_the_written_adapters_has_our_logits(base, tmp_path):
  model, module, params = base
  adapters = random_adapters(module, params, EVERYTHING)
  lora_hf.save(tmp_path, module, adapters, rank=3, alpha=6.0)
  joined = lora.join(params, adapters, EVERYTHING)
  check_logits(with_adapters(model, tmp_path), module, joined)


# Matrices that PEFT adapts where it is told none.
DEFAULTS = {
  "llama": ("q_proj", "v_proj"),
  "opt": ("q_proj", "v_proj"),
  "gpt2": ("c_attn",),
  "codegen": ("qkv_proj",),
  "t5": ("q", "v"),
}


def write_as_peft(model, folder):
  """A folder by torch's names and shapes, without asking us of either."""
  targets = DEFAULTS[model.config.model_type]
  rows_first = model.config.model_type == "gpt2"  # whose layers are Conv1D
  rng, tensors = np.random.default_rng(0), {}
  for name, layer in model.named_modules():
    if name.rpartition(".")[2] not in targets:
      continue
    shape = layer.weight.shape[::-1] if rows_first else layer.weight.shape
    for part, size in (("A", (2, shape[1])), ("B", (shape[0], 2))):
      key = f"base_model.model.{name}.lora_{part}.weight"
      tensors[key] = 0.2 * rng.standard_normal(size).astype(np.float32)
  save_file(tensors, folder / "adapter_model.safetensors")
  told = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 8,
    "target_modules": targets,
    "fan_in_fan_out": rows_first,
  }
  (folder / "adapter_config.json").write_text(json.dumps(told))


def test_adapters_by_torchs_names_are_read(base, tmp_path):
  model, module, params = base
  write_as_peft(model, tmp_path)
  found = lora_hf.load(tmp_path, module)
  settings = lora.Lora(found.rank, found.alpha, found.targets)
  assert settings.scale == 4
  joined = lora.join(params, found.adapters, settings)
  check_logits(with_adapters(model, tmp_path), module, joined)


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
  module, params = tiny.tiny("llama")
  adapters = random_adapters(module, params, lora.Lora(2))
  lora_hf.save(tmp_path, module, adapters, rank=2, alpha=4.0)
  path = tmp_path / "adapter_model.safetensors"
  good = load_file(path)
  name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"

  def refused(tensors, message):
    save_file(tensors, path)
    with pytest.raises(hf.BadFolder, match=message):
      lora_hf.load(tmp_path, module)

  refused({k: v for k, v in good.items() if k != name}, "q_proj.*is missing")
  refused(good | {name: np.zeros((3, 2), np.float32)}, r"has shape \(3, 2\)")
  refused(good | {"base_model.model.x": good[name]}, "belongs to no matrix")
  config = tmp_path / "adapter_config.json"
  plain = json.loads(config.read_text())
  for change in ({"use_dora": True}, {"bias": "all"}, {"peft_type": "IA3"}):
    config.write_text(json.dumps(plain | change))
    refused(good, next(iter(change)))
