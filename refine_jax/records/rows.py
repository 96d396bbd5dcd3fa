"""A record and a line of JSON, and what is said of a line that is none."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any


class BadRow(ValueError):
  """A row that cannot be used; names file, line, field and value."""

  def __init__(
    self,
    reason: str,
    *,
    file: str | None = None,
    line: int | None = None,
    field: str | None = None,
    value: Any = None,
  ):
    self.reason, self.file, self.line = reason, file, line
    self.field, self.value = field, value
    super().__init__(str(self))

  def at(self, file: str, line: int) -> "BadRow":
    """The same complaint, told with its place unless it has one already."""
    return BadRow(
      self.reason,
      file=self.file or file,
      line=self.line or line,
      field=self.field,
      value=self.value,
    )

  def __str__(self) -> str:
    place = f"{self.file or '<row>'}:{'?' if self.line is None else self.line}"
    field = f" field {self.field!r}:" if self.field else ""
    value = "" if self.value is None else f" (value: {_short(self.value)})"
    return f"{place}:{field} {self.reason}{value}"


def _short(value: Any, limit: int = 120) -> str:
  text = repr(value)
  return text if len(text) <= limit else text[: limit - 3] + "..."


def to_json(record: Any) -> str:
  """One line of JSON; keys in field order, text unescaped."""
  return json.dumps(dataclasses.asdict(record), ensure_ascii=False)


def from_mapping(cls: type, row: Mapping[str, Any]) -> Any:
  """Builds a record; raises `BadRow` on a missing, extra or mistyped field."""
  hints = typing.get_type_hints(cls)
  names = {f.name for f in dataclasses.fields(cls)}
  if extra := sorted(set(row) - names):
    raise BadRow(f"{cls.__name__} has no such field", field=extra[0])
  values = {}
  for field in dataclasses.fields(cls):
    if field.name in row:
      values[field.name] = _coerce(
        hints[field.name], row[field.name], field.name
      )
    elif (
      field.default is dataclasses.MISSING
      and field.default_factory is dataclasses.MISSING
    ):
      raise BadRow(f"{cls.__name__} needs this field", field=field.name)
  return cls(**values)


def _coerce(hint: Any, value: Any, field: str) -> Any:
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if hint is Any:
    return value
  if origin in (types.UnionType, typing.Union):
    for arg in args:
      try:
        return _coerce(arg, value, field)
      except BadRow:
        continue
  elif origin is tuple and isinstance(value, list | tuple):
    return tuple(_coerce(args[0], v, field) for v in value)
  elif dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
    return from_mapping(hint, value)
  elif (origin is dict or hint is dict) and isinstance(value, Mapping):
    return dict(value)
  elif isinstance(value, bool) and hint in (int, float):
    pass  # True is no number here, whatever Python says
  elif hint is float and isinstance(value, int | float):
    return float(value)
  elif hint is type(None) and value is None:
    return None
  elif isinstance(hint, type) and isinstance(value, hint):
    return value
  raise BadRow(f"expected {hint}", field=field, value=value)


def parse(cls: type, line: bytes) -> Any:
  """The record of one line; raises `BadRow`."""
  try:
    row = json.loads(line)
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise BadRow(f"not JSON: {error}", value=line) from None
  if not isinstance(row, dict):
    raise BadRow("not a JSON object", value=row)
  return from_mapping(cls, row)
