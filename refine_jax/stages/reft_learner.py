"""PPO on devices: policy, value, reference, and the passes of a round."""

import dataclasses
import functools
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from refine_jax.algorithms import kl
from refine_jax.batch import Params
from refine_jax.methods import rollout
from refine_jax.models.actor_critic import ActorCritic, policy_of
from refine_jax.stages import build, on_policy
from refine_jax.stages.reading import BadConfig, reading
from refine_jax.training import offload, ppo
from refine_jax.training.state import TrainState, init_params, state_of
from refine_jax.training.step import make_train_step, means, on_mesh

# Of |ratio - 1| and of |KL| before the first update, in float32: both sides are
# of one program.
EXACT = 1e-5
# Of a pass in pieces, or the sampler, against the scorer: programs whose sums
# run in another order. Logits of 30 alone are off by 1e-5 then.
CLOSE, NEAR = 1e-4, 1e-3


class Mismatch(ArithmeticError):
  """Two sides that should compute the same number do not."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """The loop's part of PPO; see `config.ppo` for where numbers come from.

  Attributes:
    passes: over the rollouts of a round.
    minibatch: rollouts per update.
    kl_coefficient, kl_target, kl_horizon: beta, and its controller.
    kl_stop: mean divergence from the rollouts' policy after which the round's
      other passes are left out; 0 for never.
    kl_floor: a mean sampled KL below minus this ends the run; 0 for never.
    reference: `generator`, the policy as it came, or `none`.
    reference_memory: where it waits, see `offload.Waiting`.
    micro_batches: pieces of an update.
    seed: of the minibatches' order.
  """

  passes: int = 2
  minibatch: int = 32
  kl_coefficient: float = 0.01
  kl_target: float = 0.0
  kl_horizon: float = 10_000.0
  kl_stop: float = 0.0
  kl_floor: float = 0.5
  reference: str = "generator"
  reference_memory: str = "device"
  micro_batches: int = 1
  seed: int = 0

  def __post_init__(self):
    if self.reference not in ("generator", "none"):
      raise BadConfig(
        f"ppo.reference is generator or none, not {self.reference!r}"
      )
    if self.reference_memory not in offload.MEMORIES:
      raise BadConfig(
        f"ppo.reference_memory is device or host, not {self.reference_memory!r}"
      )
    if self.passes < 1:
      raise BadConfig(f"ppo.passes must be positive, got {self.passes}")

  def updates(self, rows: int) -> int:
    """Updates of a round of `rows` rollouts."""
    if rows % self.minibatch:
      raise BadConfig(
        f"batch_size={rows} is no multiple of ppo.minibatch={self.minibatch}"
      )
    return self.passes * (rows // self.minibatch)


class PPOLearner:
  """See `on_policy.Learner`."""

  def __init__(
    self,
    model: build.Model,
    actor_critic: ActorCritic,
    ppo_settings: ppo.PPOSettings,
    settings: Settings,
    optimizer: optax.GradientTransformation,
    schedule: Any,
    shape: rollout.Shape,
    *,
    per_round: int,
    rng: jax.Array,
  ):
    self.per_round = per_round
    family = model.module
    self._mesh, self._ppo, self._settings = model.mesh, ppo_settings, settings
    self._schedule, self._shape, self._rng = schedule, shape, rng
    self._exact = family.config.dtype == "float32"
    self._identity = fingerprint(model.params)
    self._reference, policy = _apart(model.params, settings)
    self._coefficient = settings.kl_coefficient
    value = _value_params(actor_critic, model, rng)
    params = {"policy": policy, "value": value}
    self._state = state_of(params, optimizer)
    values = actor_critic.values
    # One program for policy and reference, so that equal parameters give equal
    # numbers; a value model of its own is left out of it.
    shared = None if actor_critic.separate else values
    self._look = jax.jit(
      lambda params, batch: ppo.look(
        family, params, batch, ppo_settings, shared
      )
    )
    self._appraise = actor_critic.separate and jax.jit(
      lambda params, batch: ppo.appraise(
        params, batch, None, ppo_settings, values
      )
    )
    self._experience = jax.jit(
      functools.partial(ppo.experience, settings=ppo_settings)
    )
    self._take = jax.jit(lambda tree, i: jax.tree.map(lambda x: x[i], tree))
    self._step = make_train_step(
      ppo.ppo_loss(family, values, ppo_settings),
      optimizer,
      micro_batches=settings.micro_batches,
    )
    self._first = settings.micro_batches == 1 and make_train_step(
      ppo.first_loss(family, values, ppo_settings), optimizer
    )

  @property
  def updates(self) -> int:
    return int(self._state.step)

  @property
  def policy(self) -> Params:
    return policy_of(self._state.params)

  def learn(
    self, number: int, rollouts: Sequence[rollout.Rollout]
  ) -> dict[str, float]:
    """Scores a round and updates on it."""
    begun = time.perf_counter()
    judged = self._place(rollouts)
    reference_BT = jax.block_until_ready(self._referred(judged))
    losses = []
    whole = self._first and len(rollouts) == self._settings.minibatch
    # Round 0 is always scored as the reference is, to be compared with it.
    if not (number and whole):
      made, figures = self._scored(judged, reference_BT)
      if number == 0:
        self._check_scores(figures, EXACT)
    scored = time.perf_counter()
    if whole:
      made, found, metrics = self._first_pass(judged, reference_BT)
      losses = [metrics]
      if number:
        figures = found
      else:
        self._check_ratio(metrics, EXACT)
        self._check_scores(found, CLOSE)
    self._check_floor(figures["kl"])
    figures |= self._passes(number, made, len(rollouts), losses)
    figures["kl_coefficient"] = self._coefficient
    self._coefficient = kl.adapted(
      self._coefficient,
      figures["kl_per_row"],
      len(rollouts),
      target=self._settings.kl_target,
      horizon=self._settings.kl_horizon,
    )
    figures["learning_rate"] = float(self._schedule(self.updates - 1))
    figures["seconds/score"] = scored - begun
    figures["seconds/update"] = time.perf_counter() - scored
    return figures

  def _place(self, rollouts) -> ppo.Judged:
    batch, beside = rollout.batch_of(rollouts, self._shape)
    judged = ppo.Judged(
      batch,
      scores_B=beside["scores_B"],
      truncated_B=beside["truncated_B"],
      sampled_BT=beside["sampled_BT"],
    )
    return build.place_whole(judged, self._mesh)

  def _referred(self, judged: ppo.Judged) -> jax.Array | None:
    """The reference's log-probabilities, if there is one."""
    if self._reference is None:
      return None
    other = {**self._state.params, "policy": self._reference.on_device()}
    with on_mesh(other):
      return self._look(other, judged.batch)["logp_BT"]

  def _scored(self, judged: ppo.Judged, reference_BT: jax.Array | None):
    """What passes learn from, and figures."""
    params = self._state.params
    with on_mesh(params):
      seen = self._look(params, judged.batch)
      if self._appraise:
        seen |= self._appraise(params, judged.batch)
      made, figures = self._experience(
        judged, seen, reference_BT, np.float32(self._coefficient)
      )
    return made, _floats(figures)

  def _first_pass(self, judged: ppo.Judged, reference_BT: jax.Array | None):
    """As `_scored`, having learned from the whole round once; its metrics."""
    coefficient = np.float32(self._coefficient)
    fresh = ppo.Fresh(judged, reference_BT, coefficient)
    self._state, metrics = self._first(self._state, fresh, self._rng)
    made = metrics.pop("made")
    figures = _floats(metrics.pop("figures"))
    return made, figures, jax.device_get(metrics)

  def _passes(
    self, number: int, made, rows: int, rounds: list
  ) -> dict[str, float]:
    """The passes that are left after `rounds`, the metrics of the first."""
    size, done = self._settings.minibatch, len(rounds)
    for index in range(done, self._settings.passes):
      rng = np.random.default_rng([self._settings.seed, number, index])
      order = rng.permutation(rows)
      losses = []
      for start in range(0, rows, size):
        part = made
        if size < rows:
          part = self._part(made, order[start : start + size])
        self._state, metrics = self._step(self._state, part, self._rng)
        losses.append(metrics)
      losses = jax.device_get(losses)
      if number == 0 and index == 0:
        self._check_ratio(losses[0], CLOSE)
      rounds += losses
      done += 1
      moved = means(losses)["old_kl"]
      if self._settings.kl_stop and moved > self._settings.kl_stop:
        break
    for metrics in rounds:
      metrics.pop("counts")
    figures = means(rounds)
    figures["ratio_gap_first"] = float(rounds[0]["ratio_gap"].total)
    figures["passes"] = float(done)
    return figures

  def _part(self, made, rows: np.ndarray):
    with on_mesh(self._state):
      return jax.device_put(
        self._take(made, rows), jax.tree.map(lambda x: x.sharding, made)
      )

  # The policy before its first update is the reference, and the one sampled.

  def _check_scores(self, figures: Mapping[str, float], limit: float) -> None:
    if not self._exact:
      return
    if self._reference is not None and figures["kl_largest"] > limit:
      raise Mismatch(
        f"before the first update |log policy - log reference| is up to"
        f" {figures['kl_largest']:.3g}, not within {limit}"
      )
    if figures["sampler_gap_largest"] > NEAR:
      raise Mismatch(
        "sampler and scorer differ by up to"
        f" {figures['sampler_gap_largest']:.3g} in log-probabilities: they"
        " do not draw from and score one distribution"
      )

  def _check_ratio(self, metrics: Mapping[str, Any], limit: float) -> None:
    gap = float(metrics["ratio_gap"].total)
    if self._exact and gap > limit:
      raise Mismatch(
        f"before the first update |ratio - 1| is up to {gap:.3g}, not within"
        f" {limit}"
      )

  def _check_floor(self, mean: float) -> None:
    if self._settings.kl_floor and mean < -self._settings.kl_floor:
      raise Mismatch(
        f"the mean sampled KL is {mean:.3g}, below -{self._settings.kl_floor}:"
        " the policy is paid for tokens the sampler does not draw"
      )

  # What a checkpoint holds.

  def packed(self) -> TrainState:
    state = self._state
    beside = {"optimizer": state.opt_state, "value": state.params["value"]}
    return TrainState(state.step, self.policy, beside)

  def unpack(self, state: TrainState) -> None:
    beside = state.opt_state
    params = {"policy": state.params, "value": beside["value"]}
    if self._settings.reference_memory == "host":
      # The generator's own arrays, which whoever made the learner still has.
      jax.tree.map(lambda x: x.delete(), self.policy)
    self._state = TrainState(state.step, params, beside["optimizer"])

  def memory(self) -> dict[str, Any]:
    return {
      "reference": self._identity,
      "kl_coefficient": self._coefficient,
      "seed": self._settings.seed,
    }

  def recall(self, memory: Mapping[str, Any]) -> None:
    if memory["reference"] != self._identity:
      raise BadConfig(
        f"the run began from a generator of fingerprint {memory['reference']},"
        f" this one has {self._identity}: its reference is another model"
      )
    self._coefficient = memory["kl_coefficient"]


