"""What is said of programs: units, sums, and what nobody measured."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest

from refine_jax.planning import compiled, report, topologies

ONE = topologies.parse("cpu:1")


def program(**changes):
  made = compiled.Program(
    name="step",
    argument_bytes=3 << 10,
    temp_bytes=1 << 19,
    peak_bytes=5 << 30,
    resident_bytes=0,
    donated_bytes=700,
    flops=2.5e9,
    bytes_moved=1.5e6,
    collectives={},
    kernels=0,
    gathers=(),
    buffers=(),
    bound_seconds=2e-5,
    bound_by="memory",
  )
  return dataclasses.replace(made, **changes)


def row(one):
  line = report.Report(ONE, [one], 0.0).table().splitlines()[1]
  return [x.strip() for x in line.split("  ") if x]


def test_every_figure_is_in_a_unit_in_which_it_can_be_read():
  assert row(program()) == [
    *("step", "3.00 KiB", "512.00 KiB", "5.00 GiB", "0 B", "700 B"),
    *("2.50 GFLOP", "1.50 MB", "20 us", "memory", "none"),
  ]


def test_of_a_refused_program_is_said_what_is_known():
  cells = row(program(refused=True))
  assert cells[1:6] == ["3.00 KiB", "-", "5.00 GiB", "0 B", "-"]


def test_the_peak_is_of_a_program_and_what_lies_beside():
  programs = [program(peak_bytes=9), program(peak_bytes=5, resident_bytes=6)]
  found = report.Report(ONE, programs, 0.0).to_json()
  sums = [p["peak_bytes"] + p["beside_bytes"] for p in found["programs"]]
  assert found["peak_bytes"] == max(sums) == 11


@pytest.mark.parametrize(
  ("peak", "verdict"),
  [
    (0.5, "fits, if started with --config.mesh.tensor=2"),
    (2, "does NOT fit, even if started with --config.mesh.tensor=2"),
  ],
)
def test_the_verdict_is_of_the_flags_that_were_added(peak, verdict):
  one = program(peak_bytes=int(peak * ONE.chip.memory))
  placed = "--config.mesh.tensor=2"
  found = report.Report(ONE, [one], 0.0, placed_with=placed)
  assert f": {verdict} (" in found.table().splitlines()[-1]
  assert found.to_json()["placed_with"] == placed


def lowered():
  return jax.jit(lambda x: x @ x).lower(jnp.ones((8, 8)))


def test_a_refusal_for_memory_is_marked():
  def compile(**how):
    lowered().compile(**how)  # writes its text
    raise jax.errors.JaxRuntimeError("Used 3.00K of 1.00K hbm")

  refusing = types.SimpleNamespace(compile=compile)
  given = jax.ShapeDtypeStruct((8, 8), jnp.float32)
  found = compiled.measure("step", refusing, given, ONE)
  assert found.refused
  assert (found.argument_bytes, found.peak_bytes) == (256, 3072)
  assert not compiled.measure("step", lowered(), given, ONE).refused


def test_what_is_remembered_is_of_a_chips_figures(tmp_path):
  def bound(chip):
    where = dataclasses.replace(ONE, chip=chip)
    given = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    made = compiled.measure("step", lowered(), given, where, known=tmp_path)
    return made.bound_seconds

  half = dataclasses.replace(
    ONE.chip, flops=ONE.chip.flops / 2, bandwidth=ONE.chip.bandwidth / 2
  )
  first = bound(ONE.chip)
  assert bound(half) == pytest.approx(2 * first)
  assert bound(ONE.chip) == first
  assert len(list(tmp_path.iterdir())) == 2
