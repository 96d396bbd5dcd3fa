"""Where a config's sections become objects: bad values are told in one line.

A ValueError may be a user's or ours. It is the user's if it comes of making
what a section describes; then the launcher tells it without a traceback.
"""

import contextlib
from collections.abc import Iterator

from refine_jax import records


class BadConfig(ValueError):
  """A config asks for what is not there or cannot be."""


@contextlib.contextmanager
def reading(section: str) -> Iterator[None]:
  """Complaints about a section's values become BadConfig and name it.

  Put it around constructors that check what they are given, and nothing
  else: what computes keeps its errors.
  """
  try:
    yield
  except (BadConfig, records.BadRow):
    raise
  except (ValueError, TypeError) as error:
    raise BadConfig(f"config.{section}: {error}") from error
