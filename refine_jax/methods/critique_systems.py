"""All trained arms of MathCritique in one table."""

from collections.abc import Mapping, Sequence

import numpy as np

from refine_jax.methods.critique_tables import Rows, bins, mean, pooled, table

# What trained actors are called in the table of all arms, in this order.
SYSTEMS = {
  "actor0": "first actor",
  "plain": "plain: gold solutions alone",
  "vanilla": "vanilla self-improvement",
  "matched": "vanilla with the loop's compute",
  "critic": "critique in the loop",
  "talk": "self-talk",
  "trajectory": "self-correction over whole solutions",
  "actor0+critic": "first actor with its critic",
  "critic+critic": "critique in the loop, with the critic",
}


def systems(found: Rows, loops: Mapping[str, Sequence]) -> list[str]:
  """All trained arms in one table, each against vanilla on the same problems.

  Args:
    found: name -> per seed `greedy`, `vote`, `pass` (values per problem, in
      percent), and of its training `rows`, `updates`, `rate`.
    loops: as in `tails`, for the last iteration's hardest bin.
  """
  head = (
    "arm", "greedy", "vote", "pass", "greedy against vanilla",
    "hardest bin covered", "rows", "updates", "learning rate",
  )  # fmt: skip
  lines = []
  for name, label in SYSTEMS.items():
    rows = found.get(name)
    if not rows:
      continue
    covered = [bins(r[-1:], "coverage")[0] for r in loops.get(name, ())]
    lines.append(
      [
        label,
        *(
          pooled([r[key] for r in rows if key in r])
          if any(key in r for r in rows)
          else ""
          for key in ("greedy", "vote", "pass")
        ),
        _against(rows, found.get("vanilla", ())) if name != "vanilla" else "",
        f"{mean(covered):.0f}" if covered else "",
        *(
          ", ".join(dict.fromkeys(f"{r[key]:g}" for r in rows if key in r))
          for key in ("rows", "updates", "rate")
        ),
      ]
    )
  return table(head, lines)


def _against(ours, theirs) -> str:
  """Paired differences of seeds that have both."""
  other = {r["seed"]: r["greedy"] for r in theirs}
  pairs = [
    np.asarray(r["greedy"]) - np.asarray(other[r["seed"]])
    for r in ours
    if len(other.get(r["seed"], ())) == len(r["greedy"])
  ]
  return pooled(pairs) if pairs else ""


def hardest(loops: Mapping[str, Sequence], ours: str = "critic") -> list[str]:
  """One loop against the others on the same problems of the hardest bin."""
  others = [name for name in loops if name != ours]
  if ours not in loops or not others:
    return []
  by_seed = {
    name: {run[0]["seed"]: run for run in runs} for name, runs in loops.items()
  }
  lines = []
  for t in range(min(map(len, loops[ours]))):
    cells = [str(t + 1)]
    for name in others:
      pairs = [
        _gains(run[t], by_seed[name][seed][t])
        for seed, run in by_seed[ours].items()
        if len(by_seed[name].get(seed, ())) > t
      ]
      cells.append(pooled(pairs))
    lines.append(cells)
  head = (f"{ours} minus {name}" for name in others)
  return table(("iteration", *head), lines)


def _gains(ours: Mapping, theirs: Mapping) -> list[float]:
  a, b = (manifest.get("hardest", {}) for manifest in (ours, theirs))
  return [100.0 * (a[p] - b[p]) for p in a if p in b]
