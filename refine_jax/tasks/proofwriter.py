"""ProofWriter: does a statement follow from a theory?

Rows (`tasksource/proofwriter`, or local files of `context`, `question`,
`answer`): `theory`, `question`, `answer` (True, False or Unknown).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from refine_jax.tasks import choice_task, choices, tables

_OPTIONS = ("True", "False", "Unknown")


class ProofWriter(choice_task.ChoiceTask):
  """The answer may be the word. See `choice_task.ChoiceTask` for options."""

  name = "proofwriter"
  hub = ("tasksource/proofwriter", None)
  splits: ClassVar = {
    "train": "train",
    "validation": "validation",
    "test": "test",
  }
  words: ClassVar = {
    "true": "A",
    "false": "B",
    "unknown": "C",
    "uncertain": "C",
  }

  def parsed(self, row: Mapping[str, Any]) -> tuple[str, list[str], str]:
    theory = tables.field(row, "theory" if "theory" in row else "context")
    answer = row.get("answer")
    name = str(answer).strip().capitalize()
    if name in choices.LETTERS[:3] and name:
      name = _OPTIONS[choices.LETTERS.index(name)]
    if name not in _OPTIONS:
      raise tables.bad(row, f"is none of {_OPTIONS}", "answer", answer)
    statement = tables.field(row, "question").strip()
    question = f"{theory.strip()}\nTrue, false or unknown? {statement}"
    letter = choices.LETTERS[_OPTIONS.index(name)]
    return question, list(_OPTIONS), letter
