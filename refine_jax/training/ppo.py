"""From rollouts to PPO's loss: what is fixed before the passes, and the loss.

Old, new and reference log-probabilities are of the same few lines, at one
temperature and without dropout, so at the first pass every ratio is 1.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from refine_jax.algorithms import advantages, entropy, kl, ppo
from refine_jax.algorithms.logprobs import logprobs
from refine_jax.algorithms.xent import weights
from refine_jax.batch import Batch, Output, Params
from refine_jax.training.loss import Loss, LossFn, Mean

WHITENING = ("global", "none")
TRUNCATION = ("terminal", "bootstrap")
# (params, batch, the policy's output, behind=...) -> values_BT.
Values = Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class PPOSettings:
  """ReFT's PPO, section 3.2 and its released code; defaults are for 7B, P-CoT.

  Attributes:
    gamma, lam: discount of rewards, decay of the trace.
    policy_clip, value_clip: both 0.2; a value_clip of 0 does not clip.
    value_coefficient: alpha.
    kl_kind: estimator in the reward, see `algorithms.kl`.
    log_ratio_clamp: bound of |log ratio| in losses and KL; 0 for none.
    whitening: `global` over the rollout batch of all devices, or `none`.
    reduction: `sequence`, the mean over rows of the rows' means (ReFT), or
      `token`.
    truncation: `terminal`: a row cut off has ended (ReFT); `bootstrap`: the
      value of where it stands goes on.
    entropy_bonus: times the entropy is subtracted from the loss.
    temperature: that rollouts are sampled at.
    chunk: tokens whose logits exist at a time.
  """

  gamma: float = 1.0
  lam: float = 0.95
  policy_clip: float = 0.2
  value_clip: float = 0.2
  value_coefficient: float = 5.0
  kl_kind: str = "k1"
  log_ratio_clamp: float = 20.0
  whitening: str = "global"
  reduction: str = "sequence"
  truncation: str = "terminal"
  entropy_bonus: float = 0.0
  temperature: float = 1.0
  chunk: int | None = None

  def __post_init__(self):
    kl.check(self.kl_kind)
    weights(jnp.ones((1, 1)), self.reduction)
    for name, known in (("whitening", WHITENING), ("truncation", TRUNCATION)):
      if getattr(self, name) not in known:
        raise ValueError(f"{name} is one of {known}, not {self!r}")
    if self.temperature <= 0:
      raise ValueError(f"temperature must be positive, got {self.temperature}")


@flax.struct.dataclass
class Judged:
  """Rollouts as arrays, with what the task thinks of them.

  Attributes:
    batch: `loss_mask_BT` is where the policy acts, EOS included.
    scores_B: float32.
    truncated_B: rows that the token budget ended.
    sampled_BT: the sampler's own log-probabilities.
  """

  batch: Batch
  scores_B: jax.Array
  truncated_B: jax.Array
  sampled_BT: jax.Array


@flax.struct.dataclass
class Fresh:
  """Rollouts that the policy as it is has made, and nothing has scored.

  Attributes:
    reference_BT: the reference's log-probabilities; None for no reference.
    coefficient: of the KL in the reward, beta.
  """

  judged: Judged
  reference_BT: jax.Array | None
  coefficient: jax.Array


@flax.struct.dataclass
class Experience:
  """What PPO learns from; fixed while it does."""

  batch: Batch
  old_logp_BT: jax.Array
  old_values_BT: jax.Array
  advantages_BT: jax.Array
  returns_BT: jax.Array


def look(
  family: Any,
  params: Params,
  batch: Batch,
  settings: PPOSettings,
  values: Values | None,
) -> dict[str, jax.Array]:
  """What parameters make of rollouts; no gradient.

  Args:
    params: `policy`, and `value` for `values`.
    values: None for log-probabilities and entropies alone.

  Returns:
    logp_BT, entropy_BT, values_BT, and with bootstrapping behind_BT.
  """
  output = family.apply({"params": params["policy"]}, batch)
  logp_BT, entropy_BT = _scores(family, params, batch, output, settings)
  seen = {"logp_BT": logp_BT, "entropy_BT": entropy_BT}
  if values is None:
    return seen
  return seen | appraise(params, batch, output, settings, values)


def appraise(
  params: Params,
  batch: Batch,
  output: Output | None,
  settings: PPOSettings,
  values: Values,
) -> dict[str, jax.Array]:
  """values_BT, and with bootstrapping behind_BT."""
  seen = {"values_BT": values(params, batch, output)}
  if settings.truncation == "bootstrap":
    seen["behind_BT"] = values(params, batch, output, behind=True)
  return seen


def _scores(family, params, batch, output, settings, **kwargs):
  """logp_BT and entropy_BT; see `entropy.scores`."""
  return entropy.scores(
    lambda hidden: family.unembed(params["policy"], hidden),
    output.hidden_BTD,
    batch.target_BT,
    chunk=settings.chunk,
    temperature=settings.temperature,
    **kwargs,
  )


def _logp(family, params, batch, output, settings):
  return logprobs(
    lambda hidden: family.unembed(params["policy"], hidden),
    output.hidden_BTD,
    batch.target_BT,
    chunk=settings.chunk,
    temperature=settings.temperature,
  )


def experience(
  judged: Judged,
  seen: dict[str, jax.Array],
  reference_BT: jax.Array | None,
  coefficient: jax.Array | float,
  settings: PPOSettings,
) -> tuple[Experience, dict[str, jax.Array]]:
  """Rewards, advantages and returns of one rollout batch, and its figures.

  Args:
    judged: all rollouts of the step, on all devices.
    seen: see `look`.
    reference_BT: the reference's log-probabilities; None for no reference.
    coefficient: of the KL in the reward, beta.
    settings: see there.
  """
  mask_BT = judged.batch.loss_mask_BT
  logp_BT, values_BT = seen["logp_BT"], seen["values_BT"]
  kl_BT = jnp.zeros_like(logp_BT)
  if reference_BT is not None:
    clamp = settings.log_ratio_clamp
    kl_BT = kl.estimate(logp_BT, reference_BT, settings.kl_kind, clamp=clamp)
    kl_BT = jnp.where(mask_BT, kl_BT, 0)
  rewards_BT = advantages.token_rewards(
    judged.scores_B, kl_BT, mask_BT, coefficient
  )
  found_BT, returns_BT = advantages.gae(
    rewards_BT,
    values_BT,
    mask_BT,
    gamma=settings.gamma,
    lam=settings.lam,
    bootstrap_B=_behind(judged, seen.get("behind_BT")),
  )
  figures = _figures(judged, seen, kl_BT, found_BT, returns_BT)
  if settings.whitening == "global":
    found_BT = advantages.whiten(found_BT, mask_BT)
  made = Experience(judged.batch, logp_BT, values_BT, found_BT, returns_BT)
  return made, figures


def _behind(judged, behind_BT):
  """Values behind truncated rows' last tokens, 0 for rows that ended."""
  if behind_BT is None:
    return None
  last_B = jnp.maximum(judged.batch.target_mask_BT.sum(1) - 1, 0)
  behind_B = jnp.take_along_axis(behind_BT, last_B[:, None], axis=1)[:, 0]
  return jnp.where(judged.truncated_B, behind_B, 0)


