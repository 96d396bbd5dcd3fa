"""A batch is a pure function of (seed, step), split among processes."""

import collections
import itertools
import sys
import time

import numpy as np
import pytest

from refine_jax.data import batches, encode

SEED = 5


def examples(count=101, seed=0):
  rng = np.random.default_rng(seed)
  rows = []
  for i in range(count):
    p, t = rng.integers(1, 20), rng.integers(1, 30)
    # The first id tells which example it is.
    rows.append(
      encode.Encoded(
        np.asarray([1000 + i, *range(3, p + 2)], np.int32),
        np.asarray([2000 + i] * t, np.int32),
        rng.random(t) < 0.7,
      )
    )
  return encode.EncodedExamples([f"e{i}" for i in range(count)], rows)


EXAMPLES = examples()
MODES = {
  "pack": {"mode": "pack", "row_tokens": 120},
  "bucket": {"mode": "bucket", "buckets": 4},
  "shapes": {"mode": "bucket", "buckets": [(8, 16), (12, 12), (24, 32)]},
  "pad": {"mode": "pad"},
}
MODE = pytest.mark.parametrize("mode", MODES)


def build(mode, **kw):
  return batches.Batches(
    EXAMPLES, 8, pad_id=0, **({"seed": SEED} | MODES[mode] | kw)
  )


def same(a, b):
  for name, x in vars(a).items():
    y = getattr(b, name)
    if x is None:
      assert y is None
    else:
      np.testing.assert_array_equal(x, y, err_msg=name)


def contents(batch):
  """The examples of a batch, read back out of the arrays."""
  found = []
  for b in range(len(batch.prompt_BP)):
    mask, tmask = batch.prompt_mask_BP[b], batch.target_mask_BT[b]
    segments, tsegments = mask.astype(int), tmask.astype(int)
    if batch.prompt_segments_BP is not None:
      segments = batch.prompt_segments_BP[b]
      tsegments = batch.target_segments_BT[b]
      np.testing.assert_array_equal(segments > 0, mask)
      np.testing.assert_array_equal(tsegments > 0, tmask)
    for number in range(1, segments.max() + 1):
      at = tsegments == number
      found.append(
        (
          batch.prompt_BP[b][segments == number].tolist(),
          batch.target_BT[b][at].tolist(),
          batch.loss_mask_BT[b][at].tolist(),
        )
      )
    assert tsegments.max() == segments.max()
    assert not batch.loss_mask_BT[b][~tmask].any()
    assert not batch.prompt_BP[b][~mask].any()  # pad_id
  return found


@MODE
def test_every_example_exactly_once_per_epoch(mode):
  made = build(mode)
  want = sorted(
    (e.prompt_ids.tolist(), e.target_ids.tolist(), e.learn.tolist())
    for e in EXAMPLES
  )
  orders = []
  for epoch in range(3):
    start = epoch * made.steps_per_epoch
    found = []
    for step in range(start, start + made.steps_per_epoch):
      batch = made[step]
      assert len(batch.prompt_BP) == 8
      shape = batch.prompt_BP.shape[1], batch.target_BT.shape[1]
      assert shape in made.shapes
      found += contents(batch)
    assert sorted(found) == want
    orders.append(found)
  assert orders[0] != orders[1] != orders[2]


@MODE
def test_a_batch_depends_on_seed_and_step_alone(mode):
  straight = [build(mode)[step] for step in range(40)]
  made = build(mode)
  for step in np.random.default_rng(0).permutation(40):
    same(made[int(step)], straight[step])
  other = [build(mode, seed=SEED + 1)[step] for step in range(40)]
  assert any(
    not np.array_equal(a.prompt_BP, b.prompt_BP)
    for a, b in zip(straight, other, strict=True)
  )


def test_small_sets_are_quick():
  """Regression: grain's index shuffle took 7 ms per row below 16 bits."""
  made = build("pad", epochs=100)
  start = time.process_time()
  for step in range(len(made)):
    made.rows(step)
  assert time.process_time() - start < 1.0  # was 80 s


def test_the_next_seed_is_no_later_epoch_of_this_one():
  # Shuffles seeded with seed + epoch would make it one.
  made, later = build("pad"), build("pad", seed=SEED + 1)
  n = made.steps_per_epoch
  epoch = [made.rows(n + s) for s in range(n)]
  assert np.concatenate(epoch[0]).tolist() != (
    np.concatenate(later.rows(0)).tolist()
  )


@MODE
def test_the_rows_of_two_processes_are_the_global_batch(mode):
  whole = build(mode)
  halves = [build(mode, process=(p, 2)) for p in range(2)]
  for step in (0, 3, 17):
    parts = [h[step] for h in halves]
    assert len(parts[0].prompt_BP) == 4
    for name, x in vars(whole[step]).items():
      if x is not None:
        joined = np.concatenate([getattr(p, name) for p in parts])
        np.testing.assert_array_equal(joined, x, err_msg=name)
  for h in halves:
    assert len(h) == len(whole) and h.shapes == whole.shapes
    assert h.padding_fraction == whole.padding_fraction


@MODE
@pytest.mark.parametrize("prefetch", [0, 2])
def test_resuming_at_a_step_equals_the_straight_run(mode, prefetch):
  straight = build(mode).iterate(prefetch=prefetch)
  straight = list(itertools.islice(straight, 30))
  for start in (0, 1, 13, 29):
    resumed = build(mode).iterate(start, prefetch=prefetch)
    for step, batch in zip(range(start, 30), resumed, strict=False):
      same(batch, straight[step])


