"""Attention against a loop over queries, in every implementation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from refine_jax.models import attention

B, L, S, N, K, H = 2, 5, 6, 4, 2, 8


def arrays(seed=0):
  rng = np.random.default_rng(seed)
  q = rng.standard_normal((B, L, N, H)).astype(np.float32)
  k = rng.standard_normal((B, S, K, H)).astype(np.float32)
  v = rng.standard_normal((B, S, K, H)).astype(np.float32)
  return q, k, v


def slow(q, k, v, allowed_BLS, bias, scale):
  out = np.zeros_like(q)
  for b, l, n in itertools.product(range(B), range(L), range(N)):
    seen = np.flatnonzero(allowed_BLS[b, l])
    if not len(seen):
      continue
    key = n // (N // K)
    scores = k[b, seen, key] @ q[b, l, n] * scale + bias[b, n, l, seen]
    weights = np.exp(scores - scores.max())
    out[b, l, n] = weights / weights.sum() @ v[b, seen, key]
  return out


Q_SEGMENTS = np.array([[1, 1, 2, 2, 0], [1, 2, 3, 3, 3]])
KV_SEGMENTS = np.array([[1, 1, 2, 2, 2, 0], [0, 0, 1, 2, 3, 3]])
Q_POSITIONS = np.array([[0, 1, 2, 3, 4], [2, 3, 4, 5, 6]])
KV_POSITIONS = np.array([[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]])
STRUCTURES = {
  "all": {},
  "causal": {"causal": True},
  "segments": {"q_segments_BL": Q_SEGMENTS, "kv_segments_BS": KV_SEGMENTS},
  "key_padding": {"kv_segments_BS": KV_SEGMENTS},
  "causal_segments": {
    "causal": True,
    "q_segments_BL": Q_SEGMENTS,
    "kv_segments_BS": KV_SEGMENTS,
  },
  "query_positions": {"causal": True, "q_positions_BL": Q_POSITIONS},
  "both_positions": {
    "causal": True,
    "q_positions_BL": Q_POSITIONS,
    "kv_positions_BS": KV_POSITIONS,
  },
}


def slow_mask(
  causal=False,
  q_segments_BL=None,
  kv_segments_BS=None,
  q_positions_BL=None,
  kv_positions_BS=None,
):
  allowed = np.ones((B, L, S), bool)
  for b, l, s in np.ndindex(B, L, S):
    query = l if q_positions_BL is None else q_positions_BL[b, l]
    key = s if kv_positions_BS is None else kv_positions_BS[b, s]
    if causal and key > query:
      allowed[b, l, s] = False
    if kv_segments_BS is not None:
      number = kv_segments_BS[b, s]
      same = q_segments_BL is None or q_segments_BL[b, l] == number
      allowed[b, l, s] &= number != 0 and same
  return allowed


@pytest.mark.parametrize("implementation", ["xla", "dot", "auto"])
@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("biased", [False, True])
def test_attend_is_the_loop(implementation, name, biased):
  q, k, v = arrays()
  rng = np.random.default_rng(1)
  bias = rng.standard_normal((1, N, L, S)).astype(np.float32)
  structure = STRUCTURES[name]
  out = attention.attend(
    q,
    k,
    v,
    bias=bias if biased else None,
    scale=0.3,
    implementation=implementation,
    **structure,
  )
  allowed = slow_mask(**structure)
  full = np.broadcast_to(bias if biased else 0 * bias, (B, N, L, S))
  expected = slow(q, k, v, allowed, full, 0.3)
  some = allowed.any(-1)
  np.testing.assert_allclose(out[some], expected[some], atol=1e-5)
  assert np.all(np.isfinite(out)), "a query that sees nothing"


def test_a_query_that_sees_nothing_has_a_finite_gradient():
  q, k, v = arrays()

  def total(q, k, v):
    out = attention.attend(
      *(q, k, v),
      scale=0.3,
      q_segments_BL=Q_SEGMENTS,
      kv_segments_BS=KV_SEGMENTS,
    )
    return jnp.where((Q_SEGMENTS > 0)[..., None, None], out, 0).sum()

  for gradient in jax.grad(total, (0, 1, 2))(q, k, v):
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("biased", [False, True])
def test_attend_cache_is_the_loop(biased):
  q, k, v = arrays()
  lengths = np.array([6, 2])
  rng = np.random.default_rng(1)
  bias = rng.standard_normal((1, N, S)).astype(np.float32)
  out = attention.attend_cache(
    q[:, 0],
    k.swapaxes(1, 2),
    v.swapaxes(1, 2),
    lengths,
    bias=bias if biased else None,
    scale=0.3,
  )
  allowed = np.broadcast_to(
    (np.arange(S) < lengths[:, None])[:, None], (B, L, S)
  )
  full = np.broadcast_to(
    (bias if biased else 0 * bias)[:, :, None], (B, N, L, S)
  )
  expected = slow(q, k, v, allowed, full, 0.3)[:, 0]
  np.testing.assert_allclose(out, expected, atol=1e-5)


def test_attend_cache_of_an_empty_slot_is_finite():
  q, k, v = arrays()
  out = attention.attend_cache(
    q[:, 0], k.swapaxes(1, 2), v.swapaxes(1, 2), np.array([0, 3]), scale=1.0
  )
  assert np.all(np.isfinite(out))


def test_softmax_is_float32_in_half_precision():
  q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in arrays())
  out = attention.attend(q, k, v, scale=1.0)
  assert out.dtype == jnp.bfloat16
  scores = jax.make_jaxpr(lambda q, k, v: attention.attend(q, k, v, scale=1.0))(
    q, k, v
  )
  assert "bf16" not in next(
    line for line in str(scores).splitlines() if " exp " in line
  )


@pytest.mark.parametrize(
  ("platform", "dtype", "dim", "bias", "expected"),
  [
    ("gpu", jnp.bfloat16, 128, None, "cudnn"),
    ("gpu", jnp.float16, 64, None, "cudnn"),
    ("gpu", jnp.bfloat16, 64, np.zeros(1), "xla"),
    ("gpu", jnp.float32, 64, None, "xla"),
    ("gpu", jnp.bfloat16, 20, None, "xla"),
    ("gpu", jnp.bfloat16, 256, None, "xla"),
    ("cpu", jnp.bfloat16, 64, None, "xla"),
    ("tpu", jnp.bfloat16, 64, None, "xla"),
  ],
)
def test_auto(platform, dtype, dim, bias, expected):
  q = jnp.zeros((1, 2, 2, dim), dtype)
  assert attention.choose(q, q, bias, platform) == expected


def test_auto_keeps_odd_lengths_with_a_dense_mask_from_cudnn():
  q = jnp.zeros((1, 3, 2, 64), jnp.bfloat16)
  assert attention.choose(q, q, None, "gpu") == "cudnn"
  assert attention.choose(q, q, None, "gpu", dense=True) == "xla"
  q = jnp.zeros((1, 4, 2, 64), jnp.bfloat16)
  assert attention.choose(q, q, None, "gpu", dense=True) == "cudnn"


@pytest.fixture
def on_a_gpu(monkeypatch):
  """What runs if this were one: the implementations, in order."""
  ran = []

  def recording(name):
    def run(q_BLNH, *_, **__):
      ran.append(name)
      return q_BLNH

    return run

  monkeypatch.setattr(attention, "platform", lambda: "gpu")
  for name in attention.IMPLEMENTATIONS:
    monkeypatch.setitem(attention.IMPLEMENTATIONS, name, recording(name))
  return ran


@pytest.mark.parametrize(
  ("length", "structure", "expected"),
  [
    (6, {}, "cudnn"),
    (6, {"causal": True}, "cudnn"),
    (7, {"causal": True}, "cudnn"),
    (6, {"causal": True, "kv_segments_BS": 1}, "cudnn"),
    (7, {"causal": True, "kv_segments_BS": 1}, "xla"),
    (7, {"causal": True, "q_positions_BL": 1}, "xla"),
    (6, {"bias": 1}, "xla"),
  ],
)
def test_attention_on_a_gpu_is_cudnns(on_a_gpu, length, structure, expected):
  q = jnp.zeros((1, length, 2, 64), jnp.bfloat16)
  attention.attend(q, q, q, scale=1.0, **structure)
  assert on_a_gpu == [expected]


@pytest.mark.parametrize(("size", "expected"), [(12, "cudnn"), (13, "xla")])
def test_prefill_on_a_gpu_is_cudnns(on_a_gpu, size, expected):
  """Rows as long as they may get, which need not be even."""
  q = jnp.zeros((1, 6, 2, 64), jnp.bfloat16)
  kept = jnp.zeros((1, size, 2, 64), jnp.bfloat16)
  attention.append(q, (q, q), (kept, kept), np.zeros(1, int), scale=1.0)
  assert on_a_gpu == [expected]


# Which segments are told.
HALF = {
  "causal": (),
  "packed": ("q_segments_BL", "kv_segments_BS"),
  "padded keys": ("kv_segments_BS",),
}


@pytest.mark.parametrize("name", HALF)
@pytest.mark.parametrize(
  "implementation",
  ["dot", pytest.param("cudnn", marks=pytest.mark.accelerator)],
)
def test_in_half_precision_it_is_the_reference(implementation, name):
  """Values and gradients, in heads and lengths that cuDNN takes."""
  if implementation == "cudnn" and jax.default_backend() != "gpu":
    pytest.skip("no GPU: this machine has none, or JAX_PLATFORMS=cpu")
  rng = np.random.default_rng(0)
  length, dim = 64, 64
  q, k, v = (
    jnp.asarray(rng.standard_normal((B, length, heads, dim)), jnp.bfloat16)
    for heads in (N, K, K)
  )
  # Three texts and padding.
  segments_BL = np.repeat([[1, 2, 3, 0], [1, 1, 2, 0]], length // 4, axis=1)
  structure = dict.fromkeys(HALF[name], segments_BL)
  seen_BL = (segments_BL > 0) | ("q_segments_BL" not in structure)

  def total(q, k, v, implementation):
    out = attention.attend(
      *(q, k, v),
      causal=name != "padded keys",
      scale=dim**-0.5,
      implementation=implementation,
      **structure,
    ).astype(jnp.float32)
    out = jnp.where(seen_BL[..., None, None], out, 0)
    return jnp.sum(out * jnp.cos(jnp.arange(dim))), out

  run = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True), static_argnums=3)
  exact = (x.astype(jnp.float32) for x in (q, k, v))
  expected = jax.tree.leaves(run(*exact, "xla"))
  for ours, theirs in zip(
    jax.tree.leaves(run(q, k, v, implementation)), expected, strict=True
  ):
    error = np.abs(np.asarray(ours, np.float32) - theirs)
    assert error.max() < 0.02 * np.abs(theirs).max()


def test_an_unknown_implementation_is_named():
  with pytest.raises(ValueError, match="'flash'"):
    attention.attend(*arrays(), scale=1.0, implementation="flash")
