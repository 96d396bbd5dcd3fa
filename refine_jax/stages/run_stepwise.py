"""Answers problems step by step, one arm after another; one table of all.

An arm is a selector with its models; see `config.stepwise_arm`. Each writes
<workdir>/<arm>/trajectories.jsonl, work.jsonl and summary.json; an arm that
is complete is not run again, and one that was killed goes on. Several
processes share the blocks; the first puts their rows together. table.json and
table.md compare the arms, paired.
"""

import collections
import dataclasses
import json
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from refine_jax import files, records
from refine_jax.methods import comparison
from refine_jax.records import Trajectory
from refine_jax.stages import build, dealt, distributed, launch
from refine_jax.stages.stepwise_arms import SUMMARY, Bench, Work

SECTIONS = ("seed", "task", "mesh", "engine", "layouts", "run_stepwise")
TRAJECTORIES, WORK = "trajectories.jsonl", "work.jsonl"


@dataclasses.dataclass(frozen=True)
class Block:
  """Problems that advanced together; all their trajectories are written.

  Attributes:
    id: the first one's.
    work: what every role did, in exact counts.
  """

  id: str
  work: Work = dataclasses.field(default_factory=dict)


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Runs every arm.

  1. Read the problems.
  2. Per arm: build its roles, advance all problems together, block by block.
  3. Compare the arms, and those of other runs if they were asked alike.
  """
  bench = Bench(config, workdir)
  for name in config.run_stepwise.order:
    summary = distributed.found(workdir / name / SUMMARY)
    if summary is None:
      summary = run(bench, name)
    distributed.tell(_line(name, summary))
  return distributed.by_first(lambda: _compare(bench))


def run(bench: Bench, name: str) -> dict[str, Any]:
  """One arm from its first problem that is not answered to its summary."""
  arm, folder = bench.settings.arms[name], bench.workdir / name
  chunks = dealt.Chunks(bench.problems, bench.settings.together, "together")
  answer = bench.answer(arm)
  solved, worked = (dealt.own(folder / x) for x in (TRAJECTORIES, WORK))
  with (
    records.Appender(Trajectory, solved) as rows,
    records.Appender(Block, worked) as blocks,
  ):
    for _, problems in chunks:
      if problems[0].id in blocks.done:
        continue
      made, work = answer(problems)
      rows.append(t for t in made if t.id not in rows.done)
      rows.settle()
      # Last: a block is done once its work is there.
      blocks.append([Block(problems[0].id, work)])
  distributed.together(f"all blocks of {name} are answered")
  first = jax.process_index() == 0
  return distributed.spoken(
    _conclude(bench, arm, folder, chunks) if first else None
  )


def _conclude(bench, arm, folder, chunks) -> dict[str, Any]:
  """Joins what all processes wrote; writes the summary, which is the mark of
  a complete arm."""
  working = folder / TRAJECTORIES, folder / WORK
  chunks.join(*working)
  summary = _summary(bench, arm, folder)
  files.write(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
  dealt.remove(*working)
  return summary


def _summary(bench: Bench, arm: ConfigDict, folder) -> dict[str, Any]:
  made = list(records.read(Trajectory, folder / TRAJECTORIES))

  def percent(values) -> float:
    return 100 * sum(values) / len(made)

  tokens = sum(t.spent for row in made for t in row.turns)
  judged = [note["unparsed"] for row in made for note in row.meta["rounds"]]
  return {
    "prompt": bench.prompt,
    "arm": arm.to_dict(),
    "problems": len(made),
    "accuracy": percent(t.meta["correct"] for t in made),
    "unparsed": percent(t.meta["unparsed"] for t in made),
    "stuck": percent(t.meta["finish"] != "answer" for t in made),
    "judge_unparsed": sum(judged),
    "tokens_per_problem": tokens / len(made),
    "calls_per_problem": sum(t.meta["calls"] for t in made) / len(made),
    "work": _work(folder),
  }


def _work(folder: pathlib.Path) -> Work:
  """Of all blocks."""
  total: dict[str, collections.Counter] = {}
  for block in records.read(Block, folder / WORK):
    for role, counts in block.work.items():
      total.setdefault(role, collections.Counter()).update(counts)
  return {role: dict(counts) for role, counts in total.items()}


def _line(name: str, summary: dict[str, Any]) -> str:
  return (
    f"{name}: {summary['accuracy']:.1f} %, {summary['unparsed']:.1f} %"
    f" unparsed, {summary['stuck']:.1f} % without an answer,"
    f" {summary['tokens_per_problem']:.1f} tokens per problem"
  )


def _compare(bench: Bench) -> str:
  """Writes the tables."""
  settings, workdir = bench.settings, bench.workdir
  arms = [arm_of(workdir / name) for name in settings.order]
  arms += [arm_of(build.resolve(path, workdir)) for path in settings.others]
  rows = comparison.table(arms, settings.references, seed=bench.config.seed)
  files.write(workdir / "table.json", json.dumps(rows, indent=2) + "\n")
  text = comparison.markdown(rows, settings.references)
  files.write(workdir / "table.md", text + "\n")
  return f"Answered {len(bench.problems)} problems in {len(arms)} arms"


def arm_of(folder: pathlib.Path) -> comparison.Arm:
  """A finished arm, as the comparison wants it."""
  summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
  rows = list(records.read(Trajectory, folder / TRAJECTORIES))

  def column(key):
    return {row.problem: row.meta[key] for row in rows}

  return comparison.Arm(
    name=folder.name,
    prompt=summary["prompt"],
    correct=column("correct"),
    unparsed=column("unparsed"),
    stuck={row.problem: row.meta["finish"] != "answer" for row in rows},
    tokens={row.problem: sum(t.spent for t in row.turns) for row in rows},
    calls=column("calls"),
  )


if __name__ == "__main__":
  launch.run(main, SECTIONS)
