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
  train_reft,
  train_tokenizer,
)

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


def test_a_sampler_that_says_otherwise_is_seen(half):
  config, root, _ = half
  task = build.task(config.task)
  model = build.fresh_model(
    config.model,
    config.tokenizer,
    build.mesh(config.mesh),
    root / "reft",
    seed=0,
  )
  problems = build.problems(task, "train", config.data)
  rounds = on_policy.Rounds(model, task, problems, config, config.train_reft)
  learner = train_reft.learner(model, config, rounds.shape)
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
