"""PPO and online self-training as stages: resumed, ablated, for both kinds."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import reft_child

from refine_jax.stages import (
  build,
  reft_learner,
  train_generator,
  train_online_st,
  train_reft,
  train_tokenizer,
)
from refine_jax.stages.reading import BadConfig
from refine_jax.training import checkpoint, offload

HERE = pathlib.Path(__file__).parent
FILE = HERE.parent.parent / "configs" / "reft" / "arithmetic.py"
SPEC = f"{FILE}:smoke"


def warmed(kind, root):
  """A config for a kind of family, and a folder with its warm start."""
  spec = f"{SPEC},model={kind}"
  config = reft_child.settings(spec)
  for name, stage in (
    ("tokenizer", train_tokenizer),
    ("warm_start", train_generator),
  ):
    run(stage, config, root / name)
  return spec, root


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
  return warmed("llama", tmp_path_factory.mktemp("llama"))


def run(stage, config, folder):
  folder.mkdir(exist_ok=True, parents=True)
  return stage.main(config, folder)


def rows(folder):
  """Metrics without clocks."""
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  clocks = ("seconds", "time", "rollouts_per_second")
  return [
    {k: v for k, v in json.loads(line).items() if not k.startswith(clocks)}
    for line in lines
  ]


@pytest.fixture(scope="module")
def whole(warm):
  """The run without an interruption."""
  spec, root = warm
  said = run(train_reft, reft_child.settings(spec), root / "whole")
  return said, rows(root / "whole"), root / "whole"


@pytest.fixture(scope="module")
def killed(warm):
  """A run that was killed (-9) before its round 3."""
  spec, root = warm
  folder = root / "killed"
  folder.mkdir()
  command = [sys.executable, HERE / "reft_child.py", spec, folder, "3"]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == -signal.SIGKILL, done.stderr
  assert max(r.get("round", 0) for r in rows(folder)) == 3
  for name in ("killed_too", "killed_on_the_host"):
    shutil.copytree(folder, root / name)
  return folder


def test_killed_and_restarted(warm, whole, killed):
  """The same rewards and losses as without the kill, to the last bit."""
  run(train_reft, reft_child.settings(warm[0]), killed)
  assert rows(killed) == whole[1]
  ours = checkpoint.read_meta(killed, select="last")
  theirs = checkpoint.read_meta(whole[2], select="last")
  for name in ("position", "learner", "metrics"):
    assert ours[name] == theirs[name]
  params = [
    checkpoint.load_params(folder, select="last")
    for folder in (killed, whole[2])
  ]
  for a, b in zip(*map(jax.tree.leaves, params), strict=True):
    np.testing.assert_array_equal(a, b)


def test_killed_and_restarted_on_other_devices(warm, whole, killed):
  """On two devices: the same rewards, and losses but for rounding."""
  config = reft_child.settings(warm[0])
  config.mesh.devices = 2
  run(train_reft, config, warm[1] / "killed_too")
  for ours, theirs in zip(rows(warm[1] / "killed_too"), whole[1], strict=True):
    assert ours.keys() == theirs.keys()
    assert ours.get("reward") == theirs.get("reward")
    for name in ("loss", "kl", "kl_coefficient", "eval/answer"):
      if name in ours:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-4)


def test_what_a_round_tells(whole):
  said, written, folder = whole
  first = next(r for r in written if r.get("round") == 1)
  assert {
    "reward",
    "accuracy",
    "answered",
    "truncated",
    "length",
    "programs_refused",
    "kl",
    "entropy",
    "policy_clipped",
    "value_clipped",
    "explained_variance",
    "sampler_gap",
    "kl_coefficient",
  } <= first.keys()
  everything = json.loads(
    (folder / "metrics.jsonl").read_text().splitlines()[1]
  )
  parts = ("generate", "check", "idle", "score", "update", "step")
  assert {f"seconds/{p}" for p in parts} <= everything.keys()
  assert all(abs(r["loss"]) > 1e-4 for r in written if "round" in r)
  assert all(r["kl"] != 0 for r in written if r.get("round", 0) > 1)
  # Nothing had moved yet when the first round was looked at.
  assert first["kl"] == 0 and first["ratio_gap_first"] <= 1e-5
  assert "best answer" in said and "last" in said


def test_a_reference_on_the_host_changes_no_number(
  warm, whole, killed, monkeypatch
):
  """In a run that is resumed: nor does anything of it stay on the device."""
  generators, kinds = [], []
  make, back = offload.Waiting.__init__, offload.Waiting.on_device

  def watched_make(waiting, params, memory):
    generators.extend(jax.tree.leaves(params))
    make(waiting, params, memory)

  def watched(waiting):
    assert all(x.is_deleted() for x in generators)
    found = back(waiting)
    for tree in (waiting.params, found):
      kinds.append({x.sharding.memory_kind for x in jax.tree.leaves(tree)})
    return found

  monkeypatch.setattr(offload.Waiting, "__init__", watched_make)
  monkeypatch.setattr(offload.Waiting, "on_device", watched)
  config = reft_child.settings(warm[0])
  config.train_reft.ppo.reference_memory = "host"
  run(train_reft, config, warm[1] / "killed_on_the_host")
  assert rows(warm[1] / "killed_on_the_host") == whole[1]
  assert kinds == [{"pinned_host"}, {"device"}] * (len(kinds) // 2) != []


def test_devices_without_such_memory_are_told_of(warm, monkeypatch):
  monkeypatch.setattr(offload, "HOST", "elsewhere")
  config = reft_child.settings(warm[0])
  config.train_reft.ppo.reference_memory = "host"
  with pytest.raises(BadConfig, match="reference_memory: cpu devices have no"):
    run(train_reft, config, warm[1] / "nowhere")


def test_the_controller_moves_its_coefficient(whole):
  found = [r["kl_coefficient"] for r in whole[1] if "round" in r]
  assert found[0] == 0.02
  # 8 rollouts a round of a horizon of 40, and at most a fifth of that.
  assert found[1] == pytest.approx(0.02 * (1 - 0.2 * 8 / 40))
  assert len(set(found)) == len(found)


def test_checkpoints_are_generators(warm, whole):
  """The next stage needs no word about PPO."""
  config = reft_child.settings(warm[0])
  last = pathlib.Path(checkpoint.find(whole[2], "last"))
  model = build.load_model(last, build.mesh(config.mesh))
  loaded = build.load_model(
    warm[1] / "warm_start", build.mesh(config.mesh)
  ).params
  assert model.params.keys() == loaded.keys()
  assert reft_learner.fingerprint(model.params) != reft_learner.fingerprint(
    loaded
  )


def test_another_reference_is_refused(warm, whole):
  """A restart with another generator would measure another KL."""
  config = reft_child.settings(warm[0])
  config.train_reft.model.init_from = checkpoint.find(whole[2], "last")
  config.train_reft.train.steps = 9
  with pytest.raises(ValueError, match="reference is another model"):
    run(train_reft, config, whole[2])


def test_everything_else_switched(tmp_path):
  """Every ablation and every alternative at once, for an encoder-decoder."""
  spec, root = warmed("t5", tmp_path)
  config = reft_child.settings(f"{spec},variant=separate_value")
  config.train_reft.train.update(
    steps=2, micro_batches=2, reduction="token", save_every=0
  )
  config.train_reft.rollout.update(samples=2, temperature=1.3)
  config.train_reft.ppo.update(
    passes=3,
    minibatch=0,
    kl_kind="k3",
    kl_target=0.0,
    kl_coefficient=0.0,
    whitening="none",
    truncation="bootstrap",
    entropy_bonus=0.01,
    kl_stop=1e-9,
    value_clip=0.0,
    value_init="uniform",
  )
  run(train_reft, config, root / "other")
  found = [r for r in rows(root / "other") if "round" in r]
  assert [r["kl_coefficient"] for r in found] == [0, 0]
  # The second pass finds the policy moved by the first; there is no third.
  assert [r["passes"] for r in found] == [2, 2]
  assert found[0]["ratio_gap_first"] <= 1e-5


def test_online_self_training(warm):
  spec, root = warm
  config = reft_child.settings(spec)
  config.train_online_st.train.save_every = 1
  said = run(train_online_st, config, root / "online")
  assert "best answer" in said
  before = rows(root / "online")
  found = [r for r in before if "round" in r]
  assert len(found) == 3 and all(np.isfinite(r["loss"]) for r in found)
  # A finished run does nothing again.
  run(train_online_st, config, root / "online")
  assert rows(root / "online") == before
