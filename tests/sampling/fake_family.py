"""A decoder-only family without layers: what follows depends on all before.

`logits = table[last] + mean of mix over every token in the row`, so a wrong
slot, length or position in the cache changes the answer.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from refine_jax.batch import Output
from refine_jax.models import cache as caches


@dataclasses.dataclass(frozen=True)
class Config:
  vocab_size: int = 11


@dataclasses.dataclass(frozen=True)
class Table:
  """`params = {"table": [V, V], "mix": [V, V]}`; hidden states are logits."""

  config: Config = Config()
  encoder_decoder = False

  def params(self, seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    size = self.config.vocab_size
    return {
      name: jnp.asarray(rng.normal(size=(size, size)) * scale, jnp.float32)
      for name in ("table", "mix")
    }

  def decode_weights(self, params):
    return params

  def new_cache(self, slots, length, prompt_length=0, dtype=None):
    return caches.empty(
      layers=1,
      slots=slots,
      kv_heads=1,
      length=length,
      head_dim=self.config.vocab_size,
      dtype=jnp.float32,
    )

  def prefill(self, weights, prompt_BP, lengths_B, cache, slots_B):
    starts_B = cache.lengths_B.at[slots_B].get(mode="clip")
    rows = caches.append_rows(
      cache.values[0],
      weights["mix"][prompt_BP][:, :, None],
      slots_B,
      starts_B,
      lengths_B,
    )
    cache = cache.replace(
      values=(rows,),
      lengths_B=cache.lengths_B.at[slots_B].add(lengths_B, mode="drop"),
    )
    last_B = jnp.take_along_axis(
      prompt_BP, jnp.maximum(lengths_B - 1, 0)[:, None], axis=1
    )[:, 0]
    logits_BV = self._logits(weights, cache, last_B, slots_B)
    return logits_BV, cache

  def step(self, weights, cache, tokens_B, active_B=None):
    if active_B is None:
      active_B = jnp.ones(tokens_B.shape, bool)
    size = cache.values[0].shape[2]
    rows = caches.append_one(
      cache.values[0],
      weights["mix"][tokens_B][:, None],
      jnp.where(active_B, cache.lengths_B, size),
    )
    cache = cache.replace(values=(rows,), lengths_B=cache.lengths_B + active_B)
    slots_B = jnp.arange(tokens_B.shape[0])
    return self._logits(weights, cache, tokens_B, slots_B), cache

  def _logits(self, weights, cache, last_B, slots_B):
    lengths_B = cache.lengths_B.at[slots_B].get(mode="clip")
    total_BV = self._total(cache.values[0], slots_B, lengths_B)
    if cache.prefix_values:
      rows = cache.prompt_lengths_R.shape[0]
      rows_B = slots_B // (cache.lengths_B.shape[0] // rows)
      more_B = cache.prompt_lengths_R[rows_B]
      total_BV += self._total(cache.prefix_values[0], rows_B, more_B)
      lengths_B = lengths_B + more_B
    return weights["table"][last_B] + total_BV / jnp.maximum(lengths_B, 1)[
      :, None
    ].astype(jnp.float32)

  def _total(self, values, rows_B, lengths_B):
    rows_BSV = values.at[rows_B].get(mode="clip")[:, 0]
    exists_BS = jnp.arange(rows_BSV.shape[1]) < lengths_B[:, None]
    return jnp.sum(jnp.where(exists_BS[..., None], rows_BSV, 0), axis=1)

  def apply(self, variables, batch):
    params = variables["params"]
    ids_BL = jnp.concatenate([batch.prompt_BP, batch.target_BT], axis=1)
    mask_BL = jnp.concatenate(
      [batch.prompt_mask_BP, batch.target_mask_BT], axis=1
    )
    mix_BLV = jnp.where(mask_BL[..., None], params["mix"][ids_BL], 0)
    counts_BL = jnp.maximum(jnp.cumsum(mask_BL, axis=1), 1)
    logits_BLV = params["table"][ids_BL] + (
      jnp.cumsum(mix_BLV, axis=1) / counts_BL[..., None]
    )
    start = batch.prompt_BP.shape[1]
    return Output(logits_BLV[:, start - 1 : -1], logits_BLV[:, start:])

  def unembed(self, params, hidden):
    return hidden.astype(jnp.float32)

  def embed(self, params, prompt_BP, mask_BP):
    rows_BPV = jnp.where(mask_BP[..., None], params["mix"][prompt_BP], 0)
    mean_BV = rows_BPV.sum(1) / mask_BP.sum(1)[:, None]
    return mean_BV / jnp.linalg.norm(mean_BV, axis=1, keepdims=True)


class Letters:
  """A tokenizer of one id per letter; 0 pads, 1 ends, 2 begins."""

  pad_id, eos_id, bos_id = 0, 1, 2

  def __init__(self, letters="abcdefgh"):
    self.letters = letters
    self.vocab_size = len(letters) + 3

  def encode(self, text):
    return [self.letters.index(c) + 3 for c in text]

  def decode(self, ids):
    return "".join(self.letters[i - 3] for i in ids if i > 2)
