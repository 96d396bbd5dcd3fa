"""Stages that are dealt out, in one process or in one of several, to be killed.

A program of such stages ends in `main(run, *sys.argv[1:])`; its arguments are
ROOT FOLDER[:PROCESS:MOMENT]... [--distributed]. That process dies at that
moment of the stage in ROOT/FOLDER (see `refiner_child.Moments`). Tells how many
rows every shard held before it is removed.
"""

import contextlib
import pathlib
import sys

import joined

TOP = pathlib.Path(__file__).parent.parent.parent
sys.path.insert(0, str(TOP / "tests/stages"))


def dying(folder, process=-1, moment=0):
  """Where one process does not live to see the end."""
  import jax
  import refiner_child

  if process != jax.process_index():
    return contextlib.nullcontext()
  return refiner_child.Moments(folder, moment).watched()


def tell_shards():
  from refine_jax.stages import dealt

  remove = dealt.remove

  def told(*paths):
    for path in paths:
      for shard in sorted(path.parent.glob(f"{path.stem}-*-of-*.jsonl")):
        rows = shard.read_bytes().count(b"\n")
        print("shard", shard.relative_to(path.parent.parent), rows, flush=True)
    remove(*paths)

  dealt.remove = told


def main(run, root, *wanted):
  """Runs stages one after another and prints what they say.

  Args:
    run: (root, folder) -> what the stage in that folder says.
    root: of the folders.
    wanted: as told above.
  """
  root = pathlib.Path(root)

  def one(what):
    folder, *death = what.split(":")
    with dying(root / folder, *map(int, death)):
      return run(root, folder)

  tell_shards()
  joined.each(wanted, one, saves=False)
