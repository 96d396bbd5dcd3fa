"""MathCritique's rows without a model: flags, annotators, self-talk, config."""

import dataclasses
import itertools
import os
import pathlib
import subprocess
import sys

import annotating_server
import numpy as np
import pytest

from refine_jax import records
from refine_jax.methods.critique import PUBLISHED
from refine_jax.methods.dialogue import Dialogue
from refine_jax.methods.self_improve import Solution
from refine_jax.stages import (
  build,
  critiquing,
  launch,
  make_mathcritique_data,
  make_self_improve_data,
  make_self_talk_data,
  show,
)

TOP = pathlib.Path(__file__).parent.parent.parent
FILE = TOP / "configs/mathcritique/arithmetic.py"
FLAGS = (
  "use_critic", "use_original", "use_previous", "own_feedback",
  "annotator_feedback",
)  # fmt: skip


def config_of(text=""):
  config = launch.load_config(f"{FILE}:smoke{text}")
  config.mesh.devices = 1
  return config


def read(cls, path):
  return list(records.read(cls, path))


def problems_of(config, rows):
  task = build.task(config.task)
  return task, build.problems(task, "train", config.data, rows=rows)


@pytest.fixture(scope="module")
def explored(tmp_path_factory):
  """A folder of what an actor and a critic found, and the rows before it."""
  root = tmp_path_factory.mktemp("flags")
  config = config_of()
  task, problems = problems_of(
    config, tuple(config.make_self_improve_data.rows)
  )
  folder = root / "explored"
  folder.mkdir()
  candidate = records.Candidate("answer 0", "0", "0", False, 0.0, "eos", 3, 0.0)
  records.write(
    folder / "explored.jsonl",
    [
      records.Attempts(p.id, p.id, task.prompt(p), p.gold, (candidate,) * 2)
      for p in problems
    ],
  )
  found = []
  for p in problems:
    one = Solution(f"{p.id}/y0", p.id, task.prompt(p), p.gold, p.gold)
    other = dataclasses.replace(
      one, id=f"{p.id}/y1/r0", key=f"{p.gold} again", response="answer 0",
      critique="line answer 0 : wrong final wrong",
    )  # fmt: skip
    found += [one, other]
  records.write(folder / "solutions.jsonl", found)
  for name, path in (
    ("F", "bootstrap/revision_examples.jsonl"),
    ("P", "critic1_data/current.jsonl"),
  ):
    (root / path).parent.mkdir()
    records.write(
      root / path,
      [records.Example(f"{name}/{i}", ("x",), ("y",)) for i in range(3)],
    )
  return root, problems


@pytest.mark.parametrize("bits", [*itertools.product((False, True), repeat=5)])
def test_the_config_fields_of_all_flags(explored, bits):
  """What the stage writes for each of the 32, as section 4.2 says it."""
  root, problems = explored
  name = "critic2_" + "".join(str(int(bit)) for bit in bits)
  folder = root / name
  folder.mkdir()
  for file in ("explored.jsonl", "solutions.jsonl"):
    (folder / file).write_bytes((root / "explored" / file).read_bytes())
  config = config_of()
  flags = dict(zip(FLAGS, bits, strict=True))
  config.make_self_improve_data.update(
    **flags,
    previous=("../critic1_data",),
    refine_weight=2,
    reason0="",
    refine0="../bootstrap/revision_examples.jsonl",
  )
  make_self_improve_data.main(config, folder)
  ids = [p.id for p in problems]
  critic, original = flags["use_critic"], flags["use_original"]
  wanted = [f"{name}/{i}/y0" for i in ids]
  if critic:
    wanted += [f"{name}/{i}/y1/r0" for i in ids]
  if critic and flags["own_feedback"]:
    wanted += [f"{name}/{i}/y1/r0/revision" for i in ids]
    wanted += [f"{name}/{i}/y1/r0/revision1" for i in ids]
  if original:
    wanted += [f"{i}/gold" for i in ids]
  if original and flags["annotator_feedback"]:
    wanted += ["F/0", "F/1", "F/2"]
  if flags["use_previous"]:
    wanted += ["P/0", "P/1", "P/2"]
  rows = read(records.Example, folder / "examples.jsonl")
  assert sorted(r.id for r in rows) == sorted(wanted)


