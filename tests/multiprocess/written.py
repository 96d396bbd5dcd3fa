"""What stages wrote in two folders, file by file as readers see it."""

import itertools
import json
import re

import pytest

SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.jsonl$)")
# Compared otherwise, of a process's own, or with today's commit in it.
ASIDE = re.compile(
  r"checkpoints/|tensorboard/|metrics\.jsonl|seed0/"
  r"|drawn-|scored|progress"
  r"|report\.html"
)


def files(folder):
  """Name -> bytes; the lines of shards are put together as records are, and
  paths begin beside the folder."""
  found, beside = {}, str(folder.parent).encode()
  for path in sorted(folder.rglob("*")):
    name = str(path.relative_to(folder))
    if path.is_file() and not ASIDE.match(name):
      whole = SHARD.sub("", name)
      data = path.read_bytes().replace(beside, b"..")
      found.setdefault(whole, []).append(data)
  return {name: _joined(parts) for name, parts in found.items()}


def _joined(parts):
  if len(parts) == 1:
    return parts[0]
  lines = (part.splitlines(keepends=True) for part in parts)
  rows = itertools.zip_longest(*lines, fillvalue=b"")
  return b"".join(itertools.chain.from_iterable(rows))


def assert_same(ours, theirs):
  """The same files; in JSON, numbers may differ by their last digits."""
  a, b = files(ours), files(theirs)
  assert a.keys() == b.keys() and any(ours.iterdir())
  for name in a:
    if a[name] == b[name]:
      continue
    assert ".json" in name, f"{ours / name} differs"
    for one, two in zip(_values(a[name]), _values(b[name]), strict=True):
      _assert_near(one, two, ours / name)


def _values(data):
  """Of a file of JSON, or of JSON lines."""
  try:
    return [json.loads(data)]
  except json.JSONDecodeError:
    return [json.loads(line) for line in data.splitlines()]


def _assert_near(a, b, where):
  if isinstance(a, dict):
    assert a.keys() == b.keys(), where
    a, b = list(a.values()), [b[name] for name in a]
  if isinstance(a, list):
    assert len(a) == len(b), where
    for one, two in zip(a, b, strict=True):
      _assert_near(one, two, where)
  elif isinstance(a, float):
    assert a == pytest.approx(b, rel=1e-4, abs=1e-5), where
  else:
    assert a == b, where
