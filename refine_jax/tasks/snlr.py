"""Synthetic natural-language rules (sNLR): what follows from rules and a fact.

Rows are made by `snlr_generator`, without end, or read from the published
files under `<path>/refiner/srn`. The completion shows the steps of the proof;
the last step is the conclusion.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from refine_jax import files, records
from refine_jax.tasks import (
  base,
  snlr_generator,
  snlr_language,
  snlr_oracle,
  snlr_prover,
  tables,
)
from refine_jax.tasks.snlr_language import NOTHING, Row
from refine_jax.tasks.snlr_prover import Pair, Step

FORMS = ("text", "compact")
# Of the 5,000 published validation rows these are for tuning.
TUNE = 1000
PUBLISHED = {
  "published_train": ("train", 0, None),
  "published_dev": ("val", 0, TUNE),
  "published_test": ("val", TUNE, None),
  "held_out": ("test", 0, None),
}


class Snlr(base.Task):
  """Proofs over rules.

  Splits: `train`, `dev` and `test` are generated and share no row;
  `published_train`, `published_dev` (the first 1,000 validation rows, to tune
  on), `published_test` (the others) and `held_out` (the test file) are read.
  With `path` no generated row equals a row of the published files that are
  there.

  `metrics` are `exact` (all steps and the conclusion, compared with the
  published text where the row has one; our rendering of the proofs reaches
  95 % of it, the rest are arbitrary step orders and corrupt strings), `steps`,
  `conclusion`, and `proof` (equal to our own rendering).

  Args:
    path: the data folder; None for generated rows only.
    difficulty: `easy`, `medium` or `hard`.
    form: `text` is the published wording; `compact` has about half the tokens
      and a vocabulary of about 120 words, each between single spaces.
    mode: `compat` leaves out the premises the published steps leave out,
      `complete` shows all.
    findings: `first` feedback names the first error, `every` all of them.
    detail: `step` feedback names type and step, `rule` the rule as well (and
      the compact question numbers its rules).
    seed: of the generated rows.
    size: generated training rows; dev_size, test_size: and of the others.
    rules: rules in a generated row.
    curriculum: share of generated training rows that have fewer rules.
    avoid: more published files whose rows must not be generated.
  """

  def __init__(
    self,
    path: str | None = None,
    *,
    difficulty: str = "hard",
    form: str = "text",
    mode: str = "compat",
    findings: str = "first",
    detail: str = "step",
    seed: int = 0,
    size: int = 20_000,
    dev_size: int = 1000,
    test_size: int = 1000,
    rules: int = 5,
    curriculum: float = 0.0,
    avoid: tuple[str, ...] = (),
  ):
    _one_of("difficulty", difficulty, snlr_generator.DIFFICULTIES)
    _one_of("form", form, FORMS)
    _one_of("mode", mode, ("compat", "complete"))
    _one_of("findings", findings, ("first", "every"))
    _one_of("detail", detail, ("step", "rule"))
    self.path = None if path is None else files.path(path) / "refiner/srn"
    self.difficulty, self.compact = difficulty, form == "compact"
    self.complete = mode == "complete"
    self.every, self.numbered = findings == "every", detail == "rule"
    self.seed, self.rules, self.curriculum = seed, rules, curriculum
    self.sizes = {"train": size, "dev": dev_size, "test": test_size}
    self._avoid = tuple(files.path(p) for p in avoid)
    self.markers = (*snlr_language.STEPS, ">")
    if self.compact:
      self.markers = tuple(dict.fromkeys(self.vocabulary()))

  def source(self, split: str) -> records.Source:
    if split in self.sizes:
      rows = snlr_generator.Rows(
        self.sizes[split],
        seed=self.seed,
        split=split,
        difficulty=self.difficulty,
        rules=self.rules,
        curriculum=self.curriculum if split == "train" else 0.0,
        avoid=self._fingerprints(),
      )
      return records.Source(rows=rows, name=f"snlr {split}", split=split)
    if split not in PUBLISHED:
      raise base.unknown_split(self, split, (*self.sizes, *PUBLISHED))
    if self.path is None:
      raise ValueError(f"split {split!r} is published; give the task its path")
    name, start, stop = PUBLISHED[split]
    table = tables.Table(
      self._file(name), name=f"snlr-{name}", start=start, stop=stop
    )
    return records.Source(rows=table, name=str(table.path), split=split)

  def _file(self, name: str) -> files.Path:
    """The hard rows with their steps lie beside the other folders."""
    if self.difficulty == "hard":
      return self.path / f"srn_{name}.json"
    return self.path / self.difficulty / f"{name}.json"

  def _fingerprints(self) -> frozenset[int]:
    paths = list(self._avoid)
    if self.path is not None:
      found = {self._file(name) for name, *_ in PUBLISHED.values()}
      paths += sorted(p for p in found if p.exists())
    return _fingerprints(tuple(paths))

  def problem(self, row: Mapping[str, Any]) -> records.Problem:
    """A generated row, or one of the published files."""
    try:
      parsed = (
        snlr_language.from_mapping(row)
        if "row" in row
        else snlr_language.from_sentences(
          tables.field(row, "rules", list), tables.field(row, "fact")
        )
      )
    except (ValueError, TypeError) as error:
      if isinstance(error, records.BadRow):
        raise
      value = row.get("row", row.get("fact"))
      raise tables.bad(row, str(error), "rules, fact", value) from None
    meta, answer = {}, snlr_prover.answer(parsed)
    if "explanations" in row:
      meta["published"] = plain(tables.field(row, "explanations"))
    if "consequents" in row:
      said = row["consequents"]
      said = said if isinstance(said, str) else " ".join(said)
      if plain(said) != plain(answer):
        reason = f"the prover says {answer!r}"
        raise tables.bad(row, reason, "consequents", said)
    name = str(row["id"]) if "id" in row else snlr_language.content(parsed)
    return self._problem(name, parsed, meta)

  def own(self, text: str, name: str = "own") -> records.Problem:
    """Rules and a fact, in either form; the prover knows the gold."""
    read = (
      snlr_language.from_compact if ">" in text else snlr_language.from_text
    )
    return self._problem(name, read(text), {})

  def _problem(self, name: str, row: Row, meta: dict) -> records.Problem:
    steps = snlr_prover.prove(row, complete=self.complete)
    return records.Problem(
      id=name,
      question=self.question(row),
      gold=self.steps_text(snlr_prover.pairs(steps)),
      answer=snlr_prover.answer(row),
      meta=meta,
    )

  def question(self, row: Row) -> str:
    if self.compact:
      return snlr_language.to_compact(row, numbered=self.numbered)
    return snlr_language.to_text(row)

  def maskable(self, question: str) -> Sequence[int]:
    """The two words of the fact; the rules cannot be recovered."""
    words = question.split(" ")
    if self.compact:
      return range(1, 3)
    return [len(words) - 3, len(words) - 1]

  def steps_text(self, steps: tuple[Pair, ...]) -> str:
    """Steps in this task's form."""
    if self.compact:
      return snlr_prover.render_compact(steps)
    return snlr_prover.render_text(steps)

  def steps(self, completion: str) -> tuple[Pair, ...] | None:
    """The pairs of a completion; None if malformed."""
    return snlr_prover.parse(completion, compact=self.compact)

  def published_text(self, completion: str) -> str | None:
    """A completion in the published wording, whatever this task's form."""
    steps = self.steps(completion)
    return None if steps is None else snlr_prover.render_text(steps)

  def answer(self, completion: str) -> str | None:
    """The last step as the published answer: `The cat is red.`"""
    steps = self.steps(completion)
    if steps is None:
      return None
    left, right = steps[-1]
    if right == NOTHING:
      return "Nothing."
    return f"{snlr_language.with_article(left, 'The')} is {right}."

  def canonical(self, completion: str) -> str | None:
    return self.published_text(completion)

  def metrics(
    self, problem: records.Problem, completion: str
  ) -> dict[str, float]:
    text = self.published_text(completion)
    if text is None:
      text = completion if not self.compact else ""
    gold = snlr_prover.render_text(self.steps(problem.gold))
    reference = problem.meta.get("published", plain(gold))
    ours = plain(text)
    return {
      "exact": float(ours == reference),
      "steps": float(bool(ours) and _but_last(ours) == _but_last(reference)),
      "conclusion": float(self.check(problem, completion)),
      "proof": float(ours == plain(gold)),
    }

  def feedback(self, problem: records.Problem, hypothesis: str) -> str:
    return self._said(self.findings(problem, hypothesis))

  def _said(self, findings: tuple[snlr_oracle.Finding, ...]) -> str:
    if not self.every:
      findings = findings[:1]
    text = snlr_oracle.render(
      findings, compact=self.compact, rules=self.numbered
    )
    return text or self.no_hint

  def findings(
    self, problem: records.Problem, hypothesis: str
  ) -> tuple[snlr_oracle.Finding, ...]:
    """Every error the oracle sees."""
    row, gold = _proof(problem.question, self.compact, self.complete)
    return snlr_oracle.diagnose(self.steps(hypothesis), gold, row)

  def error_types(self, feedback: str) -> tuple[str, ...]:
    found = snlr_oracle.parse(feedback, compact=self.compact)
    return tuple(dict.fromkeys(f.kind for f in found))

  def normalise_feedback(self, text: str) -> frozenset[str]:
    if not self.compact:
      return super().normalise_feedback(text)
    parts = re.split(r"(?=#)", text.lower())
    return frozenset(s for s in map(base.squeeze, parts) if s)

  def perturb(
    self, problem: records.Problem, rng: np.random.Generator
  ) -> list[records.Critique]:
    row, gold = _proof(problem.question, self.compact, self.complete)
    rows = [self.critique(problem, problem.gold, "gold", ())]
    made = snlr_oracle.perturbations(row, gold, self.complete, rng)
    for kind, steps in made.items():
      text = self.steps_text(steps)
      found = snlr_oracle.diagnose(steps, gold, row)
      told = found if self.every else found[:1]
      errors = tuple(dict.fromkeys(f.kind for f in told))
      places = tuple(f"#{f.step}" for f in told)
      said = self._said(found)
      rows.append(
        self.critique(problem, text, kind, errors, places, feedback=said)
      )
    return rows

  def convert_feedback(self, text: str, *, compact: bool) -> str:
    """Feedback of this task's form in the other, or unchanged."""
    if text == self.no_hint or compact == self.compact:
      return text
    found = snlr_oracle.parse(text, compact=self.compact)
    return snlr_oracle.render(found, compact=compact, rules=True)

  def vocabulary(self) -> tuple[str, ...]:
    """Every word of the compact form."""
    return (*snlr_language.vocabulary(), *snlr_oracle.TYPES)

  def corpus(self) -> Iterable[str]:
    """Every word, then questions, steps and feedback of 1,000 rows."""
    if self.compact:
      yield " ".join(self.vocabulary())
    rows = self.source("train").rows
    for i in range(min(1000, len(rows))):
      problem = self.problem(rows[i])
      yield problem.question
      yield problem.gold
      for critique in self.perturb(problem, np.random.default_rng(i)):
        yield critique.feedback


def _one_of(name: str, value: str, values: tuple[str, ...]) -> None:
  if value not in values:
    raise ValueError(f"{name}={value!r} is none of {', '.join(values)}")


def plain(text: str) -> str:
  """Single spaces, no period at the end: all that may differ in `exact`."""
  return base.squeeze(text).rstrip(" .")


def _but_last(text: str) -> str:
  return text.rpartition("#")[0].strip()


@functools.lru_cache(8192)
def _proof(
  question: str, compact: bool, complete: bool
) -> tuple[Row, tuple[Step, ...]]:
  read = snlr_language.from_compact if compact else snlr_language.from_text
  row = read(question)
  return row, snlr_prover.prove(row, complete=complete)


@functools.lru_cache(16)
def _fingerprints(paths: tuple[files.Path, ...]) -> frozenset[int]:
  """The content of published files."""
  rows = [
    snlr_language.from_sentences(row["rules"], row["fact"])
    for path in paths
    for row in tables.read(path)
  ]
  prints = snlr_generator.fingerprints(snlr_generator.encode(rows))
  return frozenset(prints.tolist())
