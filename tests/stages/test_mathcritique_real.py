"""MathCritique's stages on tasks that know no truth of steps: published rows,
the released settings, an annotator behind an endpoint."""

import json
import pathlib

import annotating_server
import optax
import pytest

from refine_jax import records
from refine_jax.methods.critique import PUBLISHED
from refine_jax.stages import (
  build,
  critiquing,
  launch,
  make_mathcritique_data,
  replies,
  run_refine,
  supervised,
)
from refine_jax.stages.reading import BadConfig
from refine_jax.training.checkpoint import Checkpointer
from refine_jax.training.state import state_of

TOP = pathlib.Path(__file__).parent.parent.parent
FILE = TOP / "configs/mathcritique/llama3.py"


def config_of(text=""):
  config = launch.load_config(f"{FILE}:smoke{text}")
  config.mesh.devices = 1
  return config


@pytest.fixture(scope="module")
def rows(data_dir):
  if not (data_dir / "gsm8k").is_dir():
    pytest.skip("GSM8K is not under REFINE_JAX_DATA")
  return data_dir


# Settings of the released scripts.


@pytest.mark.parametrize("task", ["gsm8k", "competition_math"])
def test_epochs_are_of_the_rows_there_are(task):
  config = launch.load_config(f"{FILE}:task={task}")
  for section, epochs in (("train_generator", 1), ("train_critic", 3)):
    for count, updates in ((200, 1), (76_065, 298)):
      train = supervised.in_updates(config[section].train, count)
      assert train.steps == epochs * updates
  # An evaluation an epoch, and of few rows the last one alone.
  assert config.train_critic.train.eval_every == 298
  smoke = config_of(f",task={task}").train_critic.train
  assert supervised.in_updates(smoke, 10_000).steps == 4


def test_the_loop_drops_and_caps_nothing():
  section = launch.load_config(str(FILE)).make_self_improve_data
  assert (section.cap, section.distinct, section.balance) == (0, False, 0.0)


def test_published_rows_of_both_tasks_where_both_are_there(tmp_path):
  folder = tmp_path / "mathcritique"
  folder.mkdir()
  for number, name in enumerate(("gsm8k", "math")):
    (folder / f"Meta-Llama-3-8B-{name}-sftdata_0_new.json").write_text("[]")
    for task in ("gsm8k", "competition_math"):
      config = config_of(f",phase=published,task={task},path={tmp_path}")
      files = config.make_mathcritique_data.published
      if number or task == "competition_math":
        assert len(files) == 1 + number
      if number:
        assert all(pathlib.Path(file).exists() for file in files)
      else:
        own = {"gsm8k": "-gsm8k-", "competition_math": "-math-"}[task]
        assert own in files[0]


def test_both_published_files_are_read(data_dir, tmp_path):
  config = config_of(f",phase=published,path={data_dir}")
  if len(config.make_mathcritique_data.published) < 2:
    pytest.skip("the published rows are not under REFINE_JAX_DATA")
  make_mathcritique_data.main(config, tmp_path)
  assert critiquing.sealed(tmp_path)["rows"] == 200


# Every arm.


@pytest.fixture(scope="module")
def models(rows, tmp_path_factory):
  """Random actor and critic, without an update."""
  root = tmp_path_factory.mktemp("llama3")
  config = config_of(f",path={rows}")
  mesh = build.mesh(config.mesh)
  for name, owner in (("actor0", config), ("critic", config.train_critic)):
    (root / name).mkdir()
    model = build.fresh_model(
      owner.model, config.tokenizer, mesh, root / name, seed=0
    )
    with Checkpointer(root / name) as checkpointer:
      checkpointer.save(state_of(model.params, optax.sgd(0.1)), model.meta)
  return root


def small(rows):
  """One shape of everything: what takes time is compiling."""
  config = config_of(f",path={rows}")
  config.completion.max_tokens = config.feedback.max_tokens = 8
  run = config.run_refine
  run.rows = (0, 1)
  for arm in run.arms.values():
    arm.chains = min(arm.chains, 2)
  for engine in (config.engine, run.critic_engine):
    engine.update(slots=4, prompt_buckets=(4096,))
  return config


def test_every_arm_of_the_released_settings(models, rows):
  config = small(rows)
  assert "oracle critique" not in config.run_refine.order
  run_refine.main(config, models / "refine")
  for name in config.run_refine.order:
    path = models / "refine" / name / "summary.json"
    summary = json.loads(path.read_text())
    chains = config.run_refine.arms[name].chains
    assert summary["problems"] == summary["chains"] == chains


def test_an_oracle_critic_takes_a_task_that_judges(models, rows):
  config = small(rows)
  run = config.run_refine
  run.arms["critique"].critic = "oracle"
  run.only = ("critique",)
  with pytest.raises(BadConfig, match=r"an oracle critic needs .* Gsm8k does"):
    run_refine.main(config, models / "oracle")
  config = config_of(f",phase=bootstrap,path={rows}")
  config.make_mathcritique_data.update(annotator="oracle", planted=0)
  (models / "none").mkdir()
  with pytest.raises(BadConfig, match="an oracle annotator needs"):
    make_mathcritique_data.main(config, models / "none")


# Flawed solutions before there is an actor.


def test_an_endpoint_plants_and_goes_on_before_there_is_an_actor(
  rows, tmp_path, monkeypatch
):
  monkeypatch.setenv("TEST_KEY", "k")
  config = config_of(f",phase=bootstrap,path={rows}")
  settings = config.make_mathcritique_data
  settings.update(rows=(0, 12), planted=2, positives=0.4)
  task = build.task(config.task)
  problems = build.problems(task, "train", config.data, rows=(0, 12))
  refused = problems[3]
  with annotating_server.serving(
    task, problems, "", refusing=refused.question
  ) as server:
    settings.endpoint.update(
      url=server.url,
      key_env="TEST_KEY",
      backoff=0.001,
      per_minute=1e6,
      retries=20,
    )
    make_mathcritique_data.main(config, tmp_path)
    asked = len(server.asked)
  kept = [
    row
    for row in records.read(records.Annotated, tmp_path / "annotated.jsonl")
    if row.origin == "rg3"
  ]
  # Two of every problem; nothing comes out right with such an answer.
  assert len(kept) == 24
  assert {r.problem for r in kept if r.drop == "unreadable"} == {refused.id}
  assert sum(r.kept for r in kept) == 22
  for row in kept:
    assert task.answer(row.response) == "1234567"
    assert row.steps[row.err_step].startswith("So it is ")
    if row.kept:
      assert PUBLISHED.parse(row.critique).first_error == row.err_step
  spent = replies.spent(settings, tmp_path)["endpoint"]
  # 24 steps, 24 ends, 24 critiques of these, and 12 of what is right.
  assert (spent["replies"], spent["refused"]) == (84, 3)
  assert asked > 84 and spent["tokens"] == 20 * 81
  assert replies.spent(config_of().make_mathcritique_data, tmp_path / "x") == {}
