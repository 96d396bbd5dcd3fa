"""MathCritique's published rows, and larger files of the same kinds.

instruction, output     a refinement row: question, response and critique
                        in one prompt, and the refined solution
conversations           a critic row (ShareGPT): the critic's prompt, and
                        the critique
question, response, critique    our own `Annotated`, or a subset of it
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from refine_jax import records
from refine_jax.methods import steps
from refine_jax.methods.critique import PUBLISHED

_LEAD = re.compile(r"^\s*Let's break it down step by step[^\n]*:\s*", re.I)
_SUFFIX = re.compile(r"\s*Please also give your final (?:number|answer) in .*$")
_TURN = re.compile(r"(?:<\|end_of_text\|>|</s>|<\|eot_id\|>)\s*\n?Human:\s*")


def read(path: str | pathlib.Path, name: str = "") -> list[records.Annotated]:
  """Rows of a .json list or a .jsonl file.

  Args:
    path: the file.
    name: begins the ids; the file's name by default.

  Raises:
    BadRow: with file, row and field.
  """
  path = pathlib.Path(path)
  name = name or path.stem
  found = []
  for number, row in enumerate(_rows(path), 1):
    try:
      found.append(row_of(row, f"{name}/{number - 1}"))
    except records.BadRow as error:
      raise error.at(str(path), number) from None
  return found


def _rows(path: pathlib.Path) -> list[Any]:
  text = path.read_text(encoding="utf-8")
  try:
    if path.suffix == ".jsonl":
      return [json.loads(line) for line in text.splitlines() if line.strip()]
    rows = json.loads(text)
  except json.JSONDecodeError as error:
    raise records.BadRow(
      f"not JSON: {error}", file=str(path), line=error.lineno
    ) from None
  if not isinstance(rows, list):
    raise records.BadRow("not a list of rows", file=str(path), line=1)
  return rows


def row_of(row: Mapping[str, Any], id: str) -> records.Annotated:
  """One row of any of the three kinds; raises BadRow."""
  if not isinstance(row, Mapping):
    raise records.BadRow("not an object", value=row)
  if "instruction" in row:
    return _refinement(row, id)
  if "conversations" in row:
    return _conversation(row, id)
  return records.from_mapping(
    records.Annotated, {"id": id, "problem": id, **row}
  )


def _text(row: Mapping[str, Any], field: str) -> str:
  value = row.get(field)
  if not isinstance(value, str) or not value.strip():
    raise records.BadRow("expected a text", field=field, value=value)
  return value


def _refinement(row, id) -> records.Annotated:
  instruction, output = _text(row, "instruction"), _text(row, "output")
  asked, found, rest = instruction.partition("\n\nAssistant:")
  parts = _TURN.split(rest, maxsplit=1)
  if not found or len(parts) != 2:
    raise records.BadRow(
      "no response and critique in it", field="instruction", value=instruction
    )
  return _annotated(
    id, _SUFFIX.sub("", asked), parts[0], parts[1], (_bare(output),)
  )


def _conversation(row, id) -> records.Annotated:
  turns = row["conversations"]
  try:
    prompt, critique = (_text(turn, "value") for turn in turns[:2])
  except (TypeError, AttributeError, ValueError) as error:
    raise records.BadRow(
      f"expected two turns: {error}", field="conversations", value=turns
    ) from None
  head, found, response = prompt.rpartition("Solution:")
  question = head.rpartition("Question:")[2]
  if not found or not question.strip():
    raise records.BadRow(
      "no 'Question:' and 'Solution:' in the prompt",
      field="conversations",
      value=prompt,
    )
  return _annotated(id, question, response, critique, ())


def _annotated(id, question, response, critique, refined) -> records.Annotated:
  response = _bare(response)
  critique = PUBLISHED.stripped(critique)
  found = PUBLISHED.parse(critique)
  right = found.correct is True and found.first_error is None
  return records.Annotated(
    id=id,
    problem=id,
    question=question.strip(),
    response=response,
    gold=refined[0] if refined else "",
    steps=tuple(steps.split(response)),
    origin="pos" if right and not refined else "published",
    critique=critique,
    refined=refined,
  )


def _bare(solution: str) -> str:
  """A solution without the words every one of them begins with."""
  return _LEAD.sub("", solution).strip()
