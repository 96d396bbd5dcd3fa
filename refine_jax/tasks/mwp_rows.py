"""A row's formula against its numbers and its answer."""

import re
from collections.abc import Mapping
from typing import Any

from refine_jax import records
from refine_jax.tasks import base, mwp_formula, tables
from refine_jax.tasks.mwp_formula import Formula


def normalised(text: str) -> str:
  """Lower-case letters and digits only: the key of equal problems."""
  return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def checked(
  row: Mapping[str, Any], question: str, formula: Formula
) -> records.Problem:
  """A problem whose gold executes to its answer; raises `records.BadRow`."""
  try:
    numbers = [float(n) for n in tables.field(row, "Numbers").split()]
    answer = float(row.get("Answer") or "")
  except ValueError:
    value = (row.get("Numbers"), row.get("Answer"))
    raise tables.bad(row, "not numbers", "Numbers, Answer", value) from None
  got = mwp_formula.execute(formula, numbers)
  if not mwp_formula.same_value(got, answer):
    gold = mwp_formula.render(formula)
    reason = f"{gold} gives {got} on {numbers}, not the row's answer"
    raise tables.bad(row, reason, "Answer", answer)
  return records.Problem(
    id=str(row.get("id") or row.get("ID") or normalised(question)),
    question=base.squeeze(question),
    gold=mwp_formula.render(formula),
    answer=mwp_formula.canonical(formula),
    meta={"numbers": numbers, "answer": answer},
  )
