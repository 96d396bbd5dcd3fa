"""What is suggested is what was tried, and nothing is tried twice."""

import ast
import contextlib
import dataclasses
import pathlib
import re
import types

import pytest

from refine_jax.planning import topologies
from refine_jax.planning.compiled import CompilerError
from refine_jax.stages import launch, plan, plan_job, plan_search, planned

TOP = pathlib.Path(__file__).parent.parent.parent
PPO = f"{TOP}/configs/reft/ppo.py:model=llama_7b"
SMALL = f"{TOP}/configs/reft/arithmetic.py:smoke"


def with_flags(config, text):
  """A config changed as a command line with the flags of a text would be."""
  found = re.findall(r"--config\.(\S+?)=(\S+)", text)
  for name, value in found:
    with contextlib.suppress(ValueError):
      value = ast.literal_eval(value)
    config.update_from_flattened_dict({name: value})
  return config


def tried(config, stage, topology, fits=lambda number: False):
  """Everything that is tried, and what is said in the end.

  Args:
    fits: whether the candidate of a number does.
  """
  found = []

  def attempt(config, topology):
    found.append((config, topology))
    return types.SimpleNamespace(
      fits=fits(len(found)), peak_bytes=1 << 30, chip_bytes=2 << 30
    )

  said = plan_search.suggestion(config, stage, topology, attempt, lambda *_: 0)
  return found, said


CASES = [
  (PPO, "train_reft", "v5e:4x4"),
  (PPO, "train_reft", "v5e:8x8*2"),
  (PPO, "train_generator", "v5e:4x4"),
  (PPO, "run_sample", "h100:8"),
  (f"{TOP}/configs/refiner/mwp.py", "train_critic", "v5e:2x4"),
  (f"{TOP}/configs/refiner/mwp.py", "train_refiner", "v5e:4x8"),
  (f"{TOP}/configs/rationalyst/llama3.py", "train_rationalyst", "v4:2x2x2"),
  (SMALL, "train_generator", "v5e:4x4"),
]


@pytest.mark.parametrize(("name", "stage", "place"), CASES)
def test_what_is_said_is_what_was_tried(name, stage, place):
  topology = topologies.parse(place)
  all_of_them, said = tried(launch.load_config(name), stage, topology)
  assert said == ""
  for number, (config, where) in enumerate(all_of_them, 1):
    found, said = tried(
      launch.load_config(name), stage, topology, lambda n, k=number: n == k
    )
    assert len(found) == number
    again = with_flags(launch.load_config(name), said)
    assert again.to_dict() == config.to_dict()
    assert (where.name in said) == (where != topology)
    # Planned with these flags, it is planned as it stands.
    assert not plan_search.placed(
      plan_search.Change((), where), again, stage
    ).flags


@pytest.mark.parametrize(("name", "stage", "place"), CASES)
def test_nothing_is_tried_twice(name, stage, place):
  topology = topologies.parse(place)
  config = launch.load_config(name)
  own = plan_search.placed(plan_search.Change((), topology), config, stage)
  found, _ = tried(config, stage, topology)
  texts = [f"{t.name} {c.to_dict()}" for c, t in found]
  texts.append(f"{topology.name} {own.apply(config).to_dict()}")
  assert len({*texts}) == len(texts)
  assert len(texts) > 3


@pytest.mark.parametrize("place", ["v5e:4x4", "v5e:2x4", "v5e:2x2*2"])
def test_every_device_has_rows_of_every_micro_batch(place):
  found, _ = tried(
    launch.load_config(PPO), "train_reft", topologies.parse(place)
  )
  for config, topology in found:
    ways = topology.count // config.mesh.tensor
    train = config.train_reft.train
    assert train.batch_size // train.micro_batches >= ways


