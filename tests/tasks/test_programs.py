"""The pool: values, hostile neighbours, killed workers, what is lacking."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from refine_jax.tasks import arithmetic, numeric_answers, programs
from tests.tasks import hostile_programs


def returning(value: str, *lines: str, before: str = "") -> str:
  body = "".join(f"  {line}\n" for line in lines)
  return f"{before}def solution():\n{body}  return {value}\n"


@pytest.fixture(scope="module")
def pool():
  with programs.Pool(2, seconds=1.0) as pool:
    yield pool


def workers() -> list[int]:
  """The processes of all pools of this process."""
  found = []
  for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
      name, _, rest = (folder / "stat").read_text().rpartition(") ")
    except OSError:
      continue
    if "monty" in name and int(rest.split()[1]) == os.getpid():
      found.append(int(folder.name))
  return found


@pytest.mark.parametrize(
  "program, value",
  [
    (returning("29 * 7"), 203),
    (returning("5 / 2"), 2.5),
    (returning("'c'"), "c"),
    (returning("math.ceil(2.1)", before="import math\n"), 3),
    (returning("math.comb(5, 2)", "import math"), 10),
    (returning("sqrt(16)", before="from math import *\n"), 4.0),
    (returning("floor(pi)", before="from math import floor, pi\n"), 3),
    (returning("h(3)", before="def h(x):\n  return x * 2\n\n"), 6),
    (returning("K.x + 1", before="class K:\n  x = 2\n\n"), 3),
    (returning("(date(2024, 3, 1) - date(2024, 2, 1)).days",
               "from datetime import date"), 29),
    (returning("(d + timedelta(days=3)).day", "d = datetime(2024, 2, 27)",
               before="from datetime import *\n"), 1),
    (returning("Decimal('1.5') * 2", before="from decimal import Decimal\n"),
     3.0),
    (returning("sum(i for i in range(10) if i % 2)"), 25),
    (returning("f(5)", "f = lambda n: 1 if n < 2 else n * f(n - 1)"), 120),
    (returning("x", "try:", "  x = 1 / 0", "except ZeroDivisionError:",
               "  x = 7"), 7),
    (returning("len(set('aab'))", '"""it\'s a "quoted" question"""'), 2),
    (returning("reduce(lambda a, b: a * b, [2, 3])",
               "from functools import reduce"), 6),
    (returning("1", "import time", "time.sleep(1000)"), 1),
  ],
)  # fmt: skip
def test_values(pool, program, value):
  outcome = pool.run([program])[0]
  assert outcome == programs.Outcome(value)
  assert type(outcome.value) is type(value)


def test_hostile_programs_give_no_answer_and_neighbours_are_right():
  hostile = list(hostile_programs.PROGRAMS.items())
  assert len(hostile) >= 60
  both = [
    text
    for i, (_, program) in enumerate(hostile)
    for text in (program, returning(f"{i} + 1000"))
  ]
  seconds = 0.2
  with programs.Pool(2, seconds=seconds) as pool:
    start = time.monotonic()
    outcomes = pool.run(both)
    took = time.monotonic() - start
    # Nothing lasts longer than the limit and what its worker's end costs.
    assert took < len(hostile) / 2 * (seconds * 2 + 0.5)
    again = pool.run([returning("'alive'")])
  answered = [
    name
    for (name, _), outcome in zip(hostile, outcomes[::2], strict=True)
    if numeric_answers.number(outcome.value) is not None
  ]
  assert answered == []
  # Each by the limit that is there for it, not by what the next one caught.
  ends = dict(zip((name for name, _ in hostile), outcomes[::2], strict=True))
  for name, error in (
    ("loops/while true", "TimeoutError"),
    ("memory/list of ten billion", "MemoryError"),
    ("memory/appending", "MemoryError"),
    ("integers/tower", "MemoryError"),
    ("depth/recursion", "RecursionError"),
    ("outside/read a file", "PermissionError"),
  ):
    assert ends[name].error == error, name
  assert ends["outside/shell"].refused == "os.system"
  assert ends["outside/socket"].refused == "module socket"
  assert [o.value for o in outcomes[1::2]] == [
    1000 + i for i in range(len(hostile))
  ]
  assert again[0].value == "alive"


def test_order_is_kept_and_equal_texts_run_once(pool):
  texts = [returning(str(i % 7), f"x = {i % 7}") for i in range(50)]
  before = pool.ran
  assert [o.value for o in pool.run(texts)] == [i % 7 for i in range(50)]
  assert pool.ran == before + 7
  pool.run(texts)
  assert pool.ran == before + 7


