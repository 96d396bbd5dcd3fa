"""The engine next to transformers' generate and generate_batch.

    python benchmarks/engine_vs_peers.py --json

The same LLaMA with the same random weights in float32, the same requests and
budgets, the same number of threads and the same allocator settings. Ragged
budgets are GSM8K's answer lengths (see engine_counts.py), fixed ones are equal.
Nothing ends before its budget. Runs alternate: a ratio of tokens per second,
ours over theirs, is taken of each pair.

Peers run in processes of their own: this interpreter where it has torch and
transformers, else an environment that is made under --environments. Where
google-tunix cannot be had its figures are null, and stderr says why.

The last line of stdout is one JSON object.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "benchmarks"):
  if str(folder) not in sys.path:
    sys.path.insert(0, str(folder))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from refine_jax.stages import allocator  # noqa: E402

allocator.keep_memory()

import engine_counts as counts  # noqa: E402
import numpy as np  # noqa: E402

from refine_jax.data.tokenizer import ByteTokenizer  # noqa: E402
from refine_jax.models import hf, llama  # noqa: E402
from refine_jax.sampling.engine import Engine, Request, Sampling  # noqa: E402

TORCH = ("torch==2.13.0", "transformers>=5,<6")
SIDES = ("generate", "generate_batch")
CONFIG = llama.LlamaConfig(
  vocab_size=2048,
  width=256,
  layers=4,
  heads=4,
  kv_heads=4,
  head_dim=64,
  mlp=704,
  tied=True,
)
PROMPT, FIXED, SLOTS = 64, 96, 64

Runs = list[tuple[list[int], int]]


def python_with(packages: tuple[str, ...], where: pathlib.Path) -> str:
  """An interpreter that has them; a new environment if this one has not."""
  names = [package.split("==")[0].split(">=")[0] for package in packages]
  if all(importlib.util.find_spec(name) for name in names):
    return sys.executable
  python = where / "bin" / "python"
  if not python.exists():
    print(f"making {where} with {', '.join(packages)}", file=sys.stderr)
    venv.create(where, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "-q", *packages]
    subprocess.run(pip, check=True, stdout=sys.stderr)
  return str(python)


class Peer:
  """A running engine_peer.py."""

  def __init__(self, python: str, side: str, folder: str, slots: int):
    threads = str(len(os.sched_getaffinity(0)))
    script = str(ROOT / "benchmarks" / "engine_peer.py")
    self._process = subprocess.Popen(
      [python, script, side, folder, str(slots), threads],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env={**os.environ, "OMP_NUM_THREADS": threads},
    )
    self._answer()

  def _answer(self) -> dict:
    while line := self._process.stdout.readline():
      if line.startswith("{"):
        return json.loads(line)
    raise RuntimeError("the peer ended, see above")

  def __call__(self, runs: Runs) -> float:
    """Tokens per second."""
    self._process.stdin.write(json.dumps(runs) + "\n")
    self._process.stdin.flush()
    found = self._answer()
    assert found["tokens"] == sum(tokens for _, tokens in runs), found
    return found["tokens"] / found["seconds"]

  def close(self) -> None:
    self._process.stdin.close()
    self._process.wait(30)


def ours(params, slots: int):
  engine = Engine(
    llama.Llama(CONFIG),
    ByteTokenizer(),
    slots=(slots,),
    prompt_buckets=(PROMPT,),
    token_buckets=(counts.CAP // 2,),
    bos=False,
  )

  def run(runs: Runs) -> float:
    requests = [
      Request(f"r{i}", (tuple(ids),), sampling=counts.exactly(tokens))
      for i, (ids, tokens) in enumerate(runs)
    ]
    start = time.perf_counter()
    groups = engine.generate(params, requests, Sampling())
    seconds = time.perf_counter() - start
    drawn = [len(group[0].tokens) for group in groups]
    assert drawn == [tokens for _, tokens in runs]
    return sum(drawn) / seconds

  return run


def requests(count: int) -> dict[str, Runs]:
  rng = np.random.default_rng(0)
  prompts = [
    rng.integers(3, CONFIG.vocab_size, rng.integers(PROMPT // 2, PROMPT))
    for _ in range(count)
  ]
  ragged = [min(n, counts.CAP // 2) for n in counts.lengths()[:count]]
  return {
    "ragged": [
      (ids.tolist(), n) for ids, n in zip(prompts, ragged, strict=True)
    ],
    "fixed": [(ids.tolist(), FIXED) for ids in prompts[: count // 4]],
  }


def compare(mine, peer, runs: Runs, pairs: int) -> dict[str, float]:
  mine(runs[: len(runs) // 4]), peer(runs[: len(runs) // 4])  # warm
  ratios = []
  for i in range(pairs):
    # Whoever goes first changes from pair to pair.
    first, second = (mine, peer) if i % 2 == 0 else (peer, mine)
    a, b = first(runs), second(runs)
    one, other = (a, b) if i % 2 == 0 else (b, a)
    ratios.append(one / other)
    print(f"  {one:9.0f} ours {other:9.0f} theirs", file=sys.stderr)
  return {
    "median": statistics.median(ratios),
    "min": min(ratios),
    "max": max(ratios),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--json", action="store_true", help="one object, last")
  parser.add_argument("--requests", type=int, default=512)
  parser.add_argument("--pairs", type=int, default=5)
  parser.add_argument("--slots", type=int, default=SLOTS)
  parser.add_argument(
    "--environments",
    type=pathlib.Path,
    default=pathlib.Path.home() / ".cache" / "refine_jax",
  )
  asked = parser.parse_args()
  family = llama.Llama(CONFIG)
  params = counts.parameters(family)
  runs = requests(asked.requests)
  mine = ours(params, asked.slots)
  found: dict[str, dict | None] = {}
  python = python_with(TORCH, asked.environments / "peers-torch")
  with tempfile.TemporaryDirectory() as folder:
    hf.save(folder, family, params)
    for side in SIDES:
      peer = Peer(python, side, folder, asked.slots)
      for kind in ("ragged", "fixed"):
        if (kind, side) == ("fixed", "generate_batch"):
          continue
        print(f"{kind} over {side}", file=sys.stderr)
        found[f"{kind}_over_{side}"] = compare(
          mine, peer, runs[kind], asked.pairs
        )
      peer.close()
  for kind in ("ragged", "fixed"):
    found[f"{kind}_over_tunix"] = None
  print(
    "tunix: not compared; its sampler takes strings through a tokenizer and a"
    " model of its own, and no side for it is written yet",
    file=sys.stderr,
  )
  if not asked.json:
    for key, value in found.items():
      print(f"{key:28} {value}")
  print(json.dumps(found))


if __name__ == "__main__":
  main()
