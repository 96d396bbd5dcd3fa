"""Rows of one iteration of self-improvement, with critiques in the loop.

MathCritique section 4.2: what the last actor got right is kept; what it got
wrong is criticised, refined, and kept if the refinement is right. The five
flags are the original's.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from refine_jax.methods.refine import Template
from refine_jax.records import Example

# Numbers and operators, then what they come to.
_EQUATION = re.compile(
  r"(?:\.\d|[\d($-])[\d\s.,$%()+*/^{}\\-]*=[\s$]*-?[\d.,]*\d"
)


@dataclasses.dataclass(frozen=True)
class Flags:
  """What a training set is made of.

  Attributes:
    use_critic: USE_CRITIC, refinements of wrong responses.
    use_original: USE_ORIGINAL, the gold solutions.
    use_previous: USE_PREVIOUS, what earlier iterations made.
    own_feedback: USE_SELFIMPROVE_FEEDBACK, (x, y, c) -> y' of the loop.
    annotator_feedback: USE_GPT4_FEEDBACK, (x, y, c) -> y' of the annotator;
      joins the gold solutions and is nothing without them.
  """

  use_critic: bool = True
  use_original: bool = True
  use_previous: bool = False
  own_feedback: bool = False
  annotator_feedback: bool = True


@dataclasses.dataclass(frozen=True)
class Solution:
  """A verified solution of the loop.

  Attributes:
    response, critique: what it refines; empty for a direct one.
  """

  id: str
  problem: str
  question: str
  text: str
  key: str = ""
  response: str = ""
  critique: str = ""

  @property
  def refined(self) -> bool:
    return bool(self.critique)


def made(
  right: Sequence[Example],
  refined: Sequence[Example],
  revisions: Sequence[Example],
  flags: Flags,
) -> list[Example]:
  """D_t: x -> y, and of the critic x -> y' and (x, y, c) -> y'."""
  rows = list(right)
  if flags.use_critic:
    rows += refined
    if flags.own_feedback:
      rows += revisions
  return rows


def union(
  current: Sequence[Example],
  flags: Flags,
  *,
  reason0: Sequence[Example],
  refine0: Sequence[Example],
  previous: Sequence[Sequence[Example]],
) -> list[Example]:
  """S_t, what the next actor is trained on.

  Args:
    current: D_t, see `made`.
    flags: which of the others join.
    reason0: gold solutions; refine0: the annotator's refinements.
    previous: D_1 to D_{t-1}.

  Raises:
    ValueError: two rows of one id, which would hide one from a rerun.
  """
  rows = list(current)
  if flags.use_original:
    rows += reason0
    if flags.annotator_feedback:
      rows += refine0
  if flags.use_previous:
    for earlier in previous:
      rows += earlier
  twice = [
    i for i, n in collections.Counter(r.id for r in rows).items() if n > 1
  ]
  if twice:
    raise ValueError(f"{len(twice)} ids come twice, {twice[0]!r} among them")
  return rows


def key(text: str) -> str:
  """What equal solutions share: their equations, or else their words."""
  equations = [re.sub(r"[\s$,\\]", "", m[0]) for m in _EQUATION.finditer(text)]
  return " ; ".join(equations) or " ".join(text.split())


def distinct(solutions: Iterable[Solution]) -> list[Solution]:
  """The first of equal solutions of a problem, by key or else by text."""
  seen: dict[tuple[str, str], Solution] = {}
  for one in solutions:
    seen.setdefault((one.problem, one.key or " ".join(one.text.split())), one)
  return list(seen.values())


def capped(
  solutions: Sequence[Solution], cap: int, *, seed: int
) -> list[Solution]:
  """At most `cap` of a problem, in their order; 0 keeps all.

  Direct solutions go before refined ones are thought of: those exist because
  direct ones were rare. Who is kept depends on the problem's own rows only,
  so any number of shards keeps the same.
  """
  if not cap:
    return list(solutions)
  groups = collections.defaultdict(list)
  for one in solutions:
    groups[one.problem].append(one)
  kept = set()
  for problem, group in groups.items():
    order = _order(group, problem, seed)
    kept |= {one.id for one in order[:cap]}
  return [one for one in solutions if one.id in kept]


def _order(group, problem: str, seed: int):
  ranked = sorted(group, key=lambda one: one.id)
  rng = np.random.default_rng([seed, *problem.encode()])
  shuffled = [ranked[i] for i in rng.permutation(len(ranked))]
  return sorted(shuffled, key=lambda one: one.refined)


def balanced(
  solutions: Sequence[Solution],
  bin_of: Mapping[str, int],
  ratio: float,
  *,
  seed: int,
) -> list[Solution]:
  """No bin of difficulty holds more than `ratio` times the hardest's rows.

  The hardest bin that has any rows; 0 leaves all as it is.
  """
  if not ratio:
    return list(solutions)
  groups = collections.defaultdict(list)
  for one in solutions:
    groups[bin_of[one.problem]].append(one.id)
  if not groups:
    return []
  most = max(1, round(ratio * len(groups[min(groups)])))
  kept = set()
  for number, ids in groups.items():
    rng = np.random.default_rng([seed, number])
    ids = sorted(ids)
    kept |= {ids[i] for i in rng.permutation(len(ids))[:most]}
  return [one for one in solutions if one.id in kept]


def matched_samples(n: int, pass_rate: float, refinements: int) -> int:
  """Samples that cost what the loop with a critic costs.

  N + (1 - p) N (1 + M): each wrong response gets a critique and M refinements.
  """
  return n + round((1 - pass_rate) * n * (1 + refinements))


def examples(
  solutions: Iterable[Solution], template: Template, *, weight: int = 1
) -> tuple[list[Example], list[Example], list[Example]]:
  """x -> y, x -> y', and (x, y, c) -> y' (`weight` times) of solutions."""
  right, refined, revisions = [], [], []
  for one in solutions:
    row = Example(one.id, template.first(one.question), (one.text,))
    (refined if one.refined else right).append(row)
    if one.refined:
      prompt = template.revision(one.question, one.response, one.critique)
      revisions += [
        Example(f"{one.id}/revision{i or ''}", prompt, (one.text,))
        for i in range(weight)
      ]
  return right, refined, revisions
