"""The contract of a model family, for every family the package has."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_families as tiny
from flax import linen as nn
from jax.sharding import PartitionSpec

from refine_jax import sharding
from refine_jax.models import families
from refine_jax.models.llama import RopeScaling

close = functools.partial(np.testing.assert_allclose, atol=2e-5, rtol=1e-4)


@pytest.fixture(scope="module", params=tiny.names())
def family(request):
  return tiny.tiny(request.param)


def test_the_three_families_are_found():
  assert {"llama", "galactica", "t5"} <= set(families.families())


def test_what_padding_holds_and_how_much_there_is_changes_nothing(family):
  expected = tiny.states(*family, tiny.batch())
  for other in (tiny.batch(junk=9), tiny.batch(P=8, T=9, junk=9)):
    for ours, theirs in zip(tiny.states(*family, other), expected, strict=True):
      close(ours, theirs)


def test_packed_is_unpacked(family):
  expected = tiny.states(*family, tiny.batch())
  found = tiny.states(*family, tiny.packed())
  for ours, theirs in zip(found, expected, strict=True):
    close(ours, theirs)


def test_last_is_the_next_hidden(family):
  hidden, last = tiny.states(*family, tiny.batch())
  ends = np.cumsum([len(target) for _, target in tiny.EXAMPLES])
  inside = np.setdiff1d(np.arange(len(hidden)), ends - 1)
  close(last[inside], hidden[inside + 1])


def test_hidden_has_not_read_its_token_and_last_has(family):
  before = tiny.states(*family, tiny.batch())
  changed = [(p, np.r_[t[:-1], t[-1] ^ 1]) for p, t in tiny.EXAMPLES]
  after = tiny.states(*family, tiny.batch(changed))
  close(after[0], before[0])
  ends = np.cumsum([len(target) for _, target in tiny.EXAMPLES]) - 1
  assert np.all(np.abs(after[1] - before[1]).max(axis=-1)[ends] > 1e-3)


@functools.partial(jax.jit, static_argnums=0)
def prefill(module, weights, prompt_BP, lengths_B, cache, slots_B):
  return module.prefill(weights, prompt_BP, lengths_B, cache, slots_B)


@functools.partial(jax.jit, static_argnums=0)
def step(module, weights, cache, tokens_B, active_B):
  return module.step(weights, cache, tokens_B, active_B)


def right_padded():
  prompts = [prompt for prompt, _ in tiny.EXAMPLES]
  ids, mask = tiny._pad(prompts, 5, 0, left=False)
  return ids, mask.sum(1)


# More slots than rows, in an order of their own.
SLOTS = np.array([4, 0, 3, 1])


def decoded(module, params):
  """Logits [T, slots, V] while targets of different lengths go in."""
  weights = jax.jit(module.decode_weights)(params)
  prompt_BP, lengths_B = right_padded()
  cache = module.new_cache(5, 12, prompt_length=6)
  first, cache = prefill(module, weights, prompt_BP, lengths_B, cache, SLOTS)
  logits = np.zeros((5, first.shape[-1]), np.float32)
  logits[SLOTS] = first
  found = [logits]
  batch = tiny.batch()
  for t in range(batch.target_BT.shape[1] - 1):
    tokens, active = np.zeros(5, np.int32), np.zeros(5, bool)
    tokens[SLOTS] = batch.target_BT[:, t]
    active[SLOTS] = batch.target_mask_BT[:, t]
    logits, cache = step(module, weights, cache, tokens, active)
    found.append(np.asarray(logits))
  return np.stack(found), cache


def test_the_cache_is_teacher_forcing(family):
  module, params = family
  batch = tiny.batch()
  hidden_BTD = tiny.apply(module, params, batch).hidden_BTD
  expected_BTV = np.asarray(module.unembed(params, hidden_BTD))
  found, cache = decoded(module, params)
  for i, slot in enumerate(SLOTS):
    length = len(tiny.EXAMPLES[i][1])
    close(found[:length, slot], expected_BTV[i, :length])
  assert cache.lengths_B[2] == 0, "an inactive slot grew"


def test_an_inactive_slot_is_left_alone(family):
  module, params = family
  weights = jax.jit(module.decode_weights)(params)
  cache = decoded(module, params)[1]
  tokens, active = np.full(5, 7), np.arange(5) == 0
  _, after = step(module, weights, cache, tokens.astype(np.int32), active)
  for old, new in zip(
    (*cache.keys, *cache.values), (*after.keys, *after.values), strict=True
  ):
    np.testing.assert_array_equal(old[1:], new[1:])
    assert np.any(np.asarray(old[0]) != np.asarray(new[0]))
  assert (after.lengths_B - cache.lengths_B).tolist() == [1, 0, 0, 0, 0]


def test_prefill_in_pieces_is_prefill_at_once(family):
  module, params = family
  if module.encoder_decoder:
    pytest.skip("an encoder reads a prompt as a whole")
  weights = jax.jit(module.decode_weights)(params)
  prompt_BP, lengths_B = right_padded()
  cache = module.new_cache(5, 12)
  whole, cache = prefill(module, weights, prompt_BP, lengths_B, cache, SLOTS)
  pieces = module.new_cache(5, 12)
  first = np.minimum(lengths_B, 2)
  rest = np.zeros_like(prompt_BP)
  rest[:, :3] = prompt_BP[:, 2:]
  one, pieces = prefill(module, weights, prompt_BP, first, pieces, SLOTS)
  two, pieces = prefill(module, weights, rest, lengths_B - first, pieces, SLOTS)
  more = lengths_B > first
  close(np.where(more[:, None], two, one), whole)
  np.testing.assert_array_equal(pieces.lengths_B, cache.lengths_B)
  for ours, theirs in zip(pieces.keys, cache.keys, strict=True):
    close(ours, theirs)


def test_prefill_of_a_slot_that_is_not_there_changes_nothing(family):
  module, params = family
  weights = jax.jit(module.decode_weights)(params)
  cache = decoded(module, params)[1]
  prompt_BP, lengths_B = right_padded()
  _, after = prefill(
    module, weights, prompt_BP, lengths_B, cache, np.full(4, 5)
  )
  jax.tree.map(np.testing.assert_array_equal, cache, after)


def test_embeddings_are_unit_rows_that_ignore_padding(family):
  module, params = family
  embed = jax.jit(module.embed)
  batch = tiny.batch()
  rows = embed(params, batch.prompt_BP, batch.prompt_mask_BP)
  assert rows.dtype == jnp.float32
  close(np.linalg.norm(rows, axis=-1), 1.0)
  other = tiny.batch(junk=5)
  close(embed(params, other.prompt_BP, other.prompt_mask_BP), rows)
  prompt_BP, lengths_B = right_padded()
  mask_BP = np.arange(5) < lengths_B[:, None]
  close(embed(params, prompt_BP, mask_BP), rows)


def mesh():
  return sharding.make_mesh(data=2, fsdp=2, tensor=2)


def placed(module, params, mesh):
  shardings = sharding.of_variables(families.abstract_params(module), mesh)
  return jax.device_put(params, shardings)


def test_every_parameter_has_logical_axes_and_matrices_are_split(family):
  module, _ = family
  abstract = families.abstract_params(module)
  boxes = jax.tree.leaves(
    abstract, is_leaf=lambda x: isinstance(x, nn.Partitioned)
  )
  for box in boxes:
    assert isinstance(box, nn.Partitioned)
    assert len(box.names) == box.value.ndim
    assert {*box.names} - {None} <= sharding.RULES.keys()
    if "norm" not in box.names and box.value.size > 1000:
      spec = sharding.spec(box.names, box.value.shape, mesh())
      assert spec != PartitionSpec(*[None] * box.value.ndim), box


def test_sharded_is_unsharded(family):
  module, params = family
  batch = tiny.batch()
  expected = tiny.loss_and_gradient(module, params, batch)
  on = mesh()
  with jax.set_mesh(on):
    found = tiny.loss_and_gradient(
      module,
      placed(module, params, on),
      jax.device_put(batch, sharding.of_batch(on)),
    )
  jax.tree.map(close, found, expected)


def test_sharded_decoding_is_unsharded(family):
  module, params = family
  expected, _ = decoded(module, params)
  on = mesh()
  with jax.set_mesh(on):
    found, _ = decoded(module, placed(module, params, on))
  close(found[:, SLOTS], expected[:, SLOTS])


def test_remat_and_unrolling_change_nothing(family):
  module, params = family
  changes = {"remat": "full", "unroll": 2}
  other = type(module)(dataclasses.replace(module.config, **changes))
  ours = tiny.loss_and_gradient(other, params, tiny.batch())
  jax.tree.map(close, ours, tiny.loss_and_gradient(*family, tiny.batch()))


def test_bfloat16_is_near_float32(family):
  module, params = family
  half = type(module)(dataclasses.replace(module.config, dtype="bfloat16"))
  output = tiny.apply(half, params, tiny.batch())
  assert output.hidden_BTD.dtype == jnp.bfloat16
  logits = half.unembed(params, output.hidden_BTD)
  assert logits.dtype == jnp.float32
  exact = module.unembed(params, tiny.apply(*family, tiny.batch()).hidden_BTD)
  mask = tiny.batch().target_mask_BT
  error = np.abs(np.asarray(logits - exact))[mask]
  assert error.mean() < 0.05 * np.abs(np.asarray(exact)[mask]).mean()
  weights = jax.eval_shape(half.decode_weights, params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
    kept = any(word in str(path) for word in ("norm", "relative_bias"))
    assert leaf.dtype == (jnp.float32 if kept else jnp.bfloat16), path


def test_a_description_rebuilds_the_module(family):
  module, _ = family
  text = json.dumps(families.describe(module))
  assert families.build(json.loads(text)) == module


def test_a_nested_description_rebuilds_too():
  module, _ = tiny.tiny("llama")
  config = dataclasses.replace(
    module.config, rope_scaling=RopeScaling("llama3", 2.0)
  )
  module = type(module)(config)
  text = json.dumps(families.describe(module))
  assert families.build(json.loads(text)) == module


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"family": "lama"}, "'lama': expected one of"),
    ({"config": {"vocab_siz": 3}}, "did you mean 'vocab_size'"),
    ({"config": {"vocab_size": 3}}, "needs the field 'width'"),
  ],
)
def test_a_bad_description_is_told_apart(change, message):
  module, _ = tiny.tiny("llama")
  with pytest.raises(ValueError, match=message):
    families.build(families.describe(module) | change)
