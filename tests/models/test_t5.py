"""T5 against transformers + torch, and against slow references."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import torch
import transformers
from flax import linen as nn
from transformers.models.t5 import modeling_t5

from refine_jax.batch import Batch
from refine_jax.models import hf, t5_positions, t5_rows
from refine_jax.models.t5 import T5, T5Config

CONFIG = T5Config(
  vocab_size=96,
  width=32,
  mlp=48,
  heads=4,
  head_dim=8,
  encoder_layers=3,
  decoder_layers=2,
  buckets=8,
  max_distance=20,
)
EOS = 1


HF = {
  "vocab_size": 96,
  "d_model": 32,
  "d_kv": 8,
  "d_ff": 48,
  "num_layers": 3,
  "num_decoder_layers": 2,
  "num_heads": 4,
  "relative_attention_num_buckets": 8,
  "relative_attention_max_distance": 20,
  "dropout_rate": 0.0,
  "decoder_start_token_id": 0,
}
VARIANTS = {
  "v1.0": {"feed_forward_proj": "relu"},
  "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
  """Their model, ours, and our parameters, through a saved folder."""
  torch.manual_seed(0)
  config = transformers.T5Config(**HF, **VARIANTS[request.param])
  theirs = transformers.T5ForConditionalGeneration(config).eval()
  if request.param == "v1.1":
    # transformers ties the head of a fresh model whatever it is told.
    head = torch.randn(96, 32) * 0.2
    theirs.lm_head.weight = torch.nn.Parameter(head)
  with torch.no_grad():
    for name, parameter in theirs.named_parameters():
      if "layer_norm" in name:
        parameter.uniform_(0.5, 1.5)
  folder = tmp_path_factory.mktemp("theirs")
  theirs.save_pretrained(folder)
  return theirs, *hf.load(folder)


PROMPT_LENGTHS, TARGET_LENGTHS = (30, 11, 1), (17, 24, 5)


def make_batch(prompt=30, target=24, seed=0):
  """Three ragged examples; positions that do not exist hold random ids."""
  rng = np.random.default_rng(seed)
  prompt_mask = np.arange(prompt) >= prompt - np.array(PROMPT_LENGTHS)[:, None]
  target_mask = np.arange(target) < np.array(TARGET_LENGTHS)[:, None]
  return Batch(
    prompt_BP=jnp.asarray(rng.integers(2, 96, prompt_mask.shape)),
    prompt_mask_BP=jnp.asarray(prompt_mask),
    target_BT=jnp.asarray(rng.integers(2, 96, target_mask.shape)),
    target_mask_BT=jnp.asarray(target_mask),
    loss_mask_BT=jnp.asarray(target_mask),
  )


def to_right(batch):
  """Prompts padded right with 0 and their masks, as numpy."""
  ids = np.zeros(batch.prompt_BP.shape, np.int64)
  mask = np.zeros_like(ids)
  for row, length in enumerate(PROMPT_LENGTHS):
    ids[row, :length] = np.asarray(batch.prompt_BP)[row, -length:]
    mask[row, :length] = 1
  return ids, mask


def their_answer(theirs, batch):
  """Loss and logits."""
  ids, mask = to_right(batch)
  labels = np.where(batch.target_mask_BT, batch.target_BT, -100)
  return theirs(
    input_ids=torch.tensor(ids),
    attention_mask=torch.tensor(mask),
    labels=torch.tensor(labels).long(),
  )


def loss_of(model, params, batch):
  """The mean cross-entropy over existing targets, and the logits."""
  output = model.apply({"params": params}, batch)
  logits_BTV = model.unembed(params, output.hidden_BTD)
  logprobs = jax.nn.log_softmax(logits_BTV)
  picked = jnp.take_along_axis(logprobs, batch.target_BT[..., None], -1)
  mask = batch.loss_mask_BT
  return -jnp.sum(picked[..., 0] * mask) / mask.sum(), logits_BTV


@functools.partial(jax.jit, static_argnums=0)
def gradient_of(model, params, batch):
  """((loss, logits), gradient)"""
  loss = functools.partial(loss_of, model)
  return jax.value_and_grad(loss, has_aux=True)(params, batch)


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, batch, rng=None):
  rngs = None if rng is None else {"dropout": rng}
  return model.apply({"params": params}, batch, rngs=rngs)


def close(ours, theirs, tolerance=1e-4, name=""):
  np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=0, err_msg=name)


def test_logits_and_gradients_match_torch(pair, tmp_path):
  """Gradients go through `hf.save`, which names them as torch does."""
  theirs, model, params = pair
  batch = make_batch()
  answer = their_answer(theirs, batch)
  theirs.zero_grad()
  answer.loss.backward()
  (loss, logits_BTV), gradient = gradient_of(model, params, batch)
  exists = np.asarray(batch.target_mask_BT)
  logits = np.asarray(logits_BTV)[exists]
  close(logits, answer.logits.detach().numpy()[exists])
  close(loss, answer.loss.item(), 1e-5)
  hf.save(tmp_path, model, gradient)
  ours = parity.read_tensors(tmp_path)
  expected = {name: p.grad for name, p in theirs.named_parameters()}
  assert set(ours) == set(expected)
  for name, grad in expected.items():
    close(ours[name], grad.numpy(), 1e-4, name)
    assert np.abs(ours[name]).max() > 0, name


def test_export_is_read_by_transformers(pair, tmp_path):
  _, model, params = pair
  params = jax.tree.map(
    lambda leaf: jax.device_put(np.asarray(leaf) * 1.1, leaf.sharding), params
  )
  hf.save(tmp_path, model, params, shard_bytes=20_000)
  theirs, info = transformers.T5ForConditionalGeneration.from_pretrained(
    tmp_path, output_loading_info=True
  )
  assert not any(info.values()), info
  batch = make_batch()
  expected = their_answer(theirs.eval(), batch).logits.detach().numpy()
  logits_BTV = gradient_of(model, params, batch)[0][1]
  exists = np.asarray(batch.target_mask_BT)
  close(np.asarray(logits_BTV)[exists], expected[exists])


def test_greedy_continuation_matches_torch(pair):
  theirs, model, params = pair
  ids, mask = to_right(make_batch())
  expected = theirs.generate(
    torch.tensor(ids),
    attention_mask=torch.tensor(mask),
    do_sample=False,
    max_new_tokens=64,
    min_new_tokens=64,
    eos_token_id=EOS,
  )

  @jax.jit
  def generate(params):
    weights = model.decode_weights(params)
    cache = model.new_cache(4, 64, ids.shape[1] + 2)
    # Rows go to slots out of order, and one slot holds nothing.
    slots_B = jnp.array([2, 0, 3])
    logits_BV, cache = model.prefill(
      weights, jnp.asarray(ids), jnp.array(PROMPT_LENGTHS), cache, slots_B
    )
    logits = jnp.zeros((4, logits_BV.shape[1])).at[slots_B].set(logits_BV)

    def body(carry, _):
      cache, logits_BV = carry
      tokens_B = jnp.argmax(logits_BV.at[:, EOS].set(-jnp.inf), axis=-1)
      logits_BV, cache = model.step(weights, cache, tokens_B)
      return (cache, logits_BV), tokens_B

    _, tokens_TB = jax.lax.scan(body, (cache, logits), length=64)
    return tokens_TB.T[slots_B]

  np.testing.assert_array_equal(generate(params), expected.numpy()[:, 1:])


def test_encoder_alone_matches_torch(pair):
  theirs, model, params = pair
  encoder = transformers.T5EncoderModel(theirs.config).eval()
  encoder.load_state_dict(theirs.state_dict(), strict=False)
  batch = make_batch()
  ids, mask = to_right(batch)
  with torch.no_grad():
    states = encoder(torch.tensor(ids), torch.tensor(mask)).last_hidden_state
  states = states.numpy()

  @jax.jit
  def run(*prompt):
    return model.encode(*prompt), model.embed(*prompt)

  ours, embedded = run(params, batch.prompt_BP, batch.prompt_mask_BP)
  pooled = []
  for row, length in enumerate(PROMPT_LENGTHS):
    close(ours[row, -length:], states[row, :length])
    pooled.append(states[row, :length].mean(0))
  pooled /= np.linalg.norm(pooled, axis=-1, keepdims=True)
  close(embedded, pooled, 1e-5)
  assert embedded.dtype == jnp.float32


def slow_bucket(relative, buckets, max_distance, two_sided):
  """Section 2.1 of the paper, in whole numbers, one distance at a time."""
  first = 0
  if two_sided:
    buckets //= 2
    first = buckets if relative > 0 else 0
  elif relative > 0:
    relative = 0
  distance, exact = abs(relative), buckets // 2
  if distance < exact:
    return first + distance
  wide = buckets - exact
  # exact * (max_distance / exact) ** (k / wide) <= distance
  powers = [
    k
    for k in range(wide)
    if exact ** (wide - k) * max_distance**k <= distance**wide
  ]
  return first + exact + max(powers)


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize(
  "buckets, max_distance", [(32, 128), (8, 20), (16, 64), (32, 256), (12, 100)]
)
def test_buckets(buckets, max_distance, two_sided):
  relative = np.arange(-300, 301)
  kind = {"buckets": buckets, "max_distance": max_distance}
  ours = t5_positions.bucket_of(relative, two_sided=two_sided, **kind)
  slow = [
    slow_bucket(int(d), buckets, max_distance, two_sided) for d in relative
  ]
  np.testing.assert_array_equal(ours, slow)
  theirs = modeling_t5.T5Attention._relative_position_bucket(
    torch.tensor(relative), two_sided, buckets, max_distance
  )
  np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("length", [1, 2, 45])
def test_bias_of_every_pair(two_sided, length):
  kind = {"buckets": 8, "max_distance": 20, "two_sided": two_sided}
  table = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
  bias = t5_positions.RelativeBias(heads=3, deviation=1.0, **kind)
  variables = {"params": {"table": table}}
  expected = np.zeros((1, 3, length, length), np.float32)
  for query, key in np.ndindex(length, length):
    expected[0, :, query, key] = table[slow_bucket(key - query, **kind)]
  np.testing.assert_array_equal(bias.apply(variables, length), expected)
  if not two_sided:
    at = bias.apply(variables, jnp.arange(length), length, method="at")
    for query in range(length):
      seen = slice(query + 1)
      np.testing.assert_array_equal(
        at[query, :, seen], expected[0, :, query, seen]
      )


def test_targets_become_inputs():
  target = jnp.array([[11, 12, 21, 31, 32, 99]])
  segments = jnp.array([[1, 1, 2, 3, 3, 0]])
  inputs, same = t5_rows.shift(target, segments, 7)
  np.testing.assert_array_equal(inputs[0, :5], [7, 11, 7, 7, 31])
  assert same is segments
  inputs, none = t5_rows.shift(target, None, 7)
  np.testing.assert_array_equal(inputs, [[7, 11, 12, 21, 31, 32]])
  assert none is None
  inputs, spread, at = t5_rows.extend(target, segments, 7)
  np.testing.assert_array_equal(inputs[0, :8], [7, 11, 12, 7, 21, 7, 31, 32])
  np.testing.assert_array_equal(spread[0], [1, 1, 1, 2, 2, 3, 3, 3] + 4 * [0])
  np.testing.assert_array_equal(at[0, :5], [1, 2, 4, 6, 7])


@pytest.fixture(scope="module")
def small():
  """A fresh model with every option for early learning."""
  config = dataclasses.replace(CONFIG, init_local_slope=True, init_tie_qk=True)
  model = T5(config)
  params = jax.jit(model.init)(jax.random.key(0), make_batch())
  return model, nn.unbox(params)["params"]


def test_last_has_read_its_token(small):
  model, params = small
  batch = make_batch()
  output = apply(model, params, batch)
  longer = jnp.pad(batch.target_BT, ((0, 0), (0, 1)), constant_values=3)
  ones = jnp.ones(longer.shape, bool)
  longer = batch.replace(
    target_BT=longer, target_mask_BT=ones, loss_mask_BT=ones
  )
  np.testing.assert_allclose(
    output.last_BTD,
    apply(model, params, longer).hidden_BTD[:, 1:],
    atol=1e-5,
  )


def test_packed_last_equals_unpacked(small):
  """Ends of packed examples, where the next one's start would follow."""
  model, params = small
  batch = make_batch()
  apart = apply(model, params, batch)

  def join(values, mask):
    return jnp.asarray(np.asarray(values)[np.asarray(mask)][None])

  number = np.arange(1, 4)[:, None]
  prompt_mask, target_mask = batch.prompt_mask_BP, batch.target_mask_BT
  target = join(batch.target_BT, target_mask)
  exists = jnp.ones(target.shape, bool)
  prompt = join(batch.prompt_BP, prompt_mask)
  packed = Batch(
    prompt_BP=prompt,
    prompt_mask_BP=jnp.ones(prompt.shape, bool),
    target_BT=target,
    target_mask_BT=exists,
    loss_mask_BT=exists,
    prompt_segments_BP=join(number * prompt_mask, prompt_mask),
    target_segments_BT=join(number * target_mask, target_mask),
  )
  together = apply(model, params, packed)
  for name in ("hidden_BTD", "last_BTD"):
    np.testing.assert_allclose(
      getattr(together, name),
      join(getattr(apart, name), target_mask),
      atol=1e-5,
    )


