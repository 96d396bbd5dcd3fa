"""Chunked cross-entropy and log-probabilities against the plain forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from refine_jax.algorithms.logprobs import columns_of, cut, join, logprobs
from refine_jax.algorithms.xent import weights, xent

B, T, D, V = 3, 7, 5, 11


@pytest.fixture(scope="module")
def problem():
  rng = np.random.default_rng(0)
  head_DV = rng.normal(size=(D, V)).astype(np.float32)
  hidden_BTD = rng.normal(size=(B, T, D)).astype(np.float32)
  targets_BT = rng.integers(0, V, (B, T))
  mask_BT = rng.random((B, T)) < 0.6
  mask_BT[1] = False  # a row that does not count
  return head_DV, hidden_BTD, targets_BT, mask_BT


def slow(head_DV, hidden_BTD, targets_BT, mask_BT, smoothing, reduction):
  """The definition, a token at a time."""
  rows = []
  for hidden_TD, targets_T, mask_T in zip(
    hidden_BTD, targets_BT, mask_BT, strict=True
  ):
    row = []
    for hidden_D, target, counts in zip(
      hidden_TD, targets_T, mask_T, strict=True
    ):
      logits_V = hidden_D.astype(np.float64) @ head_DV.astype(np.float64)
      logprob_V = logits_V - np.log(np.exp(logits_V).sum())
      wanted_V = np.full(V, smoothing / V)
      wanted_V[target] += 1 - smoothing
      if counts:
        row.append((-(wanted_V * logprob_V).sum(), logits_V.argmax() == target))
    if row:
      rows.append(row)
  if reduction == "token":
    rows = [[x] for row in rows for x in row]
  return (
    sum(np.mean([x[0] for x in row]) for row in rows),
    len(rows),
    sum(np.mean([x[1] for x in row]) for row in rows),
  )


@pytest.mark.parametrize(
  "chunk, smoothing, reduction",
  [
    (None, 0.1, "sequence"),
    (1, 0.0, "sequence"),
    (10, 0.1, "token"),
    (10, 0.0, "token"),
  ],
)
def test_xent_is_the_definition(problem, chunk, smoothing, reduction):
  got = jax.jit(
    lambda head_DV, *arrays: xent(
      lambda h: h @ head_DV,
      *arrays,
      chunk=chunk,
      label_smoothing=smoothing,
      reduction=reduction,
    )
  )(*problem)
  np.testing.assert_allclose(
    np.array(got), slow(*problem, smoothing, reduction), rtol=1e-5
  )


def plain(params, hidden_BTD, targets_BT, weights_BT, smoothing):
  logprob_BTV = jax.nn.log_softmax(unembed(params, hidden_BTD))
  hot_BTV = jax.nn.one_hot(targets_BT, V) * (1 - smoothing) + smoothing / V
  return -((hot_BTV * logprob_BTV).sum(-1) * weights_BT).sum()


def unembed(params, hidden):
  return (hidden * params["scale"]) @ params["head"] + params["bias"]


@pytest.mark.parametrize("chunk, smoothing", [(None, 0.1), (6, 0.0), (10, 0.1)])
def test_gradient_is_the_plain_form_s(problem, chunk, smoothing):
  head_DV, hidden_BTD, targets_BT, mask_BT = problem
  params = {"head": head_DV, "scale": np.full(D, 0.7), "bias": np.arange(V) / V}
  params = jax.tree.map(jnp.float32, params)
  weights_BT = weights(mask_BT, "sequence")

  def chunked(params, hidden_BTD):
    out = xent(
      lambda h: unembed(params, h),
      hidden_BTD,
      targets_BT,
      mask_BT,
      chunk=chunk,
      label_smoothing=smoothing,
      reduction="sequence",
    )
    return 3 * out.nll

  got = jax.jit(jax.grad(chunked, (0, 1)))(params, hidden_BTD)
  want = jax.jit(
    jax.grad(
      lambda p, h: 3 * plain(p, h, targets_BT, weights_BT, smoothing), (0, 1)
    )
  )(params, hidden_BTD)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    got,
    want,
  )


def test_gradient_keeps_the_dtypes(problem):
  head_DV, hidden_BTD, targets_BT, mask_BT = problem

  def loss(head_DV, hidden_BTD):
    def logits(h):
      return (h @ head_DV.astype(h.dtype)).astype(jnp.float32)

    return xent(logits, hidden_BTD, targets_BT, mask_BT, chunk=6).nll

  hidden_BTD = jnp.asarray(hidden_BTD, jnp.bfloat16)
  d_DV, d_BTD = jax.jit(jax.grad(loss, (0, 1)))(
    jnp.asarray(head_DV), hidden_BTD
  )
  assert (d_DV.dtype, d_BTD.dtype) == (jnp.float32, jnp.bfloat16)


def test_packed_rows_have_a_mean_per_sequence():
  mask_BT = np.array([[1, 1, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]], bool)
  segments_BT = np.array([[1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 0, 0]])
  got = weights(mask_BT, "sequence", segments_BT)
  third, half = 1 / 3, 1 / 2
  want = [[half, half, 0, third, third, third], [0, 0, half, half, 0, 0]]
  np.testing.assert_allclose(got, want, rtol=1e-6)
  with pytest.raises(ValueError, match="'batch'"):
    weights(mask_BT, "batch")


def test_whole_logits_never_exist():
  """The largest array in the compiled program is a chunk of logits."""
  rows, length, size, chunk = 4, 64, 512, 16

  def loss(head_DV, hidden_BTD, chunk):
    targets_BT = jnp.zeros((rows, length), jnp.int32)
    mask_BT = jnp.ones((rows, length))
    arrays = hidden_BTD, targets_BT, mask_BT
    return xent(lambda h: h @ head_DV, *arrays, chunk=chunk).nll

  temporaries = []
  for size_of_chunk in (None, chunk):
    shapes = [(8, size), (rows, length, 8)]
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    gradient = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    compiled = gradient.lower(*shapes, size_of_chunk).compile()
    temporaries.append(compiled.memory_analysis().temp_size_in_bytes)
  whole = rows * length * size * 4
  assert temporaries[0] >= whole
  assert temporaries[1] < whole / 4


@pytest.mark.parametrize("chunk", [None, 10])
def test_logprobs_are_the_definition(problem, chunk):
  head_DV, hidden_BTD, targets_BT, _ = problem
  cotangent_BT = np.random.default_rng(1).normal(size=(B, T))

  def chunked(head_DV, hidden_BTD):
    return logprobs(
      lambda h: h @ head_DV,
      hidden_BTD,
      targets_BT,
      chunk=chunk,
      temperature=0.7,
    )

  def definition(head_DV, hidden_BTD):
    logprob_BTV = jax.nn.log_softmax(hidden_BTD @ head_DV / 0.7)
    return jnp.take_along_axis(logprob_BTV, targets_BT[..., None], -1)[..., 0]

  got, got_pull = jax.vjp(jax.jit(chunked), head_DV, hidden_BTD)
  want, want_pull = jax.vjp(jax.jit(definition), head_DV, hidden_BTD)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  cotangent_BT = jnp.asarray(cotangent_BT, jnp.float32)
  for a, b in zip(got_pull(cotangent_BT), want_pull(cotangent_BT), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_chunks_cover_the_row():
  x_BT = np.arange(B * T).reshape(B, T)
  for chunk in (1, 3, 6, 9, 12, 20, 21, 100):
    columns = columns_of(chunk, B, T)
    assert columns == 1 or columns * B <= chunk
    np.testing.assert_array_equal(join(cut(x_BT, columns), T), x_BT)
  with pytest.raises(ValueError, match="chunk must be positive"):
    columns_of(0, B, T)
