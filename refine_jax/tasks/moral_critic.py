"""Critic data for Moral Stories, and what an oracle says of a norm.

Every story comes with norms that say the same (`other_norms`), the opposite
(`anti_norm`, `other_anti_norms`), and something else made of phrases of the
story (`fake_norms`). The opposite is a contradiction; the hint for something
else is the right norm's action, negated if the fake approves where the right
one does not.
"""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from refine_jax.tasks import tables

NO_HINT = "no hint"
CONTRADICTION = "contradiction"
SITUATION, INTENTION, IMMORAL, NORM, MORAL = (
  *("<|SIT|>", "<|INT|>", "<|I_ACT|>"),
  *("<|NRM|>", "<|M_ACT|>"),
)
_IT_IS = r"(?:it is|it's) "
_GOOD = re.compile(
  rf"(?:{_IT_IS}(?:good|right|usual|proper|important) to|you (?:should|must))\b"
)
_BAD = re.compile(
  rf"(?:{_IT_IS}(?:not (?:good|right|usual|proper) to|"
  r"(?:bad|unusual|wrong|rude) to)|"
  r"you (?:shouldn't|should not|mustn't|must not))(?!\w)"
)


class CriticRow(NamedTuple):
  """One supervised pair for the critic, of a story."""

  id: str
  kind: str
  norm: str
  critic_input: str
  critic_output: str
  gold_norm: str


def actor_input(row: Mapping[str, Any]) -> str:
  """What the generator is told."""
  return (
    f"{SITUATION} {tables.field(row, 'situation')} "
    f"{INTENTION} {tables.field(row, 'intention')} "
    f"{IMMORAL} {tables.field(row, 'immoral_action')} {NORM}"
  )


def hint(row: Mapping[str, Any], sentiment: float) -> str:
  """The right norm's action; `sentiment` is the wrong norm's."""
  action = row.get("norm_action") or tables.field(row, "norm")
  if tables.field(row, "norm_sentiment", (int, float)) * sentiment < 0:
    if action.lower().startswith("not "):
      action = action[4:]
    else:
      action = f"not {action}"
  return action.lower()


def story(row: Mapping[str, Any], *, compat: bool = False) -> list[CriticRow]:
  """All pairs of one story.

  Args:
    row: of `critic_*_prep.json`.
    compat: leaves the last fake norm out, as the published script did.
  """
  fakes = list(
    zip(
      tables.field(row, "fake_norms", list),
      tables.field(row, "fake_norm_sentiments", list),
      strict=True,
    )
  )
  anti = [row["anti_norm"]] if row.get("anti_norm") else []
  said = [
    *(("norm", n, NO_HINT) for n in [tables.field(row, "norm")]),
    *(("contradiction", n, CONTRADICTION) for n in anti),
    *(("norm", n, NO_HINT) for n in tables.field(row, "other_norms", list)),
    *(
      ("contradiction", n, CONTRADICTION)
      for n in tables.field(row, "other_anti_norms", list)
    ),
    *(
      ("misaligned", norm, hint(row, sentiment))
      for norm, sentiment in (fakes[:-1] if compat else fakes)
    ),
  ]
  return [_row(row, *each) for each in said]


def _row(row, kind: str, norm: str, output: str) -> CriticRow:
  norm = norm[:1].upper() + norm[1:]
  text = f"{actor_input(row)} {norm} {MORAL} {row['moral_action']}"
  return CriticRow(row["id"], kind, norm, text, output, row["norm"])


def build(
  rows: Iterable[Mapping[str, Any]],
  *,
  compat: bool = False,
  cap: int | None = None,
) -> tuple[list[CriticRow], dict[str, int]]:
  """The critic's data set and its counts.

  Args:
    rows: of `critic_*_prep.json`.
    compat: the published set, repetitions and all; otherwise every fake norm
      is used and repetitions within a story are removed.
    cap: at most so many rows of a kind per story.

  Returns:
    the pairs; how many there are of each kind, were `repeated` or `capped`.
  """
  kept, counts = [], collections.Counter()
  for row in rows:
    seen, used = set(), collections.Counter()
    for pair in story(row, compat=compat):
      key = " ".join(pair.norm.lower().split()).rstrip(".")
      if not compat and key in seen:
        counts["repeated"] += 1
        continue
      if cap is not None and used[pair.kind] >= cap:
        counts["capped"] += 1
        continue
      seen.add(key)
      used[pair.kind] += 1
      counts[pair.kind] += 1
      kept.append(pair)
  return kept, dict(counts)


def polarity(norm: str) -> int:
  """+1 if it approves, -1 if it disapproves, 0 if its form does not say."""
  text = norm.lower().strip()
  if _BAD.match(text):
    return -1
  return 1 if _GOOD.match(text) else 0


def content(norm: str) -> frozenset[str]:
  """The words of a norm after its judgment."""
  text = norm.lower().strip()
  match = _BAD.match(text) or _GOOD.match(text)
  return frozenset(
    re.findall(r"[a-z0-9']+", text[match.end() if match else 0 :])
  )


def overlap(ours: str, gold: str) -> float:
  """Jaccard index of the words after the judgments."""
  a, b = content(ours), content(gold)
  return len(a & b) / len(a | b) if a | b else 1.0


def same(ours: str, options: Sequence[str]) -> bool:
  """Equal to one of `options` but for case, spaces and the last period."""
  return plain(ours) in {plain(option) for option in options}


def plain(text: str) -> str:
  return " ".join(text.lower().split()).rstrip(" .")
