"""What the decoder-only families share: rows, the scan, decoding.

A family gives three modules (input embedding, block, final norm); here they
become the contract of a model family, see docs/architecture.md.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from refine_jax.batch import Batch, Output, Params
from refine_jax.models import attention, cached, layers, rows
from refine_jax.models import cache as caches
from refine_jax.sharding import constrain, decoding


def residual_init(config: Any):
  """Normal; smaller for what adds to the residual stream 2 * layers times."""
  return nn.initializers.normal(config.init_std * (2 * config.layers) ** -0.5)


class InputEmbed(nn.Module):
  """Token vectors, plus learned position vectors if there are `positions`.

  Attributes:
    rows: the vocabulary's size.
    positions: rows of the position table, `offset` included.
    offset: the row of position 0.
  """

  rows: int
  width: int
  initializer: Any
  positions: int = 0
  offset: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens_BL, positions_BL):
    init = layers.named(self.initializer, ("table", "table_width"))
    table_VD = self.param("table", init, (self.rows, self.width))
    x_BLD = layers.lookup(table_VD, tokens_BL, self.dtype)
    if not self.positions:
      return x_BLD
    table_LD = self.param("positions", init, (self.positions, self.width))
    return x_BLD + layers.lookup(
      table_LD, positions_BL + self.offset, self.dtype
    )


class Projections(nn.Module):
  """The four projections around attention."""

  config: Any
  qkv_bias: bool = False
  out_bias: bool = False

  def setup(self):
    config = self.config

    def heads(count, axis):
      return layers.Dense(
        (count, config.head_dim),
        ("embed", axis, "head_dim"),
        bias=self.qkv_bias,
        dtype=jnp.dtype(config.dtype),
        initializer=nn.initializers.normal(config.init_std),
      )

    self.q = heads(config.heads, "heads")
    self.k = heads(config.kv_heads, "kv_heads")
    self.v = heads(config.kv_heads, "kv_heads")
    self.o = layers.Dense(
      (config.width,),
      ("heads", "head_dim", "embed"),
      inputs=2,
      bias=self.out_bias,
      dtype=jnp.dtype(config.dtype),
      initializer=residual_init(config),
    )

  def __call__(self, x_BLD):
    return self.q(x_BLD), self.k(x_BLD), self.v(x_BLD)

  def out(self, attended_BLNH):
    return self.o(attended_BLNH)


def by_layer(config: Any, q_BLNH: jax.Array, layer: Any) -> jax.Array:
  """Queries over the number of their layer, where the config says so."""
  if not getattr(config, "inverse_layer_scale", False):
    return q_BLNH
  factor = 1.0 / (jnp.asarray(layer, jnp.float32) + 1)
  return (q_BLNH.astype(jnp.float32) * factor).astype(q_BLNH.dtype)


class Block(nn.Module):
  """One layer, in two halves around attention, which a family adds:

      qkv(x_BLD, rotation) -> (q_BLNH, k_BLKH, v_BLKH)   normed, rotated
      finish(x_BLD, attended_BLNH) -> x_BLD              residuals included

  Training, prefill and a decoding step differ in what the queries attend to
  and in nothing else, so they share the two.
  """

  config: Any

  def __call__(self, x_BLD, rotation, segments_BL, layer):
    config = self.config
    q_BLNH, k_BLKH, v_BLKH = self.qkv(x_BLD, rotation)
    q_BLNH = by_layer(config, q_BLNH, layer)
    attended_BLNH = attention.attend(
      constrain(q_BLNH, "batch", "length", "heads", "head_dim"),
      constrain(k_BLKH, "batch", "length", "kv_heads", "head_dim"),
      constrain(v_BLKH, "batch", "length", "kv_heads", "head_dim"),
      q_segments_BL=segments_BL,
      kv_segments_BS=segments_BL,
      causal=True,
      scale=config.head_dim**-0.5,
      implementation=config.attention,
    )
    x_BLD = self.finish(x_BLD, attended_BLNH)
    return constrain(x_BLD, "batch", "length", "width"), None


class Decoder(nn.Module):
  """A decoder-only family over a Block. It also adds, unbound or named:

      embedder(**kwargs) -> an InputEmbed
      norm(**kwargs) -> the final norm

  Attributes:
    config: a frozen dataclass with at least vocab_size, width, layers, heads,
      kv_heads, head_dim, tied, attention, dtype, remat, unroll, init_std;
      `inverse_layer_scale` and `head_bias` where a family has them.
  """

  config: Any
  encoder_decoder: ClassVar[bool] = False
  block: ClassVar[type[Block]] = Block

  @nn.nowrap
  def rotation(self, positions_BL: Any, limit: int) -> Any:
    """What blocks are told of positions, all of which are below `limit`; None
    if the embedding says it."""
    return None

  @nn.compact
  def __call__(self, batch: Batch) -> Output:
    config, row = self.config, rows.compact(batch)
    x_BLD = self.embedder(name="embed")(row.tokens_BL, row.positions_BL)
    x_BLD = constrain(x_BLD, "batch", "length", "width")
    stack = nn.scan(
      layers.remat(self.block, config.remat),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(nn.broadcast, nn.broadcast, 0),
      length=config.layers,
      unroll=config.unroll,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    x_BLD, _ = stack(config, name="layers")(
      x_BLD,
      self.rotation(row.positions_BL, row.tokens_BL.shape[1]),
      row.segments_BL,
      jnp.arange(config.layers),
    )
    x_BLD = self.norm(name="final_norm")(x_BLD)
    if not config.tied and self.is_initializing():
      layers.Dense(
        (config.vocab_size,),
        ("embed", "vocab"),
        bias=getattr(config, "head_bias", False),
        initializer=nn.initializers.normal(config.init_std),
        name="head",
      )(x_BLD)
    return rows.spread(x_BLD, row, batch.target_BT.shape[1])

  @nn.nowrap
  def unembed(self, params: Params, hidden: jax.Array) -> jax.Array:
    """float32 logits over the last axis; takes decode weights as well."""
    dtype = jnp.dtype(self.config.dtype)
    if self.config.tied:
      kernel, axis = params["embed"]["table"], 1
    else:
      kernel, axis = params["head"]["kernel"], 0
    logits = layers.product(
      hidden.astype(dtype),
      kernel.astype(dtype),
      (axis,),
      preferred_element_type=jnp.float32,
    )
    bias = params.get("head", {}).get("bias")
    return logits if bias is None else logits + bias.astype(jnp.float32)

  @nn.nowrap
  def decode_weights(self, params: Params) -> Params:
    """Layers as a tuple, matrices in the compute dtype; once per program."""
    dtype = jnp.dtype(self.config.dtype)

    def cast(path, leaf):
      # Norms compute in float32 and are tiny.
      norm = any("norm" in getattr(key, "key", "") for key in path)
      return leaf if norm else leaf.astype(dtype)

    params = jax.tree_util.tree_map_with_path(cast, params)
    stacked = params["layers"]
    unstacked = tuple(
      jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
      for i in range(self.config.layers)
    )
    return {**params, "layers": unstacked}

  @nn.nowrap
  def new_cache(
    self, slots: int, length: int, prompt_length: int = 0, dtype: Any = None
  ) -> caches.Cache:
    """An empty cache; `length` counts prompt and continuation."""
    del prompt_length  # there is no encoder
    return caches.empty(
      layers=self.config.layers,
      slots=slots,
      kv_heads=self.config.kv_heads,
      length=length,
      head_dim=self.config.head_dim,
      dtype=jnp.dtype(dtype or self.config.dtype),
    )

  @nn.nowrap
  def _run(self, weights, tokens_BL, positions_BL, limit, attend):
    """The unrolled stack; `attend(i, q, k, v)` owns the cache."""
    x_BLD = self.embedder().apply(
      {"params": weights["embed"]}, tokens_BL, positions_BL
    )
    one = tokens_BL.shape[1] == 1
    settle = decoding if one else lambda x: x
    x_BLD = settle(x_BLD)
    rotation = self.rotation(positions_BL, limit)
    block = self.block(self.config)
    for i, layer in enumerate(weights["layers"]):
      variables = {"params": layer}
      q, k, v = block.apply(variables, x_BLD, rotation, method="qkv")
      q = by_layer(self.config, q, i)
      attended = attend(i, q, k, v)
      x_BLD = settle(block.apply(variables, x_BLD, attended, method="finish"))
    return x_BLD

  @nn.nowrap
  def _logits(self, weights, x_BD):
    x_BD = self.norm().apply({"params": weights.get("final_norm", {})}, x_BD)
    return layers.step_logits(
      lambda x_BD: self.unembed(weights, x_BD), x_BD, tied=self.config.tied
    )

  @nn.nowrap
  def prefill(
    self,
    weights: Params,
    prompt_BP: jax.Array,
    lengths_B: jax.Array,
    cache: caches.Cache,
    slots_B: jax.Array,
  ) -> tuple[jax.Array, caches.Cache]:
    """Appends rows (padded right) to slots, all different.

    A slot past the last one takes nothing; its logits mean nothing.

    Returns:
      logits_BV that follow each row's last token, and the cache.
    """
    x_BPD, cache = self._append(weights, prompt_BP, lengths_B, cache, slots_B)
    last_B11 = jnp.maximum(lengths_B - 1, 0)[:, None, None]
    x_BD = jnp.take_along_axis(x_BPD, last_B11, axis=1)[:, 0]
    return self._logits(weights, x_BD), cache

  @nn.nowrap
  def extend(
    self,
    weights: Params,
    tokens_BP: jax.Array,
    lengths_B: jax.Array,
    cache: caches.Cache,
    slots_B: jax.Array,
  ) -> tuple[jax.Array, caches.Cache]:
    """`prefill` that gives every position's state, for `unembed`.

    Returns:
      hidden_BPD, of which `hidden[:, p]` predicts what follows token p, and
      the cache.
    """
    x_BPD, cache = self._append(weights, tokens_BP, lengths_B, cache, slots_B)
    norm = self.norm()
    return norm.apply({"params": weights.get("final_norm", {})}, x_BPD), cache

  @nn.nowrap
  def branches(
    self,
    params: Params,
    prompt_GP: jax.Array,
    lengths_G: jax.Array,
    target_BT: jax.Array,
  ) -> jax.Array:
    """States that predict the targets of prompts that several of them share.

    A prompt is read once and attended once for all its rows.

    Args:
      prompt_GP: padded right; of each, `lengths_G` tokens, one at least.
      target_BT: padded right; B / G adjacent rows belong to a prompt.

    Returns:
      hidden_BTD as of an Output.
    """
    weights = self.decode_weights(params)
    (groups, size), (batch, length) = prompt_GP.shape, target_BT.shape
    held_G = lengths_G - 1  # what comes last predicts the first target token
    _, cache = self._append(
      weights,
      prompt_GP,
      held_G,
      self.new_cache(groups, size),
      jnp.arange(groups),
    )
    last_G1 = jnp.take_along_axis(prompt_GP, held_G[:, None], axis=1)
    last_B1 = jnp.repeat(last_G1, batch // groups, axis=0)
    tokens_BT = jnp.concatenate([last_B1, target_BT[:, :-1]], axis=1)
    start_B1 = jnp.repeat(held_G, batch // groups)[:, None]

    def attend(i, q_BTNH, k_BTKH, v_BTKH):
      return cached.attend_branch(
        q_BTNH,
        k_BTKH,
        v_BTKH,
        (cache.keys[i], cache.values[i], held_G),
        scale=self.config.head_dim**-0.5,
      )

    positions_BT = start_B1 + jnp.arange(length)
    limit = size + length
    x_BTD = self._run(weights, tokens_BT, positions_BT, limit, attend)
    norm = self.norm()
    return norm.apply({"params": weights.get("final_norm", {})}, x_BTD)

  @nn.nowrap
  def _append(self, weights, tokens_BP, lengths_B, cache, slots_B):
    """Rows through the stack on top of what their slots hold."""
    starts_B = jnp.take(cache.lengths_B, slots_B, mode="clip")
    positions_BP = starts_B[:, None] + jnp.arange(tokens_BP.shape[1])
    keys, values = list(cache.keys), list(cache.values)

    def attend(i, q_BPNH, k_BPKH, v_BPKH):
      place = (slots_B, starts_B, lengths_B)
      keys[i] = caches.append_rows(keys[i], k_BPKH, *place)
      values[i] = caches.append_rows(values[i], v_BPKH, *place)
      return attention.append(
        q_BPNH,
        (k_BPKH, v_BPKH),
        (
          caches.rows_of(keys[i], slots_B, q_BPNH.dtype),
          caches.rows_of(values[i], slots_B, q_BPNH.dtype),
        ),
        starts_B,
        scale=self.config.head_dim**-0.5,
        implementation=self.config.attention,
      )

    limit = cache.keys[0].shape[2] + tokens_BP.shape[1]
    x_BPD = self._run(weights, tokens_BP, positions_BP, limit, attend)
    lengths = cache.lengths_B.at[slots_B].add(lengths_B, mode="drop")
    cache = cache.replace(
      keys=tuple(keys), values=tuple(values), lengths_B=lengths
    )
    return x_BPD, cache

  @nn.nowrap
  def step(
    self,
    weights: Params,
    cache: caches.Cache,
    tokens_B: jax.Array,
    active_B: jax.Array | None = None,
  ) -> tuple[jax.Array, caches.Cache]:
    """Appends one token to every active slot; logits_BV that follow it."""
    lengths_B = cache.lengths_B
    positions_B = lengths_B
    prefix = [None] * len(cache.keys)
    if cache.prefix_keys:
      rows_R = cache.prompt_lengths_R
      each = lengths_B.shape[0] // rows_R.shape[0]
      positions_B = lengths_B + jnp.repeat(rows_R, each)
      prefix = [
        (k, v, rows_R)
        for k, v in zip(cache.prefix_keys, cache.prefix_values, strict=True)
      ]
    size = limit = cache.keys[0].shape[2]
    if cache.prefix_keys:
      limit += cache.prefix_keys[0].shape[2]
    write_B = lengths_B
    if active_B is not None:
      write_B = jnp.where(active_B, lengths_B, size)  # past the end: dropped
    keys, values = list(cache.keys), list(cache.values)

    def attend(i, q_B1NH, k_B1KH, v_B1KH):
      keys[i] = caches.append_one(keys[i], k_B1KH[:, 0], write_B)
      values[i] = caches.append_one(values[i], v_B1KH[:, 0], write_B)
      return attention.attend_cache(
        q_B1NH[:, 0],
        keys[i],
        values[i],
        lengths_B + 1,
        scale=self.config.head_dim**-0.5,
        prefix=prefix[i],
      )[:, None]

    x_B1D = self._run(
      weights, tokens_B[:, None], positions_B[:, None], limit, attend
    )
    grown_B = 1 if active_B is None else active_B.astype(lengths_B.dtype)
    cache = cache.replace(
      keys=tuple(keys), values=tuple(values), lengths_B=lengths_B + grown_B
    )
    return self._logits(weights, x_B1D[:, 0]), cache

  @nn.nowrap
  def embed(
    self, params: Params, prompt_BP: jax.Array, mask_BP: jax.Array
  ) -> jax.Array:
    """Mean of the final states over existing positions; unit rows, float32."""
    batch = Batch(
      prompt_BP=prompt_BP[:, :0],
      prompt_mask_BP=mask_BP[:, :0],
      target_BT=prompt_BP,
      target_mask_BT=mask_BP,
      loss_mask_BT=mask_BP,
    )
    last_BPD = self.apply({"params": params}, batch).last_BTD
    weight_BP1 = mask_BP[..., None].astype(jnp.float32)
    sum_BD = jnp.sum(last_BPD.astype(jnp.float32) * weight_BP1, axis=1)
    norm_B1 = jnp.linalg.norm(sum_BD, axis=-1, keepdims=True)
    return sum_BD / jnp.maximum(norm_B1, 1e-12)
