"""The refine loop: hypothesis, feedback, hypothesis, ... until accepted.

REFINER (arXiv 2304.01904, section 3): turn 1 sees the question alone; every
later turn sees the original question with the last hypothesis and the
feedback on it. Nothing here knows what the models are: a proposer answers
prompts, a critic looks at trajectories.
"""

import dataclasses
from collections.abc import Callable, Sequence

from refine_jax.records import (
  Feedback,
  Problem,
  Prompt,
  Sample,
  Segment,
  Trajectory,
  Turn,
)
from refine_jax.sampling.settings import Request

Critic = Callable[[Sequence[Trajectory]], list[Feedback]]
# Answers requests; the same face as `Engine.generate` with its parameters and
# sampling settings bound.
Proposer = Callable[[Sequence[Request]], list[list[Sample]]]


@dataclasses.dataclass(frozen=True)
class Template:
  """How question, hypothesis and feedback become prompts.

  The pieces are segments: each is tokenised by itself, so the prompt a model
  was trained on and the one it meets at inference are the same ids, and ids
  that were sampled are passed on untouched.

  Attributes:
    hypothesis, feedback: the words before each.
    generator_end, critic_end: closing words, which decoder-only models need to
      know whose turn it is.
  """

  hypothesis: str = " previous answer: "
  feedback: str = " feedback: "
  generator_end: str = ""
  critic_end: str = ""

  def first(self, question: Segment) -> Prompt:
    return _join(question, self.generator_end)

  def revision(
    self, question: Segment, hypothesis: Segment, feedback: Segment
  ) -> Prompt:
    return _join(
      question,
      self.hypothesis,
      hypothesis,
      self.feedback,
      feedback,
      self.generator_end,
    )

  def critique(self, question: Segment, hypothesis: Segment) -> Prompt:
    return _join(question, self.hypothesis, hypothesis, self.critic_end)

  @property
  def markers(self) -> tuple[str, ...]:
    texts = (
      self.hypothesis,
      self.feedback,
      self.generator_end,
      self.critic_end,
    )
    return tuple(text for text in texts if text)


def _join(*segments: Segment) -> Prompt:
  return tuple(segment for segment in segments if len(segment))


def next_prompt(template: Template, trajectory: Trajectory) -> Prompt:
  """The generator's next input: only the last turn is in it."""
  if not trajectory.turns:
    return template.first(trajectory.question)
  turn = trajectory.turns[-1]
  return template.revision(
    trajectory.question,
    turn.tokens or turn.hypothesis,
    turn.feedback.tokens or turn.feedback.text,
  )


def start(problem: Problem, question: str) -> Trajectory:
  return Trajectory(
    id=problem.id, problem=problem.id, question=question, gold=problem.gold
  )


def refine(
  trajectories: Sequence[Trajectory],
  *,
  propose: Proposer,
  revise: Proposer,
  critic: Critic,
  template: Template,
  turns: int,
  candidates: int = 1,
) -> list[Trajectory]:
  """Runs the loop on all trajectories together.

  Args:
    trajectories: usually fresh (`start`); kept ones are continued.
    propose: answers first prompts; `revise`: all later ones.
    critic: looks at every live trajectory's last hypothesis once a turn.
    template: builds the prompts.
    turns: hypotheses at most; the last one is criticised too, so that
      "accepted" is known for every turn.
    candidates: samples a turn asks of `revise`. The critic sees all of them;
      the first accepted one is kept, else the first.

  Returns:
    the trajectories in order. An accepted one takes no further turn.
  """
  done = list(trajectories)
  while live := [i for i, t in enumerate(done) if not _finished(t, turns)]:
    # Trajectories move in step, so all live ones are at the same turn.
    first = not done[live[0]].turns
    wave = [i for i in live if (not done[i].turns) == first]
    requests = [
      Request(
        id=f"{done[i].id}/t{len(done[i].turns) + 1}",
        prompt=next_prompt(template, done[i]),
        n=1 if first else candidates,
      )
      for i in wave
    ]
    samples = (propose if first else revise)(requests)
    grown = _criticised([done[i] for i in wave], samples, critic)
    for i, trajectory in zip(wave, grown, strict=True):
      done[i] = trajectory
  return done


def _finished(trajectory: Trajectory, turns: int) -> bool:
  if not trajectory.turns:
    return False
  last = trajectory.turns[-1].feedback
  return len(trajectory.turns) >= turns or (last is not None and last.accepted)


def _criticised(
  trajectories: Sequence[Trajectory],
  samples: Sequence[Sequence[Sample]],
  critic: Critic,
) -> list[Trajectory]:
  grown = [
    [_extend(trajectory, sample) for sample in group]
    for trajectory, group in zip(trajectories, samples, strict=True)
  ]
  flat = [candidate for group in grown for candidate in group]
  feedback = iter(critic(flat))
  return [_choose([(t, next(feedback)) for t in group]) for group in grown]


def _choose(judged: list[tuple[Trajectory, Feedback]]) -> Trajectory:
  spent = sum(
    len(t.turns[-1].tokens) + 1 + len(f.tokens) + bool(f.tokens)
    for t, f in judged
  )
  trajectory, feedback = next(
    ((t, f) for t, f in judged if f.accepted), judged[0]
  )
  *before, last = trajectory.turns
  last = dataclasses.replace(last, feedback=feedback, spent=spent)
  return dataclasses.replace(trajectory, turns=(*before, last))


def _extend(trajectory: Trajectory, sample: Sample) -> Trajectory:
  turn = Turn(hypothesis=sample.text, tokens=content_tokens(sample))
  return dataclasses.replace(trajectory, turns=(*trajectory.turns, turn))


def content_tokens(sample: Sample) -> tuple[int, ...]:
  """A sample's ids without the EOS that ended it."""
  return sample.tokens[:-1] if sample.finish == "eos" else sample.tokens
