"""Multiple choice: odd strings for every extractor, rows of every layout."""

import json

import pytest

from refine_jax import records
from refine_jax.tasks import base, choices

# What models write, and what a reader would take it to mean (five options).
ODD = [
  ("The answer is: C", "C"),
  ("The answer is C.", "C"),
  ("the answer is c", "C"),
  ("The correct answer is (B).", "B"),
  ("So the answer is **D**.", "D"),
  ("Answer: E", "E"),
  ("answer:B", "B"),
  ("The answer is option A.", "A"),
  ("The answer is A - a dog", "A"),
  ("The answer is B) a bank", "B"),
  ("The answer is D because it rains", "D"),
  (r"The answer is $\boxed{C}$.", "C"),
  ("The answer is A. No, wait, the answer is B.", "B"),
  ("The answer is indeed: C", "C"),
  ('The answer is "E".', "E"),
  ("C", "C"),
  ("(C)", "C"),
  ("C) a bank", "C"),
  ("C.", "C"),
  ("The answer is\n\nC", "C"),
  ("The answer should be D.", "D"),
  ("The answer is a dog", None),
  ("The answer is A dog", None),
  ("The answer is I think C", None),
  ("The answer is F", None),
  ("The answer is A or B", None),
  ("The answer is B and C.", None),
  ("The answer is 3", None),
  ("The answer is", None),
  ("The answer is none of these", None),
  ("A bank keeps money. B is wrong.", None),
  ("Cats are animals", None),
  ("look at choice C", None),
  ("", None),
  ("A" * 10_000, None),
]


@pytest.mark.parametrize("text, letter", ODD)
def test_letters_of_five(text, letter):
  assert choices.letter(text, 5) == letter


@pytest.mark.parametrize(
  "text, letter",
  [
    ("The answer is (J).", "J"),
    ("The answer is I.", "I"),
    ("The answer is: I", "I"),
    ("The answer is H because", "H"),
    ("The answer is K", None),
    ("The answer is I am not sure", None),
  ],
)
def test_letters_of_ten(text, letter):
  assert choices.letter(text, 10) == letter


@pytest.mark.parametrize(
  "text, letter",
  [
    ("The answer is: True", "A"),
    ("The answer is false.", "B"),
    ("the answer is **Unknown**", "C"),
    ("The answer is uncertain", "C"),
    ("True", "A"),
    ("The answer is A) True", "A"),
    ("The answer is (C)", "C"),
    ("The answer is B - False", "B"),
    ("The answer is D", None),
    ("The answer is truely odd", None),
    ("It is true that cats are red", None),
    ("The answer is not known", None),
    ("Answer: unknown, as nothing says so", "C"),
    ("The answer is true. Wait, the answer is false.", "B"),
    ("So: unknown", None),
    ("", None),
  ],
)
def test_words_of_proofwriter(text, letter):
  assert base.load("proofwriter")._letter(text, 3) == letter


@pytest.mark.parametrize(
  "text, token",
  [
    ("The answer is: C", "C"),
    ("The answer is C.", "C."),
    ("The answer is A. So the answer is B", "A."),
    ("Question the answer is: A", "A"),
    ("The Answer is C", None),
    ("The correct answer is (B)", "(B)"),
    ("C", None),
    ("The answer is", None),
  ],
)
def test_published_extraction(text, token):
  assert choices.published(text) == token


def test_published_regex_rolls_no_dice():
  assert choices.published("so the answer is (C).", regex=True) == "C"
  assert choices.published("The answer is K", regex=True) is None


LABELLED = {
  "question": "Where is money kept?",
  "choices": {"label": list("ABCDE"), "text": ["a", "b", "c", "d", "bank"]},
  "answerKey": "E",
}
ROWS = {
  "arc_challenge": {
    "question": "What is hot?",
    "choices": {"label": list("1234"), "text": ["ice", "snow", "sun", "sea"]},
    "answerKey": "3",
  },
  "ecqa": {
    "q_text": "Where is money kept?",
    **{f"q_op{i}": f"place{i}" for i in range(1, 6)},
    "q_ans": "place2",
    "taskA_pos": "Banks keep money.\nThey are safe.",
    "taskA_neg": "A sea has water.\nA dog barks.",
  },
  "hellaswag": {
    "ctx": "A man sits down. He",
    "endings": ["flies", "reads", "melts", "rains"],
    "label": "1",
  },
  "proofwriter": {
    "theory": "Cats are red.",
    "question": "Cats are red.",
    "answer": True,
  },
  "mmlu_pro": {
    "question": "What is 2 + 2?",
    "options": ["1", "2", "3", "4", "5", "6", "7", "8", "9", "N/A"],
    "answer": "D",
    "category": "math",
    "cot_content": "A: Let's think step by step. Two and two. It is four."
    " The answer is (D).",
  },
}
GOLDS = {
  "arc_challenge": ("C", "The answer is: C"),
  "ecqa": (
    "B",
    "A sea has water.\nA dog barks.\nBanks keep money. They are safe.\n"
    "The answer is: B",
  ),
  "hellaswag": ("B", "The answer is: B"),
  "proofwriter": ("A", "The answer is: A"),
  "mmlu_pro": ("D", "Two and two.\nIt is four.\nThe answer is: D"),
}
FIELDS = {
  "arc_challenge": ("question", "What is {} hot?"),
  "ecqa": ("q_text", "Where is {}?"),
  "hellaswag": ("ctx", "{} sits"),
  "proofwriter": ("question", "Cats are {}."),
  "mmlu_pro": ("question", "What is {}?"),
}


