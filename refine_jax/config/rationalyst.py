"""Experiments in the manner of RATIONALYST (arXiv 2410.01044)."""

from typing import Any

from ml_collections import ConfigDict

from refine_jax.config import blocks

INSTRUCTION = (
  "Copy the text and add rationales to it. A rationale is a short remark,"
  " between {open} and {close}, right before the sentence or step it explains:"
  " the reason, unstated in the text, why just this comes next. It helps a"
  " reader to guess what follows, says nothing the text has said already and"
  " never gives a result or an answer away. Every {open} has one {close}. Do"
  " not change, leave out or add anything else."
)
# Texts of our own; the plain ones are made of them.
DEMONSTRATIONS = (
  "Question: A baker fills 6 trays with 8 rolls each and sells 30 rolls. How"
  " many are left?\nAnswer: <BOT>first the number of all rolls is needed<EOT>"
  " 6 trays of 8 rolls are 6 * 8 = 48 rolls. <BOT>those sold have to be taken"
  " away<EOT> After the sale 48 - 30 = 18 rolls are left. The answer is 18",
  "Question: Where would you look for a stamp? Choices: A - envelope B -"
  " bicycle C - river\nAnswer: <BOT>stamps go with what is sent by post<EOT> An"
  " envelope is sent by post and carries a stamp. <BOT>see whether the second"
  " choice has to do with post<EOT> A bicycle is for riding. <BOT>the same for"
  " the third choice<EOT> A river is water. The answer is A",
  "def total(prices):\n  <BOT>a sum starts from nothing<EOT> result = 0\n "
  " <BOT>every price has to be looked at once<EOT> for price in prices:\n   "
  " <BOT>and counted in<EOT> result += price\n  return result",
)
JUDGE = (
  "Below are a question and the first steps of an answer. Give the steps a"
  " reward: 3 if they are right and useful, 2 if right, 1 if doubtful, 0 if"
  " wrong. Write the number alone.\n\n"
)


def layout(
  *,
  open: str = "",
  hint_open: str = " <BOT>",
  hint_close: str = "<EOT>",
  turn: str = "\n",
  join: str = "\n",
  forbidden: tuple[str, ...] = ("<BOT>", "<EOT>"),
) -> ConfigDict:
  """See `methods.layout.Layout`."""
  return ConfigDict(dict(locals()))


def llama3_layouts() -> dict[str, ConfigDict]:
  """Llama 3's chat; every role has its own system message or none."""
  head = "<|start_header_id|>{}<|end_header_id|>\n\n"
  end = "<|eot_id|>"
  user, assistant = head.format("user"), head.format("assistant")
  forbidden = (
    "<BOT>",
    "<EOT>",
    end,
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
  )

  def system(text):
    return head.format("system") + text + end

  turn = f"{end}{assistant}"
  scorer = system(
    "Continue the text. What stands between <BOT> and <EOT> is a remark on"
    " what comes next; it may help or not."
  )
  return {
    # The original's writer has no system message (section 6 of its code).
    "writer": layout(open=user, turn=turn, forbidden=forbidden),
    "scorer": layout(open=scorer + user, turn=turn, forbidden=forbidden),
    # One step is one assistant turn.
    "agent": layout(
      open=user,
      hint_open="Remark: ",
      hint_close=turn,
      turn=turn,
      join=turn,
      forbidden=forbidden,
    ),
    "judge": layout(open=user + JUDGE, turn=turn, forbidden=forbidden),
  }


def plain_layouts() -> dict[str, ConfigDict]:
  """Lines of text, for models without a chat format."""
  return {
    "writer": layout(turn="\n<BOT>"),
    "scorer": layout(hint_open="\n<BOT>", hint_close="<EOT>"),
    "agent": layout(hint_open="<BOT>", hint_close="<EOT>\n"),
    "judge": layout(turn="\n"),
  }


def source(
  name: str,
  *,
  text: tuple[str, ...] = ("text",),
  subset: str = "subset",
  path: str = "",
  dataset: str = "",
  tfds: str = "",
  split: str = "",
  config: str = "",
  task_split: str = "",
  rows: int = 0,
) -> dict[str, Any]:
  """Rows with texts in one or more fields (dotted where nested), joined by
  line ends; `rows=0` takes all. A path, a data set or a split of the task."""
  return dict(locals())


def encoder(
  path: str, *, instruction: str = "", positions: int = 8192
) -> ConfigDict:
  """A sentence-transformers folder or hub name, `package:NAME/folder` for
  weights installed with pip, or `hash` for counted words."""
  return ConfigDict(dict(locals()))