def test_the_pass_not_used_costs_nothing():
  """A loss on hidden does not pay for last, nor a reranker for hidden."""
  sizes = {"encoder_layers": 1, "decoder_layers": 1}
  model = T5(dataclasses.replace(CONFIG, **sizes))
  batch = make_batch()
  params = jax.eval_shape(model.init, jax.random.key(0), batch)
  params = nn.unbox(params)["params"]

  def flops(pick):
    def run(params, batch):
      return pick(model.apply({"params": params}, batch))

    compiled = jax.jit(run).lower(params, batch).compile()
    return compiled.cost_analysis()["flops"]

  both = flops(lambda output: output)
  hidden = flops(lambda output: output.hidden_BTD)
  last = flops(lambda output: output.last_BTD)
  assert hidden < 0.75 * both and last < 0.75 * both


def test_a_loop_with_remat_changes_nothing(small):
  model, params = small
  batch = make_batch()
  other = T5(dataclasses.replace(model.config, remat="full"))
  jax.tree.map(
    lambda a, b: close(a, b, 1e-5),
    gradient_of(model, params, batch),
    gradient_of(other, params, batch),
  )


def test_dropout_only_with_an_rng(small):
  plain, params = small
  model = T5(dataclasses.replace(plain.config, dropout=0.3))
  batch = make_batch()

  def run(model, *rng):
    return np.asarray(apply(model, params, batch, *rng).hidden_BTD)

  np.testing.assert_array_equal(run(model), run(plain))
  one, two = run(model, jax.random.key(1)), run(model, jax.random.key(2))
  np.testing.assert_array_equal(one, run(model, jax.random.key(1)))
  assert np.abs(one - run(plain)).max() > 0.1
  assert np.abs(one - two).max() > 0.1


