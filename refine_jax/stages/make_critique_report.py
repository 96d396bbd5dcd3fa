"""Tables and plots of MathCritique runs, over seeds.

Reads what the stages of `launch_scripts/mathcritique.sh` wrote under
<workdir>/seed*; writes critique_report.md, .json and plots. What was not run
is left out.
"""

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from refine_jax.algorithms import intervals
from refine_jax.methods import charts, difficulty
from refine_jax.stages import distributed, launch

SECTIONS = ("task", "run_refine")
LOOPS = ("critic", "vanilla", "matched")


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Makes the report.

  1. Critiques: rows, filters. 2. Test time: arms, votes at equal tokens.
  3. Self-improvement: tail, coverage, diversity per iteration.
  """
  runs = sorted(workdir.glob("seed*"))
  if not runs:
    raise FileNotFoundError(f"no runs at {workdir}/seed*")
  order = list(config.run_refine.order)
  numbers = {
    "seeds": [run.name for run in runs],
    "data": [_json(run / "critic_data/manifest.json") for run in runs],
    "arms": {name: _arm(runs, name) for name in order},
    "loops": {name: _loop(runs, name) for name in LOOPS},
  }
  text = "\n".join(
    [*_data(numbers), *_arms(numbers), *_equal(numbers), *_tails(numbers)]
  )
  for name, chart in _charts(numbers).items():
    if chart:
      (workdir / name).write_text(chart, encoding="utf-8")
  (workdir / "critique_report.md").write_text(text + "\n", encoding="utf-8")
  (workdir / "critique_report.json").write_text(
    json.dumps(numbers, indent=1) + "\n", encoding="utf-8"
  )
  print(text, flush=True)
  return f"Wrote {workdir}/critique_report.md (also .json and .svg)"


def _json(path: pathlib.Path) -> Any:
  return json.loads(path.read_text()) if path.exists() else None


def _arm(runs, name) -> list[dict[str, Any]]:
  found = [_json(run / "refine" / name / "summary.json") for run in runs]
  return [f for f in found if f]


def _loop(runs, name) -> list[list[dict[str, Any]]]:
  """Per run, the manifests of all iterations."""
  found = []
  for run in runs:
    folders = sorted(
      run.glob(f"{name}*_data"),
      key=lambda f: int((re.findall(r"\d+", f.name) or ["0"])[-1]),
    )
    folders = [f for f in folders if re.fullmatch(rf"{name}\d+_data", f.name)]
    made = [m for f in folders if (m := _json(f / "manifest.json"))]
    if made:
      found.append(made)
  return found


def _data(numbers) -> list[str]:
  lines = ["## Critiques", ""]
  for name, row in zip(numbers["seeds"], numbers["data"], strict=True):
    if row:
      kept = row.get("filter_kept_percent")
      lines += [f"- {name}: made {row['made']}, dropped {row['dropped']},"
                f" used {row['used']}; kept by the filter: {kept}"]  # fmt: skip
  return lines


def _mean(rows: Sequence[float]) -> float:
  return float(np.mean(list(rows)))


def _arms(numbers) -> list[str]:
  head = "| arm | before | after | gain (pooled) | c2i | i2c | disc | disc_c |"
  lines = ["", "## Test time", "", f"{head} disc_i | first error | tokens |"]
  lines.append("|---" * 11 + "|")
  for name, rows in numbers["arms"].items():
    if not rows:
      continue
    metric = rows[0]["metric"]
    cells = [name]
    for turn in (0, -1):
      cells.append(
        _shown(_mean(r["turns"][turn][metric]["mean"] for r in rows))
      )
    gains = [r["gain"] for r in rows if "gain" in r]
    cells.append(
      "; ".join(str(intervals.Interval(**g)) for g in gains) if gains else ""
    )
    for key in ("c2i", "i2c"):
      cells.append(_shown(_mean(r["transitions"][key] for r in rows)))
    for key in ("disc", "disc_c", "disc_i", "first_error"):
      found = [r["critic"][key] for r in rows if key in r.get("critic", {})]
      cells.append(_shown(_mean(found)) if found else "")
    cells.append(_shown(_mean(r["tokens_per_problem"] for r in rows)))
    lines.append("| " + " | ".join(cells) + " |")
  return lines


def _shown(value: float) -> str:
  return f"{value:.1f}"


def _curve(rows, rule: str) -> list[tuple[float, float, float]]:
  """(k, tokens, percent), the mean over seeds."""
  ks = sorted({int(k) for r in rows for k in r["curve"]})
  return [
    (
      k,
      _mean(r["curve"][str(k)]["tokens"] for r in rows),
      _mean(r["curve"][str(k)][rule]["mean"] for r in rows),
    )
    for k in ks
    if all(str(k) in r["curve"] for r in rows)
  ]


def _equal(numbers) -> list[str]:
  """Votes with critiques against the plain vote, at equal tokens."""
  plain = numbers["arms"].get("vote")
  if not plain:
    return []
  base = _curve(plain, "vote")
  lines = ["", "## Votes at equal tokens", ""]
  lines += ["| arm | k | tokens | vote | weighted | pass | plain vote, as many"
            " tokens |", "|---|---|---|---|---|---|---|"]  # fmt: skip
  for name, rows in numbers["arms"].items():
    if not rows or name == "vote" or rows[0]["chains"] == 1:
      continue
    other = {
      rule: {k: v for k, _, v in _curve(rows, rule)}
      for rule in ("weighted", "pass")
    }
    for k, tokens, value in _curve(rows, "vote"):
      at = _at(base, tokens)
      lines.append(
        f"| {name} | {k} | {tokens:.0f} | {value:.1f} |"
        f" {other['weighted'][k]:.1f} | {other['pass'][k]:.1f} |"
        f" {'' if at is None else f'{at:.1f}'} |"
      )
  for k, tokens, value in base:
    lines.append(f"| vote | {k} | {tokens:.0f} | {value:.1f} | | | |")
  return lines


def _at(base, tokens: float) -> float | None:
  """The plain vote at so many tokens, between two sizes; None beyond."""
  xs, ys = [b[1] for b in base], [b[2] for b in base]
  if not xs[0] <= tokens <= xs[-1]:
    return None
  return float(np.interp(tokens, xs, ys))


def _tails(numbers) -> list[str]:
  lines = ["", "## Self-improvement", ""]
  lines += ["| loop | iteration | solved | hardest bin: share | coverage |"
            " tail narrowing | all bins' coverage | distinct | Gini |",
            "|---" * 9 + "|"]  # fmt: skip
  for name, runs in numbers["loops"].items():
    for t in range(min((len(r) for r in runs), default=0)):
      now = [r[t] for r in runs]
      narrow = [
        difficulty.tail_narrowing(r[0]["trained"], r[t]["trained"])
        for r in runs
      ]
      coverage = _coverage(now)
      lines.append(
        f"| {name} | {t + 1} |"
        f" {_mean(100 * m['solved'] / m['problems'] for m in now):.1f} |"
        f" {_mean(100 * m['trained']['share'][0] for m in now):.1f} |"
        f" {coverage[0]:.1f} | {_mean(narrow):.2f} |"
        f" {' '.join(f'{c:.0f}' for c in coverage)} |"
        f" {_mean(m['verified']['all_distinct'] for m in now):.2f} |"
        f" {_mean(m['trained']['all_gini'] for m in now):.2f} |"
      )
  return lines


def _coverage(manifests) -> list[float]:
  """Percent per bin, the mean of the runs whose bin has problems at all."""
  found = []
  for row in zip(*(m["verified"]["coverage"] for m in manifests), strict=True):
    known = [100 * c for c in row if c is not None]
    found.append(_mean(known) if known else float("nan"))
  return found


def _charts(numbers) -> dict[str, str]:
  votes = {
    name: [(tokens, value) for _, tokens, value in _curve(rows, "vote")]
    for name, rows in numbers["arms"].items()
    if rows and rows[0]["chains"] > 1
  }
  tails = {
    name: [
      (
        t + 1,
        _mean(100 * (r[t]["verified"]["coverage"][0] or 0.0) for r in runs),
      )
      for t in range(min(map(len, runs)))
    ]
    for name, runs in numbers["loops"].items()
    if runs
  }
  return {
    "votes.svg": charts.lines(
      votes,
      title="Majority votes, with and without critiques",
      x="tokens generated per problem",
      y="percent right",
      log_x=True,
    ),
    "tails.svg": charts.lines(
      tails,
      title="Coverage of the hardest bin",
      x="iteration",
      y="percent of its problems with a verified solution",
    ),
  }


if __name__ == "__main__":
  launch.run(distributed.alone(main), SECTIONS)
