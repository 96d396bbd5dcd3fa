"""Published numbers of ReFT, as its tables and scripts give them."""

import pathlib

import pytest
from ml_collections import ConfigDict

from refine_jax.stages import build, launch

FILE = pathlib.Path(__file__).parent.parent / "configs" / "reft" / "ppo.py"


def load(text):
  return launch.load_config(f"{FILE}:{text}")


# Task, form, model -> the checkpoint the scripts start from, and the rounds of
# an epoch at their global batch.
STARTS = {
  ("gsm8k", "program", "codellama_7b"): (308, 230, 32),
  ("gsm8k", "text", "galactica_6_7b"): (312, 234, 32),
  ("svamp", "program", "codellama_7b"): (128, 96, 32),
  ("svamp", "text", "codellama_7b"): (130, 97, 32),
  ("mathqa", "program", "galactica_6_7b"): (636, 477, 32),
  ("mathqa", "text", "galactica_6_7b"): (1550, 465, 32),
  ("mathqa_numeric", "text", "codellama_7b"): (1870, 280, 32),
  ("gsm8k", "program", "galactica_125m"): (1540, 29, 256),
  ("svamp", "program", "galactica_125m"): (640, 12, 256),
  ("gsm8k", "program", "codeparrot_small"): (6160, 29, 256),
  ("mathqa", "program", "codegen_350m"): (12720, 120, 128),
}


@pytest.mark.parametrize("row", STARTS, ids="-".join)
def test_starts_and_epochs(row):
  task, form, model = row
  config = load(f"task={task},form={form},model={model}")
  start, epoch, batch = STARTS[row]
  assert config.train_reft.model.init_from == f"../sft/checkpoints/{start}"
  assert config.train_online_st.model == config.train_reft.model
  train = config.train_reft.train
  assert train.eval_every == epoch and train.batch_size == batch
  assert train.steps == epoch * (300 if "7b" in model else 700)
  # The start is among the checkpoints that the supervised run keeps.
  supervised = config.train_generator.train
  assert start % supervised.save_every == 0
  assert supervised.keep_last * supervised.save_every >= supervised.steps


def test_seven_billion_on_programs():
  config = load("")
  ppo, train = config.train_reft.ppo, config.train_reft.train
  assert train.steps == 69_000  # rollout batches; 138,000 updates
  assert (train.optimizer.learning_rate, train.optimizer.schedule) == (
    3e-7,
    "constant",
  )
  assert (ppo.passes, ppo.gamma, ppo.lam) == (2, 1.0, 0.95)
  assert (ppo.policy_clip, ppo.value_clip) == (0.2, 0.2)
  assert (ppo.value_coefficient, ppo.kl_coefficient) == (5.0, 0.01)
  assert (ppo.kl_kind, ppo.whitening) == ("k1", "global")
  assert (ppo.truncation, train.reduction) == ("terminal", "sequence")
  assert (ppo.value_model, ppo.value_init) == ("shared", "uniform")
  assert config.train_reft.rollout.max_prompt == 300
  assert config.completion.max_tokens == 400  # 700 in all
  supervised = config.train_generator.train
  assert (supervised.steps, supervised.batch_size) == (6160, 48)
  assert supervised.optimizer.warmup_steps == 616
  assert config.seed == 42


@pytest.mark.parametrize(
  "text,beta,alpha,rate,seed",
  [
    ("form=text", 0.05, 5, 3e-7, 42),
    ("form=text,task=mathqa_numeric", 0.01, 5, 3e-7, 42),
    ("model=galactica_125m", 0.01, 5, 3e-6, 42),
    ("model=codegen_350m", 0.01, 0.1, 3e-6, 43),
    ("model=codegen_350m,task=mathqa", 0.01, 0.1, 3e-6, 42),
    ("model=codeparrot_small,task=svamp", 0.01, 1, 3e-6, 42),
  ],
)
def test_coefficients(text, beta, alpha, rate, seed):
  config = load(text)
  section = config.train_reft
  assert section.ppo.kl_coefficient == beta
  assert section.ppo.value_coefficient == alpha
  assert section.train.optimizer.learning_rate == rate
  assert config.seed == seed


def test_offline_self_training():
  config = load("arm=offline")
  train = config.train_generator.train
  assert (train.epochs, train.warmup_fraction, train.eval_every) == (
    20,
    0.1,
    175,
  )
  assert config.train_generator.examples == "../offline_data/examples.jsonl"
  assert config.run_sample.n == 100 and config.run_sample.sampling.top_k == 50
  assert config.make_self_training_data.cap == 10


