"""Conversations: prompts that grow by what is sampled and what is appended."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from refine_jax.records import Prompt, Sample
from refine_jax.sampling.planning import Job
from refine_jax.sampling.settings import Request, Sampling

if TYPE_CHECKING:
  from refine_jax.sampling.engine import Engine


@dataclasses.dataclass
class _Conversation:
  ids: list[int]
  turns: int = 0
  forks: int = 0


class Session:
  """Kept conversations of one engine under one set of parameters.

  What was sampled is continued by its own ids; nothing is decoded and
  tokenised again. The id that ended a sample (EOS, a stop id) does not stay
  in the conversation unless `keep_end`. A decoder-only model keeps every
  conversation's row on the device and reads only what it does not hold.

  A conversation's randomness follows from its name and its length, so two
  with the same name, settings and history go on alike, in any engine.
  """

  def __init__(self, engine: "Engine", params: Any, keep_end: bool = False):
    self._engine, self._params, self._keep_end = engine, params, keep_end
    self._open: dict[str, _Conversation] = {}
    self._rows = engine.kept_rows()
    self._numbers = itertools.count()

  def open(self, prompt: Prompt | str, name: str | None = None) -> str:
    """Starts a conversation; returns its id, which is `name` if given."""
    name = f"session/{next(self._numbers)}" if name is None else name
    if name in self._open:
      raise ValueError(f"conversation {name!r} is open already")
    ids = self._engine.encode(prompt, eos=False)
    self._open[name] = _Conversation(list(ids))
    return name

  def append(self, id: str, segments: Prompt | str) -> None:
    """Adds segments that were not sampled."""
    ids = self._engine.encode(segments, bos=False, eos=False)
    self._of(id).ids.extend(ids)

  def rewrite(self, id: str, prompt: Prompt | str) -> None:
    """Puts another prompt in the place of all there was.

    What both begin with is not read again.
    """
    self._of(id).ids = list(self._engine.encode(prompt, eos=False))

  def fork(self, id: str, n: int) -> list[str]:
    """n conversations that begin as this one, which stays open."""
    parent, names = self._of(id), []
    for _ in range(n):
      name = f"{id}/{parent.forks}"
      parent.forks += 1
      self._open[name] = _Conversation(list(parent.ids), parent.turns)
      names.append(name)
    return names

  def generate(self, ids: Sequence[str], sampling: Sampling) -> list[Sample]:
    """Continues conversations, all together; each grows by its sample."""
    if len(set(ids)) != len(ids):
      raise ValueError(f"a conversation is asked for twice: {list(ids)}")
    jobs = [
      Job(
        request=Request(id, ()),
        sampling=sampling,
        ids=self._engine.close_prompt(self._of(id).ids),
        seed=sampling.seed,
        offset=len(self._of(id).ids),
      )
      for id in ids
    ]
    samples = []
    for id, sample in zip(ids, self._run(jobs), strict=True):
      conversation = self._of(id)
      tokens = list(sample.tokens)
      if not self._keep_end:
        tokens = self._engine.visible(tokens, sampling)
      conversation.ids.extend(tokens)
      samples.append(
        dataclasses.replace(sample, id=f"{id}/t{conversation.turns}")
      )
      conversation.turns += 1
    return samples

  def answer(
    self,
    requests: Sequence[Request],
    names: Sequence[Sequence[str]],
    sampling: Sampling | None = None,
  ) -> list[list[Sample]]:
    """What `Engine.generate` answers, on the rows of conversations.

    Equal to it token for token. A request's prompt takes the place of all
    there was in a conversation; what both begin with is not read again.

    Args:
      requests: what to continue.
      names: per request the conversation of each of its samples, which is
        opened if there is none.
      sampling: for requests that bring no settings of their own.
    """
    jobs = []
    for job, group in zip(
      self._engine.jobs(requests, sampling), names, strict=True
    ):
      if len(group) != job.request.n:
        raise ValueError(
          f"request {job.request.id!r}: {job.request.n} samples of"
          f" {len(group)} conversations"
        )
      jobs += [
        dataclasses.replace(job, row=name, sample=i)
        for i, name in enumerate(group)
      ]
    if len({job.row for job in jobs}) != len(jobs):
      raise ValueError("a conversation is asked for twice")
    if self._rows is None or any(job.sampling.beams > 1 for job in jobs):
      groups = self._engine.generate(self._params, requests, sampling)
      samples = list(itertools.chain.from_iterable(groups))
    else:
      samples = self._engine.run_kept(self._params, self._rows, jobs)
    for job, sample in zip(jobs, samples, strict=True):
      words = self._engine.visible(list(sample.tokens), job.sampling)
      conversation = self._open.setdefault(job.row, _Conversation([]))
      conversation.ids = [*job.ids, *words]
      conversation.turns += 1
    found = iter(samples)
    return [list(itertools.islice(found, r.n)) for r in requests]

  def _run(self, jobs: Sequence[Job]) -> list[Sample]:
    if self._rows is None or any(job.sampling.beams > 1 for job in jobs):
      return [sample for (sample,) in self._engine.run(self._params, jobs)]
    return self._engine.run_kept(self._params, self._rows, jobs)

  def tokens(self, id: str) -> tuple[int, ...]:
    """All ids of a conversation so far."""
    return tuple(self._of(id).ids)

  def close(self, id: str) -> None:
    self._of(id)
    del self._open[id]
    if self._rows is not None:
      self._rows.forget(id)

  def clear(self) -> None:
    """Closes all conversations; others that begin alike find their rows."""
    for id in list(self._open):
      self.close(id)

  @property
  def capacity(self) -> int:
    """Conversations whose rows stay; 0 for a model that keeps none."""
    return 0 if self._rows is None else self._rows.slots

  def _of(self, id: str) -> _Conversation:
    if id not in self._open:
      raise KeyError(f"no open conversation {id!r}")
    return self._open[id]
