"""ECQA: CommonsenseQA with statements for and against each option.

Rows are CommonsenseQA's (`question`, `choices`, `answerKey`), where `test` is
its validation split, as published, or ECQA's (`q_text`, `q_op1` to `q_op5`,
`q_ans`, and `taskA_pos`, `taskA_neg`, whose lines become the thoughts).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from refine_jax.tasks import choice_task, choices, tables


class Ecqa(choice_task.ChoiceTask):
  """See `choice_task.ChoiceTask` for the options."""

  name = "ecqa"
  hub = ("tau/commonsense_qa", None)
  splits: ClassVar = {
    "train": "train",
    "validation": "train",
    "test": "validation",
  }

  def parsed(self, row: Mapping[str, Any]) -> tuple[str, list[str], str]:
    if "q_text" not in row:
      return (tables.field(row, "question"), *choice_task.labelled(row))
    options = [tables.field(row, f"q_op{i}").strip() for i in range(1, 6)]
    answer = tables.field(row, "q_ans").strip()
    if answer not in options:
      raise tables.bad(row, f"is none of {options}", "q_ans", answer)
    letter = choices.LETTERS[options.index(answer)]
    return tables.field(row, "q_text"), options, letter

  def thoughts(self, row: Mapping[str, Any]) -> Sequence[str]:
    """The statements against, then those for the right option."""
    against = (row.get("taskA_neg") or "").split("\n")
    for_it = (row.get("taskA_pos") or "").split("\n")
    return [line for line in (*against, " ".join(for_it)) if line.strip()]
