"""The table of plans in docs/performance.md, cell by cell.

    python benchmarks/plan_matrix.py --out=FILE.jsonl [--only=REGEX]
        [--max_cells=N] [--table]

A cell that is in the file is not made again, so the command can be stopped
and repeated. A small cell tries slices from small to large until one fits.
"""

import argparse
import dataclasses
import json
import pathlib
import re
import subprocess
import sys

TOP = pathlib.Path(__file__).parent.parent
CONFIG = "configs/reft/ppo.py"
# Model -> arguments of the config, and fields that it has not.
MODELS = {
  "t5-large": ("t5_large", "google-t5/t5-large"),
  "galactica-6.7b": ("galactica_6_7b", ""),
  "llama-7b": ("llama_7b", ""),
  "llama3-8b": ("llama3_8b", ""),
  "t5-11b": ("t5_large", "google-t5/t5-11b"),
  "codellama-34b": ("codellama_34b", ""),
}
STAGES = {"SFT": "train_generator", "PPO": "train_reft"}
SMALL = {
  "t5-large": ("v6e:1x1", "v6e:2x2", "v6e:2x4"),
  "galactica-6.7b": ("v6e:2x4", "v6e:4x4"),
  "llama-7b": ("v5e:4x4", "v5e:4x8", "v5e:8x8"),
  "llama3-8b": ("v4:2x2x2", "v4:2x2x4", "v4:2x4x4"),
  "t5-11b": ("v5p:2x2x1", "v5p:2x2x2", "v5p:2x2x4"),
  "codellama-34b": ("v5p:2x2x4", "v5p:2x4x4", "v5p:4x4x4"),
}
LARGE = {
  "t5-large": "v5e:16x16",
  "galactica-6.7b": "v6e:16x16",
  "llama-7b": "v5e:8x16*2",
  "llama3-8b": "v5p:4x8x8",
  "t5-11b": "v5p:4x8x8",
  "codellama-34b": "v4:4x8x8",
}


@dataclasses.dataclass(frozen=True)
class Cell:
  """One row: a stage of a model on the first topology that it fits."""

  name: str
  stage: str
  model: str
  topologies: tuple[str, ...]
  flags: tuple[str, ...] = ()

  def command(self, topology: str) -> list[str]:
    argument, path = MODELS[self.model]
    command = [sys.executable, "-m", "refine_jax.stages.plan", "--json"]
    command += [f"--config={CONFIG}:model={argument}", f"--stage={self.stage}"]
    command += [f"--topology={topology}", "--nosearch", *self.flags]
    if path:
      command += [f"--config.model.path={path}"]
    return command


def cells() -> list[Cell]:
  """Small ones first."""
  found = []
  for model in MODELS:
    for name, stage in STAGES.items():
      found.append(Cell(f"{name} {model}", stage, model, SMALL[model]))
  for model in ("t5-large", "galactica-6.7b", "llama-7b", "llama3-8b"):
    found.append(
      Cell(
        f"sample, 256 slots {model}",
        "run_sample",
        model,
        SMALL[model],
        ("--config.engine.slots=256",),
      )
    )
  for model in MODELS:
    for name, stage in STAGES.items():
      rows = (
        f"--config.{stage}.train.batch_size=256",
        f"--config.{stage}.train.micro_batches=1",
        "--config.engine.slots=256",
      )
      large = (LARGE[model],)
      found.append(Cell(f"{name} {model} (256)", stage, model, large, rows))
  return found


def make(cell: Cell) -> dict:
  """The first topology on which the cell fits, or the last."""
  row: dict = {"name": cell.name}
  for topology in cell.topologies:
    made = subprocess.run(
      cell.command(topology), capture_output=True, text=True, cwd=TOP
    )
    row |= {"topology": topology}
    if made.returncode > 1 or not made.stdout:
      row["error"] = made.stderr.strip().splitlines()[-1:]
      continue
    row.pop("error", None)
    row["plan"] = json.loads(made.stdout.splitlines()[-1])
    if row["plan"]["fits"]:
      break
  return row


def done(path: pathlib.Path) -> dict[str, dict]:
  if not path.exists():
    return {}
  rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
  return {row["name"]: row for row in rows}


def table(rows: dict[str, dict]) -> str:
  lines = [
    "| cell | slice | GiB of chip | used | bound of the first program | by |",
    "|---|---|---|---|---|---|",
  ]
  for row in rows.values():
    if "plan" not in row:
      lines.append(f"| {row['name']} | {row['topology']} | error | | | |")
      continue
    plan = row["plan"]
    used, first = plan["peak_bytes"] / plan["chip_bytes"], plan["programs"][0]
    lines.append(
      f"| {row['name']} | {row['topology']} |"
      f" {plan['peak_bytes'] / 2**30:.1f} of {plan['chip_bytes'] / 2**30:.0f} |"
      f" {100 * used:.0f} %{'' if plan['fits'] else ', does not fit'} |"
      f" {first['name']}: {first['bound_seconds']:.3f} s |"
      f" {first['bound_by']} |"
    )
  return "\n".join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--only", default="")
  parser.add_argument("--max_cells", type=int, default=10**6)
  parser.add_argument("--table", action="store_true")
  asked = parser.parse_args()
  if asked.table:
    print(table(done(asked.out)))
    return
  left = [
    cell
    for cell in cells()
    if cell.name not in done(asked.out) and re.search(asked.only, cell.name)
  ]
  for cell in left[: asked.max_cells]:
    row = make(cell)
    with asked.out.open("a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")
    print(cell.name, row["topology"], "error" in row, flush=True)


if __name__ == "__main__":
  main()
