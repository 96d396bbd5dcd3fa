r"""MATH rows from a folder, a jsonl and `datasets`; checks and votes."""

import json

import pytest

from refine_jax import records
from refine_jax.tasks import base

HALF = {
  "problem": "What is half of one?",
  "level": "Level 2",
  "type": "Prealgebra",
  "solution": r"One over two is $\boxed{\frac{1}{2}}$.",
}


def rows(count: int) -> list[dict]:
  return [
    HALF | {"problem": f"What is {i} of it?", "level": f"Level {1 + i % 5}"}
    for i in range(count)
  ]


@pytest.fixture(params=["jsonl", "folder", "parquet"])
def path(request, tmp_path):
  folder = tmp_path / "competition_math"
  folder.mkdir()
  for split, count in (("train", 40), ("test", 5)):
    made = rows(count)
    if request.param == "jsonl":
      text = "\n".join(json.dumps(row) for row in made)
      (folder / f"{split}.jsonl").write_text(text)
    elif request.param == "parquet":
      import pyarrow
      import pyarrow.parquet

      table = pyarrow.Table.from_pylist(made)
      pyarrow.parquet.write_table(table, folder / f"{split}.parquet")
    else:
      for i, row in enumerate(made):
        place = folder / split / "prealgebra" / f"{i}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(row))
  return str(tmp_path)


def problems(task, split):
  return [task.problem(row) for row in task.source(split).rows]


def test_rows_of_every_layout(path):
  task = base.load("competition_math", path=path)
  train, held = problems(task, "train"), problems(task, "validation")
  assert len(train) + len(held) == 40 and 0 < len(held) < 15
  assert len(problems(task, "test")) == 5
  assert len({p.id for p in train + held}) == 40
  texts = {p.question for p in train}
  assert not texts & {p.question for p in held}
  easy = base.load("competition_math", path=path, levels=(1, 2))
  assert {p.meta["level"] for p in problems(easy, "train")} == {1, 2}
  assert not problems(
    base.load("competition_math", path=path, subjects=("Algebra",)), "test"
  )


def test_answers_rewards_and_votes(path):
  task = base.load("competition_math", path=path)
  problem = problems(task, "test")[0]
  said = [
    task.target(problem),
    "so 0.5. The answer is $0.5$.",
    r"The answer is $\boxed{\frac{2}{4}}$.",
    "The answer is 2.",
    "I do not know",
  ]
  right = [True, True, True, False, False]
  assert task.check_all([problem] * 5, said) == right
  assert task.rewards([problem] * 5, said) == [1.0, 1.0, 1.0, 0.0, 0.0]
  assert task.canonicals(said) == ["1/2", "1/2", "1/2", "2", None]
  assert task.metrics(problem, said[-1]) == {"answer": 0.0, "answered": 0.0}
  published = base.load("competition_math", path=path, mode="compat")
  problem = problems(published, "test")[0]
  assert published.check_all([problem] * 2, said[:2]) == [True, False]


def test_a_row_without_a_box_is_bad(path):
  task = base.load("competition_math", path=path)
  with pytest.raises(records.BadRow, match="no boxed answer"):
    task.problem(HALF | {"id": "1", "solution": "One half."})


@pytest.mark.parametrize("box", [r"\fbox{5}", r"\boxed 5"])
def test_a_gold_the_published_code_cannot_read_is_never_right(box):
  row = HALF | {"id": "1", "solution": f"It is ${box}$."}
  said = [r"The answer is $\boxed{5}$.", "The answer is 5.", "The answer is"]
  for mode, right in (("compat", False), ("strict", True)):
    task = base.load("competition_math", mode=mode)
    problem = task.problem(row)
    texts = [*said[:2], task.target(problem)]
    assert task.check_all([problem] * 3, texts) == [right] * 3
    assert not task.check(problem, said[2])


def test_a_problem_of_one_s_own_is_never_right():
  for mode in ("compat", "strict"):
    task = base.load("competition_math", mode=mode)
    assert not task.check(task.own("What is 1 + 1?"), "The answer is")


def test_prompts():
  for prompt, shown in (
    ("framed", f"Problem:\n{HALF['problem']}\nSolution:\n"),
    ("bare", HALF["problem"]),
  ):
    task = base.load("competition_math", prompt=prompt)
    problem = task.problem(HALF | {"id": "1"})
    assert task.prompt(problem) == shown
    assert task.target(problem).endswith(
      "\nThe answer is $\\boxed{\\frac{1}{2}}$."
    )
  assert base.load("competition_math").prompt(problem).startswith("Problem:")
  with pytest.raises(ValueError, match="prompt='none' is none of framed, bare"):
    base.load("competition_math", prompt="none")


def test_marks_count_where_they_are_asked_for():
  said = [
    r"The answer is $\boxed{x = 10}$.",
    r"The answer is $\boxed{10\%}$.",
    r"The answer is $\boxed{10.0}$.",
  ]
  row = HALF | {"id": "1", "solution": r"It is $\boxed{10}$."}
  for options, right, keys in (
    ({}, [True] * 3, ["10"] * 3),
    ({"ignore_marks": True}, [True] * 3, ["10"] * 3),
    ({"ignore_marks": False}, [False, False, True], ["x=10", "10%", "10"]),
  ):
    task = base.load("competition_math", **options)
    problem = task.problem(row)
    assert task.check_all([problem] * 3, said) == right
    assert task.canonicals(said) == keys


def test_what_is_missing_is_named(tmp_path):
  task = base.load("competition_math", path=str(tmp_path))
  with pytest.raises(FileNotFoundError, match=r"train\.jsonl.*train/\*\.json"):
    len(task.source("train").rows)
  with pytest.raises(ValueError, match="no split 'tests', did you mean 'test'"):
    task.source("tests")
  with pytest.raises(ValueError, match="mode='loose' is none of strict"):
    base.load("competition_math", mode="loose")


def test_rows_of_a_datasets_name(tmp_path, monkeypatch):
  import datasets

  asked = []

  def load_dataset(name, config, split):
    asked.append((name, config, split))
    return datasets.Dataset.from_list(rows(4))

  monkeypatch.setattr(datasets, "load_dataset", load_dataset)
  task = base.load("competition_math", dataset="some/MATH", config="all")
  assert len(problems(task, "test")) == 4
  assert asked == [("some/MATH", "all", "test")]
