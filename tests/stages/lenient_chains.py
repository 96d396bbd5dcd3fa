"""Chains with a check that an untrained model passes at times: whatever ends
in a number answers, and some of that is right."""

import re
import zlib

from refine_jax.tasks import hint_chains


class Lenient(hint_chains.HintChains):
  def answer(self, completion):
    found = re.findall(r"(\d)\s*$", completion)
    return found[0] if found else None

  def check(self, problem, completion):
    return zlib.crc32(f"{problem.id}{completion}".encode()) % 3 == 0
