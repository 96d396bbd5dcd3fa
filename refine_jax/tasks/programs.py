"""Programs that models wrote, run in a sandbox: text in, a number or not out.

Each program runs in its own session of `pydantic-monty`, a small Python of
its own in worker processes, without files, network, processes or a clock, with
limits on time, memory, depth and output. What its `solution()` returns is
reduced inside the sandbox: nothing but a number or a short string ever comes
out (a list that shares its parts can be small there and endless here).
"""

import atexit
import collections
import concurrent.futures
import contextlib
import datetime
import functools
import hashlib
import os
import secrets
import threading
from collections.abc import Sequence
from typing import NamedTuple

import pydantic_monty

from refine_jax.tasks import program_refusals

Value = int | float | bool | str
_LONGEST = 20_000  # characters of a program
_STRING = 256  # characters of a string that comes out
_PRINTED = 65_536  # bytes a program may print
_TRIES = 3  # when workers are killed from outside
# The same text gives the same value, whenever and wherever it runs.
_POLICY = {
  "sleep": "zero",
  "random_start": {"seed": 0},
  "datetime": datetime.datetime(2024, 1, 1),
}
# The arguments keep what a program may put in the place of a builtin.
_REDUCE = """
def {name}(v, type=type, int=int, float=float, bool=bool, str=str,
    len=len, Exception=Exception):
  t = type(v)
  if t is int:
    return v if -(10**300) < v < 10**300 else None
  if t is float or t is bool:
    return v
  if t is str:
    return v if len(v) <= {string} else None
  try:
    return float(v)
  except Exception:
    return None
"""


class Outcome(NamedTuple):
  """What became of a program.

  Attributes:
    value: what it returned; None if that is nothing of use.
    error: why there is none: an exception's name, `returned no number or
      string`, `too long`, `crashed`.
    refused: what it wanted that the sandbox lacks, by name; "" if nothing.
  """

  value: Value | None
  error: str = ""
  refused: str = ""


class Pool:
  """Workers that stay; results are kept by text. Safe to use from threads.

  Args:
    workers: processes, and programs at a time.
    seconds: of one program; half as much again and its worker is killed.
    memory: bytes of one program.
    depth: of its calls.
    cache: results kept; 0 for none. Timeouts are kept as well, so that a
      reward and a check of one text agree; crashes are not.
  """

  def __init__(
    self,
    workers: int = 2,
    *,
    seconds: float = 1.0,
    memory: int = 32 << 20,
    depth: int = 500,
    cache: int = 100_000,
  ):
    self._limits = {
      "max_feed_duration_secs": seconds,
      "max_memory": memory,
      "max_recursion_depth": depth,
      "max_suspensions": 100,
    }
    self._name = f"_{secrets.token_hex(8)}"
    self._head = _REDUCE.format(name=self._name, string=_STRING)
    self._size, self._kept = cache, collections.OrderedDict()
    self._lock = threading.Lock()
    self.refused: collections.Counter[str] = collections.Counter()
    self.failed: collections.Counter[str] = collections.Counter()
    self.ran = 0
    self._stack = contextlib.ExitStack()
    self._monty = self._stack.enter_context(
      pydantic_monty.Monty(
        min_processes=workers,
        max_processes=workers,
        request_timeout=seconds * 1.5 + 0.5,
        feed_duration_limit_grace=seconds / 2,
      )
    )
    self._threads = self._stack.enter_context(
      concurrent.futures.ThreadPoolExecutor(workers, "programs")
    )

  def __enter__(self) -> "Pool":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    """Ends the workers; programs that still run are waited for."""
    self._stack.close()

  def submit(self, program: str) -> concurrent.futures.Future[Outcome]:
    """Starts one program; its result is an Outcome, never an exception."""
    key = hashlib.blake2b(program.encode("utf-8", "surrogatepass")).digest()
    with self._lock:
      if key in self._kept:
        self._kept.move_to_end(key)
        done = concurrent.futures.Future()
        done.set_result(self._kept[key])
        return done
    return self._threads.submit(self._counted, key, program)

  def run(self, programs: Sequence[str]) -> list[Outcome]:
    """One Outcome per program, in order; equal programs run once."""
    running = {}
    for program in programs:
      if program not in running:
        running[program] = self.submit(program)
    return [running[program].result() for program in programs]

  def _counted(self, key: bytes, program: str) -> Outcome:
    outcome, lasting = self._run(program)
    with self._lock:
      self.ran += 1
      if outcome.error:
        _count(self.failed, outcome.error)
      if outcome.refused:
        _count(self.refused, outcome.refused)
      if self._size and lasting:
        self._kept[key] = outcome
        while len(self._kept) > self._size:
          self._kept.popitem(last=False)
    return outcome

  def _run(self, program: str) -> tuple[Outcome, bool]:
    """The outcome, and whether it would be the same again."""
    if len(program) > _LONGEST:
      return Outcome(None, "too long"), True
    code = program_refusals.rewritten(program)
    code = f"{self._head}\n{code}\n\n{self._name}(solution())"
    for _ in range(_TRIES):
      try:
        value = self._feed(code)
      except pydantic_monty.MontyCrashedError as error:
        if error.timed_out:
          return Outcome(None, "TimeoutError"), True
      except pydantic_monty.MontyError as error:
        name, refused = program_refusals.explain(error)
        return Outcome(None, name, refused), True
      except UnicodeError:  # pragma: no cover (the sandbox says so itself)
        return Outcome(None, "SyntaxError"), True
      else:
        lost = "returned no number or string" if value is None else ""
        return Outcome(value, lost), True
    return Outcome(None, "crashed"), False

  def _feed(self, code: str) -> Value | None:
    checkout = self._monty.checkout(limits=self._limits, os_policy=_POLICY)
    with checkout as session:
      printed = pydantic_monty.CollectString(_PRINTED)
      return session.feed_run(code, print_callback=printed)

  def report(self) -> str:
    """One line: how many ran, failed and were refused, and for what."""
    parts = [f"{self.ran} programs ran"]
    for what, counts in (("failed", self.failed), ("refused", self.refused)):
      if counts:
        named = ", ".join(f"{k} {n}" for k, n in counts.most_common(8))
        parts.append(f"{sum(counts.values())} {what} ({named})")
    return "; ".join(parts)


def _count(counts: collections.Counter[str], name: str) -> None:
  """Counts a name a program may have chosen, at most 256 different ones."""
  name = name[:80]
  counts[name if name in counts or len(counts) < 256 else "others"] += 1


def shared() -> Pool:
  """The pool of this process, started on first use."""
  return _shared(os.getpid())


@functools.cache
def _shared(pid: int) -> Pool:
  pool = Pool(max(1, min(os.cpu_count() or 1, 8)))
  atexit.register(pool.close)
  return pool
