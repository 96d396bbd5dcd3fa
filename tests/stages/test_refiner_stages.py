"""A task in under 40 lines and a config, through all five binaries.

Neither is part of the package: nothing else is touched. Every stage is then
started again and has nothing to do, or is killed (-9) at a moment that is
another one every time, and ends with the same bytes.
"""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import refiner_child
from jax.experimental.compilation_cache import compilation_cache

from refine_jax import records
from refine_jax.methods import critics
from refine_jax.sampling.engine import Engine
from refine_jax.sampling.settings import Request
from refine_jax.stages import (
  build,
  export_hf,
  launch,
  make_critic_data,
  make_report,
  run_refine,
  train_critic,
  train_generator,
  train_refiner,
  train_tokenizer,
)
from refine_jax.training import checkpoint

HERE = pathlib.Path(__file__).parent
STAGES = (
  ("tokenizer", train_tokenizer),
  ("warm_start", train_generator),
  ("critic_data", make_critic_data),
  ("critic", train_critic),
  ("refiner", train_refiner),
  ("refine", run_refine),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  """Compiled programs, for this process and those that are killed."""
  settings = {
    "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache")),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield settings
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(scope="module", params=["t5", "llama"])
def run(request, tmp_path_factory, cache):
  """All stages once; (config, root folder, what each said)."""
  root = tmp_path_factory.mktemp(f"{request.param}-")
  config = launch.load_config(f"{HERE}/reverse_config.py:model={request.param}")
  said, moments = {}, {}
  for folder, stage in STAGES:
    workdir = root / "seed0" / folder
    workdir.mkdir(parents=True)
    with refiner_child.Moments(workdir).watched() as counted:
      said[folder] = stage.main(config, workdir)
    moments[folder] = counted.count
  (root / "moments.json").write_text(json.dumps(moments))
  return config, root, said


def children(cache, model, root, jobs):
  """Exit codes of binaries; see refiner_child."""
  spec = f"{HERE}/reverse_config.py:model={model}"
  env = {**os.environ, **{k.upper(): str(v) for k, v in cache.items()}}
  env["PYTHONPATH"] = str(HERE.parent.parent)
  command = [sys.executable, HERE / "refiner_child.py", spec, root]
  done = subprocess.run(
    [*command, json.dumps(jobs)], env=env, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def test_the_task_is_short():
  lines = (HERE / "reverse_task.py").read_text().splitlines()
  assert len(lines) < 40


def test_every_stage_says_what_it_made(run):
  _, _, said = run
  assert said["tokenizer"].startswith("Wrote")
  for name in ("warm_start", "critic", "refiner"):
    assert "/checkpoints: best exact" in said[name]
  assert said["refine"] == "Answered 12 problems in 8 arms"


def test_critic_data_has_both_exports(run):
  _, root, _ = run
  folder = root / "seed0" / "critic_data"
  rows = list(records.read(records.Critique, folder / "critiques.jsonl"))
  critic = list(records.read(records.Example, folder / "critic_examples.jsonl"))
  revise = list(
    records.read(records.Example, folder / "revision_examples.jsonl")
  )
  assert {r.origin for r in rows} >= {"gold", "perturbed", "sampled"}
  assert [c.target[0] for c in critic] == [r.feedback for r in rows]
  wrong = [r for r in rows if r.feedback != "no hint"]
  assert [e.target[0] for e in revise] == [r.gold for r in wrong]


def test_arms_answer_the_same_problems(run):
  config, root, _ = run
  arms = {}
  for name in config.run_refine.order:
    path = root / "seed0" / "refine" / name / "trajectories.jsonl"
    arms[name] = list(records.read(records.Trajectory, path))
  ids = [t.id for t in arms["without critic"]]
  assert all([t.id for t in ts] == ids for ts in arms.values())
  assert all(len(t.turns) == 1 for t in arms["without critic"])
  # An untrained model is always wrong, so an oracle uses the whole budget.
  assert max(len(t.turns) for t in arms["oracle critic"]) == 2


def test_first_turns_agree_between_arms(run):
  _, root, _ = run
  first = {}
  for name in ("without critic", "trained critic", "oracle critic"):
    path = root / "seed0" / "refine" / name / "trajectories.jsonl"
    first[name] = [
      t.turns[0].hypothesis for t in records.read(records.Trajectory, path)
    ]
  assert first["without critic"] == first["trained critic"]
  assert first["without critic"] == first["oracle critic"]


def test_a_finished_stage_does_nothing_again(run):
  config, root, said = run
  for folder, stage in STAGES[1:]:
    before = contents(root / "seed0" / folder)
    again = stage.main(config, root / "seed0" / folder)
    assert contents(root / "seed0" / folder) == before, folder
    if folder in ("warm_start", "critic"):
      assert again.split("(")[0] == said[folder].split("(")[0]


def contents(folder):
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in folder.rglob("*")
    if p.is_file() and "tensorboard" not in p.parts
  }


