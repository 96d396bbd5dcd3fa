"""Nouns on disk: frozen dataclasses, each with an `id`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

# One piece of a prompt: text, or token ids that are passed through untouched.
# Segments are tokenised one by one, so that what was sampled can be continued
# or scored without decoding and re-tokenising.
Segment = str | tuple[int, ...]
Prompt = tuple[Segment, ...]
# A segment that stands for the tokenizer's end-of-sequence id, whatever it is.
END: Segment = (-1,)


@dataclasses.dataclass(frozen=True)
class Source:
  """Where rows are; `data.sources` reads them.

  Exactly one of `path`, `dataset`, `tfds` and `rows` is given.

  Attributes:
    path: a file (.json .jsonl .csv .parquet, optionally .gz or .zst), a glob,
      or a folder written by `datasets.Dataset.save_to_disk`.
    dataset: a Hugging Face `datasets` name.
    tfds: a TensorFlow Datasets name, read through `tfds.data_source`.
    rows: any sequence of mappings, such as a procedural generator's.
    split: the split's name, where the format has splits.
    config: the data set's configuration name, where it has one.
    name: how messages call it when there is no path.
  """

  path: str | None = None
  dataset: str | None = None
  tfds: str | None = None
  rows: Sequence[Mapping[str, Any]] | None = None
  split: str | None = None
  config: str | None = None
  name: str | None = None

  def __post_init__(self):
    given = [
      k
      for k in ("path", "dataset", "tfds", "rows")
      if getattr(self, k) is not None
    ]
    if len(given) != 1:
      raise ValueError(
        f"a Source has one of path, dataset, tfds, rows; got {given}"
      )

  def __str__(self) -> str:
    return self.path or self.dataset or self.tfds or self.name or "<rows>"


@dataclasses.dataclass(frozen=True)
class Problem:
  """One task instance with its gold.

  Attributes:
    id: unique within its source.
    question: the text `x` that every prompt is built from.
    gold: the gold completion (intermediate steps, and the answer if the task
      puts it there).
    answer: the gold answer, normalised as `Task.answer` normalises.
    meta: anything the task needs to check (numbers, rules, types); JSON.
  """

  id: str
  question: str
  gold: str
  answer: str = ""
  meta: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Sample:
  """One continuation of a prompt.

  Attributes:
    id: `<request id>/<index>`.
    text: decoded tokens without EOS.
    tokens: the sampled ids, EOS included when it was sampled.
    logprobs: log-probability of each token under the sampling distribution.
    model_logprobs: the same under the model (temperature 1, nothing cut).
    finish: `eos` (EOS or a stop id, the last of `tokens`), `stop` (a stop
      string, before which the text ends), `length` (the token budget).
  """

  id: str
  text: str
  tokens: tuple[int, ...]
  logprobs: tuple[float, ...]
  model_logprobs: tuple[float, ...]
  finish: str


@dataclasses.dataclass(frozen=True)
class Critique:
  """A hypothesis and what a critic should say about it.

  Attributes:
    problem: the problem's id; question: its text.
    hypothesis: the text criticised, z'.
    feedback: the rendered feedback f; the task's no-hint text if right.
    gold: the text to refine towards, z.
    errors: error types, as the task names them; empty if right.
    positions: the places in the hypothesis the errors are at (steps or slots).
    origin: `perturbed`, `gold` or `sampled`.
  """

  id: str
  problem: str
  question: str
  hypothesis: str
  feedback: str
  gold: str = ""
  errors: tuple[str, ...] = ()
  positions: tuple[str, ...] = ()
  origin: str = "perturbed"


@dataclasses.dataclass(frozen=True)
class Feedback:
  """What a critic says: its words, its verdict, and the ids if it has any.

  Attributes:
    text: the words that reach the next prompt.
    accepted: the critic found nothing wrong; the trajectory may stop.
    tokens: the ids the text was sampled as, without EOS; empty if it was not
      sampled, and then the text is tokenised.
  """

  text: str
  accepted: bool
  tokens: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Turn:
  """One hypothesis and, unless it was the last, the feedback on it.

  Attributes:
    hypothesis: text; `tokens` the ids it was sampled as, without EOS.
    feedback: None while nobody has looked at it.
    spent: tokens generated for this turn, rejected candidates and the critic's
      words included.
    metrics: the task's figures for the hypothesis.
  """

  hypothesis: str
  tokens: tuple[int, ...] = ()
  feedback: Feedback | None = None
  spent: int = 0
  metrics: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """Hypothesis, feedback, hypothesis, ... on one problem."""

  id: str
  problem: str
  question: str
  turns: tuple[Turn, ...] = ()
  gold: str = ""
  meta: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A sampled completion and what the task thinks of it.

  Attributes:
    text: the completion without EOS.
    answer: what the task extracts from it, None if nothing.
    vote: the key under which it votes, `Task.canonical`; None for no vote.
    correct: `Task.check`; reward: `Task.reward`.
    finish: as in Sample; tokens: how many were sampled, EOS included.
    logprob: of the whole completion under the model, temperature 1.
  """

  text: str
  answer: str | None
  vote: str | None
  correct: bool
  reward: float
  finish: str
  tokens: int
  logprob: float


