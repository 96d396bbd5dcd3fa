"""Any number of micro-batches and devices gives the big batch's gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import FakeConfig, FakeFamily, fake_batch

from refine_jax import sharding
from refine_jax.training.loss import Loss, Mean, supervised_loss
from refine_jax.training.state import (
  TrainState,
  abstract_params,
  init_state,
  named_leaves,
)
from refine_jax.training.step import (
  counts,
  evaluate,
  make_eval_step,
  make_train_step,
  means,
)

FAMILY = FakeFamily()
# Its update is the gradient, so that parameters show gradients.
SGD = optax.sgd(1.0)


def mesh_of(**sizes):
  count = int(np.prod(list(sizes.values())))
  return sharding.make_mesh(**sizes, devices=jax.devices()[:count])


ONE = mesh_of(fsdp=1)


@functools.cache
def start():
  state = init_state(FAMILY, SGD, jax.random.key(0), ONE, fake_batch(0))
  return host(state.params)


def fresh(mesh=ONE):
  abstract = abstract_params(FAMILY, fake_batch(0), mesh)
  where = jax.tree.map(lambda x: x.sharding, abstract)
  # A copy, because the step will donate it.
  params = jax.device_put(jax.tree.map(np.copy, start()), where)
  step = jax.device_put(np.int32(0), sharding.replicated(mesh))
  return TrainState(step, params, SGD.init(params))


def host(tree):
  return jax.tree.map(np.asarray, tree)


def gradient(loss_fn, batch, mesh=ONE, **kwargs):
  state = fresh(mesh=mesh)
  before = host(state.params)
  batch = jax.device_put(batch, kwargs.pop("place", sharding.of_batch(mesh)))
  step = make_train_step(loss_fn, SGD, **kwargs)
  state, metrics = step(state, batch, jax.random.key(1))
  after = host(state.params)
  return jax.tree.map(np.subtract, before, after), means([metrics])


def assert_equal(got, want, rtol=1e-5):
  """To `rtol` of each array's largest entry."""
  got, want = named_leaves(got), named_leaves(want)
  assert got.keys() == want.keys()
  for name in want:
    scale = np.abs(want[name]).max()
    assert scale > 0, name
    np.testing.assert_allclose(
      got[name], want[name], atol=rtol * scale, rtol=0, err_msg=name
    )


def plain_gradient(batch, smoothing, reduction):
  """The mean over tokens or rows, written out."""

  def loss(params):
    hidden_BTD = FAMILY.apply({"params": params}, batch).hidden_BTD
    logprob_BTV = jax.nn.log_softmax(FAMILY.unembed(params, hidden_BTD))
    hot_BTV = jax.nn.one_hot(batch.target_BT, logprob_BTV.shape[-1])
    hot_BTV = (1 - smoothing) * hot_BTV + smoothing / logprob_BTV.shape[-1]
    nll_BT = -(hot_BTV * logprob_BTV).sum(-1)
    if reduction == "token":
      return nll_BT[batch.loss_mask_BT].mean()
    rows = zip(nll_BT, batch.loss_mask_BT, strict=True)
    means = [nll_T[mask_T].mean() for nll_T, mask_T in rows if mask_T.any()]
    return sum(means) / len(means)

  return jax.jit(jax.value_and_grad(loss))(start())


@pytest.mark.parametrize(
  "reduction, sizes, micro_batches",
  [
    ("token", {"fsdp": 1}, 16),
    ("token", {"data": 2, "fsdp": 2, "tensor": 2}, 1),
    ("token", {"data": 2, "fsdp": 2, "tensor": 2}, 2),
    ("sequence", {"fsdp": 1}, 4),
  ],
)
def test_micro_batches_and_devices_do_not_matter(
  reduction, sizes, micro_batches
):
  batch = fake_batch(3, rows=16)
  value, want = reference(reduction)
  loss_fn = supervised_loss(
    FAMILY, chunk=8, label_smoothing=0.1, reduction=reduction
  )
  mesh = mesh_of(**sizes)
  got, metrics = gradient(loss_fn, batch, mesh, micro_batches=micro_batches)
  assert_equal(got, want)
  np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
  norm = np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(want)))
  np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)


@functools.cache
def reference(reduction):
  return host(plain_gradient(fake_batch(3, rows=16), 0.1, reduction))


def test_turns_are_summed():
  """`sum` over a leading axis, with an accepted (empty) last turn."""
  turns = [fake_batch(seed) for seed in range(3)]
  empty = turns[2].replace(loss_mask_BT=np.zeros_like(turns[2].loss_mask_BT))
  pairs = [plain_gradient(turn, 0.0, "token") for turn in turns[:2]]
  want = jax.tree.map(lambda *x: sum(x), *[grads for _, grads in pairs])
  value = sum(value for value, _ in pairs)
  stack = jax.tree.map(lambda *x: np.stack(x), *turns[:2], empty)
  got, metrics = gradient(
    supervised_loss(FAMILY),
    stack,
    accumulate="sum",
    micro_batches=4,
    place=None,
  )
  assert_equal(got, host(want))
  np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)


def test_turns_hold_one_graph():
  """Memory does not grow with the number of turns."""

  def temporaries(turns):
    batch = fake_batch(0, rows=64, target=32)
    stack = jax.tree.map(lambda x: np.stack([x] * turns), batch)
    step = make_train_step(supervised_loss(FAMILY), SGD, accumulate="sum")
    lowered = step.lower(fresh(), stack, jax.random.key(0))
    return lowered.compile().memory_analysis().temp_size_in_bytes

  assert temporaries(8) < 1.2 * temporaries(2)


