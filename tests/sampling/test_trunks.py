"""Trunks against engines that read everything anew."""

import numpy as np
import pytest
from fake_family import Letters
from sampling_families import initialised, llama, t5

from refine_jax.sampling import annotator
from refine_jax.sampling.engine import Engine
from refine_jax.sampling.planning import TooLong
from refine_jax.sampling.settings import Request, Sampling
from refine_jax.sampling.trunks import Branch, Trunks

MODULE = llama(layers=2, max_length=64)
PARAMS = initialised(MODULE)
GREEDY = Sampling(max_tokens=5)
WARM = Sampling(max_tokens=5, temperature=1.0, seed=3)


@pytest.fixture(scope="module")
def engine():
  return Engine(
    MODULE, Letters(), slots=(8,), prompt_buckets=(40,), token_buckets=(8,)
  )


@pytest.fixture(scope="module")
def kept():
  """One object, so that it compiles once; every test closes its trunks."""
  return Trunks(
    MODULE, Letters(), PARAMS, slots=4, length=40, pieces=(4, 16), chunk=2
  )


@pytest.fixture
def trunks(kept):
  yield kept
  for name in [*kept._open]:
    kept.close(name)


PROMPTS = {"p": ("abc",), "q": ("hgfedcbaab",), "r": ("d",)}


def opened(trunks, names=PROMPTS):
  for name in names:
    trunks.open(name, PROMPTS[name])
  return list(names)


def anew(engine, prompt, target):
  (found,) = engine.score(PARAMS, [prompt], [target])
  return found


def test_branches_are_scored_as_if_read_from_the_start(trunks, engine):
  opened(trunks)
  branches = {
    "p": [Branch((), ("ba",)), Branch(("cd",), ("ba",)), Branch((), ("e",))],
    "q": [Branch(("h",), ("abcdefg",))],
  }
  for shared in ({}, {"p": ("fg",), "q": ()}):
    found = trunks.score(branches, shared)
    for name, listed in branches.items():
      for branch, values in zip(listed, found[name], strict=True):
        context = (*PROMPTS[name], *shared.get(name, ()), *branch.context)
        expected = anew(engine, context, branch.target)
        np.testing.assert_allclose(values, expected, atol=1e-5)


def test_a_branch_leaves_no_trace(trunks):
  opened(trunks)
  ask = {"q": [Branch((), ("abc",))]}
  before = trunks.score(ask)["q"][0]
  trunks.score({"q": [Branch(("hh",), ("a",))]}, {"q": ("eeee",)})
  trunks.propose(["q"], 2, WARM, ids=["q"], shared={"q": ("ff",)})
  np.testing.assert_allclose(trunks.score(ask)["q"][0], before, atol=1e-6)


def test_proposals_are_the_engines_and_adopted_ones_go_on(trunks, engine):
  names = opened(trunks)
  texts = {name: PROMPTS[name] for name in names}
  for turn in range(3):
    found = trunks.propose(names, 1, GREEDY, ids=names)
    for name in names:
      request = Request("x", texts[name])
      ((expected,),) = engine.generate(PARAMS, [request], GREEDY)
      assert found[name][0].tokens == expected.tokens, turn
      np.testing.assert_allclose(
        found[name][0].logprobs, expected.logprobs, atol=1e-5
      )
    trunks.adopt(dict.fromkeys(names, 0))
    for name in names:
      trunks.append(name, ("b",))
      visible = engine.visible(list(found[name][0].tokens), GREEDY)
      texts[name] = (*texts[name], tuple(visible), "b")
      assert trunks.tokens(name) == engine.encode(texts[name])


def test_after_something_shared_a_proposal_is_read_without_it(trunks, engine):
  names = opened(trunks, ["p", "q"])
  shared = {"p": ("gg",), "q": ("h",)}
  found = trunks.propose(names, 2, WARM, ids=names, shared=shared)
  trunks.adopt({"p": 1, "q": 0})
  scores = trunks.score({n: [Branch((), ("abc",))] for n in names})
  for name, index in (("p", 1), ("q", 0)):
    kept = engine.visible(list(found[name][index].tokens), WARM)
    expected = anew(engine, (*PROMPTS[name], tuple(kept)), ("abc",))
    np.testing.assert_allclose(scores[name][0], expected, atol=1e-5)


def test_what_is_drawn_depends_on_id_and_index_alone(trunks):
  opened(trunks)
  many = trunks.propose(["p", "q", "r"], 3, WARM, ids=["a", "b", "c"])
  alone = trunks.propose(["q"], 2, WARM, ids=["b"])["q"]
  assert [s.tokens for s in many["q"][:2]] == [s.tokens for s in alone]
  other = trunks.propose(["q"], 2, WARM, ids=["c"])["q"]
  assert [s.tokens for s in alone] != [s.tokens for s in other]


def test_stop_strings_end_a_proposal(trunks):
  opened(trunks)
  free = trunks.propose(["p"], 1, WARM, ids=["a"])["p"][0]
  stop = Sampling(max_tokens=5, temperature=1.0, seed=3, stop=(free.text[2],))
  (cut,) = trunks.propose(["p"], 1, stop, ids=["a"])["p"]
  assert cut.finish == "stop"
  assert cut.text == free.text[: free.text.index(free.text[2])]
  trunks.adopt({"p": 0})
  assert trunks.tokens("p")[-1] == cut.tokens[-1]


def test_every_token_is_read_once(trunks):
  work = trunks.work
  for field in ("appended", "prefilled", "sampled"):
    setattr(work, field, 0)
  names = opened(trunks)
  for _ in range(4):
    trunks.propose(names, 2, WARM, ids=names)
    trunks.score(
      {n: [Branch(("a",), ("bc",)), Branch((), ("cb",))] for n in names},
      dict.fromkeys(names, ("de",)),
    )
    trunks.adopt(dict.fromkeys(names, 1))
    for name in names:
      trunks.append(name, ("a",))
  assert work.prefilled <= 1.1 * work.appended


def test_slots_are_used_again(trunks, engine):
  opened(trunks)
  trunks.propose(["q"], 1, WARM, ids=["q"])
  trunks.close("q")
  trunks.open("again", ("ab",))
  (found,) = trunks.score({"again": [Branch((), ("cd",))]})["again"]
  np.testing.assert_allclose(found, anew(engine, ("ab",), ("cd",)), atol=1e-5)
  trunks.open("full", ("a",))
  with pytest.raises(ValueError, match="all 4 slots are taken"):
    trunks.open("more", ("a",))


def test_what_does_not_fit_is_refused(trunks):
  opened(trunks)
  with pytest.raises(TooLong, match="'q' and its branch have 44 tokens"):
    trunks.score({"q": [Branch((), ("a" * 33,))]})
  with pytest.raises(ValueError, match="a decoder alone"):
    Trunks(t5(), Letters(), {}, slots=1, length=8)


def test_a_prefix_is_read_once_for_many(trunks, engine):
  work, prefix = trunks.work, "hgfe"
  work.prefilled = 0
  requests = [Request(f"d{i}", (prefix, "ab" * (i + 1))) for i in range(5)]
  annotate = annotator.behind_prefix(trunks, prefix, GREEDY)
  whole = engine.generate(PARAMS, requests, GREEDY)
  assert annotate(requests) == [[s.text for s in group] for group in whole]
  # BOS and the prefix once, and every document.
  assert work.prefilled == 5 + sum(2 * (i + 1) for i in range(5))
  with pytest.raises(ValueError, match="'x' has another prefix"):
    annotate([Request("x", ("other", "a"))])
