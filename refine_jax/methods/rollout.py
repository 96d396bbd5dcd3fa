"""One completion per problem, judged while others are still being written.

ReFT (arXiv 2401.08967, section 3.2): the policy answers its own training
questions, the gold solutions are not looked at, and a checker says what each
answer is worth.
"""

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from refine_jax.batch import Batch
from refine_jax.methods import self_training
from refine_jax.methods.refine import Template
from refine_jax.records import Problem, Sample
from refine_jax.sampling import score
from refine_jax.sampling.engine import Engine
from refine_jax.sampling.settings import Request, Sampling
from refine_jax.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class Rollout:
  """A judged completion.

  Attributes:
    prompt: ids, as the model saw them.
    reward: `Task.reward`; correct: `Task.check`; answered: whether an answer
      could be read at all.
  """

  problem: Problem
  prompt: tuple[int, ...]
  sample: Sample
  reward: float
  correct: bool
  answered: bool

  @property
  def truncated(self) -> bool:
    return self.sample.finish == "length"


@dataclasses.dataclass(frozen=True)
class Spent:
  """Seconds of one round.

  Attributes:
    generate: until the last completion was there.
    check: in which the checker worked, most of them meanwhile.
    idle: that nothing was left to do but wait for it.
  """

  generate: float
  check: float
  idle: float


class Checker:
  """Judges completions on a thread of its own, a few at a time.

  Args:
    task: its faces for many are called; one that runs programs has processes
      of its own.
    rows: completions that are judged by one call.
  """

  def __init__(self, task: Task, rows: int = 16):
    if rows < 1:
      raise ValueError(f"rows must be positive, got {rows}")
    self._task, self._rows = task, rows
    self._thread = ThreadPoolExecutor(1, "checker")
    self._lock = threading.Lock()
    self._waiting: list[tuple[Any, Problem, str]] = []
    self._running: list[tuple[list[Any], Future]] = []
    self.seconds = 0.0

  def add(self, key: Any, problem: Problem, text: str) -> None:
    """Takes one completion; `key` names it in `results`."""
    self._waiting.append((key, problem, text))
    # Nothing runs: better few at once than none now.
    free = all(future.done() for _, future in self._running)
    if free or len(self._waiting) >= self._rows:
      self._submit()

  def _submit(self) -> None:
    part, self._waiting = self._waiting, []
    if part:
      keys, problems, texts = map(list, zip(*part, strict=True))
      future = self._thread.submit(self._judge, problems, texts)
      self._running.append((keys, future))

  def _judge(self, problems, texts) -> list[tuple[float, bool, bool]]:
    start = time.perf_counter()
    judged = list(
      zip(
        map(float, self._task.rewards(problems, texts)),
        map(bool, self._task.check_all(problems, texts)),
        (a is not None for a in self._task.answers(texts)),
        strict=True,
      )
    )
    with self._lock:
      self.seconds += time.perf_counter() - start
    return judged

  def results(self) -> dict[Any, tuple[float, bool, bool]]:
    """Waits; key -> (reward, correct, answered) of all since the last call."""
    self._submit()
    running, self._running = self._running, []
    found = {}
    for keys, future in running:
      found.update(zip(keys, future.result(), strict=True))
    return found

  def close(self) -> None:
    self._thread.shutdown()


def roll_out(
  engine: Engine,
  params: Any,
  problems: Sequence[Problem],
  *,
  task: Task,
  checker: Checker,
  template: Template,
  sampling: Sampling,
  name: str,
  expected: Sequence[int] | None = None,
  share: tuple[int, int] = (0, 1),
  gather: Callable[[Any], list[Any]] = lambda mine: [mine],
) -> tuple[list[Rollout], Spent]:
  """A judged completion of every problem, in their order.

  Args:
    engine: samples, with `params`.
    problems: those of this round; one that occurs twice is answered twice.
    task, template: make prompts; `checker` judges.
    sampling: temperature and budget; nothing may be cut from the distribution.
    name: of the round. Its randomness follows from it and from the place of a
      problem in the round, so no two rounds have the same noise.
    expected: about how long each completion will be, in any unit: the longest
      begin first, so that few slots wait for the last ones. It changes no
      completion. None for the order they come in.
    share: (index, count): every process samples all and judges its share.
    gather: gives what all processes have, for what this one has; JSON.

  Raises:
    ValueError: the sampler would cut tokens that a scorer counts.
  """
  whole_distribution(sampling)
  requests = [
    Request(f"{name}/{i}/{p.id}", self_training.continued(task, template, p))
    for i, p in enumerate(problems)
  ]
  owners = {r.id: p for r, p in zip(requests, problems, strict=True)}
  start, busy = time.perf_counter(), checker.seconds
  samples = {}
  index, count = share
  mine = {r.id for r in requests[index::count]}
  order = requests
  if expected is not None:
    pairs = zip(expected, requests, strict=True)
    order = [r for _, r in sorted(pairs, key=lambda pair: -pair[0])]
  for request, sample in engine.stream(params, order, sampling):
    samples[request.id] = sample
    if request.id in mine:
      problem = owners[request.id]
      text = task.prefix(problem) + sample.text
      checker.add(request.id, problem, text)
  done = time.perf_counter()
  judged = {k: v for part in gather(checker.results()) for k, v in part.items()}
  waited = time.perf_counter() - done
  rollouts = [
    Rollout(owners[r.id], engine.encode(r.prompt), samples[r.id], *judged[r.id])
    for r in requests
  ]
  return rollouts, Spent(done - start, checker.seconds - busy, waited)


