"""What a task is, with defaults for all but its rows, and `load`.

A task of one's own needs `source` and `problem`; everything else here works
on the words of the gold completion until it is overridden.
"""

import abc
import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from refine_jax import records

_WORD = re.compile(r"the word in #(\d+) is incorrect\.")


class Task(abc.ABC):
  """One data set: rows, prompts, checks, perturbations and feedback.

  Attributes:
    no_hint: what the critic says of a right hypothesis.
    markers: strings a tokenizer must round-trip without unknowns.
  """

  no_hint: str = "no hint"
  markers: tuple[str, ...] = ()

  @abc.abstractmethod
  def source(self, split: str) -> records.Source:
    """Where the rows of `split` are; ValueError names the splits there are."""

  @abc.abstractmethod
  def problem(self, row: Mapping[str, Any]) -> records.Problem:
    """One row, parsed; pure; raises `records.BadRow`."""

  def own(self, text: str, name: str = "own") -> records.Problem:
    """A user's problem, without a gold; ValueError if it is not understood."""
    return records.Problem(id=name, question=squeeze(text), gold="")

  def prompt(self, problem: records.Problem) -> str:
    return problem.question

  def prefix(self, problem: records.Problem) -> str:
    """What a sampled completion is made to begin with, after the prompt."""
    return ""

  def target(self, problem: records.Problem) -> str:
    """What a generator learns to write."""
    return problem.gold

  def answer(self, completion: str) -> str | None:
    """The answer inside a completion, normalised; None if there is none."""
    return squeeze(completion) or None

  def check(self, problem: records.Problem, completion: str) -> bool:
    return self.answer(completion) == (
      problem.answer or self.answer(problem.gold)
    )

  def reward(self, problem: records.Problem, completion: str) -> float:
    return float(self.check(problem, completion))

  def answers(self, completions: Sequence[str]) -> list[str | None]:
    """`answer` of many; a task that runs programs overrides it."""
    return [self.answer(c) for c in completions]

  def check_all(
    self, problems: Sequence[records.Problem], completions: Sequence[str]
  ) -> list[bool]:
    """`check` of many pairs; a task that runs programs overrides it."""
    pairs = zip(problems, completions, strict=True)
    return [self.check(p, c) for p, c in pairs]

  def rewards(
    self, problems: Sequence[records.Problem], completions: Sequence[str]
  ) -> list[float]:
    """`reward` of many pairs; a task that runs programs overrides it."""
    pairs = zip(problems, completions, strict=True)
    return [self.reward(p, c) for p, c in pairs]

  def metrics(
    self, problem: records.Problem, completion: str
  ) -> dict[str, float]:
    """Figures of one completion; the first is the task's main one."""
    exact = squeeze(completion) == squeeze(self.target(problem))
    return {
      "exact": float(exact),
      "answer": float(self.check(problem, completion)),
    }

  def canonical(self, completion: str) -> str | None:
    """The key under which equal completions vote together."""
    return self.answer(completion)

  def feedback(self, problem: records.Problem, hypothesis: str) -> str:
    """The oracle critic: `no_hint`, or the first word that is wrong."""
    gold, ours = self.target(problem).split(), hypothesis.split()
    if gold == ours:
      return self.no_hint
    pairs = zip(gold, ours, strict=False)
    same = [a == b for a, b in pairs]
    place = same.index(False) if False in same else len(same)
    return f"the word in #{place} is incorrect."

  def perturb(
    self, problem: records.Problem, rng: np.random.Generator
  ) -> list[records.Critique]:
    """The gold, and a wrong hypothesis per way of being wrong."""
    words = self.target(problem).split()
    wrong = {
      "dropped": _dropped(words, rng),
      "repeated": _repeated(words, rng),
      "swapped": _swapped(words, rng),
    }
    rows = [self.critique(problem, self.target(problem), "gold", ())]
    for kind, changed in wrong.items():
      if changed and changed != words:
        rows.append(self.critique(problem, " ".join(changed), kind, (kind,)))
    return rows

  def critique(
    self,
    problem: records.Problem,
    hypothesis: str,
    name: str,
    errors: tuple[str, ...],
    positions: tuple[str, ...] = (),
    *,
    feedback: str | None = None,
  ) -> records.Critique:
    """A record of what the oracle, unless `feedback`, says of `hypothesis`."""
    if feedback is None:
      feedback = self.feedback(problem, hypothesis)
    return records.Critique(
      id=f"{problem.id}/{name}",
      problem=problem.id,
      question=self.prompt(problem),
      hypothesis=hypothesis,
      feedback=feedback,
      gold=self.target(problem),
      errors=errors,
      positions=positions,
      origin="perturbed" if errors else "gold",
    )

  def error_types(self, feedback: str) -> tuple[str, ...]:
    """The error types a feedback names, in its order; () for `no_hint`."""
    return ("word",) if _WORD.search(feedback) else ()

  def normalise_feedback(self, text: str) -> frozenset[str]:
    """Its sentences, for comparing critics whatever order they speak in."""
    sentences = re.split(r"\.(?:\s+|$)", text.lower())
    return frozenset(s for s in map(squeeze, sentences) if s)

  def maskable(self, question: str) -> Sequence[int]:
    """Places of a question's words that revision training may hide.

    What is hidden has to be recovered from the hypothesis and the feedback.
    """
    return range(len(question.split(" ")))

  def corpus(self) -> Iterable[str]:
    """Texts to train a tokenizer on; may be empty."""
    return ()