# Each binary with one family; two processes of each are enough of a wait.
KILLED = {"t5": ("critic_data", "refiner"), "llama": ("critic", "refine")}


def test_killed_at_any_moment_and_started_again(run, cache):
  _, root, _ = run
  counted = json.loads((root / "moments.json").read_text())
  rng = np.random.default_rng()  # another moment every time
  jobs = []
  for folder in KILLED[model_of(root)]:
    stage = dict(STAGES)[folder]
    job = {
      "stage": stage.__name__.rpartition(".")[2],
      "folder": f"killed_{folder}",
      "moment": int(rng.integers(1, counted[folder] + 1)),
    }
    jobs += [job, {**job, "moment": 0}]
  codes = children(cache, model_of(root), root / "seed0", jobs)
  told = [
    (job, (root / "seed0" / f"{job['folder']}.stderr").read_text()[-2000:])
    for job in jobs
  ]
  assert codes == [-signal.SIGKILL, 0] * (len(jobs) // 2), told
  for folder in KILLED[model_of(root)]:
    whole, killed = (
      root / "seed0" / name for name in (folder, f"killed_{folder}")
    )
    if (whole / "checkpoints").exists():
      same_run(whole, killed, told)
    else:
      assert written(killed) == written(whole), told


def written(folder):
  """What a stage wrote, but its config and what a kill left half written."""
  return {
    name: data
    for name, data in contents(folder).items()
    if not pathlib.Path(name).name.startswith((".", "config.json"))
  }


def same_run(whole, killed, told):
  """Parameters to the bit, and every row of metrics but for its clocks."""
  for select in ("best", "last"):
    ours, theirs = (
      checkpoint.load_params(folder, select=select)
      for folder in (killed, whole)
    )
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
      np.testing.assert_array_equal(a, b, err_msg=str(told))
  rows = [
    [
      {k: v for k, v in json.loads(line).items() if not clock(k)}
      for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    for folder in (killed, whole)
  ]
  assert rows[0] == rows[1], told
  # How many rounds stay depends on when a save was done; the last one does.
  ours, theirs = (written(folder / "rollouts") for folder in (killed, whole))
  assert max(ours, default="") == max(theirs, default=""), told
  for name in ours.keys() & theirs.keys():
    assert ours[name] == theirs[name], (name, told)


def clock(name):
  return name == "time" or name.endswith("per_second")


# As launch_scripts/refiner_ablations.sh has them, and the model's critic.
OTHERWISE = {
  "refiner.greedy": {"rollout.samples": 1, "rollout.temperature": 0.0},
  "refiner.alone": {"critic": "none"},
  "refiner.noise": {"noise": 1.0},
  "refiner.model": {"critic": "model"},
}


@pytest.fixture(scope="module")
def ablations(run):
  """Refiners trained otherwise, and their arms: (config, folder, requests)."""
  _, root, _ = run
  spec = f"{HERE}/reverse_config.py:model={model_of(root)},ablations=true"
  for folder, changes in OTHERWISE.items():
    config = launch.load_config(spec)
    config.train_refiner.train.update(steps=2, eval_every=2)
    config.train_refiner.update_from_flattened_dict(changes)
    workdir = root / "seed0" / folder
    workdir.mkdir()
    train_refiner.main(config, workdir)
  config, asked = launch.load_config(spec), {}
  whole = Engine.generate

  def listening(self, params, requests, sampling=None):
    asked.update({(r.id, r.prompt): r for r in requests})
    return whole(self, params, requests, sampling)

  folder = root / "seed0" / "ablations"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Engine, "generate", listening)
    run_refine.main(config, folder)
  return config, folder, asked


def trajectories(folder, arm):
  path = folder / arm / "trajectories.jsonl"
  return list(records.read(records.Trajectory, path))


def test_the_trained_critics_words_reach_the_prompt(ablations):
  config, folder, asked = ablations
  template = build.template(config.template)
  heard = 0
  for t in trajectories(folder, "trained critic"):
    for number, (turn, _) in enumerate(itertools.pairwise(t.turns), 2):
      prompt = template.revision(
        t.question, turn.tokens or "", turn.feedback.tokens or ""
      )
      assert (f"{t.id}/t{number}", prompt) in asked
      heard += bool(turn.feedback.tokens)
  assert heard


def test_every_critic_of_run_refine(ablations):
  config, folder, _ = ablations
  task = build.task(config.task)
  problems = {p.id: p for p in build.problems(task, "test", config.data)}
  pool = critics.words_of(task, list(problems.values()))

  def said(arm):
    return [(t, turn) for t in trajectories(folder, arm) for turn in t.turns]

  for t, turn in said("oracle critic"):
    words = task.feedback(problems[t.problem], turn.hypothesis)
    assert turn.feedback.text == words
    assert turn.feedback.accepted == (words == task.no_hint)
  assert all(turn.feedback.text in pool for _, turn in said("100 % noise"))
  oracle = [turn.feedback.text for _, turn in said("oracle critic")]
  some = [turn.feedback.text for _, turn in said("50 % noise")]
  assert len(some) == len(oracle) and some != oracle
  for _, turn in said("trained without a critic, none"):
    assert turn.feedback == records.Feedback("", False)
  engines = {}
  for arm, path in (
    ("trained critic", "critic"),
    ("its own critic", "refiner"),
  ):
    model = build.load_model(folder.parent / path, build.mesh(config.mesh))
    length = config.feedback.max_tokens
    engines[arm] = build.engine(model, config.run_refine.critic_engine, length)
    template = build.template(config.template)
    t, turn = said(arm)[0]
    request = Request(
      "x", template.critique(t.question, turn.tokens or turn.hypothesis)
    )
    ((sample,),) = engines[arm].generate(
      model.params, [request], build.sampling(config.feedback)
    )
    assert turn.feedback.text == sample.text
    assert turn.feedback.accepted == (sample.text.strip() == task.no_hint)


def test_every_critic_of_train_refiner(ablations):
  config, folder, _ = ablations
  task = build.task(config.task)
  problems = {p.id: p for p in build.problems(task, "train", config.data)}
  pool = critics.words_of(task, list(problems.values()))
  template = config.template.feedback

  def said(name):
    """(problem, hypothesis, feedback) of a refiner's first round."""
    path = sorted((folder.parent / name / "rollouts").glob("*.jsonl"))[0]
    for example in records.read(records.Example, path):
      if len(example.prompt) > 1:  # turn 1 is the question alone
        place = example.prompt.index(template)
        words = example.prompt[place + 1 :]
        hypothesis = example.prompt[2] if place == 3 else ""
        yield problems[example.id.partition("/")[0]], hypothesis, words

  for name in ("refiner", "refiner.greedy"):
    for problem, hypothesis, words in said(name):
      assert words == (task.feedback(problem, hypothesis),)
  assert all(words == () for *_, words in said("refiner.alone"))
  assert all(words[0] in pool for *_, words in said("refiner.noise"))
  # An untrained critic says anything but what the oracle would.
  by_model = [words for *_, words in said("refiner.model")]
  by_oracle = [
    (task.feedback(p, hypothesis),)
    for p, hypothesis, _ in said("refiner.model")
  ]
  assert by_model and by_model != by_oracle


def test_ablations_have_a_report_of_their_own(ablations, capsys):
  config, folder, _ = ablations
  workdir = folder.parent.parent / "ablations"
  workdir.mkdir()
  make_report.main(config, workdir)
  arms = json.loads((workdir / "report.json").read_text())["arms"]
  assert {"100 % noise", "its own critic"} < set(arms)
  assert "trained without a critic" in capsys.readouterr().out


def test_beams_answer(run):
  config, root, _ = run
  config = config.copy_and_resolve_references()
  config.completion.beams = 2
  config.run_refine.update(only=("without critic",), rows=(0, 4))
  run_refine.main(config, root / "seed0" / "beams")
  found = trajectories(root / "seed0" / "beams", "without critic")
  model = build.load_model(root / "seed0" / "refiner", build.mesh(config.mesh))
  engine = build.engine(model, config.engine, config.completion.max_tokens)
  sampling = build.sampling(config.completion)
  assert sampling.beams == 2
  requests = [Request(t.id, (t.question,)) for t in found]
  best = engine.generate(model.params, requests, sampling)
  assert [t.turns[0].hypothesis for t in found] == [s.text for (s,) in best]


def model_of(root):
  return root.name.partition("-")[0]


def test_report(run, capsys):
  config, root, _ = run
  line = make_report.main(config, root)
  assert "report.html" in line
  page = (root / "report.html").read_text()
  assert "__DATA__" not in page and "trained critic" in page
  numbers = json.loads((root / "report.json").read_text())
  assert list(numbers["arms"]) == list(config.run_refine.order)
  assert "oracle critic" in capsys.readouterr().out


def test_export(run):
  config, root, _ = run
  workdir = root / "seed0" / "export"
  workdir.mkdir(exist_ok=True)
  assert export_hf.main(config, workdir) == f"Wrote {workdir}/hf"
  assert (workdir / "hf" / "config.json").exists()
