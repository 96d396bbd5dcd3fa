"""How far a policy is from its reference, and what that costs.

Estimators of KL(policy, reference) from tokens that the policy sampled
(Schulman, "Approximating KL divergence", 2020), with d = log policy - log
reference: k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d. k1 and k3 are unbiased,
k2 and k3 never negative.
"""

import jax
import jax.numpy as jnp

KINDS = ("k1", "k2", "k3")


def estimate(
  logp_BT: jax.Array,
  reference_BT: jax.Array,
  kind: str = "k1",
  *,
  clamp: float = 20.0,
) -> jax.Array:
  """A token's share of the divergence, float32.

  Args:
    logp_BT: of the sampled tokens under the policy that sampled them.
    reference_BT: under the reference, at the same temperature.
    kind: k1 (ReFT), k2 or k3.
    clamp: bound of |d|; 0 for none (the paper).
  """
  check(kind)
  d_BT = log_ratio(logp_BT, reference_BT, clamp)
  if kind == "k1":
    return d_BT
  if kind == "k2":
    return d_BT**2 / 2
  return jnp.expm1(-d_BT) + d_BT


def check(kind: str) -> None:
  """Raises ValueError for an estimator there is not."""
  if kind not in KINDS:
    raise ValueError(f"a KL estimator is one of {KINDS}, not {kind!r}")


def log_ratio(logp_BT: jax.Array, other_BT: jax.Array, clamp: float):
  """`logp - other` in float32, within `clamp` of 0 unless that is 0."""
  d_BT = logp_BT.astype(jnp.float32) - other_BT.astype(jnp.float32)
  return jnp.clip(d_BT, -clamp, clamp) if clamp else d_BT


def adapted(
  coefficient: float, kl: float, rows: int, *, target: float, horizon: float
) -> float:
  """The next coefficient of a controller that steers towards a divergence.

  Ziegler et al. (arXiv:1909.08593, section 2.2): the error is clipped to 20 %
  and scaled by `rows / horizon`.

  Args:
    coefficient: the present one.
    kl: mean over sequences of their divergence, in nats.
    rows: sequences it was measured on.
    target: nats per sequence; 0 keeps the coefficient (ReFT).
    horizon: sequences.
  """
  if not target:
    return coefficient
  error = min(max(kl / target - 1, -0.2), 0.2)
  return coefficient * (1 + error * rows / horizon)
