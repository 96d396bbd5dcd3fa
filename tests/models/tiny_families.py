"""A tiny module of every family, whatever its config is called."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from refine_jax.batch import Batch
from refine_jax.models.families import abstract_params, families

# A family takes the fields it has; what is not here must have a default.
SIZES = {
  "vocab_size": 64,
  "width": 32,
  "layers": 2,
  "encoder_layers": 2,
  "decoder_layers": 2,
  "heads": 4,
  "kv_heads": 2,
  "head_dim": 8,
  "mlp": 48,
  "buckets": 8,
  "max_distance": 16,
  "max_length": 64,
  "init_std": 0.2,
}
EXAMPLES = tuple(
  (np.arange(2, 2 + p) * 7 % 61 + 2, np.arange(5, 5 + t) * 11 % 61 + 2)
  for p, t in ((5, 3), (2, 6), (4, 1), (1, 4))
)


def names():
  return sorted(name for name, family in families().items() if family.writes)


def encoders():
  return sorted(set(families()) - set(names()))


@functools.cache
def tiny(name, **changes):
  """A module and random parameters, norms and biases included."""
  family = families()[name]
  fields = {field.name for field in dataclasses.fields(family.config)}
  sizes = {k: v for k, v in SIZES.items() if k in fields} | changes
  module = family.module(family.config(**sizes))
  return module, _params(module)


def _params(module):
  """Random numbers of the right shapes: compiling `init` takes seconds."""
  rng = np.random.default_rng(0)

  def one(path, leaf):
    noise = 0.2 * rng.standard_normal(leaf.shape)
    scale = jax.tree_util.keystr(path).endswith("['scale']")
    return jnp.asarray(noise + 1 if scale else noise, jnp.float32)

  abstract = nn.unbox(abstract_params(module))
  return jax.tree_util.tree_map_with_path(one, abstract)


def batch(examples=EXAMPLES, *, P=5, T=6, junk=0):
  """One example per row; `junk` fills what does not exist."""
  prompts, targets = zip(*examples, strict=True)
  prompt_BP, prompt_mask_BP = _pad(prompts, P, junk, left=True)
  target_BT, target_mask_BT = _pad(targets, T, junk, left=False)
  return Batch(
    prompt_BP, prompt_mask_BP, target_BT, target_mask_BT, target_mask_BT
  )


def _pad(rows, size, junk, *, left):
  ids = np.full((len(rows), size), junk, np.int32)
  mask = np.zeros((len(rows), size), bool)
  for i, row in enumerate(rows):
    where = slice(size - len(row), size) if left else slice(len(row))
    ids[i, where], mask[i, where] = row, True
  return ids, mask


def packed(examples=EXAMPLES, *, per_row=2, P=8, T=10):
  """Several examples per row."""
  rows = [examples[i : i + per_row] for i in range(0, len(examples), per_row)]

  def joined(part):
    return [np.concatenate([example[part] for example in row]) for row in rows]

  def segments(part):
    return [
      np.concatenate(
        [np.full(len(example[part]), i) for i, example in enumerate(row, 1)]
      )
      for row in rows
    ]

  prompt_BP, prompt_mask_BP = _pad(joined(0), P, 0, left=True)
  target_BT, target_mask_BT = _pad(joined(1), T, 0, left=False)
  return Batch(
    prompt_BP,
    prompt_mask_BP,
    target_BT,
    target_mask_BT,
    target_mask_BT,
    _pad(segments(0), P, 0, left=True)[0],
    _pad(segments(1), T, 0, left=False)[0],
  )


@functools.partial(jax.jit, static_argnums=0)
def apply(module, params, batch):
  return module.apply({"params": params}, batch)


def states(module, params, batch):
  """(hidden, last) of existing target positions, row after row."""
  output = apply(module, params, batch)
  return (
    np.asarray(output.hidden_BTD)[batch.target_mask_BT],
    np.asarray(output.last_BTD)[batch.target_mask_BT],
  )


def loss(module, params, batch):
  """Mean cross-entropy over the loss mask."""
  hidden_BTD = module.apply({"params": params}, batch).hidden_BTD
  logp_BTV = jax.nn.log_softmax(module.unembed(params, hidden_BTD))
  picked_BT = jnp.take_along_axis(
    logp_BTV, jnp.asarray(batch.target_BT)[..., None], axis=-1
  )[..., 0]
  mask_BT = jnp.asarray(batch.loss_mask_BT)
  return -jnp.where(mask_BT, picked_BT, 0).sum() / mask_BT.sum()


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradient(module, params, batch):
  return jax.value_and_grad(lambda p: loss(module, p, batch))(params)
