"""Critics that speak step by step, for `methods.test_time` and the loops."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from refine_jax.methods import annotation
from refine_jax.methods.critic_metrics import Case
from refine_jax.methods.critique import Grammar, StepCritique
from refine_jax.methods.refine import (
  Critic,
  Proposer,
  Template,
  content_tokens,
)
from refine_jax.records import Feedback, Problem, Trajectory
from refine_jax.sampling.settings import Request


def accepts(critique: StepCritique) -> bool:
  """Nothing is wrong; what cannot be read accepts nothing."""
  return critique.correct is True and critique.first_error is None


def oracle(
  task: Any, grammar: Grammar, problems: Mapping[str, Problem]
) -> Critic:
  """The task's truth, in the critic's form."""

  def critic(trajectories: Sequence[Trajectory]) -> list[Feedback]:
    found = [
      annotation.truth(
        task, grammar, problems[t.problem], t.turns[-1].hypothesis
      )
      for t in trajectories
    ]
    return [Feedback(grammar.render(c), accepts(c)) for c in found]

  return critic


def model(generate: Proposer, template: Template, grammar: Grammar) -> Critic:
  """A trained critic.

  What it says before its first step does not reach the next prompt.
  """

  def critic(trajectories: Sequence[Trajectory]) -> list[Feedback]:
    requests = [
      Request(
        f"{t.id}/c{len(t.turns)}",
        template.critique(
          t.question, t.turns[-1].tokens or t.turns[-1].hypothesis
        ),
      )
      for t in trajectories
    ]
    return [_feedback(group[0], grammar) for group in generate(requests)]

  return critic


def _feedback(sample, grammar: Grammar) -> Feedback:
  text = grammar.stripped(sample.text)
  whole = text == sample.text.strip()
  return Feedback(
    text=text,
    accepted=accepts(grammar.parse(text)),
    tokens=content_tokens(sample) if whole else (),
  )


def case(
  task: Any,
  grammar: Grammar,
  problem: Problem,
  response: str,
  text: str,
  refined: bool | None = None,
) -> Case:
  """A critique against what is true of the response.

  Where the first error is, only a task knows that has a `first_error`.
  """
  found = grammar.parse(text)
  right = task.check(problem, response)
  first = getattr(task, "first_error", lambda *_: None)(problem, response)
  return Case(
    right=right,
    said=found.correct,
    first_error=None if right else first,
    found=found.first_error,
    readable=found.readable,
    refined=refined,
  )


def confidences(
  score: Any, template: Template, grammar: Grammar, rows: Sequence[Any]
) -> list[float | None]:
  """The critic's probability of its final verdict being `right`.

  Of the two verdicts after the critique's own steps; None for a critique
  without a final verdict.

  Args:
    score: (prompts, targets) -> log-probabilities of each target's tokens.
    template: gives the critic's prompt.
    grammar: of the critiques.
    rows: (question, response, critique).
  """
  known, prompts, targets = [], [], []
  for i, (question, response, text) in enumerate(rows):
    head, found, _ = text.rpartition(grammar.final)
    if not found:
      continue
    known.append(i)
    for word in (grammar.right, grammar.wrong):
      prompts.append(template.critique(question, response))
      targets.append((f"{head}{grammar.final} {word}",))
  made: list[float | None] = [None] * len(rows)
  sums = [float(np.sum(x)) for x in score(prompts, targets)] if known else []
  for i, right, wrong in zip(known, sums[::2], sums[1::2], strict=True):
    made[i] = float(1 / (1 + np.exp(np.clip(wrong - right, -50, 50))))
  return made
