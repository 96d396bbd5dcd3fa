"""A user's own experiment: everything small."""

from refine_jax import config


def get_config(text=""):
  args = config.arguments(text, model="t5", ablations=False)
  sizes = {"width": 16, "heads": 2, "mlp": 32}
  if args.model == "t5":
    model = config.t5(encoder_layers=1, decoder_layers=1, **sizes)
  else:
    model = config.llama(layers=1, max_length=128, **sizes)
  critic = model.copy_and_resolve_references()
  train = config.train(
    steps=6,
    batch_size=8,
    optimizer=config.optimizer(1e-3, schedule="constant"),
    log_every=2,
    eval_every=3,
    eval_rows=4,
  )
  data = config.data(max_prompt=96, max_target=32, batching="pad")
  engine = config.engine(slots=8, prompt_buckets=(96,))
  experiment = config.refiner(
    task=config.task("reverse_task:Reverse", length=3),
    tokenizer=config.tokenizer(
      "../tokenizer/tokenizer", vocab_size=200, model_type="words", texts=99
    ),
    template=config.template(hypothesis=" was ", feedback=" but "),
    model=model,
    critic_model=critic,
    engine=engine,
    data=data,
    critic_data=data,
    completion=config.sampling(max_tokens=8),
    feedback=config.sampling(max_tokens=8),
    warm_start=train,
    train_critic=train.copy_and_resolve_references(),
    train_refiner=train.copy_and_resolve_references(),
    make_critic_data=config.make_critic_data(
      generator="../warm_start", samples=2, chunk=15
    ),
    rollout=config.rollout(turns=2, samples=1, every=2),
    arms=config.standard_arms(),
    turns=2,
    critic_engine=engine.copy_and_resolve_references(),
  )
  config.refiner_ablations(experiment, args.ablations)
  experiment.mesh.devices = 1
  return experiment
