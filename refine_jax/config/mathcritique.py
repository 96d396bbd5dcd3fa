"""Experiments in the manner of MathCritique (arXiv 2411.16579).

The paper's tables are not at hand, so hardly any value here is one of theirs:
each says where it is from. `repository` is the code that was released,
`unverified` a choice of ours or of memory.
"""

from ml_collections import ConfigDict

from refine_jax.config import blocks, evaluation

# Sizes of votes; source: unverified up to 64. The larger ones are for the plain
# vote, which is read at the tokens that critiques cost.
KS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def dialogue(
  style: str = "base", answer: str = "number", critic_style: str = ""
) -> ConfigDict:
  """A template of whole conversations: style base, llama3, llama2 or chatml;
  answer number or boxed; critic_style the style's if empty."""
  return ConfigDict(dict(locals()))


def critique_arm(
  critic: str = "model",
  *,
  chains: int = 1,
  rounds: int = 1,
  gate: str = "none",
  only_final: bool = False,
  weigh: bool = False,
  calibrate: bool = False,
  temperature: float = 0.0,
  generator: str = "",
  reviser: str = "",
  control: bool = False,
) -> ConfigDict:
  """An arm of `run_refine`; see `methods.test_time.Plan`.

  Args:
    critic: model or oracle; with rounds=0 nobody is asked.
    calibrate: score the critic's verdicts, for their calibration.
    temperature: of all turns; chains above 1 need one.
    generator, reviser: checkpoints; empty for the run's own.
    control: shown as a control.
  """
  return ConfigDict(dict(locals()))


def standard_critique_arms(
  chains: int = 8, temperature: float = 0.7
) -> dict[str, ConfigDict]:
  """Greedy single chains, then votes; `vote` has eight times the chains, to be
  read at equal tokens."""
  many = {"chains": chains, "temperature": temperature}
  return {
    "no critique": critique_arm("model", rounds=0, control=True),
    "critique": critique_arm("model", calibrate=True),
    "critique, gated": critique_arm("model", gate="critic"),
    "oracle critique": critique_arm("oracle"),
    "oracle gate": critique_arm("model", gate="oracle", control=True),
    "sequential": critique_arm("model", rounds=3, gate="critic"),
    "vote": critique_arm(
      "model", rounds=0, control=True, **{**many, "chains": 8 * chains}
    ),
    "parallel": critique_arm("model", weigh=True, **many),
    "parallel, gated": critique_arm("model", gate="critic", weigh=True, **many),
    "combined": critique_arm("model", rounds=2, gate="critic", **many),
  }


def run_critique(
  *,
  arms: dict[str, ConfigDict],
  critic_engine: ConfigDict,
  grammar: str = "published",
  split: str = "test",
  rows: tuple[int, int] = (0, 0),
  generator: str = "../actor0",
  reviser: str = "../actor0",
  critic: str = "../critic",
  ks: tuple[int, ...] = KS,
  sessions: bool = True,
) -> ConfigDict:
  """The `run_refine` section of critique arms.

  Args:
    ks: sizes of votes; those beyond an arm's chains are left out.
    sessions: rows of actor and critic stay from turn to turn, see
      `stages.waves`; the answers are the same without. Both caches, of as many
      rows as the engines have slots, then lie in memory together.
  """
  return ConfigDict(
    {
      **locals(),
      "order": tuple(arms),
      "only": (),
      "share": "",
      "turns": 0,
      "temperature": 0.0,
      "noise_words": (),
    }
  )


def mathcritique(
  *,
  task: ConfigDict,
  tokenizer: ConfigDict,
  template: ConfigDict,
  model: ConfigDict,
  critic_model: ConfigDict,
  engine: ConfigDict,
  critic_engine: ConfigDict,
  data: ConfigDict,
  critic_data: ConfigDict,
  completion: ConfigDict,
  feedback: ConfigDict,
  train_actor: ConfigDict,
  train_critic: ConfigDict,
  make_data: ConfigDict,
  self_improve: ConfigDict,
  self_talk: ConfigDict,
  arms: dict[str, ConfigDict],
  grammar: str,
  critiques: tuple[str, ...] = ("../critic_data/critiques.jsonl",),
  systems: dict[str, str] | None = None,
  iterations: int = 3,  # source: repository (README)
  start: str = "scratch",  # source: repository
  drafts: bool = False,
  sampling_temperature: float = 0.7,
  train_split: str = "train",
  eval_split: str = "validation",
  test_split: str = "test",
) -> ConfigDict:
  """All sections that MathCritique's binaries read.

  `critiques` are what the critic is trained on; `systems` maps names to
  checkpoints that `run_evaluate` compares; the first actor is among them.
  `iterations`, `start` (scratch, from the base model, or previous, from the
  last iteration's actor) and `drafts` (see the function of that name) are what
  the launch script reads. All arms that are compared are made of the same
  problems, the loop's.
  """
  self_talk.rows = self_improve.rows
  first = ("bootstrap", "drafts") if drafts else ("bootstrap",)
  warm = blocks.sampling(
    max_tokens=completion.max_tokens, temperature=sampling_temperature
  )
  return ConfigDict(
    {
      "seed": 0,
      "loop": {"iterations": iterations, "start": start, "drafts": drafts},
      "task": task,
      "tokenizer": tokenizer,
      "template": template,
      "mesh": blocks.mesh(),
      "engine": engine,
      "model": model,
      "data": data,
      "completion": completion,
      "feedback": feedback,
      "train_generator": {
        "examples": tuple(f"../{name}/examples.jsonl" for name in first),
        "split": train_split,
        "eval_split": eval_split,
        "first": 0,
        "rows": 0,
        "share": 1.0,
        "options": {},
        "model": model,
        "train": train_actor,
      },
      "make_mathcritique_data": make_data,
      "train_critic": {
        "model": critic_model,
        "critiques": critiques,
        "grammar": grammar,
        "engine": critic_engine,
        "data": critic_data,
        "train": train_critic,
      },
      "make_self_improve_data": self_improve,
      "make_self_talk_data": self_talk,
      "run_refine": run_critique(
        arms=arms,
        critic_engine=critic_engine.copy_and_resolve_references(),
        grammar=grammar,
        split=test_split,
      ),
      "run_sample": evaluation.run_sample(
        n=32,  # source: unverified
        sampling=warm,
        generator="../actor0",
        split=train_split,
        rows=self_improve.rows,
      ),
      "run_evaluate": evaluation.run_evaluate(
        systems={
          name: evaluation.system(path)
          for name, path in {"actor0": "../actor0", **(systems or {})}.items()
        },
        sampling=warm.copy_and_resolve_references(),
        split=test_split,
      ),
    }
  )


