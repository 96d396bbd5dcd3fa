"""ARC-Challenge: science questions for schools.

Rows (`allenai/ai2_arc`, ARC-Challenge): `question`, `choices` with `text` and
`label`, `answerKey`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from refine_jax.tasks import choice_task, tables


class ArcChallenge(choice_task.ChoiceTask):
  """See `choice_task.ChoiceTask` for the options."""

  name = "arc_challenge"
  hub = ("allenai/ai2_arc", "ARC-Challenge")
  splits: ClassVar = {
    "train": "train",
    "validation": "validation",
    "test": "test",
  }

  def parsed(self, row: Mapping[str, Any]) -> tuple[str, list[str], str]:
    return (tables.field(row, "question"), *choice_task.labelled(row))
