"""Word problems of several steps, made without end, with the truth of a step.

    5 pears and 9 apples . sells 3 apples . triples apples . how many apples ?

The completion is a program, `a = 9 - 3 ; b = a * 3 ; return b`, or a text,
`9 - 3 = 6 apples . 6 * 3 = 18 apples . answer 18`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from refine_jax import records
from refine_jax.tasks import (
  arithmetic_errors,
  arithmetic_generator,
  arithmetic_judge,
  arithmetic_plan,
  arithmetic_solution,
  arithmetic_story,
  base,
)
from refine_jax.tasks.arithmetic_judge import Judgement
from refine_jax.tasks.arithmetic_story import LEVELS, Story

GOLDS = ("random", "canonical")
# What the oracle says of each kind of error.
PHRASES = {
  "slip": "wrong result",
  "unit": "wrong unit",
  "object": "wrong object",
  "operator": "wrong operator",
  "missing": "missing step",
  "extra": "extra step",
  "operand": "wrong operand",
  "answer": "wrong answer",
  "unreadable": "unreadable step",
}
_KINDS = {phrase: kind for kind, phrase in PHRASES.items()}
_SAID = re.compile(rf"step (\d{{1,3}}) : ({'|'.join(_KINDS)})")


class Arithmetic(base.Task):
  """Multi-step word problems of about 60 words.

  Splits `train`, `validation` (or `dev`) and `test` share no question,
  whatever their seeds. `metrics` are `answer`, `exact` (the gold itself) and
  `steps` (every step is right). The reward is 1, `partial` for a number that
  is wrong, 0 without an answer.

  Args:
    form: `program` or `text`.
    difficulty: 0 to 5, see `arithmetic_story.LEVELS`; 3 is for models of
      150k parameters.
    gold: `random` shows one of the valid solutions of a problem, `canonical`
      the one in the story's order.
    detail: feedback names the `type` of the first error, or the `fix` as well.
    seed: of the rows; size, validation_size, test_size: how many.
    partial: the reward of a wrong number (ReFT, section 3.2: 0.1).
  """

  def __init__(
    self,
    *,
    form: str = "program",
    difficulty: int = 3,
    gold: str = "random",
    detail: str = "type",
    seed: int = 0,
    size: int = 2000,
    validation_size: int = 1000,
    test_size: int = 1000,
    partial: float = 0.1,
  ):
    _one_of("form", form, arithmetic_solution.FORMS)
    _one_of("difficulty", difficulty, LEVELS)
    _one_of("gold", gold, GOLDS)
    _one_of("detail", detail, ("type", "fix"))
    self.form, self.difficulty, self.level = (
      form,
      difficulty,
      LEVELS[difficulty],
    )
    self.gold, self.detail, self.seed = gold, detail, seed
    self.partial = partial
    self.kinds = arithmetic_errors.KINDS[form]
    self.sizes = {"train": size, "validation": validation_size}
    self.sizes |= {"test": test_size, "dev": validation_size}
    self.markers = self.vocabulary()

  def source(self, split: str) -> records.Source:
    if split not in self.sizes:
      raise base.unknown_split(self, split, self.sizes)
    rows = arithmetic_generator.Rows(
      self.sizes[split],
      seed=self.seed,
      split={"dev": "validation"}.get(split, split),
      difficulty=self.difficulty,
    )
    return records.Source(rows=rows, name=f"arithmetic {split}", split=split)

  def problem(self, row: Mapping[str, Any]) -> records.Problem:
    try:
      story = arithmetic_story.from_text(row["question"])
    except ValueError as error:
      raise records.BadRow(
        str(error), field="question", value=row["question"]
      ) from None
    rng = None
    if self.gold == "random":
      rng = np.random.default_rng(int(row["choice"]))
    return self._problem(str(row["id"]), story, rng)

  def own(self, text: str, name: str = "own") -> records.Problem:
    """A story in the words of this task; the gold is worked out."""
    return self._problem(name, arithmetic_story.from_text(text), None)

  def _problem(self, name: str, story: Story, rng) -> records.Problem:
    nodes = arithmetic_plan.plan(story, rng, self.level.limit)
    truth = arithmetic_solution.evaluate(nodes)
    return records.Problem(
      id=name,
      question=arithmetic_story.to_text(story),
      gold=arithmetic_solution.render(nodes, self.form),
      answer=str(arithmetic_story.answer(story)),
      meta={
        "difficulty": self.difficulty,
        "operations": len(nodes),
        "ask": story.ask,
        "truth": [list(step) for step in truth],
      },
    )

  def answer(self, completion: str) -> str | None:
    found = arithmetic_solution.answer(completion, self.form)
    return None if found is None else str(found)

  def reward(self, problem: records.Problem, completion: str) -> float:
    found = self.answer(completion)
    if found is None:
      return 0.0
    return 1.0 if found == problem.answer else self.partial

  def metrics(
    self, problem: records.Problem, completion: str
  ) -> dict[str, float]:
    return {
      "answer": float(self.check(problem, completion)),
      "exact": float(base.squeeze(completion) == problem.gold),
      "steps": float(self.first_error(problem, completion) is None),
    }

  def steps(self, completion: str) -> list[str]:
    """The texts of its steps; the answer is the last of a whole solution."""
    return arithmetic_solution.split(completion, self.form)

  def judge(self, problem: records.Problem, completion: str) -> Judgement:
    """Which steps are right; place, kind and mending of the first error."""
    story = arithmetic_story.from_text(problem.question)
    steps = arithmetic_solution.parse(completion, self.form)
    return arithmetic_judge.judge(story, steps)

  def first_error(
    self, problem: records.Problem, completion: str
  ) -> int | None:
    """The first wrong step, from 0; the number of steps if it ends too early.

    None for a right solution.
    """
    return self.judge(problem, completion).first

  def fix(self, problem: records.Problem, completion: str) -> str | None:
    """A step, written as a text, that would have been right there."""
    expected = self.judge(problem, completion).expected
    return None if expected is None else arithmetic_solution.step_text(expected)

  def mend(self, problem: records.Problem, completion: str) -> str | None:
    """The completion up to its first error, then right to its end.

    What comes first is `fix`, the step that critiques say was due. None where
    a repetition of the steps before the error leaves no right ending.
    """
    story = arithmetic_story.from_text(problem.question)
    steps = arithmetic_solution.parse(completion, self.form)
    steps = arithmetic_judge.mended(story, steps)
    if steps is None:
      return None
    return arithmetic_solution.write(steps, self.form)

  def feedback(self, problem: records.Problem, hypothesis: str) -> str:
    """`no hint`, or `step 2 : wrong operator` (and `, 6 * 3 = 18 apples`)."""
    found = self.judge(problem, hypothesis)
    if found.first is None:
      return self.no_hint
    said = f"step {found.first + 1} : {PHRASES[found.kind]}"
    if self.detail == "fix" and found.expected is not None:
      said += f" , {arithmetic_solution.step_text(found.expected)}"
    return said

  def error_types(self, feedback: str) -> tuple[str, ...]:
    found = [_KINDS[m[2]] for m in _SAID.finditer(feedback)]
    return tuple(dict.fromkeys(found))

  def plant(
    self,
    problem: records.Problem,
    rng: np.random.Generator,
    kind: str,
    at: int | None = None,
  ) -> tuple[str, int] | None:
    """A completion with an error of this kind, and its first wrong step.

    None if the kind does not fit this problem (`at` this step, if given). The
    answer is wrong (but of a `unit`), and `first_error` and `error_types`
    agree with what is planted.
    """
    story = arithmetic_story.from_text(problem.question)
    return arithmetic_errors.plant(
      story, rng, kind, form=self.form, limit=self.level.limit, at=at
    )

  def variant(self, problem: records.Problem, rng: np.random.Generator) -> str:
    """Any of the valid solutions."""
    story = arithmetic_story.from_text(problem.question)
    nodes = arithmetic_plan.plan(story, rng, self.level.limit)
    return arithmetic_solution.render(nodes, self.form)

  def perturb(
    self, problem: records.Problem, rng: np.random.Generator
  ) -> list[records.Critique]:
    """The gold, another right solution, and an error of each kind that fits."""
    rows = [self.critique(problem, problem.gold, "gold", ())]
    other = self.variant(problem, rng)
    if other != problem.gold:
      rows.append(self.critique(problem, other, "variant", ()))
    for kind in self.kinds:
      if planted := self.plant(problem, rng, kind):
        text, step = planted
        place = (f"#{step}",)
        rows.append(self.critique(problem, text, kind, (kind,), place))
    return rows

  def vocabulary(self) -> tuple[str, ...]:
    """Every word of questions, completions and feedback."""
    limit = self.level.limit
    said = f"step : , {' '.join(PHRASES.values())} {self.no_hint}".split()
    words = (
      *arithmetic_story.words(self.level),
      *arithmetic_solution.words(self.form, limit),
      *(str(n) for n in range(1, 10)),
      *said,
    )
    if self.detail == "fix":
      words += arithmetic_solution.words("text", limit)
    return tuple(dict.fromkeys(words))

  def corpus(self) -> Iterable[str]:
    """Every word, then questions, solutions and feedback of 500 rows."""
    yield " ".join(self.vocabulary())
    for row in self.source("train").rows[:500]:
      problem = self.problem(row)
      yield problem.question
      yield problem.gold
      for critique in self.perturb(problem, np.random.default_rng(0)):
        yield critique.hypothesis
        yield critique.feedback


def _one_of(name: str, value: Any, values: Iterable[Any]) -> None:
  if value not in values:
    raise ValueError(
      f"{name}={value!r} is none of {', '.join(map(str, values))}"
    )
