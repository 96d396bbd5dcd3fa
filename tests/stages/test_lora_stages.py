"""Adapters through a stage: trained, resumed, loaded, exported, read back."""

import jax
import numpy as np
import pytest
import untrained
from safetensors.numpy import load_file

from refine_jax import config as blocks
from refine_jax.sampling.settings import Request, Sampling
from refine_jax.stages import (
  adapters,
  build,
  export_hf,
  on_policy,
  train_generator,
)
from refine_jax.training import checkpoint
from refine_jax.training.state import named_leaves


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Six updates at once: (config, root)."""
  root = tmp_path_factory.mktemp("lora")
  config = untrained.saved(root)
  section = config.train_generator
  section.model = blocks.checkpoint("../generator")
  section.rows = 64
  section.train.update(steps=6, eval_every=3, eval_rows=4, log_every=3)
  section.train.lora.update(rank=3, alpha=6.0)
  (root / "whole").mkdir()
  train_generator.main(config, root / "whole")
  return config, root


def stored(folder):
  path = checkpoint.find(folder, "last")
  return named_leaves(checkpoint.load_params(path))


def test_checkpoints_hold_adapters_alone(run):
  _, root = run
  found = stored(root / "whole")
  assert {name.rpartition("/")[2] for name in found} == {"lora_a", "lora_b"}
  assert any(np.any(x) for name, x in found.items() if name.endswith("_b"))
  meta = checkpoint.read_meta(root / "whole")
  assert meta["lora"]["base"] == str(root / "generator")


def test_stopped_and_resumed_is_uninterrupted(run):
  config, root = run
  (root / "parts").mkdir()
  first = config.copy_and_resolve_references()
  first.train_generator.train.steps = 3
  train_generator.main(first, root / "parts")
  train_generator.main(config, root / "parts")
  ours, theirs = stored(root / "parts"), stored(root / "whole")
  assert ours.keys() == theirs.keys()
  for name, value in theirs.items():
    np.testing.assert_array_equal(ours[name], value, err_msg=name)


def answers(model, config):
  engine = build.engine(model, config.engine, 8)
  requests = [Request(str(i), f"{i} pears and 3 apples .") for i in range(4)]
  groups = engine.generate(model.params, requests, Sampling(max_tokens=8))
  return [sample.tokens for (sample,) in groups]


def test_a_later_stage_meets_the_merged_model(run):
  config, root = run
  mesh = build.mesh(config.mesh)
  model = build.load_model(root / "whole", mesh)
  base = build.load_model(root / "generator", mesh)
  assert named_leaves(model.params).keys() == named_leaves(base.params).keys()
  found = build.load_adapters(root / "whole", mesh)
  joined = adapters.lora.join(found.base, found.adapters, found.lora)
  assert answers(model, config) == answers(model.with_params(joined), config)
  q = [m.params["layers"]["attention"]["q"]["kernel"] for m in (model, base)]
  assert np.abs(np.asarray(q[0] - q[1])).max() > 0
  mlp = [m.params["layers"]["mlp"]["up"]["kernel"] for m in (model, base)]
  np.testing.assert_array_equal(*mlp)


def test_exported_merged_and_as_peft_does(run, tmp_path):
  config, root = run
  config = config.copy_and_resolve_references()
  config.export_hf = blocks.export_hf(str(root / "whole"))
  export_hf.main(config, tmp_path)
  names = load_file(tmp_path / "adapters" / "adapter_model.safetensors")
  assert all(".lora_" in name for name in names)
  mesh = build.mesh(config.mesh)
  model = build.load_model(root / "whole", mesh)
  for folder in ("hf", "adapters"):  # the latter names its base itself
    again = build.load_model(tmp_path / folder, mesh)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
      again.params,
      model.params,
    )


def test_adapters_need_a_base_and_a_stage_that_trains_them(run, tmp_path):
  config, root = run
  config = config.copy_and_resolve_references()
  model = build.load_model(root / "generator", build.mesh(config.mesh))
  random = build.dataclasses.replace(model, source="")
  with pytest.raises(ValueError, match="this one is random"):
    adapters.trained(random, config.train_generator.train, seed=0)
  with pytest.raises(ValueError, match="trains no adapters"):
    adapters.refuse(config.train_generator.train)
  with pytest.raises(ValueError, match="trains no adapters"):
    on_policy.run(
      None, None, None, config.train_generator.train, workdir=tmp_path, meta={}
    )
