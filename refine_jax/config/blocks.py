"""Sections that any experiment is put together from."""

import difflib
import os
from typing import Any

from ml_collections import ConfigDict


def arguments(text: str, **defaults: Any) -> ConfigDict:
  """Parses `task=svamp,smoke` as in `--config=file.py:task=svamp,smoke`.

  A bare name sets a flag that defaults to False.

  Raises:
    ValueError: an unknown name (with the closest known one) or a value that
      is not of its default's type.
  """
  args = ConfigDict(defaults)
  for item in filter(None, (text or "").split(",")):
    name, given, value = item.partition("=")
    if name not in defaults:
      close = difflib.get_close_matches(name, defaults, 1)
      hint = f"; did you mean {close[0]!r}?" if close else ""
      raise ValueError(
        f"unknown config argument {name!r}{hint} (known:"
        f" {', '.join(sorted(defaults))})"
      )
    args[name] = _typed(name, value if given else "true", defaults[name])
  return args


def _typed(name: str, text: str, default: Any) -> Any:
  if isinstance(default, bool):
    if text.lower() not in ("true", "false", "1", "0"):
      raise ValueError(f"config argument {name} is true or false, not {text!r}")
    return text.lower() in ("true", "1")
  if isinstance(default, int | float):
    try:
      return type(default)(text)
    except ValueError:
      kind = type(default).__name__
      raise ValueError(
        f"config argument {name} is of type {kind}, not {text!r}"
      ) from None
  return text


def data_folder() -> str:
  """Where published rows are: REFINE_JAX_DATA, or ./data."""
  return os.environ.get("REFINE_JAX_DATA") or "data"


def has_published_rows(folder: str, file: str) -> bool:
  """Whether a published file is there to be read."""
  return os.path.exists(os.path.join(folder, file))


def task(name: str, **options: Any) -> ConfigDict:
  """A task by the name of its file, or `package.module:Class`."""
  return ConfigDict({"name": name, "options": options})


def pretrained(path: str, **overrides: Any) -> ConfigDict:
  """A model from a Hugging Face folder or hub name, with fields overridden."""
  return ConfigDict(
    {"path": path, "family": "", "overrides": overrides, "init_from": ""}
  )


def checkpoint(path: str) -> ConfigDict:
  """A model from a checkpoint of ours, which describes itself; goes before
  the other fields."""
  return ConfigDict(
    {"path": "", "family": "", "overrides": {}, "init_from": path}
  )


def from_scratch(family: str, **fields: Any) -> ConfigDict:
  """A randomly initialised model; `vocab_size=0` takes the tokenizer's."""
  return ConfigDict(
    {"path": "", "family": family, "overrides": fields, "init_from": ""}
  )


def t5(
  *,
  width: int,
  encoder_layers: int,
  decoder_layers: int,
  heads: int,
  mlp: int,
  **fields: Any,
) -> ConfigDict:
  """A small T5 from scratch."""
  return from_scratch(
    "t5",
    vocab_size=0,
    width=width,
    head_dim=width // heads,
    mlp=mlp,
    encoder_layers=encoder_layers,
    decoder_layers=decoder_layers,
    heads=heads,
    **fields,
  )


def llama(
  *, width: int, layers: int, heads: int, mlp: int, **fields: Any
) -> ConfigDict:
  """A small LLaMA from scratch."""
  return from_scratch(
    "llama",
    vocab_size=0,
    width=width,
    layers=layers,
    heads=heads,
    kv_heads=fields.pop("kv_heads", heads),
    head_dim=width // heads,
    mlp=mlp,
    **fields,
  )


def tokenizer(path: str, **training: Any) -> ConfigDict:
  """`byte`, a folder, a sentencepiece `.model`, or one trained by
  `train_tokenizer` with the settings given here."""
  return ConfigDict({"path": path, "train": training})


def mesh(
  *,
  slice: int = 1,
  data: int = 1,
  fsdp: int = -1,
  tensor: int = 1,
  devices: int = 0,
) -> ConfigDict:
  """Sizes of the mesh axes, -1 for what is left; `devices=0` takes all."""
  return ConfigDict(dict(locals()))


def optimizer(
  learning_rate: float,
  *,
  name: str = "adamw",
  schedule: str = "linear",
  warmup_steps: int = 0,
  end_fraction: float = 0.0,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  clip_norm: float = 1.0,
  first_moment_dtype: str = "float32",
  multipliers: dict[str, float] | None = None,
) -> ConfigDict:
  """See `training.optim`; `multipliers` maps name patterns to factors.

  The schedule ends with the run's last step.
  """
  settings = dict(locals())
  settings["multipliers"] = tuple((multipliers or {}).items())
  return ConfigDict(settings)


