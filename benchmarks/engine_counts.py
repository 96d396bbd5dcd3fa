"""What the engine does, in exact counts.

    python benchmarks/engine_counts.py --json

Tiny models with random weights; every figure is counted in real runs, but
for the bytes of a step, which XLA counts in the compiled program of a larger
model. Lengths are imposed by `max_tokens` with `min_tokens` equal to it.

4,096 requests have the lengths of GSM8K answers (gsm8k/answer_lengths.json
under REFINE_JAX_DATA, else a lognormal fitted to them: log length of mean
4.2576 and deviation 0.4735), 64 slots, a cap of 700. "Run-ons" are 3 % of
them, which go to the cap.

The last line of stdout is one JSON object; docs/performance.md explains it.
"""

import argparse
import concurrent.futures
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
  sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402
from flax import linen as nn  # noqa: E402

from refine_jax import sharding  # noqa: E402
from refine_jax.data.tokenizer import ByteTokenizer  # noqa: E402
from refine_jax.models import families, galactica, llama, t5  # noqa: E402
from refine_jax.sampling import pool, waiting  # noqa: E402
from refine_jax.sampling.engine import Engine, Request, Sampling  # noqa: E402

NAMES = ("llama", "galactica", "t5")
REQUESTS, SLOTS, CAP, RUN_ONS = 4096, 64, 700, 0.03
CHECKED = 128  # requests that static batches really answer
TOKENIZER = ByteTokenizer()


def model(name: str, *, width: int, heads: int, layers: int, vocab: int):
  """A family of these sizes."""
  size = {"vocab_size": vocab, "width": width, "mlp": 2 * width}
  dim = width // heads
  if name == "llama":
    config = llama.LlamaConfig(
      **size, layers=layers, heads=heads, kv_heads=heads, head_dim=dim
    )
    return llama.Llama(config)
  if name == "galactica":
    config = galactica.GalacticaConfig(**size, layers=layers, heads=heads)
    return galactica.Galactica(config)
  config = t5.T5Config(
    **size,
    heads=heads,
    head_dim=dim,
    encoder_layers=layers,
    decoder_layers=layers,
  )
  return t5.T5(config)


def parameters(family, seed: int = 0):
  rng = np.random.default_rng(seed)

  def leaf(path, x):
    if "norm" in jax.tree_util.keystr(path):
      return jax.numpy.ones(x.shape, x.dtype)
    return jax.numpy.asarray(0.3 * rng.normal(size=x.shape), x.dtype)

  shapes = nn.unbox(families.abstract_params(family))
  return jax.tree_util.tree_map_with_path(leaf, shapes)


def lengths() -> list[int]:
  """Tokens of 4,096 GSM8K answers."""
  folder = os.environ.get("REFINE_JAX_DATA")
  file = pathlib.Path(folder or "") / "gsm8k" / "answer_lengths.json"
  if folder and file.is_file():
    found = json.loads(file.read_text())["lengths"]
  else:
    drawn = np.random.default_rng(0).lognormal(4.2576, 0.4735, REQUESTS)
    found = np.maximum(1, drawn.round()).astype(int).tolist()
  return [min(n, CAP) for n in found[:REQUESTS]]


def exactly(tokens: int, **settings) -> Sampling:
  return Sampling(max_tokens=tokens, min_tokens=tokens, **settings)


def request(i: int, length: int, sampling: Sampling, n: int = 1) -> Request:
  rng = np.random.default_rng(i)
  ids = tuple(rng.integers(3, 16, length).tolist())
  return Request(f"r{i}", (ids,), n, sampling=sampling)


def engine(family, **changes) -> Engine:
  settings = {
    "slots": (SLOTS,),
    "prompt_buckets": (8,),
    "token_buckets": (CAP,),
    "context": None,
    "chunk": 32,
  }
  return Engine(family, TOKENIZER, **{**settings, **changes})


def static_steps(wanted: list[int]) -> int:
  """Decoding steps of static batches: all wait for the slowest.

  A batch has its first tokens from the prefill.
  """
  batches = range(0, len(wanted), SLOTS)
  return sum(max(wanted[i : i + SLOTS]) - 1 for i in batches)


def ragged(family, params) -> dict:
  """Slots used and steps taken on the lengths of GSM8K answers.

  The refilling engine answers all requests, the static one the first `CHECKED`
  of them, which have to take the steps that `static_steps` says.
  """
  usual = lengths()
  rng = np.random.default_rng(1)
  strays = rng.random(len(usual)) < RUN_ONS
  runons = [CAP if s else n for s, n in zip(strays, usual, strict=True)]
  took = {}
  for mode, count in (("static", CHECKED), ("refill", len(usual))):
    # A model's lengths are not known before, so theirs are not used either.
    one = engine(family, mode=mode, longest_first=False)
    for name, wanted in (("usual", usual), ("runons", runons)):
      one.statistics.clear()
      asked = [
        request(i, 4, exactly(n, temperature=1.0))
        for i, n in enumerate(wanted[:count])
      ]
      got = one.generate(params, asked)
      assert [len(g[0].tokens) for g in got] == wanted[:count]
      took[mode, name] = one.statistics.steps
      if mode == "static":
        assert one.statistics.steps == static_steps(wanted[:count])
      elif name == "usual":
        use = one.statistics.slot_use
        syncs = one.statistics.syncs / one.statistics.tokens
  return {
    "slot_use": use,
    "decode_steps_ratio": static_steps(usual) / took["refill", "usual"],
    "decode_steps_ratio_runons": static_steps(runons)
    / took["refill", "runons"],
    "syncs_per_token": syncs,
    "slot_use_runons": one.statistics.slot_use,
  }


