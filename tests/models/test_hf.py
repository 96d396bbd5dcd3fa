"""Folders in and out, on one device and on a mesh."""

import json
import time

import jax
import ml_dtypes
import numpy as np
import pytest
import tiny_families as tiny
from safetensors.numpy import load_file, save_file

from refine_jax import sharding
from refine_jax.models import hf, mapped


@pytest.fixture(scope="module", params=tiny.names())
def folder(request, tmp_path_factory):
  module, params = tiny.tiny(request.param)
  path = tmp_path_factory.mktemp(request.param)
  hf.save(path, module, params, shard_bytes=10_000)
  return path, module, params


def assert_same(ours, theirs):
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_round_trip(folder):
  path, module, params = folder
  loaded, found = hf.load(path)
  assert hf.config_to_hf(loaded.config) == hf.config_to_hf(module.config)
  assert_same(found, params)


@pytest.mark.parametrize(
  "axes",
  [
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"fsdp": 8},
    {"fsdp": 1, "tensor": 8},
  ],
  ids=str,
)
def test_reading_onto_a_mesh(folder, axes):
  path, _, params = folder
  _, found = hf.load(path, mesh=sharding.make_mesh(**axes))
  assert_same(found, params)
  assert any(
    not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(found)
  )


def test_each_part_is_read_once_and_no_more_than_a_part(folder, monkeypatch):
  path = folder[0]
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  read = []
  part = hf._part

  def counted(files, source, shape, bounds, dtype, pool):
    array = part(files, source, shape, bounds, dtype, pool)
    read.append((source.path, array.size))
    return array

  monkeypatch.setattr(hf, "_part", counted)
  _, found = hf.load(path, mesh=mesh)
  flat = jax.tree_util.tree_leaves_with_path(found)
  for key, leaf in flat:
    sizes = [size for name, size in read if name == hf._join(key)]
    assert sum(sizes) == leaf.size
    assert max(sizes) == leaf.addressable_shards[0].data.size


def test_parts_are_read_one_at_a_time_by_several_threads(tmp_path, monkeypatch):
  module, params = tiny.tiny("llama")
  hf.save(tmp_path, module, params, shard_bytes=10_000)
  copied, room = mapped._copy, hf._room
  under_way, most = [], []

  def copy(target, source):
    under_way.append(None)
    time.sleep(0.005)
    most.append(len(under_way))
    copied(target, source)
    under_way.pop()

  def alone(shape, dtype):
    assert not under_way
    return room(shape, dtype)

  monkeypatch.setattr(mapped, "_copy", copy)
  monkeypatch.setattr(hf, "_room", alone)
  _, found = hf.load(tmp_path, mesh=sharding.make_mesh(fsdp=4, tensor=2))
  assert_same(found, params)
  assert max(most) > 1


def test_pieces_of_a_view_are_rows_of_the_file(monkeypatch):
  monkeypatch.setattr(mapped, "_PIECE", 100)
  file = np.arange(24 * 10, dtype=np.float32).reshape(24, 10)
  # As a block of a transposed matrix of heads is laid out.
  source = file[4:16, 2:].reshape(3, 4, 8).transpose(2, 0, 1)
  target = np.full(source.shape, -1.0)
  pieces = mapped._pieces(target, source)
  assert len(pieces) == 3
  with mapped.readers() as pool:
    mapped.copy([(target, source)], pool)
  np.testing.assert_array_equal(target, source)
  for _, piece in pieces:
    low, high = np.lib.array_utils.byte_bounds(piece)
    assert high - low <= 4 * 10 * 4


def test_a_file_that_is_cut_short_is_named(tmp_path):
  module, params = tiny.tiny("llama")
  hf.save(tmp_path, module, params)
  file = tmp_path / "model.safetensors"
  data = file.read_bytes()
  for length in (0, 4, 40, len(data) - 1):
    file.write_bytes(data[:length])
    with pytest.raises(hf.BadFolder, match=r"model\.safetensors: "):
      hf.load(tmp_path)


@pytest.mark.parametrize(
  "entry",
  [
    {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]},
    {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
    {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]},
    {"dtype": "X", "shape": [3], "data_offsets": [0, 12]},
    {"dtype": "F32", "shape": [3]},
    7,
  ],
  ids=str,
)
def test_a_header_that_lies_is_refused(tmp_path, entry):
  header = json.dumps({"w": entry}).encode()
  path = tmp_path / "a.safetensors"
  path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(12))
  with pytest.raises(mapped.BadFile, match=r"a\.safetensors"):
    mapped.tensors(path)


