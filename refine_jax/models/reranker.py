"""A reranker: a family's last state of prompt and completion, in two classes.

The original ReFT's layout: a linear map without bias of the state at the last
token of the completion, EOS not being one of them; class 1 is "correct".
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from refine_jax.batch import Batch, Output, Params
from refine_jax.models.heads import ScoreHead

CLASSES = 2
HEAD = "score"  # beside the family's own parameters


@dataclasses.dataclass(frozen=True)
class Reranker:
  """A family with a two-class head.

  Parameters are the family's with the head's under `params["score"]`.

  Attributes:
    family: a module of any family.
    init_std: of the head; 0 starts with every candidate at one half.
  """

  family: nn.Module
  init_std: float = 0.02

  @property
  def head(self) -> ScoreHead:
    return ScoreHead(CLASSES, self.init_std, bias=False)

  def init(self, rng: jax.Array, batch: Batch) -> dict[str, Params]:
    """Boxed parameters, as a linen module's `init` gives them."""
    backbone = self.family.init(rng, batch)["params"]
    return {"params": {**backbone, HEAD: self.init_head(rng)}}

  def init_head(self, rng: jax.Array) -> Params:
    """Boxed parameters of the head alone."""
    hidden_BD = jnp.zeros((1, self.family.config.width))
    return self.head.init(jax.random.fold_in(rng, 1), hidden_BD)["params"]

  def __call__(self, params: Params, batch: Batch) -> tuple[jax.Array, Output]:
    """logits_B2 in float32, and the family's output.

    Targets end with EOS, which is not read: the state that predicts it has
    read the whole completion, and the prompt where that is empty.
    """
    output = self.family.apply({"params": backbone_of(params)}, batch)
    last_B = jnp.maximum(batch.target_mask_BT.sum(axis=1) - 1, 0)
    state_BD = jnp.take_along_axis(
      output.hidden_BTD, last_B[:, None, None], axis=1
    )[:, 0]
    return self.head.apply({"params": params[HEAD]}, state_BD), output


def backbone_of(params: Params) -> dict[str, Any]:
  """A reranker's parameters without its head's: a generator's."""
  return {name: leaf for name, leaf in params.items() if name != HEAD}
