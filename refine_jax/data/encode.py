"""Examples to token ids, and rows of ids to a Batch.

The only place that appends an end-of-sequence token to a target. A target is
never cut: an example that is too long is dropped, or cut on its prompt, and
counted either way.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from refine_jax import records
from refine_jax.batch import Batch
from refine_jax.data.tokenizer import Tokenizer, encode_prompt

ON_LONG = ("drop", "cut_prompt_left", "cut_prompt_right")
_CHUNK = 4096  # examples whose texts are encoded by one call


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
  """One example in ids.

  Attributes:
    prompt_ids: int32 [P].
    target_ids: int32 [T], EOS last.
    learn: bool [T], which target ids count in a loss.
  """

  prompt_ids: np.ndarray
  target_ids: np.ndarray
  learn: np.ndarray


@dataclasses.dataclass(frozen=True)
class Report:
  """What encoding did; `str()` is the line to print.

  Attributes:
    kept: examples that are there, `cut` among them.
    cut: examples whose prompt was cut to fit.
    long_prompts, long_targets: examples dropped for it.
    longest: the longest prompt and target met, dropped ones included.
    tokens: prompt and target tokens kept.
  """

  kept: int = 0
  cut: int = 0
  long_prompts: int = 0
  long_targets: int = 0
  longest: tuple[int, int] = (0, 0)
  tokens: tuple[int, int] = (0, 0)

  @property
  def dropped(self) -> int:
    return self.long_prompts + self.long_targets

  def __str__(self) -> str:
    return (
      f"{self.kept} examples of {self.tokens[0]} + {self.tokens[1]} tokens;"
      f" longest prompt {self.longest[0]}, target {self.longest[1]};"
      f" {self.cut} prompts cut; dropped {self.long_prompts} for their prompt,"
      f" {self.long_targets} for their target"
    )


class EncodedExamples(Sequence):
  """Many Encoded in a few flat arrays.

  Attributes:
    ids: the examples' ids, in order.
    lengths_N2: int32, prompt and target length of each.
  """

  def __init__(self, ids: Sequence[str], examples: Sequence[Encoded]):
    self.ids = tuple(ids)
    if len(self.ids) != len(examples):
      raise ValueError(f"{len(self.ids)} ids for {len(examples)} examples")
    self.lengths_N2 = np.array(
      [(len(e.prompt_ids), len(e.target_ids)) for e in examples], np.int32
    ).reshape(-1, 2)
    self._ends_N2 = np.cumsum(self.lengths_N2, axis=0, dtype=np.int64)
    self._prompts = _join((e.prompt_ids for e in examples), np.int32)
    self._targets = _join((e.target_ids for e in examples), np.int32)
    self._learn = _join((e.learn for e in examples), np.bool_)

  def __len__(self) -> int:
    return len(self.ids)

  def __getitem__(self, index: int) -> Encoded:
    if isinstance(index, slice):
      raise TypeError("one index at a time")
    index = range(len(self))[index]
    prompt_end, target_end = self._ends_N2[index]
    prompt_start, target_start = self._ends_N2[index] - self.lengths_N2[index]
    return Encoded(
      self._prompts[prompt_start:prompt_end],
      self._targets[target_start:target_end],
      self._learn[target_start:target_end],
    )


def _join(arrays: Iterable[np.ndarray], dtype) -> np.ndarray:
  return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype)


def encode_example(
  tokenizer: Tokenizer,
  example: records.Example,
  *,
  max_prompt: int,
  max_target: int,
  bos: bool,
  on_long: str = "drop",
  prompt_eos: bool = False,
) -> tuple[Encoded | None, str]:
  """Encodes one example, or says why it was dropped.

  Args:
    tokenizer: who encodes.
    example: its prompt and target may hold ids among the text.
    max_prompt: tokens, BOS and EOS included.
    max_target: tokens, EOS included.
    bos: begin the prompt with BOS.
    on_long: one of ON_LONG; what becomes of a prompt that is too long. A
      target that is too long is always dropped.
    prompt_eos: end the prompt with EOS, as T5 expects.

  Returns:
    the ids and `kept` or `cut`; or None and `long_prompt` or `long_target`.

  Raises:
    BadRow: an empty prompt, or `learn` not matching the target's segments.
  """
  encoded = _encode(tokenizer, example, bos, prompt_eos)
  return _fit(
    encoded, max_prompt, max_target, on_long, keep=(int(bos), int(prompt_eos))
  )


def _encode(tokenizer, example, bos, prompt_eos) -> Encoded:
  try:
    prompt = encode_prompt(tokenizer, example.prompt, bos, prompt_eos)
    parts = [encode_prompt(tokenizer, (s,)) for s in example.target]
  except ValueError as error:
    raise records.BadRow(f"example {example.id!r}: {error}") from None
  flags = example.learn or (True,) * len(parts)
  if len(flags) != len(parts):
    raise records.BadRow(
      f"example {example.id!r}: {len(flags)} flags for {len(parts)} segments",
      field="learn",
      value=example.learn,
    )
  if not prompt:
    # The state before the first target token would not exist.
    raise records.BadRow(
      f"example {example.id!r}: no token in the prompt; use bos=True",
      field="prompt",
      value=example.prompt,
    )
  learn = [flag for flag, part in zip(flags, parts, strict=True) for _ in part]
  return Encoded(
    np.asarray(prompt, np.int32),
    np.asarray([*itertools.chain(*parts), tokenizer.eos_id], np.int32),
    # EOS belongs to the last segment.
    np.asarray([*learn, flags[-1] if flags else True], np.bool_),
  )


def check_policy(on_long: str) -> None:
  """Raises ValueError unless it is one of ON_LONG."""
  if on_long not in ON_LONG:
    raise ValueError(f"on_long is one of {ON_LONG}, not {on_long!r}")


def _fit(
  encoded: Encoded,
  max_prompt: int,
  max_target: int,
  on_long: str,
  keep: tuple[int, int],
) -> tuple[Encoded | None, str]:
  """Cuts the prompt's text; its `keep` first and last ids are not text."""
  check_policy(on_long)
  prompt = encoded.prompt_ids
  if len(encoded.target_ids) > max_target:
    return None, "long_target"
  if len(prompt) <= max_prompt:
    return encoded, "kept"
  room = max_prompt - sum(keep)
  if on_long == "drop" or room <= 0:
    return None, "long_prompt"
  first, last = keep[0], len(prompt) - keep[1]
  text = prompt[first:last]
  text = text[-room:] if on_long == "cut_prompt_left" else text[:room]
  prompt = np.concatenate([prompt[:first], text, prompt[last:]])
  return dataclasses.replace(encoded, prompt_ids=prompt), "cut"


