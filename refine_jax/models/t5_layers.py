"""The layers of T5: pre-norm blocks without biases or attention scaling."""

from typing import Any

import flax.struct
import jax
from flax import linen as nn

from refine_jax import sharding
from refine_jax.models import attention, cache, layers, t5_positions


class Attention(nn.Module):
  """The projections of one attention; queries are not scaled.

  Attributes:
    config: a `T5Config`.
    tie_init: the key kernel starts as a copy of the query kernel.
  """

  config: Any
  tie_init: bool = False

  def setup(self):
    config = self.config
    width, dim, heads = config.width, config.head_dim, config.heads
    # Unscaled scores of independent queries and keys have variance 1 when the
    # product of the two variances, width * dim * both, is 1.
    query = (width * dim) ** -0.5
    key = width**-0.5
    if self.tie_init:
      query = key = (width * dim**0.5) ** -0.5

    def project(deviation=None, init=None):
      init = init or nn.initializers.normal(deviation)
      axes = ("embed", "heads", "head_dim")
      shape = (heads, dim)
      return layers.Dense(
        shape, axes, dtype=config.compute_dtype, initializer=init
      )

    self.q = project(query)
    self.k = project(key, self._as_query if self.tie_init else None)
    self.v = project(width**-0.5)
    self.o = layers.Dense(
      (width,),
      ("heads", "head_dim", "embed"),
      inputs=2,
      dtype=config.compute_dtype,
      initializer=nn.initializers.normal((heads * dim) ** -0.5),
    )

  def _as_query(self, *_) -> jax.Array:
    kernel = self.q.variables["params"]["kernel"]
    return nn.unbox(kernel)

  def __call__(self, x_BLD, source_BSD, **structure) -> jax.Array:
    axes = ("batch", "length", "heads", "head_dim")
    out_BLNH = attention.attend(
      sharding.constrain(self.q(x_BLD), *axes),
      sharding.constrain(self.k(source_BSD), *axes),
      sharding.constrain(self.v(source_BSD), *axes),
      scale=1.0,
      implementation=self.config.attention,
      **structure,
    )
    return self.o(out_BLNH)

  def append(self, x_BD, keys, values, at_B, bias):
    """Attends over a slot's positions and the new one, written at `at_B`."""
    q_BNH = self.q(x_BD)
    keys = cache.append_one(keys, self.k(x_BD), at_B)
    values = cache.append_one(values, self.v(x_BD), at_B)
    out_BNH = attention.attend_cache(
      q_BNH, keys, values, at_B + 1, bias=bias, scale=1.0
    )
    return self.o(out_BNH), keys, values

  def read(self, x_BD, keys, values, lengths_R) -> jax.Array:
    """Attends over keys and values that are already there."""
    out_BNH = attention.attend_cache(
      self.q(x_BD), keys, values, lengths_R, scale=1.0
    )
    return self.o(out_BNH)

  def keys_values(self, source_BSD) -> tuple[jax.Array, jax.Array]:
    return self.k(source_BSD), self.v(source_BSD)


class Mlp(nn.Module):
  """ReLU (v1.0), or a GELU gate on a second projection (v1.1)."""

  config: Any

  def setup(self):
    config = self.config
    init = nn.initializers.normal(config.width**-0.5)

    def project():
      axes = ("embed", "mlp")
      shape = (config.mlp,)
      return layers.Dense(
        shape, axes, dtype=config.compute_dtype, initializer=init
      )

    if config.gated:
      self.gate = project()
    self.up = project()
    self.down = layers.Dense(
      (config.width,),
      ("mlp", "embed"),
      dtype=config.compute_dtype,
      initializer=nn.initializers.normal(config.mlp**-0.5),
    )
    self.dropout = Dropout(config.dropout)

  def __call__(self, x: jax.Array) -> jax.Array:
    if self.config.gated:
      x = layers.activation("gelu_tanh")(self.gate(x)) * self.up(x)
    else:
      x = layers.activation("relu")(self.up(x))
    return self.down(self.dropout(x))


class Dropout(nn.Module):
  """Active only when the caller gives a "dropout" rng."""

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    still = not self.rate or not self.has_rng("dropout")
    return nn.Dropout(self.rate)(x, deterministic=still)


def norm(config: Any) -> layers.RMSNorm:
  return layers.RMSNorm(config.norm_eps, dtype=config.compute_dtype)


