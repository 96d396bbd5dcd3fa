"""PPO's arithmetic against loops over the paper's equations.

Rows are ragged and have gaps: tokens of somebody else between actions.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from refine_jax.algorithms import advantages, entropy, kl, ppo
from refine_jax.algorithms.xent import weights

B, T = 5, 9


@pytest.fixture(scope="module", params=range(4))
def rows(request):
  """Arrays by name; row 3 has one action, row 4 none."""
  rng = np.random.default_rng(request.param)
  mask_BT = rng.random((B, T)) < 0.7
  mask_BT[0] = np.arange(T) < 5  # without a gap
  mask_BT[3] = np.arange(T) == 2
  mask_BT[4] = False
  logp_BT = -rng.exponential(size=(B, T))
  return {
    "mask": mask_BT,
    "logp": logp_BT,
    "reference": logp_BT + rng.normal(scale=0.5, size=(B, T)),
    "old": logp_BT + rng.normal(scale=0.3, size=(B, T)),
    "values": rng.normal(size=(B, T)),
    "old_values": rng.normal(size=(B, T)),
    "rewards": rng.normal(size=(B, T)),
    "scores": rng.choice([0.0, 0.1, 1.0], B),
    "bootstrap": rng.normal(size=B),
  }


def f32(x):
  return jnp.asarray(x, jnp.float32)


def close(ours, slow, atol=1e-5):
  np.testing.assert_allclose(ours, slow, rtol=1e-5, atol=atol)


def actions(mask_T):
  return [t for t in range(len(mask_T)) if mask_T[t]]


# Slow references: one row, one action at a time, in double precision.


def slow_rewards(score, kl_T, mask_T, coefficient):
  out = np.zeros(len(kl_T))
  steps = actions(mask_T)
  for t in steps:
    out[t] = -coefficient * kl_T[t] + (score if t == steps[-1] else 0.0)
  return out


def slow_gae(rewards_T, values_T, mask_T, gamma, lam, bootstrap=0.0):
  """The double sum, not the recursion."""
  steps = actions(mask_T)
  values = [values_T[t] for t in steps] + [bootstrap]
  deltas = [
    rewards_T[t] + gamma * values[i + 1] - values[i]
    for i, t in enumerate(steps)
  ]
  out = np.zeros(len(rewards_T))
  for i, t in enumerate(steps):
    for j in range(i, len(steps)):
      out[t] += (gamma * lam) ** (j - i) * deltas[j]
  return out


def slow_kl(d, kind):
  if kind == "k1":
    return d
  return d * d / 2 if kind == "k2" else math.exp(-d) - 1 + d


def slow_policy(ratio, advantage, clip):
  low, high = 1 - clip, 1 + clip
  return max(-advantage * ratio, -advantage * min(max(ratio, low), high))


def slow_value(value, old, target, clip):
  near = old + min(max(value - old, -clip), clip) if clip else value
  return max((value - target) ** 2, (near - target) ** 2) / 2


def slow_mean(x_BT, mask_BT, reduction):
  """The mean over tokens, or over rows of the rows' means."""
  rows = [[x_BT[b][t] for t in actions(mask_BT[b])] for b in range(B)]
  if reduction == "token":
    return np.mean([x for row in rows for x in row])
  return np.mean([np.mean(row) for row in rows if row])


@pytest.mark.parametrize("kind", kl.KINDS)
def test_kl(rows, kind):
  ours = kl.estimate(f32(rows["logp"]), f32(rows["reference"]), kind)
  d_BT = rows["logp"] - rows["reference"]
  slow = [[slow_kl(d, kind) for d in d_T] for d_T in d_BT]
  close(ours, slow)


def test_kl_clamps_and_refuses():
  d = f32([-900.0, 900.0])
  assert kl.estimate(d, f32(0), "k1", clamp=10).tolist() == [-10, 10]
  assert kl.estimate(d, f32(0), "k1", clamp=0).tolist() == [-900, 900]
  assert np.isfinite(kl.estimate(d, f32(0), "k3")).all()
  with pytest.raises(ValueError, match="k4"):
    kl.estimate(d, d, "k4")


def test_kl_controller():
  # 50 % above the target counts as 20 %; 100 rows of a horizon of 1000.
  up = kl.adapted(0.1, 9.0, 100, target=6.0, horizon=1000)
  down = kl.adapted(0.1, 5.7, 100, target=6.0, horizon=1000)
  assert up == pytest.approx(0.1 * 1.02)
  assert down == pytest.approx(0.1 * (1 - 0.05 * 0.1))
  assert kl.adapted(0.1, 9.0, 100, target=0.0, horizon=1000) == 0.1


