"""The engine: strings in, records out, on the models' own mesh.

A fixed number of slots, prompts and budgets rounded up to a few lengths, so
that what is compiled does not depend on what is asked. Slots are refilled as
their rows end (`pool`, `refill`); beam search, and whoever wants to compare,
decodes in static batches (`programs`).
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from refine_jax.data.tokenizer import encode_prompt
from refine_jax.records import Prompt, Sample
from refine_jax.sampling import budget, ending, kept
from refine_jax.sampling.planning import Job, Ladders, plan, pools, shapes
from refine_jax.sampling.programs import Programs
from refine_jax.sampling.refill import Pools
from refine_jax.sampling.scorer import Scorer
from refine_jax.sampling.session import Session
from refine_jax.sampling.settings import Request, Sampling
from refine_jax.sampling.statistics import Statistics, compilations

__all__ = ["Engine", "Request", "Sampling"]

REPORT_SECONDS = 10
MOST_BUCKETS = 8
# Positions read at once, and steps between two looks of the host.
PREFILL_TOKENS, CHUNK = 16384, 32
# Positions of a page where branches cost nothing beside what they save.
PAGE = {"cpu": 64}


def _counted(method):
  """Books the programs compiled during a call."""

  @functools.wraps(method)
  def wrapper(self, *args, **kwargs):
    before = compilations()
    try:
      return method(self, *args, **kwargs)
    finally:
      self.statistics.compilations += compilations() - before

  return wrapper


def _check(family, mode, prompt_buckets, prefill_chunk, cache_dtype) -> None:
  if mode not in ("refill", "static"):
    raise ValueError(f"mode = {mode!r}: not 'refill' or 'static'")
  if not 1 <= len(prompt_buckets) <= MOST_BUCKETS:
    raise ValueError(
      f"prompt_buckets = {tuple(prompt_buckets)}: 1 to {MOST_BUCKETS}, since"
      " each is a program of its own"
    )
  if prefill_chunk is not None and prefill_chunk < 1:
    raise ValueError(f"prefill_chunk = {prefill_chunk}: at least 1")
  if prefill_chunk is not None and family.encoder_decoder:
    raise ValueError(
      f"prefill_chunk = {prefill_chunk}: an encoder reads a prompt as a whole"
    )
  if cache_dtype is not None and mode == "static":
    raise ValueError(
      f"cache_dtype = {cache_dtype!r}: static batches keep the model's own"
    )


class Engine:
  """Generates, scores and embeds with one model family.

  Parameters are an argument of every call, so that an engine outlives the
  training steps between its calls.

  Args:
    family: a model family, see docs/architecture.md.
    tokenizer: see `data.tokenizer`.
    mesh: where parameters live; None for one device.
    slots: rows decoded together, or several such sizes: the smallest that
      holds what is left is taken. A number stands for itself and an eighth;
      None for what fits `memory`.
    memory: bytes for keys and values over all devices; by default what the
      devices have free, where they say so.
    prompt_buckets, token_buckets: lengths that prompts and `max_tokens` are
      rounded up to; the last ones are the limits.
    context: prompt and continuation together, at most. By default what the
      family's config says, where it says anything.
    prefill_tokens: positions prefilled at once.
    prefill_chunk: longer prompts are prefilled in pieces of so many tokens,
      each on top of what its row holds; None for whole prompts. Not for
      encoders, which read a prompt as a whole.
    chunk: decoding steps between two looks of the host.
    mode: "refill", or "static" for batches that last as long as their
      slowest row.
    longest_first: in "refill", requests with larger `max_tokens` begin first,
      and of equal ones those of longer prompts, so that few slots wait for the
      last ones; else in order of arrival.
    cache_dtype: of keys and values in "refill", such as "int8"; None for the
      model's.
    bos, eos: whether prompts begin with BOS and end with EOS; by default what
      the families were trained with: BOS for decoder-only ones where the
      tokenizer has it, EOS for encoders.
    value_head: (params, hidden_BTD) -> values_BT, for `score`.
    report: told the statistics while samples come, every few seconds.
  """

  def __init__(
    self,
    family: Any,
    tokenizer: Any,
    *,
    mesh: jax.sharding.Mesh | None = None,
    slots: int | Sequence[int] | None = 32,
    memory: int | None = None,
    prompt_buckets: Sequence[int] = (64, 128, 512, 2048),
    token_buckets: Sequence[int] = (32, 128, 512, 2048),
    context: int | None = None,
    prefill_tokens: int = PREFILL_TOKENS,
    prefill_chunk: int | None = None,
    chunk: int = CHUNK,
    mode: str = "refill",
    longest_first: bool = True,
    cache_dtype: str | None = None,
    bos: bool | None = None,
    eos: bool | None = None,
    value_head: Callable[..., jax.Array] | None = None,
    report: Callable[[Statistics], None] | None = None,
  ):
    _check(family, mode, prompt_buckets, prefill_chunk, cache_dtype)
    self.family, self.tokenizer, self._mode = family, tokenizer, mode
    self._chunk = chunk
    self.statistics = Statistics()
    self._report, self._reported = report, time.monotonic()
    decoder_only = not family.encoder_decoder
    if context is None and decoder_only:
      context = getattr(family.config, "max_length", None)
    self._bos = (
      decoder_only and tokenizer.bos_id is not None if bos is None else bos
    )
    self._eos = not decoder_only if eos is None else eos
    self._cache_dtype = cache_dtype
    if slots is None:
      slots = self._fitting(mesh, memory, prompt_buckets, token_buckets)
    if isinstance(slots, int):
      if slots < 1:
        raise ValueError(f"slots = {slots}: at least 1")
      slots = {max(1, slots // 8), slots}
    self._ladders = Ladders(
      slots=tuple(sorted(slots)),
      prompts=tuple(sorted(prompt_buckets)),
      tokens=tuple(sorted(token_buckets)),
      context=context,
      piece=prefill_chunk,
    )
    self._programs = Programs(
      family,
      mesh=mesh,
      eos_id=tokenizer.eos_id,
      prefill_tokens=prefill_tokens,
      piece=prefill_chunk,
      chunk=chunk,
    )
    self._pools = Pools(
      family,
      self._programs.put,
      eos_id=tokenizer.eos_id,
      prefill_tokens=prefill_tokens,
      lengths=self._ladders.pieces,
      chunk=chunk,
      cache_dtype=cache_dtype,
      longest_first=longest_first,
      page=PAGE.get(jax.default_backend()),
    )
    self._value_head = value_head
    self._scorer = Scorer(
      family, value_head, self._programs, self._ladders, self.statistics
    )

  def _fitting(self, mesh, memory, prompt_buckets, token_buckets) -> int:
    memory = budget.free_memory(mesh) if memory is None else memory
    if memory is None:
      raise ValueError("slots=None: the device does not say; give memory=bytes")
    return budget.slots_in(
      self.family,
      memory,
      prompt_length=max(prompt_buckets),
      room=max(token_buckets),
      dtype=self._cache_dtype,
    )

  # Prompts.

  def encode(
    self,
    prompt: Prompt | str,
    *,
    bos: bool | None = None,
    eos: bool | None = None,
  ) -> tuple[int, ...]:
    """A prompt's ids as the model will see them."""
    segments = (prompt,) if isinstance(prompt, str) else prompt
    return tuple(
      encode_prompt(
        self.tokenizer,
        segments,
        bos=self._bos if bos is None else bos,
        eos=self._eos if eos is None else eos,
      )
    )

  def close_prompt(self, ids: Sequence[int]) -> tuple[int, ...]:
    """Ids encoded with `eos=False`, made a whole prompt."""
    return (*ids, *((self.tokenizer.eos_id,) if self._eos else ()))

  def visible(self, tokens: list[int], sampling: Sampling) -> list[int]:
    """Sampled ids without the one that ended them."""
    return ending.visible(tokens, sampling, self.tokenizer.eos_id)

  # Generation.

  def generate(
    self,
    params: Any,
    requests: Sequence[Request],
    sampling: Sampling | None = None,
  ) -> list[list[Sample]]:
    """`n` samples for every request, in order.

    Args:
      params: the model's.
      requests: what to continue.
      sampling: for requests that bring no settings of their own.

    Raises:
      TooLong: a prompt or budget beyond the last bucket, before any work.
    """
    return self.run(params, self.jobs(requests, sampling))

  def check(self, jobs: Iterable[Job]) -> None:
    """Raises TooLong for a prompt or budget beyond the last bucket."""
    for job in jobs:
      self._ladders.check(job)

  def warm_up(self, params: Any) -> None:
    """Compiles all that `generate` and `stream` need, beam search apart."""
    with self._counted_scope():
      weights = self._programs.weights(params)
      for shape in shapes(self._ladders):
        self._pools.warm_up(weights, shape)

  def stream(
    self,
    params: Any,
    requests: Sequence[Request],
    sampling: Sampling | None = None,
  ) -> Iterator[tuple[Request, Sample]]:
    """Samples as they are completed, so that checkers can run meanwhile."""
    jobs = self.jobs(requests, sampling)
    for job, _, sample in self._completed(params, jobs):
      yield job.request, sample

  def run(self, params: Any, jobs: Sequence[Job]) -> list[list[Sample]]:
    """`generate` for prompts that are encoded already."""
    found: dict[int, dict[int, Sample]] = {id(job): {} for job in jobs}
    for job, index, sample in self._completed(params, jobs):
      found[id(job)][index] = sample
    return [
      [found[id(job)][index] for index in range(job.request.n)] for job in jobs
    ]

  def jobs(
    self, requests: Sequence[Request], sampling: Sampling | None = None
  ) -> list[Job]:
    """Requests, encoded, with their settings."""
    default = Sampling() if sampling is None else sampling
    jobs = []
    for request in requests:
      own = default if request.sampling is None else request.sampling
      jobs.append(
        Job(
          request=request,
          sampling=own,
          ids=self.encode(request.prompt),
          seed=own.seed if request.seed is None else request.seed,
        )
      )
    return jobs

  def _completed(self, params, jobs) -> Iterator[tuple[Job, int, Sample]]:
    """All checks come before any work."""
    static = self._mode == "static"
    batched = [j for j in jobs if static or j.sampling.beams > 1]
    pooled = [j for j in jobs if not static and j.sampling.beams == 1]
    shaped = list(pools(pooled, self._ladders))
    for batch in list(plan(batched, self._ladders)):
      yield from self._run(params, batch)
    self.statistics.requests += len(batched)
    for shape, part in shaped:
      left = {id(job): job.request.n for job in part}
      for job, index, sample in self._refill(params, shape, part):
        left[id(job)] -= 1
        self.statistics.requests += not left[id(job)]
        yield job, index, sample

  def _refill(self, params, shape, jobs) -> Iterator[tuple[Job, int, Sample]]:
    """Samples of one pool, in order of completion."""
    explained = functools.partial(
      budget.explained, self.family, shape, self._cache_dtype
    )
    with self._counted_scope(), explained():
      drawn = self._pools.run(
        self._programs.weights(params),
        jobs,
        shape,
        self.tokenizer,
        self.statistics,
      )
    while True:
      # Not across a yield: whoever takes the sample may compile things, too.
      with self._counted_scope(), explained():
        found = next(drawn, None)
      if found is None:
        return
      job, index, row = found
      sample = ending.record(job, index, row, self.tokenizer)
      self.statistics.samples += 1
      self.statistics.tokens += len(sample.tokens)
      self._tell()
      yield job, index, sample

  def _tell(self) -> None:
    now = time.monotonic()
    if self._report is not None and now - self._reported > REPORT_SECONDS:
      self._reported = now
      self._report(self.statistics)

  @contextlib.contextmanager
  def _counted_scope(self):
    before, start = compilations(), time.perf_counter()
    try:
      with self._programs.scope():
        yield
    finally:
      self.statistics.seconds += time.perf_counter() - start
      self.statistics.compilations += compilations() - before

  @_counted
  def _run(self, params, batch) -> list[tuple[Job, int, Sample]]:
    rows = [batch.jobs[job] for job, _ in batch.rows]
    halt = None
    if batch.beams == 1 and any(job.sampling.stop for job in rows):
      halt = ending.Halt(rows, self.tokenizer, batch.slots)
    with self._programs.scope():
      weights = self._programs.weights(params)
      decoded = self._programs.run(weights, batch, self.statistics, halt)
    done = []
    for row, (job, (_, index)) in enumerate(zip(rows, batch.rows, strict=True)):
      for k in range(job.request.n if batch.beams > 1 else 1):
        at = row * batch.beams + k
        sample = ending.sample(job, index + k, at, decoded, self.tokenizer)
        done.append((job, index + k, sample))
    self.statistics.samples += len(done)
    self.statistics.tokens += sum(len(sample.tokens) for *_, sample in done)
    return sorted(done, key=lambda one: len(one[2].tokens))

  def session(self, params: Any, *, keep_end: bool = False) -> Session:
    """Conversations; see `Session`."""
    return Session(self, params, keep_end)

  def kept_rows(self) -> kept.Rows | None:
    """Rows for a session; None for a model that reads prompts as a whole."""
    if self.family.encoder_decoder:
      return None
    return kept.Rows(
      self.family,
      self._programs,
      self._ladders,
      tokenizer=self.tokenizer,
      chunk=self._chunk,
      statistics=self.statistics,
    )

  def run_kept(
    self, params: Any, rows: kept.Rows, jobs: Sequence[Job]
  ) -> list[Sample]:
    """One sample of each job on rows that are kept."""
    with self._counted_scope():
      drawn = rows.run(self._programs.weights(params), jobs)
    samples = [
      ending.record(job, job.sample, row, self.tokenizer)
      for job, row in zip(jobs, drawn, strict=True)
    ]
    self.statistics.requests += len(samples)
    self.statistics.samples += len(samples)
    self.statistics.tokens += sum(len(sample.tokens) for sample in samples)
    return samples

  # Scores and embeddings.

  @_counted
  def score(
    self,
    params: Any,
    prompts: Sequence[Prompt | str],
    targets: Sequence[Prompt | str],
    values: bool = False,
  ) -> Any:
    """Log-probabilities of targets under prompts, at temperature 1.

    Targets of equal prompts are scored together, their prompt read once.

    Args:
      params: the model's.
      prompts: one per target.
      targets: segments; a target that ends with EOS brings it as an id.
      values: the value head's output as well.

    Returns:
      a float32 array per target with a number per token, or with `values` a
      pair of such lists.

    Raises:
      TooLong: a prompt or target beyond the last bucket, before any work.
    """
    if values and self._value_head is None:
      raise ValueError("values=True needs an Engine with a value_head")
    pairs = [
      (self.encode(p), self.encode(t, bos=False, eos=False))
      for p, t in zip(prompts, targets, strict=True)
    ]
    found = self._scorer.score(params, pairs)
    logprobs = [arrays[0] for arrays in found]
    return (logprobs, [arrays[1] for arrays in found]) if values else logprobs

  @_counted
  def embed(self, params: Any, texts: Sequence[Prompt | str]) -> np.ndarray:
    """One unit row per text, float32."""
    return self._scorer.embed(params, [self.encode(text) for text in texts])
