"""Names of hardware, and what is said of names that are none."""

import sys

import pytest

from refine_jax.planning import topologies


@pytest.mark.parametrize(
  ("name", "count", "slices"),
  [
    ("v5e:4x4", 16, 1),
    ("v5e:4x4*2", 32, 2),
    ("v5p:4x4x4", 64, 1),
    ("h100:8", 8, 1),
    ("cpu:3", 3, 1),
  ],
)
def test_names(name, count, slices):
  found = topologies.parse(name)
  assert (found.count, found.slices) == (count, slices)
  assert found.estimated == (found.kind != "tpu")
  assert found.chip.source


@pytest.mark.parametrize(
  "name",
  [
    "v5e",
    "v5e:3x3",
    "v7z:4x4",
    "h100:2x4",
    "cpu:8*2",
    "cpu:0",
    "v5e:2x2*0",
    "",
  ],
)
def test_others_are_refused_in_one_line(name):
  with pytest.raises(topologies.Unknown) as error:
    topologies.parse(name)
  assert "\n" not in str(error.value)
  assert repr(name) in str(error.value)


def test_a_missing_libtpu_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "libtpu", None)
  with pytest.raises(topologies.Unknown, match=r"pip install -e \.\[plan\]"):
    topologies.parse("v5e:2x2").devices()


def test_larger_slices_follow_in_order():
  counts = [t.count for t in topologies.parse("v5e:2x2").larger()]
  assert counts == [8, 16, 32, 64, 128, 256]
  more = topologies.parse("h100:8").larger()
  assert [(t.name, t.count) for t in more] == [("h100:16", 16), ("h100:32", 32)]
  assert topologies.parse("cpu:8").larger() == []


def test_too_few_host_devices():
  with pytest.raises(topologies.Unknown, match="device_count=4096"):
    topologies.parse("cpu:4096").devices()


@pytest.mark.parametrize(
  ("name", "own", "larger"),
  [
    ("v5e:1x1", "v5e:1x1", ["v5e:2x2", "v5e:2x4"]),
    ("v5e:2x4", "v5e:2x4", []),
    ("v6e:8x8", "v6e:2x2", ["v6e:2x4"]),
    ("v5e:2x4*2", "v5e:2x4", []),
    ("v5p:4x4x4", "v5p:2x2x1", []),
    ("h100:4", "h100:4", ["h100:8"]),
    ("h100:16", "h100:8", []),
    ("cpu:8", "cpu:8", []),
  ],
)
def test_what_a_process_has(name, own, larger):
  found = topologies.parse(name).of_process()
  assert found.name == own
  assert found.of_process() == found
  # Only another host has more.
  assert [t.name for t in found.larger()] == larger


@pytest.mark.parametrize("name", ["v6e:4x4", "v5e:4x4*2", "v4:2x2x2"])
def test_a_process_has_what_libtpu_says(name):
  pytest.importorskip("libtpu")
  topology = topologies.parse(name)
  devices = topology.devices()
  first = [d for d in devices if d.process_index == devices[0].process_index]
  assert topology.of_process().count == len(first)
