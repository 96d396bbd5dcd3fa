"""Compiles for TPUs in a process of its own, whose XLA_FLAGS are libtpu's.

    python tpu_child.py plan TOPOLOGY [config.field=JSON ...]
    python tpu_child.py rematerialize TOPOLOGY

`plan` prints the programs of a small model's PPO as JSON; `rematerialize`
compiles what the partitioner warns of.
"""

import dataclasses
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from refine_jax import sharding
from refine_jax.planning import topologies
from refine_jax.stages import launch, plan

TOP = pathlib.Path(__file__).parent.parent.parent
# Heads and rows that the attention kernel takes.
SIZES = {"width": 128, "heads": 2, "mlp": 256, "unroll": 1}
LLAMA = {"layers": 2, "kv_heads": 2, "head_dim": 64, "max_length": 160}
CONFIG = {
  "tokenizer.train.vocab_size": 512,
  "data.max_prompt": 128,
  "completion.max_tokens": 32,
  "engine.prompt_buckets": (128,),
}


def planned(topology, changes):
  family = changes.pop("family", "llama")
  name = f"{TOP}/configs/reft/arithmetic.py:model={family},smoke"
  config = launch.load_config(name)
  sizes = SIZES | (LLAMA if family == "llama" else {})
  own = {f"model.overrides.{field}": size for field, size in sizes.items()}
  config.update_from_flattened_dict(own | CONFIG | changes)
  report = plan.main(config, topology, stage="train_reft", search=False)
  programs = [
    dataclasses.asdict(dataclasses.replace(p, output_shardings=None))
    for p in report.programs
  ]
  print(json.dumps({"fits": report.fits, "programs": programs}))


def rematerialize(topology):
  mesh = sharding.make_mesh(fsdp=4, tensor=2, devices=topology.devices())
  columns, rows = (
    NamedSharding(mesh, PartitionSpec(*axes))
    for axes in ((None, "tensor"), ("fsdp", None))
  )
  x = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=columns)
  turn = jax.jit(lambda x: jax.lax.with_sharding_constraint(x, rows) + 1)
  turn.lower(x).compile()


def main(what, name, *changes):
  jax.config.update("jax_platforms", "cpu")
  topology = topologies.parse(name)
  if what == "rematerialize":
    rematerialize(topology)
  else:
    pairs = (change.split("=") for change in changes)
    planned(topology, {field: json.loads(value) for field, value in pairs})


if __name__ == "__main__":
  main(*sys.argv[1:])
