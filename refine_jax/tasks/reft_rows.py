"""What ReFT's four data sets have in common: rows, prompts, batch checks."""

import abc
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from refine_jax import files, records
from refine_jax.tasks import (
  base,
  mwp_rows,
  numeric_answers,
  programs,
  reft_text,
  tables,
)

SPLITS = ("train", "validation", "test")
FORMS = {"text": "nl", "program": "python_sdp"}
PROMPTS = ("framed", "bare")
ENDINGS = ("reft", "sentence")
FORCED = ("always", "sample", "never")


class ReftTask(base.Task):
  """Word problems whose answers are reached in words or by a program.

  Rows are ReFT's (`item_id`, `question`, `answer_value`, in the training file
  `answer_cot`) from `<path>/reft`; `validation` is part of the training file.
  The reward is 1, `partial` for an answer that is wrong, 0 for none.

  Args:
    path: the data folder.
    form: `text` (N-CoT) or `program` (P-CoT).
    mode: `strict`, or `compat` for the scores of the published code.
    forced: what to do with a program's first lines, the function and the
      question as its docstring. `always` they end the prompt, in training
      too; `sample` they are not in the prompt but in `prefix`, to be put
      after it where programs are sampled, as published; `never`.
    prompt: `framed` by ReFT's words, or of a `text` `bare`, the question
      alone, for templates that have words of their own.
    ending: how a `text` says its answer. `reft`: `Therefore, the answer is:
      72`. `sentence`: `The answer is 72.`, as MathCritique's actor is asked
      to; what a model adds about its answer is no answer then.
    partial: the reward of a wrong answer (ReFT, section 3.2: 0.1).
    seed, validation_share: which texts go to validation, and how many.
  """

  name: str  # of the files
  markers = ("\n",)

  def __init__(
    self,
    path: str = "data",
    *,
    form: str = "program",
    mode: str = "strict",
    forced: str = "always",
    prompt: str = "framed",
    ending: str = "reft",
    partial: float = 0.1,
    seed: int = 0,
    validation_share: float = 0.1,
  ):
    _one_of("form", form, FORMS)
    _one_of("mode", mode, self.modes(form))
    _one_of("forced", forced, FORCED)
    _one_of("prompt", prompt, PROMPTS)
    _one_of("ending", ending, ENDINGS)
    if form != "text" and (prompt != "framed" or ending != "reft"):
      raise ValueError(
        f"prompt={prompt!r}, ending={ending!r}: a program has its own"
      )
    if mode == "compat" and ending != "reft":
      raise ValueError(
        f"ending={ending!r} is none that mode='compat' finds an answer after"
      )
    if not 0 < validation_share < 1:
      raise ValueError(
        f"validation_share must lie between 0 and 1, got {validation_share}"
      )
    self.path, self.form, self.mode = files.path(path), form, mode
    self.forced = forced if form == "program" else "never"
    self.bare, self.sentence = prompt == "bare", ending == "sentence"
    self.partial, self.seed = partial, seed
    self.validation_share = validation_share

  def modes(self, form: str) -> tuple[str, ...]:
    """Ways of scoring."""
    return numeric_answers.MODES

  def ending(self, value: str) -> str:
    """How a gold text says its answer."""
    if self.sentence:
      return reft_text.SENTENCE.format(value)
    return f"{reft_text.ANSWER}{value}"

  @abc.abstractmethod
  def read(self, value: object) -> Any:
    """An answer out of a program's value or a text; None if it is none."""

  @abc.abstractmethod
  def same(self, found: Any, gold: Any) -> bool:
    """Whether an answer is right."""

  @abc.abstractmethod
  def shown(self, answer: Any) -> str:
    """An answer's one spelling."""

  def gold(self, text: str) -> Any:
    """A row's answer; ValueError if it is none."""
    found = self.read(text.replace(",", ""))
    if found is None:
      raise ValueError("not an answer")
    return found

  def files(self, split: str) -> Sequence[files.Path]:
    """Where the rows of `train` or `test` may be; the first there is counts."""
    kind = FORMS[self.form] if split == "train" else "test_set"
    return (self.path / "reft" / f"{self.name}_{kind}.json",)

  def source(self, split: str) -> records.Source:
    wanted = {"dev": "validation"}.get(split, split)
    if wanted not in SPLITS:
      raise base.unknown_split(self, split, (*SPLITS, "dev"))
    there = self.files("test" if wanted == "test" else "train")
    path = next((p for p in there if p.is_file()), None)
    if path is None:
      raise FileNotFoundError(
        f"{self.name} {split}: no file {' or '.join(map(str, there))}; see"
        " docs/data_formats.md"
      )
    keep = None
    if wanted != "test":
      keep = functools.partial(self._belongs, wanted == "validation")
    table = tables.Table(path, name=f"{self.name}-{path.stem}", keep=keep)
    return records.Source(rows=table, name=str(path), split=split)

  def _belongs(self, validation: bool, row: Mapping[str, Any]) -> bool:
    """Rows of equal text fall on the same side."""
    text = mwp_rows.normalised(str(row.get("question")))
    digest = hashlib.blake2b(f"{self.seed}:{text}".encode(), digest_size=8)
    place = int.from_bytes(digest.digest(), "little")
    return (place < self.validation_share * 2**64) == validation

  def problem(self, row: Mapping[str, Any]) -> records.Problem:
    question = tables.field(row, "question").strip()
    value = tables.field(row, "answer_value").strip()
    cot = row.get("answer_cot") or ""
    return self.made(
      row, str(row.get("item_id", row["id"])), question, value, cot
    )

  def made(
    self, row: Mapping[str, Any], name: str, question: str, value: str, cot: str
  ) -> records.Problem:
    """A problem; a row without a solution in this form has no gold."""
    try:
      answer = self.gold(value)
    except ValueError as error:
      raise tables.bad(row, str(error), "answer_value", value) from None
    gold = cot.strip()
    if gold and self.form == "text":
      gold += self.ending(value)
    elif gold:
      try:
        gold = reft_text.header(question) + reft_text.body(gold)
      except ValueError as error:
        raise tables.bad(row, str(error), "answer_cot", cot) from None
    return records.Problem(
      id=name,
      question=question,
      gold=gold,
      answer=self.shown(answer),
      meta={"value": value},
    )

  def prompt(self, problem: records.Problem) -> str:
    if self.bare:
      return problem.question
    ending = self._header(problem) if self.forced == "always" else ""
    return reft_text.prompt(problem.question) + ending

  def prefix(self, problem: records.Problem) -> str:
    """What a sampled program is made to begin with, after the prompt."""
    return self._header(problem) if self.forced == "sample" else ""

  def _header(self, problem: records.Problem) -> str:
    return reft_text.header(problem.question)

  def target(self, problem: records.Problem) -> str:
    if not problem.gold:
      raise ValueError(
        f"{problem.id}: the row has an answer but no {self.form} to learn from"
      )
    if self.forced == "always":
      return problem.gold.removeprefix(self._header(problem))
    return problem.gold

  def answer(self, completion: str) -> str | None:
    return self.answers([completion])[0]

  def answers(self, completions: Sequence[str]) -> list[str | None]:
    found = self.found(completions)
    return [None if x is None else self.shown(x) for x in found]

  def found(self, completions: Sequence[str]) -> list[Any]:
    """The answers of many completions as values; programs run in the pool."""
    if self.form == "program":
      texts = [reft_text.program(c, self.mode) for c in completions]
      outcomes = programs.shared().run(texts)
      return [self.read(outcome.value) for outcome in outcomes]
    return [self._read_text(completion) for completion in completions]

  def _read_text(self, completion: str) -> Any:
    candidates = reft_text.said(completion, self.mode, remarks=self.sentence)
    answers = (self.read(candidate) for candidate in candidates)
    return next((a for a in answers if a is not None), None)

  def check(self, problem: records.Problem, completion: str) -> bool:
    return self.check_all([problem], [completion])[0]

  def check_all(
    self, problems: Sequence[records.Problem], completions: Sequence[str]
  ) -> list[bool]:
    pairs = zip(problems, self.found(completions), strict=True)
    return [self._right(problem, found) for problem, found in pairs]

  def _right(self, problem: records.Problem, found: Any) -> bool:
    if found is None or "value" not in problem.meta:  # one's own has no gold
      return False
    return self.same(found, self.gold(problem.meta["value"]))

  def reward(self, problem: records.Problem, completion: str) -> float:
    return self.rewards([problem], [completion])[0]

  def rewards(
    self, problems: Sequence[records.Problem], completions: Sequence[str]
  ) -> list[float]:
    pairs = zip(problems, self.found(completions), strict=True)
    return [
      0.0 if x is None else 1.0 if self._right(p, x) else float(self.partial)
      for p, x in pairs
    ]

  def metrics(
    self, problem: records.Problem, completion: str
  ) -> dict[str, float]:
    """`answer`: it is right; `answered`: there is one."""
    found = self.found([completion])[0]
    return {
      "answer": float(self._right(problem, found)),
      "answered": float(found is not None),
    }

  def corpus(self) -> Iterable[str]:
    """Prompts and targets of the training split."""
    for row in self.source("train").rows:
      try:
        problem = self.problem(row)
      except records.BadRow:
        continue
      yield self.prompt(problem)
      if problem.gold:
        yield self.target(problem)


class NumericTask(ReftTask):
  """Answers are numbers, right within `numeric_answers.TOLERANCE`."""

  @property
  @abc.abstractmethod
  def name(self) -> str: ...

  def read(self, value: object) -> float | None:
    return numeric_answers.number(value, self.mode)

  def same(self, found: float, gold: float) -> bool:
    return numeric_answers.same(found, gold, self.mode)

  def shown(self, answer: float) -> str:
    return numeric_answers.shown(answer)

  def canonical(self, completion: str) -> str | None:
    return self.canonicals([completion])[0]

  def canonicals(self, completions: Sequence[str]) -> list[str | None]:
    """`canonical` of many."""
    found = self.found(completions)
    return [None if x is None else self.key(x) for x in found]

  def key(self, answer: float) -> str:
    """The name under which an answer votes."""
    return numeric_answers.key(answer, self.mode)


def _one_of(name: str, value: Any, values: Iterable[Any]) -> None:
  if value not in values:
    raise ValueError(f"{name}={value!r} is none of {', '.join(values)}")
