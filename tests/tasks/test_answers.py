r"""Answers to competition maths: the 43 probes, votes, bombs, real rows."""

import json
import os
import signal
import time

import pytest

from refine_jax.tasks import answers, latex_pool, latex_text

NUMBER, FORMULA = "number", "formula"


def is_(text: str) -> str:
  return f"So.\nThe answer is {text}"


# kind, gold solution, completion, as published, as it should be
PROBES = [
  # GSM8K
  (NUMBER, "#### 5", is_("5."), True, True),
  (NUMBER, "#### 5", is_("$5.00."), True, True),
  (NUMBER, "#### 5", is_("5 dollars"), True, True),
  (NUMBER, "#### 5", is_(r"\boxed{5}"), True, True),
  (NUMBER, "#### 1000", is_("1,000"), True, True),
  (NUMBER, "#### 1,000", is_("1000"), True, True),
  (NUMBER, "#### 5", is_("-$5"), True, False),
  (NUMBER, "#### 5", is_("4. Wait, The answer is 5."), False, True),
  (NUMBER, "#### 5", "First 5 apples plus 2 is 7.", True, False),
  (NUMBER, "#### 7", "First 5 apples plus 2 is 7.", False, False),
  (NUMBER, "#### 0.5", is_("1/2"), False, True),
  (NUMBER, "#### 50", is_("50%"), True, True),
  (NUMBER, "#### 5", is_("five"), False, False),
  (NUMBER, "#### 05", is_("5"), False, True),
  # MATH
  (FORMULA, r"\boxed{\frac{1}{2}}", is_(r"\boxed{\frac12}"), True, True),
  (FORMULA, r"\boxed{\frac{1}{2}}", is_(r"\boxed{\dfrac12}"), True, True),
  (FORMULA, r"\boxed{\frac{1}{2}}", is_(r"\boxed{1/2}"), True, True),
  (FORMULA, r"\boxed{\frac{1}{2}}", is_(r"\boxed{0.5}"), False, True),
  (FORMULA, r"\boxed{3}", is_(r"\boxed{6/2}"), False, True),
  (FORMULA, r"\boxed{10000}", is_(r"\boxed{10,000}"), False, True),
  (FORMULA, r"\boxed{10{,}000}", is_(r"\boxed{10,000}"), False, True),
  (FORMULA, r"\boxed{10}", is_(r"\boxed{10\%}"), False, True),
  (FORMULA, r"\boxed{5}", is_(r"\boxed{x=5}"), False, True),
  (FORMULA, r"\boxed{(1,2)}", is_(r"\boxed{(1, 2)}"), True, True),
  (FORMULA, r"\boxed{2}", is_(r"\boxed{2\text{ cm}}"), True, True),
  (FORMULA, r"\boxed{90}", is_(r"\boxed{90^\circ}"), True, True),
  (FORMULA, r"\boxed{5}", is_(r"\boxed{\$5}"), True, True),
  (FORMULA, r"\boxed{A}", is_(r"\boxed{(A)}"), True, True),
  (FORMULA, r"\boxed{\sqrt{3}}", is_(r"\boxed{\sqrt3}"), True, True),
  (FORMULA, r"\boxed{11_{2}}", is_(r"\boxed{11_2}"), True, True),
  (FORMULA, r"\boxed{0.5}", is_(r"\boxed{.5}"), True, True),
  (FORMULA, r"\boxed 5", is_(r"\boxed{5}"), False, True),
  (FORMULA, r"\fbox{5}", is_(r"\boxed{5}"), False, True),
  (FORMULA, r"\boxed{1,2}", is_(r"\boxed{2,1}"), False, True),
  (FORMULA, r"\boxed{2x+1}", is_(r"\boxed{1+2x}"), False, True),
  (FORMULA, r"\boxed{j}", is_(r"\boxed{i}"), True, False),
  (FORMULA, r"\boxed{5}", is_("5."), True, True),
  (FORMULA, r"\boxed{\text{even}}", is_(r"\boxed{even}"), True, True),
  (FORMULA, r"\boxed{\frac{1}{2},\frac{1}{3}}",
   is_(r"\boxed{\frac12,\frac13}"), True, True),
  (FORMULA, r"\boxed{5}", "so we get 5", False, False),
  (FORMULA, r"\boxed{5}", is_(r"\boxed{9**9**9}"), False, False),
]  # fmt: skip
# The same two without a marker, where the last number or formula may count.
LENIENT = [
  (NUMBER, "#### 7", "First 5 apples plus 2 is 7.", True),
  (FORMULA, r"\boxed{5}", "so we get 5", True),
]


