"""Puts runs of REFINER side by side: a table, its numbers, and a page.

Reads the folders that `launch_scripts/refiner.sh` makes, one per seed, and
writes report.md, report.json and the self-contained report.html.
"""

import dataclasses
import json
import pathlib
import subprocess
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from refine_jax import records
from refine_jax.algorithms import intervals
from refine_jax.methods import evaluation
from refine_jax.stages import distributed, launch

SECTIONS = ("make_report", "run_refine")
_PAGE = pathlib.Path(__file__).with_name("report_page.html")
# What a page shows of each seed's trajectories, at most.
_SHOWN = 200


@dataclasses.dataclass(frozen=True)
class Arm:
  """One row of the table over all seeds.

  Attributes:
    values_RST: the metric per run, turn and problem... `[turn][run]` vectors.
    tokens: generated per problem, mean over runs.
  """

  name: str
  control: bool
  values: list[list[np.ndarray]]
  summaries: list[dict[str, Any]]

  def interval(self, turn: int) -> intervals.Interval:
    """Over problems, each the mean of its runs; in percent."""
    return intervals.bootstrap(100 * self._mean(turn))

  def ahead_of(self, other: "Arm") -> intervals.Interval:
    """Paired difference after the last turn, in points."""
    return intervals.paired(100 * self._mean(-1), 100 * other._mean(-1))

  def per_run(self) -> list[float]:
    return [100 * float(v.mean()) for v in self.values[-1]]

  def average(self, name: str) -> float | None:
    found = [s[name] for s in self.summaries if s.get(name) is not None]
    return float(np.mean(found)) if found else None

  def _mean(self, turn: int) -> np.ndarray:
    return np.mean(self.values[turn], axis=0)


