"""The first pass over a whole round against scoring it and then learning."""

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from refine_jax.batch import Batch
from refine_jax.models import families
from refine_jax.models.actor_critic import ActorCritic
from refine_jax.training import ppo
from refine_jax.training.state import state_of
from refine_jax.training.step import make_train_step

B, P, T, V = 6, 5, 7, 11


@pytest.fixture(scope="module")
def family():
  sizes = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 8}
  config = {"vocab_size": V, "mlp": 32, "max_length": 64, **sizes}
  return families.build({"family": "llama", "config": config})


@pytest.fixture(scope="module")
def judged():
  rng = np.random.default_rng(0)
  lengths_B, prompts_B = rng.integers(1, T + 1, B), rng.integers(1, P + 1, B)
  target_mask_BT = np.arange(T) < lengths_B[:, None]
  batch = Batch(
    prompt_BP=rng.integers(0, V, (B, P)).astype(np.int32),
    prompt_mask_BP=np.arange(P) >= P - prompts_B[:, None],
    target_BT=rng.integers(0, V, (B, T)).astype(np.int32),
    target_mask_BT=target_mask_BT,
    loss_mask_BT=target_mask_BT,
  )
  return ppo.Judged(
    batch,
    scores_B=rng.normal(size=B).astype(np.float32),
    truncated_B=lengths_B == T,
    sampled_BT=rng.normal(size=(B, T)).astype(np.float32),
  )


@pytest.mark.parametrize(
  "settings",
  [
    ppo.PPOSettings(),
    ppo.PPOSettings(
      entropy_bonus=0.1, truncation="bootstrap", temperature=1.3, chunk=12
    ),
  ],
  ids=["paper", "switched"],
)
def test_one_look_instead_of_two(family, judged, settings):
  rng = np.random.default_rng(1)
  policy = jax.tree.map(
    lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), jnp.float32),
    nn.unbox(families.abstract_params(family)),
  )
  actor = ActorCritic(family)
  head = nn.unbox(actor.init_head(jax.random.key(1)))
  params = {"policy": policy, "value": {"head": head}}
  reference_BT = jnp.asarray(rng.normal(size=(B, T)), jnp.float32)
  coefficient = np.float32(0.05)

  seen = ppo.look(family, params, judged.batch, settings, actor.values)
  made, figures = ppo.experience(
    judged, seen, reference_BT, coefficient, settings
  )
  optimizer = optax.sgd(1.0)
  # Learning without a clip: the parameters say what the gradient was.
  apart, metrics = make_train_step(
    ppo.ppo_loss(family, actor.values, settings), optimizer
  )(
    state_of(jax.tree.map(jnp.copy, params), optimizer), made, jax.random.key(0)
  )
  at_once, found = make_train_step(
    ppo.first_loss(family, actor.values, settings), optimizer
  )(
    state_of(jax.tree.map(jnp.copy, params), optimizer),
    ppo.Fresh(judged, reference_BT, coefficient),
    jax.random.key(0),
  )

  def close(a, b, atol):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    for x, y in zip(a, b, strict=True):
      np.testing.assert_allclose(x, y, rtol=1e-5, atol=atol)

  mask_BT = judged.batch.loss_mask_BT
  keep = lambda x: np.where(mask_BT, x, 0) if x.shape == mask_BT.shape else x  # noqa: E731
  made, other = (jax.tree.map(keep, x) for x in (made, found.pop("made")))
  close(made, other, 1e-5)
  close(figures, found.pop("figures"), 1e-5)
  close(metrics, found, 1e-5)
  close(apart.params, at_once.params, 1e-5)
  moved = jax.tree.map(lambda x, y: x - y, at_once.params, params)
  assert float(optax.tree.norm(moved)) > 1e-2


def test_the_forward_is_that_of_evaluation(judged):
  """A family with dropout is given no randomness (the original's `eval()`)."""
  family = fakes.FakeFamily(fakes.FakeConfig(vocab_size=V, dropout=0.5))
  values = ActorCritic(family)
  policy = nn.unbox(family.init(jax.random.key(0), judged.batch)["params"])
  head = nn.unbox(values.init_head(jax.random.key(1)))
  params = {"policy": policy, "value": {"head": head}}
  settings = ppo.PPOSettings()
  seen = ppo.look(family, params, judged.batch, settings, values.values)
  made, _ = ppo.experience(judged, seen, None, 0.0, settings)
  loss = ppo.ppo_loss(family, values.values, settings)
  found = [loss(params, made, jax.random.key(i)) for i in range(2)]
  assert float(found[0].total) == float(found[1].total)
  # The policy that made them: no ratio is off 1.
  assert float(found[0].metrics["ratio_gap"].total) <= 1e-6


def test_the_bonus_pays_for_entropy(family, judged):
  """Its part of the loss is minus the mean entropy, its gradient that one's."""
  policy = jax.tree.map(
    lambda x: 0.3 * jax.random.normal(jax.random.key(x.size), x.shape),
    nn.unbox(families.abstract_params(family)),
  )
  actor = ActorCritic(family)
  head = nn.unbox(actor.init_head(jax.random.key(1)))
  params = {"policy": policy, "value": {"head": head}}
  mask_BT = judged.batch.loss_mask_BT
  plain, paid = (
    ppo.PPOSettings(reduction="token", entropy_bonus=bonus)
    for bonus in (0.0, 0.5)
  )
  seen = ppo.look(family, params, judged.batch, plain, actor.values)
  made, _ = ppo.experience(judged, seen, None, 0.0, plain)

  def extra(params):
    losses = [
      ppo.ppo_loss(family, actor.values, s)(params, made, None)
      for s in (paid, plain)
    ]
    return (losses[0].total - losses[1].total) / losses[1].weight

  def entropy(params):
    seen = ppo.look(family, params, judged.batch, plain, None)
    return jnp.where(mask_BT, seen["entropy_BT"], 0).sum() / mask_BT.sum()

  np.testing.assert_allclose(extra(params), -0.5 * entropy(params), rtol=1e-4)
  step = jax.tree.map(
    lambda x: jax.random.normal(jax.random.key(7), x.shape), params
  )
  ahead, behind = (
    entropy(jax.tree.map(lambda x, d, s=sign: x + s * 1e-2 * d, params, step))
    for sign in (1, -1)
  )
  slope = sum(
    (g * d).sum()
    for g, d in zip(
      jax.tree.leaves(jax.grad(extra)(params)),
      jax.tree.leaves(step),
      strict=True,
    )
  )
  np.testing.assert_allclose(slope, -0.5 * (ahead - behind) / 2e-2, rtol=2e-2)
