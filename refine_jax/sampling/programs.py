"""The compiled programs of one family, and a batch's way through them."""

import contextlib
import functools
import weakref
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from refine_jax import sharding
from refine_jax.sampling import batches, beam, loop
from refine_jax.sampling.batches import Decoded, Halt
from refine_jax.sampling.planning import Plan
from refine_jax.sampling.settings import Rows, rows
from refine_jax.sampling.statistics import Statistics


class Programs:
  """Jitted prefill, decode and search.

  Args:
    family: the model.
    mesh: of the parameters; None for one device.
    eos_id: ends a row.
    prefill_tokens: rows times length of a prefill, at most.
    piece: tokens of a prompt that are read at once; None for all.
    chunk: steps between two looks of the host at stop strings.
  """

  def __init__(
    self,
    family: Any,
    *,
    mesh: jax.sharding.Mesh | None,
    eos_id: int | None,
    prefill_tokens: int,
    chunk: int,
    piece: int | None = None,
  ):
    self._family, self._mesh, self._eos_id = family, mesh, eos_id
    self._prefill_tokens, self._chunk = prefill_tokens, chunk
    self._piece = piece
    self._known: tuple[list[weakref.ref], Any] | None = None
    bind = functools.partial
    self._unstack = jax.jit(family.decode_weights)
    self._empty = jax.jit(
      bind(loop.empty, family),
      static_argnames=("slots", "length", "prompt_length", "vocab"),
    )
    self._prefill = jax.jit(bind(loop.prefill, family), donate_argnums=1)
    self._expand = jax.jit(loop.expand)
    self._begin = jax.jit(loop.begin, static_argnums=3, donate_argnums=1)
    self._decode = jax.jit(bind(loop.decode, family), donate_argnums=(1, 2))
    self._search = jax.jit(
      bind(beam.search, family), static_argnames=("beams", "room", "stops")
    )

  def scope(self):
    """The mesh context under which programs are traced and run."""
    if self._mesh is None:
      return contextlib.nullcontext()
    return jax.set_mesh(self._mesh)

  def put(self, tree: Any) -> Any:
    """Host arrays to the devices, rows over the batch axes."""
    if self._mesh is None:
      return jax.device_put(tree)

    def place(x):
      axes = (("batch",) + (None,) * np.ndim(x))[: np.ndim(x)]
      return NamedSharding(
        self._mesh, sharding.spec(axes, np.shape(x), self._mesh)
      )

    where = jax.tree.map(place, tree)
    if not self._mesh.is_multi_process:
      return jax.device_put(tree, where)
    # `device_put` would compare the arrays of all processes, one by one.
    return jax.tree.map(_from_all, tree, where)

  def weights(self, params: Any) -> Any:
    """Decode weights; kept until other parameters come."""
    leaves = jax.tree.leaves(params)
    if self._known is not None:
      references, weights = self._known
      if len(references) == len(leaves) and all(
        ref() is leaf for ref, leaf in zip(references, leaves, strict=True)
      ):
        return weights
    self._known = None  # the old weights go before the new ones come
    weights = self._unstack(params)
    self._known = ([weakref.ref(leaf) for leaf in leaves], weights)
    return weights

  def run(
    self,
    weights: Any,
    plan: Plan,
    statistics: Statistics,
    halt: Halt | None = None,
  ) -> Decoded:
    """One batch from prompts to tokens; rows as in `plan.rows`, by slot."""
    filled = self._fill(weights, plan, statistics)
    if plan.beams > 1:
      return self._run_search(weights, plan, statistics, filled)
    settings = self.put(_row_settings(plan, self._eos_id))
    state = self._begin(filled.logits_BV, filled.seen_BV, settings, plan.room)
    _, state, decoded, looks = batches.drain(
      functools.partial(self._decode, weights),
      filled.cache,
      state,
      steps=plan.room if halt is None else self._chunk,
      halt=halt,
      put=self.put,
    )
    statistics.syncs += looks
    statistics.count(state, plan.slots)
    return decoded

  def _fill(self, weights, plan: Plan, statistics) -> loop.Filled:
    """Every distinct prompt once, then copies where rows share one."""
    room = plan.room
    if not self._family.encoder_decoder:
      room += plan.prompt_length
    filled = self._empty(
      slots=plan.slots,
      length=room,
      prompt_length=plan.prompt_length,
      vocab=self._family.config.vocab_size,
    )
    start = 0
    while start < len(plan.jobs):
      size = self._prefill_rows(plan, len(plan.jobs) - start)
      part = plan.jobs[start : start + size]
      for piece in _pieces(part, start, size, plan, self._piece):
        filled = self._prefill(weights, filled, *self.put(piece))
        statistics.prompt_padding += piece[0].size
      tokens = sum(len(job.ids) for job in part)
      statistics.prompt_tokens += tokens
      statistics.prompt_padding -= tokens
      start += size
    source_B = _sources(plan)
    if np.array_equal(source_B[: len(plan.jobs)], range(len(plan.jobs))) and (
      len(plan.rows) == len(plan.jobs)
    ):
      return filled
    return self._expand(filled, self.put(source_B))

  def _prefill_rows(self, plan: Plan, left: int) -> int:
    """One of two sizes: enough rows to be quick, few if few are left."""
    most = max(1, min(plan.slots, self._prefill_tokens // plan.prompt_length))
    few = max(1, most // 8) if most > 8 else most
    return most if 2 * left > most else few

  def _run_search(self, weights, plan: Plan, statistics, filled) -> Decoded:
    first = [plan.jobs[job].sampling for job, _ in plan.rows]
    size = plan.slots // plan.beams
    fill = [first[0]] * (size - len(first))
    settings = rows(first, eos_id=self._eos_id, size=size)
    penalty_A = np.array(
      [s.length_penalty for s in [*first, *fill]], np.float32
    )
    early_A = np.array([s.early_stopping for s in [*first, *fill]])
    found = self._search(
      weights,
      filled,
      *self.put((settings, penalty_A, early_A)),
      beams=plan.beams,
      room=plan.room,
      stops=max(1 + len(s.stop_ids) for s in first),
    )
    steps, used, *arrays = jax.device_get(tuple(found))
    statistics.syncs += 1
    statistics.steps += int(steps)
    statistics.slot_steps += int(steps) * plan.slots
    statistics.used_slot_steps += int(used)
    return Decoded(*arrays)


def _from_all(x: Any, where: NamedSharding) -> jax.Array:
  """A host array that every process has, each giving what its devices hold."""
  x = np.asarray(x)
  return jax.make_array_from_callback(x.shape, where, lambda at: x[at])


def _pieces(jobs, first: int, size: int, plan: Plan, piece: int | None):
  """Prompts as arrays for `loop.prefill`, in pieces if they are long.

  Args:
    first: the slot of the first; size: rows of the arrays.
  """
  width = min(plan.prompt_length, piece or plan.prompt_length)
  left = [(job.ids, first + row) for row, job in enumerate(jobs)]
  while left:
    rows, slots = zip(*left, strict=True)
    prompt_RP, lengths_R, slots_R = batches.padded(
      rows, slots, length=width, number=size, nowhere=plan.slots
    )
    # A row that goes nowhere still needs a token to look at.
    yield prompt_RP, np.maximum(lengths_R, 1), slots_R
    left = [(ids[width:], slot) for ids, slot in left if len(ids) > width]


def _row_settings(plan: Plan, eos_id: int | None) -> Rows:
  jobs = [plan.jobs[job] for job, _ in plan.rows]
  return rows(
    [job.sampling for job in jobs],
    eos_id=eos_id,
    size=plan.slots,
    ids=[job.request.id for job in jobs],
    samples=[sample for _, sample in plan.rows],
    seeds=[job.seed for job in jobs],
    offsets=[job.offset for job in jobs],
  )


def _sources(plan: Plan) -> np.ndarray:
  """The slot each slot copies its prompt from."""
  source_B = np.zeros((plan.slots,), np.int32)
  for row, (job, _) in enumerate(plan.rows):
    source_B[row * plan.beams : (row + 1) * plan.beams] = job
  return source_B