def test_token_rewards(rows):
  ours = advantages.token_rewards(
    f32(rows["scores"]), f32(rows["values"]), jnp.asarray(rows["mask"]), 0.05
  )
  slow = [
    slow_rewards(s, k, m, 0.05)
    for s, k, m in zip(
      rows["scores"], rows["values"], rows["mask"], strict=True
    )
  ]
  close(ours, slow)


@pytest.mark.parametrize("end", ["terminal", "bootstrap"])
@pytest.mark.parametrize("gamma,lam", [(1.0, 0.95), (0.9, 0.7), (1.0, 1.0)])
def test_gae_skips_gaps(rows, gamma, lam, end):
  mask_BT = rows["mask"]
  behind_B = rows["bootstrap"] if end == "bootstrap" else np.zeros(B)
  # What lies outside the mask may be anything.
  junk_BT = np.where(mask_BT, 0, np.nan)
  found, returns = advantages.gae(
    f32(rows["rewards"] + junk_BT),
    f32(rows["values"] + junk_BT),
    jnp.asarray(mask_BT),
    gamma=gamma,
    lam=lam,
    bootstrap_B=f32(behind_B) if end == "bootstrap" else None,
  )
  for b in range(B):
    slow = slow_gae(
      rows["rewards"][b], rows["values"][b], mask_BT[b], gamma, lam, behind_B[b]
    )
    close(found[b], slow)
    close(returns[b], np.where(mask_BT[b], slow + rows["values"][b], 0))


def test_whitening(rows):
  x_BT, mask_BT = rows["values"], rows["mask"]
  x_N = x_BT[mask_BT]
  slow = (x_N - x_N.mean()) / math.sqrt(x_N.var(ddof=1) + 1e-8)
  ours = advantages.whiten(f32(x_BT), jnp.asarray(mask_BT))
  close(ours[mask_BT], slow)
  assert not ours[~mask_BT].any()


def test_whitening_of_one_action_and_of_none():
  mask_BT = jnp.arange(4)[None] == 1
  x_BT = jnp.full((1, 4), 3.0)
  assert not advantages.whiten(x_BT, mask_BT).any()
  assert not advantages.whiten(x_BT, mask_BT & False).any()


def test_explained_variance(rows):
  mask_BT = rows["mask"]
  values_N, returns_N = rows["values"][mask_BT], rows["rewards"][mask_BT]
  slow = max(1 - (returns_N - values_N).var() / returns_N.var(), -1)
  args = f32(rows["values"]), f32(rows["rewards"]), jnp.asarray(mask_BT)
  close(advantages.explained_variance(*args), slow)
  same = args[1], args[1], args[2]
  close(advantages.explained_variance(*same), 1)
  flat = args[0], jnp.ones((B, T)), args[2]
  close(advantages.explained_variance(*flat), 0)


def loss_parts(rows, logp_BT, values_BT, clip=0.2):
  """Both losses of every token."""
  ratios_BT = ppo.ratios(logp_BT, f32(rows["old"]))
  policy, _ = ppo.policy_loss(ratios_BT, f32(rows["rewards"]), clip)
  value, _ = ppo.value_loss(
    values_BT, f32(rows["old_values"]), f32(rows["rewards"]), clip
  )
  return policy, value


@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_losses(rows, reduction):
  policy, value = loss_parts(rows, f32(rows["logp"]), f32(rows["values"]))
  w_BT = weights(jnp.asarray(rows["mask"]), reduction)
  ratio_BT = np.exp(rows["logp"] - rows["old"])
  slow_p = np.vectorize(slow_policy)(ratio_BT, rows["rewards"], 0.2)
  slow_v = np.vectorize(slow_value)(
    rows["values"], rows["old_values"], rows["rewards"], 0.2
  )
  for ours, slow in ((policy, slow_p), (value, slow_v)):
    close(
      (w_BT * ours).sum() / w_BT.sum(), slow_mean(slow, rows["mask"], reduction)
    )


def test_losses_without_clipping_the_value(rows):
  value, clipped = ppo.value_loss(
    f32(rows["values"]), f32(rows["old_values"]), f32(rows["rewards"]), 0
  )
  close(value, (rows["values"] - rows["rewards"]) ** 2 / 2)
  assert not clipped.any()