def data(
  *,
  max_prompt: int,
  max_target: int,
  batching: str = "pack",
  row_tokens: int = 0,
  buckets: int = 4,
  on_long: str = "drop",
  on_bad_row: str = "stop",
) -> ConfigDict:
  """Lengths in tokens.

  `batching` is pack (rows of `row_tokens` positions, prompt and target
  together; 0 takes four of the longest examples), bucket (`buckets` static
  lengths) or pad.
  """
  return ConfigDict(dict(locals()))


def train(
  *,
  batch_size: int,
  optimizer: ConfigDict,
  steps: int = 0,
  epochs: int = 0,
  warmup_fraction: float = 0.0,
  micro_batches: int = 1,
  label_smoothing: float = 0.0,
  reduction: str = "token",
  xent_chunk: int = 4096,
  log_every: int = 50,
  eval_every: int = 500,
  eval_rows: int = 500,
  save_every: int = 0,
  keep_last: int = 1,
  best_metric: str = "exact",
  best_mode: str = "max",
  patience: int = 0,
  target: float = 0.0,
  max_seconds: float = 0.0,
  profile_steps: tuple[int, ...] = (),
  lora: ConfigDict | None = None,
) -> ConfigDict:
  """One supervised run of `steps` updates, or of `epochs` if they are given,
  whose first `warmup_fraction` then warm up.

  `eval_every` and `save_every` count updates; the best and the last are always
  saved. On-policy runs count rounds of `batch_size` rollouts instead.
  `patience` counts evaluations without a new best before stopping, `target`
  is a value of `best_metric` to stop at, `max_seconds` a wall-clock budget;
  0 turns each off. `lora` trains adapters instead of the whole model.
  """
  return ConfigDict({**locals(), "lora": lora or low_rank(0)})


def low_rank(
  rank: int,
  *,
  alpha: float = 16.0,
  targets: tuple[str, ...] = (r"/(q|v|qkv)$",),
) -> ConfigDict:
  """LoRA (arXiv 2106.09685) on the matrices that `targets` find; rank 0 is
  none of it. See `training.lora`."""
  return ConfigDict(dict(locals()))


def sampling(
  *,
  max_tokens: int,
  temperature: float = 0.0,
  top_k: int = 0,
  top_p: float = 1.0,
  beams: int = 1,
) -> ConfigDict:
  """`temperature=0` is greedy."""
  return ConfigDict(dict(locals()))


def engine(
  *,
  slots: int,
  prompt_buckets: tuple[int, ...],
  memory: int = 0,
  cache_dtype: str = "",
  prefill_chunk: int = 0,
) -> ConfigDict:
  """Rows decoded together and the prompt lengths compiled for.

  Args:
    memory: bytes for keys and values; if given, they say how many slots.
    cache_dtype: of keys and values, such as "int8"; "" for the model's.
    prefill_chunk: longer prompts are read in pieces of so many tokens; 0 for
      whole prompts, as encoders need it.
  """
  return ConfigDict(dict(locals()))


def export_hf(
  checkpoint: str, *, dtype: str = "float32", shard_bytes: int = 4 << 30
) -> ConfigDict:
  """A checkpoint for Hugging Face, in files of up to `shard_bytes`."""
  return ConfigDict(dict(locals()))


def template(
  *,
  hypothesis: str = " previous answer: ",
  feedback: str = " feedback: ",
  generator_end: str = "",
  critic_end: str = "",
) -> ConfigDict:
  """The words between question, hypothesis and feedback."""
  return ConfigDict(dict(locals()))


def shrink(fields: ConfigDict) -> None:
  """Sizes of a model for a smoke test, in place; only those it has."""
  wanted = {
    "width": 16,
    "head_dim": 8,
    "heads": 2,
    "kv_heads": 2,
    "mlp": 32,
    "layers": 1,
    "encoder_layers": 1,
    "decoder_layers": 1,
  }
  fields.update({k: v for k, v in wanted.items() if k in fields})


def smoke_train(train: ConfigDict, steps: int) -> None:
  """A `train` section of a few updates, all of which are seen."""
  train.update(
    steps=steps,
    batch_size=8,
    micro_batches=1,
    log_every=2,
    eval_every=4,
    eval_rows=4,
    max_seconds=0.0,
    target=0.0,
    patience=0,
  )
  train.optimizer.warmup_steps = 0