def suggested(
  name, stage, place="v5e:2x2", *, made=False, program="", **changes
):
  config = launch.load_config(name)
  for field, value in changes.items():
    config.update_from_flattened_dict({field.replace("__", "."): value})
  topology = topologies.parse(place)
  return [
    str(plan_search.placed(change, config, stage))
    for change in plan_search.candidates(
      config, stage, topology, made=made, program=program
    )
  ]


def test_remat_is_offered_where_it_is_not_and_can_be_said():
  # A checkpoint that is planned as config.model, which has it.
  assert "remat" not in " ".join(suggested(PPO, "train_reft"))
  assert "remat" not in " ".join(suggested(PPO, "train_generator"))
  # No field of that name: the stage's command line would refuse the flag.
  assert "remat" not in " ".join(suggested(SMALL, "train_generator"))
  found = suggested(PPO, "train_reft", model__overrides__remat="none")
  # The stage that writes the checkpoint has to be told as well.
  assert found[0] == (
    "remat: --config.model.overrides.remat=full"
    " --config.train_generator.model.overrides.remat=full"
  )
  found = suggested(
    PPO, "train_generator", train_generator__model__overrides__remat="none"
  )
  assert found[0] == (
    "remat: --config.train_generator.model.overrides.remat=full"
  )


def test_remat_is_not_offered_for_a_checkpoint_that_is_there():
  bare = {"model__overrides__remat": "none"}
  offered = suggested(PPO, "train_reft", **bare)
  kept = suggested(PPO, "train_reft", made=True, **bare)
  assert "remat" in offered[0]
  assert "remat" not in " ".join(kept)
  assert kept[0].startswith("smaller micro-batches")


def test_a_checkpoint_that_is_there_is_told_from_others(tmp_path):
  config = launch.load_config(PPO)
  section = planned.model_of(config, "train_reft")
  assert not plan_job.made(section, tmp_path / "run")
  (tmp_path / "run" / section.init_from).mkdir(parents=True)
  assert plan_job.made(section, tmp_path / "run")
  assert not plan_job.made(config.model, tmp_path / "run")


@pytest.mark.parametrize(("devices", "tensor"), [(0, 4), (2, 1), (4, 2)])
def test_batches_are_placed_on_the_devices_that_the_mesh_is_of(devices, tensor):
  """Two rows, on a slice of eight."""
  config = launch.load_config(SMALL)
  config.train_generator.train.batch_size = 2
  config.mesh.devices = devices
  change = plan_search.Change((), topologies.parse("v5e:2x4"))
  placed = plan_search.placed(change, config, "train_generator")
  flags = (("mesh.tensor", tensor),) if tensor > 1 else ()
  assert placed.flags == flags


def test_fewer_devices_are_as_many_for_what_is_tried():
  found = suggested(SMALL, "train_generator", "v5e:2x4", mesh__devices=2)
  axes = [x.split(":")[0] for x in found if x.startswith("a tensor axis")]
  assert axes == ["a tensor axis of 2"]
  larger = [x for x in found if x.startswith("a larger slice")]
  assert larger and all("--config.mesh.devices=0" in x for x in larger)


def test_batches_are_placed_on_a_data_axis_too():
  config = launch.load_config(SMALL)
  config.train_generator.train.batch_size = 4
  config.mesh.data = 2
  change = plan_search.Change((), topologies.parse("v5e:2x4"))
  placed = plan_search.placed(change, config, "train_generator")
  assert placed.flags == (("mesh.tensor", 2),)
  mesh = plan_job.mesh(placed.apply(config), topologies.parse("cpu:8"))
  assert dict(mesh.shape) == {"slice": 1, "data": 2, "fsdp": 2, "tensor": 2}


def test_adapters_are_offered_where_the_stage_takes_them():
  lora = "LoRA: --config.train_generator.train.lora.rank=16"
  scratch = suggested(SMALL, "train_generator")
  assert not [text for text in scratch if "lora" in text]
  published = suggested(PPO, "train_generator", "v5e:1x1")
  assert [x for x in published if x.startswith("LoRA") and "rank=16" in x]
  assert lora.split(": ")[1] in " ".join(published)
  assert not [x for x in suggested(PPO, "train_reft") if "lora" in x]


