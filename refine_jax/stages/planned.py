"""Which programs a config's stage would run, compiled from shapes alone."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from refine_jax.models import lora_hf
from refine_jax.models.reranker import Reranker
from refine_jax.planning import programs
from refine_jax.planning.compiled import Program, bytes_per_device
from refine_jax.planning.topologies import Topology
from refine_jax.stages import adapters, build, plan_job, planned_on_policy
from refine_jax.training import lora, state
from refine_jax.training.classify import Labelled, classification_loss
from refine_jax.training.loss import supervised_loss
from refine_jax.training.step import Beside, make_train_step


def stage_of(config: ConfigDict, asked: str) -> str:
  """The stage to plan: the one asked for, or the config's dearest.

  Raises:
    plan_job.BadPlan: it is not planned, or not in the config.
  """
  found = _plannable(config)
  if not asked and found:
    return found[0]
  if asked in found:
    return asked
  there = asked in config and asked not in STAGES
  raise plan_job.BadPlan(
    f"stage {asked!r}{' cannot be planned' if there else ''}: this config has"
    f" {', '.join(found) or 'none'} of what can be planned"
  )


def choice(config: ConfigDict, stage: str) -> str:
  """Why this stage, and what else there is, in one line."""
  found = _plannable(config)
  more = [name for name in found if name != stage]
  kinds = ("train_", "run_", "make_")
  never = [x for x in config if x.startswith(kinds) and x not in found]
  text = f"Planned {stage}, the dearest of the config's stages"
  if more:
    text += f"; --stage= plans {', '.join(more)}"
  if never:
    text += f"; cannot be planned: {', '.join(never)}"
  return f"{text}."


def _plannable(config: ConfigDict) -> list[str]:
  return [name for name in STAGES if section_of(name) in config]


def plan(job: plan_job.Job, stage: str) -> Iterator[Program]:
  """The stage's programs, the likeliest to need most memory first."""
  return STAGES[stage](job)


def where(topology: Topology, stage: str) -> Topology:
  """The devices that the stage's programs run on."""
  return topology.of_process() if stage in DEALT else topology


def model_of(config: ConfigDict, stage: str) -> ConfigDict:
  """The `model` section of a stage; the experiment's, where it has none."""
  own = config[stage].get("model") if "train_" in stage else None
  return own or config.model


def state_bytes(job: plan_job.Job, stage: str) -> int:
  """What training keeps on a device between steps; 0 for other stages."""
  section = job.config.get(stage)
  if section is None or "train" not in section:
    return 0
  module = plan_job.module_of(job, model_of(job.config, stage))
  params: Any = job.params(module)
  total = 0
  if section.train.lora.rank:
    total = bytes_per_device(params)
    settings = adapters.of_section(section.train.lora)
    params = lora.abstract(params, lora_hf.inputs(module), settings)
  optimizer = plan_job.optimizer(section.train)
  return total + bytes_per_device(state.abstract_state(params, optimizer))


def parameters(job: plan_job.Job, stage: str) -> int:
  """How many the models have that the stage runs, heads included."""
  config, held = job.config, None
  if stage in ("run_refine", "refine_turn"):
    held = [params for _, params in _generator_and_critic(job)]
  elif stage == "train_reft":
    held = planned_on_policy.actor_and_params(job)[1]
  elif stage == "train_reranker":
    held = _reranker(job)[1]
  else:
    held = job.params(plan_job.module_of(job, model_of(config, stage)))
  return sum(leaf.size for leaf in jax.tree.leaves(held))


def dealt(whole: Topology, stage: str) -> tuple[str, ...]:
  """That processes share the stage's work, where there are several."""
  own = where(whole, stage)
  if own.count == whole.count:
    return ()
  return (
    f"{stage} deals its work out: each of {whole.count // own.count} processes"
    f" of {whole.name} has the model, and engine.slots, on its own {own.count}"
    " devices; they are planned.",
  )


def notes(job: plan_job.Job, stage: str) -> tuple[str, ...]:
  """What lies elsewhere than on the devices."""
  if stage != "train_reft" or not planned_on_policy.on_host(job):
    return ()
  size = planned_on_policy.reference_bytes(job) / (1 << 30)
  return (
    f"The reference waits in pinned memory of the host, {size:.2f} GiB a"
    " device; on the device it counts only while rollouts are scored.",
  )


