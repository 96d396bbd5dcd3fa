"""The engine next to transformers' samplers and google-tunix's.

    python benchmarks/engine_vs_peers.py --json

The same LLaMA with the same random weights in float32, the same requests and
budgets, the same number of threads and the same allocator settings. Ragged
budgets are GSM8K's answer lengths (see engine_counts.py), fixed ones are equal.
Nothing ends before its budget. Ours begins requests in order of arrival, as if
it did not know which are long. Runs alternate: a ratio of tokens per second,
ours over theirs, is taken of each pair; what compiles is run before.

Peers run in processes of their own: this interpreter where it has their
packages, else an environment that is made under --environments. A peer that
cannot be had, fails or takes too long has null for its figures, and stderr
says why. The last line of stdout is one JSON object.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
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

# Modules that a peer needs, and what is installed for them, in this order.
# Of the first run, which is not counted, google-tunix needs all: it compiles
# for every batch's largest budget.
TORCH = ("torch", "transformers"), ("torch==2.13.0", "transformers>=5,<6")
TUNIX = ("tunix",), ("google-tunix",)
PEERS = {
  "generate": (TORCH, ("ragged", "fixed")),
  "generate_batch": (TORCH, ("ragged",)),
  "tunix": (TUNIX, ("ragged", "fixed")),
}
CONFIG = llama.LlamaConfig(
  vocab_size=2048,
  width=256,
  layers=3,
  heads=4,
  kv_heads=4,
  head_dim=64,
  mlp=704,
  tied=True,
  rope_theta=1e6,  # what google-tunix's LLaMA has whatever its config says
)
PROMPT, FIXED, SLOTS = 64, 96, 64
WEIGHTS = {"ragged": 3, "fixed": 1}  # of a comparison's time
INSTALL_SECONDS, RUN_SECONDS = 600, 240

Runs = list[tuple[list[int], int]]


def say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


# -------------------------------------------------------------------- peers


def python_with(
  modules: tuple[str, ...], packages: tuple[str, ...], where: pathlib.Path
) -> str:
  """An interpreter that has them; a new environment if this one has not."""
  if all(importlib.util.find_spec(name) for name in modules):
    return sys.executable
  python, whole = where / "bin" / "python", where / "installed"
  if not whole.exists():
    say(f"making {where} with {', '.join(packages)}")
    venv.create(where, with_pip=True, clear=True)
    for package in packages:
      pip = [str(python), "-m", "pip", "install", "-q", package]
      subprocess.run(
        pip, check=True, stdout=sys.stderr, timeout=INSTALL_SECONDS
      )
    whole.touch()
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
      env={**os.environ, "OMP_NUM_THREADS": threads, "TQDM_DISABLE": "1"},
    )
    self.compiles = side == "tunix"
    self._lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=self._listen, daemon=True).start()
    self.first: list[int] = []
    self._answer()

  def _listen(self) -> None:
    for line in self._process.stdout:
      self._lines.put(line)
    self._lines.put("")

  def _answer(self) -> dict:
    try:
      line = self._lines.get(timeout=RUN_SECONDS)
    except queue.Empty:
      raise TimeoutError(f"no answer in {RUN_SECONDS} s") from None
    if not line:
      raise RuntimeError(f"the peer ended with {self._process.wait()}")
    return json.loads(line)

  def __call__(self, runs: Runs) -> float:
    """Tokens per second."""
    self._process.stdin.write(json.dumps(runs) + "\n")
    self._process.stdin.flush()
    found = self._answer()
    wanted = [tokens for _, tokens in runs]
    if found["tokens"] != wanted:
      raise RuntimeError(f"drew {found['tokens']} tokens, not {wanted}")
    self.first = found["first"]
    return sum(wanted) / found["seconds"]

  def close(self) -> None:
    self._process.kill()
    self._process.wait(30)


class Ours:
  """The engine, called as a peer is."""

  def __init__(self, params, slots: int):
    self._params, self.first = params, []
    self._engine = Engine(
      llama.Llama(CONFIG),
      ByteTokenizer(),
      slots=(slots,),
      prompt_buckets=(PROMPT,),
      token_buckets=(counts.CAP // 2,),
      longest_first=False,
      bos=False,
    )

  def __call__(self, runs: Runs) -> float:
    requests = [
      Request(f"r{i}", (tuple(ids),), sampling=counts.exactly(tokens))
      for i, (ids, tokens) in enumerate(runs)
    ]
    start = time.perf_counter()
    groups = self._engine.generate(self._params, requests, Sampling())
    seconds = time.perf_counter() - start
    drawn = [len(group[0].tokens) for group in groups]
    assert drawn == [tokens for _, tokens in runs]
    self.first = list(groups[0][0].tokens)
    return sum(drawn) / seconds


# -------------------------------------------------------------- comparisons


def requests(count: int) -> dict[str, Runs]:
  rng = np.random.default_rng(0)
  prompts = [
    rng.integers(3, CONFIG.vocab_size, rng.integers(PROMPT // 2, PROMPT))
    for _ in range(count)
  ]
  budgets = zip(prompts, counts.lengths()[:count], strict=True)
  return {
    "ragged": [(ids.tolist(), n) for ids, n in budgets],
    "fixed": [(ids.tolist(), FIXED) for ids in prompts[: count // 4]],
  }


def compare(mine: Ours, peer: Peer, runs: Runs, pairs: int, until) -> dict:
  """Median, least and greatest of ours over theirs.

  Args:
    until: the time after which no pair should end; fewer are made then.
  """
  few = runs if peer.compiles else runs[:SLOTS]
  mine(few), peer(few)
  same = [a == b for a, b in zip(mine.first, peer.first, strict=True)]
  say(f"  {same.index(False) if False in same else 'all'} first tokens agree")
  ratios = []
  for i in range(pairs):
    start = time.perf_counter()
    # Whoever goes first changes from pair to pair.
    order = (mine, peer) if i % 2 == 0 else (peer, mine)
    speed = {one: one(runs) for one in order}
    ratios.append(speed[mine] / speed[peer])
    say(f"  {speed[mine]:9.0f} ours {speed[peer]:9.0f} theirs, tokens/s")
    now = time.perf_counter()
    if i + 1 < pairs and 2 * now - start > until:
      say(f"  {i + 1} pairs of {pairs}: no time for more, see --minutes")
      break
  return {
    "median": statistics.median(ratios),
    "min": min(ratios),
    "max": max(ratios),
  }


class Clock:
  """Gives every comparison its part of the time that is left."""

  def __init__(self, minutes: float, kinds: list[str]):
    self._end = time.perf_counter() + 60 * minutes
    self._left = sum(map(WEIGHTS.__getitem__, kinds))

  def until(self, kind: str) -> float:
    now, weight = time.perf_counter(), WEIGHTS[kind]
    part = (self._end - now) * weight / self._left
    self._left -= weight
    return now + part


def against(side: str, mine: Ours, runs, folder: str, asked, clock: Clock):
  """Figures of one peer; those it cannot give are None."""
  ((modules, packages), kinds) = PEERS[side]
  found = dict.fromkeys(f"{kind}_over_{side}" for kind in kinds)
  peer = None
  try:
    where = asked.environments / f"peers-{modules[0]}"
    python = python_with(modules, packages, where)
    peer = Peer(python, side, folder, asked.slots)
    for kind in kinds:
      say(f"{kind} over {side}")
      found[f"{kind}_over_{side}"] = compare(
        mine, peer, runs[kind], asked.pairs, clock.until(kind)
      )
  except (OSError, RuntimeError, subprocess.SubprocessError) as error:
    missing = [key for key, value in found.items() if value is None]
    say(f"{', '.join(missing)}: null, because of {error!r}")
  finally:
    if peer is not None:
      peer.close()
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--json", action="store_true", help="one object, last")
  parser.add_argument("--requests", type=int, default=512)
  parser.add_argument("--pairs", type=int, default=5)
  parser.add_argument("--slots", type=int, default=SLOTS)
  parser.add_argument("--minutes", type=float, default=18)
  parser.add_argument("--peer", choices=tuple(PEERS), help="this one alone")
  parser.add_argument(
    "--environments",
    type=pathlib.Path,
    default=pathlib.Path.home() / ".cache" / "refine_jax",
  )
  asked = parser.parse_args()
  family = llama.Llama(CONFIG)
  params = counts.parameters(family)
  runs, mine = requests(asked.requests), Ours(params, asked.slots)
  found: dict[str, dict | None] = {}
  sides = [asked.peer] if asked.peer else [*PEERS]
  start = time.perf_counter()
  clock = Clock(
    asked.minutes, [kind for side in sides for kind in PEERS[side][1]]
  )
  with tempfile.TemporaryDirectory() as folder:
    hf.save(folder, family, params)
    for side in sides:
      found.update(against(side, mine, runs, folder, asked, clock))
      say(f"{time.perf_counter() - start:.0f} s so far")
  if not asked.json:
    for key, value in found.items():
      print(f"{key:28} {value}")
  print(json.dumps(found))


if __name__ == "__main__":
  main()
