"""Flags, distributed start-up and the workdir's config, for every binary.

    python -m refine_jax.stages.X --config=configs/...py[:arguments] \\
        --workdir=... [--config.field=value ...]
"""

import contextlib
import difflib
import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from refine_jax import records
from refine_jax.stages import allocator
from refine_jax.training import workdir as workdirs

# A stage's `main`: does the work and returns one line saying what it made.
Main = Callable[[ConfigDict, pathlib.Path], str]

# What a user can mend; told in one line, without a traceback.
USER_ERRORS = (
  records.BadRow,
  workdirs.ConfigMismatch,
  FileNotFoundError,
  IsADirectoryError,
  NotADirectoryError,
  PermissionError,
)


def run(main: Main, sections: Sequence[str]) -> None:
  """Parses flags and calls `main(config, workdir)`.

  Args:
    main: the stage.
    sections: the parts of the config that the stage reads. They are written
      to the workdir's config.json, and a later start there with other values
      is refused. A method's binaries share one config file, and a changed
      critic is no reason to refuse the generator's workdir.
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
  allocator.keep_memory()
  app.run(
    lambda argv: _start(main, sections, argv),
    flags_parser=_parse,
  )


def _parse(argv: list[str]) -> list[str]:
  """absl's parser, with a suggestion for a mistyped config field."""
  try:
    return app.parse_flags_with_usage(argv)
  except AttributeError as error:
    sys.exit(f"error: {_suggest(str(error), argv)}")
  except (TypeError, ValueError, FileNotFoundError) as error:
    sys.exit(f"error: {error}")


def _suggest(message: str, argv: list[str]) -> str:
  match = re.search(r"[\"'](\w+)[\"']", message)
  if not match:
    return message
  with contextlib.suppress(Exception):
    config = _config_of(argv)
    names = sorted({n for path in _fields(config) for n in path.split(".")})
    if close := difflib.get_close_matches(match[1], names, 1):
      return f"no config field {match[1]!r}; did you mean {close[0]!r}?"
  return message


def _config_of(argv: list[str]) -> ConfigDict:
  """The config named on the command line, without any overrides."""
  spec = next(a.split("=", 1)[1] for a in argv if a.startswith("--config="))
  return load_config(spec)


def load_config(spec: str) -> ConfigDict:
  """`file.py[:arguments]` -> its ConfigDict, as the flag would give it."""
  path, _, text = spec.partition(":")
  found = importlib.util.spec_from_file_location("config_file", path)
  module = importlib.util.module_from_spec(found)
  found.loader.exec_module(module)
  return module.get_config(text)


def _fields(config: ConfigDict, prefix: str = "") -> list[str]:
  names = []
  for key, value in config.items():
    names.append(prefix + key)
    if isinstance(value, ConfigDict):
      names.extend(_fields(value, f"{prefix}{key}."))
  return names


def _start(main: Main, sections: Sequence[str], argv: list[str]) -> None:
  if argv[1:]:
    sys.exit(f"error: unexpected arguments {argv[1:]}")
  values = flags.FLAGS
  absl_logging.set_verbosity(absl_logging.WARNING)
  if values.distributed:
    jax.distributed.initialize()
  config, workdir = values.config, pathlib.Path(values.workdir)
  try:
    read = {name: config.to_dict()[name] for name in sections}
    if jax.process_index() == 0:
      workdir.mkdir(parents=True, exist_ok=True)
      workdirs.guard(workdir, read)
    line = main(config, workdir)
  except USER_ERRORS as error:
    sys.exit(f"error: {error}")
  except KeyboardInterrupt:
    sys.exit(130)
  except OSError as error:
    if error.errno is None:
      raise
    sys.exit(f"error: {os.strerror(error.errno)}: {error.filename or error}")
  if jax.process_index() == 0:
    print(line, flush=True)