class EncoderLayer(nn.Module):
  """Attention within a segment, then the mlp."""

  config: Any

  def setup(self):
    config = self.config
    self.attention_norm = norm(config)
    self.attention = Attention(config, tie_init=config.init_tie_qk)
    self.mlp_norm = norm(config)
    self.mlp = Mlp(config)
    self.dropout = Dropout(config.dropout)

  def __call__(self, x_BPD, bias, segments_BP):
    normed_BPD = self.attention_norm(x_BPD)
    x_BPD += self.dropout(
      self.attention(
        normed_BPD,
        normed_BPD,
        bias=bias,
        q_segments_BL=segments_BP,
        kv_segments_BS=segments_BP,
      )
    )
    x_BPD += self.dropout(self.mlp(self.mlp_norm(x_BPD)))
    return sharding.constrain(x_BPD, "batch", "length", "width"), None


@flax.struct.dataclass
class Encoded:
  """What a decoder sees of its prompts.

  Attributes:
    states_BPD: the encoder's output.
    segments_BP: as in a Batch, 0 for padding.
  """

  states_BPD: jax.Array
  segments_BP: jax.Array


class DecoderLayer(nn.Module):
  """Causal attention within a segment, attention to its prompt, the mlp."""

  config: Any

  def setup(self):
    config = self.config
    self.attention_norm = norm(config)
    self.attention = Attention(config, tie_init=config.init_tie_qk)
    self.cross_norm = norm(config)
    self.cross = Attention(config, tie_init=config.init_tie_qk)
    self.mlp_norm = norm(config)
    self.mlp = Mlp(config)
    self.dropout = Dropout(config.dropout)

  def __call__(self, x_BTD, bias, segments_BT, encoded: Encoded):
    normed_BTD = self.attention_norm(x_BTD)
    x_BTD += self.dropout(
      self.attention(
        normed_BTD,
        normed_BTD,
        bias=bias,
        q_segments_BL=segments_BT,
        kv_segments_BS=segments_BT,
        causal=True,
      )
    )
    x_BTD += self.dropout(
      self.cross(
        self.cross_norm(x_BTD),
        encoded.states_BPD,
        q_segments_BL=segments_BT,
        kv_segments_BS=encoded.segments_BP,
      )
    )
    x_BTD += self.dropout(self.mlp(self.mlp_norm(x_BTD)))
    return sharding.constrain(x_BTD, "batch", "length", "width"), None

  def step(self, x_BD, bias, at_B, rows, cross, prompt_lengths_R):
    """One position; `rows` and `cross` are (keys, values) of this layer.

    Returns:
      the state, and `rows` with the position written at `at_B`: x_BD, keys,
      values.
    """
    out_BD, keys, values = self.attention.append(
      self.attention_norm(x_BD), *rows, at_B, bias
    )
    x_BD += out_BD
    x_BD += self.cross.read(self.cross_norm(x_BD), *cross, prompt_lengths_R)
    return x_BD + self.mlp(self.mlp_norm(x_BD)), keys, values

  def cross_keys_values(self, states_BPD):
    return self.cross.keys_values(states_BPD)


def stack(layer: type[nn.Module], config: Any, depth: int, inputs: int):
  """`depth` layers whose parameters have a leading axis "layers".

  Args:
    inputs: how many arguments after the state every layer gets as they are.
  """
  # Without a loop, common subexpressions would undo the recomputation.
  short = depth <= config.unroll and config.remat == "none"
  scanned = nn.scan(
    layers.remat(layer, config.remat),
    variable_axes={"params": 0},
    split_rngs={"params": True, "dropout": True},
    in_axes=(nn.broadcast,) * inputs,
    length=depth,
    unroll=depth if short else 1,
    metadata_params={nn.PARTITION_NAME: "layers"},
  )
  return scanned(config)


class Stack(nn.Module):
  """An encoder or a decoder: its layers, its bias and its last norm."""

  config: Any
  layer: type[nn.Module]
  depth: int
  inputs: int
  two_sided: bool

  def setup(self):
    self.relative_bias = relative_bias(self.config, self.two_sided)
    self.layers = stack(self.layer, self.config, self.depth, self.inputs)
    self.final_norm = norm(self.config)
    self.dropout = Dropout(self.config.dropout)

  def __call__(self, x_BLD: jax.Array, *inputs) -> jax.Array:
    x_BLD = sharding.constrain(x_BLD, "batch", "length", "width")
    bias = self.relative_bias(x_BLD.shape[1])
    x_BLD, _ = self.layers(self.dropout(x_BLD), bias, *inputs)
    return self.dropout(self.final_norm(x_BLD))


def relative_bias(config: Any, two_sided: bool) -> t5_positions.RelativeBias:
  return t5_positions.RelativeBias(
    heads=config.heads,
    buckets=config.buckets,
    max_distance=config.max_distance,
    two_sided=two_sided,
    deviation=config.width**-0.5,
    local_slope=config.init_local_slope,
  )
