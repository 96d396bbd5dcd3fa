"""What is kept, what is found, and what is said when it does not fit."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import FakeConfig, FakeFamily, fake_batch

from refine_jax import files, sharding
from refine_jax.training.checkpoint import (
  Checkpointer,
  Goal,
  find,
  load_params,
  read_meta,
)
from refine_jax.training.optim import OptimizerSettings, make_optimizer
from refine_jax.training.state import (
  abstract_params,
  abstract_state,
  init_state,
  named_leaves,
)

OPTIMIZER, _ = make_optimizer(OptimizerSettings(weight_decay=0.1))
FAMILY = FakeFamily()


def mesh(**sizes):
  devices = jax.devices()[: int(np.prod(list(sizes.values())))]
  return sharding.make_mesh(**sizes, devices=devices)


@pytest.fixture(scope="module")
def state():
  """On 4 devices, every array with values of its own."""
  state = init_state(
    FAMILY, OPTIMIZER, jax.random.key(0), mesh(fsdp=2, tensor=2), fake_batch(0)
  )
  fill = jax.jit(lambda x, n: x + jnp.asarray(n, x.dtype))
  opt_leaves, treedef = jax.tree.flatten(state.opt_state)
  opt_leaves = [fill(x, n) for n, x in enumerate(opt_leaves)]
  return state.replace(opt_state=jax.tree.unflatten(treedef, opt_leaves))


def at(state, step):
  return state.replace(step=jnp.full_like(state.step, step))


@pytest.fixture(scope="module")
def run(state, tmp_path_factory):
  """Six checkpoints, of which the last two and the best are kept."""
  workdir = tmp_path_factory.mktemp("run")
  goal = Goal("accuracy", "max")
  values = [0.1, 0.7, 0.5, 0.7, None, 0.2]
  with Checkpointer(workdir, keep=2, goal=goal) as checkpointer:
    for step, value in enumerate(values, 1):
      metrics = None if value is None else {"accuracy": value}
      checkpointer.save(at(state, step), {"model": {"width": 8}}, metrics)
  return workdir


def assert_same(got, want):
  got, want = named_leaves(got), named_leaves(want)
  assert got.keys() == want.keys()
  for name in want:
    assert got[name].dtype == want[name].dtype
    np.testing.assert_array_equal(got[name], want[name], name)


def test_last_and_best_are_kept(run):
  kept = {f.name for f in (run / "checkpoints").iterdir()}
  assert kept == {"2", "5", "6"}
  assert find(run) == str(run / "checkpoints" / "2")
  assert find(run, "last").endswith("/6")
  assert find(run / "checkpoints", 5).endswith("/5")
  assert find(run / "checkpoints" / "5").endswith("/5")
  meta = read_meta(run)
  assert meta == {
    "model": {"width": 8},
    "step": 2,
    "metrics": {"accuracy": 0.7},
    "goal": {"metric": "accuracy", "mode": "max"},
  }


def test_restore_gives_everything_back(run, state):
  with Checkpointer(run, goal=Goal("accuracy", "max")) as checkpointer:
    other = init_state(
      FAMILY,
      OPTIMIZER,
      jax.random.key(7),
      mesh(data=2, fsdp=4),
      fake_batch(0),
    )
    where = jax.tree.map(lambda x: x.sharding, other)
    restored, meta = checkpointer.restore(other)
    assert_same(restored, at(state, 6))
    assert jax.tree.map(lambda x: x.sharding, restored) == where
    assert meta["step"] == 6
    shapes = abstract_state(other.params, OPTIMIZER)
    assert_same(checkpointer.restore(shapes)[0], at(state, 6))


def test_parameters_alone_on_any_mesh(run, state):
  for sizes in ({"data": 2, "fsdp": 2, "tensor": 2}, {"tensor": 8}):
    like = abstract_params(FAMILY, fake_batch(0), mesh(**sizes))
    got = load_params(run, like)
    assert_same(got, state.params)
    jax.tree.map(
      lambda a, b: np.testing.assert_(a.sharding == b.sharding), got, like
    )
  whole = load_params(run, mesh=mesh(data=8))
  assert_same(whole, state.params)
  assert all(len(x.devices()) == 8 for x in jax.tree.leaves(whole))
  half = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding),
    like,
  )
  want = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.params)
  assert_same(load_params(run, half), want)


def test_another_shape_is_named(run, state):
  family = FakeFamily(FakeConfig(width=10))
  like = abstract_params(family, fake_batch(0), mesh(data=1))
  message = r"layers/up: shape \(2, 8, 16\), the model has \(2, 10, 20\)"
  with pytest.raises(ValueError, match=message):
    load_params(run, like)
  del like["layers"]["up"]
  like["head"] = like["table"]
  with pytest.raises(ValueError, match="layers/up: not in the model"):
    load_params(run, like)
  with pytest.raises(ValueError, match="head: missing"):
    load_params(run, like)
  wide = init_state(
    family, OPTIMIZER, jax.random.key(0), mesh(data=1), fake_batch(0)
  )
  with (
    Checkpointer(run) as checkpointer,
    pytest.raises(ValueError, match=message),
  ):
    checkpointer.restore(wide)


def test_what_is_not_there_is_said(run, tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
    load_params(tmp_path / "nowhere")
  with pytest.raises(FileNotFoundError, match="holds no whole step"):
    read_meta(tmp_path)
  with pytest.raises(FileNotFoundError, match=r"there are steps \[2, 5, 6\]"):
    find(run, 3)


def test_a_half_deleted_step_does_not_count(run, state, tmp_path):
  workdir = tmp_path / "copy"
  shutil.copytree(run, workdir)
  folder = workdir / "checkpoints"
  (folder / "6" / "params" / "_METADATA").unlink()
  (folder / "2" / "meta" / "metadata").unlink()
  assert find(workdir, "last").endswith("/5")
  assert find(workdir, "best").endswith("/5")
  with Checkpointer(workdir, goal=Goal("accuracy", "max")) as checkpointer:
    assert checkpointer.restore(state)[1]["step"] == 5
    checkpointer.save(at(state, 7), None, {"accuracy": 0.9})
    checkpointer.wait()
    assert checkpointer.restore(state)[1]["step"] == 7


def test_the_best_survives_a_restart(run, state, tmp_path):
  workdir = tmp_path / "copy"
  shutil.copytree(run, workdir)
  for step, value in [(7, 0.7), (8, 0.6)]:
    with Checkpointer(workdir, goal=Goal("accuracy", "max")) as checkpointer:
      checkpointer.save(at(state, step), None, {"accuracy": value})
  kept = {f.name for f in (workdir / "checkpoints").iterdir()}
  assert kept == {"2", "7", "8"}


def test_in_a_bucket(state, bucket, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  workdir, goal = f"{bucket}/run", Goal("accuracy", "max")
  root = files.path(workdir) / "checkpoints"
  with Checkpointer(workdir, keep=1, goal=goal) as checkpointer:
    for step, value in ((1, 0.1), (2, 0.7), (3, 0.5)):
      checkpointer.save(at(state, step), None, {"accuracy": value})
      checkpointer.wait()
  assert {f.name for f in root.iterdir() if f.is_dir()} == {"2", "3"}
  assert find(workdir) == f"{root}/2"
  with Checkpointer(workdir, keep=1, goal=goal) as checkpointer:
    restored, meta = checkpointer.restore(state)
  assert meta["step"] == 3
  assert_same(restored, at(state, 3))
  assert_same(load_params(workdir, mesh=mesh(data=2)), state.params)
  # What was not finished has no mark.
  (root / "3" / "commit_success.txt").unlink()
  assert find(workdir, "last") == f"{root}/2"
  assert not list(tmp_path.iterdir())


def test_nothing_to_restore(tmp_path, state):
  with Checkpointer(tmp_path) as checkpointer:
    assert checkpointer.restore(state) is None
  with pytest.raises(ValueError, match="keep=0"):
    Checkpointer(tmp_path, keep=0)


def test_goals():
  assert Goal("x", "max").better(2, 1) and not Goal("x").better(2, 1)
  assert not Goal("x").better(1, 1)
  assert Goal("x").better(1, None)
  assert not Goal("x").better(float("nan"), None)
  with pytest.raises(ValueError, match="'smallest'"):
    Goal("x", "smallest")
