"""Nouns on disk: what a stage reads and writes, one JSON object per line.

Every record is a frozen dataclass with an `id`. Files are `.jsonl`; a stage
that runs in several processes writes one shard per process,
`name-00001-of-00004.jsonl`, and `read` puts the shards back into one order.
"""

import collections
import dataclasses
import json
import os
import pathlib
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

# One piece of a prompt: text, or token ids that are passed through untouched.
# Segments are tokenised one by one, so that what was sampled can be continued
# or scored without decoding and re-tokenising.
Segment = str | tuple[int, ...]
Prompt = tuple[Segment, ...]
# A segment that stands for the tokenizer's end-of-sequence id, whatever it is.
END: Segment = (-1,)


class BadRow(ValueError):
  """A row that cannot be used; names file, line, field and value."""

  def __init__(
    self,
    reason: str,
    *,
    file: str | None = None,
    line: int | None = None,
    field: str | None = None,
    value: Any = None,
  ):
    self.reason, self.file, self.line = reason, file, line
    self.field, self.value = field, value
    super().__init__(str(self))

  def at(self, file: str, line: int) -> "BadRow":
    """The same complaint, told with its place unless it has one already."""
    return BadRow(
      self.reason,
      file=self.file or file,
      line=self.line or line,
      field=self.field,
      value=self.value,
    )

  def __str__(self) -> str:
    place = f"{self.file or '<row>'}:{'?' if self.line is None else self.line}"
    field = f" field {self.field!r}:" if self.field else ""
    value = "" if self.value is None else f" (value: {_short(self.value)})"
    return f"{place}:{field} {self.reason}{value}"


def _short(value: Any, limit: int = 120) -> str:
  text = repr(value)
  return text if len(text) <= limit else text[: limit - 3] + "..."


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


def to_json(record: Any) -> str:
  """One line of JSON; keys in field order, text unescaped."""
  return json.dumps(dataclasses.asdict(record), ensure_ascii=False)


def from_mapping(cls: type, row: Mapping[str, Any]) -> Any:
  """Builds a record; raises `BadRow` on a missing, extra or mistyped field."""
  hints = typing.get_type_hints(cls)
  names = {f.name for f in dataclasses.fields(cls)}
  if extra := sorted(set(row) - names):
    raise BadRow(f"{cls.__name__} has no such field", field=extra[0])
  values = {}
  for field in dataclasses.fields(cls):
    if field.name in row:
      values[field.name] = _coerce(
        hints[field.name], row[field.name], field.name
      )
    elif (
      field.default is dataclasses.MISSING
      and field.default_factory is dataclasses.MISSING
    ):
      raise BadRow(f"{cls.__name__} needs this field", field=field.name)
  return cls(**values)


def _coerce(hint: Any, value: Any, field: str) -> Any:
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if hint is Any:
    return value
  if origin in (types.UnionType, typing.Union):
    for arg in args:
      try:
        return _coerce(arg, value, field)
      except BadRow:
        continue
  elif origin is tuple and isinstance(value, list | tuple):
    return tuple(_coerce(args[0], v, field) for v in value)
  elif dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
    return from_mapping(hint, value)
  elif (origin is dict or hint is dict) and isinstance(value, Mapping):
    return dict(value)
  elif isinstance(value, bool) and hint in (int, float):
    pass  # True is no number here, whatever Python says
  elif hint is float and isinstance(value, int | float):
    return float(value)
  elif hint is type(None) and value is None:
    return None
  elif isinstance(hint, type) and isinstance(value, hint):
    return value
  raise BadRow(f"expected {hint}", field=field, value=value)


_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(\.jsonl)$")


def shard(path: str | os.PathLike, process: int, of: int) -> pathlib.Path:
  """`a/b.jsonl` -> `a/b-00001-of-00004.jsonl`; unchanged for one process."""
  path = pathlib.Path(path)
  if of == 1:
    return path
  return path.with_name(f"{path.stem}-{process:05d}-of-{of:05d}{path.suffix}")


