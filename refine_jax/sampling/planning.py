"""Which rows are decoded together, and in what shapes.

Shapes come from short ladders (prompt length, room for tokens, slots), so that
whatever is asked, only so many programs are ever compiled.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from refine_jax.sampling.settings import Request, Sampling


class TooLong(ValueError):
  """A request that fits no bucket; names it, its length and the limit."""


@dataclasses.dataclass(frozen=True)
class Job:
  """An encoded request.

  Attributes:
    request: what was asked.
    sampling: its settings, resolved.
    ids: the prompt.
    seed: of its randomness; `offset`: the position it starts from.
    row: the kept row it goes on in, by default the request's own; `sample`:
      which of the request's samples goes on there.
  """

  request: Request
  sampling: Sampling
  ids: tuple[int, ...]
  seed: int
  offset: int = 0
  row: str = ""
  sample: int = 0

  @property
  def kept_row(self) -> str:
    return self.row or self.request.id


@dataclasses.dataclass(frozen=True)
class Plan:
  """One batch.

  Attributes:
    rows: (index of a job in `jobs`, index of the sample) per used slot.
    jobs: the distinct prompts of the batch.
    slots, prompt_length, room: the shapes; `room` is for sampled tokens.
    beams: slots per row in a beam search, else 1.
  """

  rows: tuple[tuple[int, int], ...]
  jobs: tuple[Job, ...]
  slots: int
  prompt_length: int
  room: int
  beams: int = 1


@dataclasses.dataclass(frozen=True)
class Shape:
  """What a pool is compiled for.

  Attributes:
    slots: decoded together; `group` of them share a prompt.
    prompt_length, room: tokens of a prompt, and sampled ones, at most.
  """

  slots: int
  group: int
  prompt_length: int
  room: int

  @property
  def groups(self) -> int:
    return self.slots // self.group

  @property
  def places(self) -> int:
    """Prompts that wait."""
    return self.groups

  @property
  def tickets(self) -> int:
    """The ring of tickets."""
    return 4 * self.slots


@dataclasses.dataclass(frozen=True)
class Ladders:
  """The allowed shapes, each ascending.

  Attributes:
    slots, prompts, tokens: batch sizes, prompt lengths, tokens sampled.
    context: prompt and continuation together, if a model is bound.
    piece: tokens of a prompt that are read at once, at most; None for all.
  """

  slots: tuple[int, ...]
  prompts: tuple[int, ...]
  tokens: tuple[int, ...]
  context: int | None = None
  piece: int | None = None

  @property
  def pieces(self) -> tuple[int, ...]:
    """Lengths that are read at once."""
    if self.piece is None:
      return self.prompts
    return (*(n for n in self.prompts if n < self.piece), self.piece)

  def prompt(self, name: str, length: int) -> int:
    return _rung(self.prompts, length, f"{name}: the prompt", "prompt_buckets")

  def room(self, name: str, tokens: int) -> int:
    return _rung(self.tokens, tokens, f"{name}: max_tokens", "token_buckets")

  def check(self, job: Job) -> None:
    """Raises TooLong, or ValueError for an empty prompt."""
    name = f"request {job.request.id!r}"
    if not job.ids:
      raise ValueError(f"{name}: the prompt has no tokens")
    if 1 < job.sampling.beams < job.request.n:
      raise ValueError(
        f"{name}: n = {job.request.n} of {job.sampling.beams} beams"
      )
    self.prompt(name, len(job.ids))
    self.room(name, job.sampling.max_tokens)
    total = len(job.ids) + job.sampling.max_tokens
    if self.context is not None and total > self.context:
      raise TooLong(
        f"{name}: {len(job.ids)} prompt tokens and max_tokens ="
        f" {job.sampling.max_tokens} exceed the model's context of"
        f" {self.context}"
      )


def _rung(ladder: Sequence[int], value: int, what: str, setting: str) -> int:
  for rung in ladder:
    if value <= rung:
      return rung
  raise TooLong(
    f"{what} has {value} tokens, the limit is {ladder[-1]}"
    f" (the last of {setting}={tuple(ladder)})"
  )


def plan(jobs: Sequence[Job], ladders: Ladders) -> Iterator[Plan]:
  """Batches of rows that share a shape; the samples of a job stay adjacent.

  Raises:
    TooLong: before anything is decoded.
  """
  for job in jobs:
    ladders.check(job)

  def shape(job):
    name = job.request.id
    return (
      job.sampling.beams,
      ladders.room(name, job.sampling.max_tokens),
      ladders.prompt(name, len(job.ids)),
    )

  ordered = sorted(jobs, key=shape)
  for (beams, room, length), group in itertools.groupby(ordered, key=shape):
    rows = [
      (job, sample)
      for job in group
      for sample in range(job.request.n if beams == 1 else 1)
    ]
    yield from _batches(rows, ladders, beams, length, room)


# So many samples of a prompt are worth slots that share it.
MANY = 8
# A pool of its own is filled so many times, since the last rows of each leave
# slots idle; unless prompts had rows more than twice as long in the next.
FILLS = 4


def pools(
  jobs: Sequence[Job], ladders: Ladders
) -> Iterator[tuple[Shape, list[Job]]]:
  """Jobs that go through one pool of slots, and its shape.

  Jobs of one shape stay together; where they would not fill the slots a few
  times they join those of the next larger one.

  Raises:
    TooLong: before anything is decoded.
  """
  grouped: dict[tuple[bool, int, int], list[Job]] = {}
  for job in jobs:
    ladders.check(job)
    many = job.request.n >= MANY <= ladders.slots[-1] // 2
    room = ladders.room(job.request.id, job.sampling.max_tokens)
    length = ladders.prompt(job.request.id, len(job.ids))
    grouped.setdefault((many, room, length), []).append(job)
  shapes = sorted(grouped)
  for i, (many, room, length) in enumerate(shapes):
    part = grouped[many, room, length]
    larger = next(
      (s for s in shapes[i + 1 :] if s[0] == many and s[2] >= length), None
    )
    asked = sum(job.request.n for job in part)
    fills = FILLS if larger and larger[2] <= 2 * length else 1
    if larger and asked < fills * ladders.slots[-1]:
      grouped[larger] = part + grouped[larger]
    else:
      yield _shape(part, ladders, many, room, length), part


def _shape(jobs, ladders, many, room, length) -> Shape:
  asked = sum(job.request.n for job in jobs)
  slots = next((s for s in ladders.slots if s >= asked), ladders.slots[-1])
  groups = _groups(ladders, slots)
  group = groups[0] if not many else groups[-1 if len(jobs) == 1 else 1]
  return Shape(slots, group, length, room)


def _groups(ladders: Ladders, slots: int) -> tuple[int, ...]:
  """Slots per prompt: for few samples, for many, and for a prompt alone."""
  if ladders.slots[-1] // 2 < MANY or slots % MANY:
    return (1, 1)
  return (1, MANY, slots)


def shapes(ladders: Ladders) -> Iterator[Shape]:
  """All that `pools` can ask for."""
  for slots, length, room in itertools.product(
    ladders.slots, ladders.prompts, ladders.tokens
  ):
    for group in sorted(set(_groups(ladders, slots))):
      yield Shape(slots, group, length, room)


def _batches(rows, ladders, beams, length, room) -> Iterator[Plan]:
  most = ladders.slots[-1] // beams
  if not most:
    job, _ = rows[0]
    raise ValueError(
      f"request {job.request.id!r}: {beams} beams do not fit"
      f" {ladders.slots[-1]} slots"
    )
  for start in range(0, len(rows), most):
    part = rows[start : start + most]
    # By identity: equal requests are still two requests.
    jobs = {id(job): job for job, _ in part}
    index = {key: i for i, key in enumerate(jobs)}
    yield Plan(
      rows=tuple((index[id(job)], sample) for job, sample in part),
      jobs=tuple(jobs.values()),
      slots=next(s for s in ladders.slots if s >= len(part) * beams),
      prompt_length=length,
      room=room,
      beams=beams,
    )
