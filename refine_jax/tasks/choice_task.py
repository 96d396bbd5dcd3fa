"""What the multiple-choice data sets have in common."""

import abc
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from refine_jax import files, records
from refine_jax.tasks import base, choices, mwp_rows, published_rows, tables


class ChoiceTask(base.Task):
  """A question, options, a letter.

  The completion is a line per thought, the last of them `The answer is: C`.
  Rows are local files (`<path>/<name>/<split>.jsonl`, see
  `published_rows`) or those of a `datasets` name.

  Args:
    path: the data folder.
    dataset: a `datasets` name to read instead; `hub` is the usual one.
    config: its configuration name.
    mode: `strict`, or `compat` for the published extraction.
    seed, validation_share: which texts of train go to validation.
  """

  name: str
  hub: tuple[str, str | None]  # where the rows usually come from
  # Which split of the files each of ours is; the published test splits often
  # have no answers.
  splits: Mapping[str, str]
  words: Mapping[str, str] = {}
  markers = ("\n", "The answer is: ")

  def __init__(
    self,
    path: str = "data",
    *,
    dataset: str | None = None,
    config: str | None = None,
    mode: str = "strict",
    seed: int = 0,
    validation_share: float = 0.1,
  ):
    if mode not in choices.MODES:
      raise ValueError(f"mode={mode!r} is none of {', '.join(choices.MODES)}")
    self.path, self.dataset, self.mode = files.path(path), dataset, mode
    if dataset == self.hub[0] and config is None:
      config = self.hub[1]
    self.config, self.seed = config, seed
    self.validation_share = validation_share

  @abc.abstractmethod
  def parsed(self, row: Mapping[str, Any]) -> tuple[str, list[str], str]:
    """Question, options, and the right option's letter."""

  def thoughts(self, row: Mapping[str, Any]) -> Sequence[str]:
    """Lines before the answer, where a row has them."""
    return ()

  def source(self, split: str) -> records.Source:
    wanted = {"dev": "validation"}.get(split, split)
    if wanted not in self.splits:
      raise base.unknown_split(self, split, (*self.splits, "dev"))
    rows = published_rows.Published(
      self.path / self.name,
      self.splits[wanted],
      name=self.name,
      dataset=self.dataset,
      config=self.config,
      keep=functools.partial(self._belongs, wanted),
    )
    return records.Source(rows=rows, name=str(rows), split=split)

  def _belongs(self, split: str, row: Mapping[str, Any]) -> bool:
    """Validation is part of train, unless it has a file of its own."""
    shared = self.splits["train"] == self.splits.get("validation")
    if not shared or split == "test":
      return True
    text = mwp_rows.normalised(self.parsed(row)[0])
    held = published_rows.share(text, self.seed) < self.validation_share
    return held == (split == "validation")

  def problem(self, row: Mapping[str, Any]) -> records.Problem:
    question, options, answer = self.parsed(row)
    if not 2 <= len(options) <= len(choices.LETTERS):
      raise tables.bad(row, "not 2 to 10 options", "options", options)
    if answer not in choices.LETTERS[: len(options)]:
      raise tables.bad(row, "no such option", "answer", answer)
    lines = [base.squeeze(line) for line in self.thoughts(row)]
    return records.Problem(
      id=str(row["id"]),
      question=self.asked(question.strip(), options),
      gold="\n".join((*filter(None, lines), f"The answer is: {answer}")),
      answer=answer,
      meta={"options": list(options), "category": row.get("category", "")},
    )

  def asked(self, question: str, options: Sequence[str]) -> str:
    """The question with its options."""
    return f"{question}\nChoices: {choices.shown(options)}"

  def prompt(self, problem: records.Problem) -> str:
    return f"Question: {problem.question}\nAnswer:"

  def target(self, problem: records.Problem) -> str:
    return f"\n{problem.gold}"

  def steps(self, completion: str) -> list[str]:
    """Its lines: what a demonstration shows one by one."""
    return [line for line in completion.strip().split("\n") if line.strip()]

  def examples(
    self, problem: records.Problem, count: int, seed: int = 0
  ) -> list[records.Problem]:
    """Demonstrations from train, the same for a seed, without the problem."""
    rows = self.source("train").rows
    order = np.random.default_rng(seed).permutation(len(rows))
    made = []
    for i in order:
      example = self.problem(rows[int(i)])
      if example.question != problem.question and self.fits(example, problem):
        made.append(example)
      if len(made) == count:
        break
    return made

  def fits(self, example: records.Problem, problem: records.Problem) -> bool:
    """Whether an example may stand before a problem."""
    return True

  def answer(self, completion: str) -> str | None:
    """A letter that may be one of ten options; see `check` for how many."""
    return self._letter(completion, len(choices.LETTERS))

  def _letter(self, completion: str, count: int) -> str | None:
    if self.mode == "compat":
      return self.published(completion)
    return choices.letter(completion, count, self.words)

  def published(self, completion: str) -> str | None:
    return choices.published(completion)

  def check(self, problem: records.Problem, completion: str) -> bool:
    return self._found(problem, completion) == problem.answer

  def _found(self, problem: records.Problem, completion: str) -> str | None:
    count = len(problem.meta.get("options", choices.LETTERS))
    return self._letter(completion, count)

  def metrics(
    self, problem: records.Problem, completion: str
  ) -> dict[str, float]:
    """`answer`: it is right; `answered`: a letter could be read."""
    found = self._found(problem, completion)
    return {
      "answer": float(found == problem.answer),
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
      yield self.target(problem)


def labelled(row: Mapping[str, Any]) -> tuple[list[str], str]:
  """Options and answer of rows with `choices` and `answerKey` (CSQA, ARC).

  Labels may be letters or numbers; the answer is made a letter.
  """
  options = tables.field(row, "choices", Mapping)
  labels, texts = list(options["label"]), list(options["text"])
  key = tables.field(row, "answerKey")
  if key not in labels:
    raise tables.bad(row, f"is none of {labels}", "answerKey", key)
  return texts, choices.LETTERS[labels.index(key)]