def test_a_sampler_that_does_not_fit_is_not_offered_other_updates():
  bare = {"model__overrides__remat": "none"}
  update = suggested(PPO, "train_reft", program="PPO update", **bare)
  assert update == suggested(PPO, "train_reft", **bare)
  assert [x.split(":")[0] for x in update[:2]] == [
    *("remat", "smaller micro-batches")
  ]
  sampler = suggested(PPO, "train_reft", program="decode chunk", **bare)
  assert "micro_batches=" not in sampler[0]
  assert sampler[0].startswith("the reference on the host")
  # Of what lies beside while it samples.
  assert [x for x in sampler if x.startswith("a bfloat16 first moment")]


def test_sizes_that_are_ruled_out_are_no_tries(capsys):
  config, topology = launch.load_config(SMALL), topologies.parse("v5e:1x1")
  seen = []

  def attempt(config, topology):
    seen.append(topology.name)
    # Said before it takes its time.
    assert "trying" in capsys.readouterr().err.splitlines()[-1]
    return types.SimpleNamespace(
      fits=topology.count == 256, peak_bytes=1, chip_bytes=2
    )

  def floor(config, topology):
    return 0 if topology.count in (1, 128, 256) else topology.chip.memory

  said = plan_search.suggestion(
    config, "train_generator", topology, attempt, floor
  )
  assert said.startswith("a larger slice: v5e:16x16 --config.")
  assert [name for name in seen if name != "v5e:1x1"] == [
    *("v5e:8x16", "v5e:16x16")
  ]


def test_host_devices_have_no_larger_slice():
  assert not [
    x for x in suggested(SMALL, "train_generator", "cpu:2") if ":4" in x
  ]
  assert "more GPUs: h100:4" in suggested(SMALL, "train_generator", "h100:2")


def test_what_a_compiler_cannot_do_is_left_out(capsys):
  config, topology = launch.load_config(PPO), topologies.parse("v5e:4x4")
  seen = []

  def attempt(config, topology):
    seen.append(config)
    if len(seen) == 1:
      raise CompilerError("INTERNAL: Mosaic failed")
    return types.SimpleNamespace(fits=True, peak_bytes=1, chip_bytes=2)

  said = plan_search.suggestion(
    config, "train_reft", topology, attempt, lambda *_: 0
  )
  assert len(seen) == 2
  assert with_flags(config, said).to_dict() == seen[1].to_dict()
  assert "Mosaic failed" in capsys.readouterr().err


def test_a_suggestion_planned_again_fits():
  """Compiled: what is said needs what is said, on more GPUs as well."""

  def small():
    config = launch.load_config(SMALL)
    config.tokenizer.train.vocab_size = 300
    config.train_generator.train.batch_size = 2
    return config

  def of(topology, chip):
    return dataclasses.replace(topology, chip=chip)

  stage, two = "train_generator", topologies.parse("h100:2")
  whole = plan.main(small(), two, stage=stage, search=False)
  # So little that nothing but more devices helps: less than the weights of
  # the sampler and the state need on two.
  chip = dataclasses.replace(two.chip, memory=int(whole.peak_bytes * 0.9))
  refused = plan.main(small(), of(two, chip), stage=stage)
  assert not refused.fits
  found = re.search(r"then .* of .*, (\d+) %\)$", refused.suggestion)
  assert found, refused.suggestion
  place = re.search(r"h100:\d+", refused.suggestion)
  where = topologies.parse(place[0]) if place else two
  again = plan.main(
    with_flags(small(), refused.suggestion),
    of(where, chip),
    stage=stage,
    search=False,
  )
  assert again.fits
  assert again.suggestion == ""
  assert round(100 * again.peak_bytes / chip.memory) == int(found[1])
