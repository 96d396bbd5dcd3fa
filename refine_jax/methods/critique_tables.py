"""MathCritique's tables, out of what its stages counted.

Every function takes rows of one entry per seed and pools them: means are over
seeds, intervals over all problems of all seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from refine_jax.algorithms import intervals
from refine_jax.methods import difficulty

# Figures of a critic, as `critic_metrics` names them.
CRITIC = (
  "disc", "disc_c", "disc_i", "first_error", "parsed", "helpfulness", "relev",
)  # fmt: skip
# The arm that only votes.
PLAIN = "vote"
Rows = Mapping[str, Sequence[Mapping[str, Any]]]


def mean(values) -> float:
  return float(np.mean(list(values)))


def pooled(rows: Sequence[Sequence[float]], seed: int = 0) -> str:
  """Values of all seeds as `mean [low, high]`; nothing for none."""
  values = [value for row in rows for value in row]
  return str(intervals.bootstrap(values, seed=seed)) if values else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
  return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def arms(found: Rows) -> list[str]:
  """What refinement changes, per arm, beside a vote that costs as much."""
  head = (
    "arm", "before", "after", "gain", "changed", "c2c", "c2i", "i2c", "i2i",
    "tokens",
    "tokens per solved", "plain vote, as many tokens", "prompt tokens read",
    "kept",
  )  # fmt: skip
  base = curve(found.get(PLAIN, ()), "vote")
  lines = []
  for name, rows in found.items():
    if not rows:
      continue
    metric = rows[0]["metric"]
    ends = [mean(r["turns"][t][metric]["mean"] for r in rows) for t in (0, -1)]
    gains = [
      [100 * (right - r["before"][p]) for p, right in r["after"].items()]
      for r in rows
      if "after" in r
    ]
    most = max(rows[0]["curve"], key=int)
    at_most = [r["curve"][most] for r in rows]
    tokens = mean(c["tokens"] for c in at_most)
    lines.append(
      [
        name,
        *(f"{value:.1f}" for value in ends),
        pooled(gains) if gains else "",
        _changed(rows),
        *(
          f"{mean(r['transitions'][key] for r in rows):.1f}"
          for key in ("c2c", "c2i", "i2c", "i2i")
        ),
        f"{tokens:.1f}",
        _solved(at_most),
        _shown(at_tokens(base, tokens)) if name != PLAIN else "",
        *(_prompts(rows, key) for key in ("read", "kept")),
      ]
    )
  return table(head, lines)


def _prompts(rows, key: str) -> str:
  """Prompt tokens of actor and critic, per seed."""
  counts = [[who[key] for who in r["prefill"].values()] for r in rows]
  return " + ".join(f"{mean(c):.0f}" for c in zip(*counts, strict=True))


def critics(found: Rows) -> list[str]:
  """Critics of arms that look at every problem once, with intervals."""
  lines = []
  for name, rows in found.items():
    said = [r["critic"] for r in rows if "values" in r.get("critic", {})]
    if not said:
      continue
    cells = [
      pooled([[100 * v for v in r["values"].get(key, ())] for r in said])
      if any(r["values"].get(key) for r in said)
      else ""
      for key in CRITIC
    ]
    for key in ("ece", "brier"):
      known = [r[key] for r in said if key in r]
      cells.append(f"{mean(known):.3f}" if known else "")
    lines.append([name, *cells])
  return table(("arm", *CRITIC, "ECE", "Brier"), lines)


# Of which responses a held-out critic's figure is a share.
HELD_OUT = {
  "disc": "cases",
  "disc_c": "right",
  "disc_i": "flawed",
  "first_error": "flawed",
  "parsed": "cases",
  "exact": "cases",
}


def held_out(rows: Sequence[Mapping[str, float]]) -> list[str]:
  """Critics on critiques that were held out of their training, all seeds."""
  sized = [
    {**r, "right": r["cases"] - r["flawed"]} for r in rows if "flawed" in r
  ]
  if not sized:
    return []
  cells = []
  for name, size in HELD_OUT.items():
    known = [r for r in sized if name in r and r[size]]
    hits = sum(r[name] / 100 * r[size] for r in known)
    count = sum(r[size] for r in known)
    found = intervals.wilson(min(hits, count), count) if known else None
    cells.append(str(found.scaled(100)) if found else "")
  seeds, cases = len(sized), sum(r["cases"] for r in sized)
  return table(
    ("held-out critiques", *HELD_OUT),
    [[f"{cases:.0f}, {seeds} seeds", *cells]],
  )


def curve(rows, rule: str) -> list[tuple[float, float, float]]:
  """(k, tokens, percent), the mean over seeds."""
  ks = sorted({int(k) for r in rows for k in r["curve"]})
  return [
    (
      k,
      mean(r["curve"][str(k)]["tokens"] for r in rows),
      mean(r["curve"][str(k)][rule]["mean"] for r in rows),
    )
    for k in ks
    if all(str(k) in r["curve"] for r in rows)
  ]


def _changed(rows: Sequence[Mapping[str, Any]]) -> str:
  """Answers that are others after the last turn, of runs that counted."""
  known = [r["changed"] for r in rows if "changed" in r]
  return f"{mean(known):.1f}" if known else ""


def by_difficulty(
  found: Rows, rates: Sequence[Mapping[str, float]], count: int = 5
) -> list[str]:
  """Accuracy before and after refinement, in bins of difficulty.

  Args:
    found: arm -> per seed its summary; those of single chains are shown.
    rates: per seed, problem -> the first actor's pass rate.
    count: bins.
  """
  lines = []
  for name, rows in found.items():
    cells: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for row, rate in zip(rows, rates, strict=False):
      if "after" in row and rate.keys() >= row["after"].keys():
        of = difficulty.bins(rate, count)
        for p, right in row["after"].items():
          cells[of[p]].append((row["before"][p], right))
    if any(cells):
      lines.append([name, *map(_before_after, cells)])
  if not lines:
    return []
  head = [f"up to {100 * (i + 1) // count} %" for i in range(count)]
  return table(("arm", *head), lines)


def _before_after(pairs: Sequence[tuple[int, int]]) -> str:
  if not pairs:
    return ""
  before, after = (100 * mean(side) for side in zip(*pairs, strict=True))
  return f"{before:.0f} -> {after:.0f} ({len(pairs)})"


def voting(found: Rows) -> Rows:
  return {n: r for n, r in found.items() if r and r[0]["chains"] > 1}


def votes(found: Rows) -> list[str]:
  """Maj@K with critiques against the plain vote, at equal tokens."""
  if not found.get(PLAIN):
    return []
  base = curve(found[PLAIN], "vote")
  lines = []
  for name, rows in voting(found).items():
    by = {
      rule: {k: v for k, _, v in curve(rows, rule)}
      for rule in ("weighted", "pass")
    }
    for k, tokens, value in curve(rows, "vote"):
      at = None if name == PLAIN else at_tokens(base, tokens)
      at_k = [r["curve"][str(k)] for r in rows]
      row = (value, by["weighted"][k], by["pass"][k])
      lines.append(
        [
          name,
          str(k),
          f"{tokens:.0f}",
          *(f"{v:.1f}" for v in row),
          _shown(at),
          _solved(at_k),
          f"{mean(c['tokens_weighted'] for c in at_k):.0f}",
        ]
      )
  head = (
    "arm", "k", "tokens", "vote", "weighted", "pass",
    "plain vote, as many tokens", "tokens per solved", "tokens, weighted",
  )  # fmt: skip
  return table(head, lines)


def _solved(found: Sequence[Mapping[str, Any]]) -> str:
  """Tokens per solved problem, of the runs that solved any."""
  known = [c["tokens_per_solved"] for c in found]
  known = [value for value in known if value is not None]
  return f"{mean(known):.0f}" if known else ""


def _shown(value: float | None) -> str:
  return "" if value is None else f"{value:.1f}"


def at_tokens(base, tokens: float) -> float | None:
  """The plain vote at so many tokens, between two sizes; None beyond."""
  xs, ys = [b[1] for b in base], [b[2] for b in base]
  if not xs or not xs[0] <= tokens <= xs[-1]:
    return None
  return float(np.interp(tokens, xs, ys))


def tails(loops: Mapping[str, Sequence[Sequence[Mapping]]]) -> list[str]:
  """Every bin of every iteration; hardest first, bins side by side."""
  head = (
    "loop", "iteration", "solved", "problems per bin", "coverage per bin",
    "share of rows per bin", "distinct per solved, per bin", "words per bin",
    "tail narrowing", "Gini",
  )  # fmt: skip
  lines = []
  for name, runs in loops.items():
    for t in range(min(map(len, runs), default=0)):
      now = [r[t] for r in runs]
      lines.append(
        [
          name,
          str(t + 1),
          f"{mean(100 * m['solved'] / m['problems'] for m in now):.1f}",
          _cells(bins(now, "problems", 1), "{:.0f}"),
          _cells(bins(now, "coverage"), "{:.0f}"),
          _cells(bins(now, "share", kind="trained"), "{:.0f}"),
          _cells(bins(now, "distinct", 1), "{:.2f}"),
          _cells(bins(now, "words", 1), "{:.0f}"),
          _narrowed(runs, t),
          f"{mean(m['trained']['all_gini'] for m in now):.2f}",
        ]
      )
  return table(head, lines)


def _cells(values, form: str) -> str:
  return " / ".join(form.format(v) for v in values)


def _narrowed(runs, t: int) -> str:
  """Of the runs whose first iteration had rows of the hardest bin."""
  found = [narrowing(run, t) for run in runs]
  found = [value for value in found if not np.isnan(value)]
  return f"{mean(found):.2f}" if found else ""


def narrowing(manifests, t: int) -> float:
  """The hardest bin's share of rows in iteration t against the first."""
  first, now = manifests[0]["trained"], manifests[t]["trained"]
  return difficulty.tail_narrowing(first, now)


def bins(
  manifests, key: str, factor: float = 100, kind: str = "verified"
) -> list[float]:
  """Per bin, the mean of the runs whose bin has problems at all."""
  found = []
  for row in zip(*(m[kind][key] for m in manifests), strict=True):
    known = [factor * c for c in row if c is not None]
    found.append(mean(known) if known else float("nan"))
  return found
