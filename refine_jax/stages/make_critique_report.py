"""Tables and plots of MathCritique runs, over seeds.

Reads what the stages of `launch_scripts/mathcritique.sh` wrote under
<workdir>/seed*; writes critique_report.md, .json and plots. What was not run
is left out.
"""

import json
import pathlib
import re
from typing import Any

from ml_collections import ConfigDict

from refine_jax import records
from refine_jax.methods import (
  critique_plots,
  critique_systems,
  critique_tables,
  difficulty,
  selection,
)
from refine_jax.stages import distributed, launch
from refine_jax.training import checkpoint

SECTIONS = ("task", "run_refine")
LOOPS = ("critic", "vanilla", "matched")
# The arm of run_refine that stands for actor and critic together, and the
# folders of its actors.
TOGETHER = "critique, gated"
FOLDERS = {"actor0+critic": "refine", "critic+critic": "refine_last"}


@distributed.alone
def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Makes the report.

  1. Critiques: rows, filters. 2. Test time: arms, critics, votes at equal
  tokens. 3. Self-improvement: tail, coverage, diversity per iteration. 4. All
  trained arms in one table.
  """
  runs = sorted(workdir.glob("seed*"))
  if not runs:
    raise FileNotFoundError(f"no runs at {workdir}/seed*")
  order = list(config.run_refine.order)
  arms = {name: _arm(runs, "refine", name) for name in order}
  loops = {name: found for name in LOOPS if (found := _loop(runs, name))}
  systems = {name: _system(runs, name) for name in critique_systems.SYSTEMS}
  data = [_json(run / "critic_data/manifest.json") for run in runs]
  parts = {
    "Critiques": _data(runs, data),
    "Test time": critique_tables.arms(arms),
    "Test time by difficulty (pass rates of the first actor)": (
      critique_tables.by_difficulty(arms, [_rates(run) for run in runs])
    ),
    "Critics, held out of training": critique_tables.held_out(
      [found for run in runs if (found := _validated(run / "critic"))]
    ),
    "Critics": critique_tables.critics(arms),
    "Votes at equal tokens": critique_tables.votes(arms),
    "Self-improvement (bins: hardest first)": critique_tables.tails(loops),
    "Hardest bin: problems solved, in points": critique_systems.hardest(loops),
    "All arms": critique_systems.systems(systems, loops),
  }
  text = "\n\n".join(
    "\n".join([f"## {head}", "", *lines]) for head, lines in parts.items()
  )
  for name, chart in critique_plots.plots(arms, loops).items():
    if chart:
      (workdir / name).write_text(chart, encoding="utf-8")
  numbers = {
    "seeds": [run.name for run in runs],
    "data": data,
    "arms": arms,
    "loops": loops,
    "systems": systems,
  }
  (workdir / "critique_report.md").write_text(text + "\n", encoding="utf-8")
  (workdir / "critique_report.json").write_text(
    json.dumps(numbers, indent=1) + "\n", encoding="utf-8"
  )
  print(text, flush=True)
  return f"Wrote {workdir}/critique_report.md (also .json and .svg)"


def _json(path: pathlib.Path) -> Any:
  return json.loads(path.read_text()) if path.exists() else None


def _arm(runs, folder: str, name: str) -> list[dict[str, Any]]:
  found = [_json(run / folder / name / "summary.json") for run in runs]
  return [f for f in found if f]


def _loop(runs, name) -> list[list[dict[str, Any]]]:
  """Per run, the manifests of all iterations."""
  found = []
  for run in runs:
    folders = [run / f"{folder}_data" for folder in _iterations(run, name)]
    if made := [m for f in folders if (m := _json(f / "manifest.json"))]:
      found.append([{**m, "seed": run.name} for m in made])
  return found


def _validated(folder: pathlib.Path) -> dict[str, float] | None:
  """The validation figures of a run's best checkpoint."""
  if not (folder / "checkpoints").exists():
    return None
  return checkpoint.read_meta(folder)["metrics"]