def accepted(kind, solution, completion, mode):
  gold = answers.gold(solution, kind, mode)
  if gold is None:
    return False
  return answers.same(gold, answers.said(completion, kind, mode), mode)


def test_there_are_as_many_probes_as_were_run():
  assert len(PROBES) + len(LENIENT) == 43


@pytest.mark.parametrize("kind, gold, completion, published, strict", PROBES)
def test_probes(kind, gold, completion, published, strict):
  assert accepted(kind, gold, completion, "compat") == published
  assert accepted(kind, gold, completion, "strict") == strict


@pytest.mark.parametrize("kind, gold, completion, right", LENIENT)
def test_lenient_probes(kind, gold, completion, right):
  assert accepted(kind, gold, completion, "lenient") == right


@pytest.mark.parametrize(
  "gold, found, equal",
  [
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", True),
    (r"2\sqrt{2}", r"\sqrt{8}", True),
    (r"\pi", r"3.14", False),
    (r"x^2-1", r"(x-1)(x+1)", True),
    (r"x^2-1", r"x^2+1", False),
    (r"(-\infty, 3]", r"(-\infty,3]", True),
    (r"(-\infty, 3]", r"(-\infty,3)", False),
    (r"(1,2)", r"(2,1)", False),
    (r"\{1,2\}", r"\{2,1\}", True),
    (r"1,2", r"1,2,3", False),
    (r"3\frac{1}{2}", "7/2", True),
    (r"-\frac{3}{4}", "-0.75", True),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}",
     True),
    (r"\text{Tuesday}", "tuesday", True),
    (r"\text{Tuesday}", "Monday", False),
    ("5", None, False),
    ("5", "", False),
    ("5", "}{" * 50, False),
    ("5", r"\frac{", False),
    ("5", r"\frac{5}{0}", False),
    ("1,2", "{1", False),
  ],
)  # fmt: skip
def test_meanings(gold, found, equal):
  assert answers.same(gold, found) is equal


@pytest.mark.parametrize(
  "texts",
  [
    ("0.5", r"\frac12", "1/2", r"\frac{2}{4}", ".5", "$0.50$"),
    ("10000", "10,000", "10{,}000"),
    ("1,2", "2, 1", r"\{2,1\}".strip("\\{}")),
    ("2x+1", "1+2x", "1 + x + x"),
    (r"\text{even}", "even", "Even"),
    (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{3}}{3}"),
  ],
)
def test_equal_answers_vote_together(texts):
  assert len(set(answers.keys(texts))) == 1


def test_unequal_answers_do_not():
  texts = ["1", "2", "x", "y", "(1,2)", "(2,1)", "even", r"\sqrt{2}", "1.41421"]
  assert len(set(answers.keys(texts))) == len(texts)
  assert answers.keys([None, "5"]) == [None, "5"]
  assert answers.keys(["0.5", "1/2"], "compat") == ["0.5", "1/2"]


BOMBS = [
  "9**9**9",
  "9^{9^{9^{9}}}",
  r"\sum_{i=1}^{10000000000} \frac{\sin(i)}{i!}",
  r"\prod_{k=1}^{99999} (x+k)^{k}",
  r"(x+y+z+w+1)^{3000}",
  "1" + "0" * 390,
  r"\int_0^1 \frac{x^{x^{x^{x}}}}{\sin(x^9)+\tan(x^7)} dx",
  r"\frac{" * 60 + "1" + "}{1}" * 60,
  "((((" * 90,
  "99999999999999!!",
  "x" * 100_000,
]


