"""T5: encoder-decoder, v1.0 and v1.1 (Raffel et al. 2020; Shazeer 2020).

Parameters; the axis of layers is the first, Y:

    embed/table                            [V, D]  of both inputs
    head/kernel                            [D, V]  unless tied
    encoder/relative_bias/table            [buckets, N]
    encoder/layers/attention_norm/scale    [Y, D]
    encoder/layers/attention/{q,k,v}/kernel  [Y, D, N, H]
    encoder/layers/attention/o/kernel      [Y, N, H, D]
    encoder/layers/mlp_norm/scale          [Y, D]
    encoder/layers/mlp/gate/kernel         [Y, D, F]  if gated; has the GELU
    encoder/layers/mlp/up/kernel           [Y, D, F]
    encoder/layers/mlp/down/kernel         [Y, F, D]
    encoder/final_norm/scale               [D]
    decoder/...                            as the encoder, and in its layers
    decoder/layers/cross_norm/scale        [Y, D]
    decoder/layers/cross/{q,k,v,o}/kernel  as in attention

In `decode_weights` both `layers` are tuples with a dict per layer.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from refine_jax.batch import Batch, Output, Params
from refine_jax.models import cache as caches
from refine_jax.models import layers, t5_decode, t5_rows
from refine_jax.models.t5_layers import (
  DecoderLayer,
  Encoded,
  EncoderLayer,
  Stack,
)


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Sizes and options; the defaults are T5 v1.1's where it has them.

  Attributes:
    vocab_size, width, mlp, heads, head_dim: V, D, F, N and H.
    encoder_layers, decoder_layers: depths.
    buckets, max_distance: of the relative positions.
    norm_eps: epsilon of the RMS norms.
    gated: the mlp is a GELU gate (v1.1) instead of a ReLU (v1.0).
    tied: the head is the embedding, scaled by D**-0.5 (v1.0).
    dropout: rate on inputs, branches and outputs when `apply` is given a
      "dropout" rng; attention weights are left alone.
    decoder_start: the id a decoder reads first.
    pad_id: what fills positions that do not exist.
    dtype: of activations; parameters are float32.
    remat: see `layers.remat`.
    unroll: a stack of at most so many layers is no loop, unless remat asks
      for one: on CPU it compiles and runs quicker.
    attention: see `attention.attend`.
    init_local_slope: half of each relative bias starts with a slope towards
      nearby positions.
    init_tie_qk: keys start as copies of queries, so that a token first looks
      at its own kind. Both options make small models start to learn early.
  """

  vocab_size: int
  width: int = 512
  mlp: int = 1024
  heads: int = 6
  head_dim: int = 64
  encoder_layers: int = 8
  decoder_layers: int = 8
  buckets: int = 32
  max_distance: int = 128
  norm_eps: float = 1e-6
  gated: bool = True
  tied: bool = False
  dropout: float = 0.0
  decoder_start: int = 0
  pad_id: int = 0
  dtype: str = "float32"
  remat: str = "none"
  unroll: int = 4
  attention: str = "auto"
  init_local_slope: bool = False
  init_tie_qk: bool = False

  def __post_init__(self):
    # Two directions, each with at least one exact and one wide bucket.
    if self.buckets < 4 or self.buckets % 4:
      raise ValueError(f"buckets={self.buckets}: expected a multiple of 4")
    if self.max_distance <= self.buckets // 2:
      raise ValueError(
        f"max_distance={self.max_distance}: expected more than"
        f" buckets // 2 = {self.buckets // 2}"
      )

  @property
  def compute_dtype(self) -> Any:
    return jnp.dtype(self.dtype)


