"""Which completions offline self-training keeps, by hand."""

import pytest

from refine_jax.methods import self_training
from refine_jax.methods.refine import Template
from refine_jax.records import Attempts, Candidate, Problem, Sample, Source
from refine_jax.tasks import base


class Sums(base.Task):
  """`2 + 3` is answered by whatever ends in `5`."""

  def source(self, split):
    return Source(rows=())

  def problem(self, row):
    return Problem(row["id"], row["question"], row["gold"], row["answer"])

  def answer(self, completion):
    last = completion.split()[-1:]
    return last[0] if last and last[0].isdigit() else None

  def reward(self, problem, completion):
    return 1.0 if self.check(problem, completion) else 0.1


TASK, TEMPLATE = Sums(), Template(generator_end=" =")
PROBLEMS = [
  Problem("p0", "2 + 3", "so 5", "5"),
  Problem("p1", "1 + 1", "so 2", "2"),
  Problem("p2", "4 + 4", "so 8", "8"),
]


def attempts(problem, *texts, suffix=""):
  samples = [
    Sample(f"{problem.id}/{i}", text, (7, 8), (-1.0, -2.0), (-0.5, -1.0), "eos")
    for i, text in enumerate(texts)
  ]
  return self_training.checked(TASK, [problem], [samples], suffix)[0]


TEXTS = ("a 5", "b 4", " a 5\n", "so 5", "c 5", "", "d 5")


def made(rule="first", cap=2, gold=1, seed=0, rows=None):
  if rows is None:
    rows = [attempts(PROBLEMS[0], *TEXTS), attempts(PROBLEMS[1], "x 3")]
  found = self_training.examples(
    TASK, PROBLEMS, rows, TEMPLATE, cap=cap, choose=rule, gold=gold, seed=seed
  )
  return [(e.id, *e.target) for e in found]


def test_samples_are_judged():
  row = attempts(PROBLEMS[0], "a 5", "b 4", "none", suffix="@7")
  assert (row.id, row.problem) == ("p0@7", "p0")
  assert row.question == "2 + 3" and row.gold == "so 5"
  assert row.candidates[1] == Candidate(
    "b 4", "4", "4", False, 0.1, "eos", 2, -1.5
  )
  assert [c.correct for c in row.candidates] == [True, False, False]
  assert row.candidates[2].answer is None and row.candidates[2].vote is None


def test_first_distinct_ones_then_the_gold():
  """The rule of the original's code, its gold counted once."""
  assert made() == [
    ("p0/s0", "a 5"),
    ("p0/s1", "so 5"),
    ("p1/gold0", "so 2"),
    ("p2/gold0", "so 8"),
  ]


def test_a_gold_beyond_the_cap_is_appended():
  assert made(cap=1)[:2] == [("p0/s0", "a 5"), ("p0/gold0", "so 5")]


def test_the_original_s_files_hold_the_gold_twice():
  found = [text for _, text in made(gold=2)]
  assert [found.count(p.gold) for p in PROBLEMS] == [2, 2, 2]
  assert made(gold=0) == [("p0/s0", "a 5"), ("p0/s1", "so 5")]


def test_a_random_subsample_is_seeded_and_covers_everything():
  """The rule of the paper's text."""
  assert made("random", seed=3) == made("random", seed=3)
  kept = set()
  for seed in range(40):
    texts = [t for i, t in made("random", seed=seed) if i.startswith("p0/s")]
    assert len(set(texts)) == 2
    kept |= set(texts)
  assert kept == {"a 5", "so 5", "c 5", "d 5"}
  assert made("random", cap=9) == made("first", cap=9)


def test_several_records_of_one_problem_are_one_pool():
  rows = [
    attempts(PROBLEMS[0], "a 5", suffix="@1"),
    attempts(PROBLEMS[0], "a 5", "b 5", suffix="@2"),
  ]
  assert made(rows=rows, cap=9)[:3] == [
    ("p0/s0", "a 5"),
    ("p0/s1", "b 5"),
    ("p0/gold0", "so 5"),
  ]


def test_prompts_are_those_of_sampling():
  found = self_training.examples(
    TASK, PROBLEMS, [], TEMPLATE, cap=1, choose="first", gold=1, seed=0
  )
  asked = self_training.requests(TASK, TEMPLATE, PROBLEMS, 3)
  assert [e.prompt for e in found] == [r.prompt for r in asked]
  assert found[0].prompt == ("2 + 3", " =")
  assert [r.n for r in asked] == [3, 3, 3]


def test_a_forced_prefix_is_prompt_when_sampling_and_target_after():
  class Forced(Sums):
    def prefix(self, problem):
      return f"[{problem.question}] "

  task = Forced()
  (request,) = self_training.requests(task, TEMPLATE, PROBLEMS[:1], 2)
  assert request.prompt == ("2 + 3", " =", "[2 + 3] ")
  sample = Sample("p0/0", "a 5", (7,), (-1.0,), (-1.0,), "eos")
  (row,) = self_training.checked(task, PROBLEMS[:1], [[sample]])
  assert row.candidates[0].text == "[2 + 3] a 5"
  (kept,) = self_training.examples(
    task, PROBLEMS[:1], [row], TEMPLATE, cap=1, choose="first", gold=0, seed=0
  )
  assert kept.prompt == ("2 + 3", " =")
  assert kept.target == ("[2 + 3] a 5",)


def test_a_row_without_a_gold_is_checked_all_the_same():
  """As published test sets are: an answer, and nothing to learn from."""
  task = base.load("svamp", form="program")
  row = {
    **{"id": "0", "item_id": "svamp_1", "line": 1},
    **{"question": "1 + 1 ?", "answer_value": "2.0", "answer_cot": ""},
  }
  problem = task.problem(row)
  assert not problem.gold
  sample = Sample(
    "svamp_1/0", "    return 1 + 1", (7,), (-1.0,), (-1.0,), "eos"
  )
  (made,) = self_training.checked(task, [problem], [[sample]])
  assert made.gold == "" and made.candidates[0].correct


def test_an_indent_is_kept():
  rows = [attempts(PROBLEMS[0], "  x 5\n", "x 5", "  y 5")]
  assert made(rows=rows, cap=9, gold=0) == [
    ("p0/s0", "  x 5"),
    ("p0/s1", "  y 5"),
  ]


def test_counts():
  rows = [attempts(PROBLEMS[0], *TEXTS), attempts(PROBLEMS[1], "x 3")]
  found = self_training.examples(
    TASK, PROBLEMS, rows, TEMPLATE, cap=2, choose="first", gold=1, seed=0
  )
  assert self_training.counts(PROBLEMS, rows, found) == {
    "problems": 3,
    "solved": 1,
    "samples": 8,
    "correct": 5,
    "examples": 4,
    "gold": 2,
  }


def test_bad_rules_and_strangers_are_refused():
  with pytest.raises(ValueError, match="not 'best'"):
    made("best")
  with pytest.raises(ValueError, match="cap=-1"):
    made(cap=-1)
  stranger = Attempts("q", "q", "", "", ())
  with pytest.raises(ValueError, match="problem 'q'"):
    made(rows=[stranger])
