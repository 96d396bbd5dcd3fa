"""ReFT from scratch: small models, minutes to hours, every arm alike."""

from ml_collections import ConfigDict

from refine_jax.config import blocks
from refine_jax.config.evaluation import (
  reranker_training,
  run_evaluate,
  run_sample,
  system,
  train_reranker,
)
from refine_jax.config.reft import (
  ARMS,
  on_policy,
  ppo,
  reft,
  train_online_st,
  train_reft,
)


def small_train(
  rate: float, steps: int, *, schedule: str = "constant", **settings
) -> ConfigDict:
  """Batches of 64; the schedule ends with the run."""
  return blocks.train(
    steps=steps,
    optimizer=blocks.optimizer(
      rate, schedule=schedule, warmup_steps=20, b2=0.98
    ),
    **{
      "batch_size": 64,
      "eval_rows": 1000,
      "log_every": 50,
      "best_metric": "answer",
      **settings,
    },
  )


def small_reft(
  *,
  task: ConfigDict,
  tokenizer: ConfigDict,
  model: ConfigDict,
  max_prompt: int,
  max_target: int,
  prompt_buckets: tuple[int, ...],
  warm: int,
  rounds: int,
  rates: dict[str, float],
  arm: str,
  ppo_settings: dict,
  batching: str = "pad",
  buckets: int = 1,
  rate: float = 0.0,
  rollout_slots: int = 0,
  samples: int = 16,
  reranker: tuple[float, int] = (1e-3, 2000),
  reranker_balance: float = 0.0,
  seed: int = 0,
) -> ConfigDict:
  """One model through every arm, with as many updates for each.

  Args:
    warm: updates of the warm start; a round of PPO makes two more.
    rounds: of PPO and of online self-training; `sft` and `offline` make
      `warm + 2 * rounds` updates.
    rates: learning rates by arm: warm_start, sft, offline, reft, online_st.
    rate: instead of them, for a grid.
    arm: which one `train_generator` trains.
    rollout_slots: see `on_policy`; a round has 64 rollouts.
    samples: completions per problem, of training and of test problems.
    reranker: its rate and updates.
  """
  if arm not in ARMS:
    raise ValueError(f"arm is one of {', '.join(ARMS)}, not {arm!r}")

  def own(name):
    return rate or rates[name]

  every = max(50, rounds // 12)
  steps = warm if arm == "warm_start" else warm + 2 * rounds
  # Constant rates end with an entropy near 0 and then fall.
  on_policy_run = {
    "log_every": 1,
    "eval_every": every,
    "save_every": every,
    "schedule": "linear",
  }
  sampled = blocks.sampling(max_tokens=max_target, temperature=1.0)
  data = blocks.data(
    max_prompt=max_prompt, max_target=max_target, batching=batching
  )
  systems = {
    "warm-up": system("../warm_start"),
    "supervised": system("../sft", reranker="../reranker"),
    "offline self-training": system("../offline"),
    "online self-training": system("../online_st"),
    "ReFT": system("../reft", reranker="../reranker"),
    "ReFT, last": system("../reft", select="last"),
  }
  return reft(
    task=task,
    tokenizer=tokenizer,
    model=model,
    engine=blocks.engine(slots=64, prompt_buckets=prompt_buckets),
    data=data,
    completion=blocks.sampling(max_tokens=max_target),
    supervised=small_train(
      own(arm), steps, eval_every=2 * every, save_every=2 * every
    ),
    examples="../offline_data/examples.jsonl" if arm == "offline" else "",
    train_reft=train_reft(
      train=small_train(
        own("reft"), rounds, reduction="sequence", **on_policy_run
      ),
      ppo=ppo(**ppo_settings),
      rollout=on_policy(buckets=buckets, slots=rollout_slots),
    ),
    train_online_st=train_online_st(
      train=small_train(own("online_st"), rounds, **on_policy_run),
      rollout=on_policy(buckets=buckets, slots=rollout_slots),
    ),
    run_sample=run_sample(n=samples, sampling=sampled),
    train_reranker=train_reranker(
      model=blocks.checkpoint("../warm_start"),
      data=blocks.data(
        max_prompt=max_prompt, max_target=max_target, batching="bucket"
      ),
      train=reranker_training(*reranker, 64, eval_rows=200),
      balance=reranker_balance,
    ),
    run_evaluate=run_evaluate(
      systems=systems,
      sampling=sampled.copy_and_resolve_references(),
      n=samples,
      ks=(1, 4, samples),
    ),
    seed=seed,
  )
