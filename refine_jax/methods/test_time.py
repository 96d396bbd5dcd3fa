"""Critiques at test time: several chains, each refined several times.

Parallel: K chains, one refinement each. Sequential: one chain, R refinements,
y <- y'. Combined: K chains of R. The vote is over refined answers only, and
every chain has equally many votes: one that a gate leaves alone repeats what
it has.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from refine_jax.algorithms import voting
from refine_jax.methods import critic_metrics
from refine_jax.methods.refine import (
  Critic,
  Proposer,
  Template,
  content_tokens,
  next_prompt,
)
from refine_jax.records import Problem, Trajectory, Turn
from refine_jax.sampling.settings import Request

GATES = ("none", "critic", "oracle")
SEPARATOR = "#"
FIRST = "t1"


@dataclasses.dataclass(frozen=True)
class Plan:
  """How critiques are spent.

  Attributes:
    chains: K, samples of the first turn.
    rounds: R, refinements of each; 0 for a plain vote.
    gate: what is refined: everything (`none`, the original), what the critic
      rejects (`critic`), or what is truly wrong (`oracle`, an upper bound:
      right responses are not even criticised).
    only_final: the last refinement of a chain votes alone.
    weigh: the critic looks at the last refinement too, for a weighted vote.
  """

  chains: int = 1
  rounds: int = 1
  gate: str = "none"
  only_final: bool = False
  weigh: bool = False

  def __post_init__(self):
    if self.gate not in GATES:
      raise ValueError(f"gate is one of {', '.join(GATES)}, not {self.gate!r}")
    if self.chains < 1 or self.rounds < 0:
      raise ValueError(f"chains={self.chains}, rounds={self.rounds}")


def conversations(request: Request) -> list[str]:
  """Whose turns a request's samples are: those of the chains that `run` asks
  for, of an actor (`/t`) or of a critic (`/c`), who may be one model."""
  name, _, turn = request.id.rpartition("/")
  if turn != FIRST:
    return [f"{name}/{turn[0]}"]
  return [f"{name}{SEPARATOR}{k}/t" for k in range(request.n)]


def run(
  problems: Sequence[Problem],
  questions: Mapping[str, str],
  *,
  plan: Plan,
  propose: Proposer,
  revise: Proposer,
  critic: Critic,
  template: Template,
  check: Callable[[Problem, str], bool],
) -> list[Trajectory]:
  """All chains of all problems, `<problem>#<chain>`, problem by problem.

  Args:
    problems: what is asked; questions: their prompts, by id.
    plan: how often.
    propose: first turns; revise: later ones.
    critic: looks at last hypotheses.
    template: prompts.
    check: whether a response is right, for the oracle's gate.
  """
  by_id = {p.id: p for p in problems}
  requests = [
    Request(f"{p.id}/{FIRST}", template.first(questions[p.id]), n=plan.chains)
    for p in problems
  ]
  done = [
    _start(p, questions[p.id], k, sample)
    for p, group in zip(problems, propose(requests), strict=True)
    for k, sample in enumerate(group)
  ]
  for number in range(1, plan.rounds + 1):
    live = [i for i, t in enumerate(done) if len(t.turns) == number]
    if plan.gate == "oracle":
      live = [
        i
        for i in live
        if not check(by_id[done[i].problem], done[i].turns[-1].hypothesis)
      ]
    for i, found in zip(live, _criticised(done, live, critic), strict=True):
      done[i] = found
    if plan.gate == "critic":
      live = [i for i in live if not done[i].turns[-1].feedback.accepted]
    asked = [
      Request(f"{done[i].id}/t{number + 1}", next_prompt(template, done[i]))
      for i in live
    ]
    for i, (sample,) in zip(live, revise(asked) if asked else [], strict=True):
      done[i] = _grown(done[i], sample)
  if plan.weigh:
    live = [i for i, t in enumerate(done) if t.turns[-1].feedback is None]
    for i, found in zip(live, _criticised(done, live, critic), strict=True):
      done[i] = found
  return done


def _start(problem, question, k, sample) -> Trajectory:
  made = Trajectory(
    id=f"{problem.id}{SEPARATOR}{k}", problem=problem.id, question=question
  )
  return _grown(made, sample)


def _grown(trajectory: Trajectory, sample) -> Trajectory:
  turn = Turn(sample.text, content_tokens(sample), spent=len(sample.tokens))
  return dataclasses.replace(trajectory, turns=(*trajectory.turns, turn))


def _criticised(done, live, critic) -> list[Trajectory]:
  if not live:
    return []
  found = []
  for i, feedback in zip(live, critic([done[i] for i in live]), strict=True):
    *before, last = done[i].turns
    spent = last.spent + len(feedback.tokens) + bool(feedback.tokens)
    last = dataclasses.replace(last, feedback=feedback, spent=spent)
    found.append(dataclasses.replace(done[i], turns=(*before, last)))
  return found


@dataclasses.dataclass(frozen=True)
class Pool:
  """What votes, B problems with K chains of V votes each.

  Attributes:
    answers_BKV: a number per equal answers of a problem, -1 for none.
    correct_BKV: whether each is right.
    weights_BKV: of the weighted vote.
    spent_BK: tokens of each chain.
    weighing_BK: of those, what was spent on weights alone.
  """

  answers_BKV: np.ndarray
  correct_BKV: np.ndarray
  weights_BKV: np.ndarray
  spent_BK: np.ndarray
  weighing_BK: np.ndarray


def pool(
  trajectories: Sequence[Trajectory],
  problems: Mapping[str, Problem],
  task: Any,
  plan: Plan,
  rejected: float = 0.1,
) -> Pool:
  """The votes of chains.

  Args:
    trajectories: as `run` gives them.
    problems, task: check and say which answers are equal.
    plan: as in `run`.
    rejected: the weight of an answer that the critic rejects.
  """
  rows = [_votes(t, plan) for t in trajectories]
  flat = [turn.hypothesis for turns in rows for turn in turns]
  owners = [problems[t.problem] for t in trajectories for _ in rows[0]]
  right = task.check_all(owners, flat)
  keys = [task.canonical(text) for text in flat]
  weights = [
    rejected if turn.feedback and not turn.feedback.accepted else 1.0
    for turns in rows
    for turn in turns
  ]
  shape = (-1, plan.chains, len(rows[0]))

  def by_chain(values):
    return np.array(list(values)).reshape(shape[:2])

  return Pool(
    answers_BKV=_numbers(keys, plan.chains * len(rows[0])).reshape(shape),
    correct_BKV=np.array(right, bool).reshape(shape),
    weights_BKV=np.array(weights).reshape(shape),
    spent_BK=by_chain(sum(x.spent for x in t.turns) for t in trajectories),
    weighing_BK=by_chain(_weighing(t, plan) for t in trajectories),
  )


def _weighing(trajectory: Trajectory, plan: Plan) -> int:
  """Tokens of a critique after which nothing could be refined any more."""
  last = trajectory.turns[-1].feedback
  over = len(trajectory.turns) > plan.rounds or plan.gate == "oracle"
  if last is None or not over:
    return 0
  return len(last.tokens) + bool(last.tokens)


def _votes(trajectory: Trajectory, plan: Plan) -> list[Turn]:
  """The refinements of a chain; without rounds, the response."""
  turns = list(trajectory.turns)
  count = 1 if plan.only_final or not plan.rounds else plan.rounds
  turns += [turns[-1]] * (plan.rounds + 1 - len(turns))
  return turns[-count:]


def _numbers(keys: Sequence[str | None], width: int) -> np.ndarray:
  found = []
  for start in range(0, len(keys), width):
    known: dict[str, int] = {}
    found += [
      -1 if key is None else known.setdefault(key, len(known))
      for key in keys[start : start + width]
    ]
  return np.array(found)


def at(votes: Pool, k: int) -> dict[str, np.ndarray]:
  """One value per problem over the first k chains: `vote`, `weighted`,
  `pass` (any of the k, unbiased over all chains' last votes), `tokens` (of
  vote and pass), `tokens_weighted` (with critiques for the weights alone)."""
  B, _, V = votes.answers_BKV.shape
  answers = votes.answers_BKV.reshape(B, -1)
  correct = votes.correct_BKV.reshape(B, -1)
  weights = votes.weights_BKV.reshape(B, -1)
  return {
    "vote": voting.credit(correct, voting.vote(answers, k * V)),
    "weighted": voting.credit(
      correct, voting.weighted_vote(answers, weights, k * V)
    ),
    "pass": voting.pass_at(votes.correct_BKV[:, :, -1], k),
    "tokens": (votes.spent_BK - votes.weighing_BK)[:, :k].sum(axis=1) * 1.0,
    "tokens_weighted": votes.spent_BK[:, :k].sum(axis=1) * 1.0,
  }


def curve(votes: Pool, ks: Sequence[int], seed: int = 0) -> dict[str, Any]:
  """k -> mean, low and high of every rule in percent, and tokens."""
  found = {}
  for k in ks:
    values = at(votes, k)
    tokens = values.pop("tokens")
    weighted = values.pop("tokens_weighted")
    row = critic_metrics.with_intervals(values, seed)
    solved = values["vote"].sum()
    row["tokens"] = float(tokens.mean())
    row["tokens_weighted"] = float(weighted.mean())
    row["tokens_per_solved"] = float(tokens.sum() / solved) if solved else None
    found[str(k)] = row
  return found
