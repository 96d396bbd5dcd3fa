"""The loop: prompts, freezing, budget, candidates, and who is heard."""

import itertools

import pytest
from scripted import Echo, Scripted, problems, rng, text_of

from refine_jax import records
from refine_jax.methods import critics, evaluation, refine

TEMPLATE = refine.Template()
TASK = Echo()


def start(count):
  given = problems(count)
  return given, [refine.start(p, TASK.prompt(p)) for p in given]


def obeys(request, _):
  """Says what the feedback tells it to, else something wrong."""
  text = text_of(request.prompt)
  return text.rpartition("feedback: say ")[2] if "feedback:" in text else "?"


def run(trajectories, critic, proposer, **settings):
  return refine.refine(
    trajectories,
    propose=proposer,
    revise=proposer,
    critic=critic,
    template=TEMPLATE,
    **{"turns": 3, **settings},
  )


def oracle(given):
  return critics.oracle(TASK.feedback, {p.id: p for p in given}, TASK.no_hint)


def test_prompts_are_exactly_the_published_ones():
  given, trajectories = start(1)
  proposer = Scripted(obeys)
  run(trajectories, oracle(given), proposer)
  assert [text_of(r.prompt) for r in proposer.asked] == [
    "say it 0",
    "say it 0 previous answer: ? feedback: say 0",
  ]
  assert [r.id for r in proposer.asked] == ["p0/t1", "p0/t2"]


def test_sampled_ids_reach_the_next_prompt_untouched():
  given, trajectories = start(1)
  proposer = Scripted(obeys)
  run(trajectories, oracle(given), proposer)
  hypothesis = proposer.asked[1].prompt[2]
  assert hypothesis == tuple(b"?")  # ids, and without the EOS


def test_accepted_rows_are_frozen_and_the_rest_goes_on():
  given, trajectories = start(3)

  def only_first(request, _):
    return "0" if request.id == "p0/t1" else "?"

  proposer = Scripted(only_first)
  done = run(trajectories, oracle(given), proposer, turns=4)
  assert [len(t.turns) for t in done] == [1, 4, 4]
  assert done[0].turns[0].feedback.accepted
  assert not any(r.id.startswith("p0/t2") for r in proposer.asked)


def test_the_last_turn_is_judged_too():
  given, trajectories = start(1)
  (done,) = run(trajectories, oracle(given), Scripted(obeys), turns=2)
  assert done.turns[1].feedback == records.Feedback("No hint", accepted=True)


def test_the_trained_critics_words_reach_the_prompt():
  # The original computed the trained critic's hint and then encoded the
  # oracle's.
  _, trajectories = start(1)
  proposer = Scripted(obeys)
  critic_model = Scripted(lambda request, _: "say banana")
  critic = critics.model(critic_model, TEMPLATE, TASK.no_hint)
  (done,) = run(trajectories, critic, proposer, turns=2)
  assert text_of(proposer.asked[1].prompt).endswith("feedback: say banana")
  assert text_of(critic_model.asked[0].prompt) == "say it 0 previous answer: ?"
  assert done.turns[1].hypothesis == "banana"


def test_what_a_person_types_reaches_the_prompt():
  _, trajectories = start(1)
  proposer, shown = Scripted(obeys), []
  lines = iter([" say banana\n", ""])

  def ask(text):
    shown.append(text)
    return next(lines)

  critic = critics.manual(ask, TASK.no_hint)
  (done,) = run(trajectories, critic, proposer)
  assert text_of(proposer.asked[1].prompt).endswith("feedback: say banana")
  assert "say it 0\nturn 1: ?" in shown[0] and "turn 2: banana" in shown[1]
  accepted = records.Feedback(TASK.no_hint, accepted=True)
  assert len(done.turns) == 2 and done.turns[1].feedback == accepted


