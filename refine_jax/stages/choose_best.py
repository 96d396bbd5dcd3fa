"""Says which of several runs is best by its own validation metric.

    python -m refine_jax.stages.choose_best RUN RUN ...

Prints the folder of the best run on stdout, and every run's figure on stderr.
A launch script chooses an arm's learning rate by it.
"""

import pathlib
import sys
from collections.abc import Sequence

from refine_jax.training import checkpoint


def best_of(folders: Sequence[str]) -> tuple[int, list[float]]:
  """The place of the best run (the first of equals), and all figures.

  Raises:
    FileNotFoundError: a folder without a checkpoint.
    ValueError: runs with different goals, or one that was never evaluated.
  """
  figures, goals = [], set()
  for folder in folders:
    meta = checkpoint.read_meta(folder)
    goal = checkpoint.Goal(**meta["goal"])
    figure = (meta["metrics"] or {}).get(goal.metric)
    if figure is None:
      raise ValueError(f"{folder}: no value of {goal.metric} was ever taken")
    goals.add((goal.metric, goal.mode))
    figures.append(float(figure))
  if len(goals) > 1:
    raise ValueError(f"runs with different goals: {sorted(goals)}")
  ((_, mode),) = goals
  choose = max if mode == "max" else min
  return figures.index(choose(figures)), figures


def main(folders: Sequence[str]) -> int:
  if not folders or folders[0] in ("-h", "--help", "--helpfull"):
    print(__doc__.strip())
    return 0 if folders else 2
  try:
    place, figures = best_of(folders)
  except (FileNotFoundError, ValueError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  for folder, figure in zip(folders, figures, strict=True):
    print(f"{pathlib.Path(folder).name}: {figure:.2f}", file=sys.stderr)
  print(folders[place])
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
