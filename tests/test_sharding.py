"""Meshes over several slices, of devices that are not there."""

import dataclasses

import pytest

from refine_jax import sharding


@dataclasses.dataclass(frozen=True)
class Device:
  """What `mesh_utils` asks of a TPU."""

  id: int
  coords: tuple[int, int, int]
  slice_index: int
  process_index: int
  platform: str = "tpu"
  device_kind: str = "TPU v5 lite"
  core_on_chip: int = 0


def devices(slices: int, **more) -> list[Device]:
  """Slices of 2 x 2."""
  return [
    Device(4 * s + i, (i % 2, i // 2, 0), s, s, **more)
    for s in range(slices)
    for i in range(4)
  ]


@pytest.mark.parametrize(
  ("slices", "sizes", "shape"),
  [
    (1, {}, (1, 1, 4, 1)),
    (2, {}, (2, 1, 4, 1)),
    (3, {"tensor": 2}, (3, 1, 2, 2)),
    (2, {"slice": 2, "fsdp": 2, "data": 2}, (2, 2, 2, 1)),
    (2, {"slice": -1, "fsdp": 4}, (2, 1, 4, 1)),
  ],
)
def test_every_slice_is_one_place_on_its_axis(slices, sizes, shape):
  mesh = sharding.make_mesh(**sizes, devices=devices(slices))
  assert mesh.devices.shape == shape
  for number, part in enumerate(mesh.devices):
    assert {d.slice_index for d in part.flat} == {number}


def test_gpus_of_several_hosts_are_one_mesh():
  found = devices(2, platform="gpu", device_kind="H100")
  mesh = sharding.make_mesh(devices=found)
  assert mesh.devices.shape == (1, 1, 8, 1)


@pytest.mark.parametrize("size", [0, -2])
def test_an_axis_has_devices(size):
  with pytest.raises(ValueError, match=f"tensor={size}: at least 1, or -1"):
    sharding.make_mesh(tensor=size, devices=devices(2))