def _figures(judged, seen, kl_BT, advantages_BT, returns_BT):
  mask_BT = judged.batch.loss_mask_BT
  rows = jnp.maximum(mask_BT.any(1).sum(), 1)
  count = jnp.maximum(mask_BT.sum(), 1)

  def mean(x_BT):
    return jnp.where(mask_BT, x_BT, 0).sum() / count

  gap_BT = jnp.where(mask_BT, seen["logp_BT"] - judged.sampled_BT, 0)
  return {
    "kl": mean(kl_BT),
    "kl_per_row": kl_BT.sum() / rows,
    "kl_largest": jnp.abs(kl_BT).max(),
    "entropy": mean(seen["entropy_BT"]),
    "value": mean(seen["values_BT"]),
    "return": mean(returns_BT),
    "advantage": mean(advantages_BT),
    "explained_variance": advantages.explained_variance(
      seen["values_BT"], returns_BT, mask_BT
    ),
    "sampler_gap": jnp.abs(gap_BT).sum() / count,
    "sampler_gap_largest": jnp.abs(gap_BT).max(),
  }


def ppo_loss(family: Any, values: Values, settings: PPOSettings) -> LossFn:
  """`policy + alpha * value - bonus * entropy` over an Experience.

  Numerators and one denominator, that of the reduction, for policy and value
  alike: micro-batches and devices change nothing. Evaluation mode: the rng is
  not used, and there is no dropout.
  """

  def loss(params: Params, made: Experience, rng: jax.Array | None) -> Loss:
    del rng
    batch = made.batch
    output = family.apply({"params": params["policy"]}, batch)
    if settings.entropy_bonus:
      scores = _scores(family, params, batch, output, settings)
    else:
      scores = _logp(family, params, batch, output, settings), None
    values_BT = values(params, batch, output)
    return _loss(made, *scores, values_BT, settings)

  return loss