@dataclasses.dataclass(frozen=True)
class Attempts:
  """All completions that one model sampled for one problem.

  Attributes:
    id: the problem's, `<problem>@<step>` where checkpoints are told apart.
    problem: the problem's id.
    question: the prompt they continue.
    gold: the target a generator would learn.
  """

  id: str
  problem: str
  question: str
  gold: str
  candidates: tuple[Candidate, ...]


@dataclasses.dataclass(frozen=True)
class Annotated:
  """A solution, what is known of its errors, and a step-by-step critique.

  Attributes:
    problem: the problem's id; question: the prompt's text.
    response: the solution criticised, `steps` its steps.
    answer: the gold answer; gold: the gold solution.
    origin: how it came about: rg1 (sampled), rg2 (went wrong from a known
      step), rg3 (an error was planted), pos (right), or published.
    err_step: the first wrong step, from 0; None if unknown, or if it is right.
    err_type: the kind of error that was planted.
    gen: how the response was made.
    critique: text; empty while nobody has written one.
    mc: figures of the Monte-Carlo filter.
    refined: refinements that were verified, distinct.
    kept, drop: what the filters decided; `drop` names the rule.
  """

  id: str
  problem: str
  question: str
  response: str
  answer: str = ""
  gold: str = ""
  steps: tuple[str, ...] = ()
  origin: str = "rg1"
  err_step: int | None = None
  err_type: str = ""
  gen: dict[str, Any] = dataclasses.field(default_factory=dict)
  critique: str = ""
  mc: dict[str, float] = dataclasses.field(default_factory=dict)
  refined: tuple[str, ...] = ()
  kept: bool = True
  drop: str = ""

  @property
  def right(self) -> bool:
    return self.origin == "pos"


@dataclasses.dataclass(frozen=True)
class Rationale:
  """An implicit rationale between two stretches of a document."""

  id: str
  document: str
  preceding: str
  rationale: str
  following: str
  gain: float | None = None
  meta: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Document:
  """A stretch of text with where it came from and how well it scored."""

  id: str
  text: str
  subset: str = ""
  score: float | None = None


@dataclasses.dataclass(frozen=True)
class Example:
  """A supervised pair.

  Attributes:
    prompt: segments; sees no loss.
    target: segments; the end-of-sequence token is added by `data.encode`.
    learn: one flag per target segment, False where a segment is context only
      (feedback inside a target). Empty means all of it is learned.
  """

  id: str
  prompt: Prompt
  target: Prompt
  learn: tuple[bool, ...] = ()