def test_writing_from_a_mesh(folder, tmp_path):
  path, module, params = folder
  _, found = hf.load(path, mesh=sharding.make_mesh(fsdp=4, tensor=2))
  hf.save(tmp_path, module, found)
  assert_same(hf.load(tmp_path)[1], params)
  assert not (tmp_path / "model.safetensors.index.json").exists()


def test_files_stay_under_the_limit_and_the_index_names_all(folder):
  path = folder[0]
  index = json.loads((path / "model.safetensors.index.json").read_text())
  files = {file.name for file in path.glob("*.safetensors")}
  assert {*index["weight_map"].values()} == files
  assert len(files) > 3
  total = 0
  for file in files:
    tensors = load_file(path / file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    assert size <= 10_000 or len(tensors) == 1
    total += size
    assert all(index["weight_map"][name] == file for name in tensors)
  assert index["metadata"]["total_size"] == total


def test_half_precision_on_disk(folder, tmp_path):
  _, module, params = folder
  hf.save(tmp_path, module, params, dtype="bfloat16")
  (file,) = tmp_path.glob("*.safetensors")
  assert {t.dtype.name for t in load_file(file).values()} == {"bfloat16"}
  rounded = jax.tree.map(
    lambda x: np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float32),
    params,
  )
  _, found = hf.load(tmp_path)
  assert_same(found, rounded)
  assert json.loads((tmp_path / "config.json").read_text())["dtype"] == (
    "bfloat16"
  )


def test_choices_are_ours_to_make(folder):
  module = hf.module_of(folder[0], dtype="bfloat16", remat="full")
  assert (module.config.dtype, module.config.remat) == ("bfloat16", "full")


@pytest.fixture
def single(folder, tmp_path):
  """The folder as one file, to be damaged."""
  _, module, params = folder
  hf.save(tmp_path, module, params)
  return tmp_path, load_file(tmp_path / "model.safetensors")


def damaged(path, tensors):
  save_file(tensors, path / "model.safetensors")
  with pytest.raises(hf.BadFolder) as error:
    hf.load(path)
  assert str(path) in str(error.value)
  return str(error.value)


def test_a_missing_tensor_is_named(single):
  path, tensors = single
  name = sorted(tensors)[3]
  del tensors[name]
  assert f"{name} is missing" in damaged(path, tensors)


def test_an_extra_tensor_is_named(single):
  path, tensors = single
  tensors["model.layers.7.mlp.weight"] = np.zeros(3, np.float32)
  message = damaged(path, tensors)
  assert "model.safetensors: tensor model.layers.7.mlp.weight" in message


def test_a_misshapen_tensor_is_named_with_both_shapes(single):
  path, tensors = single
  name = sorted(tensors)[0]
  shape = tensors[name].shape
  tensors[name] = np.zeros((3, *shape), np.float32)
  message = damaged(path, tensors)
  assert name in message and str((3, *shape)) in message
  assert str(shape) in message


def test_repeats_of_tied_tensors_and_buffers_are_passed_over(tmp_path):
  module, params = tiny.tiny("llama", tied=True)
  hf.save(tmp_path, module, params)
  tensors = load_file(tmp_path / "model.safetensors")
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
  name = "model.layers.0.self_attn.rotary_emb.inv_freq"
  tensors[name] = np.zeros(4, np.float32)
  save_file(tensors, tmp_path / "model.safetensors")
  assert_same(hf.load(tmp_path)[1], params)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ('{"model_type": "bloom"}', "'bloom': expected one of"),
    ('{"model_type": "llama"}', "is missing"),
    ("[1]", "an object, not a list"),
    ("{", "property name"),
  ],
)
def test_a_config_we_cannot_read_names_its_file(tmp_path, text, message):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(hf.BadFolder, match=message) as error:
    hf.module_of(tmp_path)
  assert "config.json" in str(error.value)


def test_a_folder_without_weights_says_what_is_read(tmp_path):
  module, _ = tiny.tiny("llama")
  with pytest.raises(hf.BadFolder, match=r"config\.json: no such"):
    hf.load(tmp_path)
  hf._write_json(tmp_path / "config.json", hf.config_to_hf(module.config))
  with pytest.raises(hf.BadFolder, match="safetensors"):
    hf.load(tmp_path)
