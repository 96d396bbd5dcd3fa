"""Chains of calculations whose next step follows a rule nobody states.

    sign red start 7
    7 alpha 14
    14 delta 9
    9 alpha 16
    answer 16

Which of four operations comes next follows from the sign and from whether
the number is odd. Texts of the `base` split know the operations and obey
hints (`use delta`), but choose at random; `documents` keep the rule. So a
model of `base` cannot choose well by itself, and a rationale that is learned
from documents tells it how: what RATIONALYST claims, at the size of a test.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from refine_jax import records
from refine_jax.tasks import base

SIGNS = ("red", "blue", "green", "white")
OPERATIONS = ("alpha", "beta", "gamma", "delta")
# Hints that say nothing of what comes next.
IDLE = ("look well", "go on", "be calm")
SUBSETS = ("chains", "prose")
_FACTORS, _SHIFTS = (1, 5, 7, 11), (5, 3, 2, 1)
_PROSE = (
  "the old house stood near a river and every summer its windows were open"
  " while people of the town walked by to see boats or talk about weather"
)
_WORDS = tuple(_PROSE.split())
_STEP = re.compile(r"(\d+) (\w+) (\d+)")
_QUESTION = re.compile(r"sign (\w+) start (\d+)")


class HintChains(base.Task):
  """Splits: `base` texts, `documents` for rationales, `train`, `dev`, `test`.

  Args:
    numbers: they are below this.
    steps: of every chain.
    size: rows of `base` and `documents`; `eval_size` of `dev` and `test`.
    prose: the share of `documents` that is no chain at all.
    open, close: what stands around a hint.
    true, idle: shares of planted hints that are right, and that say nothing;
      the others name a wrong operation.
    seed: of the rows.
  """

  def __init__(
    self,
    *,
    numbers: int = 24,
    steps: int = 3,
    size: int = 4000,
    eval_size: int = 400,
    prose: float = 0.3,
    open: str = "<BOT>",
    close: str = "<EOT>",
    true: float = 0.5,
    idle: float = 0.2,
    seed: int = 0,
  ):
    self._numbers, self._steps, self._seed = numbers, steps, seed
    self._sizes = {
      "base": size,
      "documents": size,
      "train": size,
      "dev": eval_size,
      "test": eval_size,
    }
    self._prose, self._true, self._idle = prose, true, idle
    self._open, self._close = open, close
    self.markers = (open, close, "\n")

  # Rows.

  def source(self, split: str) -> records.Source:
    if split not in self._sizes:
      raise base.unknown_split(self, split, self._sizes)
    kind = list(self._sizes).index(split)
    rows = [
      {"id": f"{split}-{i:05d}", "split": split, "seed": (self._seed, kind, i)}
      for i in range(self._sizes[split])
    ]
    make = self._document if split == "documents" else self._row
    return records.Source(rows=[make(row) for row in rows], name=split)

  def _row(self, row: dict) -> dict:
    rng = np.random.default_rng(row["seed"])
    sign, start = str(rng.choice(SIGNS)), int(rng.integers(self._numbers))
    choose = None if row["split"] == "base" else self.rule
    lines = self._chain(sign, start, choose, rng)
    return {**row, "sign": sign, "start": start, "lines": lines}

  def _document(self, row: dict) -> dict:
    rng = np.random.default_rng([*row["seed"], 1])
    if rng.random() < self._prose:
      text = " ".join(rng.choice(_WORDS, 24))
      return {"id": row["id"], "subset": "prose", "text": text}
    made = self._row(row)
    text = "\n".join([_question(made), *made["lines"]])
    return {"id": row["id"], "subset": "chains", "text": text}

  def _chain(self, sign, start, choose, rng) -> list[str]:
    lines, number = [], start
    for _ in range(self._steps):
      name = str(rng.choice(OPERATIONS)) if choose is None else None
      name = name or choose(sign, number)
      lines.append(f"{number} {name} {self.apply(name, number)}")
      number = self.apply(name, number)
    return [*lines, f"answer {number}"]

  def rule(self, sign: str, number: int) -> str:
    """The operation that documents take."""
    return OPERATIONS[(SIGNS.index(sign) + 2 * (number % 2)) % 4]

  def apply(self, name: str, number: int) -> int:
    at = OPERATIONS.index(name)
    return (_FACTORS[at] * number + _SHIFTS[at]) % self._numbers

  # The task.

  def problem(self, row: Mapping[str, Any]) -> records.Problem:
    lines = row["lines"]
    return records.Problem(
      id=row["id"],
      question=_question(row),
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
    number = int(found[2])
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
    hints = " ".join(("use", *IDLE, self._open, self._close))
    return [f"sign {signs} start {numbers}\n{ops} answer {hints}", _PROSE]

  # What is planted.

  def base_examples(self) -> list[records.Example]:
    """Chains without a rule, half of them with one hint to be obeyed.

    A hint is learned but not that there is one, so that a model of these
    texts writes hints when it is asked to and at no other time.
    """
    rows = [self._row(dict(row)) for row in self.source("base").rows]
    return [self._base_example(row) for row in rows]

  def _base_example(self, row: dict) -> records.Example:
    rng = np.random.default_rng([*row["seed"], 2])
    lines, prompt = row["lines"], (f"{_question(row)}\n",)
    if rng.random() < 0.4:
      return records.Example(row["id"], prompt, ("\n".join(lines),))
    at = int(rng.integers(self._steps))
    operation = lines[at].split()[1]
    hint = self._hint(operation, rng, wrong=0.05, idle=0.15)
    before = "".join(f"{line}\n" for line in lines[:at])
    target = [before] if before else []
    learn = [True] * len(target)
    target += [self._open, f"{hint} {self._close}\n", "\n".join(lines[at:])]
    return records.Example(
      row["id"], prompt, tuple(target), (*learn, False, True, True)
    )

  def _hint(self, operation, rng, *, wrong: float, idle: float) -> str:
    drawn = rng.random()
    if drawn < idle:
      return str(rng.choice(IDLE))
    if drawn < idle + wrong:
      operation = str(rng.choice([o for o in OPERATIONS if o != operation]))
    return f"use {operation}"

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
    words: Sequence[str] = following.split()
    return len(words) > 1 and rationale == f"use {words[1]}"


def _question(row: Mapping[str, Any]) -> str:
  return f"sign {row['sign']} start {row['start']}"
