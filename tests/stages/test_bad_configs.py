"""What a config cannot ask for is told in one line, by every binary.

Exit code 2, no traceback; a bug of ours keeps its traceback and has code 1.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from refine_jax import records
from refine_jax.stages import reading

HERE = pathlib.Path(__file__).parent
BYTES = "--config.tokenizer.path=byte"
OTHER = "--config.tokenizer.train.texts=5"
TRAIN = "--config.train_generator.train."
# binary, flag, what is said
BAD = (
  ("train_tokenizer", "--config.tokenizer.texts=5", "no field 'texts'"),
  ("train_tokenizer", "--config.task.name=reverse_tusk", "no task"),
  ("train_generator", "--config.tokenizer.path=nowhere", "no tokenizer there"),
  ("train_generator", TRAIN + "optimizer.schedule=zigzag", "'zigzag'"),
  ("train_generator", TRAIN + "optimizer.name=sgd", "'sgd'"),
  ("train_generator", TRAIN + "micro_batches=3", "train.micro_batches=3"),
  ("train_generator", TRAIN + "best_mode=most", "'most'"),
  ("train_generator", TRAIN + "reduction=word", "'word'"),
  ("train_generator", "--config.data.on_long=cut", "'cut'"),
  ("train_generator", "--config.mesh.data=3", "mesh"),
  # Of a validation problem, before anything is trained.
  ("train_generator", "--config.engine.prompt_buckets=(4,)", "limit is 4"),
  ("make_critic_data", "--config.make_critic_data.split=tests", "'tests'"),
  ("make_critic_data", "--config.data.on_bad_row=ignore", "'ignore'"),
  ("train_critic", "--config.train_critic.critiques=a.jsonl", "no records"),
  ("train_refiner", "--config.train_refiner.critic=orakel", "'orakel'"),
  ("train_refiner", "--config.train_refiner.rollout.choose=best", "'best'"),
  ("run_refine", "--config.run_refine.only=('nobody',)", "'nobody'"),
  ("make_report", "--config.make_report.runs=none*", "no runs"),
)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
  """(flag) -> (exit code, what was said)."""
  root = tmp_path_factory.mktemp("bad")
  jobs = [
    {"stage": stage, "folder": f"{i}", "flags": [BYTES, flag]}
    for i, (stage, flag, _) in enumerate(BAD)
  ]
  jobs += [
    {"stage": "bug", "folder": "bug"},
    {"stage": "train_tokenizer", "folder": "used"},
    {"stage": "train_tokenizer", "folder": "used", "flags": [BYTES, OTHER]},
  ]
  spec = f"{HERE}/reverse_config.py"
  done = subprocess.run(
    [sys.executable, HERE / "refiner_child.py", spec, root, json.dumps(jobs)],
    env={
      **os.environ,
      "PYTHONPATH": str(HERE.parent.parent),
      # The same untrained model in most of them.
      "JAX_COMPILATION_CACHE_DIR": str(root / "cache"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    },
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return {
    (job["stage"], *job.get("flags", ())[1:]): (
      code,
      (root / f"{job['folder']}.stderr").read_text(),
    )
    for job, code in zip(jobs, json.loads(done.stdout), strict=True)
  }


@pytest.mark.parametrize(("stage", "flag", "words"), BAD)
def test_one_line(told, stage, flag, words):
  code, said = told[stage, flag]
  assert code == 2, said
  assert "Traceback" not in said
  line = said.strip().splitlines()[-1]
  assert line.startswith("error: ") and words in line, said


def test_a_bug_keeps_its_traceback(told):
  code, said = told["bug",]
  assert code == 1
  assert "Traceback" in said and "nobody's config" in said


def test_a_used_folder_shows_what_differs(told):
  assert told["train_tokenizer",][0] == 0
  code, said = told["train_tokenizer", OTHER]
  assert code == 2 and "Traceback" not in said
  assert "tokenizer.train.texts: 99 in the folder, 5 now" in said
  assert "tokenizer.path: '../tokenizer/tokenizer' in the folder" in said


def test_reading_names_the_section():
  with (
    pytest.raises(reading.BadConfig, match=r"^config\.model: nothing$"),
    reading.reading("model"),
  ):
    raise ValueError("nothing")


@pytest.mark.parametrize(
  "error",
  [
    reading.BadConfig("said already"),
    records.BadRow("says where it stands", file="a", line=1),
    ZeroDivisionError("not about a value"),
  ],
)
def test_reading_leaves_the_rest_alone(error):
  with pytest.raises(type(error)) as found, reading.reading("model"):
    raise error
  assert found.value is error


def test_help_needs_no_device():
  """Importing every binary starts nothing; --help is quick."""
  code = """
import pkgutil, importlib, sys
from refine_jax import stages
for info in pkgutil.iter_modules(stages.__path__):
  importlib.import_module(f"refine_jax.stages.{info.name}")
from jax._src import xla_bridge
sys.exit(xla_bridge.backends_are_initialized())
"""
  env = {**os.environ, "PYTHONPATH": str(HERE.parent.parent)}
  subprocess.run([sys.executable, "-c", code], env=env, check=True)
  start = time.monotonic()
  done = subprocess.run(
    [sys.executable, "-m", "refine_jax.stages.train_critic", "--help"],
    env={**env, "JAX_PLATFORMS": "tpu"},  # which is not there
    capture_output=True,
    text=True,
  )
  assert time.monotonic() - start < 30, "on a busy machine; 3 s otherwise"
  assert "Trains a critic" in done.stdout
