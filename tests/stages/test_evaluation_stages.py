"""Sampling, self-training data, a reranker and evaluation, end to end.

On easy arithmetic with a model that is trained for a few seconds. Sampling is
also killed with SIGKILL and started again.
"""

import collections
import json
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from refine_jax import config as blocks
from refine_jax import records
from refine_jax.algorithms import voting
from refine_jax.methods import reranking, selection
from refine_jax.stages import (
  build,
  export_hf,
  launch,
  make_self_training_data,
  on_policy,
  rerankers,
  run_evaluate,
  run_sample,
  train_generator,
  train_reranker,
  train_tokenizer,
)
from refine_jax.stages.reading import BadConfig

HERE = pathlib.Path(__file__).parent
CONFIG = HERE / "arithmetic_config.py"
STAGES = (
  ("tokenizer", train_tokenizer),
  ("warm_start", train_generator),
  ("samples", run_sample),
  ("self_training", make_self_training_data),
  ("reranker", train_reranker),
  ("evaluation", run_evaluate),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """All stages once: (config, root folder, what each said)."""
  root = tmp_path_factory.mktemp("arithmetic")
  config = launch.load_config(str(CONFIG))
  said = {}
  for folder, stage in STAGES:
    (root / folder).mkdir()
    said[folder] = stage.main(config, root / folder)
  return config, root, said


def attempts(path):
  return list(records.read(records.Attempts, path))


def test_samples_are_checked(run):
  config, root, _ = run
  task = build.task(config.task)
  problems = {
    p.id: p for p in build.problems(task, "train", config.data, rows=(0, 40))
  }
  rows = attempts(root / "samples" / "samples.jsonl")
  assert [row.problem for row in rows] == list(problems)
  for row in rows:
    assert len(row.candidates) == config.run_sample.n
    for c in row.candidates:
      assert c.correct == task.check(problems[row.problem], c.text)
      assert c.reward == task.reward(problems[row.problem], c.text)
      assert c.answer == task.answer(c.text)
      assert c.tokens > 0 and c.logprob < 0
  assert any(c.correct for row in rows for c in row.candidates)


def test_killed_and_resumed_is_uninterrupted(run, capsys):
  config, root, _ = run
  workdir = root / "killed"
  path = workdir / "samples.jsonl"
  command = [sys.executable, "-m", "refine_jax.stages.run_sample",
             f"--config={CONFIG}", f"--workdir={workdir}",
             "--config.run_sample.chunk=2"]  # fmt: skip
  with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
    while not (path.exists() and path.stat().st_size) and child.poll() is None:
      time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
  found = path.read_bytes().count(b"\n")
  assert 0 < found < 40, "it was not killed on its way"
  with open(path, "ab") as torn:
    torn.write(b'{"id": "half a li')
  run_sample.main(config, workdir)
  told = capsys.readouterr().out
  n = config.run_sample.n
  assert (
    f"sampling: {40 - found} requests and {(40 - found) * n} samples" in told
  )
  assert "tokens/s, slot use 0." in told
  whole = (root / "samples" / "samples.jsonl").read_text().splitlines()
  again = path.read_text().splitlines()
  assert len(again) == 40
  for ours, theirs in zip(again, whole, strict=True):
    ours, theirs = json.loads(ours), json.loads(theirs)
    for c in (*ours["candidates"], *theirs["candidates"]):
      c["logprob"] = round(c["logprob"], 3)  # another number of slots
    assert ours == theirs


def test_one_goes_on_with_what_several_have_left(run):
  """Of three processes two had begun, and one died while it wrote."""
  config, root, said = run
  whole = (root / "samples" / "samples.jsonl").read_bytes()
  lines = whole.splitlines(keepends=True)
  path = root / "left" / "samples.jsonl"
  path.parent.mkdir()
  records.shard(path, 0, 3).write_bytes(b"".join(lines[:8]))
  records.shard(path, 1, 3).write_bytes(b"".join(lines[32:]) + b'{"id": "ha')
  again = run_sample.main(config, path.parent)
  assert again == said["samples"].replace("/samples:", "/left:")
  assert path.read_bytes() == whole
  assert {f.name for f in path.parent.iterdir()} == {"counts.json", path.name}


def test_every_checkpoint_can_be_sampled(run, tmp_path):
  config, root, _ = run
  config = config.copy_and_resolve_references()
  config.run_sample.update(
    select="all", rows=(0, 3), generator=str(root / "warm_start")
  )
  run_sample.main(config, tmp_path)
  rows = attempts(tmp_path / "samples.jsonl")
  steps = {60, 120}
  assert len(rows) == 6 and len({row.problem for row in rows}) == 3
  assert {int(row.id.split("@")[1]) for row in rows} == steps
  by_step = collections.defaultdict(list)
  for row in rows:
    by_step[row.id.split("@")[1]].append([c.text for c in row.candidates])
  assert by_step["60"] != by_step["120"]


def test_test_problems_are_read_by_evaluation_alone(run, tmp_path):
  config, _, _ = run
  config = config.copy_and_resolve_references()
  config.run_sample.split = "test"
  with pytest.raises(ValueError, match="kept for run_evaluate"):
    run_sample.main(config, tmp_path)
  assert not list(tmp_path.iterdir())
  shipped = HERE.parent.parent / "configs" / "reft" / "arithmetic.py"
  for stage, section, field in (
    (train_generator, "train_generator", "split"),
    (train_generator, "train_generator", "eval_split"),
    (make_self_training_data, "make_self_training_data", "split"),
    (None, "train_reft", "split"),
    (None, "train_online_st", "eval_split"),
  ):
    config = launch.load_config(f"{shipped}:smoke")
    config[section][field] = "test"
    with pytest.raises(BadConfig, match="'test' is kept for run_evaluate"):
      if stage:
        stage.main(config, tmp_path)
      else:
        on_policy.problems_of(None, config, config[section])


def test_self_training_data(run):
  config, root, said = run
  rows = attempts(root / "samples" / "samples.jsonl")
  made = list(
    records.read(records.Example, root / "self_training" / "examples.jsonl")
  )
  by_problem = collections.defaultdict(list)
  for example in made:
    by_problem[example.id.rpartition("/")[0]].append(example.target[0])
  for row in rows:
    texts = by_problem[row.problem]
    right = {c.text.strip() for c in row.candidates if c.correct}
    assert texts.count(row.gold) == 1
    assert set(texts) - {row.gold} <= right
    assert (
      len(set(texts)) == len(texts) <= config.make_self_training_data.cap + 1
    )
  assert said["self_training"].startswith(f"Wrote {len(made)} examples")


def test_a_generator_learns_from_self_training_data(run, tmp_path):
  config, root, _ = run
  config = config.copy_and_resolve_references()
  section = config.train_generator
  section.examples = str(root / "self_training" / "examples.jsonl")
  examples = train_generator.read_examples(
    build.task(config.task),
    build.template(config.template),
    config,
    tmp_path,
  )
  assert len(examples) >= 40


def test_the_reranker_saves_what_it_learned(run):
  _, root, said = run
  assert "best rerank" in said["reranker"]
  config = run[0]
  model, lengths = rerankers.load(root / "reranker", build.mesh(config.mesh))
  assert lengths == rerankers.Lengths(24, 24)
  assert model.params["score"]["out"]["kernel"].shape == (32, 2)
  assert "bias" not in model.params["score"]["out"]
  with pytest.raises(ValueError, match="holds no reranker"):
    rerankers.load(root / "warm_start", build.mesh(config.mesh))


def test_an_exported_reranker_scores_as_before(run, tmp_path):
  config, root, _ = run
  config = config.copy_and_resolve_references()
  config.export_hf = blocks.export_hf(str(root / "reranker"))
  export_hf.main(config, tmp_path)
  mesh = build.mesh(config.mesh)
  rows = attempts(root / "samples" / "samples.jsonl")[:3]
  rows = reranking.rows(rows, build.template(config.template))
  model, lengths = rerankers.load(root / "reranker", mesh)
  again, half = rerankers.load(tmp_path / "hf", mesh)
  assert half == rerankers.Lengths(32, 32)  # half of what the model reads
  np.testing.assert_allclose(
    rerankers.Scorer(again, lengths, 8)(again.params, rows),
    rerankers.Scorer(model, lengths, 8)(model.params, rows),
    atol=1e-6,
  )


def test_metrics_are_those_of_the_samples(run):
  _, root, said = run
  folder = root / "evaluation"
  found = json.loads((folder / "metrics.json").read_text())
  assert found["problems"] == 14 and found["split"] == "test"
  warm = found["systems"]["warm"]
  assert set(warm) == {"top-1"} | {
    f"{rule}@{k}"
    for rule in ("vote", "weighted vote", "rerank", "pass")
    for k in (1, 2, 4)
  }
  assert "rerank@4" not in found["systems"]["last"]
  rows = attempts(folder / "warm" / "samples.jsonl")
  correct = np.array([[c.correct for c in row.candidates] for row in rows])
  expected = 100 * voting.pass_at(correct, 2).mean()
  assert warm["pass@2"]["mean"] == pytest.approx(expected)
  assert warm["pass@4"]["mean"] == pytest.approx(100 * correct.any(1).mean())
  for values in warm.values():
    assert values["low"] <= values["mean"] <= values["high"]
  greedy = attempts(folder / "warm" / "greedy.jsonl")
  assert warm["top-1"]["mean"] == pytest.approx(
    100 * np.mean([row.candidates[0].correct for row in greedy])
  )
  text = (folder / "metrics.md").read_text()
  assert "| rerank@4 |" in text and "| rerank@4 over vote@4 |" in text
  assert said["evaluation"].endswith("2 systems on 14 problems")


def test_scores_are_the_reranker_s(run):
  config, root, _ = run
  folder = root / "evaluation" / "warm"
  rows = attempts(folder / "samples.jsonl")
  model, lengths = rerankers.load(root / "reranker", build.mesh(config.mesh))
  flat = reranking.rows(rows, build.template(config.template))
  stored = json.loads((folder / "scores.json").read_text())
  # One by one: neither padding nor company changes a score.
  one = rerankers.Scorer(model, lengths, 1)
  for i in (0, len(flat) // 2, len(flat) - 1):
    alone = one(model.params, [flat[i]])
    np.testing.assert_allclose(alone[0], stored[i], atol=1e-5)
  scores = {
    (row.problem, row.text): score
    for row, score in zip(flat, stored, strict=True)
  }
  table = selection.table(rows, scores)
  found = json.loads((root / "evaluation" / "metrics.json").read_text())
  taken = voting.rerank(table.answers_BS, table.scores_BS, 4)
  assert found["systems"]["warm"]["rerank@4"]["mean"] == pytest.approx(
    100 * voting.credit(table.correct_BS, taken).mean()
  )


def test_a_finished_stage_does_nothing_again(run):
  config, root, said = run
  for folder, stage in STAGES[2:]:
    before = contents(root / folder)
    again = stage.main(config, root / folder)
    assert contents(root / folder) == before, folder
    if folder != "self_training":
      assert again.split("(")[0] == said[folder].split("(")[0]


def contents(folder):
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in folder.rglob("*")
    if p.is_file() and "tensorboard" not in p.parts
  }


def test_samples_that_miss_a_problem_are_refused(run, tmp_path):
  config, root, _ = run
  config = config.copy_and_resolve_references()
  config.run_evaluate.systems.warm.samples = str(
    root / "samples" / "samples.jsonl"
  )
  config.run_evaluate.systems.warm.greedy = str(
    root / "evaluation" / "warm" / "greedy.jsonl"
  )
  with pytest.raises(records.BadRow, match="14 problems of split 'test'"):
    run_evaluate.main(config, tmp_path)
