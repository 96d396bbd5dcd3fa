"""Flags, distributed start-up and the workdir's config, for every binary.

    python -m refine_jax.stages.X --config=configs/...py[:arguments] \\
        --workdir=... [--config.field=value ...]
"""

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from refine_jax import files, records
from refine_jax.models.hf import BadFolder
from refine_jax.stages import distributed, reading
from refine_jax.training import workdir as workdirs

# A stage's `main`: does the work and returns one line saying what it made.
Main = Callable[[ConfigDict, files.Path], str]

# What may change between two starts in one workdir: it changes no result.
FREE = (
  "run_refine.only",
  "run_refine.share",
  "run_refine.sessions",
  "run_sample.chunk",
  "run_evaluate.chunk",
  "train_reft.ppo.reference_memory",
  *(
    f"{stage}.train.{field}"
    for stage in (
      "train_generator",
      "train_critic",
      "train_refiner",
      "train_reranker",
      "train_reft",
      "train_online_st",
    )
    for field in ("log_every", "profile_steps")
  ),
)
# What a user can mend; told in one line, without a traceback.
USER_ERRORS = (
  reading.BadConfig,
  BadFolder,
  distributed.BadEnvironment,
  records.BadRow,
  workdirs.ConfigMismatch,
  FileNotFoundError,
  IsADirectoryError,
  NotADirectoryError,
  PermissionError,
)


def run(main: Main, sections: Sequence[str], *, saves: bool = False) -> None:
  """Parses flags and calls `main(config, workdir)`.

  Args:
    main: the stage.
    sections: the parts of the config that the stage reads. They are written
      to the workdir's config.json, and a later start there with other values
      is refused. A method's binaries share one config file, and a changed
      critic is no reason to refuse the generator's workdir.
    saves: see `distributed.join`; training does.
  """
  config_flags.DEFINE_config_file(
    "config", None, "file.py[:arguments]: the experiment.", lock_config=True
  )
  flags.DEFINE_string("workdir", None, "Everything is written under it.")
  flags.DEFINE_bool(
    "distributed",
    False,
    "Join the processes of a pod or a cluster (jax.distributed) first.",
  )
  flags.mark_flags_as_required(["config", "workdir"])

  def start(argv: list[str]) -> None:
    with distributed.leaving():
      _start(main, sections, argv, saves)

  app.run(start, flags_parser=parse)


def parse(argv: list[str]) -> list[str]:
  """absl's parser; whatever is wrong with a flag is told in one line."""
  try:
    return flags.FLAGS(argv)
  except (
    flags.Error,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    FileNotFoundError,
  ) as error:
    # A ConfigDict wraps the one in the other.
    inner = error.args[0] if isinstance(error, AttributeError) else error
    if isinstance(inner, KeyError):
      refuse(f"the config has no field {inner.args[0]}")
    refuse(_first_cause(str(error)))


def refuse(message: object) -> NoReturn:
  """Tells a user's mistake and exits with code 2, as for a wrong flag."""
  print(f"error: {message}", file=sys.stderr, flush=True)
  sys.exit(2)


def _first_cause(message: str) -> str:
  """The last line of a config file's traceback, else the message itself."""
  found = re.findall(r"^\s*(?:[\w.]+\.)?\w+(?:Error|Row): (.*)$", message, re.M)
  return found[-1] if found else message.strip()


def load_config(spec: str) -> ConfigDict:
  """`file.py[:arguments]` -> its ConfigDict, as the flag would give it."""
  path, _, text = spec.partition(":")
  found = importlib.util.spec_from_file_location("config_file", path)
  module = importlib.util.module_from_spec(found)
  found.loader.exec_module(module)
  return module.get_config(text)


def _start(
  main: Main, sections: Sequence[str], argv: list[str], saves: bool
) -> None:
  if argv[1:]:
    refuse(f"unexpected arguments {argv[1:]}")
  values = flags.FLAGS
  # Orbax warns of files it does not need; our own words are printed.
  absl_logging.set_verbosity(absl_logging.ERROR)
  workdir = files.path(values.workdir)
  try:
    if values.distributed:
      distributed.join(saves=saves)
    read = _read(values.config, sections)
    _reach(workdir)
    if jax.process_index() == 0:
      workdir.mkdir(parents=True, exist_ok=True)
      workdirs.claim(workdir, read, free=FREE)
    line = main(values.config, workdir)
  except USER_ERRORS as error:
    refuse(error)
  except KeyboardInterrupt:
    sys.exit(130)
  except OSError as error:
    if error.errno is None:
      refuse(error)
    refuse(f"{os.strerror(error.errno)}: {error.filename or error}")
  if jax.process_index() == 0:
    print(line, flush=True)


def _reach(workdir: files.Path) -> None:
  """BadConfig where the library that knows such buckets is not installed."""
  try:
    workdir.exists()
  except ImportError as error:
    raise reading.BadConfig(
      f"--workdir={workdir}: {error} (pip install refine_jax[gcs])"
    ) from None


def _read(config: ConfigDict, sections: Sequence[str]) -> dict[str, Any]:
  """The sections a stage reads; BadConfig names one that is not there."""
  values = config.to_dict()
  for name in sections:
    if name not in values:
      raise reading.BadConfig(
        f"the config has no {name!r}; it has {', '.join(sorted(values))}"
      )
  return {name: values[name] for name in sections}