@pytest.fixture(params=sorted(ROWS))
def task(request, tmp_path):
  """A task over 30 rows per file, written where they are looked for."""
  name = request.param
  folder = tmp_path / name
  folder.mkdir()
  field, text = FIELDS[name]
  made = [ROWS[name] | {field: text.format(i)} for i in range(30)]
  for split in ("train", "validation", "test"):
    lines = "\n".join(json.dumps(row) for row in made)
    (folder / f"{split}.jsonl").write_text(lines)
  return base.load(name, path=str(tmp_path), validation_share=0.3)


def test_rows_become_problems(task):
  answer, gold = GOLDS[task.name]
  splits = {s: task.source(s).rows for s in ("train", "validation", "test")}
  problems = [task.problem(row) for row in splits["test"]]
  assert len(problems) == 30 and len({p.id for p in problems}) == 30
  for problem in problems:
    assert (problem.answer, problem.gold) == (answer, gold)
    assert task.check(problem, task.target(problem))
    assert not task.check(problem, "The answer is: F")
    assert "A - " in task.prompt(problem)
    assert task.prompt(problem).endswith("\nAnswer:")
  if task.splits["train"] == task.splits["validation"] == "train":
    assert len(splits["train"]) + len(splits["validation"]) == 30
    taught, held = (
      {task.parsed(row)[0] for row in splits[split]}
      for split in ("train", "validation")
    )
    assert held and not held & taught


def test_demonstrations_leave_the_problem_out(task):
  problem = task.problem(task.source("train").rows[0])
  shown = task.examples(problem, 5, seed=3)
  assert len(shown) == 5 == len({p.question for p in shown})
  assert problem.question not in {p.question for p in shown}
  assert shown == task.examples(problem, 5, seed=3)
  assert shown != task.examples(problem, 5, seed=4)
  steps = task.steps(task.target(problem))
  assert steps[-1].startswith("The answer is: ")


def test_metrics_tell_unread_from_wrong(task):
  problem = task.problem(task.source("test").rows[0])
  said = {
    f"The answer is: {problem.answer}": {"answer": 1.0, "answered": 1.0},
    "I do not know": {"answer": 0.0, "answered": 0.0},
  }
  for text, figures in said.items():
    assert task.metrics(problem, text) == figures


def test_csqa_rows_are_read_as_ecqa():
  task = base.load("ecqa")
  problem = task.problem(LABELLED | {"id": "1", "line": 1})
  assert problem.answer == "E" and "E - bank" in problem.question


@pytest.mark.parametrize(
  "name, change, field",
  [
    ("arc_challenge", {"answerKey": "9"}, "answerKey"),
    ("ecqa", {"q_ans": "elsewhere"}, "q_ans"),
    ("hellaswag", {"label": ""}, "label"),
    ("hellaswag", {"endings": ["one"], "label": "0"}, "options"),
    ("proofwriter", {"answer": "maybe"}, "answer"),
    ("mmlu_pro", {"answer": "Z"}, "answer"),
  ],
)
def test_bad_rows_name_their_field(name, change, field):
  row = ROWS[name] | change | {"id": "1", "line": 7}
  with pytest.raises(records.BadRow, match=f":7: field '{field}'"):
    base.load(name).problem(row)


def test_examples_of_mmlu_pro_are_of_the_same_field(tmp_path):
  folder = tmp_path / "mmlu_pro"
  folder.mkdir()
  rows = [
    ROWS["mmlu_pro"] | {"question": f"q {i}", "category": "xyz"[i % 3]}
    for i in range(12)
  ]
  text = "\n".join(map(json.dumps, rows))
  (folder / "validation.jsonl").write_text(text)
  task = base.load("mmlu_pro", path=str(tmp_path))
  problem = task.problem(task.source("train").rows[0])
  found = task.examples(problem, 5)
  assert len(found) == 3  # the fourth is the problem itself
  assert {p.meta["category"] for p in found} == {"x"}


def test_options_are_checked():
  with pytest.raises(ValueError, match="mode='loose' is none of strict"):
    base.load("ecqa", mode="loose")
  with pytest.raises(ValueError, match="no split 'tests', did you mean 'test'"):
    base.load("ecqa").source("tests")
