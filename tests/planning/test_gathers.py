"""A decoding step sends activations, never a matrix; a train step does both."""

import jax
import pytest

from refine_jax import sharding
from refine_jax.models import families
from refine_jax.planning import programs, topologies
from refine_jax.sampling.planning import Shape
from refine_jax.stages import build
from refine_jax.training import optim, state
from refine_jax.training.loss import supervised_loss
from refine_jax.training.step import make_train_step

ROWS, PROMPT, TARGET, WIDTH = 16, 32, 16, 256
COMMON = {"vocab_size": 512, "width": WIDTH, "heads": 4, "head_dim": 64}
CONFIGS = {
  "llama": {**COMMON, "mlp": 512, "layers": 2, "kv_heads": 4},
  "t5": {**COMMON, "mlp": 512, "encoder_layers": 2, "decoder_layers": 2},
}


def smallest_matrix(module, params, mesh) -> float:
  """Bytes of what a device holds of it, were it whole on the batch's axes."""
  weights = jax.eval_shape(module.decode_weights, params)
  sizes = [
    leaf.size * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(weights)
    if leaf.ndim > 1 and leaf.size >= WIDTH * WIDTH
  ]
  return min(sizes) / mesh.shape["tensor"]


def large(program: programs.Program, least: float) -> list[tuple[str, float]]:
  return [(text, size) for text, size in program.gathers if size >= least]


@pytest.mark.parametrize(
  ("family", "tensor"), [("llama", 1), ("llama", 2), ("t5", 1)]
)
def test_no_step_gathers_a_whole_parameter(family, tensor):
  topology = topologies.parse("cpu:8")
  mesh = sharding.make_mesh(tensor=tensor, devices=topology.devices())
  planner = programs.Planner(topology, mesh)
  module = families.build({"family": family, "config": CONFIGS[family]})
  params = state.abstract_params(module, build.example_batch(), mesh)
  least = smallest_matrix(module, params, mesh)
  made, _ = programs.sampler(
    planner,
    module,
    params,
    Shape(ROWS, 1, PROMPT, TARGET),
    prefill_tokens=512,
    chunk=4,
    resident=0,
  )
  (chunk,) = [p for p in made if p.name == "decode chunk"]
  assert chunk.gathers  # it is one mesh's, and there is something to compare
  assert large(chunk, least) == []
  # The same question of a step that does gather them.
  optimizer = optim.make_optimizer(optim.OptimizerSettings())[0]
  step = make_train_step(supervised_loss(module, chunk=4096), optimizer)
  batch = planner.batch(ROWS, PROMPT, TARGET)
  train, _ = programs.train_step(planner, step, params, optimizer, batch)
  assert len(large(train, least)) >= 8
