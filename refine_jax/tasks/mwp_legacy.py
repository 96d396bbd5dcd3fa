"""The older published critic files, `refiner/mwp/critique_{train,val}.json`.

Their formulas are spelled `substract`, end in `|  EOS` or `|  <END>`, and
their error positions count differently in the two files. Here formulas are
respelled, labels that do not execute to the answer are bad rows, and the
feedback is the oracle's own.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from refine_jax import records
from refine_jax.tasks import mwp_formula, mwp_oracle, mwp_rows, tables
from refine_jax.tasks.mwp_formula import Formula

# `error_types` of the files.
KINDS = {
  0: "none",
  1: "one operator",
  2: "two operators",
  3: "swapped",
  4: "operand",
}


def respelled(text: str) -> str:
  """A formula of the files in our spelling; text that is none stays."""
  text = text.replace("substract", "subtract").replace("<END>", "| EOS")
  return " ".join(text.split()).replace("| | EOS", "| EOS")


def _formula(row: Mapping[str, Any], name: str) -> Formula:
  value = tables.field(row, name)
  formula = mwp_formula.parse(respelled(value))
  if formula is None:
    raise tables.bad(row, "not a formula", name, value)
  return formula


def problem(row: Mapping[str, Any]) -> records.Problem:
  """A row as a problem; raises `records.BadRow` on a label that is wrong."""
  body, question = tables.field(row, "Body"), tables.field(row, "Question")
  label = _formula(row, "Linear_Formula")
  return mwp_rows.checked(row, f"{body} {question}", label)


def critique(row: Mapping[str, Any], no_hint: str) -> records.Critique:
  """A row's hypothesis with the oracle's feedback; raises `BadRow`."""
  base = problem(row)
  ours = _formula(row, "incorrect_formula")
  wrong = mwp_oracle.slots(ours, mwp_formula.parse(base.gold))
  kind = KINDS[tables.field(row, "error_types", int)]
  return records.Critique(
    id=f"{base.id}/legacy",
    problem=base.id,
    question=base.question,
    hypothesis=mwp_formula.render(ours),
    feedback=mwp_oracle.sentences(wrong) or no_hint,
    gold=base.gold,
    errors=(kind,) if wrong else (),
    positions=wrong,
  )


def critiques(
  rows: Iterable[Mapping[str, Any]], no_hint: str
) -> tuple[list[records.Critique], list[records.BadRow]]:
  """All usable rows, and why the others are not."""
  good, bad = [], []
  for row in rows:
    try:
      good.append(critique(row, no_hint))
    except records.BadRow as error:
      bad.append(error)
  return good, bad
