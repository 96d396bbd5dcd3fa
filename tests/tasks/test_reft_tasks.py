"""ReFT's data sets: golden prompts, extraction, rewards, splits, real rows."""

import json
import pathlib
import time

import pytest

from refine_jax import records
from refine_jax.tasks import base, reft_text

GOLDEN = pathlib.Path(__file__).parent / "golden"
NAMES = ("gsm8k", "svamp", "mathqa", "mathqa_numeric")
QUESTION = "Kim has 3 boxes of 4 pens and buys 2 pens. How many pens has she?"
OPTIONS = "\na ) 9 , b ) 12 , c ) 14 , d ) 24 , e ) none of these"
TEXT = "3 boxes hold 3 * 4 = 12 pens.\n\n12 + 2 = 14 pens."
BODY = "    held = 3 * 4\n    total = held + 2\n    return {}"
FULL = f'def solution():\n    """{QUESTION}"""\n'


def row(name: str, form: str) -> dict:
  choice = name == "mathqa"
  question = QUESTION + (OPTIONS if choice else "")
  value = {"gsm8k": "14", "mathqa": "c"}.get(name, "14.0")
  cot = TEXT
  if form == "program":
    body = BODY.format("'c'" if choice else "total")
    cot = f'def solution():\n    """{question}"""\n{body}'
  return {
    "id": "0",
    "item_id": f"{name.replace('_', '-')}_7",
    "question": question,
    "answer_cot": cot,
    "answer_value": value,
    "line": 1,
  }


def made(name="svamp", form="program", **options):
  task = base.load(name, form=form, **options)
  return task, task.problem(row(name, form))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ("text", "program"))
def test_golden_prompts(name, form):
  """Prompt, prefix and target of every way of forcing, to the character."""
  ways = ("always", "sample", "never") if form == "program" else ("never",)
  shown = []
  for forced in ways:
    task, problem = made(name, form, forced=forced)
    parts = {
      "prompt": task.prompt(problem),
      "prefix": task.prefix(problem),
      "target": task.target(problem),
    }
    shown += [f"[{forced} {k}]\n{v}[end]\n" for k, v in parts.items()]
    assert task.check(problem, task.prefix(problem) + task.target(problem))
    whole = task.prompt(problem) + task.prefix(problem)
    assert whole.startswith(reft_text.prompt(problem.question))
  path = GOLDEN / f"{name}_{form}.txt"
  assert "".join(shown) == path.read_text(encoding="utf-8")


def test_prompts_of_training_and_sampling_are_equal_when_always_forced():
  task, problem = made()
  assert task.prompt(problem) + task.target(problem) == (
    reft_text.prompt(QUESTION) + problem.gold
  )
  assert task.prefix(problem) == ""


@pytest.mark.parametrize(
  "completion, strict, compat",
  [
    ("So.\nTherefore, the answer is: 14", "14", "14"),
    ("So.\nTherefore, the answer is: 14.0", "14", "14"),
    ("So.\nTherefore, the answer is: 1,400", "1400", None),
    ("So.\nTherefore, the answer is: $14", "14", None),
    ("So.\nTherefore, the answer is: 14 pens", "14", None),
    ("So.\nTherefore, the answer is: 7/2", "3.5", None),
    ("So.\nTherefore, the answer is: nan", None, "nan"),
    ("So.\nTherefore, the answer is: inf", None, "inf"),
    ("The answer is 9.\nTherefore, the answer is: 14", "14", "14"),
    ("Therefore, the answer is <203>.", "203", None),
    ("The answer is 9. Wait, the answer is 14.", "14", None),
    ("the answer is 14 because 12 + 2 = 14", "14", None),
    ("the answer is 14. Then 3 are left.", "14", None),
    ("answer: 14", "14", None),
    ("#### 14", "14", None),
    ("so it is \\boxed{14}", "14", None),
    ("the answer is $\\boxed{14}$.", "14", None),
    ("14", None, "14"),
    ("3 * 4 = 12", None, None),
    ("the answer is unknown", None, None),
    ("", None, None),
  ],
)
def test_numbers_in_texts(completion, strict, compat):
  assert made(form="text")[0].answer(completion) == strict
  assert made(form="text", mode="compat")[0].answer(completion) == compat