def shards(path: str | os.PathLike) -> list[pathlib.Path]:
  """The files that hold `path`: itself, or every one of its shards.

  Raises:
    FileNotFoundError: nothing there, or a shard of the set is missing.
  """
  path = pathlib.Path(path)
  if path.is_file():
    return [path]
  found = sorted(path.parent.glob(f"{path.stem}-*-of-*{path.suffix}"))
  sets = collections.defaultdict(set)
  for file in found:
    if match := _SHARD.search(file.name):
      sets[int(match[2])].add(int(match[1]))
  if not sets:
    raise FileNotFoundError(f"no records at {path}")
  if len(sets) > 1:
    raise FileNotFoundError(
      f"{path}: shards of several runs lie together: of {sorted(sets)}"
    )
  ((of, have),) = sets.items()
  if missing := sorted(set(range(of)) - have):
    raise FileNotFoundError(f"{path}: shard {missing[0]} of {of} is missing")
  return [shard(path, i, of) for i in range(of)]


def _lines(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
  with open(path, "rb") as f:
    yield from enumerate(f, 1)


def read(
  cls: type,
  path: str | os.PathLike,
  *,
  on_bad_row: Callable[[BadRow], None] | None = None,
) -> Iterator[Any]:
  """Records of `cls` in global order.

  Shards are dealt round robin (`write` on process p of n holds rows p, p+n,
  ...), so they are read the same way.

  Args:
    cls: a record class of this module.
    path: the unsharded name.
    on_bad_row: told of each unusable row, which is then left out; by default
      the first one is raised.

  Raises:
    FileNotFoundError: see `shards`.
    BadRow: a line that is not a record, with its file and line.
  """
  iterators = [_parsed(cls, p, on_bad_row) for p in shards(path)]
  while iterators:
    alive = []
    for iterator in iterators:
      item = next(iterator, _END)
      if item is _END:
        continue
      alive.append(iterator)
      if item is not None:
        yield item
    iterators = alive


_END = object()


def _parsed(cls, path, on_bad_row):
  for number, line in _lines(path):
    try:
      yield _parse(cls, line)
    except BadRow as error:
      error = error.at(str(path), number)
      if on_bad_row is None:
        raise error from None
      on_bad_row(error)
      yield None


def _parse(cls, line: bytes):
  try:
    row = json.loads(line)
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise BadRow(f"not JSON: {error}", value=line) from None
  if not isinstance(row, dict):
    raise BadRow("not a JSON object", value=row)
  return from_mapping(cls, row)


def write(path: str | os.PathLike, records: Iterable[Any]) -> int:
  """Writes all records or nothing (temporary file, fsync, rename).

  Returns:
    how many were written.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  count = 0
  try:
    with open(temporary, "w", encoding="utf-8") as f:
      for record in records:
        f.write(to_json(record) + "\n")
        count += 1
      f.flush()
      os.fsync(f.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
  return count


class Appender:
  """Appends records as they come and survives `kill -9`.

  On opening, a torn last line is cut off and the ids already present are in
  `done`, so that a rerun skips them: neither loss nor duplicate.
  """

  def __init__(self, cls: type, path: str | os.PathLike):
    self._path = pathlib.Path(path)
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self.done = self._recover(cls)
    self._file = open(self._path, "ab")  # noqa: SIM115, closed by close()

  def _recover(self, cls) -> set[str]:
    if not self._path.exists():
      return set()
    done, good = set(), 0
    for number, line in _lines(self._path):
      if not line.endswith(b"\n"):
        break
      try:
        done.add(_parse(cls, line).id)
      except BadRow as error:
        raise error.at(str(self._path), number) from None
      good += len(line)
    if good != self._path.stat().st_size:
      os.truncate(self._path, good)
    return done

  def append(self, records: Iterable[Any]) -> None:
    """Writes and flushes; every record is a whole line or not there."""
    data = "".join(to_json(r) + "\n" for r in records).encode()
    self._file.write(data)
    self._file.flush()

  def close(self) -> None:
    self._file.flush()
    os.fsync(self._file.fileno())
    self._file.close()

  def __enter__(self) -> "Appender":
    return self

  def __exit__(self, *_) -> None:
    self.close()
