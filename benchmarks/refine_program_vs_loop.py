"""The refine loop as one program against the same loop over the engine.

    python benchmarks/refine_program_vs_loop.py --json

Random weights and questions, so nothing is accepted and every row takes every
turn; answers end at random, as sampled ones do. Runs alternate and a ratio of
times (plain loop over program, above 1 if the program is quicker) is taken of
each pair. Tokens are compared, too. The last line of stdout is one JSON object.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
  sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from refine_jax.stages import allocator  # noqa: E402

allocator.keep_memory()

import jax  # noqa: E402
import numpy as np  # noqa: E402
from flax import linen as nn  # noqa: E402

from refine_jax.data.tokenizer import WordTokenizer  # noqa: E402
from refine_jax.methods import critics, refine  # noqa: E402
from refine_jax.models import families, llama, t5  # noqa: E402
from refine_jax.records import Trajectory  # noqa: E402
from refine_jax.sampling import settings, turns  # noqa: E402
from refine_jax.sampling.engine import Engine, Sampling  # noqa: E402

VOCAB, ROWS, TURNS, QUESTION = 512, 32, 3, 48
ANSWER = Sampling(temperature=1.0, max_tokens=32, seed=1)
FEEDBACK = Sampling(temperature=1.0, max_tokens=16, seed=1)
TOKENIZER = WordTokenizer([f"w{i}" for i in range(VOCAB - 6)])
TEMPLATE = refine.Template("w0", "w1", "", "w2")
NO_HINT = "w3 w4 w5 w6 w7 w8 w9"


def models():
  return {
    "t5": t5.T5(
      t5.T5Config(
        VOCAB,
        width=128,
        mlp=256,
        heads=4,
        head_dim=32,
        encoder_layers=3,
        decoder_layers=3,
      )
    ),
    "llama": llama.Llama(
      llama.LlamaConfig(
        VOCAB, width=128, layers=4, heads=4, kv_heads=4, head_dim=32, mlp=352
      )
    ),
  }


def parameters(model):
  rng = np.random.default_rng(0)

  def leaf(path, x):
    if "norm" in jax.tree_util.keystr(path):
      return jax.numpy.ones(x.shape, x.dtype)
    return jax.numpy.asarray(0.05 * rng.normal(size=x.shape), x.dtype)

  shapes = nn.unbox(families.abstract_params(model))
  return jax.tree_util.tree_map_with_path(leaf, shapes)


def questions():
  rng = np.random.default_rng(1)
  lengths = rng.integers(QUESTION // 2, QUESTION + 1, ROWS)
  return [tuple(rng.integers(6, VOCAB, n).tolist()) for n in lengths]


def plain(model, params, asked):
  """A function that runs `methods.refine` and gives its trajectories."""

  def engine(tokens):
    return Engine(
      model,
      TOKENIZER,
      slots=(ROWS,),
      prompt_buckets=(QUESTION + 2, QUESTION + 40, QUESTION + 64),
      token_buckets=(tokens,),
    )

  answers, feedback = engine(ANSWER.max_tokens), engine(FEEDBACK.max_tokens)
  fresh = [
    Trajectory(id=str(i), problem=str(i), question=question)
    for i, question in enumerate(asked)
  ]

  def propose(requests):
    return answers.generate(params, requests, ANSWER)

  critic = critics.model(
    lambda requests: feedback.generate(params, requests, FEEDBACK),
    TEMPLATE,
    NO_HINT,
  )
  return lambda: refine.refine(
    fresh,
    propose=propose,
    revise=propose,
    critic=critic,
    template=TEMPLATE,
    turns=TURNS,
  )


def compiled(model, params, asked):
  """A function that runs the program and gives its Turns, on the host."""
  decoder_only = not model.encoder_decoder
  start = (TOKENIZER.bos_id,) if decoder_only else ()
  end = () if decoder_only else (TOKENIZER.eos_id,)
  program = turns.make_refine_program(
    model,
    model,
    turns=TURNS,
    hypothesis_length=ANSWER.max_tokens,
    feedback_length=FEEDBACK.max_tokens,
    template=turns.TemplateIds(
      hypothesis=tuple(TOKENIZER.encode(TEMPLATE.hypothesis)),
      feedback=tuple(TOKENIZER.encode(TEMPLATE.feedback)),
      no_hint=tuple(TOKENIZER.encode(NO_HINT)),
      generator_start=start,
      generator_end=end,
      critic_start=start,
      critic_end=(*TOKENIZER.encode(TEMPLATE.critic_end), *end),
    ),
  )
  x_BP = np.zeros((ROWS, QUESTION), np.int32)
  for row, ids in enumerate(asked):
    x_BP[row, : len(ids)] = ids

  def hashes(kind):
    return np.array(
      [
        [settings.id_hash(f"{i}/{kind}{u + 1}") for i in range(ROWS)]
        for u in range(TURNS)
      ],
      np.uint32,
    )

  inputs = turns.Inputs(
    x_BP=x_BP,
    lengths_B=np.array([len(ids) for ids in asked], np.int32),
    generator=settings.rows([ANSWER] * ROWS, eos_id=TOKENIZER.eos_id),
    critic=settings.rows([FEEDBACK] * ROWS, eos_id=TOKENIZER.eos_id),
    generator_requests_UB=hashes("t"),
    critic_requests_UB=hashes("c"),
  )
  inputs = jax.device_put(inputs)
  return lambda: jax.device_get(program(params, params, inputs))


def timed(function):
  start = time.perf_counter()
  result = function()
  return time.perf_counter() - start, result


def same(found, trajectories) -> bool:
  """Whether program and loop said the same, to the token."""

  def ids(words, turn, row):
    return tuple(words.tokens_BT[turn, row, : words.lengths_B[turn, row]])

  return all(
    ids(found.hypotheses, u, row) == turn.tokens
    and ids(found.feedback, u, row) == turn.feedback.tokens
    for row, trajectory in enumerate(trajectories)
    for u, turn in enumerate(trajectory.turns)
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--json", action="store_true", help="one line at the end")
  parser.add_argument("--pairs", type=int, default=5)
  options = parser.parse_args()
  asked, out = questions(), {}
  for name, model in models().items():
    params = parameters(model)
    loop = plain(model, params, asked)
    program = compiled(model, params, asked)
    equal = same(program(), loop())  # also compiles
    ratios = []
    for _ in range(options.pairs):
      ours, _ = timed(program)
      theirs, _ = timed(loop)
      ratios.append(theirs / ours)
      print(f"{name}: program {ours:.3f} s, loop {theirs:.3f} s", flush=True)
    out[name] = {
      "loop_over_program": {
        "median": statistics.median(ratios),
        "min": min(ratios),
        "max": max(ratios),
      },
      "equal": equal,
    }
  print(json.dumps(out) if options.json else out)


if __name__ == "__main__":
  main()
