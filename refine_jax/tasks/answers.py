r"""Answers to competition maths: found, compared, and named for a vote.

`strict` takes the last answer and compares meanings: exact fractions first
(`0.5` and `\frac12`), members of lists in any order, then math-verify within
a time limit. `compat` is MathCritique's published code (`latex_published`).
Marks, `10%` for 10 and `x = 5` for 5, are ignored unless it is asked for.
"""

from collections.abc import Callable, Sequence

from refine_jax.tasks import (
  latex_pool,
  latex_published,
  latex_text,
  numeric_answers,
)

MODES = ("strict", "lenient", "compat")
KINDS = ("number", "formula")
_FREE = {"", "{}"}  # between these the order of members does not matter


def gold(solution: str, kind: str, mode: str = "strict") -> str | None:
  """A gold solution's answer: after `####` (number) or in a box (formula)."""
  if mode == "compat":
    if kind == "number":
      return latex_published.gold_number(solution)
    return latex_published.gold_formula(solution)
  if kind == "number":
    return solution.rpartition("####")[2].strip() or None
  return latex_text.boxed(solution)


def said(completion: str, kind: str, mode: str = "strict") -> str | None:
  """The answer of a model's solution; None if it says none.

  Args:
    completion: hostile text of any length.
    kind: `number` (GSM8K) or `formula` (MATH).
    mode: `strict`, `lenient` (without a marker the last number or formula
      counts), or `compat`.
  """
  if mode == "compat":
    return latex_published.said(completion, number=kind == "number")
  found = latex_text.said(completion, lenient=mode == "lenient")
  if found is None or kind == "formula":
    return found
  return found if number(found) is not None else None


def number(text: str):
  """The exact value of a number as people write it, or None."""
  value = latex_text.fraction(latex_text.plain(text))
  if value is None and (near := numeric_answers.number(text)) is not None:
    value = latex_text.fraction(numeric_answers.shown(near))
  return value


def same(
  gold: str,
  found: str | None,
  mode: str = "strict",
  *,
  ignore_marks: bool = True,
) -> bool:
  return same_all([(gold, found)], mode, ignore_marks=ignore_marks)[0]


def same_all(
  pairs: Sequence[tuple[str, str | None]],
  mode: str = "strict",
  *,
  ignore_marks: bool = True,
) -> list[bool]:
  """Whether each (gold, found) is the same answer; None is no answer."""
  if mode == "compat":
    return [f is not None and latex_published.same(g, f) for g, f in pairs]
  decided = [_decided(gold, found, ignore_marks) for gold, found in pairs]
  hard = [i for i, known in enumerate(decided) if known is None]
  plain = [tuple(map(latex_text.plain, pairs[i])) for i in hard]
  if hard:
    equal = latex_pool.shared().equal(plain)
    for i, answer in zip(hard, equal, strict=True):
      decided[i] = answer
  return decided


def _decided(gold: str, found: str | None, ignore_marks: bool) -> bool | None:
  """What can be said without algebra; None where it takes some."""
  if found is None:
    return False
  if not ignore_marks and latex_text.marks(gold) != latex_text.marks(found):
    return False
  ours, theirs = latex_text.plain(found), latex_text.plain(gold)
  if ours == theirs:
    return True
  values = number(found), number(gold)
  if None not in values:
    return values[0] == values[1]
  lists = latex_text.parts(ours), latex_text.parts(theirs)
  if None not in lists:
    return _lists(*lists, ignore_marks)
  if ours.isalpha() and theirs.isalpha() and min(len(ours), len(theirs)) > 1:
    return ours.lower() == theirs.lower()
  return None


def _lists(ours, theirs, ignore_marks: bool) -> bool | None:
  """Ordered in brackets, in any order without or between braces."""
  (left, mine), (right, yours) = ours, theirs
  if len(mine) != len(yours) or (left != right and not {left, right} <= _FREE):
    return False
  if left in _FREE:
    mine, yours = (sorted(x, key=_order) for x in (mine, yours))
  pairs = zip(yours, mine, strict=True)
  known = [_decided(a, b, ignore_marks) for a, b in pairs]
  if all(known):
    return True
  return None if None in known else False


def _order(member: str) -> tuple:
  value = number(member)
  return (0, value, "") if value is not None else (1, 0, member)


def keys(
  found: Sequence[str | None],
  mode: str = "strict",
  *,
  ignore_marks: bool = True,
) -> list[str | None]:
  r"""The name under which equal answers vote: `1/2` for `0.5` and `\frac12`."""
  if mode == "compat":
    return list(found)
  hard: dict[str, str] = {}
  for text in filter(None, found):
    _named(text, lambda t: hard.setdefault(t, t))
  if hard:
    made = latex_pool.shared().keys(list(hard))
    hard = {t: key or t for t, key in zip(hard, made, strict=True)}
  names = [None if f is None else _named(f, hard.get) for f in found]
  if ignore_marks:
    return names
  return [
    n if n is None else n.join(latex_text.marks(f))
    for f, n in zip(found, names, strict=True)
  ]


def _named(found: str, algebra: Callable[[str], str]) -> str:
  """A number's fraction, a word, a list of names, or what algebra says.

  Sets have the names of bare lists, to which they are equal.
  """
  value = number(found)
  if value is not None:
    return str(value)
  plain = latex_text.plain(found)
  if len(plain) < 2 or plain.isalpha():
    return plain.lower() if len(plain) > 1 else plain
  if (listed := latex_text.parts(plain)) is None:
    return algebra(latex_text.without_braces(plain))
  brackets, members = listed
  names = [_named(member, algebra) for member in members]
  if brackets in _FREE:
    return ",".join(sorted(names))
  return ",".join(names).join(brackets)
