"""Gold programs per second in the sandbox, and hostile ones beside them.

    python benchmarks/programs.py --json

The programs are SVAMP's 3,043 (`reft/svamp_python_sdp.json` under
REFINE_JAX_DATA), or as many generated ones where that is not there (`data`
says which). Nothing is kept between passes, and every program has a session
of its own, so the figure includes its checkout. The last line of stdout is
one JSON object.
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

from refine_jax.tasks import arithmetic, numeric_answers, programs  # noqa: E402
from tests.tasks import hostile_programs  # noqa: E402

GENERATED = 3000


def gold() -> tuple[str, list[str], list[float]]:
  """Where they are from, the programs, their answers."""
  folder = os.environ.get("REFINE_JAX_DATA", "data")
  path = pathlib.Path(folder) / "reft" / "svamp_python_sdp.json"
  if path.is_file():
    rows = json.loads(path.read_text(encoding="utf-8"))
    texts = [row["answer_cot"] for row in rows]
    return "svamp", texts, [float(row["answer_value"]) for row in rows]
  print(f"{path}: no such file; generated programs instead", file=sys.stderr)
  task = arithmetic.Arithmetic(size=GENERATED)
  made = [task.problem(row) for row in task.source("train").rows]
  texts = [f"def solution(): {p.gold.replace(' ; ', '; ')}" for p in made]
  return "generated", texts, [float(p.answer) for p in made]


def right(outcomes: list[programs.Outcome], answers: list[float]) -> int:
  values = [numeric_answers.number(outcome.value) for outcome in outcomes]
  return sum(
    value is not None and numeric_answers.same(value, answer)
    for value, answer in zip(values, answers, strict=True)
  )


def hostile(seconds: float, workers: int) -> tuple[int, float]:
  """How many hostile programs yield an answer, and how long all take."""
  texts = list(hostile_programs.PROGRAMS.values())
  with programs.Pool(workers, seconds=seconds, cache=0) as pool:
    start = time.perf_counter()
    outcomes = pool.run(texts)
    took = time.perf_counter() - start
    print(pool.report())
  values = [numeric_answers.number(outcome.value) for outcome in outcomes]
  return sum(value is not None for value in values), took


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--json", action="store_true", help="one line at the end")
  parser.add_argument("--passes", type=int, default=5)
  parser.add_argument("--workers", type=int, default=2)
  parser.add_argument("--seconds", type=float, default=0.5, help="hostile's")
  options = parser.parse_args()
  data, texts, answers = gold()
  rates = []
  with programs.Pool(options.workers, cache=0) as pool:
    for _ in range(options.passes):
      start = time.perf_counter()
      outcomes = pool.run(texts)
      rates.append(len(texts) / (time.perf_counter() - start))
      print(f"{data}: {rates[-1]:.0f} programs/s", flush=True)
  answered, took = hostile(options.seconds, options.workers)
  out = {
    "data": data,
    "programs": len(texts),
    "right": right(outcomes, answers),
    "per_second": statistics.median(rates),
    "per_second_min": min(rates),
    "per_second_max": max(rates),
    "workers": options.workers,
    "hostile": len(hostile_programs.PROGRAMS),
    "hostile_answered": answered,
    "hostile_seconds": took,
  }
  print(json.dumps(out) if options.json else out)


if __name__ == "__main__":
  main()
