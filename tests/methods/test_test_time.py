"""Chains, gates and votes with scripted models; every count by hand."""

import dataclasses

import numpy as np
import pytest
import scripted

from refine_jax.methods import test_time
from refine_jax.methods.refine import Template
from refine_jax.methods.test_time import Plan
from refine_jax.records import Feedback
from refine_jax.sampling.settings import Request

TEMPLATE = Template(" A ", " F ")


class Answers(scripted.Echo):
  """0.5 and 1/2 are one answer."""

  def canonical(self, completion):
    text = completion.strip()
    return {"1/2": "0.5"}.get(text, text) or None


def run(plan, first, later, accept=lambda text: False, problems=1):
  asked = {"critic": 0, "revise": 0}

  def critic(trajectories):
    asked["critic"] += len(trajectories)
    texts = [t.turns[-1].hypothesis for t in trajectories]
    return [Feedback("f", accept(t), (1, 2)) for t in texts]

  def revise(requests):
    asked["revise"] += len(requests)
    return scripted.Scripted(later)(requests)

  found = scripted.problems(problems)
  task = Answers()
  done = test_time.run(
    found,
    {p.id: p.question for p in found},
    plan=plan,
    propose=scripted.Scripted(first),
    revise=revise,
    critic=critic,
    template=TEMPLATE,
    check=task.check,
  )
  by_id = {p.id: p for p in found}
  return done, test_time.pool(done, by_id, task, plan), asked


@pytest.mark.parametrize(
  ("gate", "critic", "revise", "texts"),
  [
    ("none", 4, 4, ["n0", "n0", "n0", "n0"]),
    ("critic", 4, 2, ["0", "n0", "0", "n0"]),
    ("oracle", 2, 2, ["0", "n0", "0", "n0"]),
  ],
)
def test_gates(gate, critic, revise, texts):
  done, votes, asked = run(
    Plan(chains=4, gate=gate),
    lambda r, i: "0" if i % 2 == 0 else "9",
    lambda r, i: "n0",
    accept=lambda text: text == "0",
  )
  assert [t.turns[-1].hypothesis for t in done] == texts
  assert asked == {"critic": critic, "revise": revise}
  assert votes.answers_BKV.shape == (1, 4, 1)


def test_an_oracle_gate_does_not_look_again_at_what_is_right():
  """The original criticises again what round 1 has mended."""
  _, votes, asked = run(
    Plan(chains=2, rounds=3, gate="oracle"),
    lambda r, i: "9",
    lambda r, i: "0" if "#0" in r.id else "8",
  )
  # Chain 0 is mended at once, chain 1 never.
  assert asked == {"critic": 1 + 3, "revise": 1 + 3}
  # Both chains have as many votes as there are rounds.
  assert votes.answers_BKV.shape == (1, 2, 3)
  assert votes.correct_BKV.sum() == 3


def test_the_responses_themselves_do_not_vote():
  _, votes, _ = run(
    Plan(chains=1, rounds=2), lambda r, i: "0", lambda r, i: r.id[-1]
  )
  assert not votes.correct_BKV.any()
  _, last, _ = run(
    Plan(chains=1, rounds=2, only_final=True),
    lambda r, i: "0",
    lambda r, i: "0" if r.id.endswith("t3") else "5",
  )
  assert last.correct_BKV.tolist() == [[[True]]]


