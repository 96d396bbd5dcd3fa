"""RG1, RG2, RG3 and critiques on the embedded task, with a scripted actor.

The actor is simulated with the task's truth: from right steps it goes on
rightly, but for a share that grows with the temperature; from wrong ones it
never comes out right.
"""

import collections
import dataclasses
import json

import numpy as np
import pytest
from scripted import sample

from refine_jax.methods import (
  annotation,
  critique_filter,
  flawed,
  monte_carlo,
  self_talk,
  self_training,
  steps,
)
from refine_jax.methods.critique import COMPACT, PUBLISHED, Step, StepCritique
from refine_jax.methods.refine import Template
from refine_jax.sampling.settings import Request, Sampling
from refine_jax.tasks import base

TASK = base.load("arithmetic", form="text", difficulty=3, gold="canonical")
PROBLEMS = [TASK.problem(row) for row in TASK.source("train").rows[:60]]
BY_QUESTION = {p.question: p for p in PROBLEMS}
BY_ID = {p.id: p for p in PROBLEMS}
GAP = " . "


def variants(problem):
  rng = np.random.default_rng(0)
  found = [problem.gold, *(TASK.variant(problem, rng) for _ in range(12))]
  return list(dict.fromkeys(found))


class Simulated:
  """Goes on with a prefix; `slips(temperature)` is how often it goes wrong."""

  def __init__(self, slips):
    self.slips, self.rng = slips, np.random.default_rng(1)

  def __call__(self, requests):
    return [
      [sample(f"{r.id}/{i}", self._tail(r)) for i in range(r.n)]
      for r in requests
    ]

  def _tail(self, request):
    question, *rest = request.prompt
    prefix = rest[-1] if rest and rest[-1] != "solve:" else ""
    problem = BY_QUESTION[question]
    if prefix and TASK.judge(problem, prefix).kind not in (None, "missing"):
      return self._cut("answer 0", prefix)
    right = [v for v in variants(problem) if v.startswith(prefix)]
    if not right:
      return "answer 0"
    if self.rng.random() < self.slips(request.sampling.temperature):
      for kind in self.rng.permutation(("slip", "operator", "operand")):
        for _ in range(8):
          planted = TASK.plant(problem, self.rng, str(kind))
          if planted and planted[0].startswith(prefix):
            return self._cut(planted[0], prefix)
    return self._cut(right[0], prefix)

  def _cut(self, whole, prefix):
    return whole.removeprefix(prefix).removeprefix(GAP) or "answer 0"


def actor(slips):
  template = Template(generator_end="solve:")
  return flawed.Actor(Simulated(slips), template, Sampling(max_tokens=64))


def good_rows():
  return [
    flawed.row_of(TASK, p, p.gold, "pos/0", origin="pos") for p in PROBLEMS
  ]


@pytest.fixture(scope="module")
def planted():
  return flawed.planted(
    TASK,
    PROBLEMS,
    flawed.planter_of(TASK),
    TASK.kinds,
    actor(lambda t: 0.3),
    per_problem=3,
    temperature=0.7,
    seed=0,
    gap=GAP,
  )


def test_planted_errors_are_where_and_what_is_recorded(planted):
  assert len(planted) > 100
  hits, kinds = [], []
  for row in planted:
    found = TASK.judge(BY_ID[row.problem], row.response)
    hits.append(found.first == row.err_step)
    kinds.append(found.kind == row.err_type)
    assert not TASK.check(BY_ID[row.problem], row.response)
  assert np.mean(hits) >= 0.99
  assert all(kinds)


@pytest.mark.parametrize(
  ("gap", "tail", "whole"),
  [
    ("\n", "c", "a b\nc"),
    ("\n", "\nc", "a b\nc"),
    (" . ", "c", "a b . c"),
    # A tokenizer of words gives no white space back.
    (" . ", ". c", "a b . c"),
    (" . ", " . c", "a b . c"),
    (" . ", "", "a b"),
  ],
)
def test_a_prefix_and_its_tail_are_joined_once(gap, tail, whole):
  assert flawed.joined("a b", gap, tail) == whole


