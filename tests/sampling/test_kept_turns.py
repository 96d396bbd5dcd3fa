"""Actor and critic on rows that stay from turn to turn answer as without."""

import dataclasses
import functools

import jax
import pytest
import sampling_families as families
from fake_family import Letters

from refine_jax import sharding
from refine_jax.methods import test_time
from refine_jax.methods.refine import Template, content_tokens
from refine_jax.records import END, Feedback, Problem
from refine_jax.sampling import beginnings
from refine_jax.sampling.engine import Engine, Request, Sampling
from refine_jax.stages import build

PROBLEMS = [
  Problem(id=f"p{i}", question=text, gold="")
  for i, text in enumerate(("abcdefabcd", "hgfe", "abcdefabca", "cc"))
]
QUESTIONS = {p.id: p.question for p in PROBLEMS}
CHAINS, ROUNDS, SLOTS = 3, 3, 8


class Growing(Template):
  """Like a dialogue: a revision goes on behind the answer it revises."""

  def revision(self, question, hypothesis, feedback):
    parts = (*self.first(question), hypothesis, END, "g", feedback, "h")
    return tuple(part for part in parts if part == END or len(part))


TEMPLATES = {
  "growing": Growing("e", "f", "h", "g"),
  "parting": Template("e", "f", "h", "g"),
}


def make(family, mesh=None):
  return Engine(
    family, Letters(), mesh=mesh, slots=(SLOTS,), prompt_buckets=(48,),
    token_buckets=(8,),
  )  # fmt: skip


def critic_of(propose, template):
  """Says what its model says; accepts every other length."""

  def critic(trajectories):
    requests = [
      Request(
        f"{t.id}/c{len(t.turns)}",
        template.critique(
          t.question, t.turns[-1].tokens or t.turns[-1].hypothesis or "a"
        ),
      )
      for t in trajectories
    ]
    return [
      Feedback(s.text, len(s.tokens) % 4 == 0, content_tokens(s))
      for (s,) in propose(requests)
    ]

  return critic


def answered(propose, asked, template, size, gate):
  """The loop, `size` problems at a time."""
  done = []
  for start in range(0, len(PROBLEMS), size):
    done += test_time.run(
      PROBLEMS[start : start + size],
      QUESTIONS,
      plan=test_time.Plan(chains=CHAINS, rounds=ROUNDS, gate=gate),
      propose=propose,
      revise=propose,
      critic=critic_of(asked, template),
      template=template,
      check=None,
    )
  return done


@functools.cache
def both(kind):
  """Two engines with their parameters, and a session of each."""
  family = families.t5 if kind == "t5" else families.llama
  models = [family(), family(width=8)]
  params = [families.initialised(m, seed) for seed, m in enumerate(models)]
  mesh = None
  if kind == "eight devices":
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    params = [
      jax.device_put(p, sharding.of_variables(families.abstract(m), mesh))
      for p, m in zip(params, models, strict=True)
    ]
  engines = [make(model, mesh) for model in models]
  sessions = [e.session(p) for e, p in zip(engines, params, strict=True)]
  return engines, params, sessions


CASES = [
  ("llama", "growing", 0.0, "none"),
  ("llama", "growing", 1.0, "critic"),
  ("llama", "parting", 0.0, "critic"),
  ("llama", "parting", 1.0, "none"),
  pytest.param("t5", "parting", 1.0, "none", marks=pytest.mark.slow),
  pytest.param("eight devices", "growing", 1.0, "none", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "name", "temperature", "gate"), CASES)
def test_equal_to_the_loop_that_reads_every_prompt(
  kind, name, temperature, gate
):
  engines, params, sessions = both(kind)
  template = TEMPLATES[name]
  sampling = Sampling(temperature=temperature, max_tokens=8, seed=3)
  plain = [
    build.proposer(engine, p, dataclasses.replace(sampling, max_tokens=n))
    for engine, p, n in zip(engines, params, (8, 4), strict=True)
  ]
  kept = [
    build.conversing(
      session,
      dataclasses.replace(sampling, max_tokens=n),
      test_time.conversations,
    )
    for session, n in zip(sessions, (8, 4), strict=True)
  ]
  expected = answered(*plain, template, len(PROBLEMS), gate)
  # In waves that fit, and all at once, where rows have to make room.
  for size in (SLOTS // CHAINS, len(PROBLEMS)):
    assert answered(*kept, template, size, gate) == expected
    for session in sessions:
      session.clear()
  lengths = {len(t.turns) for t in expected}
  assert lengths == {ROUNDS + 1} if gate == "none" else len(lengths) > 1
  assert (sessions[0].capacity == 0) == (kind == "t5")


def test_a_next_turn_reads_what_is_new():
  engines, params, _ = both("llama")
  engine, session = engines[0], engines[0].session(params[0])
  assert session.capacity == SLOTS
  sampling = Sampling(temperature=1.0, max_tokens=6, min_tokens=6)
  engine.statistics.clear()
  first = ("abcdefabcdef", "h")
  (samples,) = session.answer(
    [Request("p/t1", first, n=3)], [["p#0", "p#1", "p#2"]], sampling
  )
  # BOS and 13 letters are read once; two rows are copies but for the last.
  assert engine.statistics.prompt_tokens == 14 + 1 + 1
  assert engine.statistics.kept_tokens == 13 + 13
  engine.statistics.clear()
  requests = [
    Request(f"p#{k}/t2", (*first, s.tokens, END, "ab"))
    for k, s in enumerate(samples)
  ]
  session.answer(requests, [["p#0"], ["p#1"], ["p#2"]], sampling)
  # The token drawn last was not read yet; then EOS and two letters.
  assert engine.statistics.prompt_tokens == 3 * 4
  assert engine.statistics.kept_tokens == 3 * (14 + 5)
  assert (engine.statistics.extended, engine.statistics.parted) == (3, 0)
  engine.statistics.clear()
  other = Request("p#1/t3", ("abcdefabcdef", "ee"))
  session.answer([other], [["p#1"]], sampling)
  assert engine.statistics.prompt_tokens == 2
  assert engine.statistics.kept_tokens == 13
  assert (engine.statistics.extended, engine.statistics.parted) == (0, 1)


def test_answers_of_a_conversation_that_is_named_twice():
  _, _, sessions = both("llama")
  with pytest.raises(ValueError, match="asked for twice"):
    sessions[0].answer(
      [Request("a/t2", "ab"), Request("b/t2", "ab")], [["x"], ["x"]]
    )
  with pytest.raises(ValueError, match="2 samples of 1 conversations"):
    sessions[0].answer([Request("a/t1", "ab", n=2)], [["x"]])


def test_followers():
  one, far = tuple(range(20)), tuple(range(30, 40))
  alike = (*one[:15], 99)
  found = beginnings.followers([one, alike, far, one, one], [0, 0, 0, 0, 12])
  # The last one holds enough itself; of a whole prompt its last is read.
  assert found == {1: (0, 15), 3: (0, 19)}
