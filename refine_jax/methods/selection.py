"""One answer out of a problem's samples: every rule's figures, with intervals.

ReFT section 4, unlike whose voting an answer is the task's `canonical` key,
so that "7" and "7.0" vote together where the task says so. Ties go to what
was sampled first, a problem without any answer is wrong, and the first k
samples are the k.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from refine_jax.algorithms import intervals, voting
from refine_jax.records import Attempts

GREEDY = "top-1"


@dataclasses.dataclass(frozen=True)
class Table:
  """Samples of B problems as arrays; see `algorithms.voting`.

  Attributes:
    answers_BS: a number per vote, -1 for none.
    correct_BS: whether each sample is right.
    scores_BS: a reranker's probabilities, or None.
  """

  answers_BS: np.ndarray
  correct_BS: np.ndarray
  scores_BS: np.ndarray | None = None


def table(
  attempts: Sequence[Attempts],
  scores: Mapping[tuple[str, str], float] | None = None,
) -> Table:
  """The table of records with equally many candidates, in their order.

  Args:
    attempts: one record per problem.
    scores: (problem, completion) -> score.

  Raises:
    ValueError: a problem twice, or with other numbers of candidates.
  """
  sizes = {len(row.candidates) for row in attempts}
  if len(sizes) != 1:
    raise ValueError(f"problems have {sorted(sizes)} samples each")
  if len({row.problem for row in attempts}) != len(attempts):
    raise ValueError("a problem has more than one record of samples")
  score = None
  if scores is not None:
    score = np.array(
      [[scores[row.problem, c.text] for c in row.candidates]
       for row in attempts]
    )  # fmt: skip
  return Table(
    np.array([_numbered(row) for row in attempts]),
    np.array([[c.correct for c in row.candidates] for row in attempts]),
    score,
  )


def merged(attempts: Iterable[Attempts]) -> list[Attempts]:
  """One record per problem, with the candidates of all of its records."""
  found: dict[str, Attempts] = {}
  for row in attempts:
    if before := found.get(row.problem):
      row = dataclasses.replace(
        before, candidates=before.candidates + row.candidates
      )
    found[row.problem] = row
  return list(found.values())


def _numbered(row: Attempts) -> list[int]:
  """Votes as numbers in order of appearance; -1 for none."""
  numbers: dict[str, int] = {}
  return [
    -1 if c.vote is None else numbers.setdefault(c.vote, len(numbers))
    for c in row.candidates
  ]


def per_problem(
  samples: Table | None, greedy: Table | None, ks: Sequence[int]
) -> dict[str, np.ndarray]:
  """Rule -> one value per problem, in percent: `top-1`, `vote@4`, ...

  Raises:
    ValueError: a k of more samples than there are.
  """
  found = {}
  if greedy is not None:
    found[GREEDY] = greedy.correct_BS[:, 0].astype(float)
  if samples is not None:
    for k in ks:
      found |= _at(samples, k)
  return {name: 100 * values for name, values in found.items()}


def _at(samples: Table, k: int) -> dict[str, np.ndarray]:
  answers, correct = samples.answers_BS, samples.correct_BS
  chosen = {"vote": voting.vote(answers, k)}
  if samples.scores_BS is not None:
    chosen["weighted vote"] = voting.weighted_vote(
      answers, samples.scores_BS, k
    )
    chosen["rerank"] = voting.rerank(answers, samples.scores_BS, k)
  found = {
    f"{rule}@{k}": voting.credit(correct, index)
    for rule, index in chosen.items()
  }
  found[f"pass@{k}"] = voting.pass_at(correct, k)
  return found


def summary(
  systems: Mapping[str, Mapping[str, np.ndarray]],
  *,
  ks: Sequence[int],
  seed: int = 0,
  resamples: int = 1000,
) -> dict[str, Any]:
  """Means with intervals, and paired intervals of differences.

  Pairs are, within a system, every rule against top-1 and every rule against
  the vote at its k; between systems, the same rule. Pass@k is no rule that
  anybody could follow, so it is compared between systems only.

  Args:
    systems: name -> `per_problem`, all of the same problems in one order.
    ks: as given to `per_problem`.
    seed, resamples: of the bootstrap.

  Returns:
    `problems`; `systems`: name -> rule -> mean, low, high; `paired`: a list
    of ours, theirs (each "<system>: <rule>"), mean, low, high.
  """
  settings = {"seed": seed, "resamples": resamples}
  flat = {
    (name, rule): values
    for name, rules in systems.items()
    for rule, values in rules.items()
  }
  pairs = [
    {
      "ours": ": ".join(ours),
      "theirs": ": ".join(theirs),
      **_fields(intervals.paired(flat[ours], flat[theirs], **settings)),
    }
    for ours, theirs in _pairs(systems, ks)
  ]
  return {
    "problems": len(next(iter(flat.values()))),
    "systems": {
      name: {
        rule: _fields(intervals.bootstrap(values, **settings))
        for rule, values in rules.items()
      }
      for name, rules in systems.items()
    },
    "paired": pairs,
  }


def _fields(interval: intervals.Interval) -> dict[str, float]:
  return dataclasses.asdict(interval)


def _pairs(systems, ks):
  """((system, rule), (system, rule)) that are worth comparing, ours first."""
  for name, rules in systems.items():
    for rule in rules:
      if rule == GREEDY or rule.startswith("pass@"):
        continue
      if GREEDY in rules:
        yield (name, rule), (name, GREEDY)
      kind, k = rule.split("@")
      if kind != "vote" and int(k) in ks:
        yield (name, rule), (name, f"vote@{k}")
  names = list(systems)
  for i, theirs in enumerate(names):
    for ours in names[i + 1 :]:
      for rule in systems[ours]:
        if rule in systems[theirs]:
          yield (ours, rule), (theirs, rule)


def report(summary: Mapping[str, Any]) -> str:
  """The summary as Markdown, for people.

  Figures; what a rule gains over another within a system; what a system gains
  over another by top-1 and by the widest vote. `summary` has every pair.
  """
  systems = summary["systems"]
  rules = list(dict.fromkeys(r for found in systems.values() for r in found))
  figures = {
    rule: {name: found.get(rule) for name, found in systems.items()}
    for rule in rules
  }
  parts = [
    f"{summary['problems']} problems; percent with 95 % bootstrap intervals.",
    _grid("", systems, figures),
  ]
  within: dict[str, dict] = {}
  between: dict[str, dict] = {}
  for pair in summary["paired"]:
    ours, rule = pair["ours"].rsplit(": ", 1)
    theirs, other = pair["theirs"].rsplit(": ", 1)
    if ours == theirs and not rule.endswith("@1"):
      within.setdefault(f"{rule} over {other}", {})[ours] = pair
    elif rule == other:
      between.setdefault(rule, {}).setdefault(ours, {})[theirs] = pair
  if within:
    parts += ["Points that a rule gains, on the same problems:"]
    parts += [_grid("", systems, within)]
  votes = [rule for rule in rules if rule.startswith("vote@")]
  for rule in (GREEDY, *votes[-1:]):
    if rule in between:
      parts += [f"Points by {rule} of a row's system over a column's:"]
      parts += [_grid(rule, list(systems)[:-1], between[rule])]
  return "\n\n".join(parts) + "\n"


def _grid(
  corner: str, columns: Iterable[str], rows: Mapping[str, Mapping[str, Any]]
) -> str:
  """A table; what is absent or None is an empty cell."""
  columns = list(columns)
  lines = [[corner, *columns], ["---"] * (1 + len(columns))]
  for name, row in rows.items():
    cells = [row.get(column) for column in columns]
    lines.append([name, *(_shown(cell) if cell else "" for cell in cells)])
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shown(row: Mapping[str, Any]) -> str:
  return str(intervals.Interval(row["mean"], row["low"], row["high"]))
