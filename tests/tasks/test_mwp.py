"""Word problems: rows, splits, oracle, perturbations, metrics."""

import collections
import csv
import json

import numpy as np
import pytest

from refine_jax import records
from refine_jax.tasks import (
  base,
  mwp,
  mwp_formula,
  mwp_legacy,
  mwp_rows,
  tables,
)

ROW = {
  "Body": "Bryan has number0 books in each of his number1 bookshelves ,",
  "Ques": "how many books does he have in total ?",
  "Numbers": "56.0 9.0",
  "Equation": "* number0 number1",
  "Answer": "504.0",
  "id": "r0",
  "line": 2,
}
GOLD = "#0: subtract ( number0, number1 ) | #1: divide ( #0, number2 ) | EOS"


def _problem(gold, numbers=(20.0, 6.0, 7.0)):
  formula = mwp_formula.parse(gold)
  return records.Problem(
    "p",
    "a question",
    gold,
    mwp_formula.canonical(formula),
    {
      "numbers": list(numbers),
      "answer": mwp_formula.execute(formula, numbers),
    },
  )


@pytest.fixture(scope="module")
def task():
  return base.load("mwp")


@pytest.fixture(scope="module")
def published(request):
  data_dir = request.getfixturevalue("data_dir")
  task = base.load("mwp", path=str(data_dir))
  found = {}
  for split in ("train", "dev", "test"):
    found[split] = [], []
    for row in task.source(split).rows:
      try:
        found[split][0].append(task.problem(row))
      except records.BadRow as error:
        found[split][1].append(error)
  return found


def test_a_row_becomes_a_problem(task):
  problem = task.problem(ROW)
  assert problem.question == (
    "Bryan has number0 books in each of his number1 bookshelves , "
    "how many books does he have in total ?"
  )
  assert task.target(problem) == "#0: multiply ( number0, number1 ) | EOS"
  assert task.check(problem, task.target(problem))
  assert task.value(problem, task.target(problem)) == 504.0


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("Answer", "5.0"),
    ("Answer", "many"),
    ("Numbers", "56.0"),
    ("Equation", "* number0"),
    ("Body", None),
  ],
)
def test_a_bad_row_says_what_is_wrong_with_it(task, field, value):
  with pytest.raises(records.BadRow) as error:
    task.problem({**ROW, field: value})
  assert error.value.line == 2
  assert error.value.field


def test_metrics_tell_text_order_meaning_and_answer_apart(task):
  problem = _problem(
    "#0: add ( number0, number1 ) | #1: add ( number2, #0 ) | EOS"
  )
  names = ("exact", "canonical", "semantic", "answer")
  cases = {
    problem.gold: (1, 1, 1, 1),
    # The published metric scored two commuted steps as wrong.
    "#0: add ( number1, number0 ) | #1: add ( #0, number2 ) | EOS": (
      0,
      1,
      1,
      1,
    ),
    "#0: add ( number1, number2 ) | #1: add ( number0, #0 ) | EOS": (
      0,
      0,
      1,
      1,
    ),
    "33.0 | EOS": (0, 0, 0, 1),
    "#0: add ( number0, number1 ) | EOS": (0, 0, 0, 0),
    "gibberish": (0, 0, 0, 0),
  }
  for text, expected in cases.items():
    assert task.metrics(problem, text) == dict(
      zip(names, expected, strict=True)
    )


def test_equal_formulas_vote_together(task):
  one = task.canonical("#0: add ( number1, number0 ) | EOS")
  assert one == task.canonical("#0: add ( number0, number1 ) | EOS")
  assert task.canonical("no formula") is None


