"""Records appended as they come, by a process that may be killed."""

import os
import shutil
import time
from collections.abc import Callable, Iterable
from typing import Any

from refine_jax import files
from refine_jax.records.rows import BadRow, parse, to_json

# An object is written after so many seconds, or bytes. A kill loses at most
# what came since, and that is made again.
SECONDS, BYTES = 30.0, 16 << 20


class Appender:
  """Appends records as they come and survives `kill -9`.

  On opening, a torn last line is cut off and the ids already present are in
  `done`, so that a rerun skips them: neither loss nor duplicate.

  In a bucket, where nothing can be appended to, records go to objects of
  their own, `name.jsonl.parts/`, which `close` joins into the one.
  """

  def __init__(
    self,
    cls: type,
    path: str | os.PathLike,
    *,
    clock: Callable[[], float] = time.monotonic,
  ):
    if files.remote(path):
      self._kept: Any = _Parts(files.path(path), clock)
    else:
      self._kept = _Tail(files.path(path))
    self.done = self._kept.recover(cls)

  def append(self, records: Iterable[Any]) -> None:
    """Writes and flushes; every record is a whole line or not there."""
    self._kept.write("".join(to_json(r) + "\n" for r in records).encode())

  def settle(self) -> None:
    """What was appended is there from now on, in a bucket as well: before
    another file says that it is."""
    self._kept.settle()

  def close(self) -> None:
    self._kept.close()

  def __enter__(self) -> "Appender":
    return self

  def __exit__(self, *_) -> None:
    self.close()


def _ids(cls: type, path: files.Path) -> tuple[set[str], int]:
  """Of the whole lines, and their bytes."""
  done, good = set(), 0
  with path.open("rb") as file:
    for number, line in enumerate(file, 1):
      if not line.endswith(b"\n"):
        break
      try:
        done.add(parse(cls, line).id)
      except BadRow as error:
        raise error.at(str(path), number) from None
      good += len(line)
  return done, good


class _Tail:
  """A file on a disk, written at its end."""

  def __init__(self, path: files.Path):
    self._path = path

  def recover(self, cls: type) -> set[str]:
    self._path.parent.mkdir(parents=True, exist_ok=True)
    done: set[str] = set()
    if self._path.exists():
      done, good = _ids(cls, self._path)
      if good != os.path.getsize(self._path):
        os.truncate(self._path, good)
    self._file = open(self._path, "ab")  # noqa: SIM115, closed by close()
    return done

  def write(self, data: bytes) -> None:
    self._file.write(data)
    self._file.flush()

  def settle(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.flush()
    os.fsync(self._file.fileno())
    self._file.close()


class _Parts:
  """Objects that are joined in the end."""

  def __init__(self, path: files.Path, clock: Callable[[], float]):
    self._path, self._clock = path, clock
    self._folder = path.with_name(f"{path.name}.parts")
    self._waiting, self._size, self._since = [], 0, clock()

  def recover(self, cls: type) -> set[str]:
    done: set[str] = set()
    if self._path.exists():
      done, _ = _ids(cls, self._path)
    for part in self._parts():
      ids, _ = _ids(cls, part)
      if ids <= done:
        part.unlink()  # joined, and then the process was killed
      done |= ids
    return done

  def write(self, data: bytes) -> None:
    self._waiting.append(data)
    self._size += len(data)
    late = self._clock() - self._since >= SECONDS
    if late or self._size >= BYTES:
      self.settle()

  def close(self) -> None:
    self.settle()
    parts = self._parts()
    if not parts and self._path.exists():
      return
    before = [self._path] if self._path.exists() else []
    with files.whole(self._path) as made:
      for part in (*before, *parts):
        with part.open("rb") as file:
          shutil.copyfileobj(file, made)
    for part in parts:
      part.unlink()

  def _parts(self) -> list[files.Path]:
    return sorted(self._folder.glob("*.jsonl"), key=os.fspath)

  def settle(self) -> None:
    data = b"".join(self._waiting)
    if data:
      parts = self._parts()
      number = int(parts[-1].stem) + 1 if parts else 0
      files.write(self._folder / f"{number:06d}.jsonl", data)
    self._waiting, self._size, self._since = [], 0, self._clock()
