"""Memory that was freed stays with the process, where glibc can be told."""

import os
import subprocess
import sys

import pytest

from refine_jax.stages import allocator

FAULTS = """
import resource, sys
from refine_jax.stages import allocator
if sys.argv[1] == "keep":
  assert allocator.keep_memory() and allocator.keep_memory()
def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
  before = faults()
  for _ in range(8):
    bytearray(64 << 20)
print(faults() - before)
"""


def glibc():
  try:
    return "glibc" in os.confstr("CS_GNU_LIBC_VERSION")
  except (AttributeError, ValueError):
    return False


def faults(how):
  run = [sys.executable, "-c", FAULTS, how]
  # Settings from outside would blur the difference.
  env = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
  return int(
    subprocess.run(run, env=env, check=True, capture_output=True).stdout
  )


@pytest.mark.skipif(not glibc(), reason="the C library is not glibc")
def test_freed_memory_is_kept():
  # 8 blocks of 64 MiB: anew each time by default, none once they are kept.
  assert faults("default") > 1000
  assert faults("keep") < 100


@pytest.mark.parametrize("what", ["system", "library", "symbol"])
def test_elsewhere_nothing_happens(monkeypatch, what):
  monkeypatch.setattr(allocator, "_done", None)

  def refuse(*_):
    raise AssertionError("the C library was touched")

  monkeypatch.setattr(allocator.ctypes, "CDLL", refuse)
  if what == "system":
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
  elif what == "library":
    monkeypatch.setattr(allocator.os, "confstr", lambda _: None)
  else:
    monkeypatch.setattr(allocator, "_is_glibc", lambda: True)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
  assert allocator.keep_memory() is False
