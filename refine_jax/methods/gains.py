"""The filter: what each rationale does to the likelihood of what follows.

Both passes are branches on one trunk, the text before the rationale, which is
read once: `text, turn, following` and `text, <rationale>, turn, following`.
"""

import collections
import dataclasses
import zlib
from collections.abc import Iterable, Mapping, Sequence

from refine_jax.algorithms import likelihood
from refine_jax.data.overlap import Overlap
from refine_jax.data.tokenizer import Tokenizer
from refine_jax.methods import rationales
from refine_jax.methods.layout import Layout, cut_left
from refine_jax.records import Rationale
from refine_jax.sampling.trunks import Branch, Trunks


@dataclasses.dataclass(frozen=True)
class Lengths:
  """Limits in tokens.

  Attributes:
    preceding: the text before, which is cut at its left.
    following: what is scored; at a decay of 0.9 the rest weighs nothing.
    rationale: a longer one is rejected.
  """

  preceding: int
  following: int
  rationale: int


def score(
  rows: Sequence[Rationale],
  trunks: Trunks,
  layout: Layout,
  tokenizer: Tokenizer,
  lengths: Lengths,
  decay: float,
) -> list[Rationale]:
  """The rows with their gains, and per token what they were made of."""
  targets, names = {}, []
  for row in rows:
    prompt = cut_left(tokenizer, layout, row.preceding, lengths.preceding)
    trunks.open(row.id, prompt[: len(prompt) - len(layout.ask())])
    names.append(row.id)
    ids = tokenizer.encode(layout.text(row.following))
    targets[row.id] = (tuple(ids[: lengths.following]),)
  found = trunks.score(
    {
      row.id: [
        Branch(layout.ask(), targets[row.id]),
        Branch(layout.ask(row.rationale), targets[row.id]),
      ]
      for row in rows
    }
  )
  for name in names:
    trunks.close(name)
  return [_with_gain(row, *found[row.id], decay) for row in rows]


def _with_gain(row: Rationale, without, given, decay: float) -> Rationale:
  evidence = {
    "without": [round(float(x), 5) for x in without],
    "given": [round(float(x), 5) for x in given],
  }
  gain = likelihood.gain(given, without, decay)
  return dataclasses.replace(row, gain=gain, meta={**row.meta, **evidence})


def fault(
  row: Rationale,
  *,
  phrases: Sequence[str],
  seen: Overlap | None,
  tokenizer: Tokenizer,
  lengths: Lengths,
) -> str:
  """Why a rationale is not even scored, or ""."""
  if not (row.preceding and row.rationale and row.following):
    return "empty"
  if len(tokenizer.encode(row.rationale)) > lengths.rationale:
    return "long"
  if rationales.answer_only(row.following, phrases):
    return "answer only"
  if rationales.leaks(row.preceding, row.rationale, row.following):
    return "leak"
  if seen is not None and seen(f"{row.preceding} {row.following}"):
    return "overlap"
  return ""


def taus(
  rows: Iterable[Rationale],
  thresholds: Mapping[str, float],
  default: float,
) -> dict[str, float]:
  """The threshold of every source among the rows."""
  sources = {source_of(row) for row in rows}
  return {s: float(thresholds.get(s, default)) for s in sorted(sources)}


def calibrated(
  rows: Sequence[Rationale], labels: Mapping[str, bool], precision: float
) -> dict[str, likelihood.Quality]:
  """The smallest threshold of each source that is precise enough."""
  groups = collections.defaultdict(list)
  for row in rows:
    if row.id in labels:
      groups[source_of(row)].append(row)
  return {
    source: likelihood.calibrate(
      [r.gain for r in group], [labels[r.id] for r in group], precision
    )
    for source, group in sorted(groups.items())
  }


def source_of(row: Rationale) -> str:
  return str(row.meta.get("source", ""))


def kept(
  rows: Iterable[Rationale], thresholds: Mapping[str, float]
) -> list[Rationale]:
  """Those whose gain reaches their source's threshold; ties are kept."""
  return [
    dataclasses.replace(
      row, meta={**row.meta, "tau": thresholds[source_of(row)]}
    )
    for row in rows
    if row.gain is not None and row.gain >= thresholds[source_of(row)]
  ]


def split(
  rows: Sequence[Rationale], share: float
) -> tuple[list[Rationale], list[Rationale]]:
  """Training and held-out rows; a document's rows stay together.

  Which documents are held out follows from their ids alone.
  """

  def held(row: Rationale) -> bool:
    return zlib.crc32(row.document.encode()) % 10_000 < share * 10_000

  return [r for r in rows if not held(r)], [r for r in rows if held(r)]
