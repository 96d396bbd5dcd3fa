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


@pytest.fixture
def process(monkeypatch):
  """Does the work of one of several processes; the first is to come last."""
  import jax

  from refine_jax import files
  from refine_jax.stages import distributed

  monkeypatch.setattr(distributed, "together", lambda what: None)
  monkeypatch.setattr(distributed, "spoken", lambda value: value)

  def run(main, index, count, config, folder):
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(jax, "process_count", lambda: count)
    if not files.remote(folder):
      folder.mkdir(exist_ok=True)
    return main(config, folder)

  return run
