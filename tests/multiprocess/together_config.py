"""Supervised training, PPO and the refine loop, as small as they get."""

from refine_jax import config


def get_config(text=""):
  config.arguments(text)
  model = config.llama(width=16, layers=1, heads=2, mlp=32, max_length=160)
  engine = config.engine(slots=8, prompt_buckets=(80,))
  data = config.data(max_prompt=24, max_target=24, batching="pad")
  words = config.sampling(max_tokens=8)
  train = config.train(
    steps=4,
    batch_size=8,
    optimizer=config.optimizer(1e-3, schedule="constant"),
    log_every=1,
    eval_every=2,
    eval_rows=4,
    save_every=2,
    keep_last=9,
    best_metric="answer",
  )
  experiment = config.refiner(
    task=config.task(
      "graded_task:Graded", form="text", difficulty=1, size=40, test_size=4
    ),
    tokenizer=config.tokenizer(
      "../tokenizer/tokenizer", vocab_size=200, model_type="words", texts=80
    ),
    model=model,
    critic_model=model,
    engine=engine,
    data=data,
    critic_data=data,
    completion=words,
    feedback=words,
    warm_start=train,
    train_critic=train,
    train_refiner=train,
    make_critic_data=config.make_critic_data(),
    rollout=config.rollout(),
    arms=_arms(),
    turns=2,
    critic_engine=engine,
    eval_split="validation",
  )
  experiment.train_reft = config.train_reft(
    model=config.checkpoint("../sft"),
    train=train.copy_and_resolve_references(),
    ppo=config.ppo(
      minibatch=8, kl_target=0.5, kl_horizon=40.0, reference_memory="host"
    ),
    rollout=config.on_policy(samples=2),
  )
  experiment.train_reft.train.update(steps=2, batch_size=16, save_every=1)
  experiment.run_refine.update(
    generator="../sft", reviser="../sft", critic="../sft", temperature=0.7
  )
  return experiment


def _arms():
  return {
    "model": config.arm("model"),
    "shuffled": config.arm("oracle", words="shuffled"),
    "vote": config.arm(
      "vote", candidates=3, budget_of="model", temperature=0.9
    ),
  }
