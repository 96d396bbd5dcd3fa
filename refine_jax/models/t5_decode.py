"""T5 one position at a time, on unstacked weights and a cache."""

from typing import Any

import jax
import jax.numpy as jnp

from refine_jax.batch import Params
from refine_jax.models import cache as caches
from refine_jax.models import layers
from refine_jax.models.t5_layers import (
  DecoderLayer,
  EncoderLayer,
  norm,
  relative_bias,
)
from refine_jax.sharding import decoding


def empty(
  config: Any, slots: int, length: int, prompt_length: int, dtype: Any = None
):
  """A cache with nothing in it."""
  size = {
    "layers": config.decoder_layers,
    "slots": slots,
    "kv_heads": config.heads,
    "head_dim": config.head_dim,
    "dtype": config.compute_dtype if dtype is None else dtype,
  }
  cross = caches.empty(length=prompt_length, **size)
  return caches.empty(length=length, **size).replace(
    cross_keys=cross.keys,
    cross_values=cross.values,
    prompt_lengths_R=cross.lengths_B,
  )


def encode(
  config: Any, weights: Params, prompt_BP: jax.Array, lengths_B: jax.Array
) -> caches.Cache:
  """Prompts, padded right, as a cache with room for one decoder position."""
  batch, length = prompt_BP.shape
  mask_BP = jnp.arange(length) < lengths_B[:, None]
  segments_BP = mask_BP.astype(jnp.int32)
  encoder = weights["encoder"]
  x_BPD = _lookup(config, weights, prompt_BP)
  bias = relative_bias(config, two_sided=True).apply(
    {"params": encoder["relative_bias"]}, length
  )
  for params in encoder["layers"]:
    x_BPD, _ = EncoderLayer(config).apply(
      {"params": params}, x_BPD, bias, segments_BP
    )
  states_BPD = _norm(config, encoder, x_BPD)
  pairs = [
    DecoderLayer(config).apply(
      {"params": params}, states_BPD, method="cross_keys_values"
    )
    for params in weights["decoder"]["layers"]
  ]
  keys, values = zip(*pairs, strict=True)
  return empty(config, batch, 1, length).replace(
    cross_keys=tuple(k.swapaxes(1, 2) for k in keys),
    cross_values=tuple(v.swapaxes(1, 2) for v in values),
    prompt_lengths_R=lengths_B,
  )


def check_room(cache: caches.Cache, length: int) -> None:
  """Raises ValueError if prompts padded to `length` do not fit."""
  room = cache.cross_keys[0].shape[2]
  if length > room:
    raise ValueError(
      f"prompts of {length} positions do not fit a cache with"
      f" prompt_length={room}"
    )


def put(
  cache: caches.Cache, rows: caches.Cache, slots_B: jax.Array
) -> caches.Cache:
  """`rows` written over the beginnings of `slots_B`; others stay."""

  def one(into, new):
    if isinstance(into, caches.Quantised):
      return jax.tree.map(one, into, caches.quantise(new))
    index = (slots_B, *(slice(size) for size in new.shape[1:]))
    return into.at[index].set(new, mode="drop")

  return jax.tree.map(
    one, cache, rows, is_leaf=lambda x: isinstance(x, caches.Quantised)
  )


def step(
  config: Any,
  weights: Params,
  cache: caches.Cache,
  tokens_B: jax.Array,
  active_B: jax.Array | None = None,
) -> tuple[jax.Array, caches.Cache]:
  """The decoder's state after one more token per active slot, and the cache."""
  decoder = weights["decoder"]
  size = cache.keys[0].shape[2]
  active_B = jnp.ones_like(tokens_B, bool) if active_B is None else active_B
  at_B = jnp.where(active_B, cache.lengths_B, size)  # past the end: dropped
  bias = relative_bias(config, two_sided=False).apply(
    {"params": decoder["relative_bias"]}, at_B, size, method="at"
  )
  x_BD = decoding(_lookup(config, weights, tokens_B))
  keys, values = list(cache.keys), list(cache.values)
  for i, params in enumerate(decoder["layers"]):
    x_BD, keys[i], values[i] = DecoderLayer(config).apply(
      {"params": params},
      x_BD,
      bias,
      at_B,
      (keys[i], values[i]),
      (cache.cross_keys[i], cache.cross_values[i]),
      cache.prompt_lengths_R,
      method="step",
    )
    x_BD = decoding(x_BD)
  return _norm(config, decoder, x_BD), cache.replace(
    keys=tuple(keys),
    values=tuple(values),
    lengths_B=cache.lengths_B + active_B,
  )


def _lookup(config: Any, weights: Params, ids: jax.Array) -> jax.Array:
  return layers.lookup(weights["embed"]["table"], ids, config.compute_dtype)


def _norm(config: Any, stack: Params, x: jax.Array) -> jax.Array:
  return norm(config).apply({"params": stack["final_norm"]}, x)
