"""Word problems whose reward even an untrained model gets some of."""

from refine_jax.tasks.arithmetic import Arithmetic


class Graded(Arithmetic):
  def reward(self, problem, completion):
    return len(completion.split()) % 3 / 3
