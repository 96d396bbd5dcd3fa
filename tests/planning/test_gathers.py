"""A decoding step sends activations, never a matrix; a train step does both."""

import dataclasses

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
# A family takes the fields it has.
SIZES = {
  "vocab_size": 512,
  "width": WIDTH,
  "mlp": 512,
  "heads": 4,
  "kv_heads": 4,
  "head_dim": 64,
  "layers": 2,
  "encoder_layers": 2,
  "decoder_layers": 2,
}
# (family, whether the head is the embedding table, devices on `tensor`)
CASES = (
  ("llama", False, 1),
  ("llama", False, 4),
  ("llama", True, 2),
  ("galactica", True, 1),
  ("gpt2", True, 4),
  ("codegen", False, 2),
  ("t5", False, 2),
  ("t5", True, 4),
)


def test_every_family_is_asked():
  writers = {name for name, f in families.families().items() if f.writes}
  assert {family for family, *_ in CASES} == writers


def model(family, tied, tensor):
  """(planner, module, params, bytes of its smallest matrix)."""
  topology = topologies.parse("cpu:8")
  mesh = sharding.make_mesh(tensor=tensor, devices=topology.devices())
  kind = families.families()[family]
  fields = {field.name for field in dataclasses.fields(kind.config)}
  sizes = {name: size for name, size in SIZES.items() if name in fields}
  module = kind.module(kind.config(**sizes, tied=tied))
  params = state.abstract_params(module, build.example_batch(), mesh)
  least = smallest_matrix(module, params, mesh)
  return programs.Planner(topology, mesh), module, params, least


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


@pytest.mark.parametrize(("family", "tied", "tensor"), CASES)
def test_no_step_gathers_a_whole_parameter(family, tied, tensor):
  planner, module, params, least = model(family, tied, tensor)
  made, _ = programs.sampler(
    planner,
    module,
    params,
    Shape(ROWS, 1, PROMPT, TARGET),
    prefill_tokens=512,
    chunk=4,
    resident=0,
  )
  chunk = next(p for p in made if p.name == "decode chunk")
  assert chunk.gathers  # it is one mesh's, and there is something to compare
  assert large(chunk, least) == []


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_train_step_gathers_them(family):
  """The same question of a step that does."""
  planner, module, params, least = model(family, tied=False, tensor=1)
  optimizer = optim.make_optimizer(optim.OptimizerSettings())[0]
  step = make_train_step(supervised_loss(module, chunk=4096), optimizer)
  batch = planner.batch(ROWS, PROMPT, TARGET)
  train, _ = programs.train_step(planner, step, params, optimizer, batch)
  assert len(large(train, least)) >= 8
