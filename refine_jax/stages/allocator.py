"""Tells the C library to keep the memory that a step gives back.

XLA on CPU allocates its buffers with malloc at every step. glibc returns large
ones to the system when they are freed, and the page faults of getting them
again rule everything elementwise (docs/performance.md has the figures).
"""

import contextlib
import ctypes
import os
import sys

# mallopt's parameters, from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_SETTINGS = {
  _MMAP_MAX: 0,  # large blocks come from the heap: the one that matters
  _TRIM_THRESHOLD: -1,  # and the heap never shrinks
  _TOP_PAD: 64 << 20,  # it grows in steps of this many bytes
  _ARENA_MAX: 1,  # one heap, or each of XLA's threads keeps its own
}

_done: bool | None = None


def keep_memory() -> bool:
  """Sets up glibc's allocator; call it before JAX allocates anything.

  Does nothing with another C library or on another system, nor when called
  again.

  Returns:
    whether the allocator keeps memory now.
  """
  global _done
  if _done is None:
    _done = _is_glibc() and _set()
  return _done


def _is_glibc() -> bool:
  if not sys.platform.startswith("linux"):
    return False
  with contextlib.suppress(AttributeError, ValueError, OSError):
    return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
  return False


def _set() -> bool:
  with contextlib.suppress(AttributeError, OSError):
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = [ctypes.c_int] * 2, ctypes.c_int
    taken = [mallopt(name, value) for name, value in _SETTINGS.items()]
    return all(taken)
  return False