def test_gold_solutions_may_be_those_the_first_actor_saw(explored):
  root, _ = explored
  folder = root / "critic1_seen"
  folder.mkdir()
  for file in ("explored.jsonl", "solutions.jsonl"):
    (folder / file).write_bytes((root / "explored" / file).read_bytes())
  seen = [records.Example(f"R/{i}", ("x",), ("y",)) for i in range(2)]
  records.write(root / "bootstrap" / "reason_examples.jsonl", seen)
  config = config_of()
  config.make_self_improve_data.refine0 = "../bootstrap/revision_examples.jsonl"
  make_self_improve_data.main(config, folder)
  ids = {r.id for r in read(records.Example, folder / "examples.jsonl")}
  assert {"R/0", "R/1", "F/0"} <= ids
  assert not any(i.endswith("/gold") for i in ids)


def test_short_golds_and_mended_revisions(tmp_path):
  """What a first actor sees: solutions of one step, and revisions that keep
  what was right and go on with the step that the critique says was due."""
  config = config_of(",phase=bootstrap")
  config.make_mathcritique_data.rows = (0, 24)
  (tmp_path / "data").mkdir()
  make_mathcritique_data.main(config, tmp_path / "data")
  task, problems = problems_of(config, (0, 24))
  short = [p for p in problems if len(task.steps(p.gold)) <= 2]
  assert 0 < len(short) < len(problems)
  reasons = read(records.Example, tmp_path / "data" / "reason_examples.jsonl")
  assert [r.target for r in reasons] == [(p.gold,) for p in short]
  by_id = {p.id: p for p in problems}
  rows = read(records.Critique, tmp_path / "data" / "critiques.jsonl")
  revised = {
    r.id.removesuffix("/revision"): r.target[0]
    for r in read(
      records.Example, tmp_path / "data" / "revision_examples.jsonl"
    )
    if r.id.endswith("/revision")
  }
  wrong = [row for row in rows if row.errors]
  assert wrong
  for row in wrong:
    problem, text = by_id[row.problem], revised[row.id]
    first = task.first_error(problem, row.hypothesis)
    kept = task.steps(row.hypothesis)[:first]
    assert task.steps(text)[:first] == kept
    assert task.steps(text)[first] == task.fix(problem, row.hypothesis)
    assert task.first_error(problem, text) is None


def test_an_endpoint_annotates_through_the_stage(tmp_path, monkeypatch):
  """It fails, cuts replies off and leaks; nothing is asked for twice."""
  monkeypatch.setenv("TEST_KEY", "k")
  config = config_of(",phase=bootstrap")
  settings = config.make_mathcritique_data
  settings.update(annotator="endpoint", grammar="published", rows=(0, 6))
  task, problems = problems_of(config, (0, 6))
  leaking = problems[2].id
  with annotating_server.serving(task, problems, leaking) as server:
    settings.endpoint.update(
      url=server.url,
      key_env="TEST_KEY",
      backoff=0.001,
      per_minute=1e6,
      retries=20,
    )
    (tmp_path / "data").mkdir()
    make_mathcritique_data.main(config, tmp_path / "data")
    rows = read(records.Annotated, tmp_path / "data" / "annotated.jsonl")
    assert len(server.asked) > len(rows)  # some were asked again
    before = len(server.asked)
    again = tmp_path / "again"
    again.mkdir()
    replies = (tmp_path / "data" / "replies.jsonl").read_bytes()
    (again / "replies.jsonl").write_bytes(replies)
    make_mathcritique_data.main(config, again)
    assert len(server.asked) == before
  assert (again / "annotated.jsonl").read_bytes() == (
    tmp_path / "data" / "annotated.jsonl"
  ).read_bytes()
  of_leaking = [r for r in rows if r.problem == leaking]
  assert of_leaking and {r.drop for r in of_leaking} == {"leak-words"}
  others = [r for r in rows if r.problem != leaking]
  assert {r.drop for r in others} <= {"", "leak-answer"}
  for row in others:
    assert PUBLISHED.parse(row.critique).first_error == row.err_step
  manifest = critiquing.sealed(tmp_path / "data")
  dropped = sum(n for k, n in manifest["dropped"].items() if "leak-words" in k)
  assert dropped == len(of_leaking)
  assert manifest["located_percent"] == {"kind": 100.0, "rg3": 100.0}


