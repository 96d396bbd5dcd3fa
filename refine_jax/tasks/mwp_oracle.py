"""What is wrong with a formula, slot by slot, and wrong formulas on purpose.

The sentences are REFINER's (section 4.1, table 1), the comparison is ours: it
looks at parsed steps, so that constants, `number4` and `#2` are reported too,
and commuted operands of an addition are not.
"""

import re
from collections.abc import Sequence

import numpy as np

from refine_jax.tasks import mwp_formula
from refine_jax.tasks.mwp_formula import COMMUTATIVE, Formula, Step

MISSING = "add an operator."
EXTRA = "remove an operator."
MALFORMED = "the formula cannot be read."
SLOTS = {
  "operator": "the operator in #{} is incorrect.",
  "first": "the first number in #{} is incorrect.",
  "second": "the second number in #{} is incorrect.",
}
FIXED = {"missing": MISSING, "extra": EXTRA, "malformed": MALFORMED}
# Error types of slots; the paper's Incorrect Numbers, Incorrect Operators and
# Missing Operators, with the converse of the last.
TYPES = {"operator": "operators", "first": "numbers", "second": "numbers"}
_SENTENCE = re.compile(
  "|".join(
    [re.escape(text) for text in FIXED.values()]
    + [r"the (operator|first number|second number) in #(\d{1,3}) is incorrect"]
  )
)


def slots(ours: Formula | None, gold: Formula) -> tuple[str, ...]:
  """The slots of `ours` that differ: `missing`, `extra`, `#0 first`, ...

  Step k is compared with step k. The slots of a gold step that `ours` does
  not have are all wrong. Formulas that are equal algebraically have no wrong
  slot.
  """
  if ours is None:
    return ("malformed",)
  if mwp_formula.same_meaning(ours, gold):
    return ()
  wrong = []
  if len(gold.steps) != len(ours.steps):
    shorter = len(ours.steps) < len(gold.steps)
    wrong.append("missing" if shorter else "extra")
  elif not gold.steps:
    wrong.append("#0 first")
  for k, step in enumerate(gold.steps):
    if k < len(ours.steps):
      wrong += [f"#{k} {slot}" for slot in _differences(ours.steps[k], step)]
    else:
      wrong += [f"#{k} {slot}" for slot in SLOTS]
  return tuple(wrong)


def _differences(ours: Step, gold: Step) -> list[str]:
  straight = _operands(ours, gold.first, gold.second)
  if gold.op in COMMUTATIVE:
    crossed = _operands(ours, gold.second, gold.first)
    straight = min(straight, crossed, key=len)
  return ["operator"] * (ours.op != gold.op) + straight


def _operands(ours: Step, first: str, second: str) -> list[str]:
  wrong = {
    "first": not _same_operand(ours.first, first),
    "second": not _same_operand(ours.second, second),
  }
  return [slot for slot, differs in wrong.items() if differs]


def _same_operand(ours: str, gold: str) -> bool:
  if ours == gold:
    return True
  constants = {ours[0], gold[0]} <= set("-0123456789")
  return constants and float(ours) == float(gold)


def sentences(wrong: Sequence[str]) -> str:
  """Slots as text; "" for none."""
  texts = []
  for slot in wrong:
    step, _, part = slot.partition(" ")
    texts.append(FIXED.get(slot) or SLOTS[part].format(step[1:]))
  return " ".join(texts)


def parse(feedback: str) -> tuple[str, ...]:
  """Text back to slots; sentences that are none of ours are left out."""
  fixed = {text: name for name, text in FIXED.items()}
  found = []
  for match in _SENTENCE.finditer(feedback.lower()):
    part = (match[1] or "").split(" ")[0]
    found.append(f"#{int(match[2])} {part}" if part else fixed[match[0]])
  return tuple(found)


def error_types(wrong: Sequence[str]) -> tuple[str, ...]:
  """The distinct error types of slots, in their order."""
  parts = (slot.rpartition(" ")[2] for slot in wrong)
  return tuple(dict.fromkeys(TYPES.get(p, p) for p in parts))


