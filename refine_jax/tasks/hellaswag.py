"""HellaSwag: which of four endings follows.

Rows (`Rowan/hellaswag`): `ctx`, four `endings`, `label` from 0. The published
test split has no labels: `test` is its validation split.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from refine_jax.tasks import choice_task, choices, tables


class HellaSwag(choice_task.ChoiceTask):
  """See `choice_task.ChoiceTask` for the options."""

  name = "hellaswag"
  hub = ("Rowan/hellaswag", None)
  splits: ClassVar = {
    "train": "train",
    "validation": "train",
    "test": "validation",
  }

  def parsed(self, row: Mapping[str, Any]) -> tuple[str, list[str], str]:
    endings = list(tables.field(row, "endings", (list, tuple)))
    label = str(row.get("label", ""))
    if not label.isdecimal() or int(label) >= len(endings):
      raise tables.bad(row, "is the place of no ending", "label", label)
    question = tables.field(row, "ctx")
    return question, endings, choices.LETTERS[int(label)]

  def asked(self, question: str, options: Sequence[str]) -> str:
    return super().asked(f"Which ending follows? {question}", options)
