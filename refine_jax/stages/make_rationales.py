"""Puts rationales into documents: one greedy pass of an annotator.

Reads documents.jsonl of make_documents; writes annotations.jsonl (whatever
the annotator said, with its fault), rationales.jsonl and report.json. The
annotator is a model of ours, an OpenAI-compatible endpoint, or a task that
plants rationales. Several processes share the documents; the first puts
together what they were told.
"""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from refine_jax import files, records
from refine_jax.methods import rationales
from refine_jax.records import Document
from refine_jax.sampling import annotator as annotators
from refine_jax.sampling.settings import Request, id_hash
from refine_jax.stages import build, dealt, distributed, launch, replies, roles

SECTIONS = ("seed", "task", "mesh", "make_rationales")
ANNOTATIONS = "annotations.jsonl"
REPORT = "report.json"  # the mark of a complete stage

# Documents -> what is written for each.
Annotate = Callable[[Sequence[Document]], list[str]]


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Makes one set of rationales.

  1. Read the documents; whole blocks of them are dealt to the processes.
  2. Ask the annotator block by block; judge what it says; write it down.
  3. Write the rationales of the faithful ones, and what was counted.
  """
  if found := distributed.found(workdir / REPORT):
    return f"{workdir} is complete: {_line(found)}"
  settings = config.make_rationales
  path = build.resolve(settings.documents, workdir)
  documents = list(records.read(Document, path))[: settings.rows or None]
  blocks = dealt.Chunks(documents, settings.block, "block")
  _annotate(blocks, config, workdir)
  return distributed.by_first(lambda: _assemble(blocks, config, workdir))


def _annotate(
  blocks: dealt.Chunks, config: ConfigDict, workdir: pathlib.Path
) -> None:
  """This process's blocks; what is on disk is not asked for again."""
  settings = config.make_rationales
  markers = _markers(settings)
  replies.gather(settings, workdir)
  distributed.together("earlier replies are in one file")
  path = dealt.own(workdir / ANNOTATIONS)
  with records.Appender(rationales.Annotation, path) as appender:
    left = blocks.left(appender.done)
    annotate = _annotator(config, workdir, markers) if left else None
    for start, block in left:
      outputs = annotate(block)
      appender.append(
        rationales.judge(d, text, markers, settings.gate)[0]
        for d, text in zip(block, outputs, strict=True)
        if d.id not in appender.done
      )
      distributed.tell(f"{start + len(block)} of {blocks.total} documents")
  distributed.together("all blocks are annotated")


def _assemble(
  blocks: dealt.Chunks, config: ConfigDict, workdir: pathlib.Path
) -> str:
  """Puts together what all processes were told."""
  settings, path = config.make_rationales, workdir / ANNOTATIONS
  blocks.join(path)
  replies.gather(settings, workdir)
  found, counts = _rationales(path, _markers(settings), settings.gate)
  counts |= replies.spent(settings, workdir)
  records.write(workdir / "rationales.jsonl", found)
  _labels(config, workdir, found)
  files.write(workdir / REPORT, json.dumps(counts, indent=2) + "\n")
  dealt.remove(path)
  return f"Wrote {workdir}/rationales.jsonl: {_line(counts)}"


def _markers(settings: ConfigDict) -> rationales.Markers:
  return rationales.Markers(settings.open, settings.close)


def _line(counts: dict) -> str:
  faults = ", ".join(f"{n} {why}" for why, n in counts["faults"].items())
  return (
    f"{counts['rationales']} rationales in {counts['kept']} of"
    f" {counts['documents']} documents ({faults or 'no faults'})"
  )


def _rationales(path, markers, gate):
  """Rationales of what has no fault, and the counts."""
  found, faults, number = [], collections.Counter(), 0
  for row in records.read(rationales.Annotation, path):
    number += 1
    document = Document(row.id, row.document, row.subset)
    again, parsed = rationales.judge(document, row.output, markers, gate)
    if parsed is None:
      # Which of several rationales is at fault is no kind of its own.
      faults[" ".join(w for w in again.fault.split() if not w.isdigit())] += 1
      continue
    meta = {"source": row.subset, "fidelity": again.fidelity}
    found += rationales.rationales_of(row.id, parsed, meta)
  kept = len({r.document for r in found})
  counts = {
    "documents": number,
    "kept": kept,
    "rationales": len(found),
    "faults": dict(faults.most_common()),
  }
  return found, counts


def _labels(config: ConfigDict, workdir: pathlib.Path, found) -> None:
  """What a task that planted them knows of the rationales."""
  if config.make_rationales.annotator != "task":
    return
  task = build.task(config.task)
  with files.whole(workdir / "labels.jsonl") as file:
    for r in found:
      label = task.good_rationale(r.rationale, r.following)
      row = {"id": r.id, "label": bool(label)}
      file.write((json.dumps(row) + "\n").encode())


def _annotator(config, workdir, markers) -> Annotate:
  settings = config.make_rationales
  if settings.annotator == "task":
    task = build.task(config.task)

    def plant(documents: Sequence[Document]) -> list[str]:
      return [
        task.annotate(
          d.text, np.random.default_rng([config.seed, id_hash(d.id)])
        )
        for d in documents
      ]

    return plant
  instruction = rationales.Instruction(**settings.instruction.to_dict())
  if settings.annotator == "endpoint":
    asked = replies.asked(settings, workdir)
  else:
    model = roles.model(settings.annotator, config, workdir)
    trunks = roles.trunks(model, settings.trunks)
    # Stop ids and EOS end it; sampling is greedy.
    sampling = build.sampling(settings.sampling, config.seed)
    sampling = dataclasses.replace(sampling, stop=tuple(settings.stop))
    prefix = instruction.prefix(markers)
    asked = annotators.behind_prefix(trunks, prefix, sampling)

  def annotate(documents: Sequence[Document]) -> list[str]:
    requests = [
      Request(d.id, instruction.prompt(d.text, markers)) for d in documents
    ]
    return [texts[0] for texts in asked(requests)]

  return annotate


if __name__ == "__main__":
  launch.run(main, SECTIONS)
