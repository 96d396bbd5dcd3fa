"""Word problems that even an untrained model gets some of."""

import time

from refine_jax.tasks.arithmetic import Arithmetic


class Graded(Arithmetic):
  def reward(self, problem, completion):
    return len(completion.split()) % 3 / 3

  def check(self, problem, completion):
    return self.reward(problem, completion) > 0.5


class Slow(Graded):
  """A run that is validated after every update takes its time."""

  def metrics(self, problem, completion):
    time.sleep(0.1)
    return super().metrics(problem, completion)
