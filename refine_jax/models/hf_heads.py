"""Hugging Face folders of models with a head: values, or two classes.

The layouts of the original ReFT's released checkpoints: a causal model with
trl's value head beside it (`v_head.summary.weight`, `.bias`), and a sequence
classifier, the reranker (`score.weight`, without bias).
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from refine_jax import sharding
from refine_jax.batch import Params
from refine_jax.models import families, hf

# Kind -> our path in the head's parameters -> their name; kernels are
# transposed there.
LAYOUTS = {
  "value": {
    "score/out/kernel": "v_head.summary.weight",
    "score/out/bias": "v_head.summary.bias",
  },
  "classes": {"out/kernel": "score.weight"},
}
# A sequence classifier's name for each causal model's.
CLASSIFIERS = {
  "OPTForCausalLM": "OPTForSequenceClassification",
  "LlamaForCausalLM": "LlamaForSequenceClassification",
  "Qwen2ForCausalLM": "Qwen2ForSequenceClassification",
  "GPT2LMHeadModel": "GPT2ForSequenceClassification",
}


def load(
  folder: str | pathlib.Path,
  kind: str,
  *,
  mesh: jax.sharding.Mesh | None = None,
  **choices: Any,
) -> tuple[nn.Module, Params, Params]:
  """The module, its parameters, and those of its `ValueHead` or of a
  `ScoreHead` without bias.

  A classifier has no vocabulary head, so its module is tied.

  Args:
    folder: config.json and safetensors.
    kind: `value` or `classes`.
    mesh, choices: as in `hf.load`.

  Raises:
    hf.BadFolder: as in `hf.load`, or the head is missing or misshapen.
  """
  layout = _layout(kind)
  if kind == "classes":
    choices["tied"] = True
  module, params = hf.load(folder, mesh=mesh, **choices)
  found = hf.read_others(folder, layout.values())
  width = module.config.width
  head: dict[str, Any] = {}
  for path, name in layout.items():
    value = _ours(folder, name, np.asarray(found[name], np.float32), width)
    if mesh is not None:
      value = jax.device_put(value, sharding.replicated(mesh))
    _set(head, path, jnp.asarray(value))
  return module, params, head


def _layout(kind: str) -> dict[str, str]:
  if kind not in LAYOUTS:
    raise ValueError(f"a head is one of {[*LAYOUTS]}, not {kind!r}")
  return LAYOUTS[kind]


def _ours(folder, name: str, value: np.ndarray, width: int) -> np.ndarray:
  outputs = 2 if name.startswith("score.") else 1
  expected = (outputs,) if name.endswith("bias") else (outputs, width)
  if value.shape != expected:
    raise hf.BadFolder(
      f"{folder}: tensor {name} has shape {value.shape}, expected {expected}"
    )
  return value.T


def _set(tree: dict[str, Any], path: str, value: Any) -> None:
  *parents, last = path.split("/")
  for parent in parents:
    tree = tree.setdefault(parent, {})
  tree[last] = value


def _get(tree: Any, path: str) -> np.ndarray:
  for key in path.split("/"):
    tree = tree[key]
  return np.asarray(sharding.fetched(tree))


def save(
  folder: str | pathlib.Path,
  module: nn.Module,
  params: Params,
  kind: str,
  head: Params,
  *,
  pad_id: int,
  dtype: str = "float32",
  shard_bytes: int = 4 << 30,
) -> None:
  """Writes a folder that trl, or `AutoModelForSequenceClassification`, loads.

  Args:
    folder: made if it is not there.
    module, params: the model; further entries of `params` are passed over.
    kind, head: as `load` gives them.
    pad_id: with it transformers finds a row's last token.
    dtype, shard_bytes: as in `hf.save`.

  Raises:
    ValueError: a classifier of a family that transformers has none of.
  """
  layout = _layout(kind)
  changes: dict[str, Any] = {"pad_token_id": pad_id}
  if kind == "classes":
    changes |= _classifier(module)
    module = type(module)(dataclasses.replace(module.config, tied=True))
  names = nn.unbox(families.abstract_params(module)).keys()
  hf.save(
    folder,
    module,
    {name: params[name] for name in names},
    dtype=dtype,
    shard_bytes=shard_bytes,
    others={name: _get(head, path).T for path, name in layout.items()},
    changes=changes,
  )


def _classifier(module: nn.Module) -> dict[str, Any]:
  (causal,) = families.of(module).to_hf(module.config)["architectures"]
  if causal not in CLASSIFIERS:
    raise ValueError(f"transformers has no sequence classifier of {causal}")
  return {
    "architectures": [CLASSIFIERS[causal]],
    "id2label": {"0": "wrong", "1": "correct"},
    "label2id": {"wrong": 0, "correct": 1},
    "tie_word_embeddings": True,
  }
