"""Figures over trajectories, by hand; votes; the floor; the critic's own."""

from scripted import Echo, problems, sample

from refine_jax import records
from refine_jax.methods import evaluation

TASK = Echo()
GIVEN = {p.id: p for p in problems(4)}


class Sentences(Echo):
  """Two sentences of feedback, of which the first has the type."""

  def feedback(self, problem, hypothesis):
    said = super().feedback(problem, hypothesis)
    return said if said == self.no_hint else f"{said}. Try again."


def trajectory(number, *turns):
  """Turns as (hypothesis, what the critic says, whether it accepts, spent)."""
  problem = GIVEN[f"p{number}"]
  made = records.Trajectory(
    id=problem.id,
    problem=problem.id,
    question=problem.question,
    turns=tuple(
      records.Turn(
        hypothesis=hypothesis,
        feedback=records.Feedback(said, accepted),
        spent=spent,
      )
      for hypothesis, said, accepted, spent in turns
    ),
  )
  return evaluation.with_metrics(TASK, GIVEN, made)


def four():
  return [
    trajectory(0, ("0", "", True, 2)),  # right at once, and stopped
    trajectory(1, ("?", "", False, 3), ("1", "", True, 4)),  # mended
    trajectory(2, ("2", "", False, 5), ("?", "", False, 6)),  # spoilt
    trajectory(3, ("?", "", False, 1), ("!", "", False, 1)),  # never right
  ]


def test_what_the_feedback_changed():
  found = evaluation.summary(four(), turns=2)
  assert (found["problems"], found["metric"]) == (4, "exact")
  assert [t["exact"]["mean"] for t in found["turns"]] == [50.0, 50.0]
  assert found["wrong_to_right"] == found["right_to_wrong"] == 25.0
  assert found["accepted"] == 50.0
  assert found["tokens_per_problem"] == (2 + 7 + 11 + 2) / 4
  interval = found["turns"][0]["exact"]
  assert 0 <= interval["low"] < 50 < interval["high"] <= 100


def test_who_stopped_early_keeps_the_last_hypothesis():
  done = four()
  assert evaluation.at_turn(done, 1, "exact").tolist() == [1, 0, 1, 0]
  for turn in (2, 5):
    assert evaluation.at_turn(done, turn, "exact").tolist() == [1, 1, 0, 0]


def test_a_critic_per_error_type_whatever_the_order():
  done = [
    trajectory(0, ("0", "No hint", True, 0)),
    trajectory(1, ("1", "say 1. Try again.", False, 0)),  # a false alarm
    trajectory(2, ("?", "Try again. Say 2.", False, 0)),  # the other way round
    trajectory(3, ("?", "say 2. Try again.", False, 0)),  # another problem's
  ]
  found = evaluation.critic_report(Sentences(), GIVEN, done)
  assert found == {
    "acceptance": 50.0,
    "detection": 100.0,
    "exact": 50.0,
    "exact/say": 50.0,
  }


def test_votes_within_a_budget():
  texts = ("a", "bb", "bb", "a", "a")
  samples = [sample(str(i), text) for i, text in enumerate(texts)]
  costs = [len(s.tokens) for s in samples]
  assert costs == [2, 3, 3, 2, 2]
  votes = [
    evaluation.self_consistency(TASK, samples, budget)
    for budget in (0, 8, 10, 12)
  ]
  # One at least; the commonest; the first of equals; all.
  assert votes == [("a", 2), ("bb", 8), ("a", 10), ("a", 12)]
  empty = [sample("0", " "), sample("1", "")]
  assert evaluation.self_consistency(TASK, empty, 99)[0] == " "


def test_the_floor_is_the_best_of_the_commonest():
  given = [*problems(2), *problems(2)[:1]]
  assert evaluation.constant(TASK, given, ["9"] * 5 + ["1"] * 2 + ["0"]) == "0"
  assert evaluation.constant(TASK, given, ["9"] * 5 + ["0"], tries=1) == "9"


def test_same_feedback_ignores_case_and_order_only():
  task = Sentences()
  same = evaluation.same_feedback
  assert same(task, "A b. C.", "c. a b.")
  assert not same(task, "A b. C.", "A b.")
