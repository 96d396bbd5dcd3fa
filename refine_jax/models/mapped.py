"""Safetensors files as arrays that lie on the disk, and copying out of them.

A tensor is a view of a mapped file: nothing is read before it is copied, and
what is copied goes from the kernel's cache straight to where it belongs,
converted and transposed on the way. So a reader holds no tensor of the file,
however many threads read; NumPy lets them run side by side.
"""

import concurrent.futures
import json
import math
import mmap
import pathlib
from collections.abc import Iterable

import ml_dtypes
import numpy as np

READERS = 8  # threads; of a slow disk or a network, requests under way
_PIECE = 4 << 20  # bytes that one of them copies at a time
_HEADER = 8  # bytes that hold the header's length

_DTYPES = {
  **{"BOOL": bool, "U8": np.uint8, "I8": np.int8, "I16": np.int16},
  **{"I32": np.int32, "I64": np.int64},
  **{"F16": np.float16, "F32": np.float32, "F64": np.float64},
  "BF16": ml_dtypes.bfloat16,
  "F8_E4M3": ml_dtypes.float8_e4m3fn,
  "F8_E5M2": ml_dtypes.float8_e5m2,
}

Pair = tuple[np.ndarray, np.ndarray]


class BadFile(ValueError):
  """No safetensors file; names it and what is wrong with it."""


def tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Name -> a read-only view of the file.

  Raises:
    BadFile: it is cut short, or its header says what cannot be.
  """
  with open(path, "rb") as file:
    try:
      mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # an empty one
      raise BadFile(f"{path}: {error}") from None
  start = _HEADER + int.from_bytes(mapped[:_HEADER], "little")
  if len(mapped) < start:
    raise BadFile(f"{path}: cut short within its header")
  try:
    header = json.loads(mapped[_HEADER:start])
    header.pop("__metadata__", None)
    return {
      name: _view(mapped, start, **entry) for name, entry in header.items()
    }
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise BadFile(
      f"{path}: not a safetensors header, or the file is cut short"
      f" ({type(error).__name__}: {error})"
    ) from None


def _view(mapped, start, *, dtype, shape, data_offsets) -> np.ndarray:
  first, stop = data_offsets
  kind = np.dtype(_DTYPES[dtype])
  if min(shape, default=0) < 0 or first < 0:
    raise ValueError(f"shape {shape} at {data_offsets}")
  if math.prod(shape) * kind.itemsize != stop - first:
    raise ValueError(f"shape {shape} of {dtype} at {data_offsets}")
  return np.ndarray(tuple(shape), kind, mapped, start + first)


def readers() -> concurrent.futures.ThreadPoolExecutor:
  """For `copy`; a context manager."""
  return concurrent.futures.ThreadPoolExecutor(READERS, "reader")


def copy(
  pairs: Iterable[Pair], pool: concurrent.futures.ThreadPoolExecutor
) -> None:
  """Fills every target from its view; all of them when it returns.

  Args:
    pairs: (target, view of a file) of one shape.
  """
  pieces = [piece for pair in pairs for piece in _pieces(*pair)]
  for done in [pool.submit(_copy, *piece) for piece in pieces]:
    done.result()


def _pieces(target: np.ndarray, source: np.ndarray) -> list[Pair]:
  """Cut along the rows of the file: what a thread reads lies together."""
  if not source.size or not source.ndim:
    return [(target, source)]
  strides = np.where(np.array(source.shape) > 1, source.strides, 0)
  axis = int(np.argmax(strides))
  step = max(1, _PIECE // max(1, int(strides[axis])))
  cuts = [
    (*(slice(None),) * axis, slice(i, i + step))
    for i in range(0, source.shape[axis], step)
  ]
  return [(target[cut], source[cut]) for cut in cuts]


def _copy(target: np.ndarray, source: np.ndarray) -> None:
  np.copyto(target, source, casting="unsafe")
