"""The config.json of published models, as far as it decides shapes.

So that a plan needs neither weights nor a network. What is not in the list is
read from a local folder.
"""

from collections.abc import Mapping
from typing import Any


def _llama(vocab, width, layers, heads, mlp, kv_heads=0, **more):
  return {
    "model_type": "llama",
    "vocab_size": vocab,
    "hidden_size": width,
    "num_hidden_layers": layers,
    "num_attention_heads": heads,
    "num_key_value_heads": kv_heads or heads,
    "intermediate_size": mlp,
    **more,
  }


def _galactica(width, layers, heads):
  return {
    "model_type": "opt",
    "vocab_size": 50000,
    "hidden_size": width,
    "num_hidden_layers": layers,
    "num_attention_heads": heads,
    "ffn_dim": 4 * width,
    "max_position_embeddings": 2048,
    "activation_function": "gelu",
  }


def _gpt2(kind, vocab, width, layers, heads, positions, **more):
  return {
    "model_type": kind,
    "vocab_size": vocab,
    "n_embd": width,
    "n_layer": layers,
    "n_head": heads,
    "n_positions": positions,
    "activation_function": "gelu_new",
    **more,
  }


def _t5(width, head_dim, heads, layers, mlp, gated=False, vocab=32128):
  return {
    "model_type": "t5",
    "vocab_size": vocab,
    "d_model": width,
    "d_kv": head_dim,
    "num_heads": heads,
    "num_layers": layers,
    "d_ff": mlp,
    "relative_attention_num_buckets": 32,
    "feed_forward_proj": "gated-gelu" if gated else "relu",
    "tie_word_embeddings": not gated,
  }


_LONG = {"max_position_embeddings": 8192, "rope_theta": 5e5}
_CODE = {"max_position_embeddings": 16384, "rope_theta": 1e6}
_T5_BASE, _T5_LARGE = (768, 64, 12, 12), (1024, 64, 16, 24)
_LLAMA_7B = (32000, 4096, 32, 32, 11008)
_SMALL = {**_LONG, "tie_word_embeddings": True}

_KNOWN: dict[str, dict[str, Any]] = {
  "huggyllama/llama-7b": _llama(*_LLAMA_7B),
  "meta-llama/Llama-2-7b-hf": _llama(*_LLAMA_7B, max_position_embeddings=4096),
  "meta-llama/Meta-Llama-3-8B": _llama(128256, 4096, 32, 32, 14336, 8, **_LONG),
  "meta-llama/Llama-3.2-1B": _llama(
    128256, 2048, 16, 32, 8192, 8, head_dim=64, **_SMALL
  ),
  "meta-llama/Llama-3.2-3B": _llama(
    128256, 3072, 28, 24, 8192, 8, head_dim=128, **_SMALL
  ),
  "codellama/CodeLlama-7b-hf": _llama(32016, *_LLAMA_7B[1:], **_CODE),
  "codellama/CodeLlama-34b-hf": _llama(32000, 8192, 48, 64, 22016, 8, **_CODE),
  "facebook/galactica-125m": _galactica(768, 12, 12),
  "facebook/galactica-6.7b": _galactica(4096, 32, 32),
  "google-t5/t5-base": _t5(*_T5_BASE, 3072),
  "google-t5/t5-large": _t5(*_T5_LARGE, 4096),
  "google-t5/t5-11b": _t5(1024, 128, 128, 24, 65536),
  "google/flan-t5-base": _t5(*_T5_BASE, 2048, gated=True),
  "google/flan-t5-large": _t5(*_T5_LARGE, 2816, gated=True),
  "google/flan-t5-xl": _t5(2048, 64, 32, 24, 5120, gated=True),
  "allenai/unifiedqa-t5-base": _t5(*_T5_BASE, 3072),
  "allenai/unifiedqa-t5-large": _t5(*_T5_LARGE, 4096),
  # source: unverified; these have the published numbers of parameters.
  "Salesforce/codet5-large": _t5(*_T5_LARGE, 4096, vocab=32100),
  "Salesforce/codegen-350M-mono": _gpt2(
    *("codegen", 51200, 1024, 20, 16, 2048), rotary_dim=32
  ),
  "codeparrot/codeparrot-small": _gpt2(
    *("gpt2", 32768, 768, 12, 12, 1024), scale_attn_by_inverse_layer_idx=True
  ),
}
_KNOWN["meta-llama/Meta-Llama-3-8B-Instruct"] = _KNOWN[
  "meta-llama/Meta-Llama-3-8B"
]


def known() -> tuple[str, ...]:
  """The names."""
  return tuple(_KNOWN)


def hf_config(name: str) -> Mapping[str, Any] | None:
  """A model's config.json, or None if it is not in the list."""
  return _KNOWN.get(name)
