"""Memory that was freed stays with the process, where glibc can be told."""

import os
import subprocess
import sys

import pytest

from refine_jax.stages import allocator

FAULTS = """
import resource, sys
if sys.argv[1] == "keep":
  from refine_jax.stages import allocator
  assert allocator.keep_memory() and allocator.keep_memory()
def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
  before = faults()
  for _ in range(8):
    bytearray(64 << 20)
print(faults() - before)
"""

# A stage as `python -m` starts it: JAX's threads and XLA's buffers.
STAGE = """
import resource, sys
sys.argv = sys.argv[1:]
import refine_jax.stages.train_generator
import jax, jax.numpy as jnp
def turned(x):
  return jnp.roll(jax.lax.optimization_barrier(x * 2), 5, axis=0)
step = jax.jit(lambda x: turned(turned(turned(x))).sum())
x = jnp.ones((80 << 10, 256))
def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):  # the heap grows for the first few
  before = faults()
  for _ in range(8):
    step(x).block_until_ready()
print(faults() - before)
"""


def glibc():
  try:
    return "glibc" in os.confstr("CS_GNU_LIBC_VERSION")
  except (AttributeError, ValueError):
    return False


def faults(how, program=FAULTS):
  run = [sys.executable, "-c", program, how]
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


@pytest.mark.skipif(not glibc(), reason="the C library is not glibc")
def test_a_stage_keeps_what_its_steps_give_back():
  # 8 steps with temporaries of 160 MiB, 40,960 pages of them each.
  assert faults("-m", STAGE) < 10_000
  # Whoever imports a stage is left alone.
  assert faults("own.py", STAGE) > 40_000


def test_python_calls_a_module_so_while_it_looks_for_it(tmp_path):
  """What `refine_jax.stages` goes by."""
  package = tmp_path / "looked_for"
  package.mkdir()
  (package / "__init__.py").write_text("import sys; print(sys.argv)")
  (package / "stage.py").write_text("")
  run = [sys.executable, "-m", "looked_for.stage", "--flag"]
  said = subprocess.run(run, cwd=tmp_path, check=True, capture_output=True)
  assert said.stdout.decode() == "['-m', '--flag']\n"


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