@pytest.mark.parametrize(
  "completion, strict, compat",
  [
    ("So.\nTherefore, the answer is: c", "c", "c"),
    ("So.\nTherefore, the answer is: C", "c", "c"),
    ("So.\nTherefore, the answer is: (c)", "c", "(c)"),
    ("So.\nTherefore, the answer is: c ) 14", "c", "c ) 14"),
    ("So.\nTherefore, the answer is: 14", None, "14"),
    ("So.\nTherefore, the answer is: 'c'", "c", "c"),
    ("a big dog", None, "a big dog"),
  ],
)
def test_letters_in_texts(completion, strict, compat):
  assert made("mathqa", "text")[0].answer(completion) == strict
  task = made("mathqa", "text", mode="compat")[0]
  assert task.answer(completion) == compat


HELPER = "def twice(x):\n  return 2 * x\n"
USES = "def solution():\n  return twice(7)\n"


@pytest.mark.parametrize(
  "completion, strict, compat",
  [
    ("    held = 3 * 4\n    return held + 2", "14", "14"),
    (FULL + "    return 14", "14", "14"),
    ("held = 12\n    return held + 2", "14", None),
    ("return 14", "14", None),
    ("    held = 12\n\n    return held + 2", "14", None),
    ("```python\ndef solution():\n  return 14\n```\nDone.", "14", None),
    (HELPER + USES, "14", None),
    ("import math\n" + "def solution():\n  return math.ceil(13.2)", "14", "14"),
    ("    return math.ceil(13.2)", None, "14"),
    ("    import math\n    return math.ceil(13.2)", "14", "14"),
    ("x = 1 / 0\ndef solution():\n  return 14", None, None),
    ("x = 1\ndef solution():\n  return 14\nprint(x)", "14", "14"),
    ("    return 14\nso it is 14", None, None),
    ("    return True", None, "1"),
    ("    return '14'", "14", "14"),
    ("    return '1,400'", "1400", None),
    ("    return float('nan')", None, "nan"),
    ("    return [14]", None, None),
    ("    return x", None, None),
    ("    sys.exit(14)", None, None),
    ("    while True: pass", None, None),
    ("", None, None),
  ],
)
def test_programs(completion, strict, compat):
  assert made()[0].answer(completion) == strict
  assert made(mode="compat")[0].answer(completion) == compat


def test_rewards():
  task, problem = made()
  said = ["    return 14", "    return 13", "    return None", "    retur"]
  rewards = task.rewards([problem] * 4, said)
  assert rewards == [1.0, 0.1, 0.0, 0.0]
  assert all(type(r) is float for r in rewards)  # an int would lose 0.1
  assert task.check_all([problem] * 4, said) == [True, False, False, False]
  assert task.reward(problem, said[1]) == 0.1
  task, problem = made(partial=0.0)
  assert task.rewards([problem] * 2, said[:2]) == [1.0, 0.0]


def test_not_a_number_is_rewarded_only_as_published():
  nan = "    return float('nan')"
  task, problem = made()
  assert task.reward(problem, nan) == 0.0
  task, problem = made(mode="compat")
  assert task.reward(problem, nan) == 0.1


def test_a_crashed_choice_is_rewarded_only_as_published():
  said = ["    return 'c'", "    return 'b'", "    return 14", "    crash("]
  task, problem = made("mathqa")
  assert task.rewards([problem] * 4, said) == [1.0, 0.1, 0.0, 0.0]
  task, problem = made("mathqa", mode="compat")
  assert task.rewards([problem] * 4, said) == [1.0, 0.1, 0.1, 0.1]
  assert task.canonical("    crash(") is None  # only letters vote


def test_votes_join():
  task, _ = made()
  assert task.canonical("    return 1 / 3") == task.canonical(
    "    return 0.333"
  )
  exact, _ = made(mode="compat")
  assert exact.canonical("    return 1 / 3") == "0.3333333333333333"


def test_a_question_cannot_end_its_docstring():
  task = base.load("svamp")
  for text in ('He said """ twice. How many?', 'She said "yes"', "a\\"):
    problem = records.Problem("q", text, "")
    program = reft_text.header(text) + "    return 14"
    assert task.prompt(problem).endswith(reft_text.header(text))
    assert task.answer(program) == "14"


def test_one_s_own_problem_is_answered_and_not_judged():
  task = base.load("svamp")
  problem = task.own("Kim has 3 pens and buys 2. How many?")
  assert task.prompt(problem).endswith('How many?"""\n')
  assert task.answer("    return 3 + 2") == "5"
  assert not task.check(problem, "    return 3 + 2")


def test_rows_without_a_solution_have_no_target():
  task = base.load("svamp")
  bare = row("svamp", "program") | {"answer_cot": None}
  problem = task.problem(bare)
  assert task.check(problem, "    return 14")
  with pytest.raises(ValueError, match="svamp_7: the row has an answer but no"):
    task.target(problem)