@pytest.mark.parametrize(
  ("gold", "ours", "expected"),
  [
    (GOLD, GOLD, "no hint"),
    # The paper's figure 1.
    (
      GOLD,
      "#0: divide ( number0, number2 ) | #1: multiply ( #0, number1 ) | EOS",
      "the operator in #0 is incorrect. the second number in #0 is incorrect. "
      "the operator in #1 is incorrect. the second number in #1 is incorrect.",
    ),
    (
      GOLD,
      "#0: subtract ( number0, number1 ) | EOS",
      "add an operator. the operator in #1 is incorrect. the first number in "
      "#1 is incorrect. the second number in #1 is incorrect.",
    ),
    (
      "#0: subtract ( number0, number1 ) | EOS",
      GOLD,
      "remove an operator.",
    ),
    # What the published oracle never reports.
    (
      "#0: multiply ( number0, 0.01 ) | EOS",
      "#0: multiply ( number0, 100.0 ) | EOS",
      "the second number in #0 is incorrect.",
    ),
    (
      "#0: subtract ( number5, number4 ) | EOS",
      "#0: subtract ( number4, number5 ) | EOS",
      "the first number in #0 is incorrect. "
      "the second number in #0 is incorrect.",
    ),
    (
      "#0: add ( number0, number1 ) | #1: add ( #0, number2 ) | "
      "#2: multiply ( #0, #1 ) | EOS",
      "#0: add ( number0, number1 ) | #1: add ( #0, number2 ) | "
      "#2: multiply ( #1, #1 ) | EOS",
      "the first number in #2 is incorrect.",
    ),
    # What it reports wrongly.
    (
      "#0: add ( number0, number1 ) | EOS",
      "#0: add (  number1, number0 ) | EOS",
      "no hint",
    ),
    ("number0 | EOS", "number1 | EOS", "the first number in #0 is incorrect."),
    (GOLD, "#0: subtract", "the formula cannot be read."),
    (GOLD, "", "the formula cannot be read."),
  ],
)
def test_the_oracle(task, gold, ours, expected):
  assert task.feedback(_problem(gold), ours) == expected


def test_feedback_names_its_error_types(task):
  text = "remove an operator. the second number in #1 is incorrect."
  assert task.error_types(text) == ("extra", "numbers")
  assert task.error_types("the operator in #0 is incorrect.") == ("operators",)
  assert task.error_types(task.no_hint) == ()
  assert task.error_types("the operator in the sky") == ()


def _slot(formula, name):
  step, _, part = name.partition(" ")
  index = {"operator": 0, "first": 1, "second": 2}[part]
  return formula.steps[int(step[1:])][index]


def _check_critiques(task, problem, rows):
  gold = mwp_formula.parse(problem.gold)
  for row in rows:
    ours = mwp_formula.parse(row.hypothesis)
    right = row.feedback == task.no_hint
    assert right == (not row.errors) == mwp_formula.same_meaning(ours, gold)
    assert row.feedback
    if row.errors in (("numbers",), ("operators",), ("swapped",)):
      changed = {
        f"#{k} {part}"
        for k, _ in enumerate(gold.steps)
        for part in ("operator", "first", "second")
        if _slot(ours, f"#{k} {part}") != _slot(gold, f"#{k} {part}")
      }
      assert not gold.steps or set(row.positions) == changed
      assert len(row.positions) == row.feedback.count(".")


def test_perturbations_are_wrong_where_they_say(task):
  problem = _problem(GOLD)
  kinds = collections.Counter()
  for seed in range(50):
    rows = task.perturb(problem, np.random.default_rng(seed))
    _check_critiques(task, problem, rows)
    kinds.update(row.errors for row in rows)
  assert set(kinds) == {
    *[(), ("numbers",), ("operators",), ("swapped",)],
    *[("missing",), ("extra",)],
  }
  again = task.perturb(problem, np.random.default_rng(49))
  assert again == rows
  assert len({row.id for row in rows}) == len(rows)


def test_commuted_golds_are_accepted(task):
  problem = _problem("#0: add ( number0, number1 ) | EOS")
  rows = [task.perturb(problem, np.random.default_rng(i))[0] for i in range(40)]
  said = collections.Counter((r.hypothesis, r.feedback) for r in rows)
  assert len(said) == 2
  assert {feedback for _, feedback in said} == {task.no_hint}


def test_a_problem_of_one_s_own(task):
  problem = task.own("Ann had 1,200 sweets. She ate 1/2 of them.")
  assert problem.question == (
    "Ann had number0 sweets . She ate number1 of them ."
  )
  formula = "#0: multiply ( number0, number1 ) | EOS"
  assert task.value(problem, formula) == 600.0


def test_published_rows_execute_to_their_answers(published):
  assert len(published["test"][0]) == 1000
  assert not published["test"][1]
  assert sum(len(published[s][0]) for s in ("train", "dev")) == 3128
  bad = [e for s in ("train", "dev") for e in published[s][1]]
  assert len(bad) == 10
  assert all(
    error.line and "not the row's answer" in str(error) for error in bad
  )