def squeeze(text: str) -> str:
  """Single spaces, none at the ends."""
  return " ".join(text.split())


def _dropped(words, rng):
  i = int(rng.integers(len(words))) if words else 0
  return words[:i] + words[i + 1 :]


def _repeated(words, rng):
  i = int(rng.integers(len(words))) if words else 0
  return words[: i + 1] + words[i:]


def _swapped(words, rng):
  if len(words) < 2:
    return []
  i = int(rng.integers(len(words) - 1))
  return [*words[:i], words[i + 1], words[i], *words[i + 2 :]]


def unknown_split(task: Task, split: str, splits: Iterable[str]) -> ValueError:
  """The error every `source` raises on a split it does not have."""
  name = type(task).__name__
  return ValueError(
    f"{name} has no split {split!r}{_suggest(split, splits)}; "
    f"it has {', '.join(sorted(splits))}"
  )


def _suggest(name: str, names: Iterable[str]) -> str:
  close = difflib.get_close_matches(name, list(names), n=1)
  return f", did you mean {close[0]!r}?" if close else ""


def _task_in(module) -> type[Task] | None:
  """The one Task class a module defines, if it defines one."""
  found = [
    c
    for c in vars(module).values()
    if inspect.isclass(c)
    and issubclass(c, Task)
    and c.__module__ == module.__name__
    and not inspect.isabstract(c)
  ]
  return found[0] if len(found) == 1 else None


def available() -> list[str]:
  """The names `load` knows by itself."""
  package = importlib.import_module("refine_jax.tasks")
  names = [m.name for m in pkgutil.iter_modules(package.__path__)]
  found = {
    n: _task_in(importlib.import_module(f"{package.__name__}.{n}"))
    for n in names
  }
  return sorted(n for n, task in found.items() if task)


def find(name: str) -> type[Task]:
  """The class behind a task's name.

  Args:
    name: a module of `refine_jax.tasks`, or `package.module:Class` for a task
      that lives elsewhere (`package.module` if it defines only one).

  Raises:
    ValueError: there is no such task; lists those there are.
  """
  module_name, _, cls_name = name.partition(":")
  own = "." not in module_name and not cls_name
  path = f"refine_jax.tasks.{module_name}" if own else module_name
  try:
    module = importlib.import_module(path)
  except ModuleNotFoundError as error:
    if error.name is None or not f"{path}.".startswith(f"{error.name}."):
      raise
    raise _no_task(name) from None
  found = getattr(module, cls_name, None) if cls_name else _task_in(module)
  if found is None:
    raise _no_task(name)
  if not (inspect.isclass(found) and issubclass(found, Task)):
    raise ValueError(f"{name} is not a subclass of refine_jax.tasks.base.Task")
  return found


def _no_task(name: str) -> ValueError:
  names = available()
  return ValueError(
    f"no task {name!r}{_suggest(name, names)}; there are "
    f"{', '.join(names)}, and package.module:Class for your own"
  )


def load(name: str, **options: Any) -> Task:
  """Makes a task.

  Raises:
    ValueError: no such task.
    TypeError: an option the task does not have, with the ones it has.
  """
  cls = find(name)
  parameters = inspect.signature(cls).parameters
  open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
  for option in options:
    if option not in parameters and not open_ended:
      raise TypeError(
        f"task {name!r} has no option {option!r}"
        f"{_suggest(option, parameters)}; it has "
        f"{', '.join(parameters) or 'none'}"
      )
  return cls(**options)
