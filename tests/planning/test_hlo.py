"""FLOPs and collectives of a partitioned program, against arithmetic."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from refine_jax import sharding
from refine_jax.planning import hlo, topologies
from refine_jax.planning.compiled import (
  CompilerError,
  bytes_per_device,
  measure,
  refused,
)

ROWS, WIDTH, LAYERS = 16, 64, 5
TOPOLOGY = topologies.parse("cpu:8")


@pytest.fixture(scope="module")
def mesh():
  return sharding.make_mesh(devices=TOPOLOGY.devices())


def shaped(mesh, shape, *spec):
  where = NamedSharding(mesh, PartitionSpec(*spec))
  return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)


def compiled(mesh, function, *arguments, steps=1, donate=()):
  with jax.set_mesh(mesh):
    lowered = jax.jit(function, donate_argnums=donate).lower(*arguments)
  return measure("p", lowered, arguments, TOPOLOGY, steps=steps)


def test_a_scan_counts_as_often_as_it_runs(mesh):
  x = shaped(mesh, (ROWS, WIDTH), "fsdp")
  w = shaped(mesh, (LAYERS, WIDTH, WIDTH), None, "fsdp")

  def stack(x, w):
    return jax.lax.scan(lambda x, w: (jnp.sin(x @ w), None), x, w)[0]

  program = compiled(mesh, stack, x, w)
  layer = 2 * (ROWS // 8) * WIDTH * WIDTH
  assert program.flops == LAYERS * layer
  gathers = program.collectives["all-gather"]
  # Every layer's matrix, less the eighth that lies there already.
  assert gathers.bytes == LAYERS * WIDTH * WIDTH * 4 * 7 / 8
  assert gathers.count == LAYERS
  assert max(size for _, size in program.gathers) == WIDTH * WIDTH * 4
  assert bytes_per_device((x, w)) == program.argument_bytes


def test_a_loop_only_the_data_end_counts_the_steps_given(mesh):
  x = shaped(mesh, (ROWS, WIDTH), "fsdp")
  w = shaped(mesh, (WIDTH, WIDTH))

  def loop(x, w):
    return jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x @ w, x)

  once = 2 * (ROWS // 8) * WIDTH * WIDTH
  assert compiled(mesh, loop, x, w).flops == once
  assert compiled(mesh, loop, x, w, steps=7).flops == 7 * once


def test_donation_and_an_all_reduce(mesh):
  x = shaped(mesh, (ROWS, WIDTH), "fsdp")
  total = shaped(mesh, (WIDTH, WIDTH))
  program = compiled(mesh, lambda total, x: total + x.T @ x, total, x, donate=0)
  assert program.donated_bytes == WIDTH * WIDTH * 4
  assert program.collectives["all-reduce"].bytes == pytest.approx(
    2 * WIDTH * WIDTH * 4 * 7 / 8
  )
  # What is donated is not counted twice.
  assert program.peak_bytes == program.argument_bytes + program.temp_bytes


@pytest.mark.parametrize(
  ("groups", "size"),
  [
    ("replica_groups=mesh['a'=2,'b'=4] {'b'}", 4),
    ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", 8),
    ("replica_groups=mesh['a'=8] {'a':(1)2}", 2),
    ("replica_groups=[2,4]<=[8]", 4),
    ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", 2),
    ("replica_groups={}", 8),
  ],
)
def test_groups_in_every_spelling(groups, size):
  text = f"""HloModule m

ENTRY %main (p: f32[4]) -> f32[16] {{
  %p = f32[4]{{0}} parameter(0)
  ROOT %g = f32[16]{{0}} all-gather(%p), {groups}, dimensions={{0}}
}}
"""
  found = hlo.Module(text, 8).cost().collectives["all-gather"]
  assert found.bytes == 64 * (size - 1) / size


def test_of_branches_the_dearest_counts():
  text = """HloModule m

%cheap (a: f32[8,8]) -> f32[8,8] {
  ROOT %a = f32[8,8]{1,0} parameter(0)
}

%dear (b: f32[8,8]) -> f32[8,8] {
  %b = f32[8,8]{1,0} parameter(0)
  ROOT %d = f32[8,8]{1,0} dot(%b, %b), lhs_contracting_dims={1}
}

ENTRY %main (i: s32[], x: f32[8,8]) -> f32[8,8] {
  %i = s32[] parameter(0)
  %x = f32[8,8]{1,0} parameter(1)
  ROOT %c = f32[8,8]{1,0} conditional(%i, %x, %x), branch_computations={%cheap, %dear}
}
"""  # noqa: E501
  assert hlo.Module(text, 1).cost().flops == 2 * 8 * 8 * 8


@pytest.mark.parametrize(
  ("kernel", "products"),
  [
    ("splash_mha_fwd_segmented_residuals", 2),
    ("splash_mha_dq_no_segments", 3),
    ("splash_mha_dkv_segmented", 4),
    ("another_kernel", 0),
  ],
)
def test_attention_kernels_are_counted(kernel, products):
  text = f"""HloModule m