def test_splits_share_no_text(published):
  texts = {
    split: {mwp_rows.normalised(p.question) for p in problems}
    for split, (problems, _) in published.items()
  }
  for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
    assert not texts[one] & texts[other]
  share = len(published["dev"][0]) / 3128
  assert 0.07 < share < 0.13


def test_the_seed_decides_what_dev_is(data_dir):
  path = data_dir / "refiner/mawps_svamp/train.csv"
  rows = tables.read(path)[:300]

  def dev(seed):
    task = base.load("mwp", path=str(data_dir), seed=seed)
    keep = task.source("dev").rows._keep
    return [row["line"] for row in rows if keep(row)]

  assert dev(0) == dev(0) != dev(1)


def test_train_touches_svamp_no_more_than_its_own_file(data_dir, tmp_path):
  folder = tmp_path / "refiner" / "mawps_svamp"
  folder.mkdir(parents=True)
  text = (data_dir / "refiner/mawps_svamp/train.csv").read_text()
  (folder / "train.csv").write_text(text)
  task = base.load("mwp", path=str(tmp_path))
  assert len(task.source("train").rows) > 2000
  with pytest.raises(FileNotFoundError):
    len(task.source("test").rows)


def test_the_oracle_accepts_every_published_gold_and_no_perturbation(
  published, task
):
  problems = [p for found, _ in published.values() for p in found]
  kinds = collections.Counter()
  for i, problem in enumerate(problems):
    assert task.feedback(problem, problem.gold) == task.no_hint
    if i % 20:
      continue
    rows = task.perturb(problem, np.random.default_rng(i))
    _check_critiques(task, problem, rows)
    kinds.update(row.errors for row in rows)
  assert len(kinds) == 6
  assert min(kinds.values()) > 50


def test_the_constant_floor_on_svamp(published, task):
  """11.7 % for `number0 - number1` everywhere, 12.6 % by answer."""
  scores = [
    task.metrics(p, "#0: subtract ( number0, number1 ) | EOS")
    for p in published["test"][0]
  ]
  assert 100 * np.mean([s["exact"] for s in scores]) == pytest.approx(11.7)
  assert 100 * np.mean([s["answer"] for s in scores]) == pytest.approx(12.6)


@pytest.mark.parametrize(
  ("split", "usable", "bad"), [("train", 3089, 10), ("val", 831, 169)]
)
def test_the_older_files_are_read_and_their_bad_rows_reported(
  data_dir, task, split, usable, bad
):
  rows = base.load("mwp", path=str(data_dir)).source(f"legacy_{split}").rows
  critiques, errors = mwp_legacy.critiques(rows, task.no_hint)
  assert (len(critiques), len(errors)) == (usable, bad)
  assert all(error.field and error.line for error in errors)
  assert not any("substract" in c.hypothesis + c.gold for c in critiques)
  right = [c for c in critiques if c.feedback == task.no_hint]
  assert all(not c.errors for c in right)


def test_older_spellings_are_understood(task):
  row = {
    "Body": "b",
    "Question": "q ?",
    "Numbers": "18 10",
    "Answer": "8.0",
    "Linear_Formula": "#0: substract ( number0, number1 ) |  <END>",
    "incorrect_formula": "#0: multiply ( number0, number1 ) |  EOS",
    "error_types": 1,
    "ID": "1",
  }
  critique = mwp_legacy.critique(row, task.no_hint)
  assert critique.gold == "#0: subtract ( number0, number1 ) | EOS"
  assert critique.feedback == "the operator in #0 is incorrect."
  assert critique.errors == ("one operator",)
  with pytest.raises(records.BadRow, match="not a formula"):
    mwp_legacy.problem(
      {**row, "Linear_Formula": "#0: substract ( +, number1 )"}
    )


def test_train_has_the_published_columns(data_dir):
  path = data_dir / "refiner/mawps_svamp/train.csv"
  with open(path, newline="") as f:
    first = next(csv.DictReader(f))
  problem = mwp.Mwp(str(data_dir)).problem({**first, "id": "x"})
  assert "  " not in problem.question
  assert json.loads(records.to_json(problem))["gold"] == (
    "#0: multiply ( number0, number1 ) | EOS"
  )


def test_markers_cover_what_formulas_are_written_with(published, task):
  written = {
    word.rstrip(",:")
    for p in published["train"][0]
    for word in p.gold.split()
    if not word[0].isdigit()
  }
  words = {"(", ")", *mwp_formula.SYMBOLS}
  assert written - words <= set(task.markers)
