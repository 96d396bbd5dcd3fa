"""The stages of REFINER and of ReFT, and a writer, as small as they get."""

from refine_jax import config


def get_config(text=""):
  config.arguments(text)
  model = config.llama(width=16, layers=1, heads=2, mlp=32, max_length=160)
  experiment = config.refiner(
    task=config.task(
      "graded_task:Graded", form="text", difficulty=1, size=40, test_size=7
    ),
    tokenizer=config.tokenizer(
      "../tokenizer/tokenizer", vocab_size=200, model_type="words", texts=80
    ),
    model=model,
    critic_model=model,
    engine=_engine(),
    data=_data(),
    critic_data=_data(48),
    completion=_words(),
    feedback=_words(),
    warm_start=_train(4),
    train_critic=_train(4, best_metric="exact"),
    train_refiner=_train(2),
    make_critic_data=config.make_critic_data(),
    rollout=config.rollout(turns=2, samples=2, every=2),
    arms=_arms(),
    turns=2,
    critic_engine=_engine(),
    eval_split="validation",
  )
  experiment.train_refiner.generator = "../sft"
  experiment.run_refine.update(
    generator="../sft", reviser="../sft", critic="../sft", temperature=0.7
  )
  experiment.make_report.update(shown="model", curves=())
  _on_policy(experiment)
  _sampled(experiment)
  experiment.layouts = config.plain_layouts()
  experiment.train_rationalyst = config.writer(
    config.checkpoint("../sft"),
    _train(2, best_metric="loss", best_mode="min"),
    data=_data(48),
    engine=_engine(),
    sampling=_words(),
  )
  experiment.export_hf = config.export_hf("../sft", shard_bytes=8192)
  return experiment


def _engine():
  return config.engine(slots=8, prompt_buckets=(80,))


def _data(prompt=24):
  return config.data(max_prompt=prompt, max_target=24, batching="pad")


def _words(temperature=0.0):
  return config.sampling(max_tokens=8, temperature=temperature)


def _train(steps, **settings):
  return config.train(
    steps=steps,
    optimizer=config.optimizer(1e-3, schedule="constant"),
    **{
      "batch_size": 8,
      "log_every": 1,
      "eval_every": 2,
      "eval_rows": 4,
      "save_every": 2,
      "keep_last": 9,
      "best_metric": "answer",
      **settings,
    },
  )


def _arms():
  return {
    "model": config.arm("model"),
    "shuffled": config.arm("oracle", words="shuffled"),
    "vote": config.arm(
      "vote", candidates=3, budget_of="model", temperature=0.9
    ),
  }


def _on_policy(experiment):
  """Rounds of eight problems, four updates each."""
  experiment.train_reft = config.train_reft(
    model=config.checkpoint("../sft"),
    train=_train(2, batch_size=16, save_every=1),
    ppo=config.ppo(
      minibatch=8, kl_target=0.5, kl_horizon=40.0, reference_memory="host"
    ),
    rollout=config.on_policy(samples=2),
  )
  experiment.train_online_st = config.train_online_st(
    model=config.checkpoint("../sft"),
    train=_train(2, batch_size=16, save_every=1),
    rollout=config.on_policy(samples=2),
    minibatch=8,
  )


def _sampled(experiment):
  """Samples, and what reads them; problems do not come out even."""
  experiment.run_sample = config.run_sample(
    n=3, sampling=_words(0.9), generator="../sft", rows=(0, 11), chunk=3
  )
  experiment.make_self_training_data = config.make_self_training_data(cap=2)
  experiment.train_reranker = config.train_reranker(
    model=config.checkpoint("../sft"),
    data=_data(),
    train=config.reranker_training(
      3e-3, 3, 8, eval_every=1, eval_rows=4, log_every=1
    ),
    balance=0.5,
    language=0.1,
  )
  experiment.run_evaluate = config.run_evaluate(
    systems={"warm": config.system("../sft", reranker="../reranker")},
    sampling=_words(0.9),
    n=3,
    ks=(1, 3),
    chunk=2,
    resamples=20,
  )