ENTRY %main (q: bf16[2,4,256,128], k: bf16[2,2,384,128]) -> bf16[2,4,256,128] {{
  %i = s32[1,2,3]{{2,1,0}} constant({{...}})
  %q = bf16[2,4,256,128]{{3,2,1,0}} parameter(0)
  %k = bf16[2,2,384,128]{{3,2,1,0}} parameter(1)
  ROOT %o = bf16[2,4,256,128]{{3,2,1,0}} custom-call(%i, %q, %k, %k), custom_call_target="tpu_custom_call", metadata={{op_name="jit(f)/{kernel}"}}
}}
"""  # noqa: E501
  found = hlo.Module(text, 1).cost()
  assert found.flops == products * 2 * (2 * 4 * 256) * 384 * 128
  assert found.kernels == (products > 0)


LOOP = """HloModule m

%body (p: (f32[8,8], u32[])) -> (f32[8,8], u32[]) {
  %p = (f32[8,8]{1,0}, u32[]) parameter(0)
  %x = f32[8,8]{1,0} get-tuple-element(%p), index=0
  %i = u32[] get-tuple-element(%p), index=1
  %one = u32[] constant(1)
  %d = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}
  %j = u32[] add(%i, %one)
  %k = u32[] add(%one, %j)
  ROOT %t = (f32[8,8]{1,0}, u32[]) tuple(%d, %NEXT)
}

%more (q: (f32[8,8], u32[])) -> pred[] {
  %q = (f32[8,8]{1,0}, u32[]) parameter(0)
  %n = u32[] get-tuple-element(%q), index=1
  %limit = u32[] constant(7)
  ROOT %c = pred[] compare(%n, %limit), direction=LT
}

ENTRY %main (a: (f32[8,8], u32[])) -> (f32[8,8], u32[]) {
  %a = (f32[8,8]{1,0}, u32[]) parameter(0)
  ROOT %w = (f32[8,8]{1,0}, u32[]) while(%a), condition=%more, body=%body
}
"""


@pytest.mark.parametrize(("steps", "trips"), [("j", 7), ("k", 4)])
def test_a_loop_may_take_several_steps_at_a_time(steps, trips):
  """As products do whose operands arrive piece by piece."""
  text = LOOP.replace("NEXT", steps)
  assert hlo.Module(text, 1).cost().flops == trips * 2 * 8 * 8 * 8


def test_an_instruction_of_several_lines():
  """A kernel's metadata; what follows belongs to the same computation."""
  text = """HloModule m

ENTRY %main (q: bf16[2,256,128]) -> f32[8,8] {
  %q = bf16[2,256,128]{2,1,0} parameter(0)
  %o = bf16[2,256,128]{2,1,0} custom-call(%q, %q), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(f)/splash_mha_fwd/pallas_call"}
  %x = f32[8,8]{1,0} constant({...})
  ROOT %d = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}
}
"""  # noqa: E501
  kernel = 2 * 2 * (2 * 256) * 256 * 128
  assert hlo.Module(text, 1).cost().flops == kernel + 2 * 8 * 8 * 8


def test_what_is_known_is_not_compiled_again(mesh, tmp_path, monkeypatch):
  x = shaped(mesh, (ROWS, WIDTH), "fsdp")
  with jax.set_mesh(mesh):
    lowered = jax.jit(lambda x: x @ x.T, donate_argnums=0).lower(x)
    other = jax.jit(lambda x: x @ x.T + 1).lower(x)
  first = measure("a", lowered, (x,), TOPOLOGY, known=tmp_path)

  def never(*_, **__):
    raise AssertionError("compiled again")

  monkeypatch.setattr(type(lowered), "compile", never)
  again = measure("b", lowered, (x,), TOPOLOGY, resident=7, known=tmp_path)
  assert (again.name, again.resident_bytes) == ("b", 7)
  for name in ("flops", "peak_bytes", "collectives", "buffers", "bound_by"):
    assert getattr(again, name) == getattr(first, name)
  with pytest.raises(AssertionError, match="compiled again"):
    measure("c", other, (x,), TOPOLOGY, known=tmp_path)


def test_which_arguments_are_written_into(mesh):
  x = shaped(mesh, (ROWS, WIDTH), "fsdp")
  program = compiled(mesh, lambda x, y: (x + y, y.sum()), x, x, donate=0)
  assert [(b.name, b.bytes, b.aliased) for b in program.buffers] == [
    ("x", ROWS * WIDTH * 4 / 8, True),
    ("y", ROWS * WIDTH * 4 / 8, False),
  ]


def test_a_refusal_is_read_off_in_both_spellings():
  used = "RESOURCE_EXHAUSTED: Ran out of memory. Used 20.5G of 15.75G hbm."
  assert refused(used) == int(20.5 * 2**30)
  temporaries = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM,"
    " the total memory required for HLO temporaries (31.44G) exceeds available"
    " HBM (15.75G). HLO module: jit__lambda."
  )
  assert refused(temporaries) == int(31.44 * 2**30)
  with pytest.raises(CompilerError) as error:
    refused("something else\nat length")
  assert str(error.value) == "something else"


def test_a_tuples_element_named_by_its_number():
  text = """HloModule m

ENTRY %main (p: (f32[], (f32[2], s32[]), f32[4,8])) -> f32[4,3] {
  %p = (f32[], (f32[2]{0}, s32[]), f32[4,8]{1,0}) parameter(0)
  %w = f32[8,3]{1,0} parameter(1)
  ROOT %d = f32[4,3]{1,0} dot(%p#2, %w), lhs_contracting_dims={1}
}
"""
  cost = hlo.Module(text, 1).cost()
  assert cost.flops == 2 * 4 * 8 * 3
  assert cost.traffic == 4 * (4 * 8 + 8 * 3 + 4 * 3)