def test_bombs_answer_within_a_second():
  warm = [(f"x+{i}", f"{i}+x") for i in range(8)]
  assert all(answers.same_all(warm))  # the children are there
  for bomb in BOMBS:
    for mode in answers.MODES:
      start = time.monotonic()
      assert not answers.same("12345", bomb, mode)
      assert time.monotonic() - start < 1.0
    start = time.monotonic()
    answers.keys([bomb])
    assert time.monotonic() - start < 1.0


def test_lost_children_are_replaced_and_others_go_on():
  with latex_pool.Pool(1, seconds=0.5) as pool:
    # Every child has started: one that is stopped before is waited for.
    assert all(pool.equal([(f"x+{i}", f"{i}+x") for i in range(4)]))
    for lost, how in enumerate((signal.SIGSTOP, signal.SIGKILL), 1):
      worker = pool._idle.get()
      os.kill(worker._child.pid, how)
      pool._idle.put(worker)
      asked = [(f"y+{lost}{i}", f"{lost}{i}+y") for i in range(6)]
      assert pool.equal(asked).count(False) == 1
      assert pool.late == lost
    assert all(pool.equal([(f"z+{i}", f"{i}+z") for i in range(6)]))


@pytest.mark.parametrize(
  "text, found",
  [
    (r"so \boxed{1} and \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{1}. The answer is 2.", "2"),
    (r"The answer is $\boxed{3,4}$.", "3,4"),
    (r"The answer is $x = 5$ because.", "x = 5"),
    (r"The answer is \(7\).", "7"),
    ("**Answer:** 7", "7"),
    ("The answer is: 3.5. Next", "3.5"),
    ("the answer is even, as said", "even, as said"),
    ("#### 12", "12"),
    (r"\boxed 5", "5"),
    (r"\boxed{a{b}c}", "a{b}c"),
    (r"\boxed{unclosed", None),
    ("no", None),
    ("", None),
  ],
)
def test_where_answers_are(text, found):
  assert latex_text.said(text) == found


def test_published_rows(data_dir):
  """All 100 GSM8K rows have a gold at hand: flawed wrong, refined right."""
  rows = json.loads(
    (data_dir / "mathcritique/Meta-Llama-3-8B-gsm8k-sftdata_0_new.json")
    .read_text()
  )  # fmt: skip
  golds = {}
  for split in ("train", "test"):
    for line in (data_dir / f"gsm8k/{split}.jsonl").read_text().splitlines():
      row = json.loads(line)
      golds[row["question"].strip()] = row["answer"]
  counts = {}
  for row in rows:
    question, _, rest = row["instruction"].partition(" Please also give")
    if question.strip() not in golds:
      continue
    solution = golds[question.strip()]
    flawed = rest.partition("Assistant:")[2].partition("<|end_of_text|>")[0]
    for mode in ("strict", "compat"):
      wrong = not accepted(NUMBER, solution, flawed, mode)
      right = accepted(NUMBER, solution, row["output"], mode)
      count = counts.setdefault(mode, [0, 0, 0])
      count[0] += 1
      count[1] += wrong
      count[2] += right
  assert counts["strict"] == [100, 100, 100]
  assert counts["compat"] == [100, 100, 100]


def test_published_formulas_changed_when_refined(data_dir):
  """Golds are not at hand; all 100 flawed answers differ from the refined."""
  rows = json.loads(
    (data_dir / "mathcritique/Meta-Llama-3-8B-math-sftdata_0_new.json")
    .read_text()
  )  # fmt: skip
  pairs = []
  for row in rows:
    rest = row["instruction"].partition("Assistant:")[2]
    flawed = rest.partition("<|end_of_text|>")[0]
    pairs.append(tuple(map(latex_text.said, (row["output"], flawed))))
  assert len(pairs) == 100 and not any(None in pair for pair in pairs)
  known = [answers._decided(*pair) for pair in pairs]
  assert known.count(False) > 80 and True not in known  # the rest is algebra
  refined = [pair[0] for pair in pairs]
  assert all(answers.same_all([(text, text) for text in refined]))
