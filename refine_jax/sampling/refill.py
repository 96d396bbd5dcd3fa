"""The host's side of a pool: it feeds the queue and reads the log.

While the device runs one chunk, the host reads the log of the one before,
puts finished samples together, reads new prompts into places that have come
free and gives their tickets. It never waits for the chunk that runs.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from refine_jax.sampling import ending, loop, pool, waiting
from refine_jax.sampling.ending import Drawn
from refine_jax.sampling.planning import Job, Shape
from refine_jax.sampling.settings import rows
from refine_jax.sampling.statistics import Statistics

# A beginning that so many tokens of all prompts share is read once.
SHARED = 16

# Each costs a branch per layer to compile.
PAGES = 8


@dataclasses.dataclass
class _Ticket:
  """Samples `first` and on of a job; `drawn` is what the log said of each."""

  job: Job
  first: int
  place: int
  drawn: dict[int, Drawn] = dataclasses.field(default_factory=dict)


class Pools:
  """The compiled programs of pools.

  Args:
    family: the model.
    put: host arrays to devices.
    eos_id: ends a row.
    prefill_tokens: positions read at once, at most.
    lengths: ladder of lengths that are read at once; longer prompts are read
      in pieces.
    chunk: steps between two looks of the host.
    cache_dtype: of keys and values; None for the model's.
    longest_first: whether requests of larger budgets begin first, and of
      equal ones those of longer prompts.
    page: a step does not read pages of so many positions that no slot has
      come to; None to read all. At most `PAGES` per row: with more room they
      are larger.
  """

  def __init__(
    self,
    family: Any,
    put,
    *,
    eos_id: int | None,
    prefill_tokens: int,
    lengths: Sequence[int],
    chunk: int,
    cache_dtype: str | None = None,
    longest_first: bool = True,
    page: int | None = None,
  ):
    bind = functools.partial
    self.family, self.put, self.eos_id = family, put, eos_id
    self.prefill_tokens, self.lengths = prefill_tokens, tuple(lengths)
    self.steps = chunk
    dtype = None if cache_dtype is None else jnp.dtype(cache_dtype)
    self.empty_slots = jax.jit(
      bind(pool.empty_slots, family, dtype=dtype),
      static_argnames=("slots", "group", "room", "prompt_length", "page"),
    )
    self.longest_first, self.page = longest_first, page
    self.empty_queue = jax.jit(
      bind(waiting.empty_queue, family, dtype=dtype),
      static_argnames=("places", "length", "tickets"),
    )
    self.read = jax.jit(bind(waiting.read, family), donate_argnums=1)
    self.spread = jax.jit(waiting.spread, donate_argnums=0)
    self.enqueue = jax.jit(waiting.enqueue, donate_argnums=0)
    self.chunk = jax.jit(
      bind(pool.chunk, family, steps=chunk), donate_argnums=(1, 2)
    )

  def rung(self, shape: Shape, tokens: int) -> int:
    """The length that so many tokens of a prompt are read at."""
    most = min(shape.prompt_length, self.lengths[-1])
    return next((n for n in self.lengths if tokens <= n < most), most)

  def at_once(self, shape: Shape, length: int) -> int:
    """Prompts read at once: one size per length, so one program."""
    few = max(1, shape.places // 8)
    return max(1, min(few, self.prefill_tokens // length))

  def warm_up(self, weights: Any, shape: Shape) -> None:
    """Compiles everything that a pool of this shape may need."""
    slots, queue = self.empty(shape)
    lengths = {self.rung(shape, n) for n in (*self.lengths, 1)}
    for length in sorted(n for n in lengths if n <= shape.prompt_length):
      size = self.at_once(shape, length)
      prompt_RP = np.zeros((size, length), np.int32)
      lengths_R = np.zeros((size,), np.int32)
      nowhere_R = np.full((size,), shape.places, np.int32)
      arrays = (prompt_RP, lengths_R, nowhere_R, np.int32(0))
      queue = self.read(weights, queue, *self.put(arrays))
    queue = self.spread(queue)
    none_E = np.zeros((shape.slots,), np.int32)
    settings = rows([], eos_id=self.eos_id, size=shape.slots)
    queue = self.enqueue(queue, *self.put((settings, none_E, none_E)))
    arrays = (np.bool_(False), (none_E, none_E))
    self.chunk(weights, slots, queue, *self.put(arrays))

  def sizes(self, shape: Shape) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `empty_slots` and `empty_queue` are asked for."""
    slots = {
      "slots": shape.slots,
      "group": shape.group,
      "room": shape.room,
      "prompt_length": shape.prompt_length,
      "page": self.page and self.page * -(-shape.room // (PAGES * self.page)),
    }
    queue = {
      "places": shape.places,
      "length": shape.prompt_length,
      "tickets": shape.tickets,
    }
    return slots, queue

  def empty(self, shape: Shape) -> tuple[pool.Slots, waiting.Queue]:
    slots, queue = self.sizes(shape)
    return self.empty_slots(**slots), self.empty_queue(**queue)

  def run(
    self,
    weights: Any,
    jobs: Sequence[Job],
    shape: Shape,
    tokenizer: Any,
    statistics: Statistics,
  ) -> Iterator[tuple[Job, int, Drawn]]:
    """Samples of all jobs in order of completion."""
    return _Run(self, weights, jobs, shape, tokenizer, statistics).samples()


class _Run:
  """One pool from the first prompt to the last sample."""

  def __init__(self, pools, weights, jobs, shape, tokenizer, statistics):
    self._pools, self._weights, self._shape = pools, weights, shape
    self._tokenizer, self._statistics = tokenizer, statistics
    self._left = sum(job.request.n for job in jobs)
    self._parts = max(1, -(-shape.groups // len(jobs)))
    self._tickets: dict[int, _Ticket] = {}
    self._given = 0  # tickets so far
    self._taken = 0  # of those, what the last log knew to be taken
    self._undealt: collections.deque[tuple[_Ticket, int]] = collections.deque()
    self._free = collections.deque(range(shape.places))
    self._users = collections.Counter()  # tickets not yet taken, by place
    self._halted: dict[int, tuple[int, int]] = {}
    self._cut = False  # whether any ever was
    self._slots, self._queue = pools.empty(shape)
    self._held = self._read_shared(jobs)
    # Prompts that are read at one length are read together.
    self._jobs: dict[int, collections.deque[Job]] = {}
    if pools.longest_first:
      jobs = sorted(jobs, key=lambda job: -job.sampling.max_tokens)
    for job in sorted(jobs, key=self._length):
      self._jobs.setdefault(self._length(job), collections.deque()).append(job)

  def samples(self) -> Iterator[tuple[Job, int, Drawn]]:
    logs: collections.deque[pool.Log] = collections.deque()
    while self._left:
      self._feed()
      logs.append(self._dispatch())
      if len(logs) > 1:
        yield from self._finished(logs.popleft())
    # The chunk after the last one does nothing, but for rows cut by the host.
    while self._cut and logs:
      list(self._finished(logs.popleft()))

  # Feeding the queue.

  def _read_shared(self, jobs) -> int:
    """Reads what all prompts begin with; how many tokens of each that is."""
    if self._pools.family.encoder_decoder:
      return 0
    shared = common([job.ids for job in jobs])
    if len({job.ids for job in jobs}) < 2 or shared < SHARED:
      return 0
    self._read([(jobs[0].ids[:shared], 0)], whole=True)
    self._queue = self._pools.spread(self._queue)
    return shared

  def _feed(self) -> None:
    """Reads prompts while there is place, and gives tickets for them."""
    while self._jobs and self._free:
      length = self._next_length()
      jobs = self._jobs[length]
      size = self._pools.at_once(self._shape, length)
      hungry = self._given - self._taken < self._shape.groups // 2
      if len(self._free) < min(size, len(jobs)) and not hungry:
        break  # better a full batch later
      some = min(size, len(self._free), len(jobs))
      self._read_jobs([jobs.popleft() for _ in range(some)])
      if not jobs:
        del self._jobs[length]
    self._deal()

  def _next_length(self) -> int:
    if not self._pools.longest_first:
      return next(iter(self._jobs))
    # Of equal budgets long prompts: their completions tend to be longer.
    return max(self._jobs, key=lambda n: (self._budget(n), n))

  def _budget(self, length: int) -> int:
    return self._jobs[length][0].sampling.max_tokens

  def _read_jobs(self, jobs: list[Job]) -> None:
    asked = []
    for job in jobs:
      place = self._free.popleft()
      asked.append((job.ids[self._held :], place))
      parts = min(self._parts, -(-job.request.n // self._shape.group))
      if self._shape.group == 1:
        parts = job.request.n
      each = -(-job.request.n // parts)
      for first in range(0, job.request.n, each):
        count = min(each, job.request.n - first)
        self._undealt.append((_Ticket(job, first, place), count))
        self._users[place] += 1
    self._read(asked)

  def _read(self, asked, whole: bool = False) -> None:
    """Prefills (ids, place) pairs, after what their places hold.

    Args:
      whole: the last token is read as well.
    """
    held = 0 if whole else self._held
    longest = max(len(ids) for ids, _ in asked)
    length = self._pools.rung(self._shape, longest)
    while asked:
      self._read_piece(asked, length, held, whole)
      asked = [(ids[length:], p) for ids, p in asked if len(ids) > length]
      held += length

  def _read_piece(self, asked, length: int, held: int, whole: bool) -> None:
    """The first `length` tokens of each, after `held` others."""
    size = self._pools.at_once(self._shape, length)
    prompt_RP = np.zeros((size, length), np.int32)
    lengths_R = np.zeros((size,), np.int32)
    places_R = np.full((size,), self._shape.places, np.int32)
    for row, (ids, place) in enumerate(asked):
      part = ids[:length]
      prompt_RP[row, : len(part)], places_R[row] = part, place
      # The program leaves the last token it is told of.
      lengths_R[row] = len(part) + (whole or len(ids) > length)
    self._queue = self._pools.read(
      self._weights,
      self._queue,
      *self._pools.put((prompt_RP, lengths_R, places_R, np.int32(held))),
    )
    left = 0 if self._pools.family.encoder_decoder else len(asked)
    given = sum(len(ids[:length]) for ids, _ in asked)
    tokens = int(lengths_R.sum()) - left
    self._statistics.prompt_tokens += tokens
    self._statistics.prompt_padding += prompt_RP.size - given

  def _length(self, job: Job) -> int:
    """What the part of a prompt that is read is rounded up to."""
    return self._pools.rung(self._shape, len(job.ids) - self._held)

  def _deal(self) -> None:
    """Gives tickets for prompts that were read, as far as the ring has room."""
    size = self._shape.slots
    while self._undealt:
      room = self._shape.tickets - (self._given - self._taken)
      some = min(size, room, len(self._undealt))
      if not some:
        return
      part = [self._undealt.popleft() for _ in range(some)]
      jobs = [ticket.job for ticket, _ in part]
      settings = rows(
        [job.sampling for job in jobs],
        eos_id=self._pools.eos_id,
        size=size,
        ids=[job.request.id for job in jobs],
        samples=[ticket.first for ticket, _ in part],
        seeds=[job.seed for job in jobs],
        offsets=[job.offset for job in jobs],
      )
      places_E, counts_E = np.zeros((2, size), np.int32)
      for i, (ticket, count) in enumerate(part):
        places_E[i], counts_E[i] = ticket.place, count
        self._tickets[self._given] = ticket
        self._given += 1
      self._queue = self._pools.enqueue(
        self._queue, *self._pools.put((settings, places_E, counts_E))
      )

  # Chunks.

  def _dispatch(self) -> pool.Log:
    halted_B = np.full((2, self._shape.slots), pool.IDLE - 1, np.int32)
    for slot, which in self._halted.items():
      halted_B[:, slot] = which
    self._halted = {}
    more = bool(self._jobs or self._undealt)
    self._slots, self._queue, log = self._pools.chunk(
      self._weights,
      self._slots,
      self._queue,
      *self._pools.put((np.bool_(more), (halted_B[0], halted_B[1]))),
    )
    return log

  def _finished(self, log: pool.Log) -> Iterator[tuple[Job, int, Drawn]]:
    """Waits for a chunk and sorts out what it drew."""
    log = jax.device_get(log)
    steps = int(log.steps)
    statistics, tickets_CB = self._statistics, log.tickets_CB[:steps]
    statistics.syncs += 1
    statistics.steps += steps
    statistics.slot_steps += steps * self._shape.slots
    statistics.used_slot_steps += int((tickets_CB != pool.IDLE).sum())
    self._release(int(log.head))
    for slot, ticket, sample, part in _runs(log, steps):
      if ticket not in self._tickets:
        continue
      found = self._add(slot, ticket, sample, part)
      if found is not None:
        self._left -= 1
        yield found

  def _release(self, head: int) -> None:
    """Places whose tickets were all taken can hold other prompts."""
    for number in range(self._taken, head):
      place = self._tickets[number].place
      self._users[place] -= 1
      if not self._users[place]:
        self._free.append(place)
    self._taken = head

  def _add(self, slot, number, sample, part: Drawn):
    """Goes on with a sample; (job, index, all of it) if that was its end."""
    ticket = self._tickets[number]
    drawn = ticket.drawn.get(sample)
    if drawn is not None and drawn.finish != loop.RUNNING:
      return None  # the host had cut it already
    if drawn is not None:
      part = Drawn(
        drawn.tokens + part.tokens,
        drawn.logprobs + part.logprobs,
        drawn.model_logprobs + part.model_logprobs,
        part.finish,
      )
    stop, going = ticket.job.sampling.stop, part.finish == loop.RUNNING
    if going and ending.cut(part.tokens, stop, self._tokenizer) is not None:
      self._halted[slot], self._cut = (number, sample), True
      part = part._replace(finish=loop.STOP)
    ticket.drawn[sample] = part
    if part.finish == loop.RUNNING:
      return None
    ticket.drawn[sample] = Drawn([], [], [], part.finish)
    return ticket.job, ticket.first + sample, part


def _runs(log: pool.Log, steps: int) -> Iterator[tuple[int, int, int, Drawn]]:
  """(slot, ticket, sample, its tokens) of each stretch of a chunk."""

  def flat(table_CB):
    return table_CB[:steps].T.reshape(-1)

  tickets, samples = flat(log.tickets_CB), flat(log.samples_CB)
  slots = np.repeat(np.arange(log.tickets_CB.shape[1]), steps)
  changes = np.ones(len(tickets), bool)
  changes[1:] = (
    (np.diff(tickets) != 0) | (np.diff(samples) != 0) | (np.diff(slots) != 0)
  )
  starts = np.flatnonzero(changes)
  ends = np.append(starts[1:], len(tickets))[: len(starts)]
  columns = (log.tokens_CB, log.logprobs_CB, log.model_logprobs_CB)
  tokens, logprobs, model = (flat(x).tolist() for x in columns)
  finish = flat(log.finish_CB)
  for start, end in zip(starts, ends, strict=True):
    if tickets[start] != pool.IDLE:
      part = slice(start, end)
      yield (
        int(slots[start]),
        int(tickets[start]),
        int(samples[start]),
        Drawn(tokens[part], logprobs[part], model[part], int(finish[end - 1])),
      )


def common(prompts: Sequence[Sequence[int]]) -> int:
  """How many tokens all begin with; the last of each is not counted."""
  first, last = min(prompts), max(prompts)
  most = min(len(ids) for ids in prompts) - 1
  same = 0
  while same < most and first[same] == last[same]:
    same += 1
  return same