def _apart(
  params: Params, settings: Settings
) -> tuple[offload.Waiting | None, Params]:
  """The reference, if there is one, and the policy, which is donated."""
  if settings.reference == "none":
    return None, on_policy.copy(params)
  memory = settings.reference_memory
  with reading("train_reft.ppo.reference_memory"):
    waiting = offload.Waiting(params, memory)
  return waiting, params if memory == "host" else on_policy.copy(params)


def _floats(figures: Mapping[str, jax.Array]) -> dict[str, float]:
  return {k: float(v) for k, v in jax.device_get(figures).items()}


class _HeadModule:
  """Lets a head be initialised as a model is."""

  def __init__(self, actor_critic: ActorCritic):
    self._actor_critic = actor_critic

  def init(self, rng, batch):
    del batch
    return {"params": self._actor_critic.init_head(rng)}


def _value_params(actor_critic, model, rng) -> Params:
  head = init_params(
    _HeadModule(actor_critic),
    jax.random.fold_in(rng, 1),
    model.mesh,
    build.example_batch(),
  )
  if not actor_critic.separate:
    return {"head": head}
  return {"head": head, "backbone": on_policy.copy(model.params)}


@jax.jit
def _sums(params: Params) -> list[jax.Array]:
  """Per leaf the sum of its bits, which no layout changes."""

  def bits(x):
    kind = {2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    flat = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
    return flat.sum(dtype=jnp.uint32)

  return [bits(x) for x in jax.tree.leaves(params)]


def fingerprint(params: Params) -> str:
  """Names parameters whatever devices they lie on."""
  with on_mesh(params):
    sums = np.array(jax.device_get(_sums(params)), np.uint32)
  return f"{zlib.crc32(sums.tobytes()):08x}"
