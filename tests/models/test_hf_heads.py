"""The original ReFT's checkpoints: random ones in its layouts, in and out."""

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from refine_jax import sharding
from refine_jax.models import heads, hf, hf_heads
from refine_jax.models.reranker import Reranker

SIZES = {
  "opt": {
    "vocab_size": 61,
    "hidden_size": 24,
    "word_embed_proj_dim": 24,
    "ffn_dim": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 80,
    "activation_function": "gelu",
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
  },
  "llama": {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
  },
}
CLASSES = {
  "opt": (
    transformers.OPTConfig,
    transformers.OPTForCausalLM,
    transformers.OPTForSequenceClassification,
  ),
  "llama": (
    transformers.LlamaConfig,
    transformers.LlamaForCausalLM,
    transformers.LlamaForSequenceClassification,
  ),
}


@pytest.fixture(scope="module", params=CLASSES)
def names(request):
  config, causal, classifier = CLASSES[request.param]
  return config, SIZES[request.param], causal, classifier


@pytest.fixture(scope="module")
def policy(names, tmp_path_factory):
  """A causal model with trl's two tensors beside it: (torch, head, folder)."""
  config, sizes, causal, _ = names
  folder = tmp_path_factory.mktemp("policy")
  model = parity.saved(causal, config(**sizes), folder)
  torch.manual_seed(3)
  head = torch.nn.Linear(24, 1)
  path = folder / "model.safetensors"
  value = {
    f"v_head.summary.{k}": v.detach().numpy()
    for k, v in head.named_parameters()
  }
  save_file(load_file(path) | value, path, {"format": "pt"})
  return model, head, folder


@pytest.fixture(scope="module")
def reranker(names, tmp_path_factory):
  """A two-class sequence classifier: (torch, folder)."""
  config, sizes, _, classifier = names
  folder = tmp_path_factory.mktemp("reranker")
  model = parity.saved(classifier, config(num_labels=2, **sizes), folder)
  assert "score.weight" in load_file(folder / "model.safetensors")
  return model, folder


def torch_values(model, head, rows):
  """Values of the states that predict each target token."""
  found = []
  for i in range(len(rows.prompt_BP)):
    prompt, target = parity._row(rows, i)
    ids = torch.tensor(np.concatenate([prompt, target])[None].astype(np.int64))
    hidden = model.base_model(input_ids=ids).last_hidden_state[0]
    states = hidden[len(prompt) - 1 : len(prompt) + len(target) - 1]
    found.append(head(states)[:, 0].detach().numpy())
  return found


def our_values(module, params, head, rows):
  hidden_BTD = module.apply({"params": params}, rows).hidden_BTD
  return np.asarray(heads.ValueHead().apply({"params": head}, hidden_BTD))


def test_a_released_policy_has_its_logits_and_values(policy):
  model, v_head, folder = policy
  module, params, head = hf_heads.load(folder, "value")
  rows = parity.batch(module.config.vocab_size)
  ours_BT = our_values(module, params, head, rows)
  for i, theirs in enumerate(torch_values(model, v_head, rows)):
    np.testing.assert_allclose(ours_BT[i, : len(theirs)], theirs, atol=1e-4)
  logits_BTV = parity.both(module, params, rows)[0]
  for i, theirs in enumerate(parity.torch_logits(model, rows)):
    ours = np.asarray(logits_BTV)[i][rows.target_mask_BT[i]]
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-4)


def test_a_released_policy_is_a_generator_too(policy):
  module, params = hf.load(policy[2])
  assert set(params) == set(hf_heads.load(policy[2], "value")[1])
  assert module.config.vocab_size == 61


