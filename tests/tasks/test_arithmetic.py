"""Procedural word problems: truth of steps, planted errors, splits."""

import collections

import numpy as np
import pytest

from refine_jax import records
from refine_jax.tasks import (
  arithmetic,
  arithmetic_generator,
  arithmetic_solution,
  arithmetic_story,
  base,
)

STORY = (
  "5 pears and 9 apples . sells 3 apples . triples apples . how many apples ?"
)
SUM = (
  "4 figs and 6 nuts . buys 2 figs . doubles nuts . how many figs and nuts ?"
)


def tasks():
  for form in arithmetic_solution.FORMS:
    for level in arithmetic_story.LEVELS:
      yield base.load("arithmetic", form=form, difficulty=level, size=40)


def problems(task, split="train"):
  return [task.problem(row) for row in task.source(split).rows]


@pytest.fixture
def text():
  return arithmetic.Arithmetic(form="text")


@pytest.fixture
def program():
  return arithmetic.Arithmetic(form="program")


def test_worked_examples(text, program):
  problem = text.own(STORY)
  assert problem.gold == "9 - 3 = 6 apples . 6 * 3 = 18 apples . answer 18"
  assert problem.answer == "18"
  assert program.own(STORY).gold == "a = 9 - 3 ; b = a * 3 ; return b"
  assert program.own(SUM).gold == "a = 4 + 2 ; b = 6 * 2 ; c = a + b ; return c"
  more = "3 figs and 9 nuts . eats 2 nuts . how many more nuts than figs ?"
  said = "9 - 2 = 7 nuts . 7 - 3 = 4 more . answer 4"
  assert text.own(more).gold == said


def test_gold_is_right_whatever_the_choice():
  for task in tasks():
    for problem in problems(task):
      rng = np.random.default_rng(0)
      for solution in (problem.gold, *(task.variant(problem, rng),) * 3):
        assert task.check(problem, solution)
        assert task.first_error(problem, solution) is None
        assert task.feedback(problem, solution) == task.no_hint


def test_programs_are_python(program):
  for problem in problems(program)[:50]:
    body = problem.gold.replace(" ; ", "\n  ")
    scope = {}
    exec(f"def solution():\n  {body}", scope)  # our own text, no model's
    assert str(scope["solution"]()) == problem.answer


def test_every_kind_is_planted_where_the_judge_finds_it():
  planted = collections.Counter()
  for task in tasks():
    for i, problem in enumerate(problems(task)):
      for kind in task.kinds:
        found = task.plant(problem, np.random.default_rng(i), kind)
        if found is None:
          continue
        completion, step = found
        planted[task.form, kind] += 1
        assert task.first_error(problem, completion) == step
        feedback = task.feedback(problem, completion)
        assert task.error_types(feedback) == (kind,)
        assert f"step {step + 1} :" in feedback
        assert task.check(problem, completion) == (kind == "unit")
        assert all(task.judge(problem, completion).right[:step])
  assert set(planted) == {
    (form, kind)
    for form in arithmetic_solution.FORMS
    for kind in base.load("arithmetic", form=form).kinds
  }
  assert min(planted.values()) > 50


def test_errors_are_planted_at_a_given_step(text):
  problem, rng = text.own(STORY), np.random.default_rng(0)
  for step in (0, 1):
    _, found = text.plant(problem, rng, "slip", at=step)
    assert found == step
  assert text.plant(problem, rng, "slip", at=2) is None
  with pytest.raises(ValueError, match="no kind 'slip' in form 'program'"):
    arithmetic.Arithmetic().plant(problem, rng, "slip")


@pytest.mark.parametrize(
  "completion, first, kind, right, fix",
  [
    ("9 - 3 = 7 apples . 7 * 3 = 21 apples . answer 21", 0, "slip", "000",
     "9 - 3 = 6 apples"),
    ("9 - 3 = 6 pears . 6 * 3 = 18 apples . answer 18", 0, "unit", "000",
     "9 - 3 = 6 apples"),
    ("5 - 3 = 2 apples . answer 2", 0, "object", "00", "9 - 3 = 6 apples"),
    ("9 - 3 = 6 apples . answer 6", 1, "missing", "10", "6 * 3 = 18 apples"),
    ("9 - 3 = 6 apples . 6 + 3 = 9 apples . answer 9", 1, "operator", "100",
     "6 * 3 = 18 apples"),
    ("9 - 3 = 6 apples . 6 * 3 = 18 apples", 2, "missing", "11", "answer 18"),
    ("9 - 3 = 6 apples . 6 * 3 = 18 apples . answer 17", 2, "answer", "110",
     "answer 18"),
    ("9 - 3 = 6 apples . 6 * 3 = 18 apples . answer 18 . answer 18", 3,
     "extra", "1110", None),
    ("9 - 3 = 6 apples . so 6 . answer 18", 1, "unreadable", "100",
     "6 * 3 = 18 apples"),
    ("", 0, "missing", "", "9 - 3 = 6 apples"),
    ("9 - 3 = 6 apples . 3 * 6 = 18 apples . answer 18", None, None, "111",
     None),
  ],
)  # fmt: skip
def test_verdicts(text, completion, first, kind, right, fix):
  problem = text.own(STORY)
  found = text.judge(problem, completion)
  assert (found.first, found.kind) == (first, kind)
  assert "".join(str(int(r)) for r in found.right) == right
  assert text.fix(problem, completion) == fix


def test_true_steps_that_nobody_asked_for_are_right(text):
  story = STORY.replace("sells 3 apples", "sells 3 pears")
  problem = text.own(story)
  said = "5 - 3 = 2 pears . 9 * 3 = 27 apples . answer 27"
  assert text.first_error(problem, said) is None