def test_state_is_donated_and_stays_where_it_was():
  mesh = mesh_of(data=2, fsdp=2, tensor=2)
  state = fresh(mesh=mesh)
  before = jax.tree.map(lambda x: x.sharding, state)
  spec = before.params["layers"]["up"].spec
  assert spec == jax.P(None, ("fsdp",), ("tensor",))
  step = make_train_step(supervised_loss(FAMILY), SGD)
  batch = jax.device_put(fake_batch(0), sharding.of_batch(mesh))
  new, _ = step(state, batch, jax.random.key(0))
  assert all(x.is_deleted() for x in jax.tree.leaves(state))
  assert jax.tree.map(lambda x: x.sharding, new) == before
  assert int(new.step) == 1


def test_rng_differs_from_step_to_step_and_piece_to_piece():
  def loss_fn(params, batch, rng):
    noise = jax.random.uniform(rng)
    zero = 0 * params["table"].sum()
    one = jnp.float32(1)
    spread = {"square": Mean(noise**2, one), "noise": Mean(noise, one)}
    return Loss(zero, one, spread)

  step = make_train_step(loss_fn, SGD, micro_batches=2)
  state, first = step(fresh(), fake_batch(0), jax.random.key(0))
  _, second = step(state, fake_batch(0), jax.random.key(0))
  first, second = means([first]), means([second])
  assert first["noise"] != second["noise"]
  assert first["square"] > first["noise"] ** 2  # two draws, not one


def test_dropout_only_with_an_rng():
  family = FakeFamily(FakeConfig(dropout=0.5))
  loss_fn = supervised_loss(family)
  params, batch = start(), fake_batch(0)
  run = jax.jit(lambda rng: loss_fn(params, batch, rng).total)
  a, b = run(jax.random.key(0)), run(jax.random.key(1))
  assert a != b
  still = jax.jit(lambda: loss_fn(params, batch, None).total)()
  want = jax.jit(supervised_loss(FAMILY))(params, batch, None).total
  np.testing.assert_allclose(still, want, rtol=1e-6)


@jax.jit
def logits_of(params, batch):
  hidden_BTD = FAMILY.apply({"params": params}, batch).hidden_BTD
  return FAMILY.unembed(params, hidden_BTD)


def test_evaluate_is_one_mean_over_all_batches():
  batches = [fake_batch(0, rows=2), fake_batch(1, rows=6)]
  params = start()
  eval_step = make_eval_step(supervised_loss(FAMILY))
  got = evaluate(eval_step, params, batches)
  total = weight = correct = 0
  for batch in batches:
    logits_BTV = logits_of(params, batch)
    nll_BT = optax.softmax_cross_entropy_with_integer_labels(
      logits_BTV, batch.target_BT
    )
    logits_BTV = np.asarray(logits_BTV)
    right_BT = logits_BTV.argmax(-1) == batch.target_BT
    total += nll_BT[batch.loss_mask_BT].sum()
    correct += right_BT[batch.loss_mask_BT].sum()
    weight += batch.loss_mask_BT.sum()
  np.testing.assert_allclose(got["loss"], total / weight, rtol=1e-5)
  np.testing.assert_allclose(got["accuracy"], correct / weight, rtol=1e-6)
  with pytest.raises(ValueError, match="no batches"):
    evaluate(eval_step, params, [])


def test_counts_leave_padding_out():
  batch = fake_batch(0)
  p = batch.prompt_mask_BP.sum(1)
  t = batch.target_mask_BT.sum(1)
  got = host(counts({"batch": batch, "advantages": np.zeros(3)}))
  assert (got.examples, got.positions) == (8, 8 * 10)
  assert (got.prompt, got.target) == (p.sum(), t.sum())
  assert got.prompt_prompt == (p * p).sum()
  assert got.prompt_target == (p * t).sum()
  assert got.target_target == (t * t).sum()


def test_counts_see_packed_examples():
  ones = np.ones((1, 4), bool)
  batch = fake_batch(0, rows=1, prompt=4, target=4).replace(
    prompt_mask_BP=ones,
    target_mask_BT=np.array([[1, 1, 1, 0]], bool),
    prompt_segments_BP=np.array([[1, 2, 2, 2]]),
    target_segments_BT=np.array([[1, 1, 2, 0]]),
  )
  got = host(counts(batch))
  assert (got.examples, got.prompt, got.target) == (2, 4, 3)
  assert (got.prompt_prompt, got.prompt_target) == (1 + 9, 1 * 2 + 3 * 1)
  assert got.target_target == 4 + 1


def test_bad_arguments():
  loss_fn = supervised_loss(FAMILY)
  with pytest.raises(ValueError, match="'total'"):
    make_train_step(loss_fn, SGD, accumulate="total")
  with pytest.raises(ValueError, match="micro_batches"):
    make_train_step(loss_fn, SGD, micro_batches=0)
  with pytest.raises(ValueError, match="8 rows cannot be cut into 3"):
    gradient(loss_fn, fake_batch(0), micro_batches=3)
  with pytest.raises(ValueError, match="'tokens'"):
    supervised_loss(FAMILY, reduction="tokens")