def test_a_policy_goes_out_as_it_came(policy, names, tmp_path):
  _, _, folder = policy
  module, params, head = hf_heads.load(folder, "value")
  hf_heads.save(tmp_path, module, params, "value", head, pad_id=1,
                shard_bytes=20_000)  # fmt: skip
  before = load_file(folder / "model.safetensors")
  after = parity.read_tensors(tmp_path)
  before.pop("lm_head.weight", None) if module.config.tied else None
  assert set(after) == set(before)
  for name, value in before.items():
    np.testing.assert_array_equal(after[name], value, err_msg=name)
  index = (tmp_path / "model.safetensors.index.json").read_text()
  assert "v_head.summary.weight" in index
  again = names[2].from_pretrained(tmp_path)  # the head is what it ignores
  rows = parity.batch(61)
  for ours, theirs in zip(
    parity.torch_logits(again.eval(), rows),
    parity.torch_logits(policy[0], rows),
    strict=True,
  ):
    torch.testing.assert_close(ours, theirs)


def torch_scores(model, rows):
  """Two logits per row, from prompt + target without its last token."""
  found = []
  for i in range(len(rows.prompt_BP)):
    prompt, target = parity._row(rows, i)
    ids = np.concatenate([prompt, target[:-1]])[None].astype(np.int64)
    found.append(model(input_ids=torch.tensor(ids)).logits[0].detach().numpy())
  return np.stack(found)


def with_head(params, head):
  return {**params, "score": head}


def test_a_released_reranker_has_its_scores(reranker):
  model, folder = reranker
  module, params, head = hf_heads.load(folder, "classes")
  rows = parity.batch(module.config.vocab_size)  # the last target is EOS
  ours_B2, _ = Reranker(module)(with_head(params, head), rows)
  assert ours_B2.dtype == jnp.float32
  np.testing.assert_allclose(ours_B2, torch_scores(model, rows), atol=1e-4)


def test_a_reranker_goes_out_and_transformers_reads_it(
  reranker, names, tmp_path
):
  _, folder = reranker
  module, params, head = hf_heads.load(folder, "classes")
  head = jax.tree.map(lambda x: x * 1.5, head)
  hf_heads.save(tmp_path, module, params, "classes", head, pad_id=1)
  model, info = names[3].from_pretrained(tmp_path, output_loading_info=True)
  assert not any(info.values()), info
  rows = parity.batch(module.config.vocab_size)
  ours_B2, _ = Reranker(module)(with_head(params, head), rows)
  np.testing.assert_allclose(
    ours_B2, torch_scores(model.eval(), rows), atol=1e-4
  )
  assert model.config.id2label[1] == "correct"


def test_an_untied_model_s_vocabulary_head_stays_behind(policy, tmp_path):
  module, params = hf.load(policy[2])
  head = {"out": {"kernel": jnp.ones((24, 2))}}
  hf_heads.save(tmp_path, module, params, "classes", head, pad_id=1)
  assert "lm_head.weight" not in parity.read_tensors(tmp_path)
  _, again, score = hf_heads.load(tmp_path, "classes")
  assert "head" not in again
  np.testing.assert_array_equal(score["out"]["kernel"], np.ones((24, 2)))


def test_heads_lie_on_the_mesh(reranker):
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  _, _, head = hf_heads.load(reranker[1], "classes", mesh=mesh)
  assert head["out"]["kernel"].sharding == sharding.replicated(mesh)


def test_what_is_missing_or_misshapen_is_named(policy, reranker, tmp_path):
  with pytest.raises(hf.BadFolder, match=r"score\.weight is missing"):
    hf_heads.load(policy[2], "classes")
  with pytest.raises(ValueError, match="not 'reward'"):
    hf_heads.load(policy[2], "reward")
  tensors = load_file(reranker[1] / "model.safetensors")
  tensors["score.weight"] = np.zeros((3, 24), np.float32)
  save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
  config = (reranker[1] / "config.json").read_text()
  (tmp_path / "config.json").write_text(config)
  with pytest.raises(hf.BadFolder, match=r"\(3, 24\), expected \(2, 24\)"):
    hf_heads.load(tmp_path, "classes")
