"""Checkpoints: one atomic orbax step of parameters, optimizer and meta.

    <workdir>/checkpoints/<step>/params      parameters alone
                                /opt_state   optimizer state and step
                                /meta        JSON, see `Checkpointer.save`

A step that is being written has another name until it is whole.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from refine_jax import files, sharding
from refine_jax.batch import Params
from refine_jax.training.state import (
  TrainState,
  check_like,
  name_of,
  named_leaves,
)

FOLDER = "checkpoints"
_PARAMS, _OPT, _META = "params", "opt_state", "meta"
_COMMITTED = "commit_success.txt"
_NONE = -1  # no step


@dataclasses.dataclass(frozen=True)
class Goal:
  """The validation metric that says which parameters are best.

  Attributes:
    metric: its name among an evaluation's metrics.
    mode: `min` or `max`.
  """

  metric: str = "loss"
  mode: str = "min"

  def __post_init__(self):
    if self.mode not in ("min", "max"):
      raise ValueError(f"mode is 'min' or 'max', got {self.mode!r}")

  def better(self, value: float, than: float | None) -> bool:
    """Strictly better; nan is never, and anything is better than None."""
    if math.isnan(value):
      return False
    if than is None:
      return True
    return value < than if self.mode == "min" else value > than

  def value(self, metrics: Mapping[str, float]) -> float:
    """The metric.

    Raises:
      KeyError: it is not there; tells what is.
    """
    if self.metric not in metrics:
      raise KeyError(
        f"there is no validation metric {self.metric!r}; there are"
        f" {sorted(metrics)}"
      )
    return metrics[self.metric]


class _Keep:
  """Orbax's question, answered: the last few and the best one stay.

  `metrics` holds each step's. Orbax's own copy of them would not outlive the
  process.
  """

  def __init__(self, last: int, goal: Goal, metrics: dict):
    self._last, self._goal, self.metrics = last, goal, metrics

  def should_preserve(self, checkpoints: Sequence[Any], *, context) -> list:
    del context
    steps = [c.step for c in checkpoints]
    best = _best({s: self.metrics.get(s, {}) for s in steps}, self._goal)
    return [s in steps[-self._last :] or s == best for s in steps]


def _best(metrics: Mapping[int, Mapping[str, float]], goal: Goal) -> int | None:
  """The step with the best metric, the first of equals."""
  best = value = None
  for step in sorted(metrics):
    candidate = metrics[step].get(goal.metric)
    if candidate is not None and goal.better(candidate, value):
      best, value = step, candidate
  return best


class Checkpointer:
  """Writes a run's checkpoints in the background and restores its last.

  Args:
    workdir: the run's folder.
    keep: how many of the last checkpoints stay.
    goal: the best checkpoint by it stays as well.
  """

  def __init__(
    self,
    workdir: str | pathlib.Path,
    *,
    keep: int = 2,
    goal: Goal = Goal(),
  ):
    if keep < 1:
      raise ValueError(f"keep at least one checkpoint, got keep={keep}")
    self.goal = goal
    self._folder = epath.Path(files.absolute(workdir)) / FOLDER
    metrics = {step: m["metrics"] for step, m in _metas(self._folder).items()}
    self._keep = _Keep(keep, goal, metrics)
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=self._keep,
        cleanup_tmp_directories=True,
        save_root_metadata=False,
      ),
    )

  def save(
    self,
    state: TrainState,
    meta: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Copies the state and returns; writing goes on while training does.

    Args:
      state: the state; nothing is done if its step has a checkpoint.
      meta: JSON: whatever the next stage needs to know (model description,
        tokenizer, configuration, data position).
      metrics: validation metrics of these parameters.
    """
    step = int(state.step)
    if step in _steps(self._folder):
      return
    metrics = {k: float(v) for k, v in (metrics or {}).items()}
    self._keep.metrics[step] = metrics
    goal = dataclasses.asdict(self.goal)
    meta = {**(meta or {}), "step": step, "metrics": metrics, "goal": goal}
    optimizer = {"step": state.step, "leaves": _flat(state.opt_state)}
    self._manager.save(
      step,
      args=ocp.args.Composite(
        **{
          _PARAMS: ocp.args.StandardSave(state.params),
          _OPT: ocp.args.StandardSave(optimizer),
          _META: ocp.args.JsonSave(meta),
        }
      ),
    )

  def restore(self, state: TrainState) -> tuple[TrainState, dict] | None:
    """The last checkpoint and its meta; None if there is none.

    Args:
      state: arrays or ShapeDtypeStructs; gives shapes and shardings.

    Raises:
      ValueError: the checkpoint is of other shapes; names the parameter.
    """
    step = _first_says((_steps(self._folder) or [_NONE])[-1])
    if step == _NONE:
      return None
    folder = self._folder / str(step)
    params = _restore(folder / _PARAMS, state.params)
    optimizer = {"step": state.step, "leaves": _flat(state.opt_state)}
    optimizer = _restore(folder / _OPT, optimizer)
    leaves = [
      optimizer["leaves"][name_of(path)]
      for path, _ in jax.tree.leaves_with_path(state.opt_state)
    ]
    opt_state = jax.tree.unflatten(jax.tree.structure(state.opt_state), leaves)
    return TrainState(optimizer["step"], params, opt_state), _meta(folder)

  def wait(self) -> None:
    """Returns when everything saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits and lets go of threads."""
    self.wait()
    self._manager.close()

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, *_) -> None:
    self.close()


