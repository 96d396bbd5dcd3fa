"""Line charts as SVG text, without a plotting library."""

import html
import math
from collections.abc import Mapping, Sequence

_COLOURS = (
  "#1b6ca8", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#be123c",
)  # fmt: skip
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 640, 368, 60, 48, 170, 50
_APART = 36  # of two marks under the chart, at least


def lines(
  series: Mapping[str, Sequence[tuple[float, float]]],
  *,
  title: str,
  x: str,
  y: str,
  log_x: bool = False,
) -> str:
  """One chart; points that are not finite are left out.

  Args:
    series: name -> (x, y) in order.
    title, x, y: what is written beside it.
    log_x: x on a logarithmic scale; then it must be positive.
  """
  points = {
    name: [p for p in row if all(map(math.isfinite, p))]
    for name, row in series.items()
  }
  flat = [p for row in points.values() for p in row]
  if not flat:
    return ""
  to_x = math.log if log_x else float
  xs, ys = [to_x(p[0]) for p in flat], [p[1] for p in flat]
  x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
  if y0 == y1:
    y0, y1 = y0 - 1, y1 + 1

  def at(p):
    across = (to_x(p[0]) - x0) / ((x1 - x0) or 1)
    up = (p[1] - y0) / (y1 - y0)
    return (
      _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
      _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
    )

  parts = [
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}"'
    f' height="{_HEIGHT}" font-family="sans-serif" font-size="12">',
    f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    _text(_LEFT, 16, title, weight="bold"),
    _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, x),
    _text(8, _TOP - 14, y),
    *_frame(at, flat, y0, y1),
  ]
  for i, (name, row) in enumerate(points.items()):
    colour = _COLOURS[i % len(_COLOURS)]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in map(at, row))
    parts.append(
      f'<polyline points="{path}" fill="none" stroke="{colour}"'
      ' stroke-width="2"/>'
    )
    parts += [
      f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>'
      for a, b in map(at, row)
    ]
    parts.append(
      _text(_WIDTH - _RIGHT + 8, _TOP + 18 * i + 8, name, colour=colour)
    )
  return "\n".join([*parts, "</svg>"]) + "\n"


def _frame(at, flat, y0, y1):
  """Marks of the axes: five heights, and every x that there is room for."""
  for i in range(5):
    value = y0 + (y1 - y0) * i / 4
    _, b = at((flat[0][0], value))
    yield (
      f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{b:.1f}" y2="{b:.1f}"'
      ' stroke="#ddd"/>'
    )
    yield _text(8, b + 4, f"{value:.1f}")
  last = -math.inf
  for value in sorted({p[0] for p in flat}):
    a, _ = at((value, y0))
    if a - last >= _APART:
      text = f"{float(f'{value:.3g}'):g}"
      yield _text(a - 3 * len(text), _HEIGHT - _BOTTOM + 18, text)
      last = a


def _text(x, y, text, weight="normal", colour="black") -> str:
  return (
    f'<text x="{x:.0f}" y="{y:.0f}" font-weight="{weight}" fill="{colour}">'
    f"{html.escape(text)}</text>"
  )
