"""What an engine has done, in exact counts."""

import dataclasses
from typing import Any

import jax

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_compiled = 0
_listening = False


def _listen(event: str, seconds: float, **_) -> None:
  global _compiled
  if event == _COMPILE_EVENT:
    _compiled += 1


def compilations() -> int:
  """Programs this process has compiled since the first call of this."""
  global _listening
  if not _listening:
    jax.monitoring.register_event_duration_secs_listener(_listen)
    _listening = True
  return _compiled


@dataclasses.dataclass
class Statistics:
  """Counts since the engine was made, or since `clear`.

  Attributes:
    requests, samples: finished.
    tokens: sampled, EOS included.
    prompt_tokens: prefilled; `prompt_padding`: positions prefilled for nothing.
    kept_tokens: of prompts, not prefilled since a kept row held them;
      `extended`, `parted`: prompts that went on where their row had ended, and
      those read anew from where they part from it.
    steps: decoding steps; `slot_steps`: those times slots; `used_slot_steps`:
      those in which the slot was running.
    compilations: programs compiled during the engine's calls.
    syncs: times the host waited for the device.
    seconds: spent generating, as far as samples were waited for.
  """

  requests: int = 0
  samples: int = 0
  tokens: int = 0
  prompt_tokens: int = 0
  prompt_padding: int = 0
  kept_tokens: int = 0
  extended: int = 0
  parted: int = 0
  steps: int = 0
  slot_steps: int = 0
  used_slot_steps: int = 0
  compilations: int = 0
  syncs: int = 0
  seconds: float = 0.0

  @property
  def slot_use(self) -> float:
    """The fraction of slots that were running, over all decoding steps."""
    return self.used_slot_steps / self.slot_steps if self.slot_steps else 0.0

  @property
  def tokens_per_second(self) -> float:
    return self.tokens / self.seconds if self.seconds else 0.0

  def metrics(self) -> dict[str, float]:
    """All of it, for a metrics file."""
    found = {f"engine/{k}": float(v) for k, v in vars(self).items()}
    found["engine/slot_use"] = self.slot_use
    found["engine/tokens_per_second"] = self.tokens_per_second
    return found

  def __str__(self) -> str:
    return (
      f"{self.requests} requests and {self.samples} samples done,"
      f" {self.tokens_per_second:.0f} tokens/s, slot use {self.slot_use:.2f}"
    )

  def count(self, progress: Any, slots: int) -> None:
    """Adds the steps of a finished batch (`loop.Progress`)."""
    steps, used = jax.device_get((progress.steps, progress.used))
    self.steps += int(steps)
    self.slot_steps += int(steps) * slots
    self.used_slot_steps += int(used)

  def clear(self) -> None:
    for field in dataclasses.fields(self):
      setattr(self, field.name, 0)
