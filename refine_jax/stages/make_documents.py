"""Keeps the documents of corpora that look like reasoning.

Reads corpora as they come, each process its own blocks of rows; writes scored
shards (scored-*.jsonl) as it goes. From all of them the first process writes
documents.jsonl and report.json, without near-duplicates and overlap with test
sets.
"""

import itertools
import json
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from refine_jax import files, records
from refine_jax.data import corpora, overlap, sources
from refine_jax.data import tokenizer as tokenizers
from refine_jax.methods import documents
from refine_jax.models import sentences
from refine_jax.sampling.embedder import Embedder
from refine_jax.stages import build, distributed, launch
from refine_jax.stages.reading import BadConfig

SECTIONS = ("seed", "task", "mesh", "make_documents")
REPORT = "report.json"  # the mark of a complete stage


def main(
  config: ConfigDict,
  workdir: pathlib.Path,
  process: tuple[int, int] | None = None,
) -> str:
  """Makes one set of documents.

  1. Embed the reference sets; their directions give one.
  2. Read this process's rows block by block; score, keep, note how far.
  3. Once all shards are there: leave out what repeats, write the rest.
  """
  if found := distributed.found(workdir / REPORT):
    return _line(found, workdir)
  index, count = process or (jax.process_index(), jax.process_count())
  settings = config.make_documents
  _scan(settings, config, workdir, index, count)
  if process is None:
    distributed.together("documents are scored")
    return distributed.by_first(
      lambda: _finish(settings, config, workdir, count)
    )
  if _complete(workdir, count):
    return _finish(settings, config, workdir, count)
  return f"Wrote shard {index} of {count} in {workdir}"


def _line(report: Mapping[str, Any], workdir: pathlib.Path) -> str:
  kept, seen = report["kept"], report["segments"]
  return f"Wrote {kept} of {seen} segments to {workdir}/documents.jsonl"


def _scan(settings, config, workdir, index, count) -> None:
  """This process's rows, from where it stopped."""
  at = records.shard(workdir / "progress.jsonl", index, count)
  at = at.with_suffix(".json")
  state = {"source": 0, "row": 0, "counts": {}, "bad": 0, "done": False}
  if at.exists():
    state = json.loads(at.read_text(encoding="utf-8"))
  if state["done"]:
    return
  keep = _filter(settings, config, workdir)
  path = records.shard(workdir / "scored.jsonl", index, count)
  started, seen = time.monotonic(), 0
  with records.Appender(records.Document, path) as appender:
    for block in _blocks(settings, config, state, index, count):
      found, counts = keep(block["texts"])
      # A block that was killed after this is scored again and skipped here.
      appender.append(d for d in found if d.id not in appender.done)
      appender.settle()
      for subset, numbers in counts.items():
        old = state["counts"].get(subset, [0, 0])
        state["counts"][subset] = [
          a + b for a, b in zip(old, numbers, strict=True)
        ]
      state |= {key: block[key] for key in ("source", "row")}
      state["bad"] += block["bad"]
      _write(at, state)
      seen += len(block["texts"])
      rate = seen / max(time.monotonic() - started, 1e-9)
      if block["texts"]:
        distributed.tell(f"{seen} documents, {rate:.1f} documents/s")
  _write(at, state | {"done": True})