def trunks(
  *, slots: int, length: int, pieces: tuple[int, ...] = (8, 32, 128, 512)
) -> ConfigDict:
  """Kept sequences at a time, their length, and the lengths read at once."""
  return ConfigDict(dict(locals()))


def make_documents(
  *,
  sources: tuple[dict, ...],
  references: tuple[dict, ...],
  encoder: ConfigDict,
  tokenizer: ConfigDict,
  evaluation: tuple[dict, ...] = (),
  threshold: float = 0.3,
  pooled: bool = False,
  strip: bool = False,
  subsets: tuple[str, ...] = (),
  segment_tokens: int = 512,
  block: int = 512,
  near_duplicates: float = 0.8,
  ngram: int = 13,
) -> ConfigDict:
  """Threshold: cosine, inclusive (arXiv 2410.01044, code at be0b1cf)."""
  return ConfigDict(dict(locals()))


def rationale_instruction(
  system: str = INSTRUCTION,
  demonstrations: tuple[str, ...] = DEMONSTRATIONS,
  user: str = "Text:\n",
  assistant: str = "\nWith rationales:\n",
  end: str = "\n\n",
) -> ConfigDict:
  """What an annotator is told; see `methods.rationales.Instruction`."""
  return ConfigDict(dict(locals()))


def make_rationales(
  *,
  annotator: str,
  trunks: ConfigDict,
  sampling: ConfigDict,
  instruction: ConfigDict | None = None,
  endpoint: dict[str, Any] | None = None,
  documents: str = "../documents/documents.jsonl",
  rows: int = 0,
  open: str = "<BOT>",
  close: str = "<EOT>",
  stop: tuple[str, ...] = (),
  gate: float = 0.9,
  block: int = 64,
) -> ConfigDict:
  """`annotator` is `task` (which plants them), `endpoint`, or a model's path.

  The gate is the original's: edit similarity of at least 0.9.
  """
  settings = {**locals(), "endpoint": endpoint or {}}
  settings["instruction"] = instruction or rationale_instruction()
  return ConfigDict(settings)


def make_rationale_data(
  *,
  trunks: ConfigDict,
  scorer: str,
  lengths: dict[str, int],
  rationales: str = "../rationales/rationales.jsonl",
  released: bool = False,
  decay: float = 0.9,
  tau: float = 0.0,
  thresholds: dict[str, float] | None = None,
  labels: str = "",
  labelled: int = 0,
  precision: float = 0.95,
  phrases: tuple[str, ...] = ("####", "the answer is"),
  allowed: tuple[str, ...] = (),
  evaluation: tuple[dict, ...] = (),
  ngram: int = 13,
  dev_share: float = 0.05,
) -> ConfigDict:
  """The filter.

  Args:
    thresholds: by source; `tau` for the others.
    labels: rows {"id", "label"}; with them the thresholds are calibrated to
      `precision` on the first `labelled` rationales (0 for all).
    allowed: faults that are let through.
  """
  settings = {**locals(), "thresholds": tuple((thresholds or {}).items())}
  return ConfigDict(settings)


def stepwise_arm(
  selector: str,
  *,
  writer: str = "",
  agent: str = "",
  aggregate: str = "mean",
  candidates: int = 0,
  temperature: float = -1.0,
  budget_of: str = "",
) -> ConfigDict:
  """One row of the table.

  Args:
    selector: first, random, likelihood, implicit, shuffled, explicit,
      rationale_confidence, reward, or vote (whole solutions).
    writer, agent: models; empty for the run's own.
    aggregate: of a candidate's tokens: mean, decayed or sum.
    candidates: per round; 0 takes the run's. For vote, solutions at most.
    temperature: of steps; -1 takes the run's.
    budget_of: for vote, the arm whose tokens per problem it may spend.
  """
  return ConfigDict(dict(locals()))


def stepwise_arms(base: str, sft: str = "") -> dict[str, ConfigDict]:
  """RATIONALYST with all its controls.

  Args:
    base: the untrained model, which then writes rationales too.
    sft: a model that learned the same rows' solutions, if there is one.
  """
  arms = {
    "random": stepwise_arm("random"),
    "first": stepwise_arm("first"),
    "likelihood": stepwise_arm("likelihood"),
    "implicit": stepwise_arm("implicit"),
    "implicit decayed": stepwise_arm("implicit", aggregate="decayed"),
    "shuffled": stepwise_arm("shuffled"),
    "base rationales": stepwise_arm("implicit", writer=base),
    "explicit": stepwise_arm("explicit"),
    "rationale confidence": stepwise_arm("rationale_confidence"),
    "reward": stepwise_arm("reward"),
    "greedy": stepwise_arm("first", candidates=1, temperature=0.0),
    "majority vote": stepwise_arm("vote", candidates=32, budget_of="implicit"),
  }
  if sft:
    arms["fine-tuned agent"] = stepwise_arm("first", agent=sft, candidates=1)
    arms["fine-tuned agent"].temperature = 0.0
  return arms


