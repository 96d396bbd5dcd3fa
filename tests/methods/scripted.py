"""A task and proposers whose every word is known."""

import numpy as np

from refine_jax import records
from refine_jax.tasks import base


class Echo(base.Task):
  """Copy the question's last word; feedback names the gold."""

  no_hint = "No hint"

  def source(self, split):
    return records.Source(rows=[{"id": "p0", "q": "say it 0"}])

  def problem(self, row):
    return records.Problem(
      id=row["id"], question=row["q"], gold=row["q"].split()[-1]
    )

  def prompt(self, problem):
    return problem.question

  def target(self, problem):
    return problem.gold

  def answer(self, completion):
    return completion.strip() or None

  def metrics(self, problem, completion):
    return {"exact": float(completion.strip() == problem.gold)}

  def feedback(self, problem, hypothesis):
    if hypothesis.strip() == problem.gold:
      return self.no_hint
    return f"say {problem.gold}"

  def error_types(self, feedback):
    return () if feedback == self.no_hint else (feedback.split()[0],)

  def perturb(self, problem, rng):
    wrong = f"w{rng.integers(1000)}"
    return [
      self._critique(problem, 0, problem.gold),
      self._critique(problem, 1, wrong),
    ]

  def _critique(self, problem, index, hypothesis):
    feedback = self.feedback(problem, hypothesis)
    return records.Critique(
      id=f"{problem.id}/{index}",
      problem=problem.id,
      question=problem.question,
      hypothesis=hypothesis,
      feedback=feedback,
      gold=problem.gold,
      errors=self.error_types(feedback),
    )


def problems(count):
  return [
    records.Problem(id=f"p{i}", question=f"say it {i}", gold=str(i))
    for i in range(count)
  ]


def sample(name, text, finish="eos"):
  tokens = tuple(text.encode()) + ((0,) if finish == "eos" else ())
  zeros = (0.0,) * len(tokens)
  return records.Sample(name, text, tokens, zeros, zeros, finish)


class Scripted:
  """Answers requests by `reply(request, index)` and keeps what it was asked."""

  def __init__(self, reply):
    self.reply = reply
    self.asked = []

  def __call__(self, requests):
    self.asked.extend(requests)
    return [
      [sample(f"{r.id}/{i}", self.reply(r, i)) for i in range(r.n)]
      for r in requests
    ]


def text_of(prompt):
  return "".join(s if isinstance(s, str) else bytes(s).decode() for s in prompt)


def rng():
  return np.random.default_rng(0)
