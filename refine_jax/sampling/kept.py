"""Rows that stay on the device between the turns of conversations.

A decoder-only model reads of a prompt only what its row does not hold: what
was appended and the token sampled last, or, where a prompt was rewritten, all
after the longest common beginning. A conversation without a row begins as a
copy of the row that shares most with it, and of several that begin alike one
is read and the others are copies.
"""

import collections
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from refine_jax.sampling import batches, ending, loop
from refine_jax.sampling.beginnings import WORTH, followers, shared
from refine_jax.sampling.planning import Job, Ladders
from refine_jax.sampling.programs import Programs
from refine_jax.sampling.settings import rows
from refine_jax.sampling.statistics import Statistics

# The shortest length that is read at once; the others are the prompts'.
SHORT = 16


class Rows:
  """Conversations of one model under one set of parameters.

  Args:
    programs: for their mesh, weights and settings.
    ladders: shapes; the largest number of slots is how many rows are kept,
      and those not used for longest make room.
  """

  def __init__(
    self,
    family: Any,
    programs: Programs,
    ladders: Ladders,
    *,
    tokenizer: Any,
    chunk: int,
    statistics: Statistics,
  ):
    self._family, self._programs, self._ladders = family, programs, ladders
    self._tokenizer, self._chunk = tokenizer, chunk
    self._statistics = statistics
    self.slots = ladders.slots[-1]
    self._lengths = (SHORT, *(n for n in ladders.pieces if n > SHORT))
    # Least recently used first: name -> slot, and what the slot holds.
    self._rows: collections.OrderedDict[str, int] = collections.OrderedDict()
    self._held: list[tuple[int, ...]] = [()] * self.slots
    self._cache: Any = None
    self._length = 0
    self._jit()

  def _jit(self) -> None:
    family, slots = self._family, self.slots
    vocab = family.config.vocab_size

    def empty(length):
      return loop.pin(family.new_cache(slots, length))

    def grow(cache, more):
      def one(x):
        # Only keys and values have positions.
        return jnp.pad(x, ((0, 0),) * 2 + ((0, more), (0, 0)))

      keys, values = jax.tree.map(one, (cache.keys, cache.values))
      return loop.pin(cache.replace(keys=keys, values=values))

    def read(weights, cache, logits_BV, tokens_RP, lengths_R, slots_R):
      logits_RV, cache = family.prefill(
        weights, tokens_RP, lengths_R, cache, slots_R
      )
      at_R = jnp.where(lengths_R > 0, slots_R, slots)
      logits_BV = logits_BV.at[at_R].set(
        logits_RV.astype(jnp.float32), mode="drop"
      )
      return loop.pin(cache), logits_BV

    self._empty = jax.jit(empty, static_argnums=0)
    self._grow = jax.jit(grow, static_argnums=1)
    self._zeros = jax.jit(lambda: jnp.zeros((slots, vocab), jnp.float32))
    self._copy = jax.jit(loop.gather)
    self._read = jax.jit(read, donate_argnums=(1, 2))
    self._begin = jax.jit(loop.begin, static_argnums=3)
    self._decode = jax.jit(
      functools.partial(loop.decode, family), donate_argnums=(1, 2)
    )

  def forget(self, name: str) -> None:
    """The row is free for another conversation, which may begin like it."""
    self._rows.pop(name, None)

  def run(self, weights: Any, jobs: Sequence[Job]) -> list[ending.Drawn]:
    """One continuation of every job, on the row that it names.

    Raises:
      TooLong: before any work.
    """
    for job in jobs:
      self._ladders.check(job)
    found = []
    for start in range(0, len(jobs), self.slots):
      found += self._run(weights, jobs[start : start + self.slots])
    return found

  def _run(self, weights, jobs) -> list[ending.Drawn]:
    room = max(
      self._ladders.room(job.request.id, job.sampling.max_tokens)
      for job in jobs
    )
    self._fit(
      room
      + max(self._ladders.prompt(job.request.id, len(job.ids)) for job in jobs)
    )
    slots = self._seat(jobs)
    logits_BV = self._read_all(weights, slots, jobs)
    settings, seen_BV = self._settings(slots, jobs)
    progress = self._begin(logits_BV, seen_BV, settings, room)
    decoded = self._draw(weights, progress, slots, jobs)
    found = []
    for slot, job in zip(slots, jobs, strict=True):
      drawn = ending.drawn(decoded, slot)
      # The last token was drawn and not read.
      self._held[slot] = (*job.ids, *drawn.tokens[:-1])
      found.append(drawn)
    return found

  def _fit(self, length: int) -> None:
    if self._cache is None:
      self._cache = self._empty(length)
    elif length > self._length:
      self._cache = self._grow(self._cache, length - self._length)
    self._length = max(self._length, length)

  def _seat(self, jobs: Sequence[Job]) -> list[int]:
    """A slot for every job, beginning as the most similar row there is."""
    names = [job.kept_row for job in jobs]
    for name in names:
      if name in self._rows:
        self._rows.move_to_end(name)
    source = {}
    held = list(self._held)
    for name, job in zip(names, jobs, strict=True):
      if name in self._rows:
        extends = shared(self._held[self._rows[name]], job.ids)
        whole = extends == len(self._held[self._rows[name]])
        self._statistics.extended += whole
        self._statistics.parted += not whole
        continue
      taken = set(self._rows.values())
      slot = next((s for s in range(self.slots) if s not in taken), None)
      if slot is None:
        _, slot = self._rows.popitem(last=False)
      best = max(range(self.slots), key=lambda s: shared(held[s], job.ids))
      if shared(held[best], job.ids) >= WORTH and best != slot:
        source[slot] = best
        self._held[slot] = held[best]
      self._rows[name] = slot
    self._copy_rows(source)
    return [self._rows[name] for name in names]

  def _copy_rows(self, source: Mapping[int, int]) -> None:
    """Each slot named becomes what another one is."""
    if not source:
      return
    source_B = np.arange(self.slots, dtype=np.int32)
    source_B[list(source)] = list(source.values())
    self._cache = self._copy(self._cache, self._programs.put(source_B))

  def _read_all(self, weights, slots, jobs: Sequence[Job]) -> jax.Array:
    """Reads what rows do not hold; the logits that follow, by slot.

    Jobs that begin like another one are read after it, on copies of its row.
    """
    for slot, job in zip(slots, jobs, strict=True):
      # The last token is always read: its logits are what is wanted.
      most = min(shared(self._held[slot], job.ids), len(job.ids) - 1)
      self._held[slot] = job.ids[:most]
    held = [len(self._held[slot]) for slot in slots]
    after = followers([job.ids for job in jobs], held)
    ready = dict(zip(slots, jobs, strict=True))
    late = {slots[i]: ready.pop(slots[i]) for i in after}
    logits_BV = self._read_rows(weights, self._zeros(), ready)
    if late:
      self._copy_rows({slots[i]: slots[j] for i, (j, _) in after.items()})
      for i, (_, count) in after.items():
        self._held[slots[i]] = jobs[i].ids[:count]
      logits_BV = self._read_rows(weights, logits_BV, late)
    return logits_BV

  def _read_rows(
    self, weights, logits_BV, jobs: Mapping[int, Job]
  ) -> jax.Array:
    """Reads each slot's job from where its row ends."""
    lengths_B = np.array([len(ids) for ids in self._held], np.int32)
    self._cache = self._cache.replace(lengths_B=self._programs.put(lengths_B))
    asked = []
    for slot, job in jobs.items():
      asked.append((slot, job.ids[len(self._held[slot]) :]))
      self._statistics.kept_tokens += len(self._held[slot])
      self._held[slot] = job.ids
    while asked:
      longest = max(len(ids) for _, ids in asked)
      size = next((n for n in self._lengths if n >= longest), self._lengths[-1])
      few = max(1, self.slots // 8)
      number = self.slots if len(asked) > few else few
      slots, rows = zip(*asked, strict=True)
      arrays = batches.padded(
        rows, slots, length=size, number=number, nowhere=self.slots
      )
      tokens = int(arrays[1].sum())
      self._statistics.prompt_tokens += tokens
      self._statistics.prompt_padding += arrays[0].size - tokens
      self._cache, logits_BV = self._read(
        weights, self._cache, logits_BV, *self._programs.put(arrays)
      )
      asked = [(slot, ids[size:]) for slot, ids in asked if len(ids) > size]
    return logits_BV

  def _settings(self, slots: Sequence[int], jobs: Sequence[Job]):
    """Rows by slot, those that take no part ended; and the tokens seen."""
    by_slot = dict(zip(slots, jobs, strict=True))
    every = [by_slot.get(slot, jobs[0]) for slot in range(self.slots)]
    settings = rows(
      [job.sampling for job in every],
      eos_id=self._tokenizer.eos_id,
      ids=[job.request.id for job in every],
      samples=[job.sample for job in every],
      seeds=[job.seed for job in every],
      offsets=[job.offset for job in every],
    )
    most_B = settings.max_tokens_B
    for slot in set(range(self.slots)) - set(slots):
      most_B[slot] = 0
    seen_BV = np.zeros((self.slots, self._family.config.vocab_size), bool)
    for slot, job in by_slot.items():
      if job.sampling.repetition_penalty != 1:
        seen_BV[slot, list(job.ids)] = True
    return self._programs.put((settings, seen_BV))

  def _draw(self, weights, progress, slots, jobs) -> batches.Decoded:
    """Decodes in place; the host looks in between only for stop strings."""
    by_slot = dict(zip(slots, jobs, strict=True))
    # Slots that take no part have ended, so whose settings they get is one.
    watched = [by_slot.get(s, jobs[0]) for s in range(self.slots)]
    stops = any(job.sampling.stop for job in jobs)
    halt = ending.Halt(watched, self._tokenizer, self.slots)
    self._cache, progress, decoded, looks = batches.drain(
      functools.partial(self._decode, weights),
      self._cache,
      progress,
      steps=self._chunk if stops else progress.tokens_BT.shape[1],
      halt=halt,
      put=self._programs.put,
    )
    self._statistics.syncs += looks
    self._statistics.count(progress, self.slots)
    return decoded
