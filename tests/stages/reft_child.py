"""A ReFT run that dies: `python reft_child.py CONFIG WORKDIR ROUND`.

It kills itself when it comes to make that round, with checkpoints of the
rounds before it possibly on their way to the disk.
"""

import os
import pathlib
import signal
import sys

from refine_jax.stages import launch, on_policy, train_reft


def main(spec, workdir, last):
  make = on_policy.Rounds.make

  def deadly(self, params, number):
    if number == int(last):
      os.kill(os.getpid(), signal.SIGKILL)
    return make(self, params, number)

  on_policy.Rounds.make = deadly
  train_reft.main(settings(spec), pathlib.Path(workdir))


def settings(spec):
  """The smoke run with a checkpoint after every round."""
  config = launch.load_config(spec)
  config.mesh.devices = 1
  config.task.name = "reft_task:Graded"
  config.train_reft.train.update(steps=5, save_every=1, eval_every=3)
  # All that a restart could get wrong: a controller, and an order.
  config.train_reft.ppo.update(minibatch=4, kl_target=0.5, kl_horizon=40.0)
  return config


if __name__ == "__main__":
  main(*sys.argv[1:])
