"""Sampling, self-training, reranking and evaluation on easy arithmetic."""

from refine_jax import config


def get_config(text=""):
  config.arguments(text)
  model = config.llama(width=32, layers=1, heads=2, mlp=64, max_length=64)
  data = config.data(max_prompt=24, max_target=24, batching="pad")
  sampling = config.sampling(max_tokens=20, temperature=1.0, top_k=0)
  train = config.train(
    steps=120,
    batch_size=32,
    optimizer=config.optimizer(1e-2, schedule="constant"),
    log_every=40,
    eval_every=60,
    eval_rows=20,
    keep_last=2,
    best_metric="answer",
  )
  generator = {
    "examples": "",
    "split": "train",
    "eval_split": "validation",
    "rows": 0,
    "share": 1.0,
    "options": {},
    "model": model,
    "train": train,
  }
  reranker = config.reranker_training(
    3e-3, 20, 16, eval_every=10, eval_rows=6, log_every=5
  )
  systems = {
    "warm": config.system("../warm_start", reranker="../reranker"),
    "last": config.system("../warm_start", select="last"),
  }
  experiment = config.ConfigDict(
    {
      "seed": 0,
      "task": config.task(
        "arithmetic", form="text", difficulty=1, size=300, test_size=14
      ),
      "tokenizer": config.tokenizer(
        "../tokenizer/tokenizer", vocab_size=200, model_type="words", texts=600
      ),
      "template": config.template(),
      "mesh": config.mesh(),
      "engine": config.engine(slots=32, prompt_buckets=(24,)),
      "data": data,
      "completion": config.sampling(max_tokens=20),
      "train_generator": generator,
      "run_sample": config.run_sample(
        n=4, sampling=sampling, rows=(0, 40), chunk=8
      ),
      "make_self_training_data": config.make_self_training_data(cap=2),
      "train_reranker": config.train_reranker(
        model=config.checkpoint("../warm_start"),
        data=data.copy_and_resolve_references(),
        train=reranker,
        balance=0.5,
        language=0.1,
      ),
      "run_evaluate": config.run_evaluate(
        systems=systems,
        sampling=sampling.copy_and_resolve_references(),
        n=4,
        ks=(1, 2, 4),
        resamples=200,
      ),
    }
  )
  experiment.mesh.devices = 1
  return experiment
