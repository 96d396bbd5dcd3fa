"""Answers of MathCritique's published code, quirks included (`compat`).

The first `The answer is` counts, numbers are the first that match, and text
is compared after a normaliser. Its `eval` is not: sums of plain numbers are
worked out within limits, where the original evaluates what a model wrote.
"""

import ast
import operator
import re

from refine_jax.tasks import latex_text

_NUMBER = re.compile(r"-?[\d.,]+")
_GOLD = re.compile(r"#### (-?[\d.,]+)")
_WORDS = re.compile(r"\\(?:text|mbox|textnormal|mathbf)\{([^{}]*)\}")
_SUM = re.compile(r"[\d\s+\-*/().]*")
_BARE = re.compile(r"\\(sqrt|tan)\s*(\w)")
_DROPPED = ("\\$", ",\\!", "\\!", "\\cdot")
_LATER = ("\\left", "\\right", "^{\\circ}", "^\\circ", "{,}", "\\,")


def gold_number(text: str) -> str | None:
  found = _GOLD.search(text)
  return found[1].replace(",", "") if found else None


def gold_formula(text: str) -> str | None:
  r"""The last `\boxed{...}`; other boxes are none."""
  places = [m.end() for m in re.finditer(r"\\boxed(?=\{)", text)]
  found = latex_text.boxed("\\boxed" + text[places[-1] :]) if places else None
  return None if found is None else normalised(found)


def said(text: str, *, number: bool) -> str:
  """The answer of a solution; the text itself where none is found."""
  rest = text.partition("The answer is")[2] or text
  box = latex_text.boxed(rest) if "\\boxed{" in rest else None
  if box is None and number:
    found = _NUMBER.search(rest)
    if not found:
      return text
    box = found[0]
  answer = rest.strip() if box is None else box
  answer = normalised(answer[:-1] if answer.endswith(".") else answer)
  return answer.replace(",", "") if number else answer


def normalised(text: str) -> str:
  """The published normaliser, in its order."""
  text = text.replace("\\\\", "\\")
  for dropped in _DROPPED:
    text = text.replace(dropped, "")
  text = text.replace("\\%", "%").replace("\n", "")
  if "i" not in text:
    text = text.replace("j", "i")
  text = text.replace("dfrac", "frac").replace("tfrac", "frac")
  for dropped in _LATER:
    text = text.replace(dropped, "")
  if found := _WORDS.search(text):
    inner = "" if found[1].startswith(" ") else found[1]
    text = text[: found.start()] + inner + text[found.end() :]
  text = text.replace(", and ", ",").replace(" or ", ",")
  text = re.sub(r"(?<!\\)(\\[a-zA-Z]+) (?=[a-zA-Z])", "\\1\0", text)
  text = text.replace(" ", "").replace("\0", " ")
  text = re.sub(r"\\frac(\w)(\w)", r"\\frac{\1}{\2}", text)
  text = re.sub(r"\\frac(\w)(?=\{)", r"\\frac{\1}", text)
  text = _BARE.sub(r"\\\1{\2}", text)
  text = re.sub(r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}", text)
  text = re.sub(r"(?<!\d)\.(?=\d)", "0.", text)
  text = re.sub(r"^\(([A-Za-z])\)$", r"\1", text)
  if text[-1:] in (",", ".", "\\"):
    text = text[:-1]
  return re.sub(r"_(\w)(?!\w)", r"_{\1}", text)


def same(gold: str, found: str) -> bool:
  """Equal texts, or sums of plain numbers of exactly equal value."""
  if gold == found:
    return True
  if not (_SUM.fullmatch(gold) and _SUM.fullmatch(found)):
    return False
  values = [_value(text) for text in (gold, found)]
  return None not in values and values[0] == values[1]


_OPS = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
  ast.FloorDiv: operator.floordiv,
  ast.USub: operator.neg,
  ast.UAdd: operator.pos,
}


def _value(text: str) -> int | float | None:
  """As Python has it, without powers, of at most 200 characters."""
  if len(text) > 200:
    return None
  try:
    return _worked_out(ast.parse(text.strip(), mode="eval").body)
  except (SyntaxError, ValueError, ArithmeticError, MemoryError, KeyError):
    return None


def _worked_out(node: ast.AST) -> int | float:
  if isinstance(node, ast.Constant):
    return node.value
  if isinstance(node, ast.UnaryOp):
    return _OPS[type(node.op)](_worked_out(node.operand))
  if isinstance(node, ast.BinOp):
    left, right = _worked_out(node.left), _worked_out(node.right)
    return _OPS[type(node.op)](left, right)
  raise ValueError(f"no plain sum: {type(node).__name__}")