def test_half_precision(small):
  model, params = small
  half = T5(dataclasses.replace(model.config, dtype="bfloat16"))
  batch = make_batch()
  hidden_BTD = apply(half, params, batch).hidden_BTD
  assert hidden_BTD.dtype == jnp.bfloat16
  logits_BTV = half.unembed(params, hidden_BTD)
  assert logits_BTV.dtype == jnp.float32
  expected_BTV = model.unembed(params, apply(model, params, batch).hidden_BTD)
  assert np.abs(logits_BTV - expected_BTV).mean() < 0.05


def test_decode_weights(small):
  model, params = small
  half = T5(dataclasses.replace(model.config, dtype="bfloat16"))
  weights = half.decode_weights(params)
  stacked = params["decoder"]["layers"]["cross"]["q"]["kernel"]
  kernel = weights["decoder"]["layers"][1]["cross"]["q"]["kernel"]
  assert kernel.dtype == jnp.bfloat16
  np.testing.assert_array_equal(kernel, stacked[1].astype(jnp.bfloat16))
  decoder = weights["decoder"]
  assert decoder["relative_bias"]["table"].dtype == jnp.float32
  assert decoder["layers"][0]["mlp_norm"]["scale"].dtype == jnp.float32


def test_starts_that_make_small_models_learn(small):
  _, params = small
  for stack in ("encoder", "decoder"):
    for name in ("attention", "cross")[: 1 + (stack == "decoder")]:
      attention = params[stack]["layers"][name]
      q, k = attention["q"]["kernel"], attention["k"]["kernel"]
      np.testing.assert_array_equal(q, k)
      assert np.abs(q[0] - q[1]).max() > 0.01  # layers differ
  # 8 buckets, 4 to a side, of distances from 0, 1, 2 and 7.
  starts = t5_positions.starts(4, 20)
  np.testing.assert_array_equal(starts, [0, 1, 2, 7])
  table = params["encoder"]["relative_bias"]["table"]
  noise = table + np.outer(np.tile(starts, 2), [1.0, 0.5, 0, 0])
  assert np.abs(noise).max() < 4 * 32**-0.5


@pytest.mark.parametrize(
  "field, value", [("buckets", 6), ("buckets", 0), ("max_distance", 4)]
)
def test_bad_buckets_are_refused(field, value):
  with pytest.raises(ValueError, match=f"{field}={value}"):
    dataclasses.replace(CONFIG, **{field: value})


def test_a_prompt_that_does_not_fit_is_refused():
  model = T5(CONFIG)
  cache = jax.eval_shape(lambda: model.new_cache(1, 4, prompt_length=2))
  prompt_BP, one_B = jnp.ones((1, 3), jnp.int32), jnp.ones((1,), jnp.int32)
  with pytest.raises(ValueError, match=r"3 positions.*prompt_length=2"):
    model.prefill({}, prompt_BP, one_B, cache, one_B)
