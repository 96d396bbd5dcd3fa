"""Weak scaling on paper: a train step on 8 to 256 chips, from its program.

    python benchmarks/weak_scaling.py --out=FILE.jsonl [--models=REGEX]
        [--slices=REGEX] [--table]

Every device has the same rows, whatever their number. A row that is in the
file is not made again. The efficiencies are bounds, not measurements: compute
at the chip's published peak, collectives at the published bandwidth of its
links within a slice, either hidden behind the products as far as they reach
(overlapped) or not at all (serial), relative to 8 devices.
"""

import argparse
import json
import pathlib
import re

import jax

jax.config.update("jax_platforms", "cpu")
# A program out of the cache has no text to read.
jax.config.update("jax_enable_compilation_cache", False)

from refine_jax import sharding  # noqa: E402
from refine_jax.models import families, hf  # noqa: E402
from refine_jax.planning import architectures, programs, topologies  # noqa: E402
from refine_jax.stages import build  # noqa: E402
from refine_jax.training import optim, state  # noqa: E402
from refine_jax.training.loss import supervised_loss  # noqa: E402
from refine_jax.training.step import make_train_step  # noqa: E402

MODELS = {
  "125M": "facebook/galactica-125m",
  "1B": "meta-llama/Llama-3.2-1B",
  "3B": "meta-llama/Llama-3.2-3B",
  "7B": "meta-llama/Llama-2-7b-hf",
}
SLICES = ("2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
ROWS, PROMPT, TARGET = 1, 512, 1536  # of a device
CHUNK = 512  # of a device's tokens, logits exist at a time


def measure(model: str, chips: str) -> dict:
  """One row: the step of a model on a v5e slice, fsdp over all of it."""
  topology = topologies.parse(f"v5e:{chips}")
  mesh = sharding.make_mesh(devices=topology.devices())
  planner = programs.Planner(topology, mesh)
  shape = hf.config_from_hf(
    architectures.hf_config(MODELS[model]), remat="full", dtype="bfloat16"
  )
  kinds = {f.config: f.module for f in families.families().values()}
  module = kinds[type(shape)](shape)
  params = state.abstract_params(module, build.example_batch(), mesh)
  optimizer = optim.make_optimizer(
    optim.OptimizerSettings(first_moment_dtype="bfloat16")
  )[0]
  loss = supervised_loss(module, chunk=CHUNK * topology.count)
  step = make_train_step(loss, optimizer)
  batch = planner.batch(ROWS * topology.count, PROMPT, TARGET)
  program, _ = programs.train_step(planner, step, params, optimizer, batch)
  received = sum(c.bytes for c in program.collectives.values())
  return {
    "model": model,
    "parameters": sum(x.size for x in jax.tree.leaves(params)),
    "devices": topology.count,
    "flops": program.flops,
    "received": received,
    "peak_bytes": program.peak_bytes,
    "compute_seconds": program.flops / topology.chip.flops,
    "network_seconds": received / topology.chip.link,
    "seconds": round(program.seconds, 1),
  }


def table(rows: list[dict]) -> str:
  lines = [
    "| model | chips | TFLOP a device | of 8 | received, GB | GiB |"
    " efficiency, overlapped | serial |",
    "|---|---|---|---|---|---|---|---|",
  ]
  rows = sorted(rows, key=lambda row: (row["parameters"], row["devices"]))
  first = {}
  for row in rows:
    least = first.setdefault(row["model"], row)
    both = [_efficiency(least, row, f) for f in (max, lambda *x: sum(x))]
    lines.append(
      f"| {row['model']} | {row['devices']} | {row['flops'] / 1e12:.3f} |"
      f" {row['flops'] / least['flops']:.4f} |"
      f" {row['received'] / 1e9:.2f} | {row['peak_bytes'] / 2**30:.1f} |"
      f" {both[0]:.3f} | {both[1]:.3f} |"
    )
  return "\n".join(lines)


def _efficiency(least: dict, row: dict, together) -> float:
  names = ("compute_seconds", "network_seconds")
  return together(*(least[n] for n in names)) / together(
    *(row[n] for n in names)
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--models", default="")
  parser.add_argument("--slices", default="")
  parser.add_argument("--table", action="store_true")
  asked = parser.parse_args()
  text = asked.out.read_text("utf-8") if asked.out.exists() else ""
  rows = list(map(json.loads, text.splitlines()))
  if asked.table:
    print(table(rows))
    return
  have = {(row["model"], row["devices"]) for row in rows}
  for model in filter(re.compile(asked.models).search, MODELS):
    for chips in filter(re.compile(asked.slices).search, SLICES):
      if (model, topologies.parse(f"v5e:{chips}").count) in have:
        continue
      row = measure(model, chips)
      with asked.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
      print(model, chips, row["seconds"], flush=True)


if __name__ == "__main__":
  main()
