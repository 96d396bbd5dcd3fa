"""Keeps the rationales that make what follows them more likely.

Reads rationales.jsonl (of make_rationales, or the three-field rows that were
released); writes scored.jsonl, work.jsonl (what scoring took), kept.jsonl,
train.jsonl, dev.jsonl and report.json. The scorer is the untrained base.
Several processes share the scoring; the first does the rest.
"""

import collections
import dataclasses
import json
import pathlib
from typing import Any

from ml_collections import ConfigDict

from refine_jax import files, records
from refine_jax.algorithms import likelihood
from refine_jax.data import overlap, sources
from refine_jax.methods import gains, rationales
from refine_jax.records import Rationale
from refine_jax.sampling.trunks import Work
from refine_jax.stages import (
  build,
  dealt,
  distributed,
  launch,
  make_documents,
  roles,
)

SECTIONS = ("seed", "task", "mesh", "layouts", "make_rationale_data")
SCORED, WORK = "scored.jsonl", "work.jsonl"
REPORT = "report.json"  # the mark of a complete stage


@dataclasses.dataclass(frozen=True)
class Batch:
  """Rows that were scored together, by the first one's id.

  Attributes:
    work: what it took, see `sampling.trunks.Work`.
  """

  id: str
  work: dict[str, int]


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Makes one set of training data.

  1. Read the rationales; leave out leaks, bare answers and overlap.
  2. Score the rest under the base, with and without; note it row by row.
     Whole batches of rows are dealt to the processes.
  3. Calibrate on labelled rows if there are any; keep; split by document.
  """
  if found := distributed.found(workdir / REPORT):
    return f"{workdir} is complete: {_line(found)}"
  settings = config.make_rationale_data
  rows = _read(settings, workdir)
  model = roles.model(settings.scorer, config, workdir)
  lengths = gains.Lengths(**settings.lengths.to_dict())
  usable, faults = _usable(rows, config, model.tokenizer, lengths)
  batches = dealt.Chunks(usable, settings.trunks.slots, "trunks.slots")
  _score(batches, model, lengths, config, workdir)
  counts = {"rationales": len(rows), "faults": faults}
  return distributed.by_first(
    lambda: _assemble(batches, counts, settings, workdir)
  )


def _assemble(
  batches: dealt.Chunks,
  counts: dict[str, Any],
  settings: ConfigDict,
  workdir: pathlib.Path,
) -> str:
  """Keeps the best of what all processes have scored."""
  made = workdir / SCORED, workdir / WORK
  batches.join(*made)
  scored = list(records.read(Rationale, workdir / SCORED))
  labels = _labels(settings, workdir)
  used = {r.id for r in scored[: settings.labelled or None]}
  known = {name: label for name, label in labels.items() if name in used}
  found = gains.calibrated(scored, known, settings.precision) if known else {}
  thresholds = gains.taus(scored, dict(settings.thresholds), settings.tau)
  thresholds |= {source: quality.tau for source, quality in found.items()}
  kept = gains.kept(scored, thresholds)
  train, dev = gains.split(kept, settings.dev_share)
  for name, part in (("kept", kept), ("train", train), ("dev", dev)):
    records.write(workdir / f"{name}.jsonl", part)
  counts = {
    **counts,
    "scored": len(scored),
    "kept": len(kept),
    "train": len(train),
    "dev": len(dev),
    "thresholds": thresholds,
    "calibration": {s: dataclasses.asdict(q) for s, q in found.items()},
    "held_out": _held_out(scored, labels, used, thresholds),
    "kept_by_tau": _sweep(scored),
    "work": _work(workdir / WORK),
  }
  files.write(workdir / REPORT, json.dumps(counts, indent=2) + "\n")
  dealt.remove(*made)
  return f"Wrote {workdir}/train.jsonl: {_line(counts)}"


def _line(counts: dict) -> str:
  said = f"kept {counts['kept']} of {counts['rationales']} rationales"
  if held := counts["held_out"]:
    said += (
      f" (precision {held['precision']:.3f}, recall {held['recall']:.3f}, F1"
      f" {held['f1']:.3f} on {held['labelled']} held-out labels)"
    )
  return said


def _read(settings, workdir) -> list[Rationale]:
  path = build.resolve(settings.rationales, workdir)
  if not settings.released:
    return list(records.read(Rationale, path))
  rows = sources.open_rows(records.Source(path=str(path)))
  return [rationales.of_released_row(rows[i], i) for i in range(len(rows))]


def _usable(rows, config, tokenizer, lengths):
  settings = config.make_rationale_data
  tests = [
    text
    for spec in settings.evaluation
    for text in make_documents.texts(spec, config)
  ]
  seen = overlap.Overlap(tests, settings.ngram) if tests else None
  usable, faults = [], collections.Counter()
  for row in rows:
    why = gains.fault(
      row,
      phrases=settings.phrases,
      seen=seen,
      tokenizer=tokenizer,
      lengths=lengths,
    )
    if why and why not in settings.allowed:
      faults[why] += 1
    else:
      usable.append(row)
  return usable, dict(faults.most_common())


def _score(batches: dealt.Chunks, model, lengths, config, workdir) -> None:
  """This process's batches; what is on disk is not scored again."""
  settings = config.make_rationale_data
  layout = roles.layout(config.layouts.scorer)
  path, work_path = (dealt.own(workdir / name) for name in (SCORED, WORK))
  with (
    records.Appender(Rationale, path) as scored,
    records.Appender(Batch, work_path) as done,
  ):
    left = [rows for _, rows in batches if rows[0].id not in done.done]
    trunks = roles.trunks(model, settings.trunks) if left else None
    for rows in left:
      trunks.work = Work()
      found = gains.score(
        rows, trunks, layout, model.tokenizer, lengths, settings.decay
      )
      scored.append(r for r in found if r.id not in scored.done)
      scored.settle()
      # Last: a batch is done once its work is there.
      done.append([Batch(rows[0].id, dataclasses.asdict(trunks.work))])
  distributed.together("all batches are scored")


def _work(path: pathlib.Path) -> dict[str, int]:
  """Of all batches."""
  total = collections.Counter()
  for batch in records.read(Batch, path):
    total.update(batch.work)
  return dict(total)


def _labels(settings, workdir) -> dict[str, bool]:
  """id -> label, of a file of {"id": ..., "label": ...} rows."""
  if not settings.labels:
    return {}
  path = build.resolve(settings.labels, workdir)
  rows = sources.open_rows(records.Source(path=str(path)))
  return {rows[i]["id"]: bool(rows[i]["label"]) for i in range(len(rows))}


def _held_out(scored, labels, used, thresholds) -> dict:
  """How the thresholds do on labelled rows they were not chosen on."""
  rows = [r for r in scored if r.id in labels and r.id not in used]
  if not rows:
    return {}
  margins = [r.gain - thresholds[gains.source_of(r)] for r in rows]
  found = likelihood.quality(margins, [labels[r.id] for r in rows], 0.0)
  return {**dataclasses.asdict(found), "labelled": len(rows)}


def _sweep(scored) -> dict[str, int]:
  """How many would be kept at other thresholds."""
  return {
    str(tau): sum(r.gain >= tau for r in scored)
    for tau in (0.0, 0.5, 1.0, 1.2, 2.0)
  }


if __name__ == "__main__":
  launch.run(main, SECTIONS)
