"""The jitted train step: accumulation with global denominators."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from refine_jax.batch import Batch, Params
from refine_jax.training.loss import Loss, LossFn, Mean
from refine_jax.training.state import TrainState, mesh_of

# Name -> Mean; "counts" -> Counts.
Metrics = dict[str, Any]


@flax.struct.dataclass
class Beside:
  """A batch with arrays that its loss reads and no gradient reaches.

  Attributes:
    constants: any pytree; whole in every micro-batch.
    batch: what is cut into micro-batches.
  """

  constants: Any
  batch: Any


@flax.struct.dataclass
class Counts:
  """How much a batch holds, padding apart; float32 scalars, may be added.

  With p prompt and t target tokens of each example, sums over examples.

  Attributes:
    examples: examples with anything in them.
    positions: all positions, padding included.
    prompt, target: p and t.
    prompt_prompt, prompt_target, target_target: p * p, p * t, t * t, from
      which any family's attention FLOPs follow.
  """

  examples: jax.Array
  positions: jax.Array
  prompt: jax.Array
  target: jax.Array
  prompt_prompt: jax.Array
  prompt_target: jax.Array
  target_target: jax.Array


def counts(batch: Any) -> Counts | None:
  """Counts over every Batch that a pytree holds; None if it holds none."""
  leaves = jax.tree.leaves(batch, is_leaf=lambda x: isinstance(x, Batch))
  found = [_counts(x) for x in leaves if isinstance(x, Batch)]
  return jax.tree.map(lambda *x: sum(x), *found) if found else None


def _counts(batch: Batch) -> Counts:
  prompt_R = _lengths(batch.prompt_mask_BP, batch.prompt_segments_BP, batch)
  target_R = _lengths(batch.target_mask_BT, batch.target_segments_BT, batch)
  return Counts(
    examples=((prompt_R + target_R) > 0).sum().astype(jnp.float32),
    positions=jnp.float32(batch.prompt_BP.size + batch.target_BT.size),
    prompt=prompt_R.sum(),
    target=target_R.sum(),
    prompt_prompt=(prompt_R * prompt_R).sum(),
    prompt_target=(prompt_R * target_R).sum(),
    target_target=(target_R * target_R).sum(),
  )


def _lengths(mask_BT, segments_BT, batch: Batch) -> jax.Array:
  """Lengths of rows, or of the examples packed in them, in a flat array."""
  mask_RT = mask_BT.reshape(-1, mask_BT.shape[-1]).astype(jnp.float32)
  if segments_BT is None:
    return mask_RT.sum(-1)
  most = batch.prompt_BP.shape[-1] + batch.target_BT.shape[-1] + 1
  rows_R1 = jnp.arange(mask_RT.shape[0])[:, None]
  empty_RS = jnp.zeros((mask_RT.shape[0], most))
  segments_RT = segments_BT.reshape(mask_RT.shape)
  return empty_RS.at[rows_R1, segments_RT].add(mask_RT).reshape(-1)


class TrainStep:
  """`(state, batch, rng) -> (state, metrics)`; the state is donated.

  The same `rng` may be given at every step: it is folded with `state.step`.
  Metrics stay on the device.
  """

  def __init__(self, function: Callable):
    self._function = function
    self._jitted = None

  def jitted(self, state: TrainState):
    """The jitted function for states placed like this one."""
    if self._jitted is None:
      # Pinned, so that the state leaves a step as it came.
      where = jax.tree.map(lambda x: x.sharding, state)
      self._jitted = jax.jit(
        lambda *args: self._function(where.params, *args),
        donate_argnums=0,
        out_shardings=(where, None),
      )
    return self._jitted

  def __call__(
    self, state: TrainState, batch: Any, rng: jax.Array
  ) -> tuple[TrainState, Metrics]:
    with on_mesh(state):
      return self.jitted(state)(state, batch, rng)

  def lower(self, state: Any, batch: Any, rng: Any):
    """Ahead-of-time lowering; shapes with shardings will do."""
    with on_mesh(state):
      return self.jitted(state).lower(state, batch, rng)


def on_mesh(tree: Any):
  """Sets the mesh that `tree` lies on, unless one is set already."""
  mesh = mesh_of(tree)
  if mesh is None or not jax.sharding.get_abstract_mesh().empty:
    return contextlib.nullcontext()
  return jax.set_mesh(mesh)


def make_train_step(
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  *,
  micro_batches: int = 1,
  accumulate: str = "mean",
) -> TrainStep:
  """A step along the gradient of a loss that is seen in pieces.

  Args:
    loss_fn: see `loss.LossFn`.
    optimizer: an optax transformation.
    micro_batches: pieces that every batch is cut into along its rows. Loss
      and gradient are those of the whole batch.
    accumulate: `mean`, for `sum(total) / sum(weight)` over the batch. `sum`,
      for batches with a leading axis of turns, `[M, B, ...]`: the sum over
      turns of each one's `total / weight`, with one turn's graph at a time;
      a turn of which nothing counts adds nothing.

  Returns:
    a step with metrics `loss`, `grad_norm` (before clipping), those of
    `loss_fn`, and `counts`.
  """
  if accumulate not in ("mean", "sum"):
    raise ValueError(f"accumulate is 'mean' or 'sum', got {accumulate!r}")
  if micro_batches < 1:
    raise ValueError(f"micro_batches must be positive, got {micro_batches}")

  def step(where, state: TrainState, batch: Any, rng: jax.Array):
    def mean(batch, rng):
      return _mean_gradient(
        loss_fn, state.params, where, batch, rng, micro_batches
      )

    rng = jax.random.fold_in(rng, state.step)
    if accumulate == "mean":
      grads, loss = mean(batch, rng)
    else:
      grads, loss = _scan_sum(lambda *xs: _divided(*mean(*xs)), batch, rng)
      loss = loss.replace(weight=jnp.float32(1))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
      **loss.metrics,
      "loss": Mean(loss.total, loss.weight),
      "grad_norm": Mean(optax.tree.norm(grads), jnp.float32(1)),
      "counts": counts(batch),
    }
    return TrainState(state.step + 1, params, opt_state), metrics

  return TrainStep(step)


def _mean_gradient(loss_fn, params, where, batch, rng, micro_batches):
  """Gradient of `sum(total) / sum(weight)` and the loss."""
  loss_fn, batch = _apart(loss_fn, batch)

  def one(batch, rng, scale_of=lambda loss: 1):
    def total(params):
      loss = loss_fn(params, batch, rng)
      held = jax.lax.stop_gradient(loss)
      return loss.total * scale_of(held), held

    grads, loss = jax.grad(total, has_aux=True)(params)
    return _pin(grads, where), loss

  def scale_of(loss):
    return Mean(jnp.float32(1), loss.weight).value()

  if micro_batches == 1:
    # Scaled before the backward pass: after it, it is one over all parameters.
    return one(batch, rng, scale_of)
  stack = jax.tree.map(lambda x: _split(x, micro_batches), batch)
  grads, loss = _scan_sum(one, stack, rng)
  return jax.tree.map(lambda g: g * scale_of(loss), grads), loss


def _apart(loss_fn: LossFn, batch: Any) -> tuple[LossFn, Any]:
  """A loss of what can be cut, and that."""
  if not isinstance(batch, Beside):
    return loss_fn, batch

  def whole(params, piece, rng):
    return loss_fn(params, Beside(batch.constants, piece), rng)

  return whole, batch.batch


def _divided(grads, loss: Loss):
  """The loss as a plain number."""
  value = Mean(loss.total, loss.weight).value()
  return grads, loss.replace(total=value, weight=jnp.float32(0))


def _scan_sum(one: Callable, stack: Any, rng: jax.Array):
  """Sum of `one(piece, rng)` over the leading axis."""
  pieces = jax.tree.leaves(stack)[0].shape[0]
  rngs = jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(pieces))
  first = jax.tree.map(lambda x: x[0], (stack, rngs))
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, *first)
  )

  def body(carry, xs):
    return jax.tree.map(jnp.add, carry, one(*xs)), None

  return jax.lax.scan(body, zeros, (stack, rngs))[0]


def _split(x: jax.Array, pieces: int) -> jax.Array:
  """`[B, ...]` -> `[M, B / M, ...]`, rows dealt round robin.

  Dealt, because rows lie on devices in blocks: so every piece has rows of
  every device and nothing moves.
  """
  if x.shape[0] % pieces:
    raise ValueError(
      f"a batch of {x.shape[0]} rows cannot be cut into {pieces}"
      " micro-batches of one size"
    )
  x = x.reshape(x.shape[0] // pieces, pieces, *x.shape[1:])
  return jnp.swapaxes(x, 0, 1)


def _pin(grads: Any, where: Any) -> Any:
  """Gradients lie like the parameters, also in a scan's carry."""
  return jax.tree.map(
    lambda g, s: (
      jax.lax.with_sharding_constraint(g, s) if s.num_devices > 1 else g
    ),
    grads,
    where,
  )


