"""Several processes do what one does: losses, samples, records, resumption."""

import json
import shutil

import jax
import jax.numpy as jnp
import loopback
import numpy as np
import pytest
import together_child
import torch
import transformers
import written

from refine_jax import config, records
from refine_jax.batch import Batch
from refine_jax.stages import build, choose_best

GIVEN = ("critic_data", "rationale_data")
# In this order; whatever one reads is there.
EARLY = (
  "sft",
  "reft",
  "samples",
  "self_training",
  "reranker",
  "evaluation",
  "exported",
  "chains/tokenizer",
  "chains/base_examples",
  "chains/documents",
)
LATE = (
  "refine",
  "online_st",
  "critic",
  "refiner",
  "rationalyst",
  "lora",
  "merged",
  "classifier",
  "report",
  "critique_report",
)
# Of these every process has the model on its own device.
DEALT = ("samples", "evaluation")
# Of these there is every byte.
EXACT = (
  "samples",
  "self_training",
  "exported",
  "chains/base_examples",
  "chains/documents",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """With what every chain of stages begins with."""
  folder = tmp_path_factory.mktemp("together")
  for name in ("tokenizer", "critic_data"):
    together_child.run(folder, name)
  made = together_child.config_of("sft")
  problems = build.problems(build.task(made.task), "train", made.data)
  rows = [
    records.Rationale(p.id, p.id, p.question, p.answer, p.gold)
    for p in problems
  ]
  for name, part in (("train", rows[:12]), ("dev", rows[12:18])):
    records.write(folder / "rationale_data" / f"{name}.jsonl", part)
  return folder


@pytest.fixture(scope="module")
def pair(root):
  """Two processes of one device each."""
  folder = loopback.beside(root, "pair", *GIVEN)
  loopback.run(2, 1, folder, *EARLY)
  return folder


@pytest.fixture(scope="module")
def alone(root, pair):
  """This process with two of its devices, from the same warm start."""
  folder = loopback.beside(root, "alone", *GIVEN)
  shutil.copytree(pair / "sft", folder / "sft")
  run_alone(folder, *EARLY[1:])
  return folder


def run_alone(folder, *names):
  for name in names:
    devices = 1 if name in DEALT else 2
    together_child.run(folder, f"{name}:mesh.devices={devices}")


def assert_same(ours, theirs, *names):
  """Whatever stages wrote: metrics, parameters, records."""
  for name in names:
    written.assert_same(ours / name, theirs / name)
    if (ours / name / "checkpoints").exists():
      loopback.assert_same_run(ours / name, theirs / name)


def test_two_processes_do_what_one_does(pair, alone):
  loopback.assert_same_training(pair, alone, processes=2)
  assert_same(pair, alone, *EARLY)
  for name in EXACT:
    assert written.files(pair / name) == written.files(alone / name)
  # Dealt out, and joined.
  assert not list(pair.glob("*/samples-*"))
  counts = json.loads((pair / "samples" / "counts.json").read_text())
  assert counts["problems"] == 11 and counts["samples"] == 33


@pytest.fixture(scope="module")
def later(pair, alone):
  """Both go on with all other stages."""
  for folder in (pair, alone):
    seed = folder / "report" / "seed0"
    seed.mkdir(parents=True)
    (seed / "refine").symlink_to(folder / "refine")
    evaluated = folder / "critique_report" / "seed0" / "evaluate"
    evaluated.mkdir(parents=True)
    (evaluated / "actor0").symlink_to(folder / "evaluation" / "warm")
  loopback.run(2, 1, pair, *LATE)
  run_alone(alone, *LATE)
  return pair, alone


@pytest.mark.slow
def test_two_processes_do_all_else_that_one_does(later):
  pair, alone = later
  loopback.assert_same_refinement(pair, alone, processes=2)
  assert_same(pair, alone, *LATE)
  drawn = loopback.drawn(alone / "online_st")
  assert drawn == loopback.drawn(pair / "online_st", 1)
  runs = [[str(x / name) for name in ("sft", "lora")] for x in later]
  found = [choose_best.best_of(folders) for folders in runs]
  assert found[0] == found[1]


def logits(folder, ids_BL):
  """Transformers' of an exported folder."""
  model = transformers.AutoModelForCausalLM.from_pretrained(folder)
  with torch.no_grad():
    return model(torch.tensor(ids_BL)).logits[:, :-1].numpy()


def our_logits(model, ids_BL):
  prompt_BP, target_BT = ids_BL[:, :1], ids_BL[:, 1:]
  masks = jnp.ones_like(prompt_BP, bool), jnp.ones_like(target_BT, bool)
  batch = Batch(prompt_BP, masks[0], target_BT, masks[1], masks[1])
  output = model.module.apply({"params": model.params}, batch)
  return model.module.unembed(model.params, output.hidden_BTD)


def assert_same_logits(run, exported):
  model = build.load_model(run, build.mesh(config.mesh(devices=1)))
  ids_BL = np.arange(3, 27).reshape(2, 12)
  np.testing.assert_allclose(
    our_logits(model, jnp.asarray(ids_BL)), logits(exported, ids_BL), atol=1e-4
  )


def test_what_two_processes_export_is_transformers_model(pair):
  folder = pair / "exported" / "hf"
  index = json.loads((folder / "model.safetensors.index.json").read_text())
  shards = set(index["weight_map"].values())
  assert shards == {f.name for f in folder.glob("*.safetensors")}
  assert len(shards) > 2
  assert_same_logits(pair / "sft", folder)


@pytest.mark.slow
def test_what_two_processes_merge_is_transformers_model(later):
  pair, _ = later
  assert_same_logits(pair / "lora", pair / "merged" / "hf")
  mesh = build.mesh(config.mesh(devices=1))
  merged, again = (
    build.load_model(pair / name, mesh).params
    for name in ("lora", "merged/adapters")
  )
  assert jax.tree.structure(merged) == jax.tree.structure(again)
  for a, b in zip(*map(jax.tree.leaves, (merged, again)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow
def test_a_checkpoint_of_two_is_resumed_by_one(pair, root):
  """It goes on with the batches that one process would have gone on with."""
  more = "sft:mesh.devices=2,train_generator.train.steps=6"
  whole, resumed = (loopback.beside(root, x) for x in ("longer", "resumed"))
  together_child.run(whole, more)
  loopback.assert_same_run(pair / "sft", whole / "sft")
  shutil.copytree(pair / "sft", resumed / "sft")
  together_child.run(resumed, more)
  assert loopback.rows(resumed / "sft")[-1]["step"] == 6
  loopback.assert_same_run(resumed / "sft", whole / "sft")


@pytest.fixture(scope="module")
def one(root):
  """One process of eight devices."""
  folder = loopback.beside(root, "one")
  loopback.run(1, 8, folder, "sft", "reft", "refine")
  return folder


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "each"), [(2, 4), (4, 2)])
def test_eight_devices_however_many_processes(one, root, processes, each):
  folder = loopback.beside(root, f"{processes}x{each}")
  loopback.run(processes, each, folder, "sft", "reft", "refine")
  loopback.assert_same_training(folder, one, processes=processes)
  loopback.assert_same_refinement(folder, one, processes=processes)


@pytest.mark.slow
def test_a_checkpoint_of_two_is_resumed_by_four(root):
  """And by one; both as if two had gone on."""
  begun = loopback.beside(root, "begun")
  loopback.run(2, 4, begun, "sft")
  found = []
  for processes in (1, 2, 4):
    folder = root / f"on_with_{processes}"
    shutil.copytree(begun, folder)
    more = "sft:train_generator.train.steps=8"
    loopback.run(processes, 8 // processes, folder, more)
    found.append(loopback.rows(folder / "sft"))
  for rows in found:
    assert rows[-1]["step"] == 8
    loopback.assert_same_rows(rows, found[0])


@pytest.mark.slow
def test_a_tensor_axis_across_processes(root):
  """Then every process needs all rows of a batch."""
  wanted = "sft:mesh.tensor=2,train_generator.train.steps=2"
  found = []
  for processes, name in ((1, "tensor1"), (2, "tensor2")):
    folder = loopback.beside(root, name)
    loopback.run(processes, 2 // processes, folder, wanted)
    found.append(loopback.rows(folder / "sft"))
  loopback.assert_same_rows(*found)
