"""Files wherever they lie: on a disk, or as objects in a bucket (gs://, s3://).

A file is whole or absent. On a disk it is written beside its place and moved
there. An object is there once it is closed; it cannot be appended to.
"""

import contextlib
import os
import pathlib
import platform
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from etils import epath

Name = str | os.PathLike
Path = pathlib.Path | epath.Path

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")


def remote(name: Name) -> bool:
  """Whether it is an object's name, or a prefix of some."""
  return _SCHEME.match(os.fspath(name)) is not None


def path(name: Name) -> Path:
  """A path with pathlib's methods; a bucket knows no `..`, so none is left."""
  name = os.fspath(name)
  found = _SCHEME.match(name)
  if not found:
    return pathlib.Path(name)
  return epath.Path(found[0] + posixpath.normpath(name[found.end() :]))


def resolve(folder: Name, name: Name) -> Path:
  """`name` as seen from a folder, unless it is absolute or an object's."""
  if remote(name):
    return path(name)
  return path(os.path.join(os.fspath(folder), os.fspath(name)))


def absolute(name: Name) -> Path:
  """Whatever the working directory, without `..` and links; an object's name
  is."""
  # epath would take it for a relative one.
  return path(name) if remote(name) else path(name).expanduser().resolve()


@contextlib.contextmanager
def whole(name: Name) -> Iterator[BinaryIO]:
  """What is written here is there once the block has ended without an error."""
  target = path(name)
  if remote(name):
    with tempfile.TemporaryFile() as file:
      yield file
      file.seek(0)
      with target.open("wb") as made:
        shutil.copyfileobj(file, made)
    return
  target.parent.mkdir(parents=True, exist_ok=True)
  # In a container every process may have the same number.
  mine = f"{platform.node()}-{os.getpid()}"
  temporary = target.with_name(f".{target.name}.{mine}.tmp")
  try:
    with open(temporary, "wb") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, target)
  finally:
    temporary.unlink(missing_ok=True)


def write(name: Name, data: str | bytes) -> None:
  """Writes all of it or nothing."""
  with whole(name) as file:
    file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def folder(name: Name) -> Iterator[pathlib.Path]:
  """A folder on a disk to write to. If it belongs in a bucket its files are
  copied there in the end, and the disk needs room for them until then."""
  if not remote(name):
    yield pathlib.Path(name)
    return
  with tempfile.TemporaryDirectory() as made:
    yield pathlib.Path(made)
    for file in sorted(pathlib.Path(made).rglob("*")):
      if file.is_file():
        target = path(name) / file.relative_to(made).as_posix()
        with open(file, "rb") as read, whole(target) as copy:
          shutil.copyfileobj(read, copy)
