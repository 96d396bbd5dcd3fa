"""Stepwise inference in one process, or in one of several.

A program, see `dealing_child`. Its folders are `base`, a model, and `stepwise`.
"""

import sys

import dealing_child
import joined

ARMS = (
  "random",
  "first",
  "implicit",
  "shuffled",
  "explicit",
  "majority vote",
)


def config_of():
  """Blocks that do not come out even, and answers that are right at times."""
  import tiny_rationalyst

  config = tiny_rationalyst.config_of()
  config.task.name = "lenient_chains:Lenient"
  section = config.run_stepwise
  section.update(order=ARMS, rows=(0, 8), together=3, candidates=2)
  section.references = ("random",)
  # Few programs.
  config.engine.update(slots=6, prompt_buckets=(40,))
  section.trunks.pieces = (24,)
  section.arms["majority vote"].candidates = 6
  return config


def run(root, folder):
  """What the stage in its folder under `root` said."""
  import tiny_rationalyst

  if folder == "base":
    return tiny_rationalyst.save_base(root / folder, config_of())
  return joined.stage("run_stepwise", config_of(), root / folder)


if __name__ == "__main__":
  dealing_child.main(run, *sys.argv[1:])
