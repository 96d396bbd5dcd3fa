"""The compiled refine loop equals the plain one, token for token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampling_families as families
from fake_family import Letters

from refine_jax import sharding
from refine_jax.sampling import settings, turns
from refine_jax.sampling.engine import Engine, Request, Sampling

TURNS, ROOM, FEEDBACK = 3, 8, 2
HYPOTHESIS_WORDS, FEEDBACK_WORDS, CRITIC_END = "gh", "hg", "h"
TOKENIZER = Letters()
QUESTIONS = ("abc", "a", "fedcba", "hhh", "bcd", "ecb", "abab", "c")
# Greedy and sampled rows, and several budgets, in one batch.
SETTINGS = tuple(
  Sampling(
    temperature=(0.0, 1.0, 3.0, 9.0)[i % 4],
    top_p=(1.0, 0.9)[i % 2],
    max_tokens=ROOM - i % 3,
    seed=i,
  )
  for i in range(len(QUESTIONS))
)
CRITIC_SETTINGS = tuple(
  dataclasses.replace(s, max_tokens=FEEDBACK, temperature=s.temperature / 2)
  for s in SETTINGS
)
MODELS = {
  "t5": (families.t5(), families.t5(width=8)),
  "llama": (families.llama(), families.llama(width=8)),
  "both": (families.t5(), families.llama()),
}


def name(question, kind, turn):
  return f"{question}/{kind}{turn + 1}"


def words(sample):
  return sample.tokens[:-1] if sample.finish == "eos" else sample.tokens


def ask(engine, params, prompts, kind, turn, all_settings):
  requests = [
    Request(name(i, kind, turn), prompt, sampling=all_settings[i])
    for i, prompt in prompts.items()
  ]
  groups = engine.generate(params, requests)
  return {
    i: words(sample)
    for i, (sample,) in zip(prompts, groups, strict=True)
  }  # fmt: skip


def plain_loop(engines, params, no_hint):
  """[(question, hypothesis, feedback, accepted)] per turn."""
  history, live, last = [], list(range(len(QUESTIONS))), {}
  for turn in range(TURNS):
    prompts = {}
    for i in live:
      prompt = (QUESTIONS[i],)
      if turn:
        hypothesis, feedback = last[i]
        prompt = (
          *prompt, HYPOTHESIS_WORDS, hypothesis, FEEDBACK_WORDS, feedback
        )  # fmt: skip
      prompts[i] = prompt
    said = ask(engines[0], params[0], prompts, "t", turn, SETTINGS)
    prompts = {
      i: (QUESTIONS[i], HYPOTHESIS_WORDS, said[i], CRITIC_END) for i in live
    }
    criticised = ask(engines[1], params[1], prompts, "c", turn, CRITIC_SETTINGS)
    last = {i: (said[i], criticised[i]) for i in live}
    history.append({i: (*last[i], criticised[i] == no_hint) for i in live})
    live = [i for i in live if criticised[i] != no_hint]
  return history


def template(models, no_hint):
  def ends(family):
    bos = () if family.encoder_decoder else (TOKENIZER.bos_id,)
    return bos, (TOKENIZER.eos_id,) if family.encoder_decoder else ()

  (start, end), (critic_start, critic_end) = map(ends, models)
  return turns.TemplateIds(
    hypothesis=tuple(TOKENIZER.encode(HYPOTHESIS_WORDS)),
    feedback=tuple(TOKENIZER.encode(FEEDBACK_WORDS)),
    no_hint=no_hint,
    generator_start=start,
    generator_end=end,
    critic_start=critic_start,
    critic_end=(*TOKENIZER.encode(CRITIC_END), *critic_end),
  )


def inputs():
  lengths_B = np.array([len(q) for q in QUESTIONS], np.int32)
  x_BP = np.zeros((len(QUESTIONS), max(lengths_B)), np.int32)
  for row, question in enumerate(QUESTIONS):
    x_BP[row, : len(question)] = TOKENIZER.encode(question)

  def hashes(kind):
    return np.array(
      [
        [settings.id_hash(name(i, kind, turn)) for i in range(len(QUESTIONS))]
        for turn in range(TURNS)
      ],
      np.uint32,
    )

  return turns.Inputs(
    x_BP=x_BP,
    lengths_B=lengths_B,
    generator=settings.rows(SETTINGS, eos_id=TOKENIZER.eos_id),
    critic=settings.rows(CRITIC_SETTINGS, eos_id=TOKENIZER.eos_id),
    generator_requests_UB=hashes("t"),
    critic_requests_UB=hashes("c"),
  )


def placed(model, params, mesh):
  if mesh is None:
    return params
  shardings = sharding.of_variables(families.abstract(model), mesh)
  return jax.device_put(params, shardings)


def on_device(tree, mesh):
  if mesh is None:
    return jax.device_put(tree)
  rows, whole = sharding.of_batch(mesh), sharding.replicated(mesh)

  def place(path, x):
    per_turn = any("_UB" in str(key) for key in path)
    return jax.device_put(x, whole if per_turn else rows)

  return jax.tree_util.tree_map_with_path(place, tree)


@pytest.fixture(
  scope="module",
  params=["t5", "llama", pytest.param("both", marks=pytest.mark.slow)],
)
def expected(request):
  models = MODELS[request.param]
  params = [
    families.initialised(model, seed) for seed, model in enumerate(models)
  ]
  engines = [
    Engine(
      model, TOKENIZER, slots=(8,), prompt_buckets=(32,), token_buckets=(8,)
    )
    for model in models
  ]
  # What the critic says of the first question at first, now called no hint.
  no_hint = plain_loop(engines, params, no_hint=None)[0][0][1]
  return models, params, no_hint, plain_loop(engines, params, no_hint)


@pytest.mark.parametrize("devices", [1, 8])
def test_equals_the_plain_loop(expected, devices):
  models, params, no_hint, history = expected
  mesh = None
  if devices == 8:
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  params = [placed(*both, mesh) for both in zip(models, params, strict=True)]
  program = turns.make_refine_program(
    *models,
    turns=TURNS,
    hypothesis_length=ROOM,
    feedback_length=FEEDBACK,
    template=template(models, no_hint),
    mesh=mesh,
  )
  given = on_device(inputs(), mesh)
  program(*params, given)  # compiles
  with jax.transfer_guard("disallow"):
    found = program(*params, given)
    jax.block_until_ready(found)
  found = jax.device_get(found)

  def ids(words, turn, row):
    return tuple(words.tokens_BT[turn, row, : words.lengths_B[turn, row]])

  for turn, rows in enumerate(history):
    taken = np.flatnonzero(found.taken_UB[turn]).tolist()
    assert taken == sorted(rows), turn
    for row, (hypothesis, feedback, accepted) in rows.items():
      assert ids(found.hypotheses, turn, row) == hypothesis, (turn, row)
      assert ids(found.feedback, turn, row) == feedback, (turn, row)
      assert found.accepted_UB[turn, row] == accepted
  # Some answers ended before their budget: at EOS, which is not spliced.
  budgets = [s.max_tokens for s in SETTINGS]
  assert any(len(h) < budgets[i] for i, (h, *_) in history[0].items())
  # Something was frozen early, something took every turn.
  assert len(history[0]) > len(history[-1]) > 0
  assert not found.spent_UB[~found.taken_UB].any()


def test_splice_against_concatenation():
  rng = np.random.default_rng(0)
  widths, batch = (3, 0, 5, 1), 6
  parts, rows = [], [[] for _ in range(batch)]
  for width in widths:
    ids_BN = rng.integers(1, 9, (batch, width)).astype(np.int32)
    lengths_B = rng.integers(0, width + 1, batch).astype(np.int32)
    for row in range(batch):
      rows[row].extend(ids_BN[row, : lengths_B[row]])
    parts.append((jnp.array(ids_BN), jnp.array(lengths_B)))
  out_BP, out_B = turns.splice(parts)
  assert out_BP.shape == (batch, sum(widths))
  for row in range(batch):
    assert out_B[row] == len(rows[row])
    assert out_BP[row].tolist() == rows[row] + [0] * (9 - len(rows[row]))
