"""The words around a text so far, a rationale and what follows.

One layout serves the filter's scores, the writer's training and inference,
so the three see the same prefixes. Parts are segments, tokenised one by one:
which tokens are the text that follows is known, never counted afterwards.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

from refine_jax.data.tokenizer import Tokenizer
from refine_jax.records import Prompt


@dataclasses.dataclass(frozen=True)
class Layout:
  """What one role reads.

  Attributes:
    open: before the text so far: a system instruction, shots, a header.
    hint_open, hint_close: around a rationale that is shown.
    turn: between the text so far (with its rationale) and what is to come.
    join: between a question and its steps.
    forbidden: strings that mean something to the tokenizer or the layout;
      they are taken out of whatever a model or a document says.
  """

  open: str = ""
  hint_open: str = " <BOT>"
  hint_close: str = "<EOT>"
  turn: str = "\n"
  join: str = "\n"
  forbidden: tuple[str, ...] = ("<BOT>", "<EOT>")

  def text(self, text: str) -> str:
    """`text` without forbidden strings, those that appear by it included."""
    before = None
    while before != text:
      before = text
      for string in self.forbidden:
        text = text.replace(string, "")
    return text

  def begin(self, text: str) -> Prompt:
    """A trunk: what all that is read of a text so far has in common."""
    return _without_empty(self.open, self.text(text))

  def step(self, text: str) -> Prompt:
    """What a trunk grows by."""
    return _without_empty(self.join, self.text(text))

  def hint(self, rationale: str) -> Prompt:
    return _without_empty(self.hint_open, self.text(rationale), self.hint_close)

  def ask(self, rationale: str | None = None) -> Prompt:
    """From the end of the text so far to where the rest begins."""
    shown = () if rationale is None else self.hint(rationale)
    return _without_empty(*shown, self.turn)

  def whole(self, question: str, steps: Sequence[str] = ()) -> Prompt:
    """A trunk and the turn after it, at once."""
    grown = (part for step in steps for part in self.step(step))
    return (*self.begin(question), *grown, *self.ask())


def _without_empty(*parts: str) -> Prompt:
  return tuple(part for part in parts if part)


def fingerprint(*parts: object) -> str:
  """A short hash of everything that shapes a prompt; JSON values only."""
  text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def cut_left(
  tokenizer: Tokenizer, layout: Layout, text: str, limit: int
) -> Prompt:
  """A writer's prompt of at most `limit` tokens, BOS not counted.

  The text is cut at its left, so that the layout's words, and the target
  after them, are always whole.

  Raises:
    ValueError: the layout's own words are longer than that.
  """
  head, tail = _without_empty(layout.open), layout.ask()
  fixed = sum(len(tokenizer.encode(part)) for part in (*head, *tail))
  if fixed >= limit:
    raise ValueError(f"the layout has {fixed} tokens, the limit is {limit}")
  ids = tokenizer.encode(layout.text(text))
  if len(ids) + fixed <= limit:
    return (*layout.begin(text), *tail)
  return (*head, tuple(ids[fixed - limit :]), *tail)
