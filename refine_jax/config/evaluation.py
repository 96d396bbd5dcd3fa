"""Sampling, self-training data, rerankers and evaluation.

Each function makes the section of the binary it is named after.
"""

from ml_collections import ConfigDict

from refine_jax.config import blocks


def run_sample(
  *,
  n: int,
  sampling: ConfigDict,
  generator: str = "../warm_start",
  select: str = "best",
  split: str = "train",
  rows: tuple[int, int] = (0, 0),
  chunk: int = 64,
  options: dict | None = None,
) -> ConfigDict:
  """`n` checked completions of every problem of a split.

  Args:
    n: completions per problem and checkpoint.
    sampling: `config.sampling`, whose top_k is explicit: the original's
      sampling script kept the 50 likeliest tokens without saying so.
    generator: a run's folder, or one step's.
    select: its checkpoint: best, last, a step's number, or all of them (the
      reranker's data come from the epochs of the warm-up).
    split: any but the one that `run_evaluate` reads.
    rows: first and last problem; last 0 for all.
    chunk: problems that are sampled together and then written.
    options: the task's, where this stage wants others.
  """
  return ConfigDict({**locals(), "options": options or {}})


def make_self_training_data(
  *,
  samples: tuple[str, ...] = ("../samples/samples.jsonl",),
  split: str = "train",
  cap: int = 10,
  choose: str = "random",
  gold: int = 1,
  options: dict | None = None,
) -> ConfigDict:
  """Offline self-training: distinct correct completions and the gold.

  Args:
    samples: what `run_sample` wrote.
    split: whose gold completions join; as in `run_sample`.
    cap: completions kept per problem at most.
    choose: `random` (ReFT's paper: a random subsample) or `first` (its code:
      the first ones that are distinct).
    gold: how often each gold completion is in the data; its code has it twice.
    options: the task's, as in `run_sample`.
  """
  return ConfigDict({**locals(), "options": options or {}})


def train_reranker(
  *,
  model: ConfigDict,
  data: ConfigDict,
  train: ConfigDict,
  samples: tuple[str, ...] = ("../samples/samples.jsonl",),
  eval_samples: str = "",
  per_problem: int = 0,
  balance: float = 0.0,
  language: float = 0.0,
) -> ConfigDict:
  """A two-class head on the last state of prompt and completion.

  `data` gives lengths; a longer completion loses its end. Of `train`,
  `eval_rows` counts validation problems and `label_smoothing` and
  `reduction` do not apply.

  Args:
    model: the backbone, usually a generator's checkpoint.
    samples: what `run_sample` wrote.
    eval_samples: those of validation problems; empty holds problems of
      `samples` out.
    per_problem: distinct completions kept per problem, 0 for all.
    balance: 0 weighs every completion alike (the original), 1 gives both
      classes one weight in all; between, a mixture.
    language: weight of the cross-entropy of correct completions beside the
      classes' (arXiv 2110.14168, section 4.2); 0 in the original.
  """
  return ConfigDict(dict(locals()))


def system(
  generator: str = "../warm_start",
  *,
  select: str = "best",
  reranker: str = "",
  samples: str = "",
  greedy: str = "",
) -> ConfigDict:
  """A generator to be evaluated, with its reranker if it has one.

  `samples` and `greedy` name files of `run_sample` to be read instead of
  sampling (of other splits than the test's).
  """
  return ConfigDict(dict(locals()))


def run_evaluate(
  *,
  systems: dict[str, ConfigDict],
  sampling: ConfigDict,
  n: int = 16,
  ks: tuple[int, ...] = (1, 4, 16),
  split: str = "test",
  rows: tuple[int, int] = (0, 0),
  chunk: int = 64,
  resamples: int = 1000,
  options: dict | None = None,
) -> ConfigDict:
  """Top-1, voting@k, weighted voting@k, rerank@k and pass@k of systems.

  Top-1 is greedy; all else is of the same `n` samples, of which voting and
  reranking see the first k. `sampling` is as in `run_sample`.
  """
  return ConfigDict(
    {**locals(), "order": tuple(systems), "options": options or {}}
  )


def smoke_evaluation(experiment: ConfigDict) -> None:
  """The sections of this module in seconds; absent ones are passed over."""
  for name in ("run_sample", "run_evaluate"):
    if name in experiment:
      experiment[name].update(n=4, rows=(0, 12), chunk=8)
  if "run_evaluate" in experiment:
    experiment.run_evaluate.update(ks=(1, 4), resamples=50)
  if "train_reranker" in experiment:
    train = experiment.train_reranker.train
    blocks.smoke_train(train, 4)
    train.epochs = 0


def reranker_training(
  learning_rate: float, steps: int, batch_size: int, **settings
) -> ConfigDict:
  """A `train` section of rerankers: the best one reranks best."""
  return blocks.train(
    steps=steps,
    batch_size=batch_size,
    optimizer=blocks.optimizer(
      learning_rate, schedule="linear", warmup_steps=steps // 10
    ),
    **{
      "eval_every": max(1, steps // 10),
      "best_metric": "rerank",
      **settings,
    },
  )