def whole_distribution(sampling: Sampling) -> None:
  """Raises ValueError where a sampler's probabilities are not a scorer's.

  A token that only the sampler bans is free of charge for the policy: it moves
  its mass there, log-ratios go to minus infinity, and the KL reward pays for
  it.
  """
  wrong = {
    "temperature": sampling.temperature <= 0,
    "top_k": sampling.top_k != 0,
    "top_p": sampling.top_p != 1,
    "min_p": sampling.min_p != 0,
    "repetition_penalty": sampling.repetition_penalty != 1,
    "min_tokens": sampling.min_tokens != 0,
    "stop": bool(sampling.stop),
    "beams": sampling.beams != 1,
  }
  for name, bad in wrong.items():
    if bad:
      raise ValueError(
        f"rollouts are sampled from the policy itself, with"
        f" {name}={getattr(sampling, name)!r} they would not be"
      )


def places(index: int, count: int, total: int, seed: int) -> list[int]:
  """Which of `total` problems round `index` of `count` has.

  A seeded order of all, then another, without end.
  """
  if total < 1:
    raise ValueError("there is no problem to answer")
  wanted = np.arange(index * count, (index + 1) * count)
  orders = {
    epoch: np.random.default_rng([seed, epoch]).permutation(total)
    for epoch in np.unique(wanted // total)
  }
  return [int(orders[i // total][i % total]) for i in wanted]


@dataclasses.dataclass(frozen=True)
class Shape:
  """Lengths that batches are made in.

  Attributes:
    prompt, target: tokens at most.
    buckets: how many lengths there are of each, evenly spaced: a batch has
      the least that holds its rows, and only so many programs are compiled.
  """

  prompt: int
  target: int
  buckets: int = 1

  def of(self, rollouts: Sequence[Rollout]) -> tuple[int, int]:
    """Prompt and target length of a batch of these."""
    longest = max(len(r.prompt) for r in rollouts)
    if longest > self.prompt:
      raise ValueError(
        f"a prompt of {longest} tokens, data.max_prompt={self.prompt}"
      )
    target = max(len(r.sample.tokens) for r in rollouts)
    return self._up(longest, self.prompt), self._up(target, self.target)

  def _up(self, length: int, most: int) -> int:
    rungs = [-(-most * k // self.buckets) for k in range(1, self.buckets + 1)]
    return next(rung for rung in rungs if rung >= length)


def batch_of(
  rollouts: Sequence[Rollout], shape: Shape
) -> tuple[Batch, dict[str, np.ndarray]]:
  """Host arrays: the batch, and scores_B, truncated_B, correct_B, sampled_BT.

  Every sampled token counts, EOS included.
  """
  prompt_length, target_length = shape.of(rollouts)
  batch = score.batch_of(
    [r.prompt for r in rollouts],
    [r.sample.tokens for r in rollouts],
    rows=len(rollouts),
    prompt_length=prompt_length,
    target_length=target_length,
  )
  sampled_BT = np.zeros(batch.target_BT.shape, np.float32)
  for row, rollout in enumerate(rollouts):
    sampled_BT[row, : len(rollout.sample.logprobs)] = rollout.sample.logprobs
  return batch, {
    "scores_B": np.array([r.reward for r in rollouts], np.float32),
    "truncated_B": np.array([r.truncated for r in rollouts]),
    "correct_B": np.array([r.correct for r in rollouts]),
    "sampled_BT": sampled_BT,
  }


def figures(rollouts: Sequence[Rollout]) -> dict[str, float]:
  """Means over a round: what it was worth, and how long it was."""
  lengths = [len(r.sample.tokens) for r in rollouts]
  return {
    "reward": float(np.mean([r.reward for r in rollouts])),
    "accuracy": float(np.mean([r.correct for r in rollouts])),
    "answered": float(np.mean([r.answered for r in rollouts])),
    "truncated": float(np.mean([r.truncated for r in rollouts])),
    "length": float(np.mean(lengths)),
    "length_largest": float(max(lengths)),
  }