def _blocks(settings, config, state, index, count) -> Iterator[dict]:
  """Texts of `block` rows at a time, with where the next block begins.

  A block is the same rows however many processes there are: what is embedded
  together moves the last bits.
  """
  size = settings.block
  if size < 1:
    raise BadConfig(f"block must be positive, got {size}")
  for number, spec in enumerate(settings.sources):
    if number < state["source"]:
      continue
    start = state["row"] if number == state["source"] else 0
    rows = corpora.stream(
      source(spec, config), process=index, of=count, start=start, block=size
    )
    if stop := spec["rows"]:
      rows = itertools.takewhile(lambda x, stop=stop: x[0] < stop, rows)
    for _, part in itertools.groupby(rows, lambda x: x[0] // size):
      yield {"source": number, **_read(spec, part, set(settings.subsets))}
    yield {"source": number + 1, "row": 0, "texts": [], "bad": 0}


def _read(spec, rows, allowed) -> dict:
  """The texts of a block's rows."""
  block = {"texts": [], "bad": 0}
  for at, row in rows:
    block["row"] = at + 1
    text = _text(spec, row)
    if text is None:
      block["bad"] += 1
      continue
    subset = str(corpora.field(row, spec["subset"]) or spec["name"])
    if not allowed or subset in allowed:
      block["texts"].append((f"{spec['name']}-{at:09d}", subset, text))
  return block


def _text(spec: Mapping[str, Any], row: Any) -> str | None:
  """The text of a row; complaints are counted, not raised."""
  if isinstance(row, records.BadRow):
    return None
  parts = [corpora.field(row, name) for name in spec["text"]]
  if not all(isinstance(part, str) for part in parts):
    return None
  return "\n".join(parts)


def source(spec: Mapping[str, Any], config: ConfigDict) -> records.Source:
  """A source as a config names it: a path, a data set, or a task's split."""
  if spec["task_split"]:
    return build.task(config.task).source(spec["task_split"])
  given = {k: spec[k] or None for k in ("path", "dataset", "tfds", "split")}
  return records.Source(**given, config=spec["config"] or None)


def texts(spec: Mapping[str, Any], config: ConfigDict) -> list[str]:
  """All texts of a source, up to its `rows`."""
  rows = sources.open_rows(source(spec, config))
  stop = min(len(rows), spec["rows"] or len(rows))
  found = (_text(spec, rows[i]) for i in range(stop))
  return [text for text in found if text]


def _filter(settings, config, workdir) -> documents.Filter:
  embed = encoder(settings.encoder, build.own_mesh(config.mesh), workdir)
  prepare = documents.strip if settings.strip else str
  references = {
    spec["name"]: texts(spec, config) for spec in settings.references
  }
  counter = build.tokenizer(settings.tokenizer, workdir)
  return documents.Filter(
    direction=documents.direction(
      references, embed, prepare, pooled=settings.pooled
    ),
    embed=embed,
    threshold=settings.threshold,
    limit=settings.segment_tokens,
    count=lambda text: len(counter.encode(text)),
    prepare=prepare,
  )


def encoder(
  config: ConfigDict, mesh: jax.sharding.Mesh, workdir: pathlib.Path
) -> documents.Embed:
  """`hash`, or the folder of an encoder (a module's folder if it says so)."""
  if config.path == "hash":
    return documents.hashed
  folder = pathlib.Path(_package(config.path) or config.path)
  if not folder.is_absolute():
    folder = build.resolve(config.path, workdir)
  if not folder.is_dir():
    import huggingface_hub

    kinds = ["*.json", "*.safetensors", "*.model", "*.txt"]
    folder = pathlib.Path(
      huggingface_hub.snapshot_download(config.path, allow_patterns=kinds)
    )
  made, params = sentences.load(folder, mesh=mesh)
  embedder = Embedder(
    made,
    tokenizers.load(folder),
    mesh=mesh,
    positions=config.positions,
    instruction=config.instruction,
  )
  return lambda texts: embedder(params, texts)


def _package(path: str) -> str | None:
  """`package:NAME/folder`: weights that come as a Python package."""
  if not path.startswith("package:"):
    return None
  import importlib.util

  name, _, inner = path.removeprefix("package:").partition("/")
  found = importlib.util.find_spec(name)
  if found is None or found.origin is None:
    raise FileNotFoundError(f"{path}: the package {name} is not installed")
  return str(pathlib.Path(found.origin).parent / inner)


def _complete(workdir: pathlib.Path, count: int) -> bool:
  for index in range(count):
    at = records.shard(workdir / "progress.jsonl", index, count)
    at = at.with_suffix(".json")
    if not at.exists() or not json.loads(at.read_text())["done"]:
      return False
  return True


def _finish(settings, config, workdir, count) -> str:
  """What all shards hold, in the corpora's order, without repetitions."""
  found: list[records.Document] = []
  total: dict[str, list[int]] = {}
  bad = 0
  for index in range(count):
    path = records.shard(workdir / "scored.jsonl", index, count)
    found += records.read(records.Document, path)
    at = records.shard(workdir / "progress.jsonl", index, count)
    state = json.loads(at.with_suffix(".json").read_text(encoding="utf-8"))
    bad += state["bad"]
    for subset, numbers in state["counts"].items():
      old = total.get(subset, [0, 0])
      total[subset] = [a + b for a, b in zip(old, numbers, strict=True)]
  order = {spec["name"]: i for i, spec in enumerate(settings.sources)}
  found.sort(key=lambda d: _place(d.id, order))
  counts: dict[str, int] = {}
  tests = [t for spec in settings.evaluation for t in texts(spec, config)]
  duplicates = (
    overlap.NearDuplicates(settings.near_duplicates)
    if settings.near_duplicates
    else None
  )
  kept = documents.distinct(
    found,
    overlap.Overlap(tests, settings.ngram) if tests else None,
    duplicates,
    counts,
  )
  records.write(workdir / "documents.jsonl", kept)
  report = {
    **counts,
    "segments": sum(seen for seen, _ in total.values()),
    "above_threshold": len(found),
    "bad_rows": bad,
    "subsets": {
      name: {"segments": a, "above_threshold": b}
      for name, (a, b) in sorted(total.items())
    },
  }
  _write(workdir / REPORT, report)
  return _line(report, workdir)


def _place(name: str, order: Mapping[str, int]) -> tuple[int, int, int]:
  """Where a document stands in the corpora: source, row and segment."""
  source, row, segment = name.rsplit("-", 2)
  return order[source], int(row), int(segment)


def _write(path: files.Path, value: Any) -> None:
  files.write(path, json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
  launch.run(main, SECTIONS)
