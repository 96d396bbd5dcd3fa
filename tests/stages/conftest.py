"""A user's own task lies beside these tests."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """REFINER's ablations run with T5; with LLaMA when there is time."""
  for item in items:
    names = getattr(item, "fixturenames", ())
    if "ablations" in names and item.name.endswith("[llama]"):
      item.add_marker(pytest.mark.slow)