@MODE
def test_finite_epochs_end(mode):
  made = build(mode, epochs=2)
  assert len(made) == 2 * made.steps_per_epoch
  rest = list(made.iterate(len(made) - 2))
  assert len(rest) == 2
  same(rest[1], made[len(made) - 1])
  with pytest.raises(IndexError):
    made[len(made)]
  with pytest.raises(IndexError):
    made[-1]
  assert len(build(mode)) == sys.maxsize


@MODE
def test_rows_tells_what_is_in_a_batch(mode):
  made = build(mode)
  for step in (0, made.steps_per_epoch - 1):
    rows = made.rows(step)
    assert len(rows) == 8
    names = [EXAMPLES[i].prompt_ids[0] for row in rows for i in row]
    assert names == [prompt[0] for prompt, _, _ in contents(made[step])]


@MODE
@pytest.mark.parametrize("drop", [False, True])
def test_padding_fraction_is_what_the_batches_show(mode, drop):
  made = build(mode, drop_remainder=drop)
  steps = range(made.steps_per_epoch * (40 if drop else 1))
  if drop and mode in ("pack", "pad"):
    epoch = range(made.steps_per_epoch)
    assert all(len(row) for step in epoch for row in made.rows(step))
  masks = [
    np.concatenate([b.prompt_mask_BP, b.target_mask_BT], axis=1).ravel()
    for b in (made[s] for s in steps)
  ]
  fraction = 1 - np.concatenate(masks).mean()
  # Which rows are dropped differs by epoch: there it is the average.
  tolerance = 0.01 if drop else 1e-9
  assert made.padding_fraction == pytest.approx(fraction, abs=tolerance)


def test_only_the_last_batch_of_an_epoch_is_not_full():
  for mode in ("bucket", "pad"):
    made = build(mode)
    assert made.steps_per_epoch == -(-len(EXAMPLES) // 8)
    full = collections.Counter(
      sum(len(row) for row in made.rows(step))
      for step in range(made.steps_per_epoch)
    )
    assert full == {8: len(EXAMPLES) // 8, len(EXAMPLES) % 8: 1}


def test_without_shuffle_the_order_is_kept():
  made = build("pad", shuffle=False)
  steps = range(2 * made.steps_per_epoch)
  order = [int(i) for s in steps for row in made.rows(s) for i in row]
  assert order == [*range(len(EXAMPLES))] * 2


def test_buckets_pad_less_than_one_length_and_packing_least():
  pad, bucket = build("pad"), build("bucket")
  pack = build("pack", row_tokens=400)
  assert pack.padding_fraction < bucket.padding_fraction < pad.padding_fraction
  assert len(pad.shapes) == len(pack.shapes) == 1 < len(bucket.shapes) <= 4
  assert pad.shapes[0] == (24, 32)


def test_chosen_buckets_are_the_best_of_their_candidates():
  """Against every choice of shapes."""
  lengths_N2 = np.random.default_rng(0).integers(1, 60, (200, 2))
  levels = np.concatenate(
    [np.linspace(0, 0.9, 31)[1:], np.linspace(0.91, 1, 10)]
  )
  shapes = np.quantile(lengths_N2, levels, axis=0, method="higher")
  shapes = sorted({tuple(int(-(-x // 8) * 8) for x in s) for s in shapes})

  def cost(chosen):
    total = 0
    for row in lengths_N2:
      fits = [s for s in chosen if (row <= s).all()]
      total += sum(min(fits))
    return total

  best = min(
    cost([*some, shapes[-1]]) for some in itertools.combinations(shapes[:-1], 2)
  )
  chosen = batches.choose_buckets(lengths_N2, 3)
  assert cost(chosen) == best


def test_given_lengths():
  assert build("pad", lengths=(32, 40)).shapes == ((32, 40),)
  packed = build("pack", row_tokens=None, lengths=(40, 50))
  assert packed.shapes == ((40, 50),)
  with pytest.raises(ValueError, match="fits none of the lengths"):
    build("pad", lengths=(8, 40))
  with pytest.raises(ValueError, match="fits no row"):
    build("pack", row_tokens=None, lengths=(8, 40))


def test_wrong_arguments_are_told():
  with pytest.raises(ValueError, match="mode is one of"):
    batches.Batches(EXAMPLES, 8, pad_id=0, mode="packed")
  with pytest.raises(ValueError, match="row_tokens or lengths"):
    build("pack", row_tokens=None)
  with pytest.raises(ValueError, match="does not divide"):
    build("pad", process=(0, 3))
  with pytest.raises(ValueError, match="no examples"):
    batches.Batches(encode.EncodedExamples([], []), 8, pad_id=0, mode="pad")
  with pytest.raises(ValueError, match="do not fill one batch"):
    batches.Batches(EXAMPLES, 200, pad_id=0, mode="pad", drop_remainder=True)


def test_fewer_examples_than_a_batch_has_rows():
  made = batches.Batches(examples(3), 8, pad_id=0, mode="pack", row_tokens=64)
  assert made.steps_per_epoch == 1
  assert len(contents(made[0])) == len(contents(made[7])) == 3
