"""What goes wrong in other implementations of PPO, one test each.

Policy, engine and value head are real ones, tiny.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from refine_jax import sharding
from refine_jax.algorithms import advantages
from refine_jax.methods import rollout
from refine_jax.models import families
from refine_jax.models.actor_critic import ActorCritic
from refine_jax.records import Problem, Sample
from refine_jax.sampling.engine import Engine, Request, Sampling
from refine_jax.training import ppo
from refine_jax.training.checkpoint import Checkpointer
from refine_jax.training.state import TrainState, state_of
from refine_jax.training.step import make_train_step

V, EOS = 12, 1
ROWS = 16


class Letters:
  """Ids for letters; as much of a tokenizer as an engine needs."""

  vocab_size, bos_id, eos_id, pad_id = V, None, EOS, 0

  def encode(self, text):
    return [ord(c) - 95 for c in text]

  def decode(self, ids):
    return "".join(chr(i + 95) for i in ids)


@pytest.fixture(scope="module")
def family():
  sizes = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 8}
  config = {"vocab_size": V, "mlp": 32, "max_length": 64, **sizes}
  return families.build({"family": "llama", "config": config})


@pytest.fixture(scope="module")
def params(family):
  rng = np.random.default_rng(0)
  shapes = nn.unbox(families.abstract_params(family))
  policy = jax.tree_util.tree_map_with_path(
    lambda path, x: (
      jnp.ones(x.shape)
      if "norm" in str(path)
      else jnp.asarray(0.5 * rng.normal(size=x.shape), jnp.float32)
    ),
    shapes,
  )
  head = nn.unbox(ActorCritic(family).init_head(jax.random.key(1)))
  return {"policy": policy, "value": {"head": head}}


@pytest.fixture(scope="module")
def engine(family):
  return Engine(
    family, Letters(), slots=ROWS, prompt_buckets=(4,), token_buckets=(8,)
  )


def sampled(engine, params, temperature=1.0, name="0", reward=None):
  """A round of ROWS rollouts, with rewards by their place."""
  requests = [Request(f"{name}/{i}", "abc"[: 1 + i % 3]) for i in range(ROWS)]
  settings = Sampling(temperature=temperature, max_tokens=8)
  groups = engine.generate(params["policy"], requests, settings)
  reward = reward or (lambda i: [0.0, 0.1, 1.0][i % 3])
  return [
    rollout.Rollout(
      Problem(r.id, "", ""),
      engine.encode(r.prompt),
      sample,
      reward(i),
      correct=False,
      answered=True,
    )
    for i, (r, (sample,)) in enumerate(zip(requests, groups, strict=True))
  ]


def judged_of(rollouts):
  batch, beside = rollout.batch_of(rollouts, rollout.Shape(4, 8))
  beside.pop("correct_B")
  return ppo.Judged(batch, **beside)


@pytest.fixture(scope="module")
def look(family):
  """(params, batch, settings) -> what parameters make of rollouts."""
  values = ActorCritic(family).values

  def call(params, batch, settings=ppo.PPOSettings()):  # noqa: B008, frozen
    return ppo.look(family, params, batch, settings, values)

  return jax.jit(call, static_argnames="settings")


def experience(look, params, rollouts, settings=None):
  settings = settings or ppo.PPOSettings()
  judged = judged_of(rollouts)
  seen = look(params, judged.batch, settings)
  return ppo.experience(judged, seen, seen["logp_BT"], 0.05, settings)


def gradient(family, params, made, settings=None):
  loss = ppo.ppo_loss(
    family, ActorCritic(family).values, settings or ppo.PPOSettings()
  )

  def total(params):
    found = loss(params, made, None)
    return found.total / found.weight

  return jax.grad(total)(params)


def norm(tree):
  return float(optax.tree.norm(tree))


def test_int_rewards_lose_a_tenth():
  """A reward buffer made like the token ids turned 0.1 into 0."""
  mask_BT = jnp.ones((4, 3), bool)
  kl_BT = jnp.zeros((4, 3), jnp.int32)
  scores_B = np.array([1.0, 0.5, 0.1, 0.9])
  rewards_BT = advantages.token_rewards(scores_B, kl_BT, mask_BT, 0)
  assert rewards_BT.dtype == jnp.float32
  np.testing.assert_allclose(rewards_BT.sum(1), scores_B, rtol=1e-6)
  whole = advantages.token_rewards(jnp.array([1, 0, 1, 0]), kl_BT, mask_BT, 0)
  found_BT, _ = advantages.gae(whole, kl_BT, mask_BT, gamma=0.5, lam=0.9)
  assert found_BT[0, 0] == pytest.approx((0.5 * 0.9) ** 2)


def test_a_token_banned_in_the_sampler_but_not_in_the_scorer(
  engine, params, look
):
  """The policy moved its mass to the banned token, and the KL paid for it."""
  cuts = {"top_k": 5, "top_p": 0.9, "min_p": 0.1, "min_tokens": 2}
  for name, value in {**cuts, "repetition_penalty": 1.2}.items():
    settings = Sampling(temperature=1.0, max_tokens=8, **{name: value})
    with pytest.raises(ValueError, match=name):
      rollout.whole_distribution(settings)
  rollout.whole_distribution(Sampling(temperature=0.7, max_tokens=8))
  # Every id may be drawn, padding too, and is scored as it was drawn.
  rollouts = sampled(engine, params)
  _, figures = experience(look, params, rollouts)
  assert figures["sampler_gap_largest"] < 1e-4
  # A sampler that bans an id gives its share to the others: it is seen.
  cut = [
    dataclasses.replace(
      r,
      sample=dataclasses.replace(
        r.sample, logprobs=tuple(x + 0.1 for x in r.sample.logprobs)
      ),
    )
    for r in rollouts
  ]
  _, figures = experience(look, params, cut)
  assert figures["sampler_gap_largest"] == pytest.approx(0.1, abs=1e-3)


def test_eos_carries_no_gradient(family, engine, params, look):
  """EOS was cut off, or masked as padding: stopping was never learned."""
  rollouts = sampled(engine, params)
  ended = [i for i, r in enumerate(rollouts) if r.sample.finish == "eos"]
  assert ended
  made, _ = experience(look, params, rollouts)
  mask_BT = np.array(made.batch.loss_mask_BT)
  targets_BT = np.array(made.batch.target_BT)
  for i in ended:
    length = len(rollouts[i].sample.tokens)
    assert targets_BT[i, length - 1] == EOS
    assert mask_BT[i].tolist() == [t < length for t in range(8)]
  # With nothing but the EOS to learn from there is a gradient.
  only = np.zeros_like(mask_BT)
  for i in ended:
    only[i, len(rollouts[i].sample.tokens) - 1] = True
  made = made.replace(
    batch=made.batch.replace(loss_mask_BT=only),
    advantages_BT=jnp.ones_like(made.advantages_BT),
  )
  no_value = ppo.PPOSettings(value_coefficient=0.0)
  assert norm(gradient(family, params, made, no_value)["policy"]) > 1e-3


def test_the_same_noise_at_every_rollout(engine, params):
  """A constant key: every round explored the same way."""

  class Task:
    def prompt(self, problem):
      return problem.question

    def prefix(self, problem):
      return ""

    def rewards(self, problems, texts):
      return [0.0] * len(texts)

    check_all = rewards

    def answers(self, texts):
      return texts

  class Template:
    def first(self, prompt):
      return (prompt,)

  problems = [Problem(f"p{i % 2}", "a", "") for i in range(ROWS)]
  checker = rollout.Checker(Task())

  def tokens(name):
    rollouts, _ = rollout.roll_out(
      engine,
      params["policy"],
      problems,
      task=Task(),
      checker=checker,
      template=Template(),
      sampling=Sampling(temperature=1.0, max_tokens=8),
      name=name,
    )
    return [r.sample.tokens for r in rollouts]

  first, second = tokens("0"), tokens("1")
  assert first == tokens("0")
  # One prompt for all: neither do rows of a round agree, nor rounds in a row.
  assert len(set(first)) > ROWS // 2
  assert sum(a == b for a, b in zip(first, second, strict=True)) < ROWS // 2
  checker.close()


def test_reward_on_the_token_after_eos(engine, params):
  """The score arrived one step late, through a value of padding."""
  rollouts = sampled(engine, params)
  judged = judged_of(rollouts)
  mask_BT = judged.batch.loss_mask_BT
  rewards_BT = np.array(
    advantages.token_rewards(
      judged.scores_B, jnp.zeros(mask_BT.shape), mask_BT, 0.05
    )
  )
  for row, r in enumerate(rollouts):
    wanted = np.zeros(8)
    wanted[len(r.sample.tokens) - 1] = r.reward
    np.testing.assert_allclose(rewards_BT[row], wanted)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_different_temperatures_in_old_new_and_reference(
  family, engine, params, look, temperature
):
  """Only the reference was scored at the sampling temperature."""
  settings = ppo.PPOSettings(temperature=temperature, reduction="token")
  rollouts = sampled(engine, params, temperature)
  made, figures = experience(look, params, rollouts, settings)
  assert figures["kl_largest"] <= 1e-5
  assert figures["sampler_gap_largest"] < 1e-4
  loss = ppo.ppo_loss(family, ActorCritic(family).values, settings)
  metrics = jax.jit(loss)(params, made, None).metrics
  assert metrics["ratio_gap"].total <= 1e-5
  # The tokens are told apart from those of another temperature.
  other = ppo.PPOSettings(temperature=temperature + 0.2)
  _, figures = experience(look, params, rollouts, other)
  assert figures["sampler_gap_largest"] > 1e-2


def test_per_device_whitening():
  """Each device took the mean and variance of its own rows."""
  rng = np.random.default_rng(0)
  # Rows of one device resemble each other.
  x_BT = rng.normal(size=(16, 5)) + 3 * (np.arange(16) // 2)[:, None]
  mask_BT = rng.random((16, 5)) < 0.7
  place = sharding.of_batch(sharding.make_mesh(fsdp=8))
  spread = jax.jit(advantages.whiten)(
    *jax.device_put((x_BT.astype(np.float32), mask_BT), place)
  )
  x_N = x_BT[mask_BT]
  wanted = (x_BT - x_N.mean()) / np.sqrt(x_N.var(ddof=1) + 1e-8)
  assert len(spread.sharding.device_set) == 8
  np.testing.assert_allclose(spread, wanted * mask_BT, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_mean_of_micro_batch_means(family, engine, params, look, reduction):
  """Short micro-batches weighed as much as long ones."""
  settings = ppo.PPOSettings(reduction=reduction)
  rollouts = sampled(engine, params)
  lengths = {len(r.sample.tokens) for r in rollouts}
  assert len(lengths) > 2
  made, _ = experience(look, params, rollouts, settings)
  if reduction == "sequence":  # a row of which nothing counts
    mask_BT = np.array(made.batch.loss_mask_BT)
    mask_BT[3] = False
    made = made.replace(batch=made.batch.replace(loss_mask_BT=mask_BT))
  loss = ppo.ppo_loss(family, ActorCritic(family).values, settings)
  moved = []
  for pieces in (1, 4):
    step = make_train_step(loss, optax.sgd(1.0), micro_batches=pieces)
    state = state_of(jax.tree.map(jnp.copy, params), optax.sgd(1.0))
    state, metrics = step(state, made, jax.random.key(0))
    moved.append((state.params, metrics["loss"].value()))
  for a, b in zip(*map(jax.tree.leaves, moved), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_gae_cut_at_gaps():
  """Feedback between two turns cut the trace, or was an action itself."""
  mask_BT = jnp.array([[True, True, False, False, True]])
  rewards_BT = jnp.array([[0.0, 0, 7, 7, 1]])
  values_BT = jnp.array([[0.2, 0.4, 9, 9, 0.6]])
  found, returns = advantages.gae(
    rewards_BT, values_BT, mask_BT, gamma=0.9, lam=0.5
  )
  squeezed = mask_BT[0]
  dense, dense_returns = advantages.gae(
    rewards_BT[:, squeezed],
    values_BT[:, squeezed],
    jnp.ones((1, 3), bool),
    gamma=0.9,
    lam=0.5,
  )
  np.testing.assert_allclose(found[:, squeezed], dense)
  np.testing.assert_allclose(returns[:, squeezed], dense_returns)
  assert not found[:, ~squeezed].any()


def test_a_resumed_value_head(tmp_path, family, params):
  """Only the policy was saved: the head started anew after a restart."""
  optimizer = optax.adam(1e-3)
  state = state_of(jax.tree.map(jnp.copy, params), optimizer)
  beside = {"optimizer": state.opt_state, "value": params["value"]}
  saved = TrainState(state.step, state.params["policy"], beside)
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(saved, {"kl_coefficient": 0.1})
    checkpointer.wait()
    blank = jax.tree.map(jnp.zeros_like, saved)
    restored, meta = checkpointer.restore(blank)
  head = restored.opt_state["value"]["head"]
  wanted = params["value"]["head"]
  for a, b in zip(*map(jax.tree.leaves, (head, wanted)), strict=True):
    np.testing.assert_array_equal(a, b)
    assert b.any()
  assert json.dumps(meta["kl_coefficient"]) == "0.1"


# And what ReFT needs besides.


def test_the_value_s_gradient_reaches_a_shared_backbone_only(
  family, engine, params, look
):
  made, _ = experience(look, params, sampled(engine, params))
  # No advantage: whatever moves, moves for the value.
  made = made.replace(advantages_BT=jnp.zeros_like(made.advantages_BT))
  found = gradient(family, params, made)
  assert norm(found["policy"]["layers"]) > 1e-4
  own = {**params["value"], "backbone": params["policy"]}
  two = {**params, "value": own}
  loss = ppo.ppo_loss(
    family, ActorCritic(family, separate=True).values, ppo.PPOSettings()
  )
  found = jax.grad(lambda p: loss(p, made, None).total)(two)
  assert norm(found["policy"]) == 0
  assert norm(found["value"]["backbone"]["layers"]) > 1e-4


def test_bootstrapping_values_what_follows_a_truncated_row(
  engine, params, look
):
  settings = ppo.PPOSettings(
    truncation="bootstrap", whitening="none", lam=1.0, gamma=1.0
  )
  rollouts = sampled(engine, params, reward=lambda i: 0.0)
  rollouts[0] = dataclasses.replace(
    rollouts[0], sample=cut_off(rollouts[0].sample)
  )
  made, _ = experience(look, params, rollouts, settings)
  seen = look(params, made.batch, settings)
  behind_BT = np.array(seen["behind_BT"])
  for row, r in enumerate(rollouts):
    # Lambda 1 and no reward: the return is what follows the last token.
    last = len(r.sample.tokens) - 1
    wanted = behind_BT[row, last] if r.truncated else 0
    np.testing.assert_allclose(made.returns_BT[row, 0], wanted, atol=1e-5)
  assert {r.truncated for r in rollouts} == {True, False}


def cut_off(sample: Sample) -> Sample:
  return dataclasses.replace(sample, finish="length")
