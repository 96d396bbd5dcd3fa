"""What stages that learn from their own rollouts would run; see `planned`."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from refine_jax import sharding
from refine_jax.models.actor_critic import ActorCritic
from refine_jax.planning import programs
from refine_jax.planning.compiled import Program, bytes_per_device
from refine_jax.stages import plan_job, train_reft
from refine_jax.training import ppo
from refine_jax.training.online import OnlineBatch, online_loss
from refine_jax.training.step import make_train_step


def online_st(job: plan_job.Job) -> Iterator[Program]:
  config, section = job.config, job.config.train_online_st
  planner, train = job.planner, section.train
  module = plan_job.module_of(job, section.model)
  params = job.params(module)
  rows = section.minibatch or train.batch_size
  plan_job.check_rows(job, rows, train.micro_batches, "minibatch")
  rollouts = _rollouts(job, section, rows)
  column = planner.rows((rows,), jnp.float32)
  batch = OnlineBatch(rollouts, rollouts, column, column, column)
  optimizer = plan_job.optimizer(train)
  loss = online_loss(module, gold=section.gold, chunk=train.xent_chunk)
  step = make_train_step(loss, optimizer, micro_batches=train.micro_batches)
  program, kept = programs.train_step(planner, step, params, optimizer, batch)
  tokens = config.completion.max_tokens
  engine = _rollout_engine(job, section)
  sampler, weights = plan_job.sampler(
    job, module, params, engine, tokens, bytes_per_device(kept)
  )
  yield dataclasses.replace(program, resident_bytes=weights)
  yield from sampler


def _rollout_engine(job: plan_job.Job, section: ConfigDict) -> ConfigDict:
  """As `on_policy.Rounds` has it."""
  engine = job.config.engine.copy_and_resolve_references()
  engine.slots = section.rollout.slots or engine.slots
  return engine


def _rollouts(job: plan_job.Job, section: ConfigDict, rows: int):
  prompt = section.rollout.max_prompt or job.config.data.max_prompt
  return job.planner.batch(rows, prompt, job.config.completion.max_tokens)


def reft(job: plan_job.Job) -> Iterator[Program]:
  """PPO: policy and value, reference, the sampler's weights, all at once."""
  config, section = job.config, job.config.train_reft
  planner, train = job.planner, section.train
  settings = train_reft.ppo_settings(config)
  actor, params = actor_and_params(job)
  module, policy = actor.family, params["policy"]
  rows = section.ppo.minibatch or train.batch_size
  plan_job.check_rows(job, rows, train.micro_batches, "ppo.minibatch")
  plan_job.check_rows(job, train.batch_size, 1, "batch_size")
  batch = _rollouts(job, section, rows)
  optimizer = plan_job.optimizer(train)
  step = make_train_step(
    ppo.ppo_loss(module, actor.values, settings),
    optimizer,
    micro_batches=train.micro_batches,
  )
  reference = reference_bytes(job)
  waiting = 0 if on_host(job) else reference
  update, kept = programs.train_step(
    planner,
    step,
    params,
    optimizer,
    programs.experience(planner, batch),
    name="PPO update",
  )
  beside = bytes_per_device(kept) + waiting
  tokens = config.completion.max_tokens
  engine = _rollout_engine(job, section)
  sampler, weights = plan_job.sampler(
    job, module, policy, engine, tokens, beside
  )
  yield dataclasses.replace(update, resident_bytes=waiting + weights)
  if train.micro_batches == 1 and rows == train.batch_size:
    # What `PPOLearner.learn` does with a round that is one minibatch.
    first, _ = programs.train_step(
      planner,
      make_train_step(
        ppo.first_loss(module, actor.values, settings), optimizer
      ),
      params,
      optimizer,
      programs.fresh(planner, batch, reference > 0),
      name="PPO first pass",
      resident=waiting + weights,
    )
    yield first
  yield from sampler
  # While rollouts are scored the reference is on the device, if any.
  beside += reference - waiting
  yield from _scoring(job, actor, settings, params, beside + weights)


def actor_and_params(job: plan_job.Job) -> tuple[ActorCritic, dict[str, Any]]:
  """What train_reft trains, as shapes."""
  section = job.config.train_reft
  module = plan_job.module_of(job, section.model)
  actor = ActorCritic(
    module, section.ppo.value_model == "separate", section.ppo.value_init
  )
  policy = job.params(module)
  return actor, {"policy": policy, "value": _value(job, actor, policy)}


def reference_bytes(job: plan_job.Job) -> int:
  section = job.config.train_reft
  if section.ppo.reference == "none":
    return 0
  return bytes_per_device(job.params(plan_job.module_of(job, section.model)))


def on_host(job: plan_job.Job) -> bool:
  """Whether there is a reference, and it waits on the host."""
  settings = job.config.train_reft.ppo
  return settings.reference != "none" and settings.reference_memory == "host"


def _value(job: plan_job.Job, actor: ActorCritic, policy: Any) -> Any:
  boxed = jax.eval_shape(actor.init_head, jax.random.key(0))
  where = sharding.of_variables(boxed, job.planner.mesh)
  head = job.planner.like(nn.unbox(boxed), where)
  more = {"backbone": policy} if actor.separate else {}
  return {"head": head, **more}


def _scoring(job, actor, settings, params, resident) -> Iterator[Program]:
  """What a round's rollouts go through before the updates."""
  planner, section = job.planner, job.config.train_reft
  module = actor.family
  batch = _rollouts(job, section, section.train.batch_size)
  values = None if actor.separate else actor.values

  def look(params, batch):
    return ppo.look(module, params, batch, settings, values)

  name = "log-probs" if actor.separate else "log-probs and values"
  resident -= bytes_per_device(params)
  yield planner.compile(name, jax.jit(look), params, batch, resident=resident)
  if actor.separate:

    def appraise(params, batch):
      return ppo.appraise(params, batch, None, settings, actor.values)

    yield planner.compile(
      "values", jax.jit(appraise), params, batch, resident=resident
    )