def make_eval_step(loss_fn: LossFn) -> Callable[[Params, Any], Metrics]:
  """`(params, batch) -> metrics`: `loss` and those of `loss_fn`, no dropout."""

  @jax.jit
  def jitted(params, batch):
    loss = loss_fn(params, batch, None)
    return {**loss.metrics, "loss": Mean(loss.total, loss.weight)}

  def step(params: Params, batch: Any) -> Metrics:
    with on_mesh(params):
      return jitted(params, batch)

  return step


def evaluate(
  eval_step: Callable[[Params, Any], Metrics],
  params: Params,
  batches: Iterable[Any],
) -> dict[str, float]:
  """Means over all batches.

  Raises:
    ValueError: there is no batch.
  """
  metrics = [eval_step(params, batch) for batch in batches]
  if not metrics:
    raise ValueError("evaluate: there are no batches")
  return means(jax.device_get(metrics))


def means(metrics: Iterable[Metrics]) -> dict[str, float]:
  """Host values of the Means of several steps, taken together."""
  sums: dict[str, np.ndarray] = {}
  for row in metrics:
    for name, mean in row.items():
      if isinstance(mean, Mean):
        pair = np.array([mean.total, mean.weight], np.float64)
        sums[name] = sums.get(name, 0) + pair
  return {k: float(t / w) if w else 0.0 for k, (t, w) in sums.items()}
