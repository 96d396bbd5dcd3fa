"""What the sampling stages share: completions, checked while others decode."""

import pathlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ml_collections import ConfigDict

from refine_jax import files, records
from refine_jax.methods import self_training
from refine_jax.methods.refine import Template
from refine_jax.sampling.settings import Sampling
from refine_jax.stages import build, dealt, distributed
from refine_jax.tasks.base import Task
from refine_jax.training import checkpoint


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
) -> None:
  """Writes `n` checked samples of every problem.

  A problem that the file has is skipped, and each sample's randomness is its
  problem's id and its number, so a run that is killed and started again
  writes what it would have written, by however many processes. Chunks are
  dealt to them; each appends to a shard of its own, and in the end the first
  makes one file of all. A chunk is checked while the next one is sampled.

  Args:
    path: of all processes' records.
    load: gives the model; not called if there is nothing to sample.
    engine_config, task, template: who answers what, and who checks.
    problems: all processes' problems.
    n, sampling: completions of each, and how.
    chunk: problems that are sampled together.
    suffix: as in `self_training.checked`.
  """
  ids = [p.id + suffix for p in problems]
  distributed.by_first(lambda: _gather(path, ids))
  done = {row.id for row in records.read(records.Attempts, path)}
  left = [p for p, name in zip(problems, ids, strict=True) if name not in done]
  if parts := list(dealt.Chunks(left, chunk)):
    model = load()
    engine = build.engine(model, engine_config, sampling.max_tokens, told=True)
    propose = build.proposer(engine, model.params, sampling)
    with records.Appender(records.Attempts, dealt.own(path)) as appender:
      _append(appender, propose, task, template, parts, n, suffix)
    build.progress(engine.statistics)
  distributed.together(f"{path} is sampled")
  distributed.by_first(lambda: _gather(path, ids))


def _append(appender, propose, task, template, parts, n, suffix) -> None:
  """Samples one part after the other, and checks it meanwhile."""
  with ThreadPoolExecutor(1) as checker:
    waiting: Future | None = None
    for _, part in parts:
      requests = self_training.requests(task, template, part, n)
      groups = propose(requests)
      if waiting:
        appender.append(waiting.result())
      waiting = checker.submit(
        self_training.checked, task, part, groups, suffix
      )
    appender.append(waiting.result())


def _gather(path: files.Path, ids: Sequence[str]) -> str:
  """Makes one file of what this run or an earlier one has left, in the order
  of `ids` behind whatever else is there."""
  records.Appender(records.Attempts, path).close()  # cuts a torn last line
  dealt.gather(records.Attempts, path)
  place = {name: i for i, name in enumerate(ids)}
  rows = list(records.read(records.Attempts, path))
  ordered = sorted(rows, key=lambda row: place.get(row.id, -1))
  if ordered != rows:
    records.write(path, ordered)
  return ""


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
