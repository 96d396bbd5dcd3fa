"""Prompts of actor and critic for pretrained models, base and chat.

The same face as `refine.Template`. A prompt and the training row that begins
with it are the same segments, so they are the same ids; the tokenizer's
end-of-sequence id stands after every finished turn, and BOS is left to who
encodes, once.
"""

import dataclasses
import re
from collections.abc import Sequence

from refine_jax.methods.critique import PUBLISHED
from refine_jax.records import END, Prompt, Segment


@dataclasses.dataclass(frozen=True)
class Style:
  """What stands around turns.

  Attributes:
    user, assistant: what begins a turn.
    asked: whether a user's turn ends with END.
    next: what follows the END of an assistant's turn.
  """

  user: str
  assistant: str
  asked: bool
  next: str = ""


STYLES = {
  "base": Style("Human: ", "\n\nAssistant:", asked=False, next="\n"),
  "llama3": Style(
    "<|start_header_id|>user<|end_header_id|>\n\n",
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    asked=True,
  ),
  "llama2": Style("[INST] ", " [/INST] ", asked=False),
  "chatml": Style(
    "<|im_start|>user\n", "<|im_start|>assistant\n", asked=True, next="\n"
  ),
}
# How the answer is to be given.
ANSWERS = {
  "number": "Finish with the sentence 'The answer is N.', N being the number.",
  "boxed": (
    "Finish with the sentence 'The answer is $\\boxed{A}$.', A being the"
    " answer."
  ),
}
LEAD = "Step by step:\n\n"
STRICT_LEAD = "Step by step, with every point of the review settled:\n\n"
REQUEST = (
  "Here is a review of your solution, step by step. Write the whole solution"
  " anew. Follow the review strictly: keep what it calls correct and mend what"
  " it calls wrong."
)
CRITIC = f"""\
Review the solution below, which may contain errors. Each of its sentences or \
lines is a step. Repeat every step, say whether it is {PUBLISHED.right} or \
{PUBLISHED.wrong}, and explain why; then judge the final answer. Keep to this \
form:

{PUBLISHED.step} <the step>
{PUBLISHED.verdict} <{PUBLISHED.right} or {PUBLISHED.wrong}>
{PUBLISHED.why} <why>

(and so on for every step)

{PUBLISHED.final} <{PUBLISHED.right} or {PUBLISHED.wrong}>
{PUBLISHED.why} <why>"""
# Words that would end a turn or begin another; no problem, solution or
# critique has use for them.
_CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|\[/?INST\]")


@dataclasses.dataclass(frozen=True)
class Dialogue:
  """Prompts as conversations.

  Attributes:
    style: of the actor, one of STYLES.
    answer: one of ANSWERS.
    critic_style: of the critic, and of a local annotator; the actor's if empty.
  """

  style: str = "base"
  answer: str = "number"
  critic_style: str = ""

  def __post_init__(self):
    styles = {**STYLES, "": None}
    for name, known in (
      ("style", STYLES), ("answer", ANSWERS), ("critic_style", styles),
    ):  # fmt: skip
      if getattr(self, name) not in known:
        raise ValueError(
          f"{name}={getattr(self, name)!r} is none of"
          f" {', '.join(filter(None, known))}"
        )

  @property
  def markers(self) -> tuple[str, ...]:
    return ()

  def first(self, question: Segment) -> Prompt:
    """A solution continues it."""
    return self._turn(question, f" {ANSWERS[self.answer]}", lead=LEAD)

  def critique(self, question: Segment, hypothesis: Segment) -> Prompt:
    """A critique continues it; no gold answer is in it."""
    asked = (f"{CRITIC}\n\nQuestion:\n", question, "\n\nSolution:\n")
    return self.ask(*asked, hypothesis)

  def ask(self, *words: Segment) -> Prompt:
    """The critic's, or an annotator's, reply continues it."""
    return self._turn(*words, style=self.critic_style)

  def revision(
    self, question: Segment, hypothesis: Segment, feedback: Segment
  ) -> Prompt:
    """A new solution continues it."""
    after = STYLES[self.style].next
    return (
      *self.first(question),
      *_plain(hypothesis),
      END,
      *((after,) if after else ()),
      *self._turn(
        f"{REQUEST} {ANSWERS[self.answer]}\n\n", feedback, lead=STRICT_LEAD
      ),
    )

  def _turn(self, *words: Segment, lead: str = "", style: str = "") -> Prompt:
    return _turn(STYLES[style or self.style], words, lead)


def _turn(style: Style, words: Sequence[Segment], lead: str) -> Prompt:
  said = tuple(part for word in words for part in _plain(word))
  ended = (END,) if style.asked else ()
  between = (style.next,) if style.asked and style.next else ()
  return (style.user, *said, *ended, *between, style.assistant + lead)


def _plain(segment: Segment) -> Prompt:
  """Without control words, which in a text are nobody's business; may be
  nothing at all."""
  if isinstance(segment, str):
    segment = _CONTROL.sub("", segment)
  return (segment,) if segment else ()