def test_nobody_goes_on_behind_an_answer():
  actor = flawed.Actor(
    lambda requests: [[sample(f"{r.id}/0", ". answer 1")] for r in requests],
    Template(),
    Sampling(max_tokens=4),
  )
  rows = flawed.planted(
    TASK,
    PROBLEMS,
    flawed.planter_of(TASK),
    ("missing",),
    actor,
    per_problem=1,
    temperature=0.7,
    seed=0,
    gap=GAP,
  )
  assert rows
  assert {row.response.count("answer") for row in rows} == {1}


def test_without_an_actor_the_planter_goes_on():
  rows = flawed.planted(
    TASK, PROBLEMS[:10], flawed.planter_of(TASK), ("slip",), None,
    per_problem=1, temperature=0.0, seed=0, gap=GAP,
  )  # fmt: skip
  assert rows and {r.err_type for r in rows} == {"slip"}
  for row in rows:
    assert TASK.first_error(BY_ID[row.problem], row.response) == row.err_step


def test_raised_errors_are_confirmed_by_rollouts():
  hot = actor(lambda t: 0.6 if t >= 1 else 0.1)
  rows = flawed.raised(
    TASK, BY_ID, good_rows(), hot, ladder=(1.0, 1.2), tries=3, seed=0
  )
  assert len(rows) > 20
  done = flawed.confirmed(
    TASK,
    BY_ID,
    rows,
    hot,
    rollouts=8,
    temperature=0.3,
    before=0.5,
    collapse=0.2,
  )
  kept = [r for r in done if r.kept]
  true = [TASK.first_error(BY_ID[r.problem], r.response) for r in kept]
  assert len(kept) >= len(rows) / 2
  right = np.mean([t == r.err_step for t, r in zip(true, kept, strict=True)])
  raw = np.mean(
    [TASK.first_error(BY_ID[r.problem], r.response) == r.err_step for r in rows]
  )
  assert right >= 0.9 and right > raw
  dropped = {r.drop for r in done if not r.kept}
  assert dropped <= {"rg2-unconfirmed"}


def test_sampled_ones_are_distinct_capped_and_ended():
  problem = PROBLEMS[0]
  texts = [problem.gold, "answer 0", "answer 0", "answer 1", "no", "answer 2"]
  group = [sample(f"s/{i}", t) for i, t in enumerate(texts)]
  group[-1] = dataclasses.replace(group[-1], finish="length")
  (attempts,) = self_training.checked(TASK, [problem], [group])
  by_id = {problem.id: attempts}
  kinds = {"cap": 3, "temperature": 0.7}
  wrong = flawed.sampled(TASK, [problem], by_id, right=False, **kinds)
  right = flawed.sampled(TASK, [problem], by_id, right=True, **kinds)
  assert [r.response for r in wrong] == ["answer 0", "answer 1"]
  assert [r.response for r in right] == [problem.gold]
  assert right[0].right and not wrong[0].right
  one = flawed.sampled(
    TASK, [problem], by_id, right=False, cap=1, temperature=0.7
  )
  assert len(one) == 1


# Critiques.


@pytest.mark.parametrize("grammar", [COMPACT, PUBLISHED])
def test_the_oracle_finds_every_planted_error(planted, grammar):
  texts = annotation.oracle(TASK, grammar, BY_ID)(planted)
  for row, text in zip(planted, texts, strict=True):
    found = grammar.parse(text)
    assert found.first_error == row.err_step and found.correct is False
    assert found.readable
    row = dataclasses.replace(row, critique=text)
    kept = monte_carlo.before_sampling(row, grammar, leaks=True)
    assert kept.kept or kept.drop == "leak-answer"


def test_the_oracle_rarely_gives_the_answer_away(planted):
  texts = annotation.oracle(TASK, COMPACT, BY_ID)(planted)
  drops = collections.Counter(
    critique_filter.leaks(text, row.answer, row.response)
    for row, text in zip(planted, texts, strict=True)
  )
  assert drops["leak-words"] == 0
  assert drops["leak-answer"] < 0.1 * len(planted)


