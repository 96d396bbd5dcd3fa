"""Compact rows against a slow reference."""

import jax
import numpy as np
import pytest

from refine_jax.batch import Batch
from refine_jax.models import rows


def random_batch(rng, *, packed):
  B, P, T = 3, 7, 6

  def segments(size):
    if packed:
      ids = np.sort(rng.integers(1, 4, (B, size)))
    else:
      ids = np.ones((B, size), int)
    mask = rng.random((B, size)) < 0.7  # holes too
    return np.where(mask, ids, 0).astype(np.int32)

  prompt, target = segments(P), segments(T)
  tokens = rng.permutation(B * (P + T)).reshape(B, P + T).astype(np.int32)
  return Batch(
    tokens[:, :P],
    prompt > 0,
    tokens[:, P:],
    target > 0,
    target > 0,
    prompt if packed else None,
    target if packed else None,
  )


def slow_row(batch, i, packed):
  """[(segment, position, token)] of row i."""
  found = []
  for segment in (1, 2, 3):
    parts = []
    for ids, mask, numbers in (
      (batch.prompt_BP, batch.prompt_mask_BP, batch.prompt_segments_BP),
      (batch.target_BT, batch.target_mask_BT, batch.target_segments_BT),
    ):
      number = numbers[i] if packed else mask[i].astype(int)
      parts += ids[i][mask[i] & (number == segment)].tolist()
    found += [(segment, j, token) for j, token in enumerate(parts)]
  return found


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_compact_is_the_loop(packed, seed):
  batch = random_batch(np.random.default_rng(seed), packed=packed)
  found = rows.compact(batch)
  positions = np.broadcast_to(found.positions_BL, found.tokens_BL.shape)
  for i in range(3):
    expected = slow_row(batch, i, packed)
    n = len(expected)
    assert found.tokens_BL[i, :n].tolist() == [token for *_, token in expected]
    assert positions[i, :n].tolist() == [j for _, j, _ in expected]
    if packed:
      segments = found.segments_BL[i].tolist()
      assert segments[:n] == [segment for segment, *_ in expected]
      assert not any(segments[n:])
    else:
      assert found.segments_BL is None


@pytest.mark.parametrize("packed", [False, True])
def test_spread_gives_the_state_before_and_at_each_token(packed):
  batch = random_batch(np.random.default_rng(0), packed=packed)
  compact = rows.compact(batch)
  # A state that says which token it has read.
  states = np.asarray(compact.tokens_BL, np.float32)[..., None] + 1
  output = rows.spread(states, compact, 6)
  for i in range(3):
    row = slow_row(batch, i, packed)
    for t in range(6):
      if not batch.target_mask_BT[i, t]:
        continue
      token = batch.target_BT[i, t]
      assert output.last_BTD[i, t, 0] == token + 1
      at = [entry[2] for entry in row].index(token)
      first = row[at][1] == 0
      expected = 0 if first else row[at - 1][2] + 1
      assert output.hidden_BTD[i, t, 0] == expected


def test_the_gradient_of_spread_is_its_transpose():
  batch = random_batch(np.random.default_rng(1), packed=True)
  compact = rows.compact(batch)
  rng = np.random.default_rng(2)
  x = rng.standard_normal((3, 13, 4)).astype(np.float32)
  g = rng.standard_normal((3, 6, 4)).astype(np.float32)

  def inner(x):
    return (rows.spread(x, compact, 6).hidden_BTD * g).sum()

  # Linear in x: <spread(x), g> = <x, spread'(g)> for any x.
  other = rng.standard_normal(x.shape).astype(np.float32)
  gradient = jax.grad(inner)(x)
  np.testing.assert_allclose((gradient * other).sum(), inner(other), rtol=1e-4)
