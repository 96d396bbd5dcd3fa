"""Every test sees eight host devices, no network and no accelerator."""

import importlib.metadata
import os
import pathlib

_JAXLIB = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))

# Before anything imports jax or a hub client.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile far longer than they compute: these make compiling four times
# quicker and change no result by more than rounding.
os.environ["XLA_FLAGS"] = " ".join(
  [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    # Newer XLA does not know the flag, and dies of one it does not know.
    "--xla_cpu_use_fusion_emitters=false" if _JAXLIB < (0, 11) else "",
  ]
)
# Plans read what the compiler writes, and of a program that comes out of
# somebody's cache it writes nothing.
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads spin
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Where TensorFlow is installed, epath would ask it for buckets.
os.environ["EPATH_USE_TF"] = "false"

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
  """The folder of published rows; skips where there is none."""
  folder = os.environ.get("REFINE_JAX_DATA")
  if not folder:
    pytest.skip("REFINE_JAX_DATA is not set: no published rows to read")
  if not pathlib.Path(folder).is_dir():
    pytest.skip(f"REFINE_JAX_DATA={folder} is not a folder")
  return pathlib.Path(folder)


@pytest.fixture
def bucket(monkeypatch) -> str:
  """An empty bucket in this process; see `object_store`."""
  import types

  import object_store
  from orbax.checkpoint._src.path import gcs_utils

  # Tensorstore reads both once, so they stay.
  os.environ["TENSORSTORE_GCS_HTTP_URL"] = object_store.serve()
  os.environ["GOOGLE_AUTH_TOKEN_FOR_TESTING"] = "nobody"
  # Asks Google's own client whether there are folders.
  monkeypatch.setattr(
    gcs_utils, "get_bucket", lambda _: types.SimpleNamespace()
  )
  object_store.OBJECTS.clear()
  return "gs://bucket"
