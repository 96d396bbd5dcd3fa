"""Who plays in the arms of run_stepwise: models in their roles, selectors."""

import pathlib
from collections.abc import Mapping

from ml_collections import ConfigDict

from refine_jax.methods import selectors
from refine_jax.methods.layout import Layout
from refine_jax.methods.stepwise import Rules
from refine_jax.methods.voices import Agent, Scorer, Writer
from refine_jax.records import Sample
from refine_jax.sampling.settings import Request, Sampling
from refine_jax.sampling.trunks import Trunks
from refine_jax.stages import build, roles
from refine_jax.stages.reading import BadConfig


class Cast:
  """Models that several arms share, each loaded when it is first needed.

  They lie together on the devices of one process: blocks are dealt out. What
  a role keeps of problems, and how it counts them, is new with every call, so
  a block's figures do not follow from those before it.
  """

  def __init__(self, config: ConfigDict, workdir: pathlib.Path):
    self.config, self.workdir = config, workdir
    self.settings = config.run_stepwise
    self._models: dict[str, build.Model] = {}

  def rules(self, arm: ConfigDict) -> Rules:
    return Rules(
      candidates=arm.candidates or self.settings.candidates,
      cap=self.settings.cap,
      late_stop=self.settings.late_stop,
    )

  def agent(self, arm: ConfigDict) -> Agent:
    model = self._model(arm.agent or self.settings.agent)
    sampling = roles.sampling(
      self.settings.step, self.settings.stop, model, self.config.seed
    )
    if arm.temperature >= 0:
      sampling = build.at_temperature(sampling, arm.temperature)
    return Agent(self._trunks(model), self._layout("agent"), sampling)

  def selector(
    self, arm: ConfigDict
  ) -> tuple[selectors.Selector, Mapping[str, Trunks]]:
    """An arm's selector, and the trunks of its roles."""
    kind, settings = arm.selector, self.settings
    if kind == "first":
      return selectors.First(), {}
    if kind == "random":
      return selectors.Random(self.config.seed), {}
    if kind in ("likelihood", "implicit", "shuffled"):
      return self._scored(arm)
    if kind == "reward":
      judge = self._model(settings.judge or settings.scorer)
      return selectors.Reward(self._ask(judge, "judge")), {}
    ask = self._ask(self._model(arm.writer or settings.writer), "writer")
    if kind == "rationale_confidence":
      return selectors.RationaleConfidence(ask), {}
    if kind == "explicit":
      return selectors.Explicit(ask, settings.ready), {}
    raise BadConfig(f"no selector {kind!r}")

  def _scored(self, arm):
    """By the base's probabilities, given a rationale or not."""
    model = self._model(self.settings.scorer)
    scorer = Scorer(self._trunks(model), self._layout("scorer"))
    if arm.selector == "likelihood":
      found = selectors.Likelihood(scorer, arm.aggregate)
      return found, {"scorer": scorer.trunks}
    model = self._model(arm.writer or self.settings.writer)
    writer = Writer(
      self._trunks(model), self._layout("writer"), self._writing(model)
    )
    shuffled = arm.selector == "shuffled"
    found = selectors.Implicit(scorer, writer, arm.aggregate, shuffled)
    return found, {"scorer": scorer.trunks, "writer": writer.trunks}

  def _ask(self, model: build.Model, role: str) -> selectors.Ask:
    """Greedy texts on whole trajectories."""
    sampling = self._writing(model)
    engine = build.engine(model, self.config.engine, sampling.max_tokens)
    layout, calls = self._layout(role), iter(range(1 << 60))

    def ask(trajectories) -> list[Sample]:
      requests = [
        Request(f"ask/{next(calls)}", layout.whole(question, steps))
        for question, steps in trajectories
      ]
      return [s for (s,) in engine.generate(model.params, requests, sampling)]

    return ask

  def _model(self, path: str) -> build.Model:
    if path not in self._models:
      self._models[path] = roles.model(path, self.config, self.workdir)
    return self._models[path]

  def _trunks(self, model: build.Model) -> Trunks:
    section = self.settings.trunks.copy_and_resolve_references()
    section.slots = min(section.slots, self.settings.together)
    return roles.trunks(model, section)

  def _layout(self, role: str) -> Layout:
    return roles.layout(self.config.layouts[role])

  def _writing(self, model: build.Model) -> Sampling:
    return roles.sampling(
      self.settings.rationale,
      self.settings.rationale_stop,
      model,
      self.config.seed,
    )
