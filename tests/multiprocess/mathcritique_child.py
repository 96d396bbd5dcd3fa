"""MathCritique's makers of data in one process, or in one of several.

A program, see `dealing_child`. Its folders are the keys of `STAGES`.
"""

import sys

import dealing_child
import joined

# Folder -> stage, and the config's phase.
STAGES = {
  "tokenizer": ("train_tokenizer", ""),
  "bootstrap": ("make_mathcritique_data", ",phase=bootstrap"),
  "actor0": ("train_generator", ",phase=draft"),
  "critic_data": ("make_mathcritique_data", ""),
  "critic1_data": ("make_self_improve_data", ""),
  "talk": ("make_self_talk_data", ""),
  "trajectory": ("make_self_talk_data", ""),
}


def config_of(phase=""):
  """An actor that ends its answers, a check that likes some of them, and
  chunks that do not come out even."""
  from refine_jax.stages import launch

  config = launch.load_config(
    f"{dealing_child.TOP}/configs/mathcritique/arithmetic.py:smoke{phase}"
  )
  config.mesh.devices = 1
  config.completion.max_tokens, config.feedback.max_tokens = 24, 16
  for engine in (config.engine, config.train_critic.engine):
    engine.update(slots=8, prompt_buckets=(128,))
  config.data.update(max_prompt=128, max_target=64, batching="pad")
  train = config.train_generator.train
  train.steps, train.optimizer.learning_rate = 160, 1e-2
  train.update(eval_every=0)
  config.task.name = "lenient_arithmetic:Lenient"
  config.make_mathcritique_data.chunk = 5
  for section in (config.make_self_improve_data, config.make_self_talk_data):
    section.update(chunk=3, critic="../actor0")
  config.make_self_improve_data.update(own_feedback=True, refinements=4)
  config.make_self_talk_data.annotator = "oracle"
  return config


def run(root, folder):
  """One stage in its folder under `root`; what it said."""
  name, phase = STAGES[folder]
  config = config_of(phase)
  if folder == "trajectory":
    config.make_self_talk_data.form = folder
  return joined.stage(name, config, root / folder)


if __name__ == "__main__":
  dealing_child.main(run, *sys.argv[1:])
