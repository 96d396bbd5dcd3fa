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


# kind, gold solution, completion; accepted as published, strictly, leniently
PROBES = [
  # GSM8K
  (NUMBER, "#### 5", is_("5."), True, True, True),
  (NUMBER, "#### 5", is_("$5.00."), True, True, True),
  (NUMBER, "#### 5", is_("5 dollars"), True, True, True),
  (NUMBER, "#### 5", is_(r"\boxed{5}"), True, True, True),
  (NUMBER, "#### 1000", is_("1,000"), True, True, True),
  (NUMBER, "#### 1,000", is_("1000"), True, True, True),
  (NUMBER, "#### 5", is_("-$5"), True, False, False),
  (NUMBER, "#### 5", is_("4. Wait, The answer is 5."), False, True, True),
  (NUMBER, "#### 5", "First 5 apples plus 2 is 7.", True, False, False),
  (NUMBER, "#### 7", "First 5 apples plus 2 is 7.", False, False, True),
  (NUMBER, "#### 5", "so we get 5", True, False, True),
  (NUMBER, "#### 0.5", is_("1/2"), False, True, True),
  (NUMBER, "#### 50", is_("50%"), True, True, True),
  (NUMBER, "#### 5", is_("five"), False, False, False),
  (NUMBER, "#### 05", is_("5"), False, True, True),
  # MATH
  (FORMULA, r"\boxed{\frac{1}{2}}", is_(r"\boxed{\frac12}"), True, True, True),
  (FORMULA, r"\boxed{\frac{1}{2}}", is_(r"\boxed{\dfrac12}"), True, True, True),
  (FORMULA, r"\boxed{\frac{1}{2}}", is_(r"\boxed{1/2}"), True, True, True),
  (FORMULA, r"\boxed{\frac{1}{2}}", is_(r"\boxed{0.5}"), False, True, True),
  (FORMULA, r"\boxed{3}", is_(r"\boxed{6/2}"), False, True, True),
  (FORMULA, r"\boxed{10000}", is_(r"\boxed{10,000}"), False, True, True),
  (FORMULA, r"\boxed{10{,}000}", is_(r"\boxed{10,000}"), False, True, True),
  (FORMULA, r"\boxed{10}", is_(r"\boxed{10\%}"), False, True, True),
  (FORMULA, r"\boxed{5}", is_(r"\boxed{x=5}"), False, True, True),
  (FORMULA, r"\boxed{(1,2)}", is_(r"\boxed{(1, 2)}"), True, True, True),
  (FORMULA, r"\boxed{2}", is_(r"\boxed{2\text{ cm}}"), True, True, True),
  (FORMULA, r"\boxed{90}", is_(r"\boxed{90^\circ}"), True, True, True),
  (FORMULA, r"\boxed{5}", is_(r"\boxed{\$5}"), True, True, True),
  (FORMULA, r"\boxed{A}", is_(r"\boxed{(A)}"), True, True, True),
  (FORMULA, r"\boxed{\sqrt{3}}", is_(r"\boxed{\sqrt3}"), True, True, True),
  (FORMULA, r"\boxed{11_{2}}", is_(r"\boxed{11_2}"), True, True, True),
  (FORMULA, r"\boxed{0.5}", is_(r"\boxed{.5}"), True, True, True),
  (FORMULA, r"\boxed 5", is_(r"\boxed{5}"), False, True, True),
  (FORMULA, r"\fbox{5}", is_(r"\boxed{5}"), False, True, True),
  (FORMULA, r"\boxed{1,2}", is_(r"\boxed{2,1}"), False, True, True),
  (FORMULA, r"\boxed{2x+1}", is_(r"\boxed{1+2x}"), False, True, True),
  (FORMULA, r"\boxed{j}", is_(r"\boxed{i}"), True, False, False),
  (FORMULA, r"\boxed{5}", is_("5."), True, True, True),
  (FORMULA, r"\boxed{\text{even}}", is_(r"\boxed{even}"), True, True, True),
  (FORMULA, r"\boxed{\frac{1}{2},\frac{1}{3}}",
   is_(r"\boxed{\frac12,\frac13}"), True, True, True),
  (FORMULA, r"\boxed{5}", "so we get 5", False, False, True),
  (FORMULA, r"\boxed{\frac{1}{2}}", r"so $0.5$ is left", False, False, True),
  (FORMULA, r"\boxed{5}", is_(r"\boxed{9**9**9}"), False, False, False),
]  # fmt: skip


def accepted(kind, solution, completion, mode):
  gold = answers.gold(solution, kind, mode)
  if gold is None:
    return False
  return answers.same(gold, answers.said(completion, kind, mode), mode)


@pytest.mark.parametrize(
  "kind, gold, completion, published, strict, lenient", PROBES
)
def test_probes(kind, gold, completion, published, strict, lenient):
  found = [accepted(kind, gold, completion, m) for m in answers.MODES]
  assert found == [strict, lenient, published]


