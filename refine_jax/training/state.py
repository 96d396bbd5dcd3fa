"""Parameters with their optimizer state, placed on a mesh."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from refine_jax import sharding
from refine_jax.batch import Params


@flax.struct.dataclass
class TrainState:
  """What a step changes. `step` counts the updates made."""

  step: jax.Array
  params: Params
  opt_state: Any


def abstract_params(module: Any, example_batch: Any, mesh) -> Any:
  """Shapes, dtypes and shardings of a module's parameters; allocates nothing.

  Returns:
    a pytree of ShapeDtypeStruct with shardings, as `checkpoint.load_params`
    and ahead-of-time compilation take it.
  """
  boxed = jax.eval_shape(module.init, jax.random.key(0), example_batch)
  return _placed(boxed["params"], mesh)


def _placed(boxed: Any, mesh) -> Any:
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    nn.unbox(boxed),
    sharding.of_variables(boxed, mesh),
  )


def init_params(
  module: Any, rng: jax.Array, mesh, example_batch: Any
) -> Params:
  """Fresh parameters, each made on the devices that hold it."""
  abstract = abstract_params(module, example_batch, mesh)
  init = jax.jit(
    lambda rng: nn.unbox(module.init(rng, example_batch)["params"]),
    out_shardings=jax.tree.map(lambda x: x.sharding, abstract),
    compiler_options=_once(abstract, mesh),
  )
  return init(rng)


def _once(abstract: Any, mesh) -> dict[str, int] | None:
  """Compiler options for what runs once.

  On CPU, XLA would spend several times longer on optimising the random
  numbers of a small model than they take; of a large one level 1 loses nothing.
  """
  if mesh.devices.flat[0].platform != "cpu":
    return None
  small = sum(x.size for x in jax.tree.leaves(abstract)) < 4e6
  return {"xla_backend_optimization_level": 0 if small else 1}


def init_state(
  module: Any,
  optimizer: optax.GradientTransformation,
  rng: jax.Array,
  mesh,
  example_batch: Any,
  params: Params | None = None,
) -> TrainState:
  """A state at step 0.

  Args:
    module: a linen module whose `init(rng, batch)["params"]` is boxed with
      logical axis names.
    optimizer: an optax transformation.
    rng: key of the initialisation.
    mesh: where everything goes.
    example_batch: only its shapes and dtypes matter.
    params: given parameters instead of fresh ones. A train step donates them
      with the state.

  Raises:
    ValueError: `params` are not of the module's shapes.
  """
  if params is None:
    return state_of(init_params(module, rng, mesh, example_batch), optimizer)
  abstract = abstract_params(module, example_batch, mesh)
  check_like(params, abstract, "the given parameters")
  params = jax.device_put(params, jax.tree.map(lambda x: x.sharding, abstract))
  return state_of(params, optimizer)


def state_of(
  params: Params, optimizer: optax.GradientTransformation
) -> TrainState:
  """A state at step 0 of placed parameters; optimizer state lies like them."""
  abstract = abstract_state(params, optimizer)
  make = jax.jit(
    lambda params: (jnp.zeros((), jnp.int32), optimizer.init(params)),
    out_shardings=(
      abstract.step.sharding,
      jax.tree.map(lambda x: x.sharding, abstract.opt_state),
    ),
  )
  step, opt_state = make(params)
  return TrainState(step, params, opt_state)


def abstract_state(
  params: Any, optimizer: optax.GradientTransformation
) -> TrainState:
  """The state that `state_of` makes, as shapes and shardings.

  Args:
    params: placed arrays, or ShapeDtypeStructs with shardings.
    optimizer: an optax transformation.
  """
  params = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    params,
  )
  whole = _whole(params)

  def like(leaf, param):
    # Factored statistics lack a dimension; they are small, so every device
    # has them whole.
    same = leaf.shape == param.shape
    return _with(leaf, param.sharding if same else whole)

  opt_state = optax.tree_utils.tree_map_params(
    optimizer,
    like,
    jax.eval_shape(optimizer.init, params),
    params,
    transform_non_params=lambda leaf: _with(leaf, whole),
  )
  step = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
  return TrainState(step, params, opt_state)


def _with(leaf, where) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def _whole(params: Any):
  """The sharding of a scalar beside these parameters."""
  mesh = mesh_of(params)
  if mesh is not None:
    return sharding.replicated(mesh)
  return jax.tree.leaves(params)[0].sharding


def mesh_of(tree: Any) -> jax.sharding.Mesh | None:
  """The mesh that placed arrays lie on."""
  for leaf in jax.tree.leaves(tree):
    where = getattr(leaf, "sharding", None)
    if isinstance(where, jax.sharding.NamedSharding):
      return where.mesh
  return None


def named_leaves(tree: Any) -> dict[str, Any]:
  """`a/b/c` -> leaf."""
  return {name_of(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def name_of(path: tuple) -> str:
  """A leaf's key path as `a/b/c`."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def check_like(have: Any, want: Any, what: str) -> None:
  """Compares two trees by names and shapes.

  Raises:
    ValueError: names every missing, extra and misshapen parameter (the first
      eight).
  """
  have, want = named_leaves(have), named_leaves(want)
  faults = [f"{name}: missing" for name in want if name not in have]
  faults += [f"{name}: not in the model" for name in have if name not in want]
  faults += [
    f"{name}: shape {tuple(have[name].shape)}, the model has"
    f" {tuple(want[name].shape)}"
    for name in want
    if name in have and tuple(have[name].shape) != tuple(want[name].shape)
  ]
  if faults:
    more = f"\n  and {len(faults) - 8} more" if len(faults) > 8 else ""
    listing = "\n  ".join(faults[:8])
    raise ValueError(f"{what} do not fit the model:\n  {listing}{more}")
