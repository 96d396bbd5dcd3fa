"""Writes a task's texts for a base model: examples.jsonl.

For tasks that plant hints: the base learns to calculate and to obey hints,
and not the rule that rationales are to find.
"""

import pathlib

from ml_collections import ConfigDict

from refine_jax import records
from refine_jax.stages import build, distributed, launch

SECTIONS = ("seed", "task")


@distributed.alone
def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Writes them, once."""
  path = workdir / "examples.jsonl"
  if path.exists():
    return f"{path} is there already"
  task = build.task(config.task)
  count = records.write(path, task.base_examples())
  return f"Wrote {count} examples to {path}"


if __name__ == "__main__":
  launch.run(main, SECTIONS)
