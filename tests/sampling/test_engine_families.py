"""The engine over the real families."""

import dataclasses

import jax
import numpy as np
import pytest
import sampling_families as families
from fake_family import Letters

from refine_jax import sharding
from refine_jax.sampling import engine as engines
from refine_jax.sampling.engine import Engine, Request, Sampling

TOKENIZER = Letters()
SETTINGS = (
  Sampling(),
  Sampling(temperature=0.7, max_tokens=12),
  Sampling(temperature=1.0, max_tokens=12),
  Sampling(temperature=1.3, max_tokens=12),
)
REQUESTS = [
  Request(
    id=f"{i}",
    prompt="abcdefgh"[i % 5 : 3 + i % 6],
    n=1 + i % 2,
    sampling=dataclasses.replace(SETTINGS[i % 4], max_tokens=12, min_tokens=5),
  )
  for i in range(6)
]


def make(family, **changes):
  settings = {"slots": (8,), "prompt_buckets": (16,), "token_buckets": (16,)}
  return Engine(family, TOKENIZER, **{**settings, **changes})


@pytest.fixture(scope="module", params=["llama", "t5", "galactica"])
def found(request):
  family = getattr(families, request.param)()
  params, engine = families.initialised(family), make(family)
  return engine, params, engine.generate(params, REQUESTS)


def test_logprobs_equal_teacher_forcing(found):
  """Of the model and, at every temperature, of the sampling distribution."""
  engine, params, groups = found
  samples = [(r, s) for r, g in zip(REQUESTS, groups, strict=True) for s in g]
  scores = engine.score(
    params, [r.prompt for r, _ in samples], [(s.tokens,) for _, s in samples]
  )
  for (_, sample), score in zip(samples, scores, strict=True):
    np.testing.assert_allclose(score, sample.model_logprobs, atol=1e-4)
  for request, sample in samples:
    temperature = request.sampling.temperature
    if not temperature:
      assert set(sample.logprobs) == {0.0}
      continue
    free = slice(request.sampling.min_tokens, None)  # where EOS was allowed
    logits_TV = forced_logits(engine, params, request, sample)
    expected_TV = jax.nn.log_softmax(logits_TV / temperature)
    expected_T = expected_TV[np.arange(len(sample.tokens)), sample.tokens]
    np.testing.assert_allclose(
      expected_T[free], sample.logprobs[free], atol=1e-4
    )


def forced_logits(engine, params, request, sample):
  from refine_jax.sampling import score

  batch = score.batch_of(
    [engine.encode(request.prompt)],
    [sample.tokens],
    rows=1,
    prompt_length=16,
    target_length=16,
  )
  hidden = engine.family.apply({"params": params}, batch).hidden_BTD
  return engine.family.unembed(params, hidden)[0, : len(sample.tokens)]


def test_alone_as_in_company(found):
  engine, params, groups = found
  for request, group in zip(REQUESTS, groups, strict=True):
    assert engine.generate(params, [request]) == [group]


def test_shared_prompts_are_prefilled_once(found):
  engine, params, _ = found
  engine.statistics.clear()
  engine.generate(params, [Request("a", "abc", n=8)], SETTINGS[2])
  # With BOS, or with EOS; a decoder alone reads the last one while decoding.
  due = 4 if engine.family.encoder_decoder else 3
  assert engine.statistics.prompt_tokens == due
  assert engine.statistics.compilations == 0


@pytest.mark.parametrize("found", ["llama", "t5"], indirect=True)
def test_eight_devices(found):
  one_engine, params, one = found
  family = one_engine.family
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  shardings = sharding.of_variables(families.abstract(family), mesh)
  placed = jax.device_put(params, shardings)
  engine = make(family, mesh=mesh)
  many = engine.generate(placed, REQUESTS)
  for a, b in zip(one, many, strict=True):
    assert [s.tokens for s in a] == [s.tokens for s in b]
    for x, y in zip(a, b, strict=True):
      np.testing.assert_allclose(x.logprobs, y.logprobs, atol=1e-4)
  engine.statistics.clear()
  engine.generate(placed, REQUESTS[::-1])
  assert engine.statistics.compilations == 0


