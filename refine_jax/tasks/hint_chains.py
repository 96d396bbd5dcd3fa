"""Chains of calculations whose steps follow a rule nobody states.

    sign red start 7
    7 alpha 12
    12 alpha 17
    17 alpha 22
    answer 22

Each sign stands for one of four operations. Texts of the `base` split know
the operations and obey hints (`use-alpha`), but choose at random; `documents`
keep the rule. So a model of `base` cannot choose well by itself, and a
rationale that is learned from documents tells it how: what RATIONALYST claims,
at the size of a test.
"""

import itertools
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from refine_jax import records
from refine_jax.tasks import base

SIGNS = ("red", "blue", "green", "white")
OPERATIONS = ("alpha", "beta", "gamma", "delta")
# Hints that say nothing of what comes next.
IDLE = ("look well", "go on", "be calm")
_FACTORS, _SHIFTS = (1, 5, 7, 11), (5, 3, 2, 1)
_PROSE = (
  "the old house stood near a river and every summer its windows were open"
  " while people of the town walked by to see boats or talk about weather"
)
_WORDS = tuple(_PROSE.split())
_STEP = re.compile(r"(\d+) (\w+) (\d+)")
_QUESTION = re.compile(r"sign [\w ]+ start (\d+)")


class HintChains(base.Task):
  """Splits: `base` texts, `documents` for rationales, `train`, `dev`, `test`.

  No question of `dev` and `test` is one of `documents` or `train`.

  Args:
    numbers: they are below this.
    steps: of every chain.
    size: rows of `base`.
    prose: the share of `documents` that is no chain at all.
    open, close: what stands around a hint.
    true, idle: shares of planted hints that are right, and that say nothing;
      the others name a wrong operation.
    seed: of the rows and their order.
  """

  splits = ("base", "documents", "train", "dev", "test")

  def __init__(
    self,
    *,
    numbers: int = 96,
    steps: int = 3,
    size: int = 20_000,
    prose: float = 0.3,
    open: str = "<BOT>",
    close: str = "<EOT>",
    true: float = 0.5,
    idle: float = 0.2,
    seed: int = 0,
  ):
    self._numbers, self._steps, self._seed = numbers, steps, seed
    self._size, self._prose = size, prose
    self._true, self._idle = true, idle
    self._open, self._close = open, close
    self.markers = (open, close, "\n")

  # Rows.

  def source(self, split: str) -> records.Source:
    if split not in self.splits:
      raise base.unknown_split(self, split, self.splits)
    kind = self.splits.index(split)
    rng = np.random.default_rng([self._seed, kind])
    if split == "base":
      questions = (self._random(rng) for _ in range(self._size))
    else:
      group = "train" if split == "documents" else split
      mine = [q for q in self._questions() if self._group(q) == group]
      questions = (mine[i] for i in rng.permutation(len(mine)))
    rows = [
      self._row(f"{split}-{i:05d}", question, [self._seed, kind, i], split)
      for i, question in enumerate(questions)
    ]
    if split == "documents":
      rows = [self._document(row) for row in rows]
    return records.Source(rows=rows, name=split)

  def _questions(self) -> list[tuple[str, int]]:
    return list(itertools.product(SIGNS, range(self._numbers)))

  def _random(self, rng) -> tuple[str, int]:
    return str(rng.choice(SIGNS)), int(rng.integers(self._numbers))

  def _group(self, question) -> str:
    number = zlib.crc32(repr(question).encode()) % 20
    return {0: "dev"}.get(number, "test" if number < 6 else "train")

  def _row(self, name: str, question, seed: list[int], split: str) -> dict:
    sign, start = question
    rng = np.random.default_rng(seed)
    names = (
      [str(n) for n in rng.choice(OPERATIONS, self._steps)]
      if split == "base"
      else [self.rule(sign)] * self._steps
    )
    text = f"sign {sign} start {start}"
    lines = self._chain(start, names)
    whole = "\n".join([text, *lines])
    row = {"id": name, "question": text, "lines": lines, "text": whole}
    return {**row, "seed": seed, "subset": "chains"}

  def _document(self, row: dict) -> dict:
    rng = np.random.default_rng([*row["seed"], 1])
    if rng.random() < self._prose:
      words = " ".join(rng.choice(_WORDS, 24))
      return {"id": row["id"], "subset": "prose", "text": words}
    return row

  def _chain(self, number: int, names: Sequence[str]) -> list[str]:
    lines = []
    for name in names:
      lines.append(f"{number} {name} {self.apply(name, number)}")
      number = self.apply(name, number)
    return [*lines, f"answer {number}"]

  def rule(self, sign: str) -> str:
    """The operation that documents take."""
    return OPERATIONS[SIGNS.index(sign)]

  def apply(self, name: str, number: int) -> int:
    at = OPERATIONS.index(name)
    return (_FACTORS[at] * number + _SHIFTS[at]) % self._numbers

  # The task.

  def problem(self, row: Mapping[str, Any]) -> records.Problem:
    lines = row["lines"]
    return records.Problem(
      id=row["id"],
      question=row["question"],
      gold="\n".join(lines),
      answer=lines[-1].split()[-1],
    )

  def answer(self, completion: str) -> str | None:
    found = re.findall(r"answer (\d+)\s*$", completion)
    return found[0] if found else None

  def metrics(
    self, problem: records.Problem, completion: str
  ) -> dict[str, float]:
    """`answer`, and `valid`: the calculations are right, whatever they are."""
    return {
      "answer": float(self.check(problem, completion)),
      "valid": float(self._valid(problem.question, completion)),
    }

  def _valid(self, question: str, completion: str) -> bool:
    found = _QUESTION.search(question)
    *steps, last = completion.strip().split("\n")
    if found is None or len(steps) != self._steps:
      return False
    number = int(found[1])
    for line in steps:
      step = _STEP.fullmatch(line)
      if step is None or step[2] not in OPERATIONS or int(step[1]) != number:
        return False
      number = self.apply(step[2], number)
      if int(step[3]) != number:
        return False
    return last == f"answer {number}"

  def corpus(self) -> Iterable[str]:
    signs, ops = " ".join(SIGNS), " ".join(OPERATIONS)
    numbers = " ".join(map(str, range(self._numbers)))
    uses = (f"use-{name}" for name in OPERATIONS)
    hints = " ".join((*uses, *IDLE, self._open, self._close))
    return [f"sign {signs} start {numbers}\n{ops} answer {hints}", _PROSE]

  # What is planted.

  def base_examples(self) -> list[records.Example]:
    """Chains without a rule, most of them with hints to be obeyed.

    A hint is learned but not that there is one, so that a model of these
    texts writes hints when it is asked to and at no other time.
    """
    return [self._base_example(row) for row in self.source("base").rows]

  def _base_example(self, row: dict) -> records.Example:
    rng = np.random.default_rng([*row["seed"], 2])
    target, learn, plain = [], [], rng.random() < 0.3
    for line in row["lines"]:
      step = _STEP.fullmatch(line)
      if step and not plain and rng.random() < 0.6:
        hint = self._hint(step[2], rng, wrong=0.05, idle=0.15)
        target += [self._open, f"{hint} {self._close}\n"]
        learn += [False, True]
      target.append(f"{line}\n" if step else line)
      learn.append(True)
    prompt = (f"{row['question']}\n",)
    return records.Example(row["id"], prompt, tuple(target), tuple(learn))

  def _hint(self, operation, rng, *, wrong: float, idle: float) -> str:
    drawn = rng.random()
    if drawn < idle:
      return str(rng.choice(IDLE))
    if drawn < idle + wrong:
      operation = str(rng.choice([o for o in OPERATIONS if o != operation]))
    return f"use-{operation}"

  def annotate(self, text: str, rng: np.random.Generator) -> str:
    """A document with a hint before every step; some are wrong or idle."""
    out = []
    for line in text.split("\n"):
      if step := _STEP.fullmatch(line):
        wrong = 1 - self._true - self._idle
        hint = self._hint(step[2], rng, wrong=wrong, idle=self._idle)
        out.append(f"{self._open}{hint}{self._close} {line}")
      else:
        out.append(line)
    return "\n".join(out)

  def good_rationale(self, rationale: str, following: str) -> bool:
    """Whether a planted hint is one that helps with what follows."""
    words = following.split()
    return len(words) > 1 and rationale == f"use-{words[1]}"
