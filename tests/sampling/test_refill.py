"""Pools: groups, queues and what they cost, over a family that is a table."""

import collections
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from fake_family import Letters, Table

from refine_jax import records
from refine_jax.sampling import budget, refill, resume
from refine_jax.sampling.engine import Engine, Request, Sampling
from refine_jax.sampling.planning import Shape

TOKENIZER = Letters()
FAMILY = Table()
PARAMS = FAMILY.params(scale=1.0)


def make(**changes):
  settings = {
    "slots": (16,),
    "prompt_buckets": (8,),
    "token_buckets": (16,),
    "chunk": 4,
  }
  return Engine(FAMILY, TOKENIZER, **{**settings, **changes})


def ragged(count, n=1, most=14):
  """Requests of exact lengths, drawn at temperature 1."""
  lengths = np.random.default_rng(0).integers(1, most, count).tolist()
  return [
    Request(
      f"r{i}",
      "abcdefg"[: 1 + i % 7],
      n=n,
      sampling=Sampling(temperature=1.0, max_tokens=k, min_tokens=k, seed=i),
    )
    for i, k in enumerate(lengths)
  ]


def tokens(engine, requests):
  groups = engine.generate(PARAMS, requests)
  return [[sample.tokens for sample in group] for group in groups]


@pytest.fixture(scope="module")
def static():
  return make(mode="static")


@pytest.fixture(scope="module")
def engine():
  """In order of arrival, so that tests can try orders."""
  return make(longest_first=False)


@pytest.mark.parametrize(
  ("count", "n"), [(40, 1), (3, 20), (5, 9), (1, 33), (6, 3)]
)
def test_groups_draw_what_static_batches_draw(engine, static, count, n):
  requests = ragged(count, n)
  engine.statistics.clear()
  assert tokens(engine, requests) == tokens(static, requests)
  # Every prompt is read once, however many samples it has.
  due = sum(len(engine.encode(r.prompt)) - 1 for r in requests)
  assert engine.statistics.prompt_tokens == due
  assert engine.statistics.requests == count
  assert engine.statistics.samples == count * n


def test_the_size_of_chunks_and_the_order_change_nothing(engine):
  requests = ragged(40)
  expected = tokens(engine, requests)
  assert tokens(make(chunk=1, slots=(3,)), requests) == expected
  assert tokens(make(chunk=32), requests) == expected
  for turn in (1, 7, 20):
    turned = tokens(engine, requests[turn:] + requests[:turn])
    assert turned[-turn:] + turned[:-turn] == expected


def test_slots_are_refilled_as_soon_as_they_are_free(engine):
  engine.statistics.clear()
  requests = ragged(400)
  total = sum(r.sampling.max_tokens for r in requests)
  engine.generate(PARAMS, requests)
  found = engine.statistics
  assert found.used_slot_steps == found.tokens == total
  # The list schedule's bound: no slot idles before the last request begins.
  assert found.steps <= total / 16 + 14
  assert found.slot_use > 0.94
  assert found.syncs < found.steps / 3


def test_large_budgets_begin_first():
  """Then the last rows to end are short: few slots wait for them."""
  requests = ragged(60)
  steps, drawn = {}, {}
  for first in (True, False):
    one = make(longest_first=first)
    drawn[first] = tokens(one, requests)
    steps[first] = one.statistics.steps
  assert drawn[True] == drawn[False]
  total = sum(r.sampling.max_tokens for r in requests)
  assert steps[True] <= total / 16 + 4 < steps[False]


def test_many_short_requests_do_not_starve_the_slots():
  """Chunks that empty the queue end early, and more is read."""
  engine = make(chunk=32)
  requests = ragged(200, most=2)
  engine.generate(PARAMS, requests)
  assert engine.statistics.slot_use > 0.9


def test_a_common_beginning_is_read_once(static):
  prompts = ["abcdefghabcdefghabcd" + end for end in ("a", "bc", "def", "a")]
  requests = [
    Request(f"r{i}", p, sampling=Sampling(max_tokens=9))
    for i, p in enumerate(prompts)
  ]
  wide = {"prompt_buckets": (8, 32)}
  engine = make(**wide)
  assert tokens(engine, requests) == tokens(
    make(mode="static", **wide), requests
  )
  # BOS and 20 letters, and of each prompt what follows but the last token.
  assert engine.statistics.prompt_tokens == 21 + 0 + 1 + 2 + 0


