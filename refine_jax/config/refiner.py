"""Experiments in the manner of REFINER (arXiv 2304.01904)."""

from ml_collections import ConfigDict

from refine_jax.config import blocks


def arm(
  critic: str,
  *,
  generator: str = "",
  reviser: str = "",
  words: str = "own",
  verdict: str = "own",
  candidates: int = 1,
  turns: int = 0,
  temperature: float = -1.0,
  noise: float = 0.0,
  budget_of: str = "",
  control: bool = False,
) -> ConfigDict:
  """One row of a table of refinement runs.

  Args:
    critic: model, oracle, self (the reviser criticises), manual (a person at
      the terminal), none (says nothing and accepts nothing); or without a loop
      vote (self-consistency) or constant (the one training answer that is right
      most often here).
    generator, reviser: checkpoints of turn 1 and of later turns; empty for
      the run's own.
    words: own, shuffled (another problem's), or hidden (the reviser answers
      the bare question again: rejection without feedback).
    verdict: own, or oracle (who then decides when to stop).
    candidates: samples per later turn, the first accepted one is kept.
    turns: 0 takes the run's.
    temperature: of later turns; -1 takes the run's.
    noise: the rate at which feedback is replaced by random words.
    budget_of: for vote, the arm whose tokens per problem it may spend.
    control: shown as a control.
  """
  return ConfigDict(dict(locals()))


def refiner(
  *,
  task: ConfigDict,
  tokenizer: ConfigDict,
  model: ConfigDict,
  critic_model: ConfigDict,
  engine: ConfigDict,
  data: ConfigDict,
  critic_data: ConfigDict,
  completion: ConfigDict,
  feedback: ConfigDict,
  warm_start: ConfigDict,
  train_critic: ConfigDict,
  train_refiner: ConfigDict,
  make_critic_data: ConfigDict,
  rollout: ConfigDict,
  arms: dict[str, ConfigDict],
  turns: int,
  critic_engine: ConfigDict,
  train_split: str = "train",
  eval_split: str = "dev",
  test_split: str = "test",
  template: ConfigDict | None = None,
  rows: int = 0,
  title: str = "REFINER",
  subtitle: str = "",
) -> ConfigDict:
  """All sections that the binaries of REFINER read.

  The stages of one seed lie side by side: tokenizer, warm_start, critic_data,
  critic, refiner, refine.
  """
  return ConfigDict(
    {
      "seed": 0,
      "task": task,
      "tokenizer": tokenizer,
      "template": template or blocks.template(),
      "mesh": blocks.mesh(),
      "engine": engine,
      "model": model,
      "data": data,
      "completion": completion,
      "feedback": feedback,
      "train_generator": {
        "examples": "",
        "split": train_split,
        "eval_split": eval_split,
        "rows": rows,
        "share": 1.0,
        "options": {},
        "model": model,
        "train": warm_start,
      },
      "make_critic_data": make_critic_data,
      "train_critic": {
        "model": critic_model,
        "critiques": "../critic_data/critiques.jsonl",
        "engine": critic_engine,
        "data": critic_data,
        "train": train_critic,
      },
      "train_refiner": {
        "generator": "../warm_start",
        "split": train_split,
        "eval_split": eval_split,
        "rows": rows,
        "options": {},
        "rollout": rollout,
        "critic": "oracle",
        "critic_path": "../critic",
        "noise": 0.0,
        "noise_words": (),
        "train": train_refiner,
      },
      "run_refine": run_refine(
        arms=arms,
        turns=turns,
        split=test_split,
        critic_engine=critic_engine.copy_and_resolve_references(),
      ),
      "export_hf": blocks.export_hf("../refiner"),
      "make_report": {
        "title": title,
        "subtitle": subtitle,
        "runs": "seed*",
        "evaluation": "refine",
        "shown": "trained critic",
        "command": "bash launch_scripts/refiner.sh",
        "curves": (
          (
            "Exact match on validation problems",
            ("warm_start", "refiner", "plain_updates", "plain_compute"),
            "eval/exact",
          ),
          ("The critic on validation critiques", ("critic",), "eval/exact"),
          (
            "Training loss",
            ("warm_start", "critic", "refiner"),
            "loss",
          ),
        ),
      },
    }
  )