@distributed.alone
def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Makes the report.

  1. Find the runs and their arms.
  2. Pool each arm over the runs, problem by problem.
  3. Write and print the table, then the page.
  """
  settings = config.make_report
  runs = sorted(workdir.glob(settings.runs))
  if not runs:
    raise FileNotFoundError(f"no runs at {workdir / settings.runs}")
  arms = [
    _arm(name, config.run_refine.arms[name].control, runs, settings.evaluation)
    for name in config.run_refine.order
  ]
  text = _table(arms, len(runs))
  (workdir / "report.md").write_text(text, encoding="utf-8")
  _write_json(workdir / "report.json", _numbers(arms, runs))
  _write_page(workdir / "report.html", config, arms, runs)
  print(text, flush=True)
  return f"Wrote {workdir}/report.html (also .md and .json)"


def _arm(name, control, runs, folder) -> Arm:
  summaries = [
    json.loads((run / folder / name / "summary.json").read_text())
    for run in runs
  ]
  metric = summaries[0]["metric"]
  turns = len(summaries[0]["turns"])
  loaded = [_trajectories(run / folder / name) for run in runs]
  values = [
    [evaluation.at_turn(ts, turn, metric) for ts in loaded]
    for turn in range(1, turns + 1)
  ]
  return Arm(name, control, values, summaries)


def _trajectories(folder: pathlib.Path) -> list[records.Trajectory]:
  path = folder / "trajectories.jsonl"
  return sorted(records.read(records.Trajectory, path), key=lambda t: t.id)


def _table(arms: list[Arm], runs: int) -> str:
  turns = max(len(arm.values) for arm in arms)
  metric, rows = arms[0].summaries[0]["metric"], arms[0].summaries[0]
  head = ["arm", *(f"turn {t}" for t in range(1, turns + 1))]
  head += ["per seed"] if runs > 1 else []
  head += ["wrong->right", "right->wrong", "accepted", "tokens"]
  lines = [
    f"{metric} in percent on {rows['problems']} problems, {runs} seed(s);"
    " brackets: 95 % bootstrap intervals over problems.",
    "",
    _row(head),
    _row(["---"] * len(head)),
  ]
  for arm in arms:
    cells = [arm.name]
    cells += [str(arm.interval(t)) for t in range(len(arm.values))]
    cells += [""] * (turns - len(arm.values))
    if runs > 1:
      cells.append(" ".join(f"{v:.1f}" for v in arm.per_run()))
    for name in _COLUMNS:
      value = arm.average(name)
      cells.append("" if value is None else f"{value:.1f}")
    lines.append(_row(cells))
  return "\n".join([*lines, "", *_differences(arms)]) + "\n"


_COLUMNS = (
  "wrong_to_right",
  "right_to_wrong",
  "accepted",
  "tokens_per_problem",
)


def _row(cells: list[str]) -> str:
  return f"| {' | '.join(cells)} |"


def _differences(arms: list[Arm]) -> list[str]:
  ours = [arm for arm in arms if not arm.control]
  return [
    f"- {arm.name} minus {other.name}: {arm.ahead_of(other)} points"
    for arm in ours
    for other in arms
    if other is not arm
  ]


def _numbers(arms: list[Arm], runs: list[pathlib.Path]) -> dict[str, Any]:
  return {
    "seeds": len(runs),
    "arms": {
      arm.name: {
        "control": arm.control,
        "turns": [
          dataclasses.asdict(arm.interval(t)) for t in range(len(arm.values))
        ],
        "per_seed": arm.per_run(),
        **{name: arm.average(name) for name in _COLUMNS},
      }
      for arm in arms
    },
    "differences": {
      arm.name: {
        other.name: dataclasses.asdict(arm.ahead_of(other))
        for other in arms
        if other is not arm
      }
      for arm in arms
      if not arm.control
    },
  }


def _write_page(path, config, arms, runs) -> None:
  numbers = _numbers(arms, runs)
  settings = config.make_report
  data = {
    "title": settings.title,
    "subtitle": settings.subtitle,
    "note": _NOTE,
    "metric": arms[0].summaries[0]["metric"],
    "curves": _curves(runs[0], settings.curves),
    "arms": [{"name": k, **v} for k, v in numbers["arms"].items()],
    "trajectories": _shown(runs[0] / settings.evaluation / settings.shown),
    "made": _made(config, runs),
  }
  text = json.dumps(data, ensure_ascii=False).replace("</", "<\\/")
  page = _PAGE.read_text(encoding="utf-8").replace("__DATA__", text)
  path.write_text(page, encoding="utf-8")


_NOTE = (
  "Every arm answers the same problems. Blue arms use feedback as REFINER"
  " does; grey ones are controls: they say what verifying, trying again or"
  " training longer would have given without the critic's words."
)


def _curves(run: pathlib.Path, wanted) -> list[dict[str, Any]]:
  charts = []
  for title, folders, key in wanted:
    series = [
      {"label": folder, "points": _points(run / folder, key)}
      for folder in folders
    ]
    series = [s for s in series if s["points"]]
    if series:
      charts.append(
        {"title": title, "series": series, "xlabel": "update", "ylabel": key}
      )
  return charts


def _points(folder: pathlib.Path, key: str) -> list[list[float]]:
  path = folder / "metrics.jsonl"
  if not path.exists():
    return []
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  return [[row["step"], row[key]] for row in rows if key in row]


def _shown(folder: pathlib.Path) -> list[dict[str, Any]]:
  """A few of each kind of outcome, so that no filter of the page is empty."""
  groups: dict[tuple[bool, bool], list] = {}
  for t in _trajectories(folder):
    metric = next(iter(t.turns[0].metrics))
    right = [turn.metrics[metric] >= 1 for turn in t.turns]
    group = groups.setdefault((right[0], right[-1]), [])
    if len(group) < _SHOWN // 4:
      group.append(_readable(t, right))
  return [t for key in sorted(groups) for t in groups[key]]


def _readable(t: records.Trajectory, right: list[bool]) -> dict[str, Any]:
  return {
    "id": t.id,
    "question": t.meta.get("question", t.question),
    "gold": t.meta.get("gold", t.gold),
    "turns": [
      {
        "hypothesis": turn.hypothesis,
        "feedback": turn.feedback.text if turn.feedback else None,
        "accepted": bool(turn.feedback and turn.feedback.accepted),
        "right": ok,
      }
      for turn, ok in zip(t.turns, right, strict=True)
    ],
  }


def _made(config: ConfigDict, runs) -> dict[str, str]:
  return {
    "commit": _commit(),
    "command": config.make_report.command,
    "runs": ", ".join(run.name for run in runs),
  }


def _commit() -> str:
  here = pathlib.Path(__file__).parent
  found = subprocess.run(
    ["git", "-C", str(here), "describe", "--always", "--dirty"],
    capture_output=True,
    text=True,
    check=False,
  )
  return found.stdout.strip() or "not a git checkout"


def _write_json(path: pathlib.Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
  launch.run(main, SECTIONS)
