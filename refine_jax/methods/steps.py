"""Where a solution's steps begin and end.

A step is a line; a solution of one line is cut into sentences. Nothing is cut
inside a formula or a figure.
"""

import re
from collections.abc import Sequence

from refine_jax.tasks.base import Task

# What opens something that is not cut, and what closes it.
_PAIRS = {
  "$$": "$$",
  "$": "$",
  r"\[": r"\]",
  r"\(": r"\)",
  "[asy]": "[/asy]",
}
_OPEN = re.compile(r"\$\$|\$|\\\[|\\\(|\[asy\]|\\begin\{(\w+\*?)\}")
_SENTENCE = re.compile(r"[.!?](?:[\"')\]}]|\*\*)*\s+(?=[\"'(\[$\\*A-Z])")
_SHORT = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|vs|etc|No|St|e\.g|i\.e)|\b[A-Z])\.$")


def split(text: str) -> list[str]:
  """The steps of a solution, stripped; empty ones are left out."""
  whole = text.strip()
  cuts = _cuts(whole, re.compile(r"\n"))
  if not cuts:
    cuts = [
      at for at in _cuts(whole, _SENTENCE) if not _SHORT.search(whole[:at])
    ]
  ends = [*cuts, len(whole)]
  parts = [
    whole[start:end].strip()
    for start, end in zip([0, *cuts], ends, strict=True)
  ]
  return [p for p in parts if p]


def _cuts(text: str, pattern: re.Pattern) -> list[int]:
  """Ends of the pattern's first characters outside formulas."""
  closed = _protected(text)
  found = [m.start() + 1 for m in pattern.finditer(text)]
  return [at for at in found if not any(a < at < b for a, b in closed)]


def _protected(text: str) -> list[tuple[int, int]]:
  """Stretches that stay whole; one that never closes protects nothing."""
  spans, at = [], 0
  while match := _OPEN.search(text, at):
    at = match.end()
    if match.start() and text[match.start() - 1] == "\\":
      continue  # an escaped dollar
    environment = match[1]
    close = rf"\end{{{environment}}}" if environment else _PAIRS[match[0]]
    end = _closing(text, close, at)
    if end is None or (match[0] == "$" and _is_money(text[at:end])):
      continue
    spans.append((match.start(), end + len(close)))
    at = end + len(close)
  return spans


def _closing(text: str, close: str, start: int) -> int | None:
  end = text.find(close, start)
  while end > 0 and close == "$" and text[end - 1] == "\\":
    end = text.find(close, end + 1)
  return end if end >= 0 else None


def _is_money(inside: str) -> bool:
  """`$5 and $` is no formula: a price runs into the next one."""
  return bool(re.match(r"\s|\d[\d.,]*\s+[a-z]{2,}", inside)) or "\n" in inside


def of(task: Task, completion: str) -> list[str]:
  """The steps as the task splits them, else as lines or sentences."""
  own = getattr(task, "steps", None)
  return list(own(completion)) if own else split(completion)


def starts(text: str, steps: Sequence[str]) -> list[int] | None:
  """Where each step begins in its text; None if it is not found there."""
  found, at = [], 0
  for step in steps:
    at = text.find(step, at)
    if at < 0:
      return None
    found.append(at)
    at += len(step)
  return found


def prefix(text: str, steps: Sequence[str], count: int) -> str | None:
  """The text up to the end of its first `count` steps, separator excluded."""
  places = starts(text, steps)
  if places is None or count > len(steps):
    return None
  return text[: places[count - 1] + len(steps[count - 1])] if count else ""


def gap(text: str, steps: Sequence[str], count: int) -> str:
  """What stands between step `count - 1` and step `count`."""
  places = starts(text, steps)
  if places is None or not 0 < count < len(steps):
    return ""
  return text[places[count - 1] + len(steps[count - 1]) : places[count]]