def perturbations(
  gold: Formula, numbers: int, rng: np.random.Generator
) -> dict[str, Formula]:
  """One wrong formula per kind of error that fits the gold.

  Kinds: `numbers` (operands replaced), `operators`, `swapped` (operands of a
  subtraction or division), `missing` (last steps removed), `extra` (a step
  at the end). Each differs algebraically from the gold, has a value for some
  numbers, and is wrong in no other slot than the changed ones.

  Args:
    gold: at most `MAX_STEPS - 1` steps may be extended.
    numbers: how many numbers the problem has.
    rng: decides everything.
  """
  makers = {
    "numbers": lambda: _other_numbers(gold, numbers, rng),
    "operators": lambda: _other_operators(gold, rng),
    "swapped": lambda: _swapped(gold, rng),
    "missing": lambda: _removed(gold, rng),
    "extra": lambda: _added(gold, numbers, rng),
  }
  found = {}
  for kind, make in makers.items():
    for _ in range(8):
      made = make()
      if made is None:
        break
      formula, changed = made
      if mwp_formula.fingerprint(formula) and slots(formula, gold) == changed:
        found[kind] = formula
        break
  return found


def _pick(rng, options):
  return options[int(rng.integers(len(options)))]


def _count(rng, most: int) -> int:
  """How many slots to spoil: one, mostly."""
  return (
    1 if most == 1 or rng.random() < 0.7 else int(rng.integers(2, most + 1))
  )


def _other_numbers(gold, numbers, rng):
  names = [f"number{k}" for k in range(numbers)]
  if not gold.steps:
    others = [n for n in names if n != gold.leaf]
    return (Formula((), _pick(rng, others)), ("#0 first",)) if others else None
  places = [(k, slot) for k in range(len(gold.steps)) for slot in (1, 2)]
  count = _count(rng, min(3, len(places)))
  chosen = sorted(rng.permutation(len(places))[:count])
  steps = [list(step) for step in gold.steps]
  for k, slot in (places[i] for i in chosen):
    options = names + [f"#{j}" for j in range(k)] + _constants(gold)
    options = [o for o in options if o != steps[k][slot]]
    if not options:
      return None
    steps[k][slot] = _pick(rng, options)
  changed = tuple(
    f"#{places[i][0]} {'first' if places[i][1] == 1 else 'second'}"
    for i in chosen
  )
  return Formula(tuple(Step(*s) for s in steps)), changed


def _constants(gold: Formula) -> list[str]:
  used = {arg for step in gold.steps for arg in step[1:]}
  return sorted(a for a in used if a[0].isdigit() or a[0] == "-")


def _other_operators(gold, rng):
  if not gold.steps:
    return None
  count = _count(rng, min(3, len(gold.steps)))
  chosen = sorted(rng.permutation(len(gold.steps))[:count])
  steps = list(gold.steps)
  for k in chosen:
    others = [op for op in mwp_formula.SYMBOLS if op != steps[k].op]
    steps[k] = steps[k]._replace(op=_pick(rng, others))
  return Formula(tuple(steps)), tuple(f"#{k} operator" for k in chosen)


def _swapped(gold, rng):
  places = [k for k, s in enumerate(gold.steps) if s.op not in COMMUTATIVE]
  if not places:
    return None
  k = _pick(rng, places)
  steps = list(gold.steps)
  op, first, second = steps[k]
  steps[k] = Step(op, second, first)
  return Formula(tuple(steps)), (f"#{k} first", f"#{k} second")


def _removed(gold, rng):
  if len(gold.steps) < 2:
    return None
  keep = int(rng.integers(1, len(gold.steps)))
  gone = tuple(
    f"#{k} {slot}" for k in range(keep, len(gold.steps)) for slot in SLOTS
  )
  return Formula(gold.steps[:keep]), ("missing", *gone)


def _added(gold, numbers, rng):
  n = len(gold.steps)
  if n >= mwp_formula.MAX_STEPS or not numbers:
    return None
  last = f"#{n - 1}" if n else gold.leaf
  other = f"number{int(rng.integers(numbers))}"
  operands = (last, other) if rng.random() < 0.5 else (other, last)
  step = Step(_pick(rng, list(mwp_formula.SYMBOLS)), *operands)
  return Formula((*gold.steps, step)), ("extra",)


def commuted(gold: Formula, rng: np.random.Generator) -> Formula | None:
  """The gold with the operands of one addition or product exchanged."""
  places = [
    k
    for k, s in enumerate(gold.steps)
    if s.op in COMMUTATIVE and s.first != s.second
  ]
  if not places:
    return None
  steps = list(gold.steps)
  k = _pick(rng, places)
  steps[k] = Step(steps[k].op, steps[k].second, steps[k].first)
  return Formula(tuple(steps))
