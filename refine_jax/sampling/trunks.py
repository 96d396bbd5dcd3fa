"""Kept rows that are scored and continued on top of: trunks and branches.

A trunk is a sequence whose keys and values stay on the device. Branches (a
rationale and what may follow it, candidates for a next step) are read on top
of it and forgotten, or one of them is adopted. Every token given goes through
the model once.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from refine_jax.batch import Params
from refine_jax.data.tokenizer import Tokenizer, encode_prompt
from refine_jax.records import Prompt, Sample
from refine_jax.sampling import batches, ending, trunk_programs
from refine_jax.sampling.planning import Job, TooLong
from refine_jax.sampling.settings import Request, Sampling, rows


@dataclasses.dataclass
class Work:
  """Exact counts of what a role did.

  Attributes:
    appended: tokens that trunks and branches were given.
    prefilled: tokens that went through the model to be read; `padding`:
      positions beside them.
    sampled: tokens drawn.
    scored, samples: branches scored and drawn.
  """

  appended: int = 0
  prefilled: int = 0
  padding: int = 0
  sampled: int = 0
  scored: int = 0
  samples: int = 0


@dataclasses.dataclass(frozen=True)
class Branch:
  """What is read on top of a trunk, and what of it is scored."""

  context: Prompt
  target: Prompt


@dataclasses.dataclass
class _Trunk:
  slot: int
  ids: list[int]
  held: int = 0  # of the ids, those in the cache


@dataclasses.dataclass
class _Proposed:
  """The rows of the last proposals, until one of each trunk is adopted."""

  cache: Any
  rows: dict[tuple[str, int], int]
  ids: dict[tuple[str, int], list[int]]
  bare: bool  # nothing was shared that the trunk does not hold


class Trunks:
  """Trunks of one decoder-only model under one set of parameters.

  Args:
    family: the model.
    tokenizer: the model's; trunks begin with its BOS, where it has one.
    params: the model's.
    slots: trunks at a time.
    length: a trunk and a branch together, at most.
    mesh: of the parameters; None for one device.
    pieces: lengths that what is read at once is rounded up to.
    chunk: decoding steps between two looks at stop strings.

  Attributes:
    work: what was done, in exact counts.

  Raises:
    ValueError: an encoder-decoder, which reads a prompt as a whole.
  """

  def __init__(
    self,
    family: Any,
    tokenizer: Tokenizer,
    params: Params,
    *,
    slots: int,
    length: int,
    mesh: jax.sharding.Mesh | None = None,
    pieces: Sequence[int] = (8, 32, 128, 512),
    chunk: int = 32,
  ):
    if family.encoder_decoder:
      raise ValueError(f"{type(family).__name__}: trunks need a decoder alone")
    self._family, self._tokenizer, self._mesh = family, tokenizer, mesh
    self._pieces, self._chunk, self._length = tuple(pieces), chunk, length
    self.slots = slots
    self.work = Work()
    self._open: dict[str, _Trunk] = {}
    self._free = list(range(slots))[::-1]
    self._proposed: _Proposed | None = None
    self._run = trunk_programs.of(family)
    with self._scope():
      self._weights = self._run.unstack(params)
      self._cache = self._run.empty(slots, length)
      width = family.config.width
      # The state at each trunk's last token, which predicts what follows.
      self._last_SD = jnp.zeros((slots, width), jnp.float32)

  def _scope(self):
    if self._mesh is None:
      return contextlib.nullcontext()
    return jax.set_mesh(self._mesh)

  # Trunks.

  def open(self, name: str, prompt: Prompt) -> None:
    """Starts a trunk; nothing is computed yet.

    Raises:
      ValueError: the name is taken, or all slots are.
    """
    if name in self._open:
      raise ValueError(f"trunk {name!r} is open already")
    if not self._free:
      raise ValueError(f"trunk {name!r}: all {self.slots} slots are taken")
    bos = self._tokenizer.bos_id is not None
    ids = encode_prompt(self._tokenizer, prompt, bos=bos)
    if not ids:
      raise ValueError(f"trunk {name!r}: the prompt has no tokens")
    self._open[name] = _Trunk(self._free.pop(), ids)
    self.work.appended += len(ids)

  def fork(self, name: str, names: Sequence[str]) -> None:
    """Starts trunks as copies of one, which is read once for all of them.

    Raises:
      ValueError: there are not so many free slots.
    """
    if len(names) > len(self._free):
      raise ValueError(f"{len(names)} forks for {len(self._free)} free slots")
    with self._scope():
      self._read_trunks([name], {})
      parent = self._open[name]
      source_S = np.arange(self.slots)
      for fork in names:
        if fork in self._open:
          raise ValueError(f"trunk {fork!r} is open already")
        slot = self._free.pop()
        self._open[fork] = _Trunk(slot, list(parent.ids), parent.held)
        source_S[slot] = parent.slot
      self._cache, self._last_SD = self._run.copy(
        self._cache, self._last_SD, source_S
      )

  def append(self, name: str, segments: Prompt) -> None:
    """Adds to a trunk."""
    ids = self._encode(segments)
    self._open[name].ids += ids
    self.work.appended += len(ids)

  def close(self, name: str) -> None:
    self._free.append(self._open.pop(name).slot)

  def tokens(self, name: str) -> tuple[int, ...]:
    return tuple(self._open[name].ids)

  def room(self, name: str) -> int:
    """Tokens that a trunk can still take, branches included."""
    return self._length - len(self._open[name].ids)

  def encode(self, segments: Prompt) -> tuple[int, ...]:
    """The ids that segments are given as."""
    return tuple(self._encode(segments))

  def _encode(self, segments: Prompt) -> list[int]:
    return encode_prompt(self._tokenizer, segments)

  def _rewind(self) -> None:
    """Every slot holds what its trunk says; what lies beyond is not seen."""
    held_S = np.zeros((self.slots,), np.int32)
    for trunk in self._open.values():
      held_S[trunk.slot] = trunk.held
    self._cache = self._cache.replace(lengths_B=jnp.asarray(held_S))

  def _flush(self, names: Sequence[str], shared: Mapping[str, list[int]]):
    """Reads what the trunks do not hold yet, and `shared` after it."""
    left = {}
    for name in names:
      trunk = self._open[name]
      self._check(name, len(shared.get(name, ())))
      left[name] = trunk.ids[trunk.held :] + list(shared.get(name, ()))
      trunk.held = len(trunk.ids)
    while any(left.values()):
      longest = max(map(len, left.values()))
      size = next((p for p in self._pieces if p >= longest), self._pieces[-1])
      part = {name: ids[:size] for name, ids in left.items() if ids}
      slots = [self._open[name].slot for name in part]
      number = _rung(self.slots, len(part))
      arrays = self._rows(list(part.values()), slots, size, number)
      self._cache, self._last_SD = self._run.read(
        self._weights, self._cache, self._last_SD, *arrays
      )
      left = {name: ids[size:] for name, ids in left.items()}

  def _check(self, name: str, more: int) -> None:
    size = len(self._open[name].ids) + more
    if size > self._length:
      raise TooLong(
        f"trunk {name!r} and its branch have {size} tokens, the limit is"
        f" {self._length}"
      )

  def _rows(self, parts, slots, size: int, number: int):
    """Ragged rows as arrays; rows that only fill up go to no slot."""
    arrays = batches.padded(
      parts, slots, length=size, number=number, nowhere=self.slots
    )
    tokens = int(arrays[1].sum())
    self.work.prefilled += tokens
    self.work.padding += arrays[0].size - tokens
    return arrays

  # Scores.

  def score(
    self,
    branches: Mapping[str, Sequence[Branch]],
    shared: Mapping[str, Prompt] | None = None,
  ) -> dict[str, list[np.ndarray]]:
    """Log-probabilities of the targets of branches, float32 per token.

    Args:
      branches: of every trunk asked about.
      shared: read once after a trunk, before all of its branches.

    Raises:
      TooLong: a trunk with its branch exceeds the length.
    """
    given = {n: self._encode(p) for n, p in (shared or {}).items()}
    with self._scope():
      before = self._read_trunks([*branches], given)
      found = self._score_branches(branches, given)
      self._last_SD = before
    self.work.appended += sum(map(len, given.values()))
    return found

  def _read_trunks(self, names, given) -> jax.Array:
    """Reads trunks and what is shared; the states at the trunks' own ends."""
    self._rewind()
    self._flush(names, {})
    before = self._last_SD
    if any(given.values()):
      self._flush(names, given)
    return before

  def _score_branches(self, branches, given):
    asked = []
    for name, listed in branches.items():
      for branch in listed:
        context = self._encode(branch.context)
        target = self._encode(branch.target)
        self._check(name, len(given.get(name, ())) + len(context + target))
        asked.append((name, context, target))
    out: list[np.ndarray] = [np.zeros(0, np.float32)] * len(asked)
    for part, size, number in self._groups([len(c + t) for _, c, t in asked]):
      rows = [asked[i][1] + asked[i][2] for i in part]
      slots = [self._open[asked[i][0]].slot for i in part]
      arrays = self._rows(rows, slots, size, number)
      found = jax.device_get(
        self._run.score(self._weights, self._cache, self._last_SD, *arrays)
      )
      for row, i in enumerate(part):
        _, context, target = asked[i]
        start = len(context)
        out[i] = found[row, start : start + len(target)]
    self.work.appended += sum(len(c + t) for _, c, t in asked)
    self.work.scored += len(asked)
    by_name: dict[str, list[np.ndarray]] = {name: [] for name in branches}
    for (name, *_), values in zip(asked, out, strict=True):
      by_name[name].append(values)
    return by_name

  def _groups(self, lengths: Sequence[int]):
    """(indices, length, rows) of batches; the empty ones are left out."""
    ladder = sorted({*self._pieces, self._length})
    for low, high in zip([0, *ladder], ladder, strict=False):
      members = [i for i, n in enumerate(lengths) if low < n <= high]
      for start in range(0, len(members), self.slots):
        part = members[start : start + self.slots]
        yield part, high, _rung(self.slots, len(part))

  # Proposals.

  def propose(
    self,
    names: Sequence[str],
    n: int,
    sampling: Sampling,
    *,
    ids: Sequence[str],
    shared: Mapping[str, Prompt] | None = None,
  ) -> dict[str, list[Sample]]:
    """`n` continuations of every trunk, all drawn together.

    Args:
      ids: of the requests, one per trunk; randomness follows from them, from
        the sample's index and the settings' seed.
      shared: read after a trunk for these samples only.
    """
    given = {name: self._encode(p) for name, p in (shared or {}).items()}
    for name in names:
      self._check(name, len(given.get(name, ())) + sampling.max_tokens)
    with self._scope():
      before = self._read_trunks(names, given)
      jobs = [Job(Request(i, (), n), sampling, (), sampling.seed) for i in ids]
      decoded, cache = self._draw(names, jobs)
      self._last_SD = before
    self.work.appended += sum(map(len, given.values()))
    bare = not any(given.values())
    return self._samples(names, jobs, decoded, cache, bare)

  def _draw(self, names, jobs):
    n, sampling = jobs[0].request.n, jobs[0].sampling
    number = _rung(self.slots * n, len(names) * n)
    slots_R = np.zeros((number,), np.int32)
    for row in range(len(names) * n):
      slots_R[row] = self._open[names[row // n]].slot
    listed = [job for job in jobs for _ in range(n)]
    settings = rows(
      [sampling] * len(listed),
      eos_id=self._tokenizer.eos_id,
      size=number,
      ids=[job.request.id for job in listed],
      samples=[*range(n)] * len(jobs),
      seeds=[sampling.seed] * len(listed),
      offsets=[0] * len(listed),
    )
    cache, progress = self._run.begin(
      self._weights,
      self._cache,
      self._last_SD,
      slots_R,
      settings,
      sampling.max_tokens,
    )
    halt = ending.Halt(listed, self._tokenizer, number)
    cache, _, decoded, _ = batches.drain(
      functools.partial(self._run.decode, self._weights),
      cache,
      progress,
      steps=self._chunk if sampling.stop else sampling.max_tokens,
      halt=halt,
      put=jnp.asarray,
    )
    return decoded, cache

  def _samples(self, names, jobs, decoded, cache, bare):
    found: dict[str, list[Sample]] = {}
    self._proposed = _Proposed(cache, {}, {}, bare)
    n = jobs[0].request.n
    for i, (name, job) in enumerate(zip(names, jobs, strict=True)):
      found[name] = []
      for k in range(n):
        row = i * n + k
        sample = ending.sample(job, k, row, decoded, self._tokenizer)
        kept = list(sample.tokens)
        kept = ending.visible(kept, job.sampling, self._tokenizer.eos_id)
        self._proposed.rows[name, k] = row
        self._proposed.ids[name, k] = kept
        found[name].append(sample)
        self.work.sampled += len(sample.tokens)
        self.work.samples += 1
    return found

  def adopt(self, chosen: Mapping[str, int]) -> None:
    """Makes one proposal of each trunk a part of it, without its end.

    What was sampled is in the cache already, but for its last token; only
    after `shared` it is read again, without what was shared.
    """
    proposed, rows_S = self._proposed, np.full((self.slots,), -1, np.int32)
    if proposed is None:
      raise ValueError("there are no proposals to adopt")
    for name, index in chosen.items():
      trunk, ids = self._open[name], proposed.ids[name, index]
      trunk.ids += ids
      self.work.appended += len(ids)
      if proposed.bare and ids:
        rows_S[trunk.slot] = proposed.rows[name, index]
        trunk.held += len(ids) - 1
    if proposed.bare:
      with self._scope():
        # Lengths are set by what is held before the next read.
        self._cache = self._run.adopt(self._cache, proposed.cache, rows_S)
    self._proposed = None


def _rung(most: int, needed: int) -> int:
  """Rows of a batch: all, a quarter or a sixteenth of the most there can be."""
  return next(n for n in (-(-most // 16), -(-most // 4), most) if n >= needed)
