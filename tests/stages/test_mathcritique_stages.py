"""MathCritique's binaries on the embedded task, smoke sizes: what they write,
what a rerun adds, and what is left after a kill."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import refiner_child
from jax.experimental.compilation_cache import compilation_cache

from refine_jax import records
from refine_jax.methods.critique import COMPACT
from refine_jax.methods.self_improve import Solution
from refine_jax.stages import (
  build,
  critiquing,
  launch,
  make_critique_report,
  make_mathcritique_data,
  make_self_improve_data,
  make_self_talk_data,
  run_refine,
  show,
  train_critic,
  train_generator,
  train_tokenizer,
)

TOP = pathlib.Path(__file__).parent.parent.parent
CONFIG = f"{TOP}/configs/mathcritique/arithmetic.py:smoke"
DATA = os.environ.get("REFINE_JAX_DATA") or "data"
ARMS = ("critique", "parallel, gated", "vote")


def config_of(text=""):
  """One shape of everything: what takes time here is compiling."""
  config = launch.load_config(CONFIG + text)
  config.mesh.devices = 1
  config.run_refine.update(only=ARMS, rows=(0, 2))
  config.completion.max_tokens, config.feedback.max_tokens = 24, 16
  for engine in (
    config.engine,
    config.train_critic.engine,
    config.run_refine.critic_engine,
  ):
    engine.update(slots=8, prompt_buckets=(128,))
  for data in (config.data, config.train_critic.data):
    data.update(max_prompt=128, max_target=64, batching="pad")
  # Enough for answers that end, so that there is something to criticise.
  config.train_generator.train.steps = 60
  config.train_generator.train.optimizer.learning_rate = 1e-2
  config.train_critic.train.optimizer.learning_rate = 1e-3
  return config


def run(stage, workdir, config):
  workdir.mkdir(parents=True, exist_ok=True)
  return stage.main(config, workdir)


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
  """A program is compiled by the first stage that needs it."""
  wanted = {
    "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("xla")),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  before = {name: getattr(jax.config, name) for name in wanted}
  for name, value in wanted.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
  """Every stage once, by folder."""
  root = tmp_path_factory.mktemp("mathcritique") / "seed0"
  config = config_of()
  run(train_tokenizer, root / "tokenizer", config)
  run(make_mathcritique_data, root / "bootstrap", config_of(",phase=bootstrap"))
  run(train_generator, root / "draft", config_of(",phase=draft"))
  run(make_mathcritique_data, root / "drafts", config_of(",phase=drafts"))
  run(train_generator, root / "actor0", config)
  moments = {}
  with refiner_child.Moments(root / "critic_data").watched() as counted:
    run(make_mathcritique_data, root / "critic_data", config)
  moments["critic_data"] = counted.count
  run(train_critic, root / "critic", config)
  with (
    refiner_child.Moments(root / "critic1_data").watched() as counted,
    loads() as loaded,
  ):
    run(make_self_improve_data, root / "critic1_data", loop())
  moments["critic1_data"] = counted.count
  (root / "moments.json").write_text(json.dumps(moments))
  (root / "loaded.json").write_text(json.dumps(loaded))
  return root


@contextlib.contextmanager
def loads():
  """The folders that models are loaded from meanwhile."""
  found, whole = [], build.load_model

  def load(path, mesh):
    found.append(path.resolve().name)
    return whole(path, mesh)

  build.load_model = load
  try:
    yield found
  finally:
    build.load_model = whole


def test_an_iteration_loads_each_model_once(seed):
  """However many chunks it takes; the original loads three times, in eight
  processes."""
  config = loop()
  chunks = config.make_self_improve_data.rows[1]
  assert chunks > config.make_self_improve_data.chunk
  loaded = json.loads((seed / "loaded.json").read_text())
  assert sorted(loaded) == ["actor0", "critic"]


# Where the killed ones run, and what else they need there.
KILLED = (
  ("critic_data", make_mathcritique_data, ("tokenizer", "actor0")),
  (
    "critic1_data",
    make_self_improve_data,
    ("tokenizer", "actor0", "critic", "bootstrap", "critic_data"),
  ),
)


def test_killed_with_minus_nine_at_any_moment(seed):
  """Processes of their own; the same files and the same manifest hash."""
  root = seed / "minus_nine"
  root.mkdir()
  needed = {name for *_, names in KILLED for name in names}
  for name in needed - {folder for folder, *_ in KILLED}:
    (root / name).symlink_to(seed / name)
  moments = json.loads((seed / "moments.json").read_text())
  rng, jobs = np.random.default_rng(), []  # another moment every time
  for folder, stage, _ in KILLED:
    job = {
      "stage": stage.__name__.rpartition(".")[2],
      "folder": folder,
      "moment": int(rng.integers(1, moments[folder] + 1)),
      "flags": flags_of(folder == "critic1_data"),
    }
    jobs += [job, {**job, "moment": 0}]
  done = subprocess.run(
    [
      sys.executable,
      TOP / "tests/stages/refiner_child.py",
      CONFIG,
      root,
      json.dumps(jobs),
    ],
    env={
      **os.environ,
      "PYTHONPATH": f"{TOP}{os.pathsep}{TOP / 'tests/stages'}",
      "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    },
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  told = [
    (job, (root / f"{job['folder']}.stderr").read_text()[-2000:])
    for job in jobs
  ]
  assert json.loads(done.stdout) == [-signal.SIGKILL, 0] * len(KILLED), told
  for folder, *_ in KILLED:
    assert rows_of(root / folder) == rows_of(seed / folder), told
    ours, theirs = (critiquing.sealed(r / folder) for r in (root, seed))
    assert ours["hash"] == theirs["hash"]


def rows_of(folder):
  return {
    name: data
    for name, data in contents(folder).items()
    if name.endswith(".jsonl") or name == "manifest.json"
  }


def flags_of(lenient):
  """`config_of`, or `loop`, as flags."""
  config = loop() if lenient else config_of()
  fields = [
    "completion.max_tokens", "feedback.max_tokens", "mesh.devices",
    *(f"{e}.{f}" for e in ("engine", "train_critic.engine")
      for f in ("slots", "prompt_buckets")),
    *(f"data.{f}" for f in ("max_prompt", "max_target", "batching")),
    "task.name", "make_self_improve_data.own_feedback",
  ]  # fmt: skip
  return [
    f"--config.{name}={value}"
    for name, value in zip(fields, show.lines(config, fields), strict=True)
  ]


def loop(**changes):
  """An untrained actor is right once in a while at best; a check that says
  yes to every third answer makes rows."""
  config = config_of()
  config.task.name = "lenient_arithmetic:Lenient"
  config.make_self_improve_data.update(own_feedback=True, **changes)
  return config


def contents(folder):
  return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def read(cls, path):
  return list(records.read(cls, path))


def test_bootstrap_rows(seed):
  rows = read(records.Annotated, seed / "bootstrap" / "annotated.jsonl")
  kept = [r for r in rows if r.kept]
  assert {r.origin for r in kept} == {"rg3", "pos"}
  for row in kept:
    found = COMPACT.parse(row.critique)
    assert found.first_error == row.err_step
  manifest = critiquing.sealed(seed / "bootstrap")
  assert sum(manifest["made"].values()) == manifest["rows"] == len(rows)
  dropped = sum(manifest["dropped"].values())
  assert dropped == len(rows) - len(kept)
  used = manifest["used"]
  critiques = read(records.Critique, seed / "bootstrap" / "critiques.jsonl")
  assert sum(used.values()) == len(critiques)
  share = used["pos"] / len(critiques)
  assert share == pytest.approx(0.4, abs=0.05)


def test_revision_examples_lead_to_right_answers(seed):
  task = launch_task()
  by_question = {
    task.prompt(p): p
    for p in (task.problem(r) for r in task.source("train").rows)
  }
  rows = read(records.Example, seed / "bootstrap" / "revision_examples.jsonl")
  fitting = [row for row in rows if not row.id.endswith("/misfit")]
  assert fitting
  for row in fitting:
    assert task.check(by_question[row.prompt[0]], row.target[0])


def launch_task():
  return build.task(config_of().task)


def test_monte_carlo_figures_are_in_the_manifest(seed):
  manifest = critiquing.sealed(seed / "critic_data")
  assert set(manifest["filter_kept_percent"]) == {
    "own critique", "another problem's", "rows",
  }  # fmt: skip
  rows = read(records.Annotated, seed / "critic_data" / "annotated.jsonl")
  judged = [r for r in rows if r.mc]
  assert judged and all(r.mc["n"] == 2 for r in judged)


def test_the_critic_reports_both_sides(seed):
  lines = (seed / "critic" / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  names = {name for row in rows for name in row}
  assert {"eval/disc", "eval/parsed"} <= names


def test_iterations_hold_what_the_flags_say(seed):
  folder = seed / "critic1_data"
  solutions = read(Solution, folder / "solutions.jsonl")
  assert any(not s.refined for s in solutions)
  rows = {r.id for r in read(records.Example, folder / "examples.jsonl")}
  refine0 = read(
    records.Example, seed / "critic_data" / "revision_examples.jsonl"
  )
  current = read(records.Example, folder / "current.jsonl")
  golds = {
    r.id
    for r in read(records.Example, seed / "bootstrap" / "reason_examples.jsonl")
  }
  assert golds
  assert rows == golds | {r.id for r in (*refine0, *current)}
  sealed = critiquing.sealed(folder)
  assert sealed["examples"] == len(rows)
  solved = {s.problem for s in solutions}
  hardest = {p: int(p in solved) for p in sealed["hardest"]}
  assert sealed["hardest"] == hardest
  assert len(hardest) == sealed["verified"]["problems"][0]
  refined = [s for s in solutions if s.refined]
  assert refined
  critiques = read(records.Critique, folder / "critiques.jsonl")
  assert len(critiques) == len(refined)
  of = [s.id.rpartition("/")[0] for s in refined]
  assert len(set(of)) == len(of)  # one refinement kept per critique


def test_a_killed_stage_goes_on_to_the_same_hash(seed, monkeypatch):
  done = seed / "critic1_data"
  again = seed / "killed" / "critic1_data"
  shutil.copytree(seed / "tokenizer", seed / "killed" / "tokenizer")
  for name in ("actor0", "critic", "bootstrap", "critic_data"):
    (seed / "killed" / name).symlink_to(seed / name)
  chunk = make_self_improve_data.Explorer._chunk
  calls = []

  def killed(self, problems):
    calls.append(len(problems))
    if len(calls) == 2:
      raise KeyboardInterrupt
    return chunk(self, problems)

  monkeypatch.setattr(make_self_improve_data.Explorer, "_chunk", killed)
  with pytest.raises(KeyboardInterrupt):
    run(make_self_improve_data, again, loop())
  monkeypatch.undo()
  assert not (again / "manifest.json").exists()
  # The kill came in the middle of a line, and after solutions were written.
  with open(again / "explored.jsonl", "r+b") as f:
    f.truncate((again / "explored.jsonl").stat().st_size - 7)
  run(make_self_improve_data, again, loop())
  assert critiquing.sealed(again)["hash"] == critiquing.sealed(done)["hash"]
  assert contents(again) == contents(done)


def test_finished_stages_add_nothing(seed):
  for folder, stage, config in (
    ("bootstrap", make_mathcritique_data, config_of(",phase=bootstrap")),
    ("critic_data", make_mathcritique_data, config_of()),
    ("critic1_data", make_self_improve_data, loop()),
  ):
    before = contents(seed / folder)
    assert "is complete" in stage.main(config, seed / folder)
    assert contents(seed / folder) == before


def test_matched_samples_cost_what_critiques_cost(seed):
  folder = seed / "matched1_data"
  run(make_self_improve_data, folder, loop(explore="matched"))
  rows = read(records.Attempts, folder / "explored.jsonl")
  for row in rows:
    # What the loop would criticise: not what was cut off.
    wrong = sum(not c.correct and c.finish == "eos" for c in row.candidates[:2])
    assert len(row.candidates) == 2 + wrong * (1 + 2)
  assert not any(s.refined for s in read(Solution, folder / "solutions.jsonl"))


@pytest.mark.parametrize("form", ["talk", "trajectory"])
def test_self_talk(seed, form):
  config = loop()
  config.make_self_talk_data.update(form=form, annotator="oracle")
  said = run(make_self_talk_data, seed / form, config)
  assert said.startswith("Wrote")
  talks = read(make_self_talk_data.Talk, seed / form / "talks.jsonl")
  assert len(talks) == 8
  kept = [t for t in talks if not t.drop]
  examples = read(records.Example, seed / form / "examples.jsonl")
  assert [e.target[0] for e in examples] == [t.text for t in kept]
  manifest = critiquing.sealed(seed / form)
  assert manifest["clean"] + manifest["mended"] == len(kept)


def test_arms_and_report(seed, capsys):
  run(run_refine, seed / "refine", config_of())
  for name in ARMS:
    summary = json.loads((seed / "refine" / name / "summary.json").read_text())
    four = [summary["transitions"][k] for k in ("c2c", "c2i", "i2c", "i2i")]
    assert sum(four) == pytest.approx(100)
  vote = json.loads((seed / "refine" / "vote" / "summary.json").read_text())
  assert list(vote["curve"]) == ["1", "2", "4"]
  config = config_of()
  line = make_critique_report.main(config, seed.parent)
  assert "critique_report.md" in line
  out = capsys.readouterr().out
  assert "Votes at equal tokens" in out and "| critic | 1 |" in out
  assert "| critique |" in out  # a critic's row, with its intervals
  assert "held-out critiques | disc" in out and ", 1 seeds |" in out
  for name in ("votes", "votes_k"):
    assert (seed.parent / f"{name}.svg").read_text().startswith("<svg")
  numbers = json.loads((seed.parent / "critique_report.json").read_text())
  critic = numbers["arms"]["critique"][0]["critic"]
  for key, values in critic["values"].items():
    assert 100 * np.mean(values) == pytest.approx(critic[key])
    assert critic["intervals"][key]["mean"] == pytest.approx(critic[key])


def test_rows_that_stay_change_no_answer(seed):
  """Rounds of several chains, with and without sessions, and what is read."""
  arms = ("sequential", "parallel, gated")
  read = {}
  for sessions in (True, False):
    folder = seed / f"refine_{sessions}"
    config = config_of()
    config.run_refine.update(only=arms, sessions=sessions, rows=(0, 5))
    config.run_refine.arms["sequential"].update(
      gate="none", chains=2, temperature=0.7
    )
    run(run_refine, folder, config)
    read[sessions] = [
      json.loads((folder / name / "summary.json").read_text())["prefill"]
      for name in arms
    ]
  for name in arms:
    with_rows, without = (
      seed / f"refine_{sessions}" / name / "trajectories.jsonl"
      for sessions in (True, False)
    )
    assert with_rows.read_bytes() == without.read_bytes()
  for kept, plain in zip(read[True], read[False], strict=True):
    assert set(kept) == {"actor", "critic"}
    for who in kept:
      assert plain[who]["kept"] == 0 < kept[who]["kept"]
      assert kept[who]["read"] < plain[who]["read"]


def test_a_model_may_criticise_itself(seed):
  """One engine and one session with rows of both kinds."""
  said = {}
  for sessions in (True, False):
    config = config_of()
    config.completion.max_tokens = config.feedback.max_tokens
    config.run_refine.update(
      only=("sequential",), sessions=sessions, rows=(0, 6), critic="../actor0"
    )
    config.run_refine.arms["sequential"].gate = "none"
    folder = seed / f"own_{sessions}"
    run(run_refine, folder, config)
    text = (folder / "sequential" / "summary.json").read_text()
    assert set(json.loads(text)["prefill"]) == {"actor"}
    said[sessions] = (folder / "sequential/trajectories.jsonl").read_bytes()
  assert said[True] == said[False]


@pytest.mark.slow
def test_published_rows_train_a_critic_and_are_evaluated(tmp_path):
  """Two updates on the 200 rows, through the binaries of the 76,000."""
  folder = pathlib.Path(DATA, "mathcritique")
  files = sorted(str(p) for p in folder.glob("*sftdata_0_new.json"))
  if len(files) != 2 or not pathlib.Path(DATA, "gsm8k").is_dir():
    pytest.skip("the published rows are not under REFINE_JAX_DATA")
  config = launch.load_config(
    f"{TOP}/configs/mathcritique/llama3.py:smoke,phase=published"
  )
  config.mesh.devices = 1
  config.make_mathcritique_data.published = tuple(files)
  run(make_mathcritique_data, tmp_path / "critic_data", config)
  rows = read(records.Critique, tmp_path / "critic_data" / "critiques.jsonl")
  # One verdict of 200 cannot be read, one says Correct of a wrong answer.
  assert len(rows) == 198
  config.train_critic.train.update(steps=2, eval_every=2, batch_size=2)
  line = run(train_critic, tmp_path / "critic", config)
  assert "of 2 (" in line
  config.train_generator.examples = ("../critic_data/revision_examples.jsonl",)
  config.train_generator.train.update(steps=2, eval_every=2, batch_size=2)
  run(train_generator, tmp_path / "actor0", config)
  config.run_refine.update(only=("critique",), rows=(0, 2))
  run(run_refine, tmp_path / "refine", config)
  summary = json.loads(
    (tmp_path / "refine" / "critique" / "summary.json").read_text()
  )
  assert summary["problems"] == 2 and "disc" in summary["critic"]
