"""The programs that stages run, lowered from shapes alone.

Each function takes what the stage would build, with shapes (and shardings)
for arrays, and calls the stage's own code; nothing is computed.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from refine_jax import sharding
from refine_jax.batch import Batch
from refine_jax.planning.compiled import Program, bytes_per_device, measure
from refine_jax.planning.topologies import Topology
from refine_jax.sampling import score as scoring
from refine_jax.sampling import turns
from refine_jax.sampling.planning import Shape
from refine_jax.sampling.refill import Pools
from refine_jax.sampling.settings import Sampling, rows
from refine_jax.training import ppo
from refine_jax.training.state import TrainState, abstract_state
from refine_jax.training.step import TrainStep


@dataclasses.dataclass(frozen=True)
class Planner:
  """Compiles for one topology and mesh.

  Attributes:
    known: a folder of programs' figures, see `compiled.measure`.
  """

  topology: Topology
  mesh: jax.sharding.Mesh
  known: pathlib.Path | None = None

  def rows(self, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """An array with rows over the batch axes, as stages place them."""
    axes = (("batch",) + (None,) * len(shape))[: len(shape)]
    where = NamedSharding(self.mesh, sharding.spec(axes, shape, self.mesh))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

  def placed(self, tree: Any) -> Any:
    """Host arrays or shapes as `Programs.put` would place them."""
    return jax.tree.map(lambda x: self.rows(np.shape(x), x.dtype), tree)

  def like(self, tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      tree,
      shardings,
    )

  def whole(self, tree: Any) -> Any:
    where = sharding.replicated(self.mesh)
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree
    )

  def batch(self, count: int, prompt: int, target: int) -> Batch:
    """A supervised batch."""
    ids = [self.rows((count, n), jnp.int32) for n in (prompt, target)]
    masks = [self.rows((count, n), bool) for n in (prompt, target)]
    return Batch(ids[0], masks[0], ids[1], masks[1], masks[1])

  def rng(self) -> jax.ShapeDtypeStruct:
    return self.whole(jax.eval_shape(lambda: jax.random.key(0)))

  def compile(
    self,
    name: str,
    function: Any,
    *arguments: Any,
    resident: int = 0,
    steps: float = 1,
    results: bool = False,
    **static: Any,
  ) -> Program:
    """Figures of a jitted function.

    Args:
      results: the shardings of its results are wanted, too.
    """
    with jax.set_mesh(self.mesh):
      lowered = function.lower(*arguments, **static)
    return measure(
      name,
      lowered,
      arguments,
      self.topology,
      resident=resident,
      steps=steps,
      known=None if results else self.known,
    )


def train_step(
  planner: Planner,
  step: TrainStep,
  params: Any,
  optimizer: Any,
  batch: Any,
  *,
  name: str = "train step",
  resident: int = 0,
) -> tuple[Program, TrainState]:
  """A step, and the state it changes."""
  state = abstract_state(params, optimizer)
  program = planner.compile(
    name, step.jitted(state), state, batch, planner.rng(), resident=resident
  )
  return program, state


def sampler(
  planner: Planner,
  family: Any,
  params: Any,
  shape: Shape,
  *,
  prefill_tokens: int,
  chunk: int,
  resident: int,
  cache_dtype: str | None = None,
  piece: int | None = None,
  prefix: str = "",
) -> tuple[Iterator[Program], int]:
  """What `sampling.engine` runs, and the bytes of the weights it keeps.

  Args:
    params: of the model, as shapes.
    shape: the largest pool.
    prefill_tokens, chunk, cache_dtype: see `Engine`.
    piece: of a prompt, that is read at once; None for all.
    resident: bytes of what lies on the device besides, `params` included.
    prefix: of the programs' names.

  Returns:
    programs, most of them compiled only when they are asked for.
  """
  held = bytes_per_device(params)
  unstack = planner.compile(
    f"{prefix}decode weights",
    jax.jit(family.decode_weights),
    params,
    resident=resident - held,
    results=True,
  )
  if unstack.output_shardings is None:
    return iter([unstack]), 0
  weights = planner.like(
    jax.eval_shape(family.decode_weights, params), unstack.output_shardings
  )
  pools = Pools(
    family,
    planner.placed,
    eos_id=0,
    prefill_tokens=prefill_tokens,
    lengths=(min(piece or shape.prompt_length, shape.prompt_length),),
    chunk=chunk,
    cache_dtype=cache_dtype,
  )
  rest = _pool(planner, pools, weights, shape, resident, prefix)
  return itertools.chain([unstack], rest), bytes_per_device(weights)


def _pool(
  planner: Planner, pools: Pools, weights, shape: Shape, resident: int, prefix
) -> Iterator[Program]:
  slots, queue = _empty(planner, pools, shape)
  length = pools.rung(shape, shape.prompt_length)
  read_rows = pools.at_once(shape, length)
  ids = np.zeros((read_rows, length), np.int32)
  column = np.zeros((read_rows,), np.int32)
  yield planner.compile(
    f"{prefix}prefill",
    pools.read,
    weights,
    queue,
    *planner.placed((ids, column, column, np.int32(0))),
    resident=resident + bytes_per_device(slots),
  )
  halted = np.zeros((shape.slots,), np.int32)
  yield planner.compile(
    f"{prefix}decode chunk",
    pools.chunk,
    weights,
    slots,
    queue,
    *planner.placed((np.bool_(False), (halted, halted))),
    resident=resident,
    steps=pools.steps,
  )


def _empty(planner: Planner, pools: Pools, shape: Shape) -> tuple[Any, Any]:
  """Slots and a queue as the engine makes them."""
  made = []
  functions = pools.empty_slots, pools.empty_queue
  for function, static in zip(functions, pools.sizes(shape), strict=True):
    with jax.set_mesh(planner.mesh):
      compiled = function.trace(**static).lower().compile()
      abstract = function.eval_shape(**static)
    made.append(planner.like(abstract, compiled.output_shardings))
  return made[0], made[1]


def log_probs(
  planner: Planner,
  family: Any,
  params: Any,
  batch: Batch,
  *,
  value_head: Callable[..., jax.Array] | None = None,
  name: str = "log-probs",
  resident: int = 0,
) -> Program:
  """`Engine.score`."""

  def score(params, batch):
    return scoring.score(family, value_head, params, batch)

  return planner.compile(name, jax.jit(score), params, batch, resident=resident)


def embed(
  planner: Planner, family: Any, params: Any, count: int, length: int
) -> Program:
  """`Engine.embed`."""
  batch = planner.batch(count, length, 1)
  return planner.compile(
    "embed",
    jax.jit(family.embed),
    params,
    batch.prompt_BP,
    batch.prompt_mask_BP,
  )


def refine_turn(
  planner: Planner,
  generator: tuple[Any, Any],
  critic: tuple[Any, Any],
  *,
  slots: int,
  prompt: int,
  hypothesis: int,
  feedback: int,
  turns_: int,
  resident: int = 0,
) -> Program:
  """The refine loop of two models; its figures are those of one turn.

  Args:
    generator, critic: module and parameters.
    slots, prompt: rows, and tokens of a question.
    hypothesis, feedback: tokens sampled at most.
    turns_: of the loop.
  """
  # Only their number matters, not which ids they are.
  template = turns.TemplateIds(
    hypothesis=(1,) * 8, feedback=(1,) * 8, no_hint=(1,) * 4
  )
  run = turns.make_refine_program(
    generator[0],
    critic[0],
    turns=turns_,
    hypothesis_length=hypothesis,
    feedback_length=feedback,
    template=template,
  )
  settings = rows([Sampling(max_tokens=1)] * slots, eos_id=0)
  inputs = turns.Inputs(
    x_BP=np.zeros((slots, prompt), np.int32),
    lengths_B=np.zeros((slots,), np.int32),
    generator=settings,
    critic=settings,
    generator_requests_UB=np.zeros((turns_, slots), np.uint32),
    critic_requests_UB=np.zeros((turns_, slots), np.uint32),
  )
  placed = planner.placed(inputs)
  by_turn = planner.whole(
    (inputs.generator_requests_UB, inputs.critic_requests_UB)
  )
  placed = placed.replace(
    generator_requests_UB=by_turn[0], critic_requests_UB=by_turn[1]
  )
  return planner.compile(
    "refine turn",
    jax.jit(run),
    generator[1],
    critic[1],
    placed,
    resident=resident,
    steps=(hypothesis + feedback) / 2,
  )


def judged(planner: Planner, batch: Batch) -> ppo.Judged:
  """Rollouts with their scores."""
  count, target = batch.target_BT.shape
  return ppo.Judged(
    batch,
    scores_B=planner.rows((count,), jnp.float32),
    truncated_B=planner.rows((count,), bool),
    sampled_BT=planner.rows((count, target), jnp.float32),
  )


def experience(planner: Planner, batch: Batch) -> ppo.Experience:
  table = planner.rows(batch.target_BT.shape, jnp.float32)
  return ppo.Experience(batch, table, table, table, table)


def fresh(planner: Planner, batch: Batch, reference: bool) -> ppo.Fresh:
  """Rollouts as PPO's first pass takes them; `reference`: whether it is given
  one's log-probabilities."""
  made = judged(planner, batch)
  coefficient = planner.rows((), jnp.float32)
  return ppo.Fresh(made, made.sampled_BT if reference else None, coefficient)
