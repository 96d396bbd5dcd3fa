"""Our decoders against transformers' on the weights of a saved folder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tiny_families
import torch
from safetensors.numpy import load_file

from refine_jax.batch import Batch
from refine_jax.models import hf

TOLERANCE = 1e-4
PROMPT_LENGTHS = (5, 3)
TARGET_LENGTHS = (4, 6)


def saved(model_class, config, folder, *, seed=0):
  """A random torch model, also written to `folder`."""
  torch.manual_seed(seed)
  model = model_class(config).eval()
  with torch.no_grad():  # norms and biases would all start at 1 and 0
    for parameter in model.parameters():
      parameter.add_(torch.randn_like(parameter) * 0.05)
  model.save_pretrained(folder)
  return model


def batch(vocab_size, *, seed=0):
  """Two ragged examples; ids from 3 on, as torch freezes padding rows."""
  rng = np.random.default_rng(seed)
  P, T = max(PROMPT_LENGTHS), max(TARGET_LENGTHS)
  prompt_mask = np.arange(P) >= P - np.array(PROMPT_LENGTHS)[:, None]
  target_mask = np.arange(T) < np.array(TARGET_LENGTHS)[:, None]
  return Batch(
    rng.integers(3, vocab_size, (2, P), np.int32),
    prompt_mask,
    rng.integers(3, vocab_size, (2, T), np.int32),
    target_mask,
    target_mask,
  )


def _row(batch, i):
  prompt = batch.prompt_BP[i][batch.prompt_mask_BP[i]]
  target = batch.target_BT[i][batch.target_mask_BT[i]]
  return prompt, target


def torch_logits(model, batch):
  """Per example, the logits that predict its target; no padding anywhere."""
  found = []
  for i in range(len(batch.prompt_BP)):
    prompt, target = (torch.tensor(x[None]).long() for x in _row(batch, i))
    if model.config.is_encoder_decoder:
      found.append(model(input_ids=prompt, labels=target).logits[0])
      continue
    logits = model(input_ids=torch.cat([prompt, target], 1)).logits[0]
    found.append(logits[prompt.shape[1] - 1 : -1])
  return found


def torch_loss(model, batch):
  total = 0.0
  for i, logits in enumerate(torch_logits(model, batch)):
    target = torch.tensor(_row(batch, i)[1].astype(np.int64))
    total += torch.nn.functional.cross_entropy(logits, target, reduction="sum")
  return total / int(batch.target_mask_BT.sum())


@functools.partial(jax.jit, static_argnums=0)
def both(module, params, batch):
  """Logits and loss gradients in one program."""
  hidden_BTD = module.apply({"params": params}, batch).hidden_BTD
  gradient = jax.grad(lambda p: tiny_families.loss(module, p, batch))(params)
  return module.unembed(params, hidden_BTD), gradient


@functools.partial(jax.jit, static_argnums=(0, 4))
def continuation(module, params, prompt_BP, lengths_B, steps):
  """Greedy tokens, by prefill and steps over the cache."""
  weights = module.decode_weights(params)
  slots = prompt_BP.shape[0]
  cache = module.new_cache(slots, prompt_BP.shape[1] + steps)
  logits_BV, cache = module.prefill(
    weights, prompt_BP, lengths_B, cache, jnp.arange(slots)
  )

  def body(carry, _):
    logits_BV, cache = carry
    tokens_B = jnp.argmax(logits_BV, axis=-1)
    return module.step(weights, cache, tokens_B), tokens_B

  _, tokens_TB = jax.lax.scan(body, (logits_BV, cache), None, steps)
  return tokens_TB.T


def check_logits_and_gradients(model, module, params, tmp_path):
  """Gradients are compared through `hf.save`, so names and layouts count."""
  rows = batch(module.config.vocab_size)
  logits_BTV, gradient = both(module, params, rows)
  expected = torch_logits(model, rows)
  for i, theirs in enumerate(expected):
    ours = np.asarray(logits_BTV)[i][rows.target_mask_BT[i]]
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=TOLERANCE)
  model.zero_grad()
  torch_loss(model, rows).backward()
  hf.save(tmp_path / "gradient", module, gradient)
  ours = read_tensors(tmp_path / "gradient")
  theirs = {k: v.grad for k, v in model.named_parameters()}
  assert set(ours) == set(theirs)
  for name, value in theirs.items():
    np.testing.assert_allclose(
      ours[name], value.numpy(), atol=TOLERANCE, err_msg=name
    )
    assert np.abs(ours[name]).max() > 0, name


def check_continuation(model, module, params, steps=64):
  rows = batch(module.config.vocab_size, seed=1)
  lengths_B = rows.prompt_mask_BP.sum(1)
  prompt_BP = np.zeros_like(rows.prompt_BP)
  for i, length in enumerate(lengths_B):
    prompt_BP[i, :length] = _row(rows, i)[0]
  ours = continuation(module, params, prompt_BP, lengths_B, steps)
  ours = np.asarray(ours)
  for i, length in enumerate(lengths_B):
    theirs = model.generate(
      torch.tensor(prompt_BP[None, i, :length].astype(np.int64)),
      attention_mask=torch.ones((1, int(length)), dtype=torch.int64),
      max_new_tokens=steps,
      min_new_tokens=steps,
      do_sample=False,
      eos_token_id=None,
      pad_token_id=0,
    )
    assert ours[i].tolist() == theirs[0, length:].tolist()


def check_export(model_class, module, params, tmp_path):
  """Written by us in several files, read by transformers: the same logits."""
  params = jax.tree.map(
    # Placed as before, so that nothing is compiled again.
    lambda x: jax.device_put(np.asarray(x) * np.float32(1.1), x.sharding),
    params,
  )
  hf.save(tmp_path / "export", module, params, shard_bytes=20_000)
  model, info = model_class.from_pretrained(
    tmp_path / "export", output_loading_info=True
  )
  assert not any(info.values()), info
  rows = batch(module.config.vocab_size)
  ours = np.asarray(both(module, params, rows)[0])
  for i, theirs in enumerate(torch_logits(model.eval(), rows)):
    np.testing.assert_allclose(
      ours[i][rows.target_mask_BT[i]], theirs.detach().numpy(), atol=TOLERANCE
    )


def read_tensors(folder):
  found = {}
  for path in sorted(folder.glob("*.safetensors")):
    found |= load_file(path)
  return found