def test_the_oracle_likes_what_is_right():
  for row, text in zip(
    good_rows(),
    annotation.oracle(TASK, COMPACT, BY_ID)(good_rows()),
    strict=True,
  ):
    found = COMPACT.parse(text)
    assert found.correct and found.first_error is None
    assert len(found.steps) == len(row.steps)


def test_an_annotator_is_told_what_is_known(planted):
  row = planted[0]
  asked = []

  def annotate(requests: list[Request]):
    asked.extend(requests)
    return [["Step sentence: x"] for _ in requests]

  assert annotation.asked(annotate)([row]) == ["Step sentence: x"]
  text = asked[0].prompt[0]
  assert f"Reference answer (for your eyes only): {row.answer}" in text
  assert f"first error is in step {row.err_step + 1}" in text
  assert row.err_type in text and "never mention the reference" in text


class Planting:
  """Writes wrong steps, and goes on from them; keeps what it was asked."""

  def __init__(self, step="1 + 1 = 3 pears", rest="2 + 2 = 5 pears . answer 0"):
    self.said = {"plant": step, "rest": rest}
    self.asked = []

  def __call__(self, requests):
    self.asked.append(requests)
    return [[self._answer(r)] for r in requests]

  def _answer(self, request):
    said = self.said["rest" if request.id.endswith("/rest") else "plant"]
    return said(request) if callable(said) else said


def wanted(*problems, kind="calculation"):
  return [(p, np.random.default_rng(0), kind) for p in problems]


def test_an_annotator_plants():
  asked = Planting()
  (found,) = annotation.planter(asked, TASK)(wanted(PROBLEMS[0]), False)
  wrong, at, whole = found
  assert wrong.endswith("1 + 1 = 3 pears") and whole == wrong
  assert steps.of(TASK, wrong)[at] == "1 + 1 = 3 pears"
  assert len(asked.asked) == 1  # an actor goes on, not the annotator


def test_the_right_step_is_no_error():
  problem = PROBLEMS[1]
  gold = steps.of(TASK, problem.gold)
  place = int(np.random.default_rng(0).integers(len(gold) - 1))
  for said in (gold[place], f" {gold[place]} . {gold[place + 1]}", "", " "):
    plant = annotation.planter(Planting(said), TASK)
    assert plant(wanted(problem), False) == [None]
  plant = annotation.planter(Planting("1 + 1 = 3 pears"), TASK)
  assert plant(wanted(problem), False)[0][1] == place


def test_an_annotator_is_asked_for_everything_at_once():
  """Two rounds: the wrong steps, then how they go on without an actor."""
  asked = Planting()
  rows = flawed.planted(
    TASK, PROBLEMS[:10], annotation.planter(asked, TASK),
    ("calculation", "operator"), None,
    per_problem=2, temperature=0.0, seed=0, gap=GAP,
  )  # fmt: skip
  assert [len(requests) for requests in asked.asked] == [20, 20]
  names = [r.id for requests in asked.asked for r in requests]
  assert len(set(names)) == len(names)
  assert len(rows) == 20
  for row in rows:
    assert row.steps[row.err_step] == "1 + 1 = 3 pears"
    assert TASK.answer(row.response) == "0"
    assert row.response.endswith("2 + 2 = 5 pears . answer 0")
    gold = steps.of(TASK, BY_ID[row.problem].gold)
    assert row.steps[: row.err_step] == tuple(gold[: row.err_step])
  text = asked.asked[1][0].prompt[0]
  assert "1 + 1 = 3 pears\n\nGo on" in text and text.endswith("\nanswer ...")


@pytest.mark.parametrize(
  ("rest", "kept"),
  [
    (lambda r: r.prompt[0].split("so far:\n")[1].split("\n\nGo on")[0]
     + " . answer 0", 1),  # all of it anew
    ("", 0),  # refused
    ("2 + 2 = 5 pears", 0),  # no answer
    (lambda r: f"answer {PROBLEMS[0].answer}", 0),  # right by luck
  ],
)  # fmt: skip
def test_what_an_annotator_goes_on_with(rest, kept):
  rows = flawed.planted(
    TASK, PROBLEMS[:1], annotation.planter(Planting(rest=rest), TASK),
    ("calculation",), None,
    per_problem=1, temperature=0.0, seed=0, gap=GAP,
  )  # fmt: skip
  assert len(rows) == kept
  for row in rows:
    assert row.response.count("1 + 1 = 3 pears") == 1