@pytest.mark.parametrize(
  "change, field",
  [
    ({"answer_value": "many"}, "answer_value"),
    ({"answer_value": None}, "answer_value"),
    ({"question": 3}, "question"),
    ({"answer_cot": "return 14"}, "answer_cot"),
  ],
)
def test_bad_rows_name_line_and_field(change, field):
  task = base.load("svamp")
  with pytest.raises(records.BadRow, match=f":1: field '{field}'"):
    task.problem(row("svamp", "program") | change)


def test_gsm8k_reads_its_own_rows(tmp_path):
  folder = tmp_path / "gsm8k"
  folder.mkdir()
  answer = "He has 12 * 100 = <<12*100=1200>>1200.\n#### 1,200"
  lines = [{"question": f"q {i} ?", "answer": answer} for i in range(30)]
  text = "\n".join(map(json.dumps, lines)) + "\n\n"
  (folder / "train.jsonl").write_text(text)
  task = base.load("gsm8k", path=str(tmp_path), form="text")
  rows = [*task.source("train").rows, *task.source("validation").rows]
  assert len(rows) == 30 and len(task.source("validation").rows) < 15
  problem = task.problem(rows[0])
  assert task.target(problem) == (
    "He has 12 * 100 = 1200.\nTherefore, the answer is: 1200"
  )
  assert task.check(problem, "The answer is 1,200.")
  program = base.load("gsm8k", path=str(tmp_path))
  problem = program.problem(rows[0])
  assert program.rewards([problem], ["    return 1200"]) == [1.0]
  with pytest.raises(records.BadRow, match="has no ####"):
    task.problem({"id": "x", "question": "q", "answer": "5"})


def test_gsm8k_as_mathcritique_scored_it():
  task = base.load("gsm8k", form="text", mode="mathcritique")
  answer = "So it is.\n#### 5"
  row = {"id": "1", "line": 1, "question": "q", "answer": answer}
  problem = task.problem(row)
  said = {
    "The answer is 5.": True,
    "The answer is -$5": True,
    "The answer is 4. Wait, The answer is 5.": False,
    "First 5 apples plus 2 is 7.": True,
    "The answer is five": False,
    task.target(problem): True,
  }
  found = task.check_all([problem] * len(said), list(said))
  assert found == list(said.values())
  assert task.canonicals(["The answer is 5.00"]) == ["5.00"]
  with pytest.raises(ValueError, match="mode='mathcritique' is none of"):
    base.load("gsm8k", mode="mathcritique")
  with pytest.raises(ValueError, match="mode='mathcritique' is none of"):
    base.load("svamp", mode="mathcritique")


# gold, completion; accepted by MathCritique's code, and by our grader.
PROBES = [
  ("5", "So.\nThe answer is 5.", True, True),
  ("5", "So.\nThe answer is $5.00.", True, True),
  ("5", "So.\nThe answer is 5 dollars", True, True),
  ("5", "So.\nThe answer is \\boxed{5}", True, True),
  ("1000", "So.\nThe answer is 1,000", True, True),
  ("1,000", "So.\nThe answer is 1000", True, True),
  ("5", "So.\nThe answer is -$5", True, False),
  ("5", "So.\nThe answer is 4. Wait, The answer is 5.", False, True),
  ("5", "First 5 apples plus 2 is 7.", True, False),
  ("7", "First 5 apples plus 2 is 7.", False, False),
  ("0.5", "So.\nThe answer is 1/2", False, True),
  ("50", "So.\nThe answer is 50%", True, True),
  ("5", "So.\nThe answer is five", False, False),
  ("05", "So.\nThe answer is 5", False, True),
  ("5", "So.\nThe answer is 9**9**9", False, False),
]


@pytest.mark.parametrize("gold, completion, published, strict", PROBES)
def test_gsm8k_probes(gold, completion, published, strict):
  """Section 6.3 of MathCritique's specification, by the task's own grader."""
  row = {"id": "1", "line": 1, "question": "q", "answer": f"So.\n#### {gold}"}
  for options, right in (
    ({"mode": "mathcritique"}, published),
    ({"mode": "strict"}, strict),
    ({"mode": "strict", "ending": "sentence"}, strict),
  ):
    task = base.load("gsm8k", form="text", **options)
    start = time.monotonic()
    assert task.check(task.problem(row), completion) == right
    assert time.monotonic() - start < 1.0