def test_common():
  assert refill.common([(1, 2, 3), (1, 2, 4, 5)]) == 2
  assert refill.common([(1, 2, 3), (1, 2, 3)]) == 2  # the last one is left
  assert refill.common([(1,), (2,)]) == 0


def test_nothing_is_compiled_after_warm_up():
  engine = make(chunk=8)
  engine.warm_up(PARAMS)
  assert engine.statistics.compilations > 0
  engine.statistics.clear()
  engine.generate(PARAMS, ragged(40))
  engine.generate(PARAMS, ragged(2, n=3))
  engine.generate(PARAMS, ragged(1, n=50))
  engine.generate(PARAMS, ragged(5, n=9), Sampling(stop=("ab",)))
  assert engine.statistics.compilations == 0
  assert engine.statistics.metrics()["engine/compilations"] == 0


def test_frequencies_are_the_distribution(engine):
  """Chi-square of 6,000 first tokens against the model's softmax."""
  count, temperature = 6000, 1.3
  sampling = Sampling(temperature=temperature, max_tokens=1)
  (group,) = engine.generate(PARAMS, [Request("a", "abc", n=count)], sampling)
  drawn = collections.Counter(sample.tokens[0] for sample in group)
  ids = [2, 3, 4, 5]
  logits = np.asarray(PARAMS["table"])[5] + np.asarray(PARAMS["mix"])[ids].mean(
    0
  )
  expected = count * np.asarray(jax.nn.softmax(logits / temperature))
  observed = np.array([drawn[i] for i in range(len(expected))])
  statistic = np.sum((observed - expected) ** 2 / expected)
  assert statistic < 29.6  # the 99.9 % point for 10 degrees of freedom


def test_a_stream_can_be_left_and_another_begun(engine):
  requests = ragged(30)
  stream = engine.stream(PARAMS, requests)
  first = next(stream)
  stream.close()
  expected = {s.id: s for g in engine.generate(PARAMS, requests) for s in g}
  assert expected[first[1].id] == first[1]


# Budgets.


def test_slots_follow_from_memory():
  def slots(memory):
    return budget.slots_in(FAMILY, memory, prompt_length=8, room=16)

  for memory in (100_000, 300_000):
    fits = budget.bytes_of(FAMILY, Shape(slots(memory), 1, 8, 16))
    more = budget.bytes_of(FAMILY, Shape(slots(memory) + 8, 1, 8, 16))
    assert fits <= memory < more
  with pytest.raises(ValueError, match=r"takes [\d,]+ bytes.*memory"):
    slots(10)
  assert tokens(make(slots=None, memory=100_000), ragged(3))


def test_running_out_of_memory_says_what_to_change():
  shape = Shape(16, 1, 8, 16)
  with (
    pytest.raises(MemoryError, match=r"16 slots.*[\d,]+ bytes.*lower slots"),
    budget.explained(FAMILY, shape, None),
  ):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes")


# Files.


def test_a_killed_run_goes_on_where_it_was(tmp_path, engine):
  """Killed without warning and with a torn line: nothing lost or doubled."""
  path = tmp_path / "samples.jsonl"
  script = textwrap.dedent(f"""
    import os, signal, sys
    sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
    import test_refill
    from refine_jax.sampling import resume
    real, written = resume.Appender.append, []
    def append(self, rows):
      real(self, rows)
      written.append(rows)
      if len(written) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    resume.Appender.append = append
    resume.complete(
      test_refill.make(), test_refill.PARAMS, test_refill.ragged(9, n=2),
      {str(path)!r}
    )
  """)
  done = subprocess.run([sys.executable, "-c", script], env=dict(os.environ))
  assert done.returncode == -signal.SIGKILL
  with open(path, "ab") as file:
    file.write(b'{"id": "r8/1", "te')
  requests = ragged(9, n=2)
  assert resume.complete(engine, PARAMS, requests, path) == 18 - 7
  found = {s.id: s for s in records.read(records.Sample, path)}
  lines = path.read_bytes().splitlines()
  assert len(lines) == len(found) == 18
  groups = engine.generate(PARAMS, requests)
  assert found == {s.id: s for group in groups for s in group}
  assert resume.complete(engine, PARAMS, requests, path) == 0
  with pytest.raises(ValueError, match="'r0'"):
    resume.complete(engine, PARAMS, [requests[0]] * 2, path)
