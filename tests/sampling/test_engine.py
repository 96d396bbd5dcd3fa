"""The engine over a family whose every logit is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_family import Letters, Table

from refine_jax.sampling import annotator
from refine_jax.sampling.engine import Engine, Request, Sampling
from refine_jax.sampling.planning import TooLong

TOKENIZER = Letters()
FAMILY = Table()
PARAMS = FAMILY.params()


def make(**changes):
  settings = {
    "slots": (4, 8),
    "prompt_buckets": (4, 8),
    "token_buckets": (16,),
    "chunk": 3,
  }
  return Engine(FAMILY, TOKENIZER, **{**settings, **changes})


@pytest.fixture(scope="module")
def engine():
  return make()


def mixed(count=9):
  """Requests of several lengths, n and settings."""
  return [
    Request(
      id=f"r{i}",
      prompt="abcdefg"[: 1 + i % 7],
      n=1 + i % 3,
      sampling=Sampling(
        temperature=(0.0, 0.7, 1.0, 1.3)[i % 4],
        top_k=(0, 5)[i % 2],
        top_p=(1.0, 0.9, 0.8)[i % 3],
        repetition_penalty=(1.0, 1.2)[i % 2],
        max_tokens=3 + i,
        min_tokens=i % 3,
        seed=i,
      ),
    )
    for i in range(count)
  ]


def slow(request, index):
  """One sample by a Python loop over the whole row; greedy only."""
  sampling, mix = request.sampling, np.asarray(PARAMS["mix"])
  ids = [TOKENIZER.bos_id, *TOKENIZER.encode(request.prompt[0])]
  tokens = []
  while len(tokens) < sampling.max_tokens:
    row = np.asarray(PARAMS["table"])[ids[-1]] + mix[ids].mean(0)
    row = np.where(
      [i in ids for i in range(len(row))],
      np.where(
        row > 0,
        row / sampling.repetition_penalty,
        row * sampling.repetition_penalty,
      ),
      row,
    )
    if len(tokens) < sampling.min_tokens:
      row[TOKENIZER.eos_id] = -np.inf
    tokens.append(int(row.argmax()))
    ids.append(tokens[-1])
    if tokens[-1] == TOKENIZER.eos_id:
      break
  return tuple(tokens)


def test_greedy_equals_a_slow_loop(engine):
  requests = [
    dataclasses.replace(
      r, sampling=dataclasses.replace(r.sampling, temperature=0.0, top_k=0)
    )
    for r in mixed()
  ]
  groups = engine.generate(PARAMS, requests)
  for request, group in zip(requests, groups, strict=True):
    assert len(group) == request.n
    for index, sample in enumerate(group):
      assert sample.tokens == slow(request, index)
      assert sample.id == f"{request.id}/{index}"


def test_samples_tell_how_they_ended(engine):
  for group, request in zip(
    engine.generate(PARAMS, mixed()), mixed(), strict=True
  ):
    for sample in group:
      ended = sample.tokens[-1] == TOKENIZER.eos_id
      assert sample.finish == ("eos" if ended else "length")
      assert ended or len(sample.tokens) == request.sampling.max_tokens
      assert TOKENIZER.eos_id not in sample.tokens[:-1]
      assert sample.text == TOKENIZER.decode(sample.tokens)
      assert len(sample.tokens) > request.sampling.min_tokens or not ended
      assert len(sample.logprobs) == len(sample.tokens)
      assert len(sample.model_logprobs) == len(sample.tokens)


def test_a_request_does_not_depend_on_its_company(engine):
  requests = mixed()
  together = engine.generate(PARAMS, requests)
  backwards = engine.generate(PARAMS, requests[::-1])[::-1]
  alone = [engine.generate(PARAMS, [r])[0] for r in requests]
  other = make(slots=(5,), prompt_buckets=(8,), token_buckets=(16,), chunk=1)
  elsewhere = other.generate(PARAMS, requests)
  for found in (backwards, alone, elsewhere):
    assert [[s.tokens for s in group] for group in found] == [
      [s.tokens for s in group] for group in together
    ]
  streamed = list(engine.stream(PARAMS, requests))
  assert sorted(s.id for _, s in streamed) == sorted(
    s.id for group in together for s in group
  )
  by_id = {s.id: s for group in together for s in group}
  assert all(by_id[s.id] == s for _, s in streamed)


def test_seeds_and_sample_indices(engine):
  warm = Sampling(temperature=1.5, max_tokens=8, min_tokens=7)

  def tokens(seed=None, id="a", n=1):
    groups = engine.generate(PARAMS, [Request(id, "abc", n, seed=seed)], warm)
    return [s.tokens for s in groups[0]]

  assert tokens() == tokens(seed=0) == tokens(n=3)[:1]
  assert len({*tokens(n=3), *tokens(1), *tokens(id="b")}) == 5


def test_nothing_is_compiled_after_warm_up():
  engine = make(slots=(8,), prompt_buckets=(8,), token_buckets=(16,))
  engine.generate(PARAMS, mixed(2))
  engine.generate(PARAMS, mixed(1), Sampling(stop=("a",)))
  assert engine.statistics.compilations > 0
  engine.statistics.clear()
  engine.generate(PARAMS, mixed())
  engine.generate(PARAMS, mixed(4)[::-1])
  hot = Sampling(temperature=0.3, top_k=2, min_p=0.1, max_tokens=5, seed=9)
  engine.generate(PARAMS, [Request("x", "hh", n=11)], hot)
  engine.generate(PARAMS, [Request("x", "a", sampling=hot)])
  other = jax.tree.map(lambda x: x + 1, PARAMS)
  before = engine.statistics.compilations
  engine.generate(other, mixed(3), hot)
  assert before == engine.statistics.compilations == 0


@pytest.mark.parametrize("mode", ["refill", "static"])
def test_statistics(mode):
  engine = make(slots=(8,), prompt_buckets=(8,), token_buckets=(16,), mode=mode)
  sampling = Sampling(max_tokens=6, min_tokens=6)
  engine.generate(PARAMS, [Request("a", "abc", n=6)], sampling)
  found = engine.statistics
  assert (found.requests, found.samples, found.tokens) == (1, 6, 36)
  # One prompt, BOS and three letters, is prefilled once: 8 x 8 positions in a
  # static batch; else 8, and its last token is left to the first steps.
  static = mode == "static"
  prompt = (4, 60) if static else (3, 4)
  assert (found.prompt_tokens, found.prompt_padding) == prompt
  # In a static batch the first token comes from the prefill.
  steps = (5, 40, 30) if static else (6, 48, 36)
  assert (found.steps, found.slot_steps, found.used_slot_steps) == steps
  assert found.slot_use == 0.75 and found.syncs <= 2


def test_changed_parameters_are_noticed(engine):
  request = [Request("a", "abc", sampling=Sampling(max_tokens=8))]
  first = engine.generate(PARAMS, request)
  other = FAMILY.params(seed=5)
  assert engine.generate(other, request) != first
  assert engine.generate(PARAMS, request) == first


@pytest.mark.parametrize("stop", [("d",), ("df", "ad"), ("hhhhhh",)])
def test_stop_strings_end_exactly(engine, stop):
  sampling = Sampling(temperature=1.0, max_tokens=16, min_tokens=12)
  requests = [Request(f"s{i}", "abcd"[: 1 + i % 4]) for i in range(8)]
  free = engine.generate(PARAMS, requests, sampling)
  cut = engine.generate(
    PARAMS, requests, dataclasses.replace(sampling, stop=stop)
  )
  for (whole,), (sample,) in zip(free, cut, strict=True):
    places = [whole.text.index(s) for s in stop if s in whole.text]
    if not places:
      assert sample == whole
      continue
    assert sample.text == whole.text[: min(places)]
    assert sample.finish == "stop"
    assert sample.tokens == whole.tokens[: len(sample.tokens)]
    assert len(sample.logprobs) == len(sample.tokens)
    held = TOKENIZER.decode(sample.tokens)
    assert any(s in held for s in stop)
    assert not any(s in TOKENIZER.decode(sample.tokens[:-1]) for s in stop)


def test_stop_ids(engine):
  d = TOKENIZER.encode("d")[0]
  sampling = Sampling(max_tokens=8, stop_ids=(d,), temperature=1.0)
  (group,) = engine.generate(PARAMS, [Request("a", "ab", n=8)], sampling)
  ended = [s for s in group if s.tokens[-1] == d]
  assert ended and all(s.finish == "eos" for s in ended)
  assert all("d" not in s.text for s in group)


def test_what_does_not_fit_is_named(engine):
  long = Request("long one", "a" * 9)
  with pytest.raises(TooLong, match=r"'long one'.* 10 tokens.* limit is 8"):
    engine.generate(PARAMS, [*mixed(2), long])
  with pytest.raises(TooLong, match=r"max_tokens has 17 tokens.* is 16"):
    engine.generate(PARAMS, [Request("b", "a")], Sampling(max_tokens=17))
  with pytest.raises(TooLong, match="context of 12"):
    make(context=12).generate(
      PARAMS, [Request("c", "abcd")], Sampling(max_tokens=8)
    )
  with pytest.raises(ValueError, match="slots = 0: at least 1"):
    make(slots=0)
  with pytest.raises(ValueError, match="no tokens"):
    make(bos=False).generate(PARAMS, [Request("d", "")])
  assert engine.generate(PARAMS, []) == []


def test_score_equals_what_was_sampled(engine):
  requests = mixed()
  groups = engine.generate(PARAMS, requests)
  samples = [(r, s) for r, g in zip(requests, groups, strict=True) for s in g]
  scores = engine.score(
    PARAMS, [r.prompt for r, _ in samples], [(s.tokens,) for _, s in samples]
  )
  for (_, sample), score in zip(samples, scores, strict=True):
    assert score.dtype == np.float32
    np.testing.assert_allclose(score, sample.model_logprobs, atol=1e-4)


def test_score_values():
  engine = make(value_head=lambda params, hidden: jnp.sum(hidden, axis=-1))
  logprobs, values = engine.score(PARAMS, ["ab"], ["cd"], values=True)
  hidden = np.asarray(PARAMS["table"])[[4, 5]] + np.stack(
    [
      np.asarray(PARAMS["mix"])[ids].mean(0)
      for ids in ([2, 3, 4], [2, 3, 4, 5])
    ]
  )
  np.testing.assert_allclose(values[0], hidden.sum(1), rtol=1e-4)
  expected = jax.nn.log_softmax(hidden)[np.arange(2), [5, 6]]
  np.testing.assert_allclose(logprobs[0], expected, atol=1e-5)
  with pytest.raises(ValueError, match="value_head"):
    make().score(PARAMS, ["a"], ["b"], values=True)


def test_embed(engine):
  texts = ["abc", "a", "abcdefg", "abc"]
  found = engine.embed(PARAMS, texts)
  assert found.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
  np.testing.assert_array_equal(found[0], found[3])
  mean = np.asarray(PARAMS["mix"])[[2, 3, 4, 5]].mean(0)
  np.testing.assert_allclose(found[0], mean / np.linalg.norm(mean), rtol=1e-5)


def test_a_session_continues_by_ids(engine):
  sampling = Sampling(temperature=1.0, max_tokens=2, min_tokens=2)
  session = engine.session(PARAMS)
  name = session.open("ab", name="talk")
  (first,) = session.generate([name], sampling)
  session.append(name, ("c", (4, 5)))
  (second,) = session.generate([name], sampling)
  history = (2, 3, 4, *first.tokens, 5, 4, 5, *second.tokens)
  assert session.tokens(name) == history
  # The same as scoring the whole: no token was lost or made anew.
  (score,) = engine.score(
    PARAMS, [("ab", first.tokens, "c", (4, 5))], [(second.tokens,)]
  )
  np.testing.assert_allclose(score, second.model_logprobs, atol=1e-4)
  assert second.id == "talk/t1"
  session.close(name)
  with pytest.raises(KeyError, match="talk"):
    session.tokens(name)


def test_forks_go_their_own_ways(engine):
  sampling = Sampling(temperature=1.5, max_tokens=6, min_tokens=6)
  session = engine.session(PARAMS)
  root = session.open("abc")
  forks = session.fork(root, 3)
  samples = session.generate([root, *forks], sampling)
  assert len({s.tokens for s in samples}) == 4
  again = engine.session(PARAMS)
  again.open("abc", name=root)
  again.fork(root, 3)
  # One at a time, in another session: the same words.
  assert [again.generate([i], sampling)[0] for i in (root, *forks)] == samples


@pytest.mark.parametrize("keep_end", [False, True])
def test_the_end_of_a_sample_in_a_session(engine, keep_end):
  ended = Sampling(max_tokens=8, stop_ids=tuple(range(3, 10)))
  session = engine.session(PARAMS, keep_end=keep_end)
  name = session.open("a")
  (sample,) = session.generate([name], ended)
  kept = sample.tokens if keep_end else sample.tokens[:-1]
  assert sample.finish == "eos"
  assert session.tokens(name) == (2, 3, *kept)


def test_annotator(engine):
  annotate = annotator.local(engine, PARAMS, Sampling(max_tokens=4))
  texts = annotate([Request("a", "ab", n=2), Request("b", "c")])
  assert [len(t) for t in texts] == [2, 1] and texts[0][0] == texts[0][1]


@pytest.mark.parametrize(
  ("changes", "word"),
  [
    ({"mode": "lazy"}, "mode = 'lazy'"),
    ({"prompt_buckets": tuple(range(2, 11))}, "prompt_buckets"),
    ({"prefill_chunk": 0}, "prefill_chunk = 0"),
    ({"mode": "static", "cache_dtype": "int8"}, "cache_dtype = 'int8'"),
  ],
)
def test_settings_that_make_no_sense_are_refused(changes, word):
  with pytest.raises(ValueError, match=word):
    make(**changes)