def test_nobody_goes_on_from_an_answer_that_an_annotator_wrote_too_early():
  asked = Planting("answer 0")
  (found,) = annotation.planter(asked, TASK)(wanted(PROBLEMS[0]), True)
  assert found[2] == found[0] and found[0].endswith("answer 0")
  assert len(asked.asked) == 1


class Anywhere(type(TASK)):
  """Finds an answer in any text, as the published code does."""

  def answer(self, completion):
    return super().answer(completion) or "0"


def test_a_task_that_finds_answers_anywhere_has_whole_solutions():
  task = Anywhere(form="text", difficulty=3, gold="canonical")
  rows = flawed.planted(
    task, PROBLEMS[:5], annotation.planter(Planting(), task),
    ("calculation",), None,
    per_problem=1, temperature=0.0, seed=0, gap=GAP,
  )  # fmt: skip
  went_on = flawed.Actor(
    lambda requests: [[sample(f"{r.id}/0", ". answer 1")] for r in requests],
    Template(),
    Sampling(max_tokens=4),
  )
  acted = flawed.planted(
    task, PROBLEMS[:5], annotation.planter(Planting(), task),
    ("calculation",), went_on,
    per_problem=1, temperature=0.0, seed=0, gap=GAP,
  )  # fmt: skip
  assert len(rows) == len(acted) == 5
  assert all(row.response.endswith("answer 0") for row in rows)
  assert all(row.response.endswith("answer 1") for row in acted)


def test_a_paragraph_is_one_step_and_a_formula_is_asked_for(tmp_path):
  """MATH's golds: a paragraph with a box, then the answer's sentence."""
  path = tmp_path / "competition_math" / "train.jsonl"
  row = {
    "problem": "Double $1+2$.",
    "solution": r"We have $1+2=3$. Doubled it is $2\cdot 3=\boxed{6}$.",
  }
  path.parent.mkdir()
  path.write_text(json.dumps(row))
  task = base.load("competition_math", path=str(tmp_path))
  problem = task.problem({"id": "0", **row})
  wrong = r"We have $1+2=4$. Doubled it is $2\cdot 4=\boxed{8}$."
  asked = Planting(wrong, r"The answer is $\boxed{8}$.")
  (made,) = flawed.planted(
    task, [problem], annotation.planter(asked, task), ("calculation",), None,
    per_problem=1, temperature=0.0, seed=0, gap="\n",
  )  # fmt: skip
  # The box in the paragraph is no answer that came too early: golds have it.
  assert made.steps == (wrong, r"The answer is $\boxed{8}$.")
  assert made.err_step == 0
  text = asked.asked[1][0].prompt[0]
  assert text.endswith("\nThe answer is $\\boxed{...}$.")


def test_monte_carlo_keeps_what_helps(planted):
  row = planted[0]
  problem = BY_ID[row.problem]
  judge = {"task": TASK, "problem": problem, "control": 0.2}
  rule = critique_filter.MonteCarlo(n=4)
  texts = [problem.gold, problem.gold, "answer 0", "answer 0"]
  kept = monte_carlo.judged(row, texts, rule=rule, **judge)
  assert kept.kept and kept.refined == (problem.gold,)
  assert kept.mc == {"n": 4.0, "correct": 2.0, "control": 0.2}
  lost = monte_carlo.judged(row, ["answer 0"] * 4, rule=rule, **judge)
  assert (lost.kept, lost.drop) == (False, "mc-hard")
  easy = monte_carlo.judged(row, texts, rule=rule, **{**judge, "control": 0.9})
  assert easy.drop == "mc-advantage"


def test_shuffled_critiques_are_of_other_problems(planted):
  rows = [dataclasses.replace(r, critique=f"of {r.problem}") for r in planted]
  mixed = monte_carlo.shuffled(rows)
  assert len(mixed) == len(rows)
  assert all(r.critique != f"of {r.problem}" for r in mixed)


