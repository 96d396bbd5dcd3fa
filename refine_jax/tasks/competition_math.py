r"""MATH: competition problems whose answers are formulas in a `\boxed{}`.

Rows have `problem`, `solution`, `level` and `type`, in the layout of the
published archive (`competition_math/{train,test}/<subject>/<n>.json`), as
`competition_math/{train,test}.jsonl`, or under a `datasets` name.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from refine_jax import files, records
from refine_jax.tasks import answers, base, mwp_rows, published_rows, tables

SPLITS = {"train": "train", "validation": "train", "test": "test"}
PROMPTS = ("framed", "bare")


class CompetitionMath(base.Task):
  r"""Competition maths, compared as `answers` compares.

  Args:
    path: the data folder.
    dataset: a `datasets` name to read instead, and its `config`.
    mode: `strict`, `lenient` or `compat`, see `answers`.
    prompt: `framed` between `Problem:` and `Solution:`, or `bare`, the
      problem alone, for templates that have words of their own.
    ignore_marks: whether `10\%` is 10 and `x = 5` is 5; not in `compat`,
      where the published code says what is.
    levels: of difficulty, 1 to 5; all by default.
    subjects: of `type`; all by default.
    seed, validation_share: which texts of train go to validation.
  """

  markers = ("\n", "\\boxed{", "$")

  def __init__(
    self,
    path: str = "data",
    *,
    dataset: str | None = None,
    config: str | None = None,
    mode: str = "strict",
    prompt: str = "framed",
    ignore_marks: bool = True,
    levels: Sequence[int] = (),
    subjects: Sequence[str] = (),
    seed: int = 0,
    validation_share: float = 0.1,
  ):
    if mode not in answers.MODES:
      raise ValueError(f"mode={mode!r} is none of {', '.join(answers.MODES)}")
    if prompt not in PROMPTS:
      raise ValueError(f"prompt={prompt!r} is none of {', '.join(PROMPTS)}")
    if not 0 < validation_share < 1:
      raise ValueError(
        f"validation_share must lie between 0 and 1, got {validation_share}"
      )
    self.path = files.path(path) / "competition_math"
    self.dataset, self.config, self.mode = dataset, config, mode
    self.bare, self.ignore_marks = prompt == "bare", ignore_marks
    self.levels, self.subjects = frozenset(levels), frozenset(subjects)
    self.seed, self.validation_share = seed, validation_share

  def source(self, split: str) -> records.Source:
    wanted = {"dev": "validation"}.get(split, split)
    if wanted not in SPLITS:
      raise base.unknown_split(self, split, (*SPLITS, "dev"))
    rows = published_rows.Published(
      self.path,
      SPLITS[wanted],
      name="math",
      dataset=self.dataset,
      config=self.config,
      keep=functools.partial(self._belongs, wanted),
    )
    return records.Source(rows=rows, name=str(rows), split=split)

  def _belongs(self, split: str, row: Mapping[str, Any]) -> bool:
    if self.levels and _level(row) not in self.levels:
      return False
    if self.subjects and row.get("type") not in self.subjects:
      return False
    if split == "test":
      return True
    text = mwp_rows.normalised(str(row.get("problem")))
    held = published_rows.share(text, self.seed) < self.validation_share
    return held == (split == "validation")

  def problem(self, row: Mapping[str, Any]) -> records.Problem:
    question = tables.field(row, "problem").strip()
    solution = tables.field(row, "solution").strip()
    answer = answers.gold(solution, "formula", self.mode)
    shown = answer or answers.gold(solution, "formula")
    if shown is None:
      raise tables.bad(row, "no boxed answer", "solution", solution)
    return records.Problem(
      id=str(row["id"]),
      question=question,
      gold=f"{solution}\nThe answer is $\\boxed{{{shown}}}$.",
      answer=answer or "",  # as published, `\fbox{5}` is no answer
      meta={"level": _level(row), "subject": row.get("type", "")},
    )

  def prompt(self, problem: records.Problem) -> str:
    if self.bare:
      return problem.question
    return f"Problem:\n{problem.question}\nSolution:\n"

  def answer(self, completion: str) -> str | None:
    return answers.said(completion, "formula", self.mode)

  def check(self, problem: records.Problem, completion: str) -> bool:
    return self.check_all([problem], [completion])[0]

  def check_all(
    self, problems: Sequence[records.Problem], completions: Sequence[str]
  ) -> list[bool]:
    """`check` of many; a problem without an answer is never right."""
    found = self.answers(completions)
    pairs = [
      (p.answer, f if p.answer else None)
      for p, f in zip(problems, found, strict=True)
    ]
    return answers.same_all(pairs, self.mode, ignore_marks=self.ignore_marks)

  def rewards(
    self, problems: Sequence[records.Problem], completions: Sequence[str]
  ) -> list[float]:
    return [float(right) for right in self.check_all(problems, completions)]

  def canonical(self, completion: str) -> str | None:
    return self.canonicals([completion])[0]

  def canonicals(self, completions: Sequence[str]) -> list[str | None]:
    """`canonical` of many."""
    found = self.answers(completions)
    return answers.keys(found, self.mode, ignore_marks=self.ignore_marks)

  def metrics(
    self, problem: records.Problem, completion: str
  ) -> dict[str, float]:
    """`answer`: it is right; `answered`: there is one."""
    return {
      "answer": float(self.check(problem, completion)),
      "answered": float(self.answer(completion) is not None),
    }

  def corpus(self) -> Iterable[str]:
    """Prompts and solutions of the training split."""
    for row in self.source("train").rows:
      try:
        problem = self.problem(row)
      except records.BadRow:
        continue
      yield self.prompt(problem)
      yield self.target(problem)


def _level(row: Mapping[str, Any]) -> int:
  """`Level 3` or 3 as 3; 0 where it is not known."""
  digits = str(row.get("level", "")).removeprefix("Level").strip()
  return int(digits) if digits.isdecimal() else 0
