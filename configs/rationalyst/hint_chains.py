"""RATIONALYST from scratch on chains with planted hints, minutes on a CPU.

    --config=configs/rationalyst/hint_chains.py[:compat,smoke,...]

A base learns to calculate and to obey hints, but not the rule of the
documents. Planted rationales (half of them right) pass the likelihood filter;
a writer learns from what is kept; candidates are scored under what it writes.
`compat` takes the original's code where that makes a difference: the pooled
mean, threshold 0 without calibration, the decayed sum per token, the stop that
comes a round late. `sft` turns the writer into the control that learns the
steps themselves from the same rows.
"""

from refine_jax import config


def get_config(text=""):
  args = config.arguments(
    text,
    model="llama",
    candidates=6,
    documents=0,
    sft=False,
    compat=False,
    smoke=False,
  )
  experiment = _experiment(args)
  if args.compat:
    _compat(experiment)
  if args.sft:
    experiment.train_rationalyst.target = "following"
  return config.smoke_rationalyst(experiment) if args.smoke else experiment


def _train(rate, steps, **settings):
  return config.train(
    steps=steps,
    batch_size=32,
    optimizer=config.optimizer(
      rate, schedule="linear", warmup_steps=50, b2=0.98
    ),
    log_every=100,
    **settings,
  )


def _experiment(args):
  model = config.llama(
    width=64, layers=2, heads=4, mlp=256, max_length=64, unroll=2, init_std=0.1
  )
  data = config.data(max_prompt=16, max_target=32, batching="pad")
  engine = config.engine(slots=64, prompt_buckets=(16, 40))
  hint = config.sampling(max_tokens=6)
  trunks = config.trunks(slots=64, length=56, pieces=(8, 24))
  return config.rationalyst(
    task=config.task("hint_chains"),
    tokenizer=config.tokenizer(
      "../tokenizer/tokenizer", model_type="words", vocab_size=200, texts=99
    ),
    template=config.template(generator_end="\n"),
    model=model,
    layouts=config.plain_layouts(),
    engine=engine,
    data=data,
    completion=config.sampling(max_tokens=20),
    train_generator=config.generator(
      model.copy_and_resolve_references(),
      _train(3e-3, 1200, best_metric="valid", eval_every=1200, eval_rows=100),
      examples="../base_examples/examples.jsonl",
    ),
    make_documents=config.make_documents(
      sources=(
        config.source("chains", task_split="documents", rows=args.documents),
      ),
      references=(config.source("train", task_split="train", rows=200),),
      encoder=config.encoder("hash"),
      tokenizer=config.tokenizer("../tokenizer/tokenizer"),
      evaluation=(config.source("test", task_split="test"),),
      block=256,
    ),
    make_rationales=config.make_rationales(
      annotator="task", trunks=trunks, sampling=hint
    ),
    make_rationale_data=config.make_rationale_data(
      scorer="../base",
      trunks=config.trunks(slots=64, length=56, pieces=(8, 24)),
      lengths={"preceding": 30, "following": 16, "rationale": 6},
      labels="../rationales/labels.jsonl",
      labelled=200,
      evaluation=(config.source("test", task_split="test"),),
    ),
    train_rationalyst=config.writer(
      config.checkpoint("../base"),
      _train(
        1e-3,
        500,
        best_metric="loss",
        best_mode="min",
        eval_every=100,
        eval_rows=200,
      ),
      data=config.data(max_prompt=32, max_target=8, batching="bucket"),
      engine=config.engine(slots=64, prompt_buckets=(16, 40)),
      sampling=config.sampling(max_tokens=6),
    ),
    run_stepwise=config.run_stepwise(
      arms=config.stepwise_arms("../base", sft="../sft"),
      trunks=trunks,
      agent="../base",
      scorer="../base",
      step=config.sampling(max_tokens=6, temperature=1.0),
      rationale=hint,
      candidates=args.candidates,
      cap=6,
      together=64,
      answers=(),
    ),
  )


def _compat(experiment):
  experiment.make_documents.pooled = True
  experiment.make_documents.strip = True
  experiment.make_rationale_data.labels = ""
  experiment.make_rationale_data.allowed = ("leak", "answer only")
  experiment.run_stepwise.late_stop = True
  experiment.run_stepwise.arms["implicit"].aggregate = "decayed"