def test_votes_by_hand():
  said = ["5", "0.5", "1/2", "5", "7", "0.5"]
  problem = dataclasses.replace(scripted.problems(1)[0], gold="0.5")
  task = Answers()
  plan = Plan(chains=6, rounds=0)
  done = test_time.run(
    [problem],
    {"p0": "q"},
    plan=plan,
    propose=scripted.Scripted(lambda r, i: said[i]),
    revise=None,
    critic=None,
    template=TEMPLATE,
    check=task.check,
  )
  votes = test_time.pool(done, {"p0": problem}, task, plan)
  # 5 | 5, .5 (tie: first) | .5 twice | 2:2, first | the same | .5 three times
  right = [test_time.at(votes, k)["vote"][0] for k in range(1, 7)]
  assert votes.answers_BKV.ravel().tolist() == [0, 1, 1, 0, 2, 1]
  # The vote takes the first sample of the winner: 0.5 before 1/2.
  assert right == [0, 0, 1, 0, 0, 1]
  # "1/2" itself is not the gold's text here, so two of six are right.
  assert test_time.at(votes, 1)["pass"][0] == pytest.approx(2 / 6)
  tokens = test_time.at(votes, 2)["tokens"][0]
  assert tokens == len("5") + 1 + len("0.5") + 1


def test_tokens_count_hypotheses_and_critiques():
  done, votes, _ = run(Plan(), lambda r, i: "9", lambda r, i: "0")
  # "9" and EOS, two of the critique and its EOS, "0" and EOS.
  assert [t.spent for t in done[0].turns] == [2 + 3, 2]
  row = test_time.curve(votes, [1])["1"]
  assert row["tokens"] == 7 and row["tokens_per_solved"] == 7
  assert row["vote"]["mean"] == 100


def test_a_weighted_vote_trusts_what_the_critic_accepts():
  answers = ["5", "5", "0"]
  _, votes, _ = run(
    Plan(chains=3, rounds=1, weigh=True),
    lambda r, i: "9",
    lambda r, i: answers[int(r.id[r.id.index("#") + 1])],
    accept=lambda text: text == "0",
  )
  found = test_time.at(votes, 3)
  assert found["vote"][0] == 0 and found["weighted"][0] == 1
  assert np.allclose(votes.weights_BKV.ravel(), [0.1, 0.1, 1])


@pytest.mark.parametrize("gate", ["none", "critic", "oracle"])
def test_critiques_for_weights_alone_are_not_the_votes(gate):
  """What no refinement reads is paid by the weighted vote only."""
  spent = {}
  for weigh in (False, True):
    _, votes, _ = run(
      Plan(chains=2, rounds=1, gate=gate, weigh=weigh),
      lambda r, i: "9",
      lambda r, i: "0",
      accept=lambda text: False,
    )
    found = test_time.at(votes, 2)
    spent[weigh] = [found[k][0] for k in ("tokens", "tokens_weighted")]
  assert spent[False][0] == spent[False][1] == spent[True][0]
  # Of both chains two tokens and an EOS.
  assert spent[True][1] == spent[True][0] + 2 * 3


def test_nothing_solved_costs_no_number():
  _, votes, _ = run(Plan(), lambda r, i: "9", lambda r, i: "9")
  row = test_time.curve(votes, [1])["1"]
  assert row["vote"]["mean"] == 0 and row["tokens_per_solved"] is None


def test_problems_keep_their_order_and_names():
  done, _, _ = run(
    Plan(chains=2), lambda r, i: "1", lambda r, i: "2", problems=3
  )
  assert [t.id for t in done] == [
    f"p{p}#{k}" for p in range(3) for k in range(2)
  ]


def test_conversations_are_those_of_the_chains():
  asked = []

  def noted(answer):
    def propose(requests):
      asked.extend(n for r in requests for n in test_time.conversations(r))
      return scripted.Scripted(answer)(requests)

    return propose

  test_time.run(
    scripted.problems(2),
    {"p0": "q", "p1": "q"},
    plan=Plan(chains=2, rounds=2),
    propose=noted(lambda r, i: "1"),
    revise=noted(lambda r, i: "2"),
    critic=lambda ts: [Feedback("f", False) for _ in ts],
    template=TEMPLATE,
    check=None,
  )
  chains = [f"p{p}#{k}/t" for p in range(2) for k in range(2)]
  assert asked == 3 * chains
  critic = test_time.conversations(Request("p0#1/c2", "x"))
  assert critic == ["p0#1/c"]


def test_unknown_gates():
  with pytest.raises(ValueError, match="gate is one of none"):
    Plan(gate="maybe")
