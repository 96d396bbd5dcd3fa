"""From metrics on devices to metrics.jsonl, TensorBoard and a terminal."""

import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import TextIO

import jax
import numpy as np

from refine_jax import files
from refine_jax.training.flops import ModelFlops
from refine_jax.training.step import Metrics, means

NAME = "metrics.jsonl"
# Steps that may be under way before the host waits for one.
_AHEAD = 2
# Seconds between two versions of a metrics.jsonl that is an object.
_APART = 30.0


class NonFinite(ArithmeticError):
  """A loss or gradient that is nan or infinite; `step` made it."""

  def __init__(self, step: int, name: str, value: float):
    self.step, self.name, self.value = step, name, value
    super().__init__(
      f"{name} is {value} at step {step}; the checkpoints before it are"
      " untouched"
    )


class Meter:
  """Collects steps' metrics without waiting for them.

  Args:
    flops: counts model FLOPs, if utilisation is wanted.
    peak: FLOP/s of all devices together; without it no utilisation is told.
  """

  def __init__(
    self, *, flops: ModelFlops | None = None, peak: float | None = None
  ):
    self._flops, self._peak = flops, peak
    self._rows: list[tuple[int, Metrics]] = []
    self._seconds = 0.0
    self._since: float | None = None
    self._warm = False
    self._untimed = 0

  def add(self, step: int, metrics: Metrics) -> None:
    """Takes the metrics of one step, still on the device."""
    self._rows.append((step, metrics))
    if not self._warm:  # compilation is nobody's throughput
      jax.block_until_ready(metrics)
      self._warm, self._untimed = True, 1
    elif len(self._rows) > _AHEAD:
      jax.block_until_ready(self._rows[-1 - _AHEAD][1])
    if self._since is None:
      self._since = time.perf_counter()

  def drain(self) -> dict[str, float]:
    """Means and rates since the last time; waits for the devices.

    Raises:
      NonFinite: naming the first step whose loss or gradient is not finite.
    """
    rows = jax.device_get(self._rows)
    self.pause()
    timed, seconds = rows[self._untimed :], self._seconds
    self._rows, self._seconds, self._untimed = [], 0.0, 0
    for step, metrics in rows:
      _check_finite(step, metrics)
    out = means([metrics for _, metrics in rows])
    counts = [m["counts"] for _, m in rows if m.get("counts")]
    if counts:
      total = jax.tree.map(lambda *x: np.sum(x, dtype=np.float64), *counts)
      real = float(total.prompt + total.target)
      out["padding"] = 1 - real / float(total.positions)
    if timed and seconds > 0:
      out |= self._rates([m for _, m in timed], seconds)
    return out

  def check(self) -> None:
    """Looks at the steps since the last `drain`, and keeps them.

    Raises:
      NonFinite: see `drain`.
    """
    for step, metrics in self._rows:
      _check_finite(step, metrics)

  def pause(self) -> None:
    """Waits, and stops the clock until the next `add` (evaluation, saving)."""
    if self._rows:
      jax.block_until_ready(self._rows[-1][1])
    if self._since is not None:
      self._seconds += time.perf_counter() - self._since
      self._since = None

  def _rates(self, metrics: list[Metrics], seconds: float) -> dict[str, float]:
    out = {"steps_per_second": len(metrics) / seconds}
    counts = [m["counts"] for m in metrics if m.get("counts")]
    if not counts:
      return out
    total = jax.tree.map(lambda *x: np.sum(x, dtype=np.float64), *counts)
    out["tokens_per_second"] = float(total.prompt + total.target) / seconds
    out["examples_per_second"] = float(total.examples) / seconds
    if self._flops is not None and self._peak:
      done = self._flops.step(total)
      out["model_flops_utilisation"] = done / seconds / self._peak
    return out


def _check_finite(step: int, metrics: Metrics) -> None:
  for name in ("loss", "grad_norm"):
    if name in metrics and not np.isfinite(metrics[name].total):
      raise NonFinite(step, name, float(metrics[name].total))