def test_a_local_annotator_is_asked_in_its_own_style(tmp_path, monkeypatch):
  config = config_of()
  config.template = launch.load_config(
    f"{TOP}/configs/mathcritique/llama3.py:smoke"
  ).template
  config.make_mathcritique_data.annotator = "local"
  shop = critiquing.Workshop(config, tmp_path)
  asked = []
  monkeypatch.setattr(shop, "engine", lambda *a, **k: None)
  monkeypatch.setattr(shop, "model", lambda path: config)
  config.params = 0
  monkeypatch.setattr(
    critiquing.annotator, "local", lambda *_: lambda rs: asked.extend(rs)
  )
  annotate = critiquing.annotators(
    config.make_mathcritique_data, shop, tmp_path
  )
  annotate([critiquing_request("Review this.")])
  assert asked[0].prompt == Dialogue("llama3").ask("Review this.")
  assert "assistant" in asked[0].prompt[-1]


def critiquing_request(text):
  from refine_jax.sampling.settings import Request

  return Request("r", (text,))


class Golds:
  """Answers with the gold, and notes what it was asked, and how hot."""

  def __init__(self, task, problems, finish="eos"):
    self.golds = {task.prompt(p): p.gold for p in problems}
    self.finish, self.asked = finish, []

  def actor(self, shop, path, temperature):
    def propose(requests):
      self.asked += [(temperature, r.id, r.n) for r in requests]
      return [
        [
          records.Sample(
            f"{r.id}/{i}", self.golds[r.prompt[0]], (), (), (), self.finish
          )
          for i in range(r.n)
        ]
        for r in requests
      ]

    return propose


def test_the_control_is_as_cool_as_the_refinements(tmp_path, monkeypatch):
  config = config_of()
  config.make_mathcritique_data.update(
    rows=(0, 6), mc=3, mc_temperature=0.25, study_shuffled=False
  )
  task, problems = problems_of(config, (0, 6))
  golds = Golds(task, problems)
  monkeypatch.setattr(
    critiquing.Workshop, "actor", lambda *args: golds.actor(*args)
  )
  (tmp_path / "data").mkdir()
  make_mathcritique_data.main(config, tmp_path / "data")
  control = [row for row in golds.asked if "/control" in row[1]]
  refined = [row for row in golds.asked if row[1].endswith("/mc")]
  assert control and refined
  assert {(hot, n) for hot, _, n in control + refined} == {(0.25, 3)}
  assert len({name for _, name, _ in control}) == len(control)
  rows = read(records.Annotated, tmp_path / "data" / "annotated.jsonl")
  assert all(row.mc["control"] == 1.0 for row in rows if row.mc)


@pytest.mark.parametrize("finish", ["eos", "length"])
def test_a_text_that_was_cut_off_is_not_learned(tmp_path, monkeypatch, finish):
  config = config_of()
  config.make_self_improve_data.update(
    rows=(0, 4), explore="vanilla", use_original=False, bins=2
  )
  task, problems = problems_of(config, (0, 4))
  golds = Golds(task, problems, finish)
  monkeypatch.setattr(
    critiquing.Workshop, "actor", lambda *args: golds.actor(*args)
  )
  (tmp_path / "vanilla1_data").mkdir()
  config.make_self_improve_data.difficulty = ""
  make_self_improve_data.main(config, tmp_path / "vanilla1_data")
  learned = read(records.Example, tmp_path / "vanilla1_data/examples.jsonl")
  assert len(learned) == (4 if finish == "eos" else 0)


