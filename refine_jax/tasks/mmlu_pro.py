"""MMLU-Pro: questions of 14 fields, up to ten options.

Rows (`TIGER-Lab/MMLU-Pro`): `question`, `options`, `answer` (a letter),
`category`, and `cot_content` in the 70 validation rows, which are all there is
to learn from: `train` and `validation` are both that split.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from refine_jax import records
from refine_jax.tasks import choice_task, choices, tables

_LEAD = re.compile(r"^A: Let's think step by step\.\s*")
_ENDING = re.compile(r"\s*The answer is \(?[A-J]\)?\.?\s*$")


class MmluPro(choice_task.ChoiceTask):
  """See `choice_task.ChoiceTask` for the options."""

  name = "mmlu_pro"
  hub = ("TIGER-Lab/MMLU-Pro", None)
  splits: ClassVar = {
    "train": "validation",
    "validation": "validation",
    "test": "test",
  }

  def _belongs(self, split: str, row: Mapping[str, Any]) -> bool:
    return True

  def parsed(self, row: Mapping[str, Any]) -> tuple[str, list[str], str]:
    options = list(tables.field(row, "options", (list, tuple)))
    options = [o for o in options if o != "N/A"]
    return tables.field(row, "question"), options, tables.field(row, "answer")

  def thoughts(self, row: Mapping[str, Any]) -> Sequence[str]:
    """The sentences of the worked solution, but for its last."""
    text = _ENDING.sub("", _LEAD.sub("", row.get("cot_content") or ""))
    return re.split(r"(?<=[.!?])\s+(?=[A-Z(])", text) if text else ()

  def fits(self, example: records.Problem, problem: records.Problem) -> bool:
    """Only its own field's."""
    return example.meta["category"] == problem.meta["category"]

  def published(self, completion: str) -> str | None:
    return choices.published(completion, regex=True)
