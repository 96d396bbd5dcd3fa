"""Prints fields of a config, for launch scripts.

    python -m refine_jax.stages.show --config=FILE[:ARGS] \\
        [--config.field=value ...] FIELD [FIELD ...]

One line per field, such as `loop.iterations`, overrides included.
"""

from absl import app, flags
from ml_collections import config_flags

from refine_jax.stages import launch


def lines(config, fields: list[str]) -> list[str]:
  """The values of dotted fields, as text.

  Raises:
    KeyError: the config has no such field.
  """
  found = []
  for field in fields:
    value = config
    for name in field.split("."):
      if name not in value:
        raise KeyError(field)
      value = value[name]
    found.append(str(value))
  return found


def main(argv: list[str]) -> None:
  try:
    print("\n".join(lines(flags.FLAGS.config, argv[1:])))
  except KeyError as error:
    launch.refuse(f"the config has no field {error.args[0]}")


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "The experiment.")
  flags.mark_flags_as_required(["config"])
  app.run(main, flags_parser=launch.parse)