def section_of(stage: str) -> str:
  """Of the config."""
  return {"embed": "engine", "refine_turn": "run_refine"}.get(stage, stage)


def _supervised(
  job: plan_job.Job, section: ConfigDict, data: ConfigDict, model=None
):
  """The train step of a supervised stage, and its parameters."""
  train, planner = section.train, job.planner
  module = plan_job.module_of(job, model or section.model)
  params = job.params(module)
  plan_job.check_rows(job, train.batch_size, train.micro_batches, "batch_size")
  batch = planner.batch(train.batch_size, *plan_job.lengths(data))
  if data.batching == "pack":
    batch = batch.replace(
      prompt_segments_BP=planner.rows(batch.prompt_BP.shape, jnp.int32),
      target_segments_BT=planner.rows(batch.target_BT.shape, jnp.int32),
    )
  loss = supervised_loss(
    module,
    chunk=train.xent_chunk,
    label_smoothing=train.label_smoothing,
    reduction=train.reduction,
  )
  trained: Any = params
  if train.lora.rank:
    settings = adapters.of_section(train.lora)
    trained = lora.abstract(params, lora_hf.inputs(module), settings)
    loss, batch = lora.loss(loss, settings), Beside(params, batch)
  optimizer = plan_job.optimizer(train)
  step = make_train_step(loss, optimizer, micro_batches=train.micro_batches)
  program, kept = programs.train_step(planner, step, trained, optimizer, batch)
  beside = bytes_per_device(kept)
  if train.lora.rank:
    beside += bytes_per_device(params)
  return program, module, params, beside


def _validated(
  job: plan_job.Job,
  section: ConfigDict,
  data: ConfigDict,
  engine: ConfigDict,
  tokens: int,
  *,
  model: ConfigDict | None = None,
  scores: bool = False,
) -> Iterator[Program]:
  """A supervised stage, and the sampler that validates it.

  Args:
    tokens: an answer's at most.
    model: the stage's section of it, if it has none of its own.
    scores: validation asks for the likelihood of targets, too.
  """
  program, module, params, beside = _supervised(job, section, data, model)
  sampler, weights = plan_job.sampler(
    job, module, params, engine, tokens, beside
  )
  # The weights that answered the last validation stay for the next steps.
  yield dataclasses.replace(program, resident_bytes=weights)
  yield from sampler
  if scores:
    prompt = max(engine.prompt_buckets)
    yield programs.log_probs(
      job.planner,
      module,
      params,
      job.planner.batch(engine.slots, prompt, tokens),
      resident=beside + weights,
    )


def _train_generator(job: plan_job.Job) -> Iterator[Program]:
  config, section = job.config, job.config.train_generator
  tokens = config.completion.max_tokens
  yield from _validated(job, section, config.data, config.engine, tokens)


def _train_critic(job: plan_job.Job) -> Iterator[Program]:
  section, tokens = job.config.train_critic, job.config.feedback.max_tokens
  yield from _validated(job, section, section.data, section.engine, tokens)


def _train_rationalyst(job: plan_job.Job) -> Iterator[Program]:
  section = job.config.train_rationalyst
  yield from _validated(
    job,
    section,
    section.data,
    section.engine,
    section.data.max_target,
    scores=True,
  )


def _reranker(job: plan_job.Job) -> tuple[Reranker, Any]:
  reranker = Reranker(plan_job.module_of(job, job.config.train_reranker.model))
  return reranker, state.abstract_params(
    reranker, build.example_batch(), job.planner.mesh
  )


def _train_reranker(job: plan_job.Job) -> Iterator[Program]:
  section, planner = job.config.train_reranker, job.planner
  reranker, params = _reranker(job)
  module, train = reranker.family, section.train
  plan_job.check_rows(job, train.batch_size, train.micro_batches, "batch_size")
  rows = train.batch_size
  batch = planner.batch(rows, *plan_job.lengths(section.data))
  labelled = Labelled(
    batch, planner.rows((rows,), jnp.int32), planner.rows((rows,), jnp.float32)
  )
  loss = classification_loss(
    reranker, module, language=section.language, chunk=train.xent_chunk
  )
  optimizer = plan_job.optimizer(train)
  step = make_train_step(loss, optimizer, micro_batches=train.micro_batches)
  program, kept = programs.train_step(
    planner, step, params, optimizer, labelled
  )
  yield program
  yield planner.compile(
    "rerank score",
    jax.jit(lambda params, batch: reranker(params, batch)[0]),
    params,
    batch,
    resident=bytes_per_device(kept.opt_state),
  )


