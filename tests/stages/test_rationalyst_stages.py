"""RATIONALYST's stages on a tiny base with random weights."""

import json

import pytest
import tiny_rationalyst

from refine_jax import records
from refine_jax.methods import comparison
from refine_jax.stages import (
  build,
  make_rationale_data,
  make_rationales,
  run_stepwise,
  train_rationalyst,
)

ARMS = ("random", "implicit", "explicit", "reward", "majority vote")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """All stages from the documents on; (config, root folder)."""
  root = tmp_path_factory.mktemp("run")
  made = tiny_rationalyst.config_of()
  tiny_rationalyst.save_base(root / "base", made)
  section = made.run_stepwise
  section.update(order=ARMS, rows=(0, 3), candidates=2)
  section.arms["majority vote"].budget_of = "implicit"
  documents = [
    records.Document(row["id"], row["text"], row["subset"])
    for row in build.task(made.task).source("documents").rows[:16]
  ]
  records.write(root / "documents" / "documents.jsonl", documents)
  for name, stage in (
    ("rationales", make_rationales),
    ("rationale_data", make_rationale_data),
    ("stepwise", run_stepwise),
  ):
    (root / name).mkdir()
    stage.main(made, root / name)
  return made, root


def read(cls, path):
  return list(records.read(cls, path))


def test_every_planted_rationale_comes_out_with_its_label(run):
  _, root = run
  rows = read(records.Rationale, root / "rationales" / "rationales.jsonl")
  lines = (root / "rationales" / "labels.jsonl").read_text().splitlines()
  labels = {r["id"]: r["label"] for r in map(json.loads, lines)}
  assert set(labels) == {r.id for r in rows} and any(labels.values())
  for row in rows:
    good = row.rationale == f"use-{row.following.split()[1]}"
    assert labels[row.id] == good
  report = json.loads((root / "rationales" / "report.json").read_text())
  assert (
    report["faults"].get("no rationale", 0)
    == report["documents"] - report["kept"]
  )


def test_gains_carry_their_evidence_and_documents_stay_together(run):
  _, root = run
  folder = root / "rationale_data"
  rows = read(records.Rationale, folder / "scored.jsonl")
  for row in rows:
    given, without = row.meta["given"], row.meta["without"]
    expected = sum(
      0.9**i * (a - b)
      for i, (a, b) in enumerate(zip(given, without, strict=True))
    )
    assert row.gain == pytest.approx(expected, abs=1e-3)
  parts = [
    read(records.Rationale, folder / f"{n}.jsonl") for n in ("train", "dev")
  ]
  assert not {r.document for r in parts[0]} & {r.document for r in parts[1]}
  report = json.loads((folder / "report.json").read_text())
  assert report["kept"] == sum(map(len, parts))
  sweep = list(report["kept_by_tau"].values())
  assert sweep == sorted(sweep, reverse=True)
  tau = report["thresholds"]["chains"]
  assert all(row.gain >= tau for part in parts for row in part)


def test_the_same_gains_in_other_batches(run, tmp_path):
  made, root = run
  changed = made.copy_and_resolve_references()
  changed.make_rationale_data.trunks.slots = 3
  changed.make_rationale_data.rationales = str(
    root / "rationales" / "rationales.jsonl"
  )
  changed.make_rationale_data.scorer = str(root / "base")
  changed.make_rationale_data.labels = ""
  make_rationale_data.main(changed, tmp_path)
  ours = read(records.Rationale, tmp_path / "scored.jsonl")
  theirs = read(records.Rationale, root / "rationale_data" / "scored.jsonl")
  assert [r.id for r in ours] == [r.id for r in theirs]
  for a, b in zip(ours, theirs, strict=True):
    assert a.gain == pytest.approx(b.gain, abs=1e-4)