class Mending:
  """Errs in every second problem at first, and then goes on rightly."""

  def __init__(self, task, problems):
    self.task = task
    self.problems = {task.prompt(p): p for p in problems}
    self.odd = {p.id for p in problems[::2]}

  def __call__(self, requests):
    return [[self._sample(r)] for r in requests]

  def _sample(self, request):
    question, *rest = request.prompt
    problem = self.problems[question]
    prefix = "".join(rest[rest.index("solve:") + 1 :])
    whole = problem.gold
    if request.id.endswith("talk0") and problem.id in self.odd:
      rng = np.random.default_rng(0)
      whole, _ = self.task.plant(problem, rng, "slip")
    text = whole.removeprefix(prefix).removeprefix(" . ")
    return records.Sample(request.id, text, (), (), (), "eos")


def test_every_talk_that_is_kept_verifies(tmp_path, monkeypatch):
  config = config_of()
  config.make_self_talk_data.update(annotator="oracle", rows=(0, 8))
  task, problems = problems_of(config, (0, 8))
  actor = Mending(task, problems)
  monkeypatch.setattr(
    critiquing.Workshop, "actor", lambda shop, path, temperature: actor
  )
  (tmp_path / "talk").mkdir()
  make_self_talk_data.main(config, tmp_path / "talk")
  talks = read(make_self_talk_data.Talk, tmp_path / "talk" / "talks.jsonl")
  kept = {t.id: t for t in talks if not t.drop}
  assert len(kept) == 8
  for problem in problems:
    talk = kept[problem.id]
    # The monologue's own answer is the gold's.
    assert task.check(problem, talk.text)
    assert task.answer(talk.text) == task.answer(problem.gold)
    # An error that was found and mended, or a clean one, and so it says.
    assert bool(talk.mended) == (problem.id in actor.odd) == any(talk.wrong)
  manifest = critiquing.sealed(tmp_path / "talk")
  assert (manifest["clean"], manifest["mended"]) == (4, 4)
  assert "is complete" in make_self_talk_data.main(config, tmp_path / "talk")


def test_iterations_are_the_configs():
  assert config_of().loop.iterations == 1
  config = launch.load_config(f"{FILE}:iterations=2")
  assert show.lines(
    config, ["loop.iterations", "loop.start", "loop.drafts"]
  ) == ["2", "previous", "True"]  # fmt: skip
  with pytest.raises(KeyError, match=r"loop\.iteration"):
    show.lines(config, ["loop.iteration"])
  made = subprocess.run(
    [
      sys.executable, "-m", "refine_jax.stages.show", f"--config={FILE}",
      "--config.loop.iterations=7", "loop.iterations",
    ],
    capture_output=True,
    text=True,
    env={**os.environ, "PYTHONPATH": str(TOP)},
  )  # fmt: skip
  assert made.stdout == "7\n", made.stderr


def test_all_arms_are_made_of_the_same_problems():
  for file in ("arithmetic", "llama3"):
    config = launch.load_config(str(FILE.with_stem(file)))
    plain = launch.load_config(f"{FILE.with_stem(file)}:phase=plain")
    rows = tuple(config.make_self_improve_data.rows)
    assert tuple(config.make_self_talk_data.rows) == rows
    section = plain.train_generator
    assert (section.first, section.rows, section.examples) == (*rows, ())
    looped = launch.load_config(f"{FILE.with_stem(file)}:phase=loop")
    assert plain.train_generator.train == looped.train_generator.train
    assert plain.train_generator.model == looped.train_generator.model


def test_votes_reach_64_with_critiques_and_more_tokens_without():
  arms = launch.load_config(str(FILE)).run_refine
  assert {1, 2, 4, 8, 16, 32, 64} <= set(arms.ks)
  assert arms.arms["parallel"].chains == 64
  assert arms.arms["vote"].chains == max(arms.ks) == 512