def test_clipped_tokens_are_counted_and_learn_nothing():
  old = jnp.zeros((1, 4))
  logp = f32([[0.5, 0.5, -0.5, -0.5]])
  advantage = f32([[1, -1, 1, -1]])

  def total(logp):
    loss, clipped = ppo.policy_loss(ppo.ratios(logp, old), advantage, 0.2)
    return loss.sum(), clipped

  gradient, clipped = jax.grad(total, has_aux=True)(logp)
  assert clipped.tolist() == [[True, False, False, True]]
  assert (gradient == 0).tolist() == clipped.tolist()


def test_a_value_beyond_its_clip_learns_nothing():
  def total(value):
    loss, clipped = ppo.value_loss(value, f32(0.0), f32(1.0), 0.2)
    return loss, clipped

  # Clipped at .2 the error is greater: the constant counts.
  gradient, clipped = jax.grad(total, has_aux=True)(f32(0.5))
  assert gradient == 0 and clipped
  gradient, clipped = jax.grad(total, has_aux=True)(f32(0.1))
  assert gradient == pytest.approx(-0.9) and not clipped


@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_gradients_against_finite_differences(rows, reduction):
  """Of the whole loss, in every log-probability and every value."""
  mask_BT = jnp.asarray(rows["mask"])
  w_BT = weights(mask_BT, reduction)

  def loss(logp_BT, values_BT):
    policy, value = loss_parts(rows, logp_BT, values_BT)
    return (w_BT * (policy + 5 * value)).sum() / w_BT.sum()

  def slow(logp_BT, values_BT):
    ratio_BT = np.exp(logp_BT - rows["old"])
    policy = np.vectorize(slow_policy)(ratio_BT, rows["rewards"], 0.2)
    value = np.vectorize(slow_value)(
      values_BT, rows["old_values"], rows["rewards"], 0.2
    )
    return slow_mean(policy + 5 * value, rows["mask"], reduction)

  at = [rows["logp"], rows["values"]]
  ours = jax.grad(loss, argnums=(0, 1))(*map(f32, at))
  step = 1e-6
  for k in range(2):
    for index in np.ndindex(B, T):
      ends = []
      for sign in (1, -1):
        moved = [x.copy() for x in at]
        moved[k][index] += sign * step
        ends.append(slow(*moved))
      close(ours[k][index], (ends[0] - ends[1]) / (2 * step), atol=2e-5)


def test_log_ratios_are_clamped():
  ratio = ppo.ratios(f32([900.0, -900.0]), f32(0), clamp=20)
  close(ratio, [math.exp(20), math.exp(-20)])


@pytest.mark.parametrize("chunk", [None, 4])
def test_scores(chunk):
  rng = np.random.default_rng(0)
  head_DV, hidden_BTD = rng.normal(size=(3, 6)), rng.normal(size=(2, 5, 3))
  targets_BT = rng.integers(0, 6, (2, 5))
  logp_BT, entropy_BT = entropy.scores(
    lambda h: h @ f32(head_DV),
    f32(hidden_BTD),
    jnp.asarray(targets_BT),
    chunk=chunk,
    temperature=0.7,
  )
  for b, t in np.ndindex(2, 5):
    logits_V = hidden_BTD[b, t] @ head_DV / 0.7
    p_V = np.exp(logits_V) / np.exp(logits_V).sum()
    close(entropy_BT[b, t], -(p_V * np.log(p_V)).sum())
    close(logp_BT[b, t], np.log(p_V[targets_BT[b, t]]))


def test_worked_sample():
  """Three actions by hand: beta .05, gamma 1, lambda .95, reward 1."""
  logp, reference = f32([[-0.5, -1.2, -0.1]]), f32([[-0.65, -1.0, -0.4]])
  mask, values = jnp.ones((1, 3), bool), f32([[0.30, 0.55, 0.80]])
  k = kl.estimate(logp, reference, "k1")
  close(k, [[0.15, -0.2, 0.3]])
  rewards = advantages.token_rewards(f32([1.0]), k, mask, 0.05)
  close(rewards, [[-0.0075, 0.01, 0.985]])
  found, returns = advantages.gae(rewards, values, mask, gamma=1, lam=0.95)
  close(found, [[0.6564625, 0.43575, 0.185]])
  close(returns, [[0.9564625, 0.98575, 0.985]])
