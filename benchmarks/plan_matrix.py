"""The table of plans in docs/performance.md, cell by cell.

    python benchmarks/plan_matrix.py --out=FILE.jsonl [--only=REGEX]
        [--max_cells=N] [--seconds=S] [--table]

A cell that is in the file is not made again, so the command can be stopped
and repeated. A small cell tries slices from small to large until one fits.
What several cells run is compiled once: it is remembered in FILE.programs.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import time

TOP = pathlib.Path(__file__).parent.parent
PPO = "configs/reft/ppo.py"
REFINE = "configs/refiner/mwp.py:model=llama,size=large,path=."
# Model -> arguments of PPO's config, and weights that it does not name.
MODELS = {
  "T5-large": ("t5_large", "google-t5/t5-large"),
  "Galactica-6.7B": ("galactica_6_7b", ""),
  "LLaMA-7B": ("llama_7b", ""),
  "Llama-3-8B": ("llama3_8b", ""),
  "T5-11B": ("t5_large", "google-t5/t5-11b"),
  "CodeLLaMA-34B": ("codellama_34b", ""),
}
# Of those that sample 256 rows and refine, the weights.
SAMPLED = {
  "T5-large": "google-t5/t5-large",
  "Galactica-6.7B": "facebook/galactica-6.7b",
  "LLaMA-7B": "meta-llama/Llama-2-7b-hf",
  "Llama-3-8B": "meta-llama/Meta-Llama-3-8B",
}
STAGES = {"SFT": "train_generator", "PPO": "train_reft"}
SMALL = {
  "T5-large": ("v6e:1x1", "v6e:2x2", "v6e:2x4"),
  "Galactica-6.7B": ("v6e:2x4", "v6e:4x4"),
  "LLaMA-7B": ("v5e:4x4", "v5e:4x8", "v5e:8x8"),
  "Llama-3-8B": ("v4:2x2x2", "v4:2x2x4", "v4:2x4x4"),
  "T5-11B": ("v5p:2x2x1", "v5p:2x2x2", "v5p:2x2x4"),
  "CodeLLaMA-34B": ("v5p:2x2x4", "v5p:2x4x4", "v5p:4x4x4"),
}
# Every host samples by itself, so these are hosts. Where every head has keys
# and values of its own, 256 rows of them fit none unless they are kept in int8.
HOSTS = {
  "T5-large": ("v6e:1x1", "v6e:2x2", "v6e:2x4"),
  "Galactica-6.7B": ("v6e:2x4", "v5p:2x2x1"),
  "LLaMA-7B": ("v6e:2x4", "v5p:2x2x1"),
  "Llama-3-8B": ("v4:2x2x1", "v6e:2x4", "v5p:2x2x1"),
}
INT8 = ("Galactica-6.7B", "LLaMA-7B")
# 256 chips, once as two slices.
LARGE = {
  "T5-large": "v5e:16x16",
  "Galactica-6.7B": "v6e:16x16",
  "LLaMA-7B": "v5e:8x16*2",
  "Llama-3-8B": "v5p:4x8x8",
  "T5-11B": "v5p:4x8x8",
  "CodeLLaMA-34B": "v4:4x8x8",
}


@dataclasses.dataclass(frozen=True)
class Cell:
  """One row: a stage of a model on the first topology that it fits."""

  name: str
  stage: str
  config: str
  topologies: tuple[str, ...]
  flags: tuple[str, ...] = ()

  def command(self, topology: str, known: pathlib.Path) -> list[str]:
    command = [sys.executable, "-m", "refine_jax.stages.plan", "--json"]
    command += [f"--config={self.config}", f"--stage={self.stage}"]
    command += [f"--topology={topology}", "--nosearch", f"--known={known}"]
    return [*command, *(f"--config.{flag}" for flag in self.flags)]


def cells() -> list[Cell]:
  """Small ones first."""
  found = []
  for model in MODELS:
    found += [_training(model, name, SMALL[model]) for name in STAGES]
  found += [_refining(model) for model in SAMPLED]
  found += [_sampling(model) for model in SAMPLED]
  for model in MODELS:
    for name, stage in STAGES.items():
      rows = (
        f"{stage}.train.batch_size=256",
        f"{stage}.train.micro_batches=1",
        "engine.slots=256",
      )
      large = (LARGE[model],)
      found.append(_training(model, name, large, " (256 chips)", rows))
  return found


def _training(model, name, topologies, words="", flags=()) -> Cell:
  argument, path = MODELS[model]
  own = (f"model.path={path}",) if path else ()
  if path and name == "SFT":
    own += (f"train_generator.model.path={path}",)
  return Cell(
    f"{name} {model}{words}",
    STAGES[name],
    f"{PPO}:model={argument}",
    topologies,
    (*own, *flags),
  )


def _sampling(model) -> Cell:
  argument, path = MODELS[model]
  own = (f"model.path={path}",) if path else ()
  words = ""
  if model in INT8:
    words, own = " of int8", (*own, "engine.cache_dtype=int8")
  return Cell(
    f"sample, 256 slots{words} {model}",
    "run_sample",
    f"{PPO}:model={argument}",
    HOSTS[model],
    (*own, "engine.slots=256"),
  )


def _refining(model) -> Cell:
  path = SAMPLED[model]
  return Cell(
    f"refine turn {model}",
    "refine_turn",
    REFINE,
    SMALL[model],
    (f"model.path={path}", f"train_critic.model.path={path}"),
  )


def make(cell: Cell, known: pathlib.Path) -> dict:
  """The first topology on which the cell fits, or the last."""
  row: dict = {"name": cell.name}
  for topology in cell.topologies:
    made = subprocess.run(
      cell.command(topology, known), capture_output=True, text=True, cwd=TOP
    )
    row |= {"topology": topology}
    row.pop("plan", None)  # of the slice before
    if made.returncode > 1 or not made.stdout:
      row["error"] = made.stderr.strip().splitlines()[-1:]
      continue
    row.pop("error", None)
    row["plan"] = json.loads(made.stdout.splitlines()[-1])
    if row["plan"]["fits"]:
      break
  return row


def done(path: pathlib.Path) -> dict[str, dict]:
  """Rows of a file, by name; cuts a last line that was not written whole."""
  if not path.exists():
    return {}
  os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
  rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
  # What went wrong is tried again.
  return {row["name"]: row for row in rows if "plan" in row}


def table(rows: dict[str, dict]) -> str:
  lines = [
    "| cell | slice | GiB of chip | used | bound of the dearest program | by |",
    "|---|---|---|---|---|---|",
  ]
  for row in rows.values():
    plan = row["plan"]
    used = plan["peak_bytes"] / plan["chip_bytes"]
    dearest = max(plan["programs"], key=lambda p: p["bound_seconds"])
    lines.append(
      f"| {row['name']} | {row['topology']} |"
      f" {plan['peak_bytes'] / 2**30:.1f} of {plan['chip_bytes'] / 2**30:.0f} |"
      f" {100 * used:.0f} %{'' if plan['fits'] else ', does not fit'} |"
      f" {dearest['name']}: {dearest['bound_seconds']:.3f} s |"
      f" {dearest['bound_by']} |"
    )
  return "\n".join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--only", default="")
  parser.add_argument("--max_cells", type=int, default=10**6)
  parser.add_argument(
    "--seconds", type=float, default=1e9, help="no new cell after so many"
  )
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
  begun = time.monotonic()
  for cell in left[: asked.max_cells]:
    if time.monotonic() - begun > asked.seconds:
      break
    row = make(cell, asked.out.with_suffix(".programs"))
    with asked.out.open("a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")
    print(cell.name, row["topology"], "error" in row, flush=True)


if __name__ == "__main__":
  main()