def loop_systems(arms: str, iterations: int) -> dict[str, str]:
  """`critic+vanilla+talk` -> the last checkpoints of these arms."""
  found = {}
  for arm in filter(None, arms.split("+")):
    looped = arm in ("critic", "vanilla", "matched")
    found[arm] = f"../{arm}{iterations if looped else ''}"
  return found


def bootstrap(experiment: ConfigDict, rows: int = 0) -> ConfigDict:
  """`make_mathcritique_data` before there is an actor: planted errors, and
  every critique kept."""
  experiment.make_mathcritique_data.update(
    actor="", mc=0, planted=max(1, experiment.make_mathcritique_data.planted)
  )
  if rows:
    experiment.make_mathcritique_data.rows = (0, rows)
  return experiment


def draft(experiment: ConfigDict, steps: int) -> ConfigDict:
  """`train_generator` for the actor whose errors the first actor learns to
  mend: the first critiques, `steps` updates, from the base model."""
  section = experiment.train_generator
  section.examples = ("../bootstrap/examples.jsonl",)
  section.model = experiment.model
  section.train.steps = steps
  return experiment


def drafts(experiment: ConfigDict, rows: int) -> ConfigDict:
  """`make_mathcritique_data` of what the draft actor gets wrong, all of it
  kept: planted errors alone do not look like an actor's own."""
  experiment.make_mathcritique_data.update(
    actor="../draft",
    rows=(0, rows),
    mc=0,
    study_shuffled=False,
    golds=-1,
    positives=0.2,
    rg1_cap=4,
    chunk=1000,
  )
  return experiment


def in_loop(
  experiment: ConfigDict, steps: int, learning_rate: float
) -> ConfigDict:
  """`train_generator` for an actor that goes on from an earlier one."""
  section = experiment.train_generator
  section.train.steps = steps
  section.train.optimizer.learning_rate = learning_rate
  section.model = ConfigDict(
    {**experiment.model.to_dict(), "init_from": "../actor0"}
  )
  return experiment


def plain(experiment: ConfigDict) -> ConfigDict:
  """`train_generator` on the gold solutions of the loop's problems alone."""
  first, stop = experiment.make_self_improve_data.rows
  experiment.train_generator.update(examples=(), first=first, rows=stop)
  return experiment


def smoke_mathcritique(experiment: ConfigDict) -> ConfigDict:
  """The same experiment in seconds: tiny models, a few updates and rows."""
  for section in ("train_generator", "train_critic"):
    train = experiment[section].train
    blocks.smoke_train(train, 4)
  experiment.loop.iterations = 1
  experiment.train_generator.rows = 32
  experiment.make_mathcritique_data.update(
    rows=(0, 12), samples=2, rollouts=2, tries=1, mc=2, chunk=6, rg1_cap=1
  )
  # An untrained actor refines nothing, and something has to be kept.
  experiment.make_mathcritique_data.update(min_correct=0, tau=0.0, delta=-1.0)
  experiment.make_self_improve_data.update(
    rows=(0, 8), samples=2, refinements=2, chunk=4
  )
  experiment.make_self_talk_data.update(rows=(0, 8), rounds=2, chunk=4)
  evaluation.smoke_evaluation(experiment)
  experiment.run_sample.rows = (0, 8)
  run = experiment.run_refine
  run.update(rows=(0, 4), ks=(1, 2, 4))
  for name in run.order:
    run.arms[name].chains = min(run.arms[name].chains, 4)
  for engine in (
    experiment.engine,
    experiment.train_critic.engine,
    run.critic_engine,
  ):
    engine.slots = 8
  for owner in (experiment, experiment.train_critic):
    if owner.model.family:
      blocks.shrink(owner.model.overrides)
    elif owner.model.path:
      owner.model = blocks.llama(
        width=16, layers=1, heads=2, mlp=32, max_length=8192
      )
  if not experiment.loop.drafts:
    experiment.train_generator.model = experiment.model
  if not experiment.tokenizer.train:
    _bytes(experiment)
  return experiment


def _bytes(experiment: ConfigDict) -> None:
  """Random weights read bytes, and bytes are long."""
  experiment.tokenizer = blocks.tokenizer("byte")
  for data in (experiment.data, experiment.train_critic.data):
    data.update(max_prompt=6144, max_target=1024, batching="bucket")
  experiment.completion.max_tokens = 32
  experiment.feedback.max_tokens = 32
  for engine in (
    experiment.engine,
    experiment.train_critic.engine,
    experiment.run_refine.critic_engine,
  ):
    engine.prompt_buckets = (2048, 6144)