def _iterations(run: pathlib.Path, name: str) -> list[str]:
  """`critic1`, `critic2`, ... in order, as far as there are rows of them."""
  names = [f.name.removesuffix("_data") for f in run.glob(f"{name}*_data")]
  names = [n for n in names if re.fullmatch(rf"{name}\d+", n)]
  return sorted(names, key=lambda n: int(n.removeprefix(name)))


def _system(runs, name: str) -> list[dict[str, Any]]:
  """Per run that has it, figures per problem and how it was trained."""
  found = []
  for run in runs:
    if name in FOLDERS:
      arm = _json(run / FOLDERS[name] / TOGETHER / "summary.json")
      if arm and "after" in arm:
        values = [100.0 * right for _, right in sorted(arm["after"].items())]
        found.append({"seed": run.name, "greedy": values})
      continue
    greedy = run / "evaluate" / name / "greedy.jsonl"
    if greedy.exists():
      last = _iterations(run, name)[-1:] if name in LOOPS else []
      folder = run / (last[0] if last else name)
      found.append({"seed": run.name, **_answers(greedy), **_training(folder)})
  return found


def _answers(greedy: pathlib.Path) -> dict[str, list[float]]:
  """Rule -> values per problem, by problem."""

  def table(path):
    rows = selection.merged(records.read(records.Attempts, path))
    return selection.table(sorted(rows, key=lambda row: row.problem))

  samples = greedy.with_name("samples.jsonl")
  found = selection.per_problem(None, table(greedy), ())
  if samples.exists():
    sampled = table(samples)
    k = sampled.correct_BS.shape[1]
    rules = selection.per_problem(sampled, None, (k,))
    found |= {key: rules[f"{key}@{k}"] for key in ("vote", "pass")}
  found["greedy"] = found.pop(selection.GREEDY)
  return {name: values.tolist() for name, values in found.items()}


def _training(folder: pathlib.Path) -> dict[str, float]:
  """What an actor was trained on, for how long and how fast."""
  settings = (_json(folder / "config.json") or {}).get("train_generator")
  if not settings:
    return {}
  train = settings["train"]
  made = {
    "updates": _updates(folder),
    "rate": train["optimizer"]["learning_rate"],
  }
  files = [folder / name for name in settings["examples"]]
  if files and all(path.exists() for path in files):
    made["rows"] = sum(len(path.read_bytes().splitlines()) for path in files)
  elif settings["rows"]:
    made["rows"] = settings["rows"] - settings.get("first", 0)
  return made


def _rates(run: pathlib.Path) -> dict[str, float]:
  """The first actor's pass rates on the test problems."""
  path = run / "evaluate" / "actor0" / "samples.jsonl"
  if not path.exists():
    return {}
  rows = selection.merged(records.read(records.Attempts, path))
  return difficulty.pass_rates(
    (row.problem, [c.correct for c in row.candidates]) for row in rows
  )


def _updates(folder: pathlib.Path) -> int:
  """Of an actor, and of those that it goes on from."""
  settings = (_json(folder / "config.json") or {}).get("train_generator")
  if not settings:
    return 0
  before = settings["model"]["init_from"]
  earlier = _updates((folder / before).resolve()) if before else 0
  return settings["train"]["steps"] + earlier


def _data(runs, manifests) -> list[str]:
  lines = []
  for run, row in zip(runs, manifests, strict=True):
    if row:
      kept, located = (
        row.get(key) for key in ("filter_kept_percent", "located_percent")
      )
      lines += [f"- {run.name}: made {row['made']}, dropped {row['dropped']},"
                f" used {row['used']}; kept by the filter: {kept}; errors"
                f" where they are said to be: {located}"]  # fmt: skip
  return lines


if __name__ == "__main__":
  launch.run(main, SECTIONS)
