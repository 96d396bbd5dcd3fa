"""The embedded task with a check that an untrained model passes at times."""

import zlib

from refine_jax.tasks import arithmetic


class Lenient(arithmetic.Arithmetic):
  def check(self, problem, completion):
    return zlib.crc32(f"{problem.id}{completion}".encode()) % 3 == 0
