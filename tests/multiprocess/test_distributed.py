"""How a process leaves, and what one of them says to all."""

import os

import jax
import pytest

from refine_jax import config
from refine_jax.stages import build, distributed
from refine_jax.stages.reading import BadConfig
from refine_jax.training.hooks import Preempted


class Left(BaseException):
  """In place of the end of this process."""


def test_one_process_fails_as_ever():
  with pytest.raises(ValueError, match="x"), distributed.leaving():
    raise ValueError("x")


@pytest.mark.parametrize(
  ("error", "code", "said"),
  [
    (SystemExit("error: no such file"), 1, "error: no such file"),
    (SystemExit(143), 143, ""),
    (ValueError("x"), 1, "error: process 1 of 2 failed"),
    (
      jax.errors.JaxRuntimeError("Gloo: closed by peer\nand more"),
      1,
      "error: process 1 of 2 stops: another one is gone, or a device failed"
      " (Gloo: closed by peer). The same command resumes.",
    ),
  ],
)
def test_one_of_several_ends_at_once(error, code, said, monkeypatch, capsys):
  def leave(code):
    raise Left(code)

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  monkeypatch.setattr(os, "_exit", leave)
  with pytest.raises(Left) as left, distributed.leaving():
    raise error
  assert left.value.args == (code,)
  assert said in capsys.readouterr().err


def test_those_that_saved_together_leave_together(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(Preempted), distributed.leaving():
    raise Preempted(3)


def test_no_process_is_left_without_a_device(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(BadConfig, match="devices=1 leaves process 1 without any"):
    build.mesh(config.mesh(devices=1))


def test_a_variable_that_is_no_number_is_named(monkeypatch):
  monkeypatch.setenv(distributed.COORDINATOR, "127.0.0.1:1")
  monkeypatch.setenv(distributed.PROCESSES, "two")
  with pytest.raises(distributed.BadEnvironment, match="PROCESSES is a number"):
    distributed.join()


def test_alone_there_is_nothing_to_agree_on():
  def critic(trajectories):
    return trajectories

  assert distributed.agreed(critic) is critic
  assert distributed.gathered((1, "a")) == [(1, "a")]
  assert distributed.spoken({"a": 1.5}) == {"a": 1.5}
  assert distributed.alone(lambda config, workdir: "said")(None, None) == "said"
