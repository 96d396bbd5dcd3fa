"""What a round of PPO says of its sampler, in bfloat16 as well."""

import dataclasses
import json
import pathlib

import pytest

from refine_jax.sampling.statistics import Statistics
from refine_jax.stages import (
  build,
  launch,
  on_policy,
  reft_learner,
  train_reft,
  train_tokenizer,
)
from refine_jax.stages.reft_learner import Mismatch
from refine_jax.tasks import base

TOP = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def half(tmp_path_factory):
  """Three rounds of a random model that computes in bfloat16."""
  root = tmp_path_factory.mktemp("half")
  config = launch.load_config(str(TOP / "configs/reft/arithmetic.py:smoke"))
  config.mesh.devices = 1
  config.model.overrides.dtype = "bfloat16"
  config.train_reft.model = config.model
  config.train_reft.train.update(eval_every=9, eval_rows=2)
  for name, stage in (("tokenizer", train_tokenizer), ("reft", train_reft)):
    (root / name).mkdir()
    stage.main(config, root / name)
  written = (root / "reft" / "metrics.jsonl").read_text().splitlines()
  return config, root, [r for r in map(json.loads, written) if "round" in r]


def test_sampler_against_trainer_in_bfloat16(half):
  _, _, rounds = half
  assert [r["round"] for r in rounds] == [1, 2, 3]
  for row in rounds:
    # Not exact as in float32, and near: three digits, summed in other orders.
    assert 1e-7 < row["sampler_gap"] <= row["sampler_gap_largest"] < 0.1


@pytest.fixture(scope="module")
def parts(half):
  """The model before its first round, the task and its problems."""
  config, root, _ = half
  task = build.task(config.task)
  model = build.fresh_model(
    config.model,
    config.tokenizer,
    build.mesh(config.mesh),
    root / "reft",
    seed=0,
  )
  return model, task, build.problems(task, "train", config.data)


def test_a_sampler_that_says_otherwise_is_seen(half, parts):
  config, _, _ = half
  rounds = on_policy.Rounds(*parts, config, config.train_reft)
  learner = train_reft.learner(parts[0], config, rounds.shape)
  rollouts, _ = rounds.make(learner.policy, 0)
  wrong = [
    dataclasses.replace(
      r,
      sample=dataclasses.replace(
        r.sample, logprobs=tuple(x - 0.5 for x in r.sample.logprobs)
      ),
    )
    for r in rollouts
  ]
  rounds.close()
  figures = learner.learn(0, wrong)
  assert figures["sampler_gap"] == pytest.approx(0.5, abs=0.05)


def test_golds_are_not_needed(half, parts):
  """A question and its answer are all that a reward needs."""
  config, _, _ = half
  model, task, problems = parts
  bare = [dataclasses.replace(p, gold="") for p in problems]
  found = []
  for some in (problems, bare):
    rounds = on_policy.Rounds(model, task, some, config, config.train_reft)
    made, _ = rounds.make(model.params, 1)
    rounds.close()
    found.append([(r.problem.id, r.sample.tokens, r.reward) for r in made])
  assert found[0] == found[1]


def test_long_prompts_are_left_out_and_none_is_cut(half, parts, capsys):
  config, _, _ = half
  _, task, problems = parts
  template = build.template(config.template)
  whole = on_policy.Rounds(*parts, config, config.train_reft)
  lengths = [
    len(whole.engine.encode(template.first(task.prompt(p)))) for p in problems
  ]
  settings = config.train_reft.copy_and_resolve_references()
  settings.rollout.max_prompt = limit = sorted(lengths)[len(lengths) // 2]
  left = sum(n > limit for n in lengths)
  assert 0 < left < len(problems)
  capsys.readouterr()
  rounds = on_policy.Rounds(*parts, config, settings)
  assert (
    f"{left} of {len(problems)} problems have prompts of more than {limit}"
    in capsys.readouterr().out
  )
  asked = {task.prompt(p): n for p, n in zip(problems, lengths, strict=True)}
  for number in range(3):
    made, _ = rounds.make(parts[0].params, number)
    for row in made:
      assert asked[task.prompt(row.problem)] == len(row.prompt) <= limit
  whole.close()
  rounds.close()


def test_a_mismatch_ends_a_run_before_its_first_update(half, monkeypatch):
  config, root, _ = half
  config = config.copy_and_resolve_references()
  config.model.overrides.dtype = "float32"
  config.train_reft.model = config.model

  def start(name):
    (root / name).mkdir()
    train_reft.main(config, root / name)

  with monkeypatch.context() as patched:
    # A sampler at another temperature than the scorer's.
    patched.setattr(
      build,
      "at_temperature",
      lambda sampling, temperature: dataclasses.replace(
        sampling, temperature=1.3 * temperature
      ),
    )
    with pytest.raises(Mismatch, match="sampler and scorer differ"):
      start("temperature")
  with monkeypatch.context() as patched:
    patched.setattr(reft_learner, "EXACT", -1.0)
    with pytest.raises(Mismatch, match=r"log policy - log reference"):
      start("reference")
    config.train_reft.ppo.reference = "none"
    with pytest.raises(Mismatch, match=r"\|ratio - 1\| is up to"):
      start("ratio")


def test_positions_that_nothing_came_of(half):
  for row in half[2]:
    # A slot per rollout, until the longest ends.
    decoded = 8 * row["length_largest"]
    assert row["slots_idle"] == pytest.approx(1 - 8 * row["length"] / decoded)
    assert 0 <= row["prompt_padding"] < 1
  before = Statistics(slot_steps=10, used_slot_steps=10, prompt_tokens=7)
  after = Statistics(
    slot_steps=30, used_slot_steps=25, prompt_tokens=13, prompt_padding=2
  )
  assert on_policy.unused(before, after) == {
    "slots_idle": 0.25,
    "prompt_padding": 0.25,
    "positions_unused": 0.25,
  }


def test_refused_programs_are_told_by_name(tmp_path, capsys):
  """Counted by the round, and named when a stage ends."""
  (tmp_path / "reft").mkdir()
  row = {
    "item_id": "svamp_1",
    "question": "1 + 1 ?",
    "answer_value": "2.0",
    "answer_cot": 'def solution():\n    """1 + 1 ?"""\n    return 2',
  }
  for name in ("svamp_python_sdp", "svamp_test_set"):
    (tmp_path / "reft" / f"{name}.json").write_text(json.dumps([row] * 20))
  task = base.load("svamp", path=str(tmp_path))
  problem = task.problem(row | {"id": "0", "line": 1})
  before = on_policy.refusals(task)
  wanted = "    import telnetlib\n    return 2"
  assert task.rewards([problem] * 2, [wanted, "    return 2"]) == [0.0, 1.0]
  assert on_policy.refusals(task) == before + 1
  build.tell_programs(task)
  assert "telnetlib" in capsys.readouterr().out
  assert on_policy.refusals(base.load("arithmetic")) == 0
