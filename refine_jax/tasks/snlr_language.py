"""The language of synthetic natural-language rules: words, rows, two forms.

A row is five rules and a fact. Its `text` form is that of the published rows
(HELM's synthetic reasoning, REFINER section 4); its `compact` form has one
token a word, for small models:

    If an animal is bad or big, then the animal is strong. ... The cat is sad.
    cat sad nice ; animal bad or big > strong ; ...
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

ATTRIBUTES = (
  *("bad", "beautiful", "big", "blue", "boring", "clean", "cold", "fast"),
  *("good", "green", "happy", "hot", "old", "purple", "red", "round", "sad"),
  *("scary", "slow", "small", "smart", "soft", "strong", "weak", "young"),
)
SYNONYMS = {
  "bad": ("evil", "mean", "wicked"),
  "beautiful": ("pretty",),
  "big": ("enormous", "giant", "huge"),
  "blue": ("cobalt",),
  "boring": ("dull",),
  "clean": ("tidy",),
  "cold": ("chill", "cool"),
  "fast": ("quick",),
  "good": ("kind", "nice"),
  "green": ("viridian",),
  "happy": ("cheerful", "elated", "glad"),
  "hot": ("warm",),
  "old": ("ancient", "antique"),
  "purple": ("violet",),
  "red": ("crimson",),
  "round": ("circular", "spherical"),
  "slow": ("sluggish",),
  "small": ("little", "tiny"),
  "smart": ("clever", "intelligent", "wise"),
  "strong": ("muscular", "powerful"),
  "weak": ("fragile", "frail"),
}
BASE = {word: base for base, words in SYNONYMS.items() for word in words}
CLASSES = {
  "person": ("Alice", "Bob", "Carol", "Dan", "Erin", "Frank"),
  "animal": (
    *("bear", "cat", "cow", "dog", "elephant", "giraffe", "hedgehog"),
    *("hippo", "lion", "mouse", "panda", "rabbit", "squirrel", "tiger"),
  ),
  "plant": ("dandelion", "poppy", "rose", "sunflower", "tree"),
}
CLASS_OF = {name: kind for kind, names in CLASSES.items() for name in names}
NOTHING = "nothing"
# Words of steps and feedback in the compact form.
STEPS = tuple(f"#{k}" for k in range(10))
RULES = tuple(f"r{k}" for k in range(5))


class Rule(NamedTuple):
  """If `subject` is `antecedents` joined by `op`, then it is `conclusion`.

  `op` is "and", "or", or "" where there is one antecedent.
  """

  subject: str
  antecedents: tuple[str, ...]
  op: str
  conclusion: str


class Row(NamedTuple):
  """A fact (`subject` is `facts[0]` and `facts[1]`) and its rules."""

  subject: str
  facts: tuple[str, str]
  rules: tuple[Rule, ...]


_RULE = re.compile(
  r"If (?:an? )?(\w+) is (\w+)(?: (and|or) (\w+))?, "
  r"then (?:the )?(\w+) is (\w+)\."
)
_FACT = re.compile(r"(?:The )?(\w+) is (\w+) and (\w+)\.")
_SENTENCE = re.compile(r"[^.]+\.")
_COMPACT_RULE = re.compile(r"(\w+) (\w+)(?: (and|or) (\w+))? > (\w+)")
_COMPACT_FACT = re.compile(r"(\w+) (\w+) (\w+)")
_SEPARATOR = re.compile(r" (?:;|r\d) ")


def with_article(subject: str, article: str) -> str:
  """`a cat`, `the cat`; people, and the word `person`, go without."""
  if subject == "person" or subject in CLASSES["person"]:
    return subject
  if article == "a" and subject[0] in "aeiou":
    article = "an"
  return f"{article} {subject}"


def rule_text(rule: Rule) -> str:
  antecedents = f" {rule.op} ".join(rule.antecedents)
  return (
    f"If {with_article(rule.subject, 'a')} is {antecedents}, then "
    f"{with_article(rule.subject, 'the')} is {rule.conclusion}."
  )


def fact_text(row: Row) -> str:
  return f"{with_article(row.subject, 'The')} is {' and '.join(row.facts)}."


def to_text(row: Row) -> str:
  """The published form: the rules, then the fact."""
  return " ".join([*map(rule_text, row.rules), fact_text(row)])


def to_compact(row: Row, *, numbered: bool = False) -> str:
  """The compact form: the fact, then the rules.

  Args:
    row: any.
    numbered: rule k follows `rk` rather than `;`.
  """
  pieces = [f"{row.subject} {' '.join(row.facts)}"]
  for k, rule in enumerate(row.rules):
    pieces.append(f"r{k}" if numbered else ";")
    antecedents = f" {rule.op} ".join(rule.antecedents)
    pieces.append(f"{rule.subject} {antecedents} > {rule.conclusion}")
  return " ".join(pieces)


def _rule(match: re.Match | None, text: str) -> Rule:
  if match is None:
    raise ValueError(f"not a rule: {text!r}")
  *_, conclusion = match.groups()
  antecedents = (match[2], match[4]) if match[4] else (match[2],)
  return Rule(match[1], antecedents, match[3] or "", conclusion)


def from_sentences(rules: Sequence[str], fact: str) -> Row:
  """Published sentences; raises ValueError on one that is no rule or fact."""
  match = _FACT.fullmatch(fact.strip())
  if match is None:
    raise ValueError(f"not a fact: {fact!r}")
  parsed = []
  for text in rules:
    found = _RULE.fullmatch(text.strip())
    if found is not None and found[1] != found[5]:
      raise ValueError(f"a rule about two subjects: {text!r}")
    parsed.append(_rule(found, text))
  return _known(Row(match[1], (match[2], match[3]), tuple(parsed)))


def from_text(text: str) -> Row:
  """The inverse of `to_text`."""
  sentences = [s.strip() for s in _SENTENCE.findall(text)]
  if not sentences:
    raise ValueError(f"no fact and no rules in {text!r}")
  return from_sentences(sentences[:-1], sentences[-1])


def from_compact(text: str) -> Row:
  """The inverse of `to_compact`, numbered or not."""
  fact, *rules = _SEPARATOR.split(text.strip())
  match = _COMPACT_FACT.fullmatch(fact)
  if match is None:
    raise ValueError(f"not a fact: {fact!r}")
  parsed = [_rule(_COMPACT_RULE.fullmatch(text), text) for text in rules]
  return _known(Row(match[1], (match[2], match[3]), tuple(parsed)))


def _known(row: Row) -> Row:
  if row.subject not in CLASS_OF:
    raise ValueError(f"unknown subject {row.subject!r}")
  for fact in row.facts:
    if BASE.get(fact, fact) not in ATTRIBUTES:
      raise ValueError(f"unknown attribute {fact!r}")
  return row


def from_mapping(row: Mapping) -> Row:
  """Nested lists, as JSON keeps a Row, back to a Row."""
  subject, facts, rules = row["row"]
  parsed = (Rule(s, tuple(a), op, c) for s, a, op, c in rules)
  return Row(subject, tuple(facts), tuple(parsed))


def content(row: Row) -> str:
  """Equal for rows that say the same: rules, facts and antecedents sorted."""
  rules = sorted(
    f"{r.subject} {r.op} {' '.join(sorted(r.antecedents))} {r.conclusion}"
    for r in row.rules
  )
  return f"{row.subject} {' '.join(sorted(row.facts))};" + ";".join(rules)


def vocabulary() -> tuple[str, ...]:
  """Every word of the compact form's questions, steps and feedback."""
  return (
    *ATTRIBUTES,
    *BASE,
    *CLASS_OF,
    *CLASSES,
    *("and", "or", ">", ";", NOTHING, "no", "hint"),
    *STEPS,
    *RULES,
  )
