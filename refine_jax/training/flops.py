"""Model FLOPs of a training step, counted analytically.

The convention: 6 per parameter that multiplies and token it sees (2 forward,
4 backward), plus attention, 12 * layers * heads * head_dim per pair of a query
and a key it may see: causal pairs n (n + 1) / 2, bidirectional n * n. Padding,
embedding look-ups, norms and whatever rematerialisation repeats count nothing.
"""

import dataclasses
import re
from typing import Any

from refine_jax.training.optim import is_stacked
from refine_jax.training.state import named_leaves

# Dense bfloat16 peaks by `device.device_kind`, from the vendors' data sheets.
PEAKS = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
  "NVIDIA A100-SXM4-40GB": 312e12,
  "NVIDIA A100-SXM4-80GB": 312e12,
  "NVIDIA A100 80GB PCIe": 312e12,
  "NVIDIA H100 80GB HBM3": 989e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H200": 989e12,
  "NVIDIA L4": 121e12,
  "NVIDIA L40S": 362e12,
  "Tesla V100-SXM2-16GB": 125e12,
  "Tesla V100-SXM2-32GB": 125e12,
  "Tesla T4": 65e12,
}

_NO_MATRIX = re.compile(r"(^|/)(table|positions|scale|bias)$")


@dataclasses.dataclass(frozen=True)
class ModelFlops:
  """What decides a family's FLOPs.

  Attributes:
    decoder: parameters that every target token is multiplied with (of a
      decoder-only model, every prompt token as well), the head included.
    head: those of them in the head, which sees only target tokens.
    attention: layers * heads * head_dim of the decoder's self-attention.
    encoder, encoder_attention: the same of an encoder; 0 without one.
    cross: parameters that make cross keys and values of prompt tokens.
  """

  decoder: float
  head: float
  attention: float
  encoder: float = 0.0
  encoder_attention: float = 0.0
  cross: float = 0.0

  def step(self, counts: Any) -> float:
    """Model FLOPs of a training step over `step.Counts` (host numbers)."""
    p, t = float(counts.prompt), float(counts.target)
    pp, pt = float(counts.prompt_prompt), float(counts.prompt_target)
    tt = float(counts.target_target)
    if self.encoder:
      weights = self.encoder * p + self.decoder * t + self.cross * p
      pairs = self.encoder_attention * pp
      pairs += self.attention * ((tt + t) / 2 + pt)
    else:
      body = self.decoder - self.head
      weights = body * (p + t) + self.head * t
      pairs = self.attention * (pp + 2 * pt + tt + p + t) / 2
    return 6 * weights + 12 * pairs


def of_params(
  params: Any,
  *,
  layers: int,
  heads: int,
  head_dim: int,
  tied: bool,
  encoder_layers: int | None = None,
) -> ModelFlops:
  """Counts parameters by name.

  Args:
    params: arrays or shapes of a model family.
    layers, heads, head_dim: the decoder's.
    tied: whether the embedding table is the head, too.
    encoder_layers: of an encoder-decoder.
  """
  leaves = named_leaves(params)
  matrices = {
    name: leaf.size
    for name, leaf in leaves.items()
    if leaf.ndim - is_stacked(name) > 1 and not _NO_MATRIX.search(name)
  }

  def total(pattern: str) -> int:
    return sum(n for k, n in matrices.items() if re.search(pattern, k))

  head = leaves["embed/table"].size if tied else total("^head/")
  attention = layers * heads * head_dim
  if encoder_layers is None:
    body = total("") - total("^head/")
    return ModelFlops(body + head, head, attention)
  cross = total(r"^decoder/.*cross/(k|v)/")
  return ModelFlops(
    decoder=total("^decoder/") - cross + head,
    head=head,
    attention=attention,
    encoder=total("^encoder/"),
    encoder_attention=encoder_layers * heads * head_dim,
    cross=cross,
  )


def peak(device_kind: str, given: float | None = None) -> float | None:
  """Peak FLOP/s of one device: `given`, or the table's, or None."""
  return PEAKS.get(device_kind) if given is None else given
