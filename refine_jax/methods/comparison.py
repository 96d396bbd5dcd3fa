"""A table of arms on the same problems, with paired statistics.

Arms that were asked in different words are refused: RATIONALYST's own figures
move more with extraction and prompt than with the method.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from refine_jax.algorithms import intervals, significance


class NotComparable(ValueError):
  """Runs with other prompts, answers or problems; says which."""


@dataclasses.dataclass(frozen=True)
class Arm:
  """What one arm did.

  Attributes:
    prompt: fingerprint of the agent's prompt, stop and extraction.
    correct: by problem; a problem without an answer is wrong.
    unparsed, stuck: by problem.
    tokens, calls: generated and made, by problem.
  """

  name: str
  prompt: str
  correct: Mapping[str, bool]
  unparsed: Mapping[str, bool]
  stuck: Mapping[str, bool]
  tokens: Mapping[str, int]
  calls: Mapping[str, int]


def check(arms: Sequence[Arm]) -> None:
  """Raises NotComparable unless all answer the same questions alike."""
  first = arms[0]
  for arm in arms[1:]:
    if arm.prompt != first.prompt:
      raise NotComparable(
        f"arms {first.name!r} and {arm.name!r} have different prompts"
        f" ({first.prompt}, {arm.prompt}); their figures do not compare"
      )
    if set(arm.correct) != set(first.correct):
      raise NotComparable(
        f"arms {first.name!r} and {arm.name!r} answer different problems"
      )


def row(arm: Arm, *, seed: int = 0) -> dict:
  """An arm's own figures, in percent where they are shares."""
  correct = np.array(list(arm.correct.values()), float)
  accuracy = intervals.bootstrap(correct, seed=seed).scaled(100)

  def mean(values: Mapping, factor: float = 1.0) -> float:
    return factor * float(np.mean([float(v) for v in values.values()]))

  return {
    "accuracy": dataclasses.asdict(accuracy),
    "unparsed": mean(arm.unparsed, 100),
    "stuck": mean(arm.stuck, 100),
    "tokens_per_problem": mean(arm.tokens),
    "calls_per_problem": mean(arm.calls),
    "problems": len(correct),
  }


def against(ours: Arm, theirs: Arm, *, seed: int = 0) -> dict:
  """The paired difference in points and McNemar's p.

  Raises:
    NotComparable: see `check`.
  """
  check([ours, theirs])
  a, b = (
    np.array([arm.correct[key] for key in ours.correct], float)
    for arm in (ours, theirs)
  )
  difference = intervals.paired(a, b, seed=seed).scaled(100)
  return {
    "difference": dataclasses.asdict(difference),
    "p": significance.mcnemar(a, b),
  }


def table(
  arms: Sequence[Arm], references: Sequence[str], *, seed: int = 0
) -> dict[str, dict]:
  """Every arm's row, with its difference from each of the references."""
  check(arms)
  by_name = {arm.name: arm for arm in arms}
  found = {}
  for arm in arms:
    found[arm.name] = row(arm, seed=seed) | {
      f"against {name}": against(arm, by_name[name], seed=seed)
      for name in references
      if name in by_name and name != arm.name
    }
  return found


def markdown(rows: Mapping[str, dict], references: Sequence[str]) -> str:
  """The table for people to read."""
  heads = ["arm", "accuracy", *(f"minus {r} (p)" for r in references)]
  heads += ["tokens", "calls", "unparsed", "stuck"]
  lines = [heads, ["---"] * len(heads)]
  for name, found in rows.items():
    cells = [name, _interval(found["accuracy"])]
    for reference in references:
      paired = found.get(f"against {reference}")
      if paired is None:
        cells.append("")
        continue
      difference = _interval(paired["difference"], sign="+")
      cells.append(f"{difference} ({paired['p']:.2g})")
    for key in ("tokens_per_problem", "calls_per_problem", "unparsed", "stuck"):
      cells.append(f"{found[key]:.1f}")
    lines.append(cells)
  return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _interval(value: Mapping[str, float], sign: str = "") -> str:
  parts = (f"{value[key]:{sign}.1f}" for key in ("mean", "low", "high"))
  mean, low, high = parts
  return f"{mean} [{low}, {high}]"
