"""Charts as SVG: what can be read of them."""

import itertools
import re

from refine_jax.methods import charts

MARKS = re.compile(r'<text x="(\d+)" y="336"[^>]*>([^<]+)</text>')


def drawn(**options):
  points = [(10.1575 * 2**i, float(i)) for i in range(12)]
  points += [(x * 1.02, y) for x, y in points]
  return charts.lines(
    {"a": points}, title="T", x="tokens", y="percent", **options
  )


def test_marks_do_not_run_into_each_other():
  for log_x in (True, False):
    marks = [(int(x), text) for x, text in MARKS.findall(drawn(log_x=log_x))]
    assert len(marks) > 3
    for (x, text), (after, _) in itertools.pairwise(marks):
      assert x + 7 * len(text) <= after + 3
      assert len(text) <= 5
  assert MARKS.findall(drawn(log_x=True))[0][1] == "10.2"


def test_what_is_not_finite_is_left_out():
  nan = float("nan")
  chart = charts.lines(
    {"a": [(1, 2.0), (2, nan)], "b": [(1, nan)]}, title="", x="", y=""
  )
  assert chart.count("<circle") == 1
  assert charts.lines({"b": [(1, nan)]}, title="", x="", y="") == ""
