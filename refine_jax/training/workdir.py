"""A run's folder and the configuration it belongs to."""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from refine_jax import files

NAME = "config.json"


class ConfigMismatch(ValueError):
  """A used folder and another configuration."""


def claim(
  workdir: str | pathlib.Path,
  config: Mapping[str, Any],
  *,
  free: Iterable[str] = (),
) -> files.Path:
  """Makes the folder the run's own, or finds that it is.

  Args:
    workdir: made if it is not there.
    config: nested mappings of JSON values, written to `config.json`.
    free: dotted keys that may differ (`log_every`, `data.workers`); a key
      stands for everything under it. What is written stays the first run's.

  Raises:
    ConfigMismatch: the folder was used with other values; shows them.
  """
  workdir = files.path(workdir)
  path = workdir / NAME
  new = json.loads(json.dumps(config))  # tuples become lists, as on disk
  if not path.exists():
    workdir.mkdir(parents=True, exist_ok=True)
    files.write(path, json.dumps(new, indent=2) + "\n")
    return workdir
  try:
    old = json.loads(path.read_text(encoding="utf-8"))
  except json.JSONDecodeError as error:
    raise ConfigMismatch(f"{path} is not JSON: {error}") from None
  if found := differences(old, new, free=free):
    raise ConfigMismatch(
      f"{workdir} was used with another configuration; take another folder"
      " or these values:\n  " + "\n  ".join(found)
    )
  return workdir


def differences(
  old: Mapping[str, Any], new: Mapping[str, Any], *, free: Iterable[str] = ()
) -> list[str]:
  """One line for each differing value: `a.b: 1 in the folder, 2 now`."""
  old, new, free = _dotted(old), _dotted(new), tuple(free)
  lines = []
  for key in sorted({*old, *new}):
    if any(key == f or key.startswith(f + ".") for f in free):
      continue
    if key not in new:
      lines.append(f"{key}: {old[key]!r} in the folder, not set now")
    elif key not in old:
      lines.append(f"{key}: not set in the folder, {new[key]!r} now")
    elif old[key] != new[key]:
      lines.append(f"{key}: {old[key]!r} in the folder, {new[key]!r} now")
  return lines


def _dotted(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  out = {}
  for key, value in config.items():
    if isinstance(value, Mapping) and value:
      out.update(_dotted(value, f"{prefix}{key}."))
    else:
      out[f"{prefix}{key}"] = value
  return out
