"""What is wrong with a proof, step by step, and wrong proofs on purpose.

The paper's error types (REFINER section 4.2 and appendix 13.1) with their
sentences where it gives one, told with the step they are at:

    implicit    a synonym or class step is left out
    link        a premise is left out: fact and rules are not linked
    operator    a rule is used as if its `and` were `or`, or the other way
    invalid     a step that is false
    conclusion  the conclusion does not follow
    extra       a true step that nothing needs;  order: two steps exchanged
    malformed   no steps at all
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from refine_jax.tasks import snlr_prover
from refine_jax.tasks.snlr_language import (
  ATTRIBUTES,
  BASE,
  CLASS_OF,
  CLASSES,
  NOTHING,
  Row,
)
from refine_jax.tasks.snlr_prover import CLASS, CONCLUSION, SYNONYM, Pair, Step

TEXTS = {
  "implicit": "The implicit knowledge is missing in #{step}{rule}.",
  "link": "Missing link between fact and rules in #{step}{rule}.",
  "operator": "The {op} operator makes #{step} invalid{rule}.",
  "invalid": "The inference in #{step} is invalid{rule}.",
  "conclusion": "The conclusion in #{step} is incorrect{rule}.",
  "extra": "The step #{step} is not needed{rule}.",
  "order": "The step #{step} is out of order{rule}.",
  "malformed": "The steps from #{step} cannot be read{rule}.",
}
TYPES = tuple(TEXTS)
_COMPACT = re.compile(r"#(\d+) (\w+)(?: (and|or))?(?: r(\d))?")


def _pattern(template: str) -> re.Pattern:
  text = re.escape(template)
  for name, group in (
    ("step", r"(?P<step>\\d+)"),
    ("op", "(?P<op>and|or)"),
    ("rule", r"(?:, rule (?P<rule>\\d))?"),
  ):
    text = text.replace(re.escape(f"{{{name}}}"), group.replace("\\\\", "\\"))
  return re.compile(text)


_PATTERNS = {kind: _pattern(text) for kind, text in TEXTS.items()}


class Finding(NamedTuple):
  """One error: its type, the step it is at, and what it is about.

  Attributes:
    op: the operator misread, for `operator`.
    rule: the rule it is about, or -1.
  """

  kind: str
  step: int
  op: str = ""
  rule: int = -1


def render(
  findings: Sequence[Finding], *, compact: bool, rules: bool = False
) -> str:
  """Findings as text, `rules` with the rule's number; "" for none."""
  return " ".join(
    _compact(f, rules) if compact else _text(f, rules) for f in findings
  )


def _text(finding: Finding, rules: bool) -> str:
  rule = f", rule {finding.rule}" if rules and finding.rule >= 0 else ""
  template = TEXTS[finding.kind]
  return template.format(step=finding.step, op=finding.op, rule=rule)


def _compact(finding: Finding, rules: bool) -> str:
  op = f" {finding.op}" if finding.op else ""
  rule = f" r{finding.rule}" if rules and finding.rule >= 0 else ""
  return f"#{finding.step} {finding.kind}{op}{rule}"


def parse(text: str, *, compact: bool) -> tuple[Finding, ...]:
  """Text back to findings; what is none of ours is left out."""
  found = []
  if compact:
    for match in _COMPACT.finditer(text):
      if match[2] in TEXTS:
        rule = int(match[4]) if match[4] else -1
        found.append(Finding(match[2], int(match[1][:4]), match[3] or "", rule))
    return tuple(found)
  for sentence in re.findall(r"[^.]+\.", text):
    for kind, pattern in _PATTERNS.items():
      if match := pattern.fullmatch(sentence.strip()):
        groups = match.groupdict()
        rule = int(groups["rule"]) if groups["rule"] else -1
        op = groups.get("op") or ""
        found.append(Finding(kind, int(match["step"][:4]), op, rule))
  return tuple(found)


