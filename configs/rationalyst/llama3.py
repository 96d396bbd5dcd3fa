"""RATIONALYST as published (arXiv 2410.01044): Llama-3-8B-Instruct throughout.

    --config=configs/rationalyst/llama3.py[:task=gsm8k,compat,smoke]

Needs the pretrained weights and The Pile (`monology/pile-uncopyrighted`) from
the hub; it has not been run. Table and section numbers are the paper's; what
is marked `code` was read in the authors' repository at be0b1cf. Licences:
GSM8K MIT, ECQA CDLA-Sharing-1.0 (over CommonsenseQA, MIT), ARC CC BY-SA 4.0,
ProofWriter CC BY 4.0 (source: unverified), Llama 3 its community licence.
"""

from refine_jax import config

BASE = "meta-llama/Meta-Llama-3-8B-Instruct"
TOLD = (
  "Solve the last problem as the ones before it are solved: one step per line,"
  " and the answer in the last line.\n\n"
)
# What announces an answer, and where solved examples are.
ANSWERS = {"competition_math": ("\\boxed",)}
SHOTS = {"mmlu_pro": "validation"}


def get_config(text=""):
  args = config.arguments(
    text,
    model="llama",
    task="gsm8k",
    path=config.data_folder(),
    base=BASE,
    candidates=3,
    sft=False,
    compat=False,
    smoke=False,
  )
  experiment = _experiment(args)
  if args.compat:
    _compat(experiment)
  if args.sft:
    experiment.train_rationalyst.target = "following"
  return _smoke(experiment) if args.smoke else experiment


def _train(steps, **settings):
  return config.train(
    steps=steps,
    batch_size=32,  # code: 2 GPUs x 2 rows x 8 accumulated
    micro_batches=8,
    # code: AdamW, 2e-5, no decay, cosine to 0, warm-up of 3 %, clip 1.0.
    optimizer=config.optimizer(
      2e-5, schedule="cosine", warmup_steps=round(0.03 * steps)
    ),
    **settings,
  )


def _experiment(args):
  options = {"form": "text"} if args.task == "gsm8k" else {}
  model = config.pretrained(args.base, dtype="bfloat16", remat="full")
  data = config.data(max_prompt=1024, max_target=512, on_long="cut_prompt_left")
  tests = (
    config.source(
      "gsm8k", dataset="gsm8k", config="main", split="test", text=("question",)
    ),
    config.source(
      "math", dataset="lighteval/MATH", split="test", text=("problem",)
    ),
    config.source(
      "ecqa",
      dataset="tau/commonsense_qa",
      split="validation",
      text=("question",),
    ),
    config.source(
      "arc",
      dataset="allenai/ai2_arc",
      config="ARC-Challenge",
      split="test",
      text=("question",),
    ),
    config.source(
      "hellaswag", dataset="Rowan/hellaswag", split="validation", text=("ctx",)
    ),
    config.source(
      "proofwriter",
      dataset="tasksource/proofwriter",
      split="test",
      text=("theory",),
    ),
    config.source(
      "mmlu_pro", dataset="TIGER-Lab/MMLU-Pro", split="test", text=("question",)
    ),
  )
  references = (
    config.source(
      "gsm8k",
      dataset="gsm8k",
      config="main",
      split="train",
      text=("question", "answer"),
    ),
    config.source(
      "ecqa",
      dataset="yangdong/ecqa",
      split="train",
      text=("q_text", "q_op1", "q_op2", "q_op3", "q_op4", "q_op5"),
    ),
    config.source(
      "arc",
      dataset="allenai/ai2_arc",
      config="ARC-Challenge",
      split="train",
      text=("question",),
    ),
    config.source(
      "proofwriter",
      dataset="tasksource/proofwriter",
      split="train",
      text=("question", "theory"),
      rows=20_000,
    ),
  )
  hint = config.sampling(max_tokens=128)
  trunks = config.trunks(slots=64, length=2048)
  return config.rationalyst(
    task=config.task(args.task, path=args.path, **options),
    tokenizer=config.tokenizer(args.base),
    model=model,
    layouts=config.llama3_layouts(),
    engine=config.engine(slots=64, prompt_buckets=(256, 1024)),
    data=data,
    completion=config.sampling(max_tokens=512),
    # The matched-data control: question -> solution (code).
    train_generator=config.generator(
      model.copy_and_resolve_references(),
      _train(1166, best_metric="answer", eval_every=250),
      eval_split="validation",
    ),
    make_documents=config.make_documents(
      sources=(
        config.source(
          "pile",
          dataset="monology/pile-uncopyrighted",
          split="train",
          subset="meta.pile_set_name",
        ),
      ),
      references=references,
      # code: the script that was launched loads this one.
      encoder=config.encoder("sentence-transformers/all-mpnet-base-v2"),
      tokenizer=config.tokenizer(args.base),
      evaluation=tests,
      # The paper's six; notes on it name other ones than the code.
      subsets=(
        "Pile-CC",
        "StackExchange",
        "Github",
        "HackerNews",
        "PubMed Central",
        "Wikipedia (en)",
      ),
      threshold=0.3,  # code
    ),
    make_rationales=config.make_rationales(
      annotator=args.base,
      trunks=config.trunks(slots=32, length=6144),
      # code: greedy, one completion; max_tokens 3000.
      sampling=config.sampling(max_tokens=3000),
      stop=("\n\nText:",),
      gate=0.9,  # code
    ),
    make_rationale_data=config.make_rationale_data(
      scorer=args.base,
      trunks=config.trunks(slots=64, length=2048),
      lengths={"preceding": 1536, "following": 128, "rationale": 128},
      decay=0.9,  # section 3.2
      # Section 4.1; all subsets of The Pile have 0.
      thresholds={"gsm8k": 1.2, "ecqa": 0.5},
      evaluation=tests,
    ),
    train_rationalyst=config.writer(
      config.pretrained(args.base, dtype="bfloat16", remat="full"),
      # Steps: source: unverified (20 epochs configured, an early checkpoint
      # used); three epochs of 79k rationales here.
      _train(7400, best_metric="loss", best_mode="min", patience=3),
      data=config.data(max_prompt=896, max_target=128),  # code: 1024 in all
      engine=config.engine(slots=64, prompt_buckets=(256, 896)),
      sampling=hint,
    ),
    run_stepwise=config.run_stepwise(
      arms=config.stepwise_arms(args.base, sft="../sft"),
      trunks=trunks,
      agent=args.base,
      scorer=args.base,
      # code: 3 samples at 0.7.
      step=config.sampling(max_tokens=256, temperature=0.7),
      rationale=hint,
      candidates=args.candidates,
      cap=15,  # code
      stop=("\n",),
      rationale_stop=("<EOT>",),
      answers=ANSWERS.get(
        args.task, ("the answer is", "the correct answer is", "answer:")
      ),
      before=TOLD,
      shots=8,
      shot_split=SHOTS.get(args.task, "train"),
    ),
  )


