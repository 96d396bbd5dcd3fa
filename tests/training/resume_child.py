"""A small run that can be told when to die; `python resume_child.py DIR HOW`.

HOW is `finish`, `kill-at-step:N`, `kill-in-save:N:SECONDS` (that long after
the N-th save of this process began) or `term-at-step:N`.
"""

import functools
import os
import pathlib
import signal
import sys
import threading
import time

import jax
import numpy as np
from fakes import FakeConfig, FakeFamily, fake_batch

from refine_jax import sharding
from refine_jax.training.checkpoint import Checkpointer
from refine_jax.training.fit import fit
from refine_jax.training.loss import supervised_loss
from refine_jax.training.metrics import Writer
from refine_jax.training.optim import OptimizerSettings, make_optimizer
from refine_jax.training.state import init_state
from refine_jax.training.step import (
  evaluate,
  make_eval_step,
  make_train_step,
)

STEPS = 40


@functools.cache
def parts():
  """Dropout, momentum and a schedule: all that a restart could get wrong."""
  family = FakeFamily(FakeConfig(dropout=0.1))
  loss_fn = supervised_loss(family)
  optimizer, schedule = make_optimizer(
    OptimizerSettings(schedule="cosine", total_steps=STEPS, warmup_steps=5)
  )
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  state = init_state(family, optimizer, jax.random.key(0), mesh, fake_batch(0))
  where = jax.tree.map(lambda x: x.sharding, state)
  step = make_train_step(loss_fn, optimizer, micro_batches=2)
  state = jax.tree.map(np.array, state)
  place = sharding.of_batch(mesh)
  return state, where, step, make_eval_step(loss_fn), schedule, place


def run(workdir, before_batch=lambda step: None):
  """The run, continued if it was interrupted."""
  state, where, train_step, eval_step, schedule, place = parts()
  state = jax.device_put(jax.tree.map(np.copy, state), where)

  def batches(step):
    before_batch(step)
    return jax.device_put(fake_batch(step), place)

  with (
    Checkpointer(workdir, keep=2) as checkpointer,
    Writer(workdir, tensorboard=False, stream=None) as writer,
  ):
    return fit(
      state,
      train_step,
      batches,
      steps=STEPS,
      rng=jax.random.key(1),
      eval_fn=lambda params: evaluate(
        eval_step, params, [jax.device_put(fake_batch(999), place)]
      ),
      eval_every=10,
      checkpointer=checkpointer,
      save_every=4,
      writer=writer,
      log_every=5,
      schedule=schedule,
    )


def kill_in_save(folder, count, seconds):
  """Watches for unfinished checkpoints and dies in the middle of one."""
  seen = set()
  while True:
    if folder.is_dir():
      names = os.listdir(folder)
      seen |= {n.split(".")[0] for n in names if "tmp" in n}
    if len(seen) >= count:
      time.sleep(seconds)
      os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.0005)


def main(workdir, how):
  kind, *values = how.split(":")
  if kind == "kill-in-save":
    folder = pathlib.Path(workdir) / "checkpoints"
    args = folder, int(values[0]), float(values[1])
    threading.Thread(target=kill_in_save, args=args, daemon=True).start()
  number = {"kill-at-step": signal.SIGKILL, "term-at-step": signal.SIGTERM}

  def before_batch(step):
    if kind in number and step == int(values[0]):
      os.kill(os.getpid(), number[kind])

  run(workdir, before_batch)


if __name__ == "__main__":
  main(*sys.argv[1:])
