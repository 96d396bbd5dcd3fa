"""Makes monologues that criticise and mend themselves: examples.jsonl.

Or, with `form=trajectory`, the baseline: whole solutions with whole critiques
between them in one target. Only what ends in the right answer is kept.
Writes talks.jsonl (every chain, with what dropped it), examples.jsonl and
manifest.json. Can be killed at any moment and started again. Several processes
share the chunks; the first puts their chains together.
"""

import collections
import dataclasses
import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from refine_jax import records
from refine_jax.methods import (
  monte_carlo,
  self_talk,
  step_critics,
  test_time,
)
from refine_jax.methods.flawed import joined
from refine_jax.sampling.settings import Request
from refine_jax.stages import critiquing, dealt, distributed, launch
from refine_jax.stages.reading import BadConfig

SECTIONS = (
  "seed",
  "task",
  "template",
  "mesh",
  "engine",
  "data",
  "completion",
  "feedback",
  "make_self_talk_data",
)
TALKS = "talks.jsonl"
OUTPUTS = (TALKS, "examples.jsonl")


@dataclasses.dataclass(frozen=True)
class Talk:
  """A chain made into one target.

  Attributes:
    pieces: of the target; wrong: which of them hold a wrong step.
    mended: errors found and mended; 0 is a clean one.
    rigid: the chain before smoothing.
    drop: why it is not kept; empty if it is.
  """

  id: str
  question: str
  pieces: tuple[str, ...] = ()
  wrong: tuple[bool, ...] = ()
  mended: int = 0
  rigid: str = ""
  drop: str = ""

  @property
  def text(self) -> str:
    return "".join(self.pieces)


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Makes one set of self-talk.

  1. Chunk by chunk: chains, criticised and mended until they are right.
  2. Smooth and check them.
  3. Write examples and the manifest.
  """
  if found := distributed.spoken(critiquing.sealed(workdir)):
    return f"{workdir} is complete: {found['kept']} talks"
  talker = Talker(config, workdir)
  talker.talk()
  return distributed.by_first(lambda: _assemble(talker))


def _assemble(talker: "Talker") -> str:
  workdir = talker.workdir
  talker.chunks.join(workdir / TALKS)
  talks = list(records.read(Talk, workdir / TALKS))
  kept = [t for t in talks if not t.drop]
  records.write(workdir / "examples.jsonl", map(talker.example, kept))
  manifest = critiquing.seal(workdir, _counts(talks, kept), OUTPUTS)
  dealt.remove(workdir / TALKS)
  return (
    f"Wrote {workdir}: {manifest['kept']} of {manifest['talks']} talks,"
    f" {manifest['clean']} of them clean"
  )


class Talker:
  def __init__(self, config: ConfigDict, workdir: pathlib.Path):
    self.config, self.settings = config, config.make_self_talk_data
    self.workdir = workdir
    self.shop = critiquing.Workshop(config, workdir, self.settings.options)
    self.task, self.template = self.shop.task, self.shop.template
    self.grammar = critiquing.grammar(self.settings.grammar)
    self.problems = self.shop.problems(self.settings.split, self.settings.rows)
    self.by_id = monte_carlo.by_id(self.problems)
    self.chunks = dealt.Chunks(self.problems, self.settings.chunk)
    if self.settings.form not in ("talk", "trajectory"):
      raise BadConfig(f"form is talk or trajectory, not {self.settings.form!r}")

  def talk(self) -> None:
    path = dealt.own(self.workdir / TALKS)
    with records.Appender(Talk, path) as appender:
      for _, problems in self.chunks.left(appender.done):
        make = getattr(self, f"_{self.settings.form}")
        appender.append(t for t in make(problems) if t.id not in appender.done)
    distributed.together("all chunks are talked through")

  def critic(self):
    s = self.settings
    if s.annotator == "oracle":
      critiquing.must_judge(self.task, "an oracle annotator")
      return step_critics.oracle(self.task, self.grammar, self.by_id)
    return step_critics.model(
      self.shop.critic(s.critic), self.template, self.grammar
    )

  def _talk(self, problems) -> list[Talk]:
    chains = [self_talk.Chain() for _ in problems]
    said = [""] * len(problems)  # the last critique
    whole = [""] * len(problems)  # the last solution
    for number in range(self.settings.rounds + 1):
      live = [i for i, c in enumerate(chains) if not c.done]
      tails = self._tails([(problems[i], chains[i], whole[i], said[i])
                           for i in live], number)  # fmt: skip
      for i, tail in zip(live, tails, strict=True):
        whole[i] = joined(
          self_talk.prefix_of(chains[i], self.settings.gap),
          self.settings.gap,
          tail,
        )
      critiques = self.critic()(
        [self._criticised(problems[i], whole[i], number) for i in live]
      )
      for i, tail, found in zip(live, tails, critiques, strict=True):
        said[i] = found.text
        steps = self_talk.new_steps(self.task, tail)
        grown = self_talk.grown(
          chains[i], steps, self.grammar.parse(found.text)
        )
        text = self_talk.prefix_of(grown, self.settings.gap)
        if grown.done and not self.task.check(problems[i], text):
          # The critic sees nothing wrong, and the answer is: once more.
          said[i] = ""
        else:
          chains[i] = grown
    return [
      self._finished(p, c, i)
      for i, (p, c) in enumerate(zip(problems, chains, strict=True))
    ]

  def _tails(self, rows, number) -> list[str]:
    """What follows the steps that stand; criticism of the last try is read."""
    requests = []
    for problem, chain, whole, said in rows:
      question = self.task.prompt(problem)
      prompt = self.template.first(question)
      if said:
        prompt = self.template.revision(question, whole, said)
      prefix = self_talk.prefix_of(chain, self.settings.gap)
      prompt = (*prompt, prefix) if prefix else prompt
      requests.append(Request(f"{problem.id}/talk{number}", prompt))
    propose = self.shop.actor(self.settings.actor, self.settings.temperature)
    return [group[0].text for group in propose(requests)] if requests else []

  def _criticised(self, problem, text, number) -> records.Trajectory:
    return records.Trajectory(
      f"{problem.id}/talk{number}",
      problem.id,
      self.task.prompt(problem),
      (records.Turn(text),),
    )

  def _finished(self, problem, chain, index) -> Talk:
    s = self.settings
    pieces = self_talk.smooth(
      chain,
      doubts=s.doubts,
      mended=s.mended,
      gap=s.gap,
      rng=np.random.default_rng([self.config.seed, *problem.id.encode()]),
    )
    reason = "budget" if not chain.done else None
    if reason is None and not self.task.check(
      problem, self_talk.prefix_of(chain, s.gap)
    ):
      reason = "wrong-answer"
    reason = reason or self_talk.refused(
      pieces,
      chain,
      self.task,
      gap=s.gap,
      shortest=s.shortest,
      longest=s.longest,
    )
    return Talk(
      id=problem.id,
      question=self.task.prompt(problem),
      pieces=tuple(text for text, _ in pieces),
      wrong=tuple(wrong for _, wrong in pieces),
      mended=sum(link.wrong for link in chain.links),
      rigid=self_talk.rigid(chain, s.gap),
      drop=reason or "",
    )

  def _trajectory_rows(self, problems):
    s = self.settings
    propose = self.shop.actor(s.actor, s.temperature)
    return test_time.run(
      problems,
      {p.id: self.task.prompt(p) for p in problems},
      plan=test_time.Plan(rounds=s.rounds, gate="critic"),
      propose=propose,
      revise=propose,
      critic=self.critic(),
      template=self.template,
      check=self.task.check,
    )

  def _trajectory(self, problems) -> list[Talk]:
    """Whole solutions with whole critiques between them."""
    made = []
    for problem, row in zip(
      problems, self._trajectory_rows(problems), strict=True
    ):
      texts = [turn.hypothesis for turn in row.turns]
      said = [t.feedback.text for t in row.turns[:-1]]
      parts = self_talk.trajectory(texts, said)
      right = self.task.check(problem, texts[-1])
      pieces = [parts[0], *(f" {part}" for part in parts[1:])]
      made.append(
        Talk(
          id=problem.id,
          question=self.task.prompt(problem),
          pieces=tuple(pieces),
          wrong=tuple(i % 2 == 0 and i < len(parts) - 1
                      for i in range(len(parts))),
          mended=len(said),
          rigid=texts[-1],
          drop="" if right else "wrong-answer",
        )
      )  # fmt: skip
    return made

  def example(self, talk: Talk) -> records.Example:
    target, learn = (talk.text,), ()
    if self.settings.mask_errors and any(talk.wrong):
      target, learn = talk.pieces, tuple(not w for w in talk.wrong)
    return records.Example(
      f"{talk.id}/talk", self.template.first(talk.question), target, learn
    )


def _counts(talks, kept) -> dict[str, Any]:
  drops = collections.Counter(t.drop for t in talks if t.drop)
  return {
    "talks": len(talks),
    "kept": len(kept),
    "clean": sum(not t.mended for t in kept),
    "mended": sum(bool(t.mended) for t in kept),
    "dropped": dict(sorted(drops.items())),
  }


if __name__ == "__main__":
  launch.run(main, SECTIONS)