def diagnose(
  ours: tuple[Pair, ...] | None, gold: tuple[Step, ...], row: Row
) -> tuple[Finding, ...]:
  """Every error of a hypothesis, in step order; () only if it is the gold.

  Steps are read side by side. Conclusions are compared with each other only;
  before them a step that comes later in the gold says that others are
  missing, one that is nowhere in it stands for the gold step at its place.
  """
  if not ours:
    return (Finding("malformed", 0),)
  if ours == snlr_prover.pairs(gold):
    return ()
  if ours[-1][1] == NOTHING and (misread := _refused(ours, gold, row)):
    return misread
  body, left = list(ours[:-1]), list(gold[:-1])
  found = []
  at = 0
  while at < len(body) or left:
    here = body[at] if at < len(body) else None
    there = (left[0].left, left[0].right) if left else None
    if here is not None and here == there:
      at, left = at + 1, left[1:]
      continue
    rest = [(step.left, step.right) for step in left]
    if here is None or (here in rest and there not in body[at:]):
      found.append(_missing(left[0], at))
      left = left[1:]
      continue
    if here in rest:
      found.append(Finding("order", at, rule=left[0].rule))
      left = [step for step in left if (step.left, step.right) != here]
    else:
      found.append(_wrong(here, at, row, left[0] if left else None))
      if left and there not in body[at:]:
        left = left[1:]
    at += 1
  if ours[-1] != (gold[-1].left, gold[-1].right):
    found.append(_conclusion(ours[-1], len(ours) - 1, gold, row))
  return tuple(found)


def _missing(step: Step, at: int) -> Finding:
  kind = "implicit" if step.kind in (SYNONYM, CLASS) else "link"
  return Finding(kind, at, rule=step.rule)


def _refused(ours, gold, row) -> tuple[Finding, ...]:
  """Nothing was concluded though an `or` rule fires on one antecedent."""
  if len(ours) > 1:
    return ()
  for i in snlr_prover.fired(row):
    if _misread(row, i) == "or":
      return (Finding("operator", 0, "or", i),)
  return ()


def _misread(row: Row, index: int) -> str:
  """The operator whose other reading would change whether rule i fires."""
  rule = row.rules[index]
  if rule.subject not in (row.subject, CLASS_OF[row.subject]):
    return ""
  have = snlr_prover.known(row)
  matches = sum(a in have for a in rule.antecedents)
  return rule.op if rule.op and matches == 1 else ""


def _wrong(here: Pair, at: int, row: Row, gold: Step | None) -> Finding:
  """A step that is not in the gold: misread rule, not needed, or false."""
  have = snlr_prover.known(row)
  for i, rule in enumerate(row.rules):
    used = here[1] in rule.antecedents and here[1] in have
    if used and _misread(row, i) == "and":
      return Finding("operator", at, "and", i)
  left, right = here
  true = (
    (left in row.facts and BASE.get(left) == right)
    or (left == row.subject and CLASS_OF[left] == right)
    or (left == row.subject and right in have)
  )
  rule = gold.rule if gold else -1
  return Finding("extra" if true else "invalid", at, rule=rule)


def _conclusion(ours: Pair, at: int, gold, row: Row) -> Finding:
  """A wrong last step: another rule's operator misread, or just wrong."""
  said = ours[1].split(" and ") if ours[0] == row.subject else []
  right = gold[-1].right.split(" and ")
  for i, rule in enumerate(row.rules):
    new = rule.conclusion in said and rule.conclusion not in right
    if new and _misread(row, i) == "and":
      return Finding("operator", at, "and", i)
  fired = snlr_prover.fired(row)
  return Finding("conclusion", at, rule=fired[0] if fired else -1)


def perturbations(
  row: Row, gold: tuple[Step, ...], complete: bool, rng: np.random.Generator
) -> dict[str, tuple[Pair, ...]]:
  """One wrong proof per kind of error that fits the row.

  Kinds: all of `TYPES` but `malformed`. A kind is missing where the row does
  not allow it (nothing can be left out of a proof without steps).
  """
  makers = {
    "implicit": lambda: _dropped(gold, (SYNONYM, CLASS), rng),
    "link": lambda: _dropped(gold, (snlr_prover.PREMISE,), rng),
    "operator": lambda: _other_operator(row, complete, rng),
    "invalid": lambda: _false(row, gold, complete, rng),
    "conclusion": lambda: _other_conclusion(row, gold, rng),
    "extra": lambda: _padded(row, gold, rng),
    "order": lambda: _exchanged(gold, rng),
  }
  right = snlr_prover.pairs(gold)
  found = {}
  for kind, make in makers.items():
    steps = make()
    if steps and steps != right:
      found[kind] = steps
  return found


