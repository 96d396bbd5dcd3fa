"""Published numbers of ReFT, as its tables and scripts give them."""

import pathlib

import pytest

from refine_jax.stages import launch

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