def test_there_are_as_many_different_probes_as_were_run():
  assert len({probe[:3] for probe in PROBES}) == 43


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
    ("1,2", "2, 1", r"\{2,1\}", r"\{1, 2\}", "1 and 2", r"1\text{ or }2"),
    ("5", r"\{5\}", r"x \in \{5\}", "x=5"),
    ("1+x,2", "2, x+1", r"\{x+1,2\}"),
    ("0.5", "2^{-1}", r"\frac{\sqrt{4}}{4}"),
    ("2x+1", "1+2x", "1 + x + x"),
    (r"\text{even}", "even", "Even"),
    (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{3}}{3}"),
  ],
)
def test_equal_answers_vote_together(texts):
  assert len(set(answers.keys(texts))) == 1
  pairs = [(a, b) for a in texts for b in texts]
  assert all(answers.same_all(pairs))


def test_unequal_answers_do_not():
  texts = ["1", "2", "x", "y", "(1,2)", "(2,1)", "even", r"\sqrt{2}", "1.41421"]
  texts += ["[1,2]", r"\{1,2\}", r"\{1,2\}\cup\{3\}", r"x \in [3,4]"]
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
  "1" + " " * 100_000,
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
    ("the answer is even, as said", "even"),
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


@pytest.mark.parametrize(
  "text, found",
  [
    (r"Thus the answer is $\boxed{5}$. This answer is reasonable.", "5"),
    (r"So \boxed{5}. We check that the answer is correct.", "5"),
    ("The answer is 5.\nI hope my answer is helpful.", "5"),
    ("The answer is 5, which is plausible. So the answer is right.", "5"),
    ("The answer is $x+1$. My answer is clear, as 3 + 2 = 5.", "x+1"),
    ("The answer is $5. They paid $6.", "$5"),
    (r"The answer is \(7\) and that is it. Is the answer is so?", "7"),
    ("The answer is actually 5.", "5"),
    ("The answer is 4. Wait, the answer is 5. That answer is right.", "5"),
    (r"\boxed{4}. Wait, the answer is 5. The answer is a good one.", "5"),
    ("The answer is x. I think the answer is a good one.", "x"),
    # Words, where there is nothing else.
    ("The answer is even. I hope my answer is helpful.", "even"),
    ("The answer is odd. Wait, the answer is even.", "even"),
    (r"The answer is $\text{even}$. This answer is correct.", r"\text{even}"),
    (r"\boxed{even}. Is the answer is odd?", "even"),
    ("The answer is right.", "right"),
    ("the answer is pi/2. The answer is sound.", "pi/2"),
    ("**Answer:** (A)\n\nThat answer is the only one.", "(A)"),
    ("The answer is 5!.", "5!"),
  ],
)
def test_what_is_said_of_an_answer_is_none(text, found):
  assert latex_text.said(text) == found


@pytest.mark.parametrize("kind", answers.KINDS)
def test_a_lenient_reader_prefers_numbers_to_remarks(kind):
  text = "That makes 7. I think my answer is correct."
  assert answers.said(text, kind, "lenient") == "7"
  assert answers.said(text, kind) == (None if kind == NUMBER else "correct")


@pytest.mark.parametrize("unit", ["the answer is ", r"\boxed{", "answer: $"])
def test_long_completions_are_quick(unit):
  # A tenth of a second; work that grows with the square would be minutes.
  start = time.process_time()
  for mode in answers.MODES:
    answers.said(unit * 50_000, FORMULA, mode)
  assert time.process_time() - start < 10


@pytest.mark.parametrize(
  "gold, found",
  [
    ("10", r"10\%"),
    ("5", "x=5"),
    ("x = 5", "y = 5"),
    (r"\frac{\pi}{2}", r"\theta = \frac{\pi}{2}"),
    ("1,2", "x=1,x=2"),
  ],
)
def test_marks_are_ignored_or_not(gold, found):
  assert answers.same(gold, found)
  assert not answers.same(gold, found, ignore_marks=False)
  assert len(set(answers.keys([gold, found]))) == 1
  assert len(set(answers.keys([gold, found], ignore_marks=False))) == 2


def test_equal_marks_are_equal():
  for pair in ((r"10\%", "10%"), ("x=5", "$x = 5.0$"), ("x=a+1", "x = 1+a")):
    assert answers.same(*pair, ignore_marks=False)
    assert len(set(answers.keys(pair, ignore_marks=False))) == 1


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
  assert not any(answers.same_all(pairs))
  refined = [pair[0] for pair in pairs]
  again = [respelled(text) for text in refined]
  assert sum(a != b for a, b in zip(refined, again, strict=True)) == 100
  assert all(answers.same_all(list(zip(refined, again, strict=True))))
  assert answers.keys(refined) == answers.keys(again)


def respelled(text: str) -> str:
  """Typeset in another way; digits, letters and their order are kept."""
  text = text.replace("\\frac", "\\dfrac").replace("(", "\\left(")
  text = text.replace(")", "\\right)").replace(",", ",\\, ")
  return f"$ {text} $"