def test_the_cache_is_bounded():
  with programs.Pool(1, cache=2) as pool:
    texts = [returning(str(i)) for i in range(3)]
    pool.run(texts)
    pool.run(texts[1:])
    assert pool.ran == 3
    pool.run(texts[:1])
    assert pool.ran == 4


def test_a_reward_and_a_check_of_one_text_agree():
  with programs.Pool(1, seconds=0.05) as pool:
    text = returning("1", "while True: pass")
    assert pool.run([text])[0].error == "TimeoutError"
    assert pool.run([text])[0].error == "TimeoutError"
    assert pool.ran == 1


def test_a_pool_killed_from_outside_recovers():
  with programs.Pool(2, seconds=5.0, cache=0) as pool:
    texts = [
      returning("n", "n = 0", f"while n < {20_000 + i}: n += 1")
      for i in range(100)
    ]
    stop = threading.Event()
    killed = []

    def killer():
      while not stop.wait(0.05) and len(killed) < 10:
        for pid in workers():
          os.kill(pid, signal.SIGKILL)
          killed.append(pid)

    thread = threading.Thread(target=killer)
    thread.start()
    outcomes = pool.run(texts)
    stop.set()
    thread.join()
    for pid in workers():  # and once more between two batches
      os.kill(pid, signal.SIGKILL)
    assert killed
    assert [o.value for o in outcomes] == [20_000 + i for i in range(100)]
    assert pool.run([returning("5")])[0].value == 5


@pytest.mark.parametrize(
  "program, name",
  [
    (returning("1", "import sympy"), "module sympy"),
    (returning("1", before="import numpy as np\n"), "module numpy"),
    (returning("1", "from math import nonsense"), "math.nonsense"),
    (returning("math.nonsense(1)", "import math"), "math.nonsense"),
    (returning("1", "open('x')"), "files"),
    (returning("input()"), "builtin input"),
    (returning("(5).bit_length()"), "int.bit_length"),
    (returning("1", "x = 1", "del x"), "syntax: 'del' statement"),
    (returning("missing + 1"), ""),
    (returning("[].nonsense"), ""),
  ],
)
def test_what_the_sandbox_lacks_is_named(pool, program, name):
  before = pool.refused[name]
  outcome = pool.run([program])[0]
  assert outcome.value is None and outcome.error
  assert outcome.refused == name
  assert pool.refused[name] == before + bool(name)
  if name:
    assert name in pool.report() or len(pool.refused) > 8


def test_names_that_programs_choose_are_bounded(pool):
  texts = [returning("1", f"import zz{'y' * 90}{i}") for i in range(300)]
  pool.run(texts)
  assert len(pool.refused) <= 257
  assert all(len(name) <= 80 for name in pool.refused)


def test_results_are_a_function_of_the_text():
  text = returning(
    "random.random() + datetime.now().timestamp() + time.time()",
    "import random, time",
    "from datetime import datetime",
  )
  with programs.Pool(2, cache=0) as pool:
    assert len({o.value for o in (pool.run([text])[0] for _ in range(3))}) == 1


def test_programs_do_not_see_each_other(pool):
  first = returning("1", "global leak", "leak = 5", before="leak = 0\n")
  second = returning("leak", "# after the other")
  assert [o.value for o in pool.run([first, second])] == [1, None]


def test_submitted_programs_run_meanwhile(pool):
  slow = pool.submit(returning("1", "while True: pass", "# slow"))
  assert pool.submit(returning("77")).result().value == 77
  assert not slow.done()
  assert slow.result().error == "TimeoutError"


def test_the_small_grammar_runs_as_in_the_sandbox(pool):
  task = arithmetic.Arithmetic(size=40)
  rows = [task.problem(row) for row in task.source("train").rows]
  texts = [f"def solution(): {p.gold.replace(' ; ', '; ')}" for p in rows]
  assert [str(o.value) for o in pool.run(texts)] == [p.answer for p in rows]


def test_svamp_gold_programs(pool, data_dir):
  rows = json.loads((data_dir / "reft/svamp_python_sdp.json").read_text())
  outcomes = pool.run([row["answer_cot"] for row in rows])
  wrong = [
    row["item_id"]
    for row, outcome in zip(rows, outcomes, strict=True)
    if outcome.value is None
    or not numeric_answers.same(outcome.value, float(row["answer_value"]))
  ]
  assert (len(rows), wrong) == (3043, [])


def test_the_shared_pool_ends_with_its_process():
  code = (
    "import sys; from refine_jax.tasks import programs;"
    "print(programs.shared().run(['def solution(): return 6'])[0].value);"
    "assert 'jax' not in sys.modules"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
  )
  assert (done.stdout.strip(), done.returncode) == ("6", 0), done.stderr
