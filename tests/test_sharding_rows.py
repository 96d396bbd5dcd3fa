"""A row of an array that several devices share, sent by whoever has it."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from refine_jax import sharding

AXES = ("batch", "kv_heads", None, None)


@pytest.mark.parametrize(
  "sizes", [{}, {"data": 2, "fsdp": 2, "tensor": 2}, {"tensor": 8}]
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int8])
@pytest.mark.parametrize("rows", [8, 5])
def test_every_row(sizes, dtype, rows):
  mesh = sharding.make_mesh(**sizes)
  x = np.arange(rows * 4 * 3 * 2).reshape(rows, 4, 3, 2).astype(dtype)
  where = sharding.spec(AXES, x.shape, mesh)
  placed = jax.device_put(x, jax.sharding.NamedSharding(mesh, where))
  take = jax.jit(lambda x, i: sharding.row(x, i, *AXES))
  with jax.set_mesh(mesh):
    for index in range(rows):
      found = take(placed, jnp.int32(index))
      np.testing.assert_array_equal(found, x[index : index + 1])


@pytest.mark.parametrize(
  "sizes", [{}, {"data": 2, "fsdp": 2, "tensor": 2}, {"tensor": 8}]
)
@pytest.mark.parametrize("rows", [8, 5])
def test_every_row_is_written(sizes, rows):
  mesh = sharding.make_mesh(**sizes)
  x = np.arange(rows * 4 * 3 * 2).reshape(rows, 4, 3, 2).astype(np.float32)
  where = sharding.spec(AXES, x.shape, mesh)
  placed = jax.device_put(x, jax.sharding.NamedSharding(mesh, where))
  new = -np.ones((1, 4, 3, 2), np.float32)
  put = jax.jit(lambda x, i, new: sharding.set_row(x, i, new, *AXES))
  with jax.set_mesh(mesh):
    for index in range(rows + 1):  # past the last one: nowhere
      expected = x.copy()
      expected[index : index + 1] = new[: rows - index]
      found = put(placed, jnp.int32(index), new)
      np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  ("owners", "tensor", "process", "expected"),
  [
    ((0, 0, 0, 0, 1, 1, 1, 1), 1, 1, (1, 2)),
    ((0, 0, 0, 0, 1, 1, 1, 1), 4, 1, (1, 2)),
    # Two processes hold the same rows, and two others the rest.
    ((0, 0, 1, 1, 2, 2, 3, 3), 4, 1, (0, 2)),
    ((0, 0, 1, 1, 2, 2, 3, 3), 4, 2, (1, 2)),
    # All rows, whole or in pieces.
    ((0, 0, 0, 0, 1, 1, 1, 1), 8, 1, (0, 1)),
    ((0, 0, 1, 1, 0, 0, 1, 1), 1, 1, (0, 1)),
  ],
)
def test_a_process_reads_the_rows_it_holds(
  owners, tensor, process, expected, monkeypatch
):
  devices = np.array([types.SimpleNamespace(process_index=p) for p in owners])
  mesh = types.SimpleNamespace(
    devices=devices.reshape(1, 1, -1, tensor), shape={"tensor": tensor}
  )
  monkeypatch.setattr(jax, "process_count", lambda: max(owners) + 1)
  monkeypatch.setattr(jax, "process_index", lambda: process)
  assert sharding.share(mesh) == expected
