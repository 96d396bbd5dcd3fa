"""Rollouts: order, overlap of checking and sampling, batches, problems."""

import time

import numpy as np
import pytest
import scripted

from refine_jax.methods import rollout
from refine_jax.methods.refine import Template
from refine_jax.sampling.settings import Sampling

SETTINGS = Sampling(temperature=1.0, max_tokens=8)


class Slow:
  """An engine that gives a row every `seconds`, the last one first."""

  def __init__(self, seconds=0.0):
    self.seconds = seconds

  def encode(self, prompt):
    return tuple(b for part in prompt for b in part.encode())

  def stream(self, params, requests, sampling):
    for request in reversed(requests):
      time.sleep(self.seconds)
      word = request.prompt[0].split()[-1]
      yield request, scripted.sample(f"{request.id}/0", word)


class Asleep(scripted.Echo):
  """Takes its time over every completion."""

  def __init__(self, seconds=0.0):
    self.seconds, self.calls = seconds, []

  def rewards(self, problems, completions):
    time.sleep(self.seconds * len(completions))
    self.calls.append(len(completions))
    return super().rewards(problems, completions)


def roll(problems, engine, task, rows=16, expected=None):
  checker = rollout.Checker(task, rows)
  made = rollout.roll_out(
    engine,
    None,
    problems,
    task=task,
    checker=checker,
    template=Template(),
    sampling=SETTINGS,
    name="r",
    expected=expected,
  )
  checker.close()
  return made


def test_every_problem_has_its_own_answer_judged():
  problems = scripted.problems(40)
  wrong = problems[7]
  problems[7] = wrong.__class__(wrong.id, wrong.question, gold="other")
  rollouts, _ = roll([*problems, problems[3]], Slow(), Asleep(), rows=4)
  assert [r.problem.id for r in rollouts] == [p.id for p in problems] + ["p3"]
  assert [r.sample.text for r in rollouts[:3]] == ["0", "1", "2"]
  assert [r.correct for r in rollouts] == [i != 7 for i in range(41)]
  assert [r.reward for r in rollouts] == [float(i != 7) for i in range(41)]
  assert bytes(rollouts[5].prompt) == b"say it 5"


def test_what_is_expected_to_be_long_begins_first():
  class Told(Slow):
    def stream(self, params, requests, sampling):
      self.order = [r.id for r in requests]
      return super().stream(params, requests, sampling)

  engine, problems = Told(), scripted.problems(4)
  rollouts, _ = roll(problems, engine, Asleep(), expected=[2, 9, 2, 5])
  assert engine.order == ["r/1/p1", "r/3/p3", "r/0/p0", "r/2/p2"]
  # Whatever the order, answers stay with their problems.
  assert [r.sample.text for r in rollouts] == ["0", "1", "2", "3"]
  assert [r.problem.id for r in rollouts] == ["p0", "p1", "p2", "p3"]


def test_checking_overlaps_generation():
  """A slow checker adds a tenth at most while generation dominates."""
  problems = scripted.problems(40)
  shares = []
  for _ in range(3):  # another process may take the core for a while
    _, spent = roll(problems, Slow(0.02), Asleep(0.012))
    assert spent.check > 0.4  # it did sleep
    shares.append(spent.idle / spent.generate)
    if shares[-1] < 0.1:
      break
  assert min(shares) < 0.1


def test_a_checker_s_error_is_told():
  class Broken(scripted.Echo):
    def rewards(self, problems, completions):
      raise ValueError("no such problem")

  with pytest.raises(ValueError, match="no such problem"):
    roll(scripted.problems(3), Slow(), Broken())


def test_places_see_every_problem_once_an_epoch():
  found = [i for n in range(6) for i in rollout.places(n, 5, 10, seed=3)]
  for epoch in range(3):
    assert sorted(found[10 * epoch : 10 * epoch + 10]) == list(range(10))
  assert found[:10] != found[10:20]
  assert rollout.places(4, 5, 10, seed=3) == found[20:25]
  # A round may be longer than an epoch.
  assert sorted(rollout.places(0, 4, 2, seed=0)) == [0, 0, 1, 1]


def test_batches_have_few_shapes_and_refuse_long_prompts():
  rollouts, _ = roll(scripted.problems(3), Slow(), Asleep())
  batch, beside = rollout.batch_of(rollouts, rollout.Shape(40, 8, buckets=4))
  # "say it 0" and "0" with its end, in tens and twos.
  assert batch.prompt_BP.shape == (3, 10) and batch.target_BT.shape == (3, 2)
  assert bytes(batch.prompt_BP[0, -8:].astype(np.uint8)) == b"say it 0"
  assert batch.loss_mask_BT.all()
  assert beside["sampled_BT"].shape == (3, 2)
  with pytest.raises(ValueError, match="8 tokens, data"):
    rollout.batch_of(rollouts, rollout.Shape(7, 8))


class Headed(scripted.Echo):
  """Completions begin with a line that is forced, and count with it."""

  def prefix(self, problem):
    return "def: "

  def rewards(self, problems, completions):
    return [float(text.startswith("def: ")) for text in completions]


def test_a_forced_prefix_is_prompt_and_is_judged():
  task = Headed()
  problem = task.problem({"id": "p", "q": "say it 7"})
  made, _ = roll([problem], Slow(), task)
  assert made[0].prompt == Slow().encode(("say it 7", "def: "))
  assert made[0].reward == 1.0
  # Only what the policy wrote is learned from.
  assert made[0].sample.text == "7"
