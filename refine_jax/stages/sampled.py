"""What the sampling stages share: completions, checked while others decode."""

import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
from ml_collections import ConfigDict

from refine_jax import files, records
from refine_jax.methods import self_training
from refine_jax.methods.refine import Template
from refine_jax.sampling.settings import Sampling
from refine_jax.stages import build
from refine_jax.stages.reading import BadConfig
from refine_jax.tasks.base import Task
from refine_jax.training import checkpoint


def share(
  problems: Sequence[records.Problem], index: int, count: int
) -> list[records.Problem]:
  """The problems of process `index` of `count`: dealt round robin."""
  return list(problems[index::count])


def collect(
  path: pathlib.Path,
  load: Callable[[], build.Model],
  engine_config: ConfigDict,
  task: Task,
  template: Template,
  problems: Sequence[records.Problem],
  *,
  n: int,
  sampling: Sampling,
  chunk: int,
  suffix: str = "",
) -> pathlib.Path:
  """Appends `n` checked samples of every problem to this process's shard.

  A problem that the file has is skipped, and each sample's randomness is its
  problem's id and its number, so a run that is killed and started again
  writes what it would have written. A chunk is checked while the next one is
  sampled.

  Args:
    path: the unsharded name.
    load: gives the model; not called if there is nothing to sample.
    engine_config, task, template: who answers what, and who checks.
    problems: all processes' problems.
    n, sampling: completions of each, and how.
    chunk: problems that are sampled together.
    suffix: as in `self_training.checked`.

  Returns:
    the shard's path.
  """
  process = jax.process_index(), jax.process_count()
  shard = records.shard(path, *process)
  with (
    records.Appender(records.Attempts, shard) as appender,
    ThreadPoolExecutor(1) as checker,
  ):
    left = [
      p for p in share(problems, *process) if p.id + suffix not in appender.done
    ]
    if not left:
      return shard
    model = load()
    engine = build.engine(model, engine_config, sampling.max_tokens, told=True)
    waiting: Future | None = None
    for part in _parts(left, chunk):
      requests = self_training.requests(task, template, part, n)
      groups = engine.generate(model.params, requests, sampling)
      if waiting:
        appender.append(waiting.result())
      waiting = checker.submit(
        self_training.checked, task, part, groups, suffix
      )
    appender.append(waiting.result())
    build.progress(engine.statistics)
  return shard


def _parts(problems: Sequence, size: int) -> Iterator[Sequence]:
  if size < 1:
    raise BadConfig(f"chunk must be positive, got {size}")
  for start in range(0, len(problems), size):
    yield problems[start : start + size]


def checkpoints(path: pathlib.Path, select: str) -> dict[str, pathlib.Path]:
  """Suffix of ids -> folder of the checkpoints that `select` means.

  Args:
    path: a run's folder, or a Hugging Face folder (which is all there is).
    select: best, last, all, or a step's number.
  """
  if select != "all" and not (path / checkpoint.FOLDER).is_dir():
    return {"": path}
  if select != "all":
    which = int(select) if select.isdigit() else select
    return {"": files.path(checkpoint.find(path, which))}
  root = path / checkpoint.FOLDER
  steps = sorted(int(f.name) for f in root.glob("*") if f.name.isdigit())
  if not steps:
    raise FileNotFoundError(f"no checkpoint: {root} holds no step")
  return {f"@{step}": root / str(step) for step in steps}


def read(paths: Sequence[str], workdir: pathlib.Path) -> list[records.Attempts]:
  """All records of several files, in order."""
  return [
    row
    for path in paths
    for row in records.read(records.Attempts, build.resolve(path, workdir))
  ]
