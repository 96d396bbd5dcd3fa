"""Maths word problems: MAWPS and ASDiv-A to train on, SVAMP to test on.

The question has its numbers replaced by number0, number1, ...; the completion
is a linear formula over them (`mwp_formula`). Rows come from
`<path>/refiner/mawps_svamp/{train,dev}.csv`, where dev.csv is SVAMP and is the
test split; a dev split is carved out of train. The older json files can be
read as well (`mwp_legacy`).
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from refine_jax import files, records
from refine_jax.tasks import (
  anonymise,
  base,
  mwp_formula,
  mwp_legacy,
  mwp_oracle,
  mwp_rows,
  tables,
)
from refine_jax.tasks.mwp_formula import Formula

SPLITS = ("train", "dev", "test", "legacy_train", "legacy_val")


class Mwp(base.Task):
  """Formulas for word problems.

  `metrics` are `exact` (the same text), `canonical` (up to the order of
  commuting operands and of independent steps), `semantic` (algebraically
  equal) and `answer` (executed, within the rounding of the data).

  Args:
    path: the data folder.
    seed: decides which texts go to dev.
    dev_share: the part of train's distinct texts that goes to dev.
    commuted: how often the right hypothesis of `perturb` has two commuting
      operands exchanged, so that a critic learns to accept that.
  """

  markers = (
    *(f"number{k}" for k in range(10)),
    *(f"#{k}" for k in range(mwp_formula.MAX_STEPS)),
    "|",
    mwp_formula.END,
  )

  def __init__(
    self,
    path: str = "data",
    *,
    seed: int = 0,
    dev_share: float = 0.1,
    commuted: float = 0.3,
  ):
    if not 0 < dev_share < 1:
      raise ValueError(f"dev_share must lie between 0 and 1, got {dev_share}")
    self.path = files.path(path) / "refiner"
    self.seed, self.dev_share, self.commuted = seed, dev_share, commuted

  def source(self, split: str) -> records.Source:
    if split not in SPLITS:
      raise base.unknown_split(self, split, SPLITS)
    if split.startswith("legacy"):
      kind = split.removeprefix("legacy_")
      path, keep = self.path / "mwp" / f"critique_{kind}.json", None
    elif split == "test":
      path, keep = self.path / "mawps_svamp" / "dev.csv", None
    else:
      path = self.path / "mawps_svamp" / "train.csv"
      keep = functools.partial(self._belongs, split)
    table = tables.Table(path, name=f"mwp-{split}", keep=keep)
    return records.Source(rows=table, name=str(path), split=split)

  def _belongs(self, split: str, row: Mapping[str, Any]) -> bool:
    """Rows of equal text fall on the same side."""
    text = mwp_rows.normalised(f"{row.get('Body')} {row.get('Ques')}")
    digest = hashlib.blake2b(f"{self.seed}:{text}".encode(), digest_size=8)
    dev = int.from_bytes(digest.digest(), "little") < self.dev_share * 2**64
    return dev == (split == "dev")

  def problem(self, row: Mapping[str, Any]) -> records.Problem:
    if "Linear_Formula" in row:
      return mwp_legacy.problem(row)
    body, question = tables.field(row, "Body"), tables.field(row, "Ques")
    equation = tables.field(row, "Equation")
    try:
      formula = mwp_formula.from_prefix(equation)
    except ValueError as error:
      raise tables.bad(row, str(error), "Equation", equation) from None
    return mwp_rows.checked(row, f"{body} {question}", formula)

  def own(self, text: str, name: str = "own") -> records.Problem:
    """Free text with its numbers; there is no gold, so no feedback either."""
    found = anonymise.anonymise(text)
    return records.Problem(
      id=name,
      question=anonymise.tokenised(found.text),
      gold="",
      meta={"numbers": list(found.numbers), "surfaces": list(found.surfaces)},
    )

  def answer(self, completion: str) -> str | None:
    """The canonical formula: its value depends on the problem's numbers."""
    formula = mwp_formula.parse(completion)
    return None if formula is None else mwp_formula.canonical(formula)

  def value(self, problem: records.Problem, completion: str) -> float | None:
    """The executed answer."""
    formula = mwp_formula.parse(completion)
    if formula is None:
      return None
    return mwp_formula.execute(formula, problem.meta["numbers"])

  def check(self, problem: records.Problem, completion: str) -> bool:
    value = self.value(problem, completion)
    return mwp_formula.same_value(value, problem.meta["answer"])

  def metrics(
    self, problem: records.Problem, completion: str
  ) -> dict[str, float]:
    ours = mwp_formula.parse(completion)
    gold = _gold(problem)
    known = ours is not None
    canonical = mwp_formula.canonical
    return {
      "exact": float(base.squeeze(completion) == problem.gold),
      "canonical": float(known and canonical(ours) == canonical(gold)),
      "semantic": float(known and mwp_formula.same_meaning(ours, gold)),
      "answer": float(self.check(problem, completion)),
    }

  def feedback(self, problem: records.Problem, hypothesis: str) -> str:
    wrong = self.wrong_slots(problem, hypothesis)
    return mwp_oracle.sentences(wrong) or self.no_hint

  def wrong_slots(
    self, problem: records.Problem, hypothesis: str
  ) -> tuple[str, ...]:
    """The places the oracle objects to: `missing`, `#0 operator`, ..."""
    return mwp_oracle.slots(mwp_formula.parse(hypothesis), _gold(problem))

  def error_types(self, feedback: str) -> tuple[str, ...]:
    return mwp_oracle.error_types(mwp_oracle.parse(feedback))

  def perturb(
    self, problem: records.Problem, rng: np.random.Generator
  ) -> list[records.Critique]:
    gold = _gold(problem)
    right = (
      mwp_oracle.commuted(gold, rng) if rng.random() < self.commuted else None
    )
    text = mwp_formula.render(right or gold)
    rows = [self.critique(problem, text, "gold", ())]
    numbers = len(problem.meta["numbers"])
    for kind, formula in mwp_oracle.perturbations(gold, numbers, rng).items():
      text = mwp_formula.render(formula)
      wrong = mwp_oracle.slots(formula, gold)
      said = mwp_oracle.sentences(wrong)
      rows.append(
        self.critique(problem, text, kind, (kind,), wrong, feedback=said)
      )
    return rows

  def corpus(self) -> Iterable[str]:
    """Questions, formulas and feedback of the train split."""
    for row in self.source("train").rows:
      try:
        problem = self.problem(row)
      except records.BadRow:
        continue
      yield problem.question
      yield problem.gold
    for k in range(mwp_formula.MAX_STEPS):
      for sentence in mwp_oracle.SLOTS.values():
        yield sentence.format(k)
    yield from (
      *mwp_oracle.FIXED.values(),
      self.no_hint,
      " ".join(self.markers),
    )


@functools.lru_cache(4096)
def _parsed(gold: str) -> Formula | None:
  return mwp_formula.parse(gold)


def _gold(problem: records.Problem) -> Formula:
  formula = _parsed(problem.gold)
  if formula is None:
    raise ValueError(f"{problem.id}: no gold formula in {problem.gold!r}")
  return formula
