"""Arms of run_refine that criticise step by step: parallel, sequential, both.

See `methods.test_time`; votes at several sizes, with what they cost.
"""

import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from refine_jax.methods import (
  critic_metrics,
  critics,
  evaluation,
  step_critics,
  test_time,
)
from refine_jax.methods.test_time import Plan
from refine_jax.stages import build, critiquing, distributed, waves
from refine_jax.stages.reading import BadConfig


def run(bench: Any, name: str, folder: pathlib.Path) -> None:
  """One arm: trajectories.jsonl, then summary.json.

  Args:
    bench: `run_refine.Bench`.
    name: of the arm.
    folder: of its files.
  """
  arm, settings = bench.settings.arms[name], bench.settings
  plan = Plan(arm.chains, arm.rounds, arm.gate, arm.only_final, arm.weigh)
  words = critiquing.grammar(settings.grammar)
  sampling = build.at_temperature(
    build.sampling(bench.config.completion, bench.config.seed),
    arm.temperature,
  )
  rows = waves.Waves(bench, arm, plan)
  propose, revise = (
    _actor(bench, path, sampling, rows.names) for path in rows.actors
  )
  critic = distributed.agreed(_critic(bench, arm, words, rows.names))
  done = []
  for problems in rows.of(bench.problems):
    done += test_time.run(
      problems,
      bench.questions,
      plan=plan,
      propose=propose,
      revise=revise,
      critic=critic,
      template=bench.template,
      check=lambda *pair: distributed.spoken(bench.task.check(*pair)),
    )
  done = bench.write(
    folder,
    done,
    lambda t: evaluation.with_metrics(bench.task, bench.by_id, t),
  )
  summary = distributed.spoken(
    {**_summary(bench, plan, words, done), "prefill": rows.read()}
  )
  if arm.calibrate and "critic" in summary:
    summary["critic"] |= _calibration(bench, words, done)
  bench.conclude(folder, lambda: summary)


def _actor(bench: Any, path: str, sampling, names):
  return critiquing.fitting(
    bench.propose(path, sampling, names=names),
    bench.model(path)[0],
    bench.config.engine,
    sampling.max_tokens,
  )


def _critic(bench: Any, arm: ConfigDict, words, names):
  if not arm.rounds and not arm.weigh:
    return critics.none  # nobody asks it
  if arm.critic == "oracle":
    critiquing.must_judge(bench.task, "an oracle critic")
    return step_critics.oracle(bench.task, words, bench.by_id)
  if arm.critic != "model":
    raise BadConfig(f"critic is model or oracle, not {arm.critic!r}")
  path, sampling = bench.settings.critic, build.sampling(bench.config.feedback)
  asked = critiquing.fitting(
    bench.propose(path, sampling, critic=True, names=names),
    bench.model(path)[0],
    bench.settings.critic_engine,
    sampling.max_tokens,
  )
  return step_critics.model(asked, bench.template, words)


def _calibration(bench, words, done) -> dict[str, float]:
  """How far the critic's probabilities of its final verdicts can be trusted.

  Of critiques that have one; at most 500 of them.
  """
  path, tokens = bench.settings.critic, bench.config.feedback.max_tokens
  model, engines = bench.model(path)
  engine = engines[tokens]
  judged = [
    (bench.by_id[t.problem], t.question, turn.hypothesis, turn.feedback.text)
    for t in done
    for turn in t.turns
    if turn.feedback is not None
    and words.parse(turn.feedback.text).correct is not None
    # Two tokens of room: the other verdict may be longer.
    and len(engine.encode(turn.feedback.text, bos=False)) <= tokens - 2
  ][:500]
  found = step_critics.confidences(
    lambda prompts, targets: engine.score(model.params, prompts, targets),
    bench.template,
    words,
    [row[1:] for row in judged],
  )
  pairs = [
    (p, bench.task.check(problem, response))
    for p, (problem, _, response, _) in zip(found, judged, strict=True)
    if p is not None
  ]
  if not pairs:
    return {}
  return critic_metrics.calibration(*zip(*pairs, strict=True))


def _summary(bench, plan: Plan, words, done) -> dict[str, Any]:
  """`evaluation.summary` of all chains, and what critiques did."""
  seed = bench.config.seed
  made = evaluation.summary(done, turns=plan.rounds + 1, seed=seed)
  votes = test_time.pool(done, bench.by_id, bench.task, plan)
  ks = [k for k in bench.settings.ks if k <= plan.chains]
  made["curve"] = test_time.curve(votes, ks, seed)
  made["chains"] = plan.chains
  before, after = [], []
  cases = []
  for t in done:
    problem = bench.by_id[t.problem]
    right = [bench.task.check(problem, x.hypothesis) for x in t.turns]
    before.append(right[0])
    after.append(right[-1])
    cases += [
      step_critics.case(
        bench.task,
        words,
        problem,
        turn.hypothesis,
        turn.feedback.text,
        right[i + 1] if i + 1 < len(right) else None,
      )
      for i, turn in enumerate(t.turns)
      if turn.feedback is not None
    ]
  made["transitions"] = critic_metrics.transitions(before, after)
  ends = [(t.turns[0].hypothesis, t.turns[-1].hypothesis) for t in done]
  keys = [tuple(map(bench.task.canonical, pair)) for pair in ends]
  made["changed"] = 100 * float(np.mean([a != b for a, b in keys]))
  if plan.chains == 1:
    made |= _paired([t.problem for t in done], before, after, seed)
  if cases:
    made["critic"] = {
      "cases": len(cases),
      **critic_metrics.discriminability(cases),
      **critic_metrics.helpfulness(cases),
    }
  if cases and plan.chains == plan.rounds == 1:
    # One look at every problem: the values are independent.
    values = critic_metrics.verdicts(cases) | critic_metrics.helped(cases)
    made["critic"] |= {
      "intervals": critic_metrics.with_intervals(values, seed),
      "values": {name: list(map(int, row)) for name, row in values.items()},
    }
  return made


def _paired(names, before, after, seed: int) -> dict[str, Any]:
  """What refinement gains, problem by problem, and its interval."""
  gain = [int(b) - int(a) for a, b in zip(before, after, strict=True)]
  interval = critic_metrics.with_intervals({"gain": gain}, seed)["gain"]
  sides = {"before": before, "after": after}
  return {
    "gain": interval,
    **{k: dict(zip(names, map(int, v), strict=True)) for k, v in sides.items()},
  }