def _sampling(job: plan_job.Job, tokens: int) -> Iterator[Program]:
  """A generator that answers, and no more."""
  module = plan_job.module_of(job, job.config.model)
  params = job.params(module)
  held = bytes_per_device(params)
  made, _ = plan_job.sampler(
    job, module, params, job.config.engine, tokens, held
  )
  yield from made


def _run_sample(job: plan_job.Job) -> Iterator[Program]:
  yield from _sampling(job, job.config.run_sample.sampling.max_tokens)


def _run_evaluate(job: plan_job.Job) -> Iterator[Program]:
  yield from _sampling(job, job.config.run_evaluate.sampling.max_tokens)


def _make_critic_data(job: plan_job.Job) -> Iterator[Program]:
  if not job.config.make_critic_data.generator:
    raise plan_job.BadPlan(
      "stage 'make_critic_data' runs no model: make_critic_data.generator is"
      " empty"
    )
  yield from _sampling(job, job.config.completion.max_tokens)


def _embed(job: plan_job.Job) -> Iterator[Program]:
  engine = job.config.engine
  module = plan_job.module_of(job, job.config.model)
  yield programs.embed(
    job.planner,
    module,
    job.params(module),
    engine.slots,
    max(engine.prompt_buckets),
  )


def _run_refine(job: plan_job.Job) -> Iterator[Program]:
  config, section = job.config, job.config.run_refine
  both = _generator_and_critic(job)
  held = sum(bytes_per_device(params) for _, params in both)
  answers, more = plan_job.sampler(
    job,
    *both[0],
    config.engine,
    config.completion.max_tokens,
    held,
    "generator: ",
  )
  yield from answers
  feedback, _ = plan_job.sampler(
    job,
    *both[1],
    section.critic_engine,
    config.feedback.max_tokens,
    held + more,
    "critic: ",
  )
  yield from feedback


def _generator_and_critic(job: plan_job.Job) -> list[tuple[nn.Module, Any]]:
  config = job.config
  modules = (
    plan_job.module_of(job, section)
    for section in (config.model, config.train_critic.model)
  )
  return [(module, job.params(module)) for module in modules]


def _refine_turn(job: plan_job.Job) -> Iterator[Program]:
  """The loop of both models that never leaves the devices."""
  config = job.config
  yield programs.refine_turn(
    job.planner,
    *_generator_and_critic(job),
    slots=config.engine.slots,
    prompt=max(config.engine.prompt_buckets),
    hypothesis=config.completion.max_tokens,
    feedback=config.feedback.max_tokens,
    turns_=max(1, config.run_refine.turns),
  )


def _train_refiner(job: plan_job.Job) -> Iterator[Program]:
  config, section = job.config, job.config.train_refiner
  yield from _validated(
    job,
    section,
    config.data,
    config.engine,
    config.completion.max_tokens,
    model=config.model,
  )


STAGES: dict[str, Callable[[plan_job.Job], Iterator[Program]]] = {
  "train_reft": planned_on_policy.reft,
  "train_refiner": _train_refiner,
  "train_rationalyst": _train_rationalyst,
  "train_generator": _train_generator,
  "train_critic": _train_critic,
  "train_reranker": _train_reranker,
  "train_online_st": planned_on_policy.online_st,
  "run_sample": _run_sample,
  "run_evaluate": _run_evaluate,
  "make_critic_data": _make_critic_data,
  "run_refine": _run_refine,
  "refine_turn": _refine_turn,
  "embed": _embed,
}
# Problems or documents are dealt out: a process has the model on its own
# devices, see `build.own_mesh`.
DEALT = ("run_sample", "run_evaluate", "make_critic_data", "embed")
