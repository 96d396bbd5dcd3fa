"""Trains a generator by PPO on a checked reward (ReFT, section 3.2).

Reads a warm generator, which is also the reference, and a task; writes
checkpoints of policy, value, optimizer, KL controller and position.
"""

import pathlib

import jax
from ml_collections import ConfigDict

from refine_jax.models.actor_critic import ActorCritic
from refine_jax.stages import build, launch, on_policy
from refine_jax.stages.reading import BadConfig
from refine_jax.stages.reft_learner import PPOLearner, Settings
from refine_jax.training.ppo import PPOSettings

SECTIONS = (
  "seed",
  "task",
  "tokenizer",
  "template",
  "mesh",
  "engine",
  "data",
  "completion",
  "train_reft",
)


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Trains one generator.

  1. Load the warm generator; give it a value head.
  2. Every round: answer new problems, check the answers meanwhile, score them
     under policy and reference, make advantages, update `passes` times.
  3. Every `eval_every` rounds answer the validation problems, greedily.
  """
  section = config.train_reft
  task = build.task(config.task, section.options)
  mesh = build.mesh(config.mesh)
  model = build.fresh_model(
    section.model,
    config.tokenizer,
    mesh,
    workdir,
    seed=config.seed,
    markers=task.markers,
  )
  problems, held_out = on_policy.problems_of(task, config, section)
  rounds = on_policy.Rounds(model, task, problems, config, section)
  validate = on_policy.validation(rounds, task, held_out, config)
  return on_policy.run(
    learner(model, config, rounds.shape),
    rounds,
    validate,
    section.train,
    workdir=workdir,
    meta={**model.meta, "config": config.to_dict()},
  )


def learner(model: build.Model, config: ConfigDict, shape) -> PPOLearner:
  """PPO under a `train_reft` section."""
  section = config.train_reft
  ppo = section.ppo
  settings = Settings(
    passes=ppo.passes,
    minibatch=ppo.minibatch or section.train.batch_size,
    kl_coefficient=ppo.kl_coefficient,
    kl_target=ppo.kl_target,
    kl_horizon=ppo.kl_horizon,
    kl_stop=ppo.kl_stop,
    kl_floor=ppo.kl_floor,
    reference=ppo.reference,
    reference_memory=ppo.reference_memory,
    micro_batches=section.train.micro_batches,
    seed=config.seed,
  )
  build.check_rows(settings.minibatch, model.mesh)
  per_round = settings.updates(section.train.batch_size)
  optimizer, schedule = build.optimizer(
    section.train.optimizer, section.train.steps * per_round
  )
  return PPOLearner(
    model,
    ActorCritic(model.module, ppo.value_model == "separate", ppo.value_init),
    ppo_settings(config),
    settings,
    optimizer,
    schedule,
    shape,
    per_round=per_round,
    rng=jax.random.key(config.seed),
  )


def ppo_settings(config: ConfigDict) -> PPOSettings:
  """The arrays' part of a `train_reft` section."""
  section = config.train_reft
  ppo = section.ppo
  if ppo.value_model not in ("shared", "separate"):
    raise BadConfig(
      f"ppo.value_model is shared or separate, not {ppo.value_model!r}"
    )
  return PPOSettings(
    gamma=ppo.gamma,
    lam=ppo.lam,
    policy_clip=ppo.policy_clip,
    value_clip=ppo.value_clip,
    value_coefficient=ppo.value_coefficient,
    kl_kind=ppo.kl_kind,
    log_ratio_clamp=ppo.log_ratio_clamp,
    whitening=ppo.whitening,
    reduction=section.train.reduction,
    truncation=ppo.truncation,
    entropy_bonus=ppo.entropy_bonus,
    temperature=section.rollout.temperature,
    chunk=section.train.xent_chunk or None,
  )


if __name__ == "__main__":
  launch.run(main, SECTIONS, saves=True)