def test_training_rows_are_whole_and_learn_the_rationale_alone(run):
  made, root = run
  model = build.load_model(root / "base", build.mesh(made.mesh))
  rows = read(records.Rationale, root / "rationale_data" / "train.jsonl")
  layout = train_rationalyst.roles.layout(made.layouts.writer)
  data = made.train_rationalyst.data
  examples = [
    train_rationalyst.example(r, model.tokenizer, layout, 11, "rationale")
    for r in rows
  ]
  encoded = build.encoded(model, examples, data)
  assert len(encoded) == len(rows)
  text = model.tokenizer
  for row, found in zip(rows, encoded, strict=True):
    assert list(found.prompt_ids).count(text.bos_id) == 1
    assert found.prompt_ids[0] == text.bos_id and len(found.prompt_ids) <= 12
    prompt = text.decode(found.prompt_ids)
    # Cut at the left: the end of the text, and the layout, are there.
    assert prompt.endswith("\n<BOT>")
    assert row.preceding.endswith(prompt.removesuffix("\n<BOT>").strip())
    assert found.learn.all() and found.target_ids[-1] == text.eos_id
    assert text.decode(found.target_ids) == row.rationale


def test_arms_answer_the_same_problems_and_are_compared(run):
  _, root = run
  table = json.loads((root / "stepwise" / "table.json").read_text())
  assert list(table) == list(ARMS)
  assert "against random" in table["implicit"]
  text = (root / "stepwise" / "table.md").read_text()
  assert text.count("\n") == len(ARMS) + 2
  arms = [run_stepwise.arm_of(root / "stepwise" / name) for name in ARMS]
  comparison.check(arms)
  first = {
    name: read(
      records.Trajectory, root / "stepwise" / name / "trajectories.jsonl"
    )
    for name in ("random", "implicit", "reward")
  }
  # The same candidates in the first round, whoever chooses.
  shown = [
    [t.meta["rounds"][0]["candidates"] for t in rows] for rows in first.values()
  ]
  assert shown[0] == shown[1] == shown[2]


def test_no_role_reads_a_token_twice(run):
  _, root = run
  for name in ("random", "implicit"):
    path = root / "stepwise" / name / "summary.json"
    for role, work in json.loads(path.read_text())["work"].items():
      assert work["prefilled"] <= 1.1 * work["appended"], (name, role)


def test_batches_of_problems_change_nothing(run, tmp_path):
  made, root = run
  changed = made.copy_and_resolve_references()
  section = changed.run_stepwise
  paths = {k: str(root / "base") for k in ("agent", "scorer", "writer")}
  section.update(order=("implicit",), together=1, references=(), **paths)
  run_stepwise.main(changed, tmp_path)
  ours, theirs = (
    read(records.Trajectory, folder / "implicit" / "trajectories.jsonl")
    for folder in (tmp_path, root / "stepwise")
  )
  assert [(t.id, t.turns) for t in ours] == [(t.id, t.turns) for t in theirs]


def test_another_prompt_is_refused_a_comparison(run, tmp_path):
  made, root = run
  changed = made.copy_and_resolve_references()
  section = changed.run_stepwise
  paths = {k: str(root / "base") for k in ("agent", "scorer", "writer")}
  section.update(order=("first",), before="Question: ", **paths)
  section.others = (str(root / "stepwise" / "random"),)
  with pytest.raises(comparison.NotComparable, match="different prompts"):
    run_stepwise.main(changed, tmp_path)


def test_finished_stages_do_nothing_again(run):
  made, root = run
  before = {p: p.stat().st_mtime_ns for p in root.rglob("*.jsonl")}
  assert "complete" in make_rationales.main(made, root / "rationales")
  assert "complete" in make_rationale_data.main(made, root / "rationale_data")
  run_stepwise.main(made, root / "stepwise")
  assert {p: p.stat().st_mtime_ns for p in root.rglob("*.jsonl")} == before


def test_released_rows_are_scored_too(run, tmp_path):
  made, root = run
  rows = [
    {
      "preceeding": "sign red start 7",
      "rationale": "use-alpha",
      "following": "7 alpha 12",
    },
    {"preceeding": "start 7", "rationale": "go on", "following": "answer 7"},
  ]
  path = tmp_path / "released.jsonl"
  path.write_text("".join(json.dumps(r) + "\n" for r in rows))
  changed = made.copy_and_resolve_references()
  section = changed.make_rationale_data
  section.update(rationales=str(path), released=True, labels="", tau=-99.0)
  section.update(scorer=str(root / "base"), phrases=("answer",))
  make_rationale_data.main(changed, tmp_path)
  report = json.loads((tmp_path / "report.json").read_text())
  assert report["faults"] == {"answer only": 1} and report["kept"] == 1