@pytest.mark.parametrize("found", ["llama", "galactica"], indirect=True)
def test_a_conversation_reads_only_what_is_new(found):
  """And goes on as if it had read everything."""
  engine, params, _ = found
  sampling = Sampling(temperature=1.0, max_tokens=2, min_tokens=2)
  session = engine.session(params)
  names = [session.open(text) for text in ("abc", "hgf")]
  history = {name: session.tokens(name) for name in names}
  for turn in range(3):
    if turn:
      session.append(names[0], "de")
      session.append(names[1], "g")
    due = 2 * 4 if not turn else (2 + 1) + (1 + 1)
    prompts = [session.tokens(name) for name in names]
    engine.statistics.clear()
    samples = session.generate(names, sampling)
    assert engine.statistics.prompt_tokens == due
    scores = engine.score(
      params, [(p[1:],) for p in prompts], [(s.tokens,) for s in samples]
    )
    for name, sample, score in zip(names, samples, scores, strict=True):
      np.testing.assert_allclose(score, sample.model_logprobs, atol=1e-4)
      assert session.tokens(name)[: len(history[name])] == history[name]
  # A fork begins as a copy; a rewritten prompt keeps the common beginning.
  engine.statistics.clear()
  (fork,) = session.fork(names[0], 1)
  whole = session.tokens(names[0])
  session.generate([fork], sampling)
  assert engine.statistics.prompt_tokens == 1
  session.rewrite(names[0], ("ab", (9, 9)))
  session.generate([names[0]], sampling)
  assert engine.statistics.prompt_tokens == 1 + 2
  assert whole[:3] == session.tokens(names[0])[:3]


def test_candidates_share_their_prompt(found):
  """Scores are those of pairs scored one by one; the prompt is read once."""
  engine, params, _ = found
  prompts = ["abcdef"] * 3 + ["gh"] * 2 + ["e"]
  targets = ["ab", "c", "dcba", "hh", "a", "fg"]
  engine.statistics.clear()
  together = engine.score(params, prompts, targets)
  assert engine.statistics.prompt_tokens == 7 + 3 + 2  # each with BOS or EOS
  for prompt, target, score in zip(prompts, targets, together, strict=True):
    (alone,) = engine.score(params, [prompt], [target])
    np.testing.assert_allclose(score, alone, atol=1e-5)


@pytest.mark.parametrize("found", ["llama", "galactica"], indirect=True)
def test_long_prompts_are_read_in_pieces(found):
  """On top of what their rows hold, with the tokens of one reading."""
  whole, params, _ = found
  requests = [
    Request(f"r{i}", text, 1 + i % 2)
    for i, text in enumerate(("abcdefghabcdefg", "hg", "cafeabed", "abcdefgha"))
  ]
  expected = whole.generate(params, requests, SETTINGS[2])
  for mode in ("refill", "static"):
    engine = make(whole.family, mode=mode, prefill_chunk=4)
    pieces = engine.generate(params, requests, SETTINGS[2])
    read = sum(len(engine.encode(r.prompt)) for r in requests)
    read -= len(requests) if mode == "refill" else 0  # their last tokens
    assert engine.statistics.prompt_tokens == read
    for group, same in zip(expected, pieces, strict=True):
      for one, other in zip(group, same, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(
          one.model_logprobs, other.model_logprobs, atol=1e-5
        )


@pytest.mark.parametrize("found", ["llama", "t5"], indirect=True)
def test_pages_that_no_row_reaches_change_nothing(found, monkeypatch):
  whole, params, expected = found
  monkeypatch.setattr(engines, "PAGE", {"cpu": 5})
  engine = make(whole.family)
  pages = engine.generate(params, REQUESTS)
  for group, same in zip(expected, pages, strict=True):
    for one, other in zip(group, same, strict=True):
      assert one.tokens == other.tokens
      np.testing.assert_allclose(
        one.model_logprobs, other.model_logprobs, atol=1e-5
      )
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  shardings = sharding.of_variables(families.abstract(whole.family), mesh)
  placed = jax.device_put(params, shardings)
  found = make(whole.family, mesh=mesh).generate(placed, REQUESTS)
  drawn = [[sample.tokens for sample in group] for group in found]
  assert drawn == [[sample.tokens for sample in group] for group in pages]
  # With the last pages skipped, to the last bit.
  for request, group in zip(REQUESTS, pages, strict=True):
    assert engine.generate(params, [request]) == [group]


def test_an_encoder_reads_a_prompt_as_a_whole():
  with pytest.raises(ValueError, match="prefill_chunk = 4: an encoder"):
    make(families.t5(), prefill_chunk=4)