def test_ablations():
  assert load("variant=no_partial").train_reft.options.partial == 0
  assert load("variant=no_kl").train_reft.ppo.kl_coefficient == 0
  assert load("variant=separate_value").train_reft.ppo.value_model == "separate"
  assert load("variant=no_whitening").train_reft.ppo.whitening == "none"
  with pytest.raises(ValueError, match="variant is one of"):
    load("variant=no_value")
  with pytest.raises(ValueError, match="model is one of"):
    load("model=gpt5")


@pytest.mark.parametrize(
  "model", ["llama3_8b", "codellama_34b", "llama_7b", "t5_large", "codet5_770m"]
)
def test_models_without_a_published_row(model):
  assert load(f"model={model}").train_reft.train.batch_size == 32


def test_ablations_are_evaluated_beside_the_rest():
  evaluated = load("variants=no_kl+no_partial").run_evaluate
  assert evaluated.order[-2:] == ("ReFT, no_kl", "ReFT, no_partial")
  assert evaluated.systems["ReFT, no_kl"].generator == "../reft_no_kl"


@pytest.mark.parametrize(
  ("text", "rate", "epochs"),
  [
    ("", 1e-5, 40),
    ("model=galactica_6_7b,task=mathqa", 1e-5, 40),
    ("model=galactica_125m", 2e-5, 40),
    ("model=codegen_350m,task=mathqa", 2e-5, 100),
    ("model=codeparrot_small", 2e-5, 100),
  ],
)
def test_supervised_training(text, rate, epochs):
  """Section 4.3 and the scripts: 48 rows, a tenth of it warming up."""
  config = load(text)
  train, optimizer = (
    config.train_generator.train,
    config.train_generator.train.optimizer,
  )
  rows = 15_250 if "mathqa" in text else 7_356
  assert train.steps == epochs * -(-rows // 48)
  assert (train.batch_size, train.keep_last) == (48, epochs)
  assert optimizer.warmup_steps == train.steps // 10
  assert (optimizer.learning_rate, optimizer.schedule) == (rate, "linear")
  assert (optimizer.name, optimizer.b1, optimizer.b2) == ("adamw", 0.9, 0.999)
  assert (optimizer.weight_decay, optimizer.clip_norm) == (0, 1)


@pytest.mark.parametrize(
  ("text", "batch", "rate"),
  [
    ("", 32, 3e-7),
    ("model=galactica_125m", 256, 3e-6),
    ("model=codegen_350m", 128, 3e-6),
    ("model=codeparrot_small", 256, 3e-6),
  ],
)
def test_online_self_training_and_ppo_share_their_settings(text, batch, rate):
  config = load(text)
  online, ppo = config.train_online_st, config.train_reft
  for train in (online.train, ppo.train):
    assert train.batch_size == batch
    assert train.optimizer.learning_rate == rate
    assert train.optimizer.schedule == "constant"
    assert (train.optimizer.weight_decay, train.optimizer.clip_norm) == (0, 1)
  assert online.train.steps == ppo.train.steps
  assert (online.passes, online.gold, online.minibatch) == (2, 0.5, 0)
  assert online.rollout == ppo.rollout
  assert (online.rollout.temperature, online.rollout.samples) == (1, 1)


def test_sampling_and_lengths():
  config = load("model=codegen_350m,task=svamp")
  assert config.completion.max_tokens == 200  # 500 with the prompt
  sampling = config.run_sample.sampling
  assert (sampling.temperature, sampling.max_tokens) == (1.0, 724)
  assert config.make_self_training_data.choose == "first"
  offline = load("arm=offline").train_generator.train
  assert (offline.batch_size, offline.optimizer.learning_rate) == (48, 1e-5)
  assert offline.optimizer.schedule == "linear"


def test_warm_up_length():
  """An ablation of the paper; of the small configs it counts updates."""
  for epochs in (1, 5):
    section = load(f"warm={epochs}").train_reft
    assert section.model.init_from == f"../sft/checkpoints/{154 * epochs}"
  small = launch.load_config(f"{FILE.parent}/arithmetic.py:warm=100,rounds=7")
  assert small.train_generator.train.steps == 100
  sft = launch.load_config(
    f"{FILE.parent}/arithmetic.py:warm=100,rounds=7,arm=sft"
  )
  assert sft.train_generator.train.steps == 100 + 2 * 7


def test_no_partial_reward_reaches_the_rewards():
  config = launch.load_config(f"{FILE.parent}/arithmetic.py:variant=no_partial")
  rewards = []
  for options in ({}, config.train_reft.options):
    task = build.task(config.task, ConfigDict(options))
    problem = task.problem(task.source("train").rows[0])
    rewards.append(task.rewards([problem] * 2, ["a = 1 + 1 ; return a", ""]))
  assert rewards == [[0.1, 0.0], [0.0, 0.0]]