def test_rewards(program):
  problem = program.own(STORY)
  said = [problem.gold, "a = 9 - 3 ; return a", "a = 9 - b ; return a", ""]
  assert program.rewards([problem] * 4, said) == [1.0, 0.1, 0.0, 0.0]
  assert arithmetic.Arithmetic(partial=0.0).reward(problem, said[1]) == 0.0
  assert program.answers(said) == ["18", "6", None, None]


@pytest.mark.parametrize(
  "completion",
  [
    "a = 9 // 0 ; return a",
    "return z",
    "a = " + "9" * 40 + " * 9 ; return a",
    " ; ".join(["a = 999999999999 * 999999999999", "return a"]),
    "return __import__('os')",
    "a = 1 + 1",
    ";;;",
  ],
)
def test_programs_without_an_answer(program, completion):
  assert program.answer(completion) is None


def test_splits_share_no_question_whatever_the_seeds():
  seen = collections.defaultdict(set)
  for seed in range(3):
    task = arithmetic.Arithmetic(
      difficulty=1, seed=seed, size=300, validation_size=60, test_size=60
    )
    for split in ("train", "validation", "test"):
      for row in task.source(split).rows:
        seen[split].add(row["question"])
        assert arithmetic_generator.split_of(row["question"]) == split
  assert not seen["train"] & seen["validation"]
  assert not seen["train"] & seen["test"]
  assert not seen["validation"] & seen["test"]


def test_rows_are_a_function_of_seed_and_index():
  rows = arithmetic.Arithmetic(seed=3).source("train").rows
  again = arithmetic.Arithmetic(seed=3, size=10).source("train").rows
  other = arithmetic.Arithmetic(seed=4).source("train").rows
  assert rows[7] == again[7] != other[7]
  assert len({row["question"] for row in rows}) == len(rows)
  assert rows[-1] == rows[len(rows) - 1]
  with pytest.raises(IndexError):
    rows[len(rows)]


def test_level_three_is_the_size_of_small_models():
  task = arithmetic.Arithmetic()
  made = problems(task)[:300]
  assert max(len(p.question.split()) for p in made) == 22
  assert max(len(p.gold.split()) for p in made) == 20
  assert len(task.vocabulary()) < 70
  counts = []
  for problem in made[:40]:
    rng = np.random.default_rng(0)
    counts.append(len({task.variant(problem, rng) for _ in range(60)}))
  assert 5 < np.mean(counts) < 10  # ways of being right


def test_canonical_gold_is_the_one_in_the_story_s_order():
  task = arithmetic.Arithmetic(gold="canonical")
  drawn = arithmetic.Arithmetic(gold="random")
  differs = 0
  for row in task.source("train").rows[:60]:
    problem = task.problem(row)
    assert problem.gold == task.own(problem.question).gold
    differs += problem.gold != drawn.problem(row).gold
  assert differs > 20


def test_the_vocabulary_covers_everything():
  fixing = arithmetic.Arithmetic(detail="fix", size=50)
  for task in (*tasks(), fixing):
    words = set(task.vocabulary())
    said = " ".join(task.corpus()).split()
    assert sorted(set(said) - words) == []


@pytest.mark.parametrize(
  "text, reason",
  [
    ("5 pears . eats 9 pears . how many pears ?", "less than one"),
    ("5 pears . juggles 2 pears . how many pears ?", "is no event"),
    ("5 pears . how many figs ?", "no 'figs'"),
    ("5 pears and 3 pears . how many pears ?", "named twice"),
    ("5 pears . halves pears . how many pears ?", "less than one"),
    ("what is love ?", "expected how many there are"),
  ],
)
def test_what_is_no_story(program, text, reason):
  with pytest.raises(ValueError, match=reason):
    program.own(text)
  with pytest.raises(records.BadRow, match=reason):
    program.problem({"id": "x", "question": text, "choice": 0})


def test_mending_keeps_what_is_right_and_goes_on_as_is_due():
  for task in tasks():
    for problem in problems(task)[:12]:
      rng = np.random.default_rng(1)
      for kind in task.kinds:
        found = task.plant(problem, rng, kind)
        if found is None:
          continue
        text, at = found
        mended = task.mend(problem, text)
        assert task.first_error(problem, mended) is None
        assert task.check(problem, mended)
        if task.form == "text":
          steps = task.steps(mended)
          assert steps[:at] == task.steps(text)[:at]
          assert steps[at] == task.fix(problem, text)
      assert task.check(problem, task.mend(problem, problem.gold))


def test_mending_by_hand(text, program):
  problem = text.own(STORY)
  wrong = "9 - 3 = 6 apples . 6 + 3 = 9 apples . answer 9"
  right = "9 - 3 = 6 apples . 6 * 3 = 18 apples . answer 18"
  assert text.mend(problem, wrong) == text.mend(problem, right) == right
  assert text.mend(problem, "") == right
  problem = program.own(STORY)
  assert program.mend(problem, "x = 9 - 3 ; return x") == problem.gold
  wrong = "a = 9 - 3 ; b = a * 2 ; return b"
  assert program.mend(problem, wrong) == "a = 9 - 3 ; b = a * 3 ; return b"


def test_options_are_checked():
  with pytest.raises(ValueError, match="difficulty=9 is none of 0, 1, 2"):
    base.load("arithmetic", difficulty=9)
  with pytest.raises(ValueError, match="has no split 'tset'"):
    base.load("arithmetic").source("tset")
