"""A policy and its value head, on one backbone or on two.

params["policy"]            the family's own: a generator's checkpoint
params["value"]["head"]     a linear map of the state after the final norm
params["value"]["backbone"] a second family, if `separate`
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from refine_jax.batch import Batch, Output, Params
from refine_jax.models.heads import ValueHead

INITS = ("uniform", "zero")


@dataclasses.dataclass(frozen=True)
class ActorCritic:
  """A family that also says what a state is worth.

  Attributes:
    family: the policy's module.
    separate: the value has a backbone of its own (ReFT's ablation, table 6);
      else both share one and the value's gradient flows into it.
    init: of the head: `uniform` within 1 / sqrt(width), torch's default and
      so ReFT's, or `zero`.
  """

  family: nn.Module
  separate: bool = False
  init: str = "uniform"

  def __post_init__(self):
    if self.init not in INITS:
      raise ValueError(f"a value head starts {INITS}, not {self.init!r}")

  def init_head(self, rng: jax.Array) -> Params:
    """Boxed parameters of the head."""
    width = self.family.config.width
    params = ValueHead().init(rng, jnp.zeros((1, width)))["params"]
    if self.init == "zero":
      return params
    leaves, tree = jax.tree.flatten(params)
    bound = width**-0.5
    return tree.unflatten(
      [
        jax.random.uniform(
          jax.random.fold_in(rng, i), x.shape, minval=-bound, maxval=bound
        )
        for i, x in enumerate(leaves)
      ]
    )

  def values(
    self, params: Params, batch: Batch, output: Output, *, behind: bool = False
  ) -> jax.Array:
    """values_BT, float32: of the state that each target token is drawn in.

    Args:
      params: `policy` and `value`.
      batch: what the policy read.
      output: the policy's, of this batch.
      behind: of the state that has read the token instead.
    """
    value = params["value"]
    if self.separate:
      output = self.family.apply({"params": value["backbone"]}, batch)
    hidden_BTD = output.last_BTD if behind else output.hidden_BTD
    head = {"params": value["head"]}
    return ValueHead().apply(head, hidden_BTD).astype(jnp.float32)


def policy_of(params: Params) -> Any:
  """The generator inside: what samplers and later stages read."""
  return params["policy"]
