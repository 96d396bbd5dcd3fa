"""Child processes that compare formulas, each request within a time limit.

math-verify wants signals in a main thread, and what it calls may run for ever
or fill the memory: so it runs in children, which interrupt themselves and are
killed when that does not help. Towers of powers are not even tried.
"""

import atexit
import concurrent.futures
import contextlib
import functools
import importlib.util
import json
import os
import pathlib
import queue
import re
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

_START = 120.0  # seconds a child may take to import
_LONGEST = 400  # characters of a formula
_SPARE = 1  # children beyond the workers, for when one has been killed
_TOWER = re.compile(
  r"(?:\^|\*\*)[{(]*\d+(?:\^|\*\*)|(?:\^|\*\*)[{(]*\d{5}|\d{4}!"
)
_SCRIPT = pathlib.Path(__file__).with_name("latex_worker.py")


class Worker:
  """One child; it starts at once and is waited for at its first request."""

  def __init__(self):
    # By its path, so that the parent's __main__ and this package stay out.
    self._child = subprocess.Popen(
      [sys.executable, "-P", str(_SCRIPT)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
    )
    self._ready, self._read = False, b""

  def ask(self, request: dict[str, Any], seconds: float) -> dict | None:
    """The answer; None, and a dead child, if it is late or has died."""
    if not self._ready:
      self._ready = self._line(_START) is not None
    try:
      self._child.stdin.write(json.dumps(request).encode() + b"\n")
      self._child.stdin.flush()
    except OSError:
      return None
    line = self._line(seconds)
    return None if line is None else json.loads(line)

  def _line(self, seconds: float) -> bytes | None:
    deadline = time.monotonic() + seconds
    stream = self._child.stdout.fileno()
    while b"\n" not in self._read:
      left = deadline - time.monotonic()
      if left <= 0 or not select.select([stream], [], [], left)[0]:
        return None
      more = os.read(stream, 65536)
      if not more:
        return None
      self._read += more
    line, _, self._read = self._read.partition(b"\n")
    return line

  def close(self) -> None:
    self._child.kill()
    self._child.wait()
    with contextlib.suppress(OSError):  # what nobody will read any more
      self._child.stdin.close()
    self._child.stdout.close()


class Pool:
  """Workers that stay; a killed one is replaced while the others work.

  Args:
    workers: children.
    seconds: of one request; a quarter more and its child is killed.

  Raises:
    ModuleNotFoundError: math-verify is not installed.
  """

  def __init__(self, workers: int = 2, *, seconds: float = 0.6):
    if importlib.util.find_spec("math_verify") is None:
      raise ModuleNotFoundError(
        "formulas are compared by math-verify: install it"
      )
    self._seconds, self._closed = seconds, False
    self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    self._children = workers + _SPARE
    for _ in range(self._children):
      self._idle.put(Worker())
    self._threads = concurrent.futures.ThreadPoolExecutor(workers, "latex")
    self._known = functools.lru_cache(100_000)(self._submit)
    self.late = 0

  def __enter__(self) -> "Pool":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    if self._closed:
      return
    self._closed = True
    self._threads.shutdown(wait=True)
    for _ in range(self._children):
      self._idle.get().close()

  def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether each (gold, found) is equal; late is no."""
    asked = [self._known("equal", gold, found) for gold, found in pairs]
    return [bool(a.result()) for a in asked]

  def keys(self, texts: Sequence[str]) -> list[str | None]:
    """A spelling that equal formulas share; None where there is none."""
    asked = [self._known("key", text) for text in texts]
    return [a.result() for a in asked]

  def _submit(self, do: str, *texts: str) -> concurrent.futures.Future:
    if any(len(t) > _LONGEST or _TOWER.search(t) for t in texts):
      done = concurrent.futures.Future()
      done.set_result(None)
      return done
    return self._threads.submit(self._ask, do, texts)

  def _ask(self, do: str, texts: tuple[str, ...]) -> bool | str | None:
    worker = self._idle.get()
    found = None
    try:
      request = {"do": do, "texts": texts, "seconds": self._seconds}
      found = worker.ask(request, self._seconds * 1.25)
    finally:
      self._idle.put(worker if found else Worker())
      if not found:
        self.late += 1
        worker.close()
    return found["value"] if found else None


def shared() -> Pool:
  """The pool of this process, started on first use."""
  return _shared(os.getpid())


@functools.cache
def _shared(pid: int) -> Pool:
  pool = Pool(max(1, min(os.cpu_count() or 1, 4)))
  atexit.register(pool.close)
  return pool