def test_a_critique_that_does_not_fit_leaves_the_solution(planted):
  rows = [dataclasses.replace(r, critique=f"of {r.problem}") for r in planted]
  own = {row.id: row for row in rows}
  right = dataclasses.replace(rows[0], id="fine", origin="pos")
  found = monte_carlo.misfits([right, *rows], Template(), 0.5)
  assert len(found) == round(len(rows) / 2)
  for example in found:
    row = own[example.id.removesuffix("/misfit")]
    assert example.target == (row.response,)
    (critique,) = (part for part in example.prompt if part.startswith("of "))
    assert critique != f"of {row.problem}"
  same = [dataclasses.replace(r, critique="all the same") for r in rows]
  assert monte_carlo.misfits(same, Template(), 1.0) == []
  assert monte_carlo.misfits(rows, Template(), 0.0) == []


# Self-talk.

MENDED = StepCritique(
  (Step("9 - 3 = 5 figs", "wrong", "wrong result , 9 - 3"),), "wrong"
)


def test_a_chain_grows_until_nothing_is_wrong():
  first = self_talk.grown(
    self_talk.Chain(), ["9 - 3 = 5 figs", "answer 5"], MENDED
  )
  assert not first.done and first.good == []
  fine = StepCritique(
    (Step("9 - 3 = 6 figs", "right"), Step("answer 6", "right")), "right"
  )
  done = self_talk.grown(first, ["9 - 3 = 6 figs", "answer 6"], fine)
  assert done.done and not done.clean
  assert done.good == ["9 - 3 = 6 figs", "answer 6"]
  # What cannot be read accepts nothing, and blames nothing.
  garbled = StepCritique((Step("9 - 3 = 6 figs", "right"),), "")
  assert self_talk.grown(first, ["9 - 3 = 6 figs"], garbled) == first
  pieces = self_talk.smooth(
    done,
    doubts=("wait",),
    mended=("so it is",),
    gap=GAP,
    rng=np.random.default_rng(0),
  )
  text = "".join(p for p, _ in pieces)
  assert text == (
    "9 - 3 = 5 figs . wait wrong result , 9 - 3 . so it is 9 - 3 = 6 figs ."
    " answer 6"
  )
  assert [p for p, wrong in pieces if wrong] == ["9 - 3 = 5 figs"]
  ends = {"gap": GAP, "shortest": 0.5, "longest": 2.0}
  assert self_talk.refused(pieces, done, TASK, **ends) is None


def test_monologues_that_lose_something_are_refused():
  chain = self_talk.Chain(
    (self_talk.Link("1 + 1 = 3 figs", True, "no"), self_talk.Link("answer 6")),
    True,
  )
  ends = {"gap": GAP, "shortest": 0.5, "longest": 2.0}
  lost = self_talk.refused([("answer 6", False)], chain, TASK, **ends)
  other = self_talk.refused(
    [("1 + 1 = 3 figs . answer 7", False)], chain, TASK, **ends
  )
  long = self_talk.refused(
    [("1 + 1 = 3 figs" + " . so" * 40 + " . answer 6", False)],
    chain,
    TASK,
    **ends,
  )
  assert (lost, other, long) == ("step-lost", "answer-changed", "length")


def test_confidence_is_of_the_final_verdict():
  from refine_jax.methods import step_critics

  asked = []

  def score(prompts, targets):
    asked.extend(zip(prompts, targets, strict=True))
    # The critic finds `wrong` e times as likely as `right`.
    return [np.array([-1.0, -2.0 - t[0].endswith("right")]) for t in targets]

  rows = [("q", "y", "line y : wrong final wrong"), ("q", "y", "nothing")]
  found = step_critics.confidences(score, Template(), COMPACT, rows)
  assert found[1] is None
  assert found[0] == pytest.approx(1 / (1 + np.e))
  assert [t for _, t in asked] == [
    ("line y : wrong final right",), ("line y : wrong final wrong",),
  ]  # fmt: skip
  assert asked[0][0] == Template().critique("q", "y")
