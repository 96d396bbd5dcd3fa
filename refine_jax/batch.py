"""Nouns on device, and the key to the dimension suffixes used everywhere.

  B batch    P prompt length    T target length    L = P + T
  S key/value length   D width   F mlp width   N query heads   K kv heads
  G = N / K   H head dim   V vocabulary   Y layers

An array's name ends in its dimensions: `logits_BTV`. Masks are bool and True
counts. Prompts pad on the left, targets on the right; `data.encode` is the
only place that appends an end-of-sequence token.
"""

from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class Batch:
  """What every model sees, encoder-decoder or decoder-only.

  Attributes:
    prompt_BP: int32 ids.
    prompt_mask_BP: which prompt positions exist.
    target_BT: int32 ids, EOS included.
    target_mask_BT: which target positions exist.
    loss_mask_BT: which of them count in a loss (feedback inside a target
      exists and does not count).
    prompt_segments_BP, target_segments_BT: for packed rows, the example a
      position belongs to, 1, 2, ... and 0 for padding; a prompt and a target
      of one example carry one number. None means one example per row.
  """

  prompt_BP: jax.Array
  prompt_mask_BP: jax.Array
  target_BT: jax.Array
  target_mask_BT: jax.Array
  loss_mask_BT: jax.Array
  prompt_segments_BP: jax.Array | None = None
  target_segments_BT: jax.Array | None = None


@flax.struct.dataclass
class Output:
  """A model's answer to a Batch.

  Attributes:
    hidden_BTD: after the final norm; `hidden[:, t]` predicts `target[:, t]`.
      `family.unembed(params, hidden)` makes logits of it.
    last_BTD: `last[:, t]` is the state *at* `target[:, t]`, having read it: a
      reranker scores a candidate from the last existing one.
  """

  hidden_BTD: jax.Array
  last_BTD: jax.Array


Params = Any  # a pytree of arrays: {"embed": ..., "layers": {...}, ...}