def make_critic_data(
  *,
  split: str = "train",
  rows: int = 0,
  perturb: bool = True,
  perturb_rows: int = 0,
  generator: str = "",
  temperatures: tuple[float, ...] = (0.0, 0.7),
  samples: int = 1,
  positives: float = -1.0,
  balance: bool = True,
  chunk: int = 256,
  options: dict | None = None,
) -> ConfigDict:
  """Perturbed golds, and a generator's own errors if one is named.

  `perturb_rows` limits the problems that are perturbed; `positives` is the
  share of right hypotheses, -1 keeps what there is; `chunk` problems are
  sampled together and then on disk; `options` are the task's where this stage
  wants others.
  """
  return ConfigDict({**locals(), "options": options or {}})


def rollout(
  *,
  turns: int = 3,
  samples: int = 3,
  choose: str = "random",
  temperature: float = 1.0,
  top_k: int = 50,
  top_p: float = 0.5,
  first_turn: bool = True,
  errors_only: bool = False,
  mask: float = 0.0,
  mask_rows: float = 1.0,
  mask_word: str = "_",
  every: int = 1,
  problems: int = 0,
) -> ConfigDict:
  """See `methods.refiner.Rollout`; the defaults are the paper's.

  `every` is how many updates one round of sampling serves, and `problems` how
  many problems it answers; 0 for as many as the updates have rows.
  """
  return ConfigDict(dict(locals()))


def run_refine(
  *,
  arms: dict[str, ConfigDict],
  turns: int,
  split: str = "test",
  floor_split: str = "train",
  rows: tuple[int, int] = (0, 0),
  generator: str = "../refiner",
  reviser: str = "../refiner",
  critic: str = "../critic",
  temperature: float = 0.0,
  critic_engine: ConfigDict,
  noise_words: tuple[str, ...] = (),
) -> ConfigDict:
  """Inference over `rows` (first, last; last 0 for all) of a split.

  Arms run in the order given (a ConfigDict would sort them); `only` names
  some of them, and `share` those with a trained critic (`critic`) or the
  others (`rest`), for two processes side by side. A constant's answers are
  those of `floor_split`.
  """
  return ConfigDict({**locals(), "order": tuple(arms), "only": (), "share": ""})


def standard_arms(**settings) -> dict[str, ConfigDict]:
  """REFINER and its controls; `settings` go to every arm with a reviser."""
  first = settings.get("generator", "")
  return {
    "without critic": arm("none", generator=first, turns=1, control=True),
    "trained critic": arm("model", **settings),
    "oracle critic": arm("oracle", **settings),
    "no feedback": arm("none", control=True, **settings),
    "shuffled feedback": arm(
      "model", words="shuffled", control=True, **settings
    ),
    "random feedback, oracle stop": arm(
      "oracle", words="shuffled", control=True, **settings
    ),
    "rejection without feedback": arm(
      "model",
      words="hidden",
      control=True,
      **{**settings, "temperature": 0.7},
    ),
    "self-consistency": arm(
      "vote",
      generator=first,
      candidates=8,
      temperature=0.7,
      budget_of="trained critic",
      control=True,
    ),
  }


def plain_arms() -> dict[str, ConfigDict]:
  """The warm generator trained on alone; see `continue_instead`."""
  plain = {"turns": 1, "control": True}
  return {
    "plain training, the refiner's updates": arm(
      "none", generator="../plain_updates", **plain
    ),
    "plain training, the same compute": arm(
      "none", generator="../plain_compute", **plain
    ),
  }
