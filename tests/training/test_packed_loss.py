"""Packing changes where examples lie and nothing that is learned from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from refine_jax import records
from refine_jax.data import batches, encode, tokenizer
from refine_jax.models import galactica, llama, t5
from refine_jax.training import loss

BYTE = tokenizer.load("byte")
V = BYTE.vocab_size
LIMITS = {"max_prompt": 20, "max_target": 24, "bos": True}


def families():
  decoder = {"vocab_size": V, "width": 16, "layers": 2, "heads": 4, "mlp": 32}
  encoder = {"vocab_size": V, "width": 16, "mlp": 32, "heads": 2, "head_dim": 8}
  depth = {"encoder_layers": 2, "decoder_layers": 2}
  return {
    "llama": llama.Llama(llama.LlamaConfig(**decoder, kv_heads=2, head_dim=4)),
    "galactica": galactica.Galactica(
      galactica.GalacticaConfig(**decoder, max_length=64)
    ),
    "t5": t5.T5(t5.T5Config(**encoder, **depth)),
    "t5 v1.0": t5.T5(t5.T5Config(**encoder, **depth, gated=False, tied=True)),
  }


FAMILIES = families()


@pytest.fixture(scope="module")
def examples():
  """Ragged, some with feedback in the target that does not count."""
  rng = np.random.default_rng(0)

  def letters(low, high):
    return "".join(rng.choice(list("abcdef "), rng.integers(low, high)))

  rows = [
    records.Example(
      str(i),
      (letters(1, 18),),
      (letters(1, 8), letters(0, 8), letters(0, 7)),
      () if i % 2 else (True, False, True),
    )
    for i in range(21)
  ]
  made, report = encode.encode_examples(BYTE, rows, **LIMITS)
  assert not report.dropped
  return made


def parameters(family, batch):
  """Random, and wide enough that a look into a neighbour would show.

  From shapes: compiling the initialisers would take longer than the test.
  """
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    mean = float("scale" in jax.tree_util.keystr(path))  # of a norm
    return rng.normal(mean, 0.3, leaf.shape).astype(np.float32)

  shapes = jax.eval_shape(family.init, jax.random.key(0), batch)["params"]
  return jax.tree_util.tree_map_with_path(draw, nn.meta.unbox(shapes))


def both(examples):
  """All examples padded, and packed with a row to spare."""
  alone = batches.Batches(examples, 24, pad_id=0, mode="pad")
  packed = batches.Batches(
    examples, 10, pad_id=0, mode="pack", lengths=(48, 56)
  )
  assert alone.steps_per_epoch == packed.steps_per_epoch == 1
  rows = packed.rows(0)
  assert max(len(row) for row in rows) > 2
  assert not len(rows[-1])  # an empty row changes nothing either
  return alone[0], packed[0]


def mean_loss(family, reduction):
  def of(params, batch):
    out = loss.supervised_loss(family, reduction=reduction)(params, batch, None)
    return out.total / out.weight

  return of


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_loss_equals_unpacked(name, examples):
  family = FAMILIES[name]
  alone, packed = both(examples)
  params = parameters(family, alone)
  run = jax.jit(mean_loss(family, "token"))
  one, two = run(params, alone), run(params, packed)
  assert float(one) > 0.5
  np.testing.assert_allclose(two, one, rtol=1e-5)
  # The same tokens at the wrong places would be a different loss.
  wrong = packed.replace(
    target_segments_BT=np.minimum(packed.target_segments_BT, 1)
  )
  assert abs(float(run(params, wrong)) / float(one) - 1) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_packed_gradients_equal_unpacked(name, examples):
  """Of sequence means, relative to the largest entry of each tensor."""
  family = FAMILIES[name]
  alone, packed = both(examples)
  params = parameters(family, alone)
  run = jax.jit(jax.value_and_grad(mean_loss(family, "sequence")))
  (one, grads), (two, packed_grads) = run(params, alone), run(params, packed)
  np.testing.assert_allclose(two, one, rtol=1e-5)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(grads),
    jax.tree.leaves(packed_grads),
    strict=True,
  ):
    tolerance = 1e-4 * float(jnp.abs(a).max()) + 1e-8
    np.testing.assert_allclose(b, a, atol=tolerance, err_msg=str(path))