def first_loss(family: Any, values: Values, settings: PPOSettings) -> LossFn:
  """`ppo_loss` of the first pass over a round that is taken as a whole.

  The policy is still the one that answered: one look at its rollouts gives
  the old log-probabilities and values, and is the one learned from. It reads
  a `Fresh`, and its metrics hold two more: `made`, the Experience for the
  passes that follow, and `figures`; see `experience`. No micro-batches:
  advantages are whitened over all rows.
  """

  def loss(params: Params, fresh: Fresh, rng: jax.Array | None) -> Loss:
    del rng
    batch = fresh.judged.batch
    output = family.apply({"params": params["policy"]}, batch)
    logp_BT, entropy_BT = _scores(
      family,
      params,
      batch,
      output,
      settings,
      learned=bool(settings.entropy_bonus),
    )
    seen = appraise(params, batch, output, settings, values)
    values_BT = seen["values_BT"]
    seen |= {"logp_BT": logp_BT, "entropy_BT": entropy_BT}
    made, figures = experience(
      fresh.judged,
      jax.lax.stop_gradient(seen),
      fresh.reference_BT,
      fresh.coefficient,
      settings,
    )
    found = _loss(made, logp_BT, entropy_BT, values_BT, settings)
    beside = {"made": made, "figures": figures}
    return found.replace(metrics={**found.metrics, **beside})

  return loss


def _loss(made: Experience, logp_BT, entropy_BT, values_BT, settings) -> Loss:
  """Of what the policy being learned makes of an Experience."""
  mask_BT = made.batch.loss_mask_BT
  # Outside the mask are numbers of no meaning; 1 and 0 are harmless ones.
  ratios_BT = ppo.ratios(
    jnp.where(mask_BT, logp_BT, 0),
    jnp.where(mask_BT, made.old_logp_BT, 0),
    clamp=settings.log_ratio_clamp,
  )
  policy_BT, clipped_BT = ppo.policy_loss(
    ratios_BT, made.advantages_BT, settings.policy_clip
  )
  value_BT, held_BT = ppo.value_loss(
    jnp.where(mask_BT, values_BT, 0),
    jnp.where(mask_BT, made.old_values_BT, 0),
    made.returns_BT,
    settings.value_clip,
  )
  w_BT = weights(mask_BT, settings.reduction)
  weight = w_BT.sum()
  total_BT = policy_BT + settings.value_coefficient * value_BT
  if settings.entropy_bonus:
    total_BT -= settings.entropy_bonus * jnp.where(mask_BT, entropy_BT, 0)
  count = mask_BT.sum()

  def share(x_BT):
    return Mean(jnp.where(mask_BT, x_BT, 0).sum(), count)

  metrics = {
    "policy_loss": Mean((w_BT * policy_BT).sum(), weight),
    "value_loss": Mean((w_BT * value_BT).sum(), weight),
    "policy_clipped": share(clipped_BT),
    "value_clipped": share(held_BT),
    "old_kl": share(ratios_BT - 1 - jnp.log(ratios_BT)),
    # A sum over micro-batches: at least the largest of all.
    "ratio_gap": Mean(jnp.abs(ratios_BT - 1).max(), jnp.float32(1)),
  }
  return Loss((w_BT * total_BT).sum(), weight, metrics)