class Writer:
  """Rows of numbers for a run's folder and for whoever watches.

  Args:
    workdir: gets `metrics.jsonl` and `tensorboard/`; None writes no files. In
      a bucket there is no `tensorboard/`, and rows arrive by and by; all of
      them with `flush`.
    total: steps of the run, for the progress shown.
    tensorboard: whether to write for it.
    stream: where progress goes; a bar on a terminal, plain lines elsewhere;
      None shows nothing.
  """

  def __init__(
    self,
    workdir: str | pathlib.Path | None,
    *,
    total: int | None = None,
    tensorboard: bool = True,
    stream: TextIO | None = sys.stderr,
  ):
    if jax.process_index() != 0:
      workdir = stream = None
    self._folder = None if workdir is None else files.path(workdir)
    self._remote = workdir is not None and files.remote(workdir)
    self._with_board = tensorboard and not self._remote
    self._board, self._purge, self._file = None, None, None
    self._rows: list[bytes] | None = None
    self._flushed = time.monotonic()
    self._progress = None if stream is None else Progress(total, stream)

  def rewind(self, step: int) -> None:
    """Drops rows after `step`, which a resumed run will write again."""
    self._purge = step + 1
    path = self._folder and self._folder / NAME
    if not path or not path.exists():
      return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
      try:
        if json.loads(line)["step"] <= step and line.endswith(b"\n"):
          kept.append(line)
      except json.JSONDecodeError:
        continue  # torn by a kill
    files.write(path, b"".join(kept))
    self._rows = None

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes a row and shows it."""
    if self._folder is not None:
      self._append(step, values)
      if self._with_board:
        self._to_board(step, values)
    if self._progress is not None:
      self._progress.show(step, values)

  def say(self, text: str) -> None:
    """A line for whoever watches."""
    if self._progress is not None:
      self._progress.say(text)

  def _append(self, step: int, values: Mapping[str, float]) -> None:
    row = {"step": step, "time": round(time.time(), 3), **values}
    line = (json.dumps(row) + "\n").encode()
    if self._remote:
      self._known().append(line)
      if time.monotonic() - self._flushed >= _APART:
        self.flush()
      return
    if self._file is None:
      self._folder.mkdir(parents=True, exist_ok=True)
      self._file = open(self._folder / NAME, "ab")  # noqa: SIM115, see close
    self._file.write(line)
    self._file.flush()

  def _known(self) -> list[bytes]:
    """All rows of an object, which is only ever written as a whole."""
    if self._rows is None:
      path = self._folder / NAME
      data = path.read_bytes() if path.exists() else b""
      self._rows = data.splitlines(keepends=True)
    return self._rows

  def flush(self) -> None:
    """All rows are in the file; to be called before a checkpoint is made,
    from which a resumed run would not write them again."""
    if self._remote and self._rows:
      files.write(self._folder / NAME, b"".join(self._rows))
      self._flushed = time.monotonic()

  def _to_board(self, step: int, values: Mapping[str, float]) -> None:
    if self._board is None:
      # Here, because the import takes longer than many a small run.
      from tensorboardX import SummaryWriter

      folder = str(self._folder / "tensorboard")
      self._board = SummaryWriter(folder, purge_step=self._purge)
    for name, value in values.items():
      self._board.add_scalar(name, value, step)

  def close(self) -> None:
    self.flush()
    if self._file is not None:
      self._file.close()
      self._file = None
    if self._board is not None:
      self._board.close()
      self._board = None
    if self._progress is not None:
      self._progress.close()

  def __enter__(self) -> "Writer":
    return self

  def __exit__(self, *_) -> None:
    self.close()


class Progress:
  """A bar on a terminal, plain lines elsewhere."""

  def __init__(self, total: int | None, stream: TextIO):
    self._total, self._stream = total, stream
    self._terminal = stream.isatty()
    self._open = False

  def show(self, step: int, values: Mapping[str, float]) -> None:
    """Shows a row; on a terminal in place of the one before."""
    text = "  ".join(f"{k} {_short(v)}" for k, v in values.items())
    of = f"/{self._total}" if self._total else ""
    if not self._terminal:
      self.say(f"step {step}{of}  {text}")
      return
    bar = ""
    if self._total:
      done = min(20 * step // self._total, 20)
      bar = f"[{'#' * done}{'.' * (20 - done)}] "
    line = f"{bar}{step}{of}  {text}"
    width = _columns()
    self._stream.write("\r" + line[: width - 1].ljust(width - 1))
    self._stream.flush()
    self._open = True

  def say(self, text: str) -> None:
    """A line of its own."""
    self.close()
    self._stream.write(text + "\n")
    self._stream.flush()

  def close(self) -> None:
    if self._open:
      self._stream.write("\n")
      self._open = False


def _columns() -> int:
  try:
    return os.get_terminal_size(sys.stderr.fileno()).columns
  except (OSError, ValueError, AttributeError):
    return 80


def _short(value: float) -> str:
  return f"{value:.4g}"
