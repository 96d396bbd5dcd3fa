"""The child process that compares formulas with math-verify.

It is run as a script, knows nothing of this package, and answers one JSON
object per line with another; its parent kills it when it takes too long.
"""

import json
import logging
import resource
import signal
import sys

_MEMORY = 3 << 30  # bytes of address space


class _Late(BaseException):
  """Not an Exception, which sympy catches here and there."""


def _late(signum, frame):
  raise _Late


def _parsed(text: str):
  import math_verify

  config = [
    math_verify.LatexExtractionConfig(),
    math_verify.ExprExtractionConfig(),
  ]
  found = math_verify.parse(
    f"${text}$", extraction_config=config, parsing_timeout=None
  )
  return [f for f in found if not isinstance(f, str)]


def equal(gold: str, found: str) -> bool:
  import math_verify

  ours, theirs = _parsed(found), _parsed(gold)
  if not ours or not theirs:
    return False
  return bool(math_verify.verify(theirs, ours, timeout_seconds=None))


def key(text: str) -> str | None:
  """A spelling that equal expressions share, as far as expanding shows it."""
  import sympy

  found = _parsed(text)
  if not found:
    return None
  value = found[0]
  if getattr(value, "is_number", False) and value.is_finite:
    exact = value.doit()
    if exact.is_Rational:
      return str(exact)
    return str(sympy.N(value, 12))
  if isinstance(value, sympy.logic.boolalg.BooleanAtom):
    return None  # a statement, which nobody asked about
  return str(sympy.expand(value.doit()))


def _answered(request: dict):
  """What is asked for; None if it takes longer than a request may.

  The alarm ends what runs in Python; the parent kills what does not.
  """
  try:
    signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    try:
      do = {"equal": equal, "key": key}[request["do"]]
      return do(*request["texts"])
    finally:
      signal.setitimer(signal.ITIMER_REAL, 0)
  except (Exception, _Late):  # whatever sympy makes of hostile text
    return None


def main() -> None:
  resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
  logging.disable(logging.CRITICAL)
  answers, sys.stdout = sys.stdout, sys.stderr  # others may print
  equal("\\frac{1}{2}", "x")  # imports, and builds its tables
  print("{}", file=answers, flush=True)
  signal.signal(signal.SIGALRM, _late)
  for line in sys.stdin:
    value = _answered(json.loads(line))
    if isinstance(value, str):
      value = value[:400]
    print(json.dumps({"value": value}), file=answers, flush=True)


if __name__ == "__main__":
  main()