def test_first_accepted_candidate_is_kept():
  given, trajectories = start(2)
  proposer = Scripted(
    lambda r, i: "1" if (r.id, i) == ("p1/t2", 2) else f"?{i}"
  )
  done = run(trajectories, oracle(given), proposer, turns=2, candidates=4)
  assert done[0].turns[1].hypothesis == "?0"
  assert done[1].turns[1].hypothesis == "1"
  assert [r.n for r in proposer.asked] == [1, 1, 4, 4]


def test_candidates_of_one_problem_have_requests_of_their_own():
  _, trajectories = start(2)
  critic_model = Scripted(lambda request, _: "no")
  critic = critics.model(critic_model, TEMPLATE, TASK.no_hint)
  run(trajectories, critic, Scripted(obeys), turns=2, candidates=2)
  names = [r.id for r in critic_model.asked]
  assert len(set(names)) == len(names)
  # And they do not depend on who else is in the batch.
  alone = Scripted(lambda request, _: "no")
  run(
    trajectories[1:],
    critics.model(alone, TEMPLATE, TASK.no_hint),
    Scripted(obeys),
    turns=2,
    candidates=2,
  )
  assert {r.id for r in alone.asked} <= set(names)


def test_spent_counts_every_token():
  _, trajectories = start(1)
  critic = critics.model(Scripted(lambda r, _: "no"), TEMPLATE, TASK.no_hint)
  (done,) = run(
    trajectories, critic, Scripted(lambda r, i: "ab"), turns=2, candidates=3
  )
  # Each hypothesis and each critique: two tokens and an EOS.
  assert [t.spent for t in done.turns] == [6, 18]


def test_no_critic_never_accepts_and_says_nothing():
  _, trajectories = start(1)
  proposer = Scripted(obeys)
  (done,) = run(trajectories, critics.none, proposer, turns=2)
  assert text_of(proposer.asked[1].prompt) == (
    "say it 0 previous answer: ? feedback: "
  )
  assert not done.turns[-1].feedback.accepted


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_noise_replaces_at_its_rate(rate):
  given, trajectories = start(20)
  critic = critics.noisy(oracle(given), rate=rate, pool=["noise"], seed=0)
  done = run(trajectories, critic, Scripted(obeys), turns=2)
  noisy = [t.turns[0].feedback.text == "noise" for t in done]
  assert all(noisy) if rate else not any(noisy)


def test_shuffled_feedback_is_anothers_under_ones_own_verdict():
  given, trajectories = start(8)
  critic = critics.shuffled(oracle(given), pool=["pool"], seed=0)

  def half_right(request, _):
    number = request.id[1]
    return number if int(number) % 2 and "/t1" in request.id else "?"

  done = run(trajectories, critic, Scripted(half_right), turns=2)
  for i, trajectory in enumerate(done):
    first = trajectory.turns[0].feedback
    assert first.accepted == bool(i % 2)
    if not first.accepted:
      assert first.text.startswith("say ") and first.text != f"say {i}"


def test_words_of_one_under_the_verdict_of_another():
  given, trajectories = start(2)
  words = critics.noisy(critics.none, rate=1.0, pool=["what?"], seed=0)
  critic = critics.verdict_of(oracle(given), words)
  done = run(trajectories, critic, Scripted(lambda r, _: r.id[1]), turns=3)
  assert all(len(t.turns) == 1 for t in done)
  assert all(t.turns[0].feedback.accepted for t in done)


def test_under_the_oracle_what_is_right_stays_right():
  given, trajectories = start(40)
  noise = rng()

  def sometimes(request, _):
    return request.id[1:].split("/")[0] if noise.random() < 0.4 else "?"

  done = run(trajectories, oracle(given), Scripted(sometimes), turns=4)
  by_id = {p.id: p for p in given}
  done = [evaluation.with_metrics(TASK, by_id, t) for t in done]
  right = [evaluation.at_turn(done, t, "exact") for t in range(1, 5)]
  for before, after in itertools.pairwise(right):
    assert (after >= before).all()
  assert right[-1].sum() > right[0].sum() > 0