def load_params(
  path: str | pathlib.Path,
  like: Any = None,
  *,
  mesh: Any = None,
  select: str | int = "best",
) -> Params:
  """Parameters alone, onto any mesh.

  Args:
    path: a run's folder, its `checkpoints` folder, or one step's.
    like: ShapeDtypeStructs with shardings, as `state.abstract_params` makes;
      a dtype differing from the stored one is cast to.
    mesh: without `like`, whole on every device of this mesh; without either,
      on one device.
    select: `best` (by the run's goal; the last where nothing was evaluated),
      `last`, or a step.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    ValueError: shapes differ; names the parameters and both shapes.
  """
  folder = find(path, select)
  return _restore(epath.Path(folder) / _PARAMS, like, mesh)


def read_meta(
  path: str | pathlib.Path, *, select: str | int = "best"
) -> dict[str, Any]:
  """What `Checkpointer.save` was told, with `step`, `metrics` and `goal`."""
  return _meta(epath.Path(find(path, select)))


def find(path: str | pathlib.Path, select: str | int = "best") -> str:
  """The folder of one checkpoint; see `load_params`."""
  path = epath.Path(files.absolute(path))
  if not path.is_dir():
    raise FileNotFoundError(f"no checkpoint: {path} is not a folder")
  if _whole(path):
    return str(path)
  root = path / FOLDER if (path / FOLDER).is_dir() else path
  steps = _steps(root)
  if not steps:
    raise FileNotFoundError(f"no checkpoint: {root} holds no whole step")
  if select == "last":
    return str(root / str(steps[-1]))
  if select == "best":
    metas = _metas(root)
    goal = Goal(**metas[steps[-1]]["goal"])
    metrics = {step: meta["metrics"] for step, meta in metas.items()}
    best = _best(metrics, goal)
    return str(root / str(steps[-1] if best is None else best))
  if select not in steps:
    raise FileNotFoundError(
      f"no checkpoint {select!r} at {root}: there are steps {steps}, and"
      " 'best' and 'last'"
    )
  return str(root / str(select))


def _steps(root: epath.Path) -> list[int]:
  """Steps that are whole, in order."""
  if not root.is_dir():
    return []
  folders = [f for f in root.iterdir() if f.name.isdigit() and _whole(f)]
  return sorted(int(f.name) for f in folders)


def _first_says(step: int) -> int:
  """All processes go on from what the first one sees on the disk."""
  if jax.process_count() == 1:
    return step
  return int(multihost_utils.broadcast_one_to_all(np.int32(step)))


def _whole(folder: epath.Path) -> bool:
  # Also false for a folder whose deletion was interrupted.
  parts = [(_PARAMS, "_METADATA"), (_OPT, "_METADATA"), (_META, "metadata")]
  if files.remote(folder):
    # Nothing can be renamed there: orbax writes this mark last.
    parts.append((_COMMITTED,))
  return all(folder.joinpath(*names).exists() for names in parts)


def _meta(folder: epath.Path) -> dict[str, Any]:
  return json.loads((folder / _META / "metadata").read_text())


def _metas(root: epath.Path) -> dict[int, dict[str, Any]]:
  return {step: _meta(root / str(step)) for step in _steps(root)}


def _flat(tree: Any) -> dict[str, Any]:
  """Name -> leaf, so that optimizer classes are no part of the format."""
  return named_leaves(tree)


def _restore(folder: epath.Path, like: Any, mesh: Any = None) -> Any:
  more = _apart(like, mesh)
  handler = ocp.StandardCheckpointHandler(**more)
  with ocp.Checkpointer(handler, **more) as checkpointer:
    stored = checkpointer.metadata(folder).item_metadata.tree
    if like is None:
      where = _default_sharding(mesh)
      like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        stored,
      )
    else:
      check_like(stored, like, f"{folder}: the stored arrays")
    abstract = jax.tree.map(_abstract, like)
    return checkpointer.restore(folder, args=ocp.args.StandardRestore(abstract))


def _apart(like: Any, mesh: Any) -> dict[str, Any]:
  """Arguments for reading onto this process's own devices.

  Others may read something else, or nothing: they are not waited for.
  """
  if jax.process_count() == 1:
    return {}
  where = [x.sharding for x in jax.tree.leaves(like)]
  where = where or [_default_sharding(mesh)]
  if not all(x.is_fully_addressable for x in where):
    return {}
  here = jax.process_index()
  options = ocp.options.MultiprocessingOptions(
    primary_host=here,
    active_processes={here},
    barrier_sync_key_prefix=f"process{here}",
  )
  return {"multiprocessing_options": options}


def _default_sharding(mesh: Any):
  if mesh is not None:
    return sharding.replicated(mesh)
  return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