def run_stepwise(
  *,
  arms: dict[str, ConfigDict],
  trunks: ConfigDict,
  agent: str,
  scorer: str,
  step: ConfigDict,
  rationale: ConfigDict,
  writer: str = "../rationalyst",
  judge: str = "",
  split: str = "test",
  rows: tuple[int, int] = (0, 0),
  options: dict[str, Any] | None = None,
  candidates: int = 3,
  cap: int = 15,
  late_stop: bool = False,
  together: int = 64,
  stop: tuple[str, ...] = ("\n",),
  rationale_stop: tuple[str, ...] = ("<EOT>", "\n"),
  answers: tuple[str, ...] = ("the answer is", "the correct answer is"),
  before: str = "",
  after: str = "",
  shots: int = 0,
  shot_split: str = "train",
  shot_seed: int = 14,
  ready: str = "",
  references: tuple[str, ...] = ("random", "likelihood", "shuffled"),
  others: tuple[str, ...] = (),
) -> ConfigDict:
  """Stepwise inference over `rows` (first, last; last 0 for all) of a split.

  Args:
    before, after: around a question.
    shots: solved problems of `shot_split` between `before` and the question,
      chosen by `shot_seed` (the original's is 14).
    together: problems that advance together; processes share such blocks.
    answers: one of these announces an answer; none asks the task alone.
    ready: a rationale that is not shown under explicit supervision.
    others: arms' folders of other runs, which must have asked alike.
  """
  settings = {**locals(), "options": options or {}, "order": tuple(arms)}
  return ConfigDict(settings)


def rationalyst(
  *,
  task: ConfigDict,
  tokenizer: ConfigDict,
  model: ConfigDict,
  layouts: dict[str, ConfigDict],
  engine: ConfigDict,
  data: ConfigDict,
  completion: ConfigDict,
  train_generator: ConfigDict,
  make_documents: ConfigDict,
  make_rationales: ConfigDict,
  make_rationale_data: ConfigDict,
  train_rationalyst: ConfigDict,
  run_stepwise: ConfigDict,
  template: ConfigDict | None = None,
) -> ConfigDict:
  """All sections that the binaries of RATIONALYST read.

  The stages of one seed lie side by side: tokenizer, base_examples, base,
  documents, rationales, rationale_data, rationalyst, sft, stepwise.
  """
  return ConfigDict(
    {
      "seed": 0,
      "mesh": blocks.mesh(),
      **locals(),
      "template": template or blocks.template(),
    }
  )


def generator(
  model: ConfigDict,
  train: ConfigDict,
  *,
  examples: str = "",
  split: str = "train",
  eval_split: str = "dev",
) -> ConfigDict:
  """A `train_generator` section without options of its own."""
  settings = {**locals(), "rows": 0, "share": 1.0, "options": {}}
  return ConfigDict(settings)


def writer(
  model: ConfigDict,
  train: ConfigDict,
  *,
  data: ConfigDict,
  engine: ConfigDict,
  sampling: ConfigDict,
  rows: str = "../rationale_data/train.jsonl",
  dev_rows: str = "../rationale_data/dev.jsonl",
) -> ConfigDict:
  """A `train_rationalyst` section; `target` is `rationale`, or `following`
  for the control that learns solutions from the same rows."""
  return ConfigDict({**locals(), "target": "rationale"})


def smoke_rationalyst(experiment: ConfigDict) -> ConfigDict:
  """The same experiment in a minute or two: few rows, updates and problems."""
  for section, steps in (("train_generator", 6), ("train_rationalyst", 4)):
    train = experiment[section].train
    blocks.smoke_train(train, steps)
    train.eval_every = steps // 2
  experiment.make_rationales.rows = 12
  experiment.make_rationale_data.dev_share = 0.3
  experiment.make_rationale_data.labelled = 16
  experiment.make_rationale_data.precision = 0.1
  experiment.run_stepwise.update(rows=(0, 4), cap=3, together=4)
  experiment.run_stepwise.trunks.slots = 4
  experiment.make_rationale_data.trunks.slots = 8
  experiment.run_stepwise.arms["majority vote"].candidates = 2
  experiment.engine.slots = 8
  experiment.train_rationalyst.engine.slots = 8
  if experiment.model.family:
    blocks.shrink(experiment.model.overrides)
  return experiment
