"""Rollouts for training with the critic in the loop."""

import pytest
from scripted import Echo, Scripted, problems, text_of

from refine_jax.methods import critics, refine, refiner

TASK = Echo()


def roll(proposer, count=4, **settings):
  given = problems(count)
  return refiner.roll_out(
    TASK,
    given,
    generate=proposer,
    critic=critics.oracle(TASK.feedback, refiner.by_id(given), TASK.no_hint),
    template=refine.Template(),
    rollout=refiner.Rollout(**settings),
    seed=0,
  )


def wrong(request, index):
  return f"?{index}"


def test_every_turn_has_the_gold_as_target():
  turns = roll(Scripted(wrong), turns=3)
  assert len(turns) == 3
  for examples in turns:
    assert [e.target for e in examples] == [(str(i),) for i in range(4)]


def test_inputs_hold_the_question_and_only_the_last_turn():
  script = Scripted(lambda r, i: f"{r.id[-1]}!")
  turns = roll(script, count=1, turns=3, samples=1)
  assert [text_of(t[0].prompt) for t in turns] == [
    "say it 0",
    "say it 0 previous answer: 1! feedback: say 0",
    "say it 0 previous answer: 2! feedback: say 0",
  ]


def test_one_turn_samples_nothing():
  # The original samples once more than it needs.
  script = Scripted(wrong)
  assert len(roll(script, turns=1)) == 1
  assert not script.asked
  roll(script, turns=2)
  assert len(script.asked) == 4


@pytest.mark.parametrize(
  ("choose", "expected"), [("first", {"?0"}), ("last", {"?2"})]
)
def test_which_sample_is_criticised(choose, expected):
  _, second = roll(Scripted(wrong), turns=2, samples=3, choose=choose)
  said = {text_of(e.prompt).split()[5] for e in second}
  assert said == expected


def test_random_choice_is_seeded_and_varies():
  first = roll(Scripted(wrong), count=30, turns=2, choose="random")
  again = roll(Scripted(wrong), count=30, turns=2, choose="random")
  assert first == again
  said = {text_of(e.prompt).split()[5] for e in first[1]}
  assert said == {"?0", "?1", "?2"}


def test_wrong_prefers_a_rejected_sample():
  script = Scripted(lambda r, i: r.id[1] if i < 2 else "bad")
  _, second = roll(script, turns=2, samples=3, choose="wrong")
  assert all("bad" in text_of(e.prompt) for e in second)


def test_errors_only_leaves_out_accepted_turns():
  script = Scripted(lambda r, i: "0" if r.id.startswith("p0") else "bad")
  (second,) = roll(
    script, turns=2, first_turn=False, errors_only=True, samples=1
  )
  assert [e.id for e in second] == ["p1/t2", "p2/t2", "p3/t2"]


def test_masking_hides_words_of_the_question_only():
  first, second = roll(
    Scripted(wrong), turns=2, mask=1.0, mask_word="_", samples=1
  )
  assert text_of(first[0].prompt) == "say it 0"
  assert text_of(second[0].prompt) == (
    "_ _ _ previous answer: ?0 feedback: say 0"
  )


def test_settings_that_make_no_sense_are_refused():
  with pytest.raises(ValueError, match="choose"):
    refiner.Rollout(choose="best")
  with pytest.raises(ValueError, match="one turn"):
    refiner.Rollout(turns=1, first_turn=False)