def _pick(rng, options):
  return options[int(rng.integers(len(options)))] if options else None


def _dropped(gold, kinds, rng) -> tuple[Pair, ...]:
  places = [i for i, step in enumerate(gold) if step.kind in kinds]
  i = _pick(rng, places)
  if i is None:
    return ()
  return snlr_prover.pairs(gold[:i] + gold[i + 1 :])


def _other_operator(row, complete, rng) -> tuple[Pair, ...]:
  """The proof of the row in which one rule has the other operator."""
  i = _pick(rng, [i for i in range(len(row.rules)) if _misread(row, i)])
  if i is None:
    return ()
  rules = list(row.rules)
  other = "or" if rules[i].op == "and" else "and"
  rules[i] = rules[i]._replace(op=other)
  changed = row._replace(rules=tuple(rules))
  return snlr_prover.pairs(snlr_prover.prove(changed, complete=complete))


def _false(row, gold, complete, rng) -> tuple[Pair, ...]:
  """A step replaced by a false one, or a proof from a fact that is not."""
  places = [i for i, step in enumerate(gold) if step.kind != CONCLUSION]
  if not places or rng.random() < 0.5:
    return _other_fact(row, complete, rng)
  i = _pick(rng, places)
  left, right = gold[i].left, gold[i].right
  if gold[i].kind == CLASS:
    right = _pick(rng, [c for c in CLASSES if c != right])
  else:
    have = snlr_prover.known(row)
    right = _pick(rng, [a for a in ATTRIBUTES if a not in have])
  steps = list(snlr_prover.pairs(gold))
  steps[i] = (left, right)
  return tuple(steps)


def _other_fact(row, complete, rng) -> tuple[Pair, ...]:
  """The proof as if one fact were an antecedent of a rule."""
  have = snlr_prover.known(row)
  options = [a for r in row.rules for a in r.antecedents if a not in have]
  fact = _pick(rng, options)
  if fact is None:
    return ()
  facts = (fact, row.facts[1]) if rng.random() < 0.5 else (row.facts[0], fact)
  changed = row._replace(facts=facts)
  return snlr_prover.pairs(snlr_prover.prove(changed, complete=complete))


def _other_conclusion(row, gold, rng) -> tuple[Pair, ...]:
  """Another rule's conclusion, one too many or too few, or nothing."""
  right = gold[-1].right.split(" and ")
  others = [r.conclusion for r in row.rules if r.conclusion not in right]
  if rng.random() < 0.2 or not others:
    others = [a for a in ATTRIBUTES if a not in right]
  other = _pick(rng, others)
  way = rng.random()
  if way < 0.1 and right != [NOTHING]:
    last = ("", NOTHING)
  elif way < 0.3 and len(right) == 2:
    last = (row.subject, _pick(rng, right))
  elif way < 0.4 and right != [NOTHING]:
    last = (row.subject, " and ".join([right[0], other]))
  else:
    last = (row.subject, " and ".join([*right[:-1], other]))
  return (*snlr_prover.pairs(gold[:-1]), last)


def _padded(row, gold, rng) -> tuple[Pair, ...]:
  """A true step that the proof does not need."""
  steps = snlr_prover.pairs(gold)
  options = [(row.subject, CLASS_OF[row.subject])]
  options += [(f, BASE[f]) for f in row.facts if f in BASE]
  options += [(row.subject, BASE.get(f, f)) for f in row.facts]
  step = _pick(rng, [o for o in options if o not in steps] or options)
  i = int(rng.integers(len(steps)))
  return (*steps[:i], step, *steps[i:])


def _exchanged(gold, rng) -> tuple[Pair, ...]:
  steps = list(snlr_prover.pairs(gold))
  if len(steps) < 3:
    return ()
  i = int(rng.integers(len(steps) - 2))
  steps[i], steps[i + 1] = steps[i + 1], steps[i]
  return tuple(steps)
