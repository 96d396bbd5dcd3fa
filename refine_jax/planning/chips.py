"""Published memory, peaks and bandwidths of accelerators."""

import dataclasses

GIB = 1 << 30
_TPU = "https://cloud.google.com/tpu/docs/"
_NVIDIA = "https://www.nvidia.com/en-us/data-center/"


@dataclasses.dataclass(frozen=True)
class Chip:
  """One device of a topology.

  Attributes:
    memory: bytes.
    flops: dense bfloat16 FLOP/s.
    bandwidth: of the memory, bytes/s.
    link: what a device can receive from its neighbours in a slice or host,
      bytes/s: half of a published bidirectional figure.
    source: where the figures are published.
    nominal: nobody publishes them; they only put bounds in proportion.
  """

  memory: int
  flops: float
  bandwidth: float
  link: float
  source: str
  nominal: bool = False


TPUS = {
  "v4": Chip(32 * GIB, 275e12, 1200e9, 300e9, _TPU + "v4"),
  "v5e": Chip(16 * GIB, 197e12, 819e9, 200e9, _TPU + "v5e"),
  "v5p": Chip(95 * GIB, 459e12, 2765e9, 600e9, _TPU + "v5p"),
  "v6e": Chip(32 * GIB, 918e12, 1638e9, 400e9, _TPU + "v6e"),
}
GPUS = {
  "a100-40": Chip(40 * GIB, 312e12, 1555e9, 300e9, _NVIDIA + "a100/"),
  "a100": Chip(80 * GIB, 312e12, 2039e9, 300e9, _NVIDIA + "a100/"),
  "h100": Chip(80 * GIB, 989e12, 3350e9, 450e9, _NVIDIA + "h100/"),
  "h200": Chip(141 * GIB, 989e12, 4800e9, 450e9, _NVIDIA + "h200/"),
}


def host(memory: int) -> Chip:
  """A host device with its share of the machine's memory."""
  return Chip(memory, 5e10, 1e10, 1e10, "a guess at one core", nominal=True)
