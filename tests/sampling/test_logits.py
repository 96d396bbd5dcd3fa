"""The sampling distribution, draws from it, and their log-probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import transformers

from refine_jax.sampling import logits
from refine_jax.sampling.settings import Request, Sampling, id_hash, rows

EOS = 1
SETTINGS = (
  Sampling(temperature=1.0),
  Sampling(temperature=0.7, top_k=5),
  Sampling(temperature=1.3, top_p=0.8),
  Sampling(temperature=1.0, min_p=0.2),
  Sampling(temperature=0.9, top_k=8, top_p=0.7, min_p=0.05),
)


def random_logits(vocab, seed=0):
  return np.random.default_rng(seed).normal(size=vocab).astype(np.float32) * 2


def reference(logits_V, sampling):
  """The distribution by sorting, one row, in float64."""
  scaled = logits_V.astype(np.float64) / sampling.temperature
  order = np.argsort(-scaled, kind="stable")
  p = np.exp(scaled - scaled.max())
  if sampling.top_k:
    p[order[sampling.top_k :]] = 0
  p /= p.sum()
  kept, mass = np.zeros(p.shape, bool), 0.0
  for token in order:
    if mass >= sampling.top_p:
      break
    kept[token], mass = True, mass + p[token]
  p = np.where(kept, p, 0)
  p[p < sampling.min_p * p.max()] = 0
  return p / p.sum()


@pytest.fixture(scope="module")
def draw():
  return jax.jit(
    lambda logits_BV, rows, counts_B, seen_BV: logits.sample(
      logits_BV, rows, logits.keys(rows), counts_B, seen_BV
    )
  )


@pytest.mark.parametrize("vocab", [11, 300])
def test_frequencies_and_logprobs(draw, vocab):
  """Chi-square of 4,000 draws per setting; cut tokens never come."""
  logits_V, each = random_logits(vocab), 4000
  settings = [s for s in SETTINGS for _ in range(each)]
  batch = len(settings)
  given = rows(
    settings, eos_id=EOS, seeds=[7] * batch, samples=list(range(batch))
  )
  zeros_B = np.zeros(batch, np.int32)
  tokens_B, logprobs_B, model_B = draw(
    np.broadcast_to(logits_V, (batch, vocab)),
    given,
    zeros_B,
    np.zeros((batch, vocab), bool),
  )
  log_model_V = jax.nn.log_softmax(jnp.asarray(logits_V))
  np.testing.assert_allclose(model_B, log_model_V[tokens_B], atol=1e-5)
  for i, sampling in enumerate(SETTINGS):
    part = slice(i * each, (i + 1) * each)
    p_V = reference(logits_V, sampling)
    counts_V = np.bincount(tokens_B[part], minlength=vocab)
    assert not counts_V[p_V == 0].any(), sampling
    np.testing.assert_allclose(
      logprobs_B[part], np.log(p_V[tokens_B[part]]), atol=1e-5
    )
    # Rare tokens are counted together: the test wants five of each.
    common = p_V * each >= 5
    observed = [*counts_V[common], counts_V[~common].sum()]
    wanted = [*p_V[common], p_V[~common].sum()]
    if wanted[-1] * each < 1e-6:
      observed, wanted = observed[:-1], wanted[:-1]
    wanted = np.array(wanted) / np.sum(wanted) * np.sum(observed)
    assert scipy.stats.chisquare(observed, wanted).pvalue > 1e-3, sampling


def test_distribution_equals_hugging_face():
  """Also with ties, and per row in one batch."""
  import torch

  vocab = 257
  logits_BV = np.stack([random_logits(vocab, i) for i in range(len(SETTINGS))])
  logits_BV = np.round(logits_BV, 1)  # ties
  found_BV = logits.weights(jnp.asarray(logits_BV), rows(SETTINGS, eos_id=EOS))
  found_BV = found_BV / found_BV.sum(1, keepdims=True)
  for row, sampling in enumerate(SETTINGS):
    warpers = [transformers.TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
      warpers.append(transformers.TopKLogitsWarper(sampling.top_k))
    scores = torch.tensor(logits_BV[row : row + 1])
    for warper in warpers:
      scores = warper(None, scores)
    ties = len(np.unique(logits_BV[row])) < vocab
    assert ties
    if sampling.top_p == 1:
      if sampling.min_p:
        scores = transformers.MinPLogitsWarper(sampling.min_p)(None, scores)
      expected_V = torch.softmax(scores, -1).numpy()[0]
      np.testing.assert_allclose(found_BV[row], expected_V, atol=1e-6)
    else:
      # Theirs splits ties at the edge by order; ours keeps them together.
      scores = transformers.TopPLogitsWarper(sampling.top_p)(None, scores)
      theirs = torch.softmax(scores, -1).numpy()[0] > 0
      lowest = logits_BV[row][theirs].min()
      kept_V = np.asarray(found_BV[row]) > 0
      if not sampling.min_p:
        np.testing.assert_array_equal(kept_V, logits_BV[row] >= lowest)


def test_penalty_equals_hugging_face():
  import torch

  logits_V = random_logits(20)
  seen = [3, 5, 5, 9]
  expected = transformers.RepetitionPenaltyLogitsProcessor(1.7)(
    torch.tensor([seen]), torch.tensor(logits_V[None])
  )
  seen_BV = np.zeros((1, 20), bool)
  seen_BV[0, seen] = True
  found = logits.allowed(
    jnp.asarray(logits_V[None]),
    rows([Sampling(repetition_penalty=1.7)], eos_id=EOS),
    jnp.zeros(1, jnp.int32),
    seen_BV,
  )
  np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)


def test_greedy_row_in_a_sampled_batch(draw):
  logits_BV = np.stack([random_logits(11, i) for i in range(2)])
  given = rows([Sampling(), Sampling(temperature=1.0)], eos_id=EOS)
  tokens_B, logprobs_B, _ = draw(
    logits_BV, given, np.zeros(2, np.int32), np.zeros((2, 11), bool)
  )
  assert tokens_B[0] == logits_BV[0].argmax()
  assert logprobs_B[0] == 0 > logprobs_B[1]


def test_no_stop_before_min_tokens(draw):
  logits_BV = np.full((2, 11), -5, np.float32)
  logits_BV[:, (EOS, 4)] = 30, 20  # also 4 would stop
  given = rows(
    [Sampling(min_tokens=2, stop_ids=(4,))] * 2, eos_id=EOS
  )  # fmt: skip
  tokens_B, *_ = draw(
    logits_BV, given, np.array([1, 2], np.int32), np.zeros((2, 11), bool)
  )
  assert tokens_B[0] not in (EOS, 4) and tokens_B[1] == EOS


def test_pick_inverts_the_distribution_function():
  weights_V = np.zeros(500, np.float32)
  weights_V[[0, 130, 131, 499]] = 1, 2, 3, 4
  uniform = np.array([0.0, 0.09, 0.11, 0.29, 0.31, 0.59, 0.61, 1 - 2**-23])
  found = logits.pick(
    jnp.broadcast_to(weights_V, (8, 500)), jnp.asarray(uniform, jnp.float32)
  )
  assert found.tolist() == [0, 0, 130, 130, 131, 131, 499, 499]


def test_keys_differ_in_each_of_their_parts():
  def data(seed=0, name="a", sample=0):
    given = rows([Sampling()], eos_id=EOS, seeds=[seed], ids=[name],
                 samples=[sample])  # fmt: skip
    return tuple(jax.random.key_data(logits.keys(given))[0].tolist())

  keys = [data(), data(seed=1), data(name="b"), data(sample=1)]
  assert len(set(keys)) == 4
  assert data() == keys[0]
  assert id_hash("a") == 0xE8B7BE43


@pytest.mark.parametrize(
  "wrong",
  [
    {"temperature": -1.0},
    {"top_p": 0.0},
    {"top_p": 1.5},
    {"min_p": 2.0},
    {"max_tokens": 0},
    {"min_tokens": 9, "max_tokens": 8},
    {"stop": ("",)},
    {"stop": "ab"},
    {"beams": 0},
  ],
)
def test_bad_settings_are_named(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    Sampling(**wrong)


def test_a_request_takes_one_text():
  assert Request("a", "text").prompt == ("text",)
  with pytest.raises(ValueError, match="'a'"):
    Request("a", "text", n=0)
