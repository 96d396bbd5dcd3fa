"""The choice between runs: by the goal, not by the last figure."""

import jax.numpy as jnp
import pytest

from refine_jax.stages import choose_best
from refine_jax.training import optim, state
from refine_jax.training.checkpoint import Checkpointer, Goal


def _run(folder, values, goal):
  optimizer, _ = optim.make_optimizer(optim.OptimizerSettings())
  made = state.state_of({"w": jnp.zeros(2)}, optimizer)
  with Checkpointer(folder, keep=5, goal=goal) as checkpointer:
    for step, value in enumerate(values, 1):
      made = made.replace(step=jnp.int32(step))
      metrics = None if value is None else {goal.metric: value}
      checkpointer.save(made, {}, metrics)
  return str(folder)


def test_the_best_figure_counts_not_the_last(tmp_path, capsys):
  goal = Goal("exact", "max")
  a = _run(tmp_path / "a", [10.0, 40.0, 20.0], goal)
  b = _run(tmp_path / "b", [30.0, 30.0, 30.0], goal)
  assert choose_best.main([a, b]) == 0
  out = capsys.readouterr()
  assert out.out.strip() == a
  assert "a: 40.00" in out.err and "b: 30.00" in out.err


def test_least_where_less_is_better(tmp_path):
  goal = Goal("loss", "min")
  runs = [_run(tmp_path / n, [v], goal) for n, v in (("a", 2.0), ("b", 1.0))]
  assert choose_best.best_of(runs) == (1, [2.0, 1.0])


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
  a = _run(tmp_path / "a", [1.0], Goal("exact", "max"))
  b = _run(tmp_path / "b", [1.0], Goal("loss", "min"))
  c = _run(tmp_path / "c", [None], Goal("exact", "max"))
  with pytest.raises(ValueError, match="different goals"):
    choose_best.best_of([a, b])
  with pytest.raises(ValueError, match="was ever taken"):
    choose_best.best_of([c])
  assert choose_best.main([str(tmp_path / "no")]) == 1
  assert "no" in capsys.readouterr().err