def _compat(experiment):
  experiment.make_documents.update(pooled=True, strip=True)
  section = experiment.make_rationale_data
  section.thresholds = ()  # code: 0 for everything
  section.allowed = ("leak", "answer only")
  experiment.run_stepwise.late_stop = True


def _smoke(experiment):
  """Random weights, bytes and the embedded task instead of what is large."""
  experiment.task = config.task("hint_chains", size=200)
  experiment.tokenizer = config.tokenizer("byte")
  experiment.template.generator_end = "\n"
  sizes = {"width": 16, "layers": 1, "heads": 2, "mlp": 32}
  tiny = config.llama(max_length=1024, **sizes)
  experiment.model = tiny
  base = experiment.train_generator
  base.update(model=tiny, examples="../base_examples/examples.jsonl")
  base.eval_split = "dev"
  base.train.best_metric = "valid"
  experiment.train_rationalyst.model = config.checkpoint("../base")
  documents = experiment.make_documents
  documents.encoder = config.encoder("hash")
  documents.tokenizer = config.tokenizer("byte")
  documents.sources = (
    config.source("chains", task_split="documents", rows=40),
  )
  documents.references = (config.source("train", task_split="train", rows=40),)
  tests = (config.source("test", task_split="test"),)
  documents.evaluation = tests
  documents.subsets = ()
  experiment.make_rationales.annotator = "task"
  experiment.make_rationale_data.update(evaluation=tests, scorer="../base")
  run = experiment.run_stepwise
  run.update(agent="../base", scorer="../base", answers=(), shots=1)
  run.arms["base rationales"].writer = "../base"
  run.step.max_tokens = 12
  for sampling in (run.rationale, experiment.train_rationalyst.sampling):
    sampling.max_tokens = 12
  for section in (experiment.make_rationale_data, run):
    section.trunks.update(length=1024, pieces=(64, 512))
  experiment.make_rationale_data.lengths.update(preceding=512)
  experiment.engine.prompt_buckets = (1000,)
  experiment.train_rationalyst.engine.prompt_buckets = (896,)
  experiment.completion.max_tokens = 16
  experiment = config.smoke_rationalyst(experiment)
  experiment.make_rationale_data.labels = ""
  experiment.make_rationale_data.tau = -1000.0
  experiment.make_rationale_data.thresholds = ()
  return experiment
