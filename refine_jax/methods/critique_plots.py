"""MathCritique's plots: votes over tokens and K, tails over iterations."""

from collections.abc import Mapping, Sequence

from refine_jax.methods import charts
from refine_jax.methods.critique_tables import (
  Rows,
  bins,
  curve,
  mean,
  narrowing,
  voting,
)


def plots(found: Rows, loops: Mapping[str, Sequence]) -> dict[str, str]:
  """File -> SVG; what has no points is empty."""
  many = voting(found)
  curves = {name: curve(rows, "vote") for name, rows in many.items()}
  made = {
    "votes.svg": charts.lines(
      {name: [(x, y) for _, x, y in row] for name, row in curves.items()},
      title="Majority votes, with and without critiques",
      x="tokens generated per problem",
      y="percent right",
      log_x=True,
    ),
    "votes_k.svg": charts.lines(
      {name: [(k, y) for k, _, y in row] for name, row in curves.items()},
      title="Maj@K",
      x="K",
      y="percent right",
      log_x=True,
    ),
    "tails.svg": charts.lines(
      {n: _over(r, lambda now: bins(now, "coverage")[0])
       for n, r in loops.items()},
      title="Coverage of the hardest bin",
      x="iteration",
      y="percent of its problems with a verified solution",
    ),
    "narrowing.svg": charts.lines(
      {
        n: [(t + 1, mean(narrowing(r, t) for r in runs))
            for t in range(min(map(len, runs), default=0))]
        for n, runs in loops.items()
      },
      title="Tail narrowing",
      x="iteration",
      y="the hardest bin's share of rows, against the first iteration's",
    ),
  }  # fmt: skip
  for name, runs in loops.items():
    for key, factor, y in (
      ("coverage", 100, "percent of the bin's problems solved"),
      ("distinct", 1, "distinct solutions per solved problem"),
    ):
      made[f"{key}_{name}.svg"] = charts.lines(
        {
          f"bin {b + 1}": _over(
            runs, lambda now, b=b, k=key, f=factor: bins(now, k, f)[b]
          )
          for b in range(_count(runs))
        },
        title=f"{name}: {key} by difficulty (bin 1 is the hardest)",
        x="iteration",
        y=y,
      )
  return made


def _over(runs, value) -> list[tuple[float, float]]:
  """(iteration, value of its manifests)."""
  return [
    (t + 1, value([r[t] for r in runs]))
    for t in range(min(map(len, runs), default=0))
  ]


def _count(runs) -> int:
  return len(runs[0][0]["verified"]["coverage"]) if runs else 0
