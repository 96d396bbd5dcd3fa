"""Log-probabilities of given targets, by teacher forcing."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from refine_jax.algorithms.logprobs import logprobs
from refine_jax.batch import Batch

# Logits that exist at a time, in floats.
LOGITS = 1 << 25


def score(
  family, value_head: Callable[..., jax.Array] | None, params, batch: Batch
) -> tuple[jax.Array, jax.Array]:
  """Log-probabilities of a batch's targets, and values if there is a head.

  Args:
    family: the model.
    value_head: (params, hidden_BTD) -> values_BT.
    params: the model's.
    batch: as in training; `loss_mask_BT` is not looked at.

  Returns:
    logprobs_BT and values_BT (zeros without a head), float32. Positions that
    do not exist hold numbers of no meaning.
  """
  hidden_BTD = family.apply({"params": params}, batch).hidden_BTD
  return _of_hidden(family, value_head, params, hidden_BTD, batch.target_BT)


def score_shared(
  family,
  value_head: Callable[..., jax.Array] | None,
  params,
  prompt_GP: jax.Array,
  lengths_G: jax.Array,
  target_BT: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """`score` where B / G adjacent targets share a prompt, which is read once.

  Both are padded right.
  """
  hidden_BTD = family.branches(params, prompt_GP, lengths_G, target_BT)
  return _of_hidden(family, value_head, params, hidden_BTD, target_BT)


def _of_hidden(family, value_head, params, hidden_BTD, target_BT):
  logprobs_BT = logprobs(
    lambda hidden: family.unembed(params, hidden),
    hidden_BTD,
    target_BT,
    chunk=max(1, LOGITS // family.config.vocab_size),
  )
  if value_head is None:
    return logprobs_BT, jnp.zeros_like(logprobs_BT)
  return logprobs_BT, value_head(params, hidden_BTD).astype(jnp.float32)


# How many targets of one prompt are scored together, at most.
SHARED = (4, 16, 64)


def share(
  prompts: Sequence[Sequence[int]], most: int
) -> tuple[list[tuple[int, list[int]]], list[int]]:
  """Which targets are scored together because their prompts are equal.

  Args:
    prompts: one per target.
    most: targets in a batch.

  Returns:
    (places for targets, indices) of each group, and the indices left alone.
  """
  places = [n for n in SHARED if n <= most]
  by_prompt: dict[tuple[int, ...], list[int]] = {}
  for i, prompt in enumerate(prompts):
    by_prompt.setdefault(tuple(prompt), []).append(i)
  groups, alone = [], []
  for members in by_prompt.values():
    if len(members) < 2 or not places:
      alone += members
      continue
    for start in range(0, len(members), places[-1]):
      part = members[start : start + places[-1]]
      groups.append((next(n for n in places if n >= len(part)), part))
  return groups, sorted(alone)


def branches_of(
  prompts: Sequence[Sequence[int]],
  targets: Sequence[Sequence[Sequence[int]]],
  *,
  rows: int,
  each: int,
  prompt_length: int,
  target_length: int,
) -> tuple[Any, Any, Any]:
  """prompt_GP, lengths_G and target_BT, each prompt with `each` targets."""
  prompt_GP = np.zeros((rows, prompt_length), np.int32)
  lengths_G = np.ones((rows,), np.int32)
  target_BT = np.zeros((rows * each, target_length), np.int32)
  for g, (prompt, group) in enumerate(zip(prompts, targets, strict=True)):
    prompt_GP[g, : len(prompt)], lengths_G[g] = prompt, len(prompt)
    for k, target in enumerate(group):
      target_BT[g * each + k, : len(target)] = target
  return prompt_GP, lengths_G, target_BT


def batch_of(
  prompts: Sequence[Sequence[int]],
  targets: Sequence[Sequence[int]],
  *,
  rows: int,
  prompt_length: int,
  target_length: int,
) -> Batch:
  """Host arrays of fixed shape: prompts padded left, targets right."""
  prompt_BP = np.zeros((rows, prompt_length), np.int32)
  target_BT = np.zeros((rows, target_length), np.int32)
  prompt_mask_BP = np.zeros(prompt_BP.shape, bool)
  target_mask_BT = np.zeros(target_BT.shape, bool)
  for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
    if len(prompt):
      prompt_BP[row, -len(prompt) :] = prompt
      prompt_mask_BP[row, -len(prompt) :] = True
    target_BT[row, : len(target)] = target
    target_mask_BT[row, : len(target)] = True
  # Rows that only fill the batch up still need a token to look at.
  prompt_mask_BP[len(prompts) :, -1:] = True
  return Batch(
    prompt_BP=prompt_BP,
    prompt_mask_BP=prompt_mask_BP,
    target_BT=target_BT,
    target_mask_BT=target_mask_BT,
    loss_mask_BT=target_mask_BT,
  )


def prompts_of(
  prompts: Sequence[Sequence[int]], *, rows: int, length: int
) -> tuple[Any, Any]:
  """prompt_BP and prompt_mask_BP, for embedding."""
  batch = batch_of(
    prompts,
    [()] * len(prompts),
    rows=rows,
    prompt_length=length,
    target_length=0,
  )
  return batch.prompt_BP, batch.prompt_mask_BP