@pytest.mark.parametrize(
  "completion, found",
  [
    ("The answer is 14. This answer is reasonable.", "14"),
    ("So $\\boxed{14}$. We check that the answer is correct.", "14"),
    ("The answer is 14.\nI hope my answer is helpful.", "14"),
    ("The answer is $\\boxed{14}$ and I think the answer is right.", "14"),
    ("The answer is 9. Wait, the answer is 14. That answer is it.", "14"),
    ("the answer is unknown, the answer is hard", None),
    ("3 * 4 = 12", None),
  ],
)
def test_remarks_are_no_answers_after_a_sentence(completion, found):
  task = base.load("gsm8k", form="text", ending="sentence")
  assert task.answer(completion) == found


def test_remarks_hide_reft_s_answers_as_ever():
  text = "The answer is 14. This answer is reasonable."
  assert base.load("gsm8k", form="text").answer(text) is None
  hostile = "the answer is x " * 100_000
  # A tenth of a second; work that grows with the square would be minutes.
  start = time.process_time()
  task = base.load("gsm8k", form="text", ending="sentence")
  assert task.answer(hostile) is None
  assert time.process_time() - start < 10


def test_prompts_and_endings_that_mathcritique_asks_for():
  answer = "He has <<3*4=12>>12.\n#### 1,200"
  row = {"id": "1", "line": 1, "question": " How many? ", "answer": answer}
  for options, prompt, target in (
    ({}, reft_text.prompt("How many?"), "\nTherefore, the answer is: 1200"),
    ({"prompt": "bare", "ending": "sentence"}, "How many?",
     "\nThe answer is 1200."),
    ({"prompt": "bare", "mode": "mathcritique"}, "How many?",
     "\nThe answer is 1200."),
  ):  # fmt: skip
    task = base.load("gsm8k", form="text", **options)
    problem = task.problem(row)
    assert task.prompt(problem) == prompt
    assert task.target(problem) == f"He has 12.{target}"
    assert task.check(problem, task.target(problem))


@pytest.mark.parametrize(
  "options, error",
  [
    ({"prompt": "none"}, "prompt='none' is none of framed, bare"),
    ({"ending": "full"}, "ending='full' is none of reft, sentence"),
    ({"form": "program", "prompt": "bare"}, "prompt='bare'.*has its own"),
    ({"form": "program", "ending": "sentence"}, "'sentence': a program has"),
    (
      {"mode": "compat", "ending": "sentence"},
      "ending='sentence' is none that",
    ),
  ],
)
def test_prompts_and_endings_there_are_not(options, error):
  with pytest.raises(ValueError, match=error) as caught:
    base.load("gsm8k", **{"form": "text", **options})
  assert "\n" not in str(caught.value)


def test_broken_jsonl_names_its_line(tmp_path):
  (tmp_path / "gsm8k").mkdir()
  (tmp_path / "gsm8k/test.jsonl").write_text('{"question": "q"}\n{"que\n')
  task = base.load("gsm8k", path=str(tmp_path))
  with pytest.raises(records.BadRow, match=r"test\.jsonl:2: not JSON"):
    len(task.source("test").rows)


def test_missing_files_and_splits_are_named(tmp_path):
  task = base.load("mathqa", path=str(tmp_path))
  with pytest.raises(FileNotFoundError, match=r"mathqa_python_sdp\.json"):
    task.source("train")
  with pytest.raises(ValueError, match="has no split 'valid'"):
    task.source("valid")


def test_svamp_rows(data_dir):
  for form, count in (("text", 3076), ("program", 3043)):
    task = base.load("svamp", path=str(data_dir), form=form)
    parts = {
      split: [task.problem(r) for r in task.source(split).rows]
      for split in ("train", "validation", "test")
    }
    train, validation = parts["train"], parts["validation"]
    assert len(train) + len(validation) == count
    assert 0.07 * count < len(validation) < 0.13 * count
    texts = [{p.question.lower() for p in ps} for ps in parts.values()]
    assert not texts[0] & texts[1] and not texts[0] & texts[2]
    assert len(parts["test"]) == 1000
    assert all(task.check_all(validation, [task.target(p) for p in validation]))
    assert all(p.gold == "" for p in parts["test"])


def test_published_test_sets_are_read(data_dir):
  for name, count in (
    ("gsm8k", 1319),
    ("mathqa", 1605),
    ("mathqa_numeric", 1605),
  ):
    task = base.load(name, path=str(data_dir))
    problems = [task.problem(r) for r in task.source("test").rows]
    assert len(problems) == count
    assert len({p.id for p in problems}) == count


def test_gsm8k_s_own_train_rows(data_dir):
  task = base.load("gsm8k", path=str(data_dir), form="text")
  problems = [task.problem(r) for r in task.source("train").rows]
  targets = [task.target(p) for p in problems]
  assert all(task.check_all(problems, targets))
  assert not any("<<" in text for text in targets)