class _Memo:
  """Answers `encode` from texts that were encoded together."""

  def __init__(self, tokenizer: Tokenizer, examples: Sequence[records.Example]):
    self.bos_id, self.eos_id = tokenizer.bos_id, tokenizer.eos_id
    segments = (s for e in examples for s in (*e.prompt, *e.target))
    texts = list(dict.fromkeys(s for s in segments if isinstance(s, str)))
    self._ids = dict(zip(texts, tokenizer.encode_all(texts), strict=True))

  def encode(self, text: str) -> list[int]:
    return self._ids[text]


def encode_examples(
  tokenizer: Tokenizer,
  examples: Iterable[records.Example],
  *,
  max_prompt: int,
  max_target: int,
  bos: bool,
  on_long: str = "drop",
  prompt_eos: bool = False,
) -> tuple[EncodedExamples, Report]:
  """`encode_example` of each; what was dropped is in the report only."""
  ids, kept, lengths = [], [], []
  counts = dict.fromkeys(("kept", "cut", "long_prompt", "long_target"), 0)
  for chunk in _chunks(examples):
    memo = _Memo(tokenizer, chunk)
    for example in chunk:
      whole = _encode(memo, example, bos, prompt_eos)
      lengths.append((len(whole.prompt_ids), len(whole.target_ids)))
      encoded, outcome = _fit(
        whole, max_prompt, max_target, on_long, (int(bos), int(prompt_eos))
      )
      counts[outcome] += 1
      if encoded is not None:
        ids.append(example.id)
        kept.append(encoded)
  made = EncodedExamples(ids, kept)
  longest = np.max(lengths, axis=0) if lengths else (0, 0)
  return made, Report(
    kept=len(made),
    cut=counts["cut"],
    long_prompts=counts["long_prompt"],
    long_targets=counts["long_target"],
    longest=tuple(map(int, longest)),
    tokens=tuple(map(int, made.lengths_N2.sum(axis=0, dtype=np.int64))),
  )


def _chunks(examples: Iterable) -> Iterator[list]:
  iterator = iter(examples)
  while chunk := list(itertools.islice(iterator, _CHUNK)):
    yield chunk


def collate(
  rows: Sequence[Sequence[Encoded]],
  prompt_length: int,
  target_length: int,
  pad_id: int,
  *,
  packed: bool,
) -> Batch:
  """Rows of examples as numpy arrays; an empty row is padding throughout.

  Args:
    rows: the examples of each row, at most one unless packed.
    prompt_length: P; prompts end at its right edge.
    target_length: T; targets begin at its left edge.
    pad_id: what padding holds.
    packed: whether to write segment numbers.

  Raises:
    ValueError: a row that does not fit.
  """
  B, P, T = len(rows), prompt_length, target_length
  batch = Batch(
    prompt_BP=np.full((B, P), pad_id, np.int32),
    prompt_mask_BP=np.zeros((B, P), np.bool_),
    target_BT=np.full((B, T), pad_id, np.int32),
    target_mask_BT=np.zeros((B, T), np.bool_),
    loss_mask_BT=np.zeros((B, T), np.bool_),
    prompt_segments_BP=np.zeros((B, P), np.int32) if packed else None,
    target_segments_BT=np.zeros((B, T), np.int32) if packed else None,
  )
  for b, row in enumerate(rows):
    if len(row) > 1 and not packed:
      raise ValueError(f"row {b} has {len(row)} examples and is not packed")
    _fill(batch, b, row)
  return batch


def _fill(batch: Batch, b: int, row: Sequence[Encoded]) -> None:
  P, T = batch.prompt_BP.shape[1], batch.target_BT.shape[1]
  p = start = P - sum(len(e.prompt_ids) for e in row)
  t = 0
  end = sum(len(e.target_ids) for e in row)
  if start < 0 or end > T:
    raise ValueError(f"row {b}: {P - start} + {end} tokens in {P} + {T}")
  batch.prompt_mask_BP[b, start:] = True
  batch.target_mask_BT[b, :end] = True
  for number, e in enumerate(row, 1):
    prompt = slice(p, p + len(e.prompt_ids))
    target = slice(t, t + len(e.target_ids))
    p, t = prompt.stop, target.stop
    batch.prompt_BP[b, prompt] = e.prompt_ids
    batch.target_BT[b, target] = e.target_ids
    batch.loss_mask_BT[b, target] = e.learn
    if batch.prompt_segments_BP is not None:
      batch.prompt_segments_BP[b, prompt] = number
      batch.target_segments_BT[b, target] = number