def mixed(count: int, first: int, n=(1, 2, 12)) -> list[Request]:
  """Requests of every length, temperature, number and budget."""
  rng = np.random.default_rng(first)
  return [
    request(
      first + i,
      int(rng.integers(2, 8)),
      Sampling(
        temperature=float(rng.choice([0.0, 0.7, 1.0, 1.3])),
        top_k=int(rng.choice([0, 5])),
        top_p=float(rng.choice([1.0, 0.9])),
        min_p=float(rng.choice([0.0, 0.05])),
        repetition_penalty=float(rng.choice([1.0, 1.2])),
        max_tokens=int(rng.integers(8, 33)),
        min_tokens=int(rng.integers(0, 8)),
        seed=first,
      ),
      n=n[i % len(n)],
    )
    for i in range(count)
  ]


def compilations(family, params) -> int:
  one = engine(family, slots=(8, 64), token_buckets=(32,))
  one.warm_up(params)
  one.statistics.clear()
  for first in (100, 200, 300):
    one.generate(params, mixed(40, first))
  one.generate(params, mixed(1, 400, n=(100,)))
  one.generate(params, mixed(3, 500))
  return one.statistics.compilations


def many(family, params) -> dict:
  """100 samples of one prompt: item 3."""
  one = engine(family, token_buckets=(32,))
  asked = request(0, 7, exactly(8, temperature=1.0), n=100)
  one.generate(params, [asked])
  given = len(one.encode(asked.prompt))
  return {
    "prefill_over_prompt": one.statistics.prompt_tokens / given,
    "padding_prefilled": one.statistics.prompt_padding,
  }


def turns(family, params) -> float | None:
  """Three turns of conversations that grow: item 4."""
  if family.encoder_decoder:
    return None
  one = engine(family, prompt_buckets=(16, 64), token_buckets=(16,))
  session = one.session(params)
  names = [session.open(((3 + i, 4, 5, 6 + i % 7),)) for i in range(10)]
  due = sum(len(session.tokens(name)) for name in names)
  for turn in range(3):
    if turn:
      for i, name in enumerate(names):
        session.append(name, (tuple(range(3, 5 + i % 3)),))
        due += 2 + i % 3 + 1  # and the token sampled last
    session.generate(names, exactly(9, temperature=1.0))
  return one.statistics.prompt_tokens / due


def invariant(family, params) -> bool:
  """Item 5: alone, in every slot, by chunk, devices and mode."""
  asked = mixed(12, 700)
  # In order of arrival, so that an order can be tried.
  settings = {"token_buckets": (32,), "slots": (16,), "longest_first": False}

  def drawn(one, params, requests):
    groups = one.generate(params, requests)
    return {s.id: s.tokens for group in groups for s in group}

  def tokens(params, asked, **changes):
    return drawn(engine(family, **{**settings, **changes}), params, asked)

  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  placed = jax.device_put(
    params, sharding.of_variables(families.abstract_params(family), mesh)
  )
  one = engine(family, **settings)
  expected = drawn(one, params, asked)
  alone = [drawn(one, params, [request]) for request in asked]
  # Slots that share a prompt are programs of their own.
  apart = [request for request in asked if request.n <= 2]
  found = [
    *alone,
    tokens(params, apart, chunk=1),
    tokens(params, apart, chunk=16, longest_first=True),
    tokens(params, asked, slots=(1,)),
    tokens(params, asked, mode="static"),
    tokens(placed, asked, mesh=mesh),
  ]
  # Turned by one, a request begins in another slot each time.
  few = mixed(16, 800, n=(1,))
  expected |= drawn(one, params, few)
  for turn in range(16):
    found.append(drawn(one, params, few[turn:] + few[:turn]))
  return all(one[name] == expected[name] for one in found for name in one)


@dataclasses.dataclass(frozen=True)
class Sizes:
  """A model large enough that its bytes are what a step moves.

  Slots and room are those of the other counts.
  """

  width: int = 512
  heads: int = 8
  layers: int = 8
  vocab: int = 1024
  slots: int = SLOTS
  prompt: int = 128
  room: int = CAP