class T5(nn.Module):
  """The family; see docs/architecture.md for what each method promises."""

  config: T5Config
  encoder_decoder: ClassVar[bool] = True

  def setup(self):
    config = self.config
    self.embed = layers.Embed(
      config.vocab_size,
      config.width,
      dtype=config.compute_dtype,
      initializer=nn.initializers.normal(1.0),
    )
    self.encoder = Stack(
      config, EncoderLayer, config.encoder_layers, inputs=2, two_sided=True
    )
    self.decoder = Stack(
      config, DecoderLayer, config.decoder_layers, inputs=3, two_sided=False
    )
    if not config.tied:
      self.head = layers.Dense(
        (config.vocab_size,),
        ("embed", "vocab"),
        initializer=nn.initializers.normal(config.width**-0.5),
      )

  def __call__(self, batch: Batch) -> Output:
    """Two passes of the decoder; under jit the one not used costs nothing.

    `hidden` reads each target shifted right. `last` has read one token more,
    and so needs one position more per example.
    """
    encoded = self._encode(
      batch.prompt_BP, batch.prompt_mask_BP, batch.prompt_segments_BP
    )
    start = self.config.decoder_start
    inputs = t5_rows.shift(batch.target_BT, batch.target_segments_BT, start)
    hidden_BTD = self._decode(*inputs, encoded)
    *inputs, at_BT = t5_rows.extend(
      batch.target_BT, batch.target_segments_BT, start
    )
    last_BTD = self._decode(*inputs, encoded)
    last_BTD = jnp.take_along_axis(last_BTD, at_BT[..., None], axis=1)
    if self.is_initializing() and not self.config.tied:
      self.head(hidden_BTD)  # makes the parameter; `unembed` uses it
    return Output(hidden_BTD, last_BTD)

  def _encode(self, prompt_BP, mask_BP, segments_BP=None) -> Encoded:
    if segments_BP is None:
      segments_BP = mask_BP.astype(jnp.int32)
    states_BPD = self.encoder(self.embed(prompt_BP), segments_BP)
    return Encoded(states_BPD, segments_BP)

  def _decode(self, tokens_BT, segments_BT, encoded: Encoded) -> jax.Array:
    return self.decoder(self.embed(tokens_BT), segments_BT, encoded)

  @nn.nowrap
  def encode(self, params: Params, prompt_BP, mask_BP) -> jax.Array:
    """The encoder alone: a state per prompt position, `[B, P, D]`."""
    encoded = self.apply(
      {"params": params}, prompt_BP, mask_BP, method="_encode"
    )
    return encoded.states_BPD

  @nn.nowrap
  def branches(
    self,
    params: Params,
    prompt_GP: jax.Array,
    lengths_G: jax.Array,
    target_BT: jax.Array,
  ) -> jax.Array:
    """States that predict the targets of prompts that several of them share.

    A prompt is encoded once; see `decoder.Decoder.branches`.
    """
    mask_GP = jnp.arange(prompt_GP.shape[1]) < lengths_G[:, None]
    each = target_BT.shape[0] // prompt_GP.shape[0]
    segments_BT = jnp.ones_like(target_BT)  # what follows is never seen
    inputs = t5_rows.shift(target_BT, segments_BT, self.config.decoder_start)

    def run(module):
      encoded = module._encode(prompt_GP, mask_GP)
      encoded = jax.tree.map(lambda x: jnp.repeat(x, each, axis=0), encoded)
      return module._decode(*inputs, encoded)

    return nn.apply(run, self)({"params": params})

  @nn.nowrap
  def embed(self, params: Params, prompt_BP, mask_BP) -> jax.Array:
    """Unit rows: the mean of the encoder's states, float32."""
    states_BPD = self.encode(params, prompt_BP, mask_BP).astype(jnp.float32)
    weight_BP1 = mask_BP[..., None].astype(jnp.float32)
    total_BD = (states_BPD * weight_BP1).sum(1)
    # The mean's denominator drops out of a unit row.
    norm_B1 = jnp.linalg.norm(total_BD, axis=-1, keepdims=True)
    return total_BD / jnp.maximum(norm_B1, 1e-12)

  @nn.nowrap
  def unembed(self, params: Params, hidden: jax.Array) -> jax.Array:
    """Logits in float32 for states with any leading dimensions."""
    config = self.config
    if config.tied:
      kernel, axis, scale = params["embed"]["table"], 1, config.width**-0.5
    else:
      kernel, axis, scale = params["head"]["kernel"], 0, 1.0
    logits = layers.product(
      hidden.astype(config.compute_dtype),
      kernel.astype(config.compute_dtype),
      (axis,),
      preferred_element_type=jnp.float32,
    )
    return logits * scale

  @nn.nowrap
  def decode_weights(self, params: Params) -> Params:
    """`params` with layers as tuples, cast to the dtype of activations."""
    dtype = self.config.compute_dtype

    def cast(path, leaf):
      # Norms and biases on scores compute in float32 and are tiny.
      names = "/".join(getattr(key, "key", "") for key in path)
      kept = "norm" in names or "relative_bias" in names
      return leaf if kept else leaf.astype(dtype)

    weights = jax.tree_util.tree_map_with_path(cast, params)
    for name in ("encoder", "decoder"):
      depth = getattr(self.config, f"{name}_layers")
      stacked = weights[name]["layers"]
      unstacked = tuple(
        jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(depth)
      )
      weights[name] = {**weights[name], "layers": unstacked}
    return weights

  @nn.nowrap
  def new_cache(
    self, slots: int, length: int, prompt_length: int = 0, dtype: Any = None
  ) -> caches.Cache:
    """Room for `length` decoder inputs, the start included, per slot."""
    return t5_decode.empty(self.config, slots, length, prompt_length, dtype)

  @nn.nowrap
  def prefill(
    self,
    weights: Params,
    prompt_BP: jax.Array,
    lengths_B: jax.Array,
    cache: caches.Cache,
    slots_B: jax.Array,
  ) -> tuple[jax.Array, caches.Cache]:
    """Encodes prompts into slots and reads the decoder start.

    Args:
      prompt_BP: padded on the right to at most the cache's prompt length.
      lengths_B: tokens per row.
      slots_B: where each row goes; a row whose slot does not exist (number
        of slots or above) goes nowhere.

    Returns:
      logits_BV for the first target token, and the cache.

    Raises:
      ValueError: prompts longer than the cache's prompt length.
    """
    t5_decode.check_room(cache, prompt_BP.shape[1])
    rows = t5_decode.encode(self.config, weights, prompt_BP, lengths_B)
    start_B = jnp.full_like(lengths_B, self.config.decoder_start)
    logits_BV, rows = self.step(weights, rows, start_B)
    return logits_BV, t5_decode.put(cache, rows, slots_B)

  @nn.nowrap
  def step(
    self,
    weights: Params,
    cache: caches.Cache,
    tokens_B: jax.Array,
    active_B: jax.Array | None = None,
  ) -> tuple[jax.Array, caches.Cache]:
    """Appends one token to every active slot.

    Returns:
      logits_BV for the token after it (of no meaning where not active), and
      the cache.
    """
    hidden_BD, cache = t5_decode.step(
      self.config, weights, cache, tokens_B, active_B
    )
    logits_BV = layers.step_logits(
      lambda x_BD: self.unembed(weights, x_BD),
      hidden_BD,
      tied=self.config.tied,
    )
    return logits_BV, cache
