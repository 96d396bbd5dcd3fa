"""Batches on a mesh."""

import jax
import numpy as np
import pytest

from refine_jax import sharding
from refine_jax.data import device, encode


def batches(count):
  for i in range(count):
    row = encode.Encoded(
      np.asarray([1, i], np.int32),
      np.asarray([i, 2], np.int32),
      np.ones(2, bool),
    )
    yield encode.collate([[row]] * 8, 4, 4, 0, packed=i % 2 == 0)


@pytest.mark.parametrize("shape", [{}, {"fsdp": 4, "tensor": 2}])
def test_rows_lie_over_the_batch_axes(shape):
  mesh = sharding.make_mesh(**shape)
  (batch,) = batches(1)
  placed = device.place(batch, sharding.of_batch(mesh))
  for host, on_device in zip(
    jax.tree.leaves(batch), jax.tree.leaves(placed), strict=True
  ):
    np.testing.assert_array_equal(on_device, host)
    assert on_device.sharding == sharding.of_batch(mesh)
    rows = 8 // (mesh.size // mesh.shape["tensor"])
    assert {s.data.shape[0] for s in on_device.addressable_shards} == {rows}


def test_without_a_mesh_the_default_device_is_taken():
  (batch,) = batches(1)
  placed = device.place(batch)
  assert placed.prompt_BP.devices() == {jax.devices()[0]}


def test_rows_that_do_not_divide_are_an_error():
  (batch,) = batches(1)
  batch = jax.tree.map(lambda x: x[:6], batch)
  with pytest.raises(ValueError):
    device.place(batch, sharding.of_batch(sharding.make_mesh()))


@pytest.mark.parametrize("depth", [0, 1, 2, 9])
def test_prefetch_keeps_order_and_length(depth):
  placed = list(device.prefetch(batches(5), depth=depth))
  assert [int(b.target_BT[0, 0]) for b in placed] == list(range(5))


def test_prefetch_is_ahead_and_closes_what_it_reads():
  made, closed = [], []

  def source():
    try:
      for i, batch in enumerate(batches(9)):
        made.append(i)
        yield batch
    finally:
      closed.append(True)

  reader = device.prefetch(source(), depth=2)
  next(reader)
  assert made == [0, 1, 2]  # two are waiting while one is used
  next(reader)
  assert made == [0, 1, 2, 3]
  reader.close()
  assert closed
