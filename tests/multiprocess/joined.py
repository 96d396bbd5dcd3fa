"""What the programs of these tests share: stages in one of several processes,
or in one alone."""

import importlib


def each(wanted, run, *, saves):
  """Prints what `run` says of everything wanted, one after another; joins the
  other processes first (see `distributed.join`) if --distributed comes last."""
  from refine_jax.stages import distributed

  wanted = list(wanted)
  if wanted[-1] == "--distributed":
    wanted.pop()
    distributed.join(saves=saves)
  with distributed.leaving():
    for what in wanted:
      print(run(what), flush=True)


def stage(name, config, folder):
  """What a stage in a folder says."""
  folder.mkdir(exist_ok=True, parents=True)
  found = importlib.import_module(f"refine_jax.stages.{name}")
  return found.main(config, folder)