def moved(name: str) -> dict:
  """Item 8: bytes of one step, and what of the cache is updated in place."""
  size = Sizes()
  family = model(
    name,
    width=size.width,
    heads=size.heads,
    layers=size.layers,
    vocab=size.vocab,
  )
  weights = jax.eval_shape(
    family.decode_weights, nn.unbox(families.abstract_params(family))
  )
  slots = jax.eval_shape(
    lambda: pool.empty_slots(
      family,
      slots=size.slots,
      group=1,
      room=size.room,
      prompt_length=size.prompt,
    )
  )
  queue = jax.eval_shape(
    lambda: waiting.empty_queue(
      family, places=size.slots, length=size.prompt, tickets=4 * size.slots
    )
  )
  log = jax.eval_shape(lambda: pool.empty_log(32, size.slots))
  step = jax.jit(
    lambda weights, slots, log: pool.step(family, weights, slots, log),
    donate_argnums=(1, 2),
  )
  counted = step.lower(weights, slots, log).compile().cost_analysis()
  cache = total(slots.cache)
  # An encoder is no part of a step.
  read = {k: v for k, v in weights.items() if k != "encoder"}
  flag = jax.ShapeDtypeStruct((), bool)
  halted = jax.ShapeDtypeStruct((size.slots,), np.int32)
  chunk = jax.jit(
    lambda weights, slots, queue, more, halted: pool.chunk(
      family, weights, slots, queue, more, (halted, halted), steps=32
    ),
    donate_argnums=(1, 2),
  )
  memory = (
    chunk.lower(weights, slots, queue, flag, halted).compile().memory_analysis()
  )
  return {
    "step_bytes_over_ideal": counted["bytes accessed"] / (total(read) + cache),
    "cache_aliased": memory.alias_size_in_bytes >= cache + total(queue.cache),
    "chunk_temporaries_over_cache": memory.temp_size_in_bytes / cache,
  }


def total(tree) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


PARTS = {
  "ragged": lambda name, *both: ragged(*both),
  "invariant": lambda name, *both: {"batch_invariant": invariant(*both)},
  "compilations": lambda name, *both: {"compilations": compilations(*both)},
  "turns": lambda name, *both: {"multi_turn_prefill_over_due": turns(*both)},
  "many": lambda name, *both: many(*both),
  "moved": lambda name, *both: moved(name),
}
# What a process of its own counts; the longest begin first. Where compiling is
# most of the time, XLA is told to be quick about it, which changes how code is
# generated and not what is counted.
SHARES = {
  ("ragged",): False,
  ("invariant", "compilations", "turns", "many", "moved"): True,
}


def flags(quick: bool) -> str:
  """XLA's, for a process."""
  given = os.environ.get("XLA_FLAGS", "")
  given += " --xla_force_host_platform_device_count=8"
  if not quick:
    return given
  given += " --xla_backend_optimization_level=0"
  given += " --xla_llvm_disable_expensive_passes=true"
  jaxlib = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
  # Newer XLA does not know the flag, and dies of one it does not know.
  return given + " --xla_cpu_use_fusion_emitters=false" * (jaxlib < (0, 11))


def measure(name: str, parts) -> dict:
  family = model(name, width=4, heads=1, layers=1, vocab=16)
  params = parameters(family)
  found: dict = {}
  for part in parts:
    start, busy = time.perf_counter(), time.process_time()
    figures = PARTS[part](name, family, params)
    found.update(figures)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    print(
      f"{name} {part}: {seconds:.0f} s, {busy:.0f} s of CPU: {figures}",
      file=sys.stderr,
      flush=True,
    )
  return found


def in_process(name: str, parts, quick: bool) -> dict:
  """Some of a family's figures, counted in a process of its own."""
  command = [sys.executable, __file__, "--here", "--family", name]
  done = subprocess.run(
    [*command, "--part", *parts],
    stdout=subprocess.PIPE,
    text=True,
    check=True,
    env={**os.environ, "XLA_FLAGS": flags(quick)},
  )
  return json.loads(done.stdout.splitlines()[-1])


def in_processes(names, parts) -> dict:
  """All that is asked, as many processes at a time as there are cores."""
  work = [
    (name, [part for part in share if part in parts], quick)
    for share, quick in SHARES.items()
    for name in names
  ]
  work = [one for one in work if one[1]]
  found: dict = {name: {} for name in names}
  cores = len(os.sched_getaffinity(0))
  with concurrent.futures.ThreadPoolExecutor(cores) as threads:
    counted = threads.map(lambda one: in_process(*one), work)
    for (name, *_), figures in zip(work, counted, strict=True):
      found[name].update(figures)
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--json", action="store_true", help="one object, last")
  parser.add_argument("--family", choices=NAMES, nargs="+", default=NAMES)
  parser.add_argument("--part", choices=PARTS, nargs="+", default=[*PARTS])
  parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
  asked = parser.parse_args()
  if asked.here:
    print(json.dumps(measure(asked.family[0], asked.part)))
    return
  found = in_processes(asked.family, asked.part)
  if not asked.json:
    for name, figures in found.items():
      for key, value in figures.items():
        print(f"{name:10} {key:32} {value}")
  print(json.dumps(found))


if __name__ == "__main__":
  main()
