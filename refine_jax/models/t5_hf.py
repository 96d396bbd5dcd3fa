"""T5 as a family: its Hugging Face form."""

from collections.abc import Mapping
from typing import Any

from refine_jax.models import t5
from refine_jax.models.families import Family, Tensor


def _from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
  kind = hf.get("feed_forward_proj", "relu")
  if kind not in ("relu", "gated-gelu"):
    raise ValueError(f"feed_forward_proj {kind!r}: not relu or gated-gelu")
  # transformers 5 always says tied, and tells v1.1 by the missing scale.
  tied = hf.get("scale_decoder_outputs", hf.get("tie_word_embeddings", True))
  return {
    "vocab_size": hf["vocab_size"],
    "width": hf["d_model"],
    "mlp": hf["d_ff"],
    "heads": hf["num_heads"],
    "head_dim": hf["d_kv"],
    "encoder_layers": hf["num_layers"],
    "decoder_layers": hf.get("num_decoder_layers") or hf["num_layers"],
    "buckets": hf["relative_attention_num_buckets"],
    "max_distance": hf.get("relative_attention_max_distance", 128),
    "norm_eps": hf.get("layer_norm_epsilon", 1e-6),
    "gated": kind == "gated-gelu",
    "tied": tied,
    "dropout": hf.get("dropout_rate", 0.0),
    "decoder_start": hf.get("decoder_start_token_id") or 0,
    "pad_id": hf.get("pad_token_id") or 0,
  }


def _to_hf(config: t5.T5Config) -> dict[str, Any]:
  return {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "is_encoder_decoder": True,
    "vocab_size": config.vocab_size,
    "d_model": config.width,
    "d_ff": config.mlp,
    "num_heads": config.heads,
    "d_kv": config.head_dim,
    "num_layers": config.encoder_layers,
    "num_decoder_layers": config.decoder_layers,
    "relative_attention_num_buckets": config.buckets,
    "relative_attention_max_distance": config.max_distance,
    "layer_norm_epsilon": config.norm_eps,
    "feed_forward_proj": "gated-gelu" if config.gated else "relu",
    "tie_word_embeddings": config.tied,
    "dropout_rate": config.dropout,
    "decoder_start_token_id": config.decoder_start,
    "pad_token_id": config.pad_id,
  }


def _stack(side: str, gated: bool) -> list[Tensor]:
  """One side; its layers hold 2 or 3 sublayers, the last being the mlp."""
  layer = f"{side}.block.{{}}.layer."
  sublayers = [("attention", "SelfAttention")]
  if side == "decoder":
    sublayers.append(("cross", "EncDecAttention"))
  found = [
    Tensor(
      f"{side}/relative_bias/table",
      f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    Tensor(f"{side}/final_norm/scale", f"{side}.final_layer_norm.weight"),
  ]
  for i, (ours, theirs) in enumerate(sublayers):
    for x, inputs in (("q", 1), ("k", 1), ("v", 1), ("o", 2)):
      path = f"{side}/layers/{ours}/{x}/kernel"
      found.append(Tensor(path, f"{layer}{i}.{theirs}.{x}.weight", inputs))
  mlp = f"{layer}{len(sublayers)}.DenseReluDense."
  names = {"up": "wi_1", "gate": "wi_0"} if gated else {"up": "wi"}
  for ours, theirs in {**names, "down": "wo"}.items():
    path = f"{side}/layers/mlp/{ours}/kernel"
    found.append(Tensor(path, f"{mlp}{theirs}.weight", 1))
  for i, ours in enumerate([*dict(sublayers), "mlp"]):
    path = f"{side}/layers/{ours}_norm/scale"
    found.append(Tensor(path, f"{layer}{i}.layer_norm.weight"))
  return found


def _tensors(config: t5.T5Config) -> tuple[Tensor, ...]:
  head = () if config.tied else (Tensor("head/kernel", "lm_head.weight", 1),)
  return (
    Tensor("embed/table", "shared.weight"),
    *head,
    *_stack("encoder", config.gated),
    *_stack("decoder", config.gated),
  )


FAMILY = Family(
  name="t5",
  module=t5.T5,
  config=t5.T5Config,
  model_types=("t5",),
  from_hf=_from_hf,
  to_hf=_to_hf,
  tensors=_tensors,
  repeated=(
    "lm_head.weight",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
  ),
  # Early checkpoints carry this one, which was never used.
  ignored=(r"EncDecAttention\.relative_attention_bias\.weight$",),
)
