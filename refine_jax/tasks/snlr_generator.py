"""Unlimited rows like the published ones; a row is a function of (seed, index).

As measured on the 28,000 published rows: antecedents and conclusions of a
row's rules are all distinct; half of the rules have one antecedent, a quarter
each two under `and` and `or`; half are about the class (not in `easy`);
people, animals and plants are a third of the subjects each. A quarter of the
facts are any two attributes, the others any two that lead to a conclusion, so
that none, one and two follow in 17, 76 and 7 % of rows. In `hard` a fact is
written as itself or as any of its synonyms, all equally likely.

Rows are made in blocks with numpy, from a counter-based generator of our own
(the same in every version), and kept as a few bytes each.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from refine_jax.tasks.snlr_language import (
  ATTRIBUTES,
  BASE,
  CLASS_OF,
  CLASSES,
  SYNONYMS,
  Row,
  Rule,
)

DIFFICULTIES = ("easy", "medium", "hard")
SPLITS = ("train", "dev", "test")
BLOCK = 1024
_RULES = 5
# Codes of words: attributes, then synonyms; instances, then classes.
_FACTS = (*ATTRIBUTES, *BASE)
_SUBJECTS = (*CLASS_OF, *CLASSES)
_FACT_CODE = {word: i for i, word in enumerate(_FACTS)}
_SUBJECT_CODE = {word: i for i, word in enumerate(_SUBJECTS)}
_OPS = ("", "", "and", "or")
_OP_CODE = {"": 0, "and": 2, "or": 3}
# The share of facts that are any pair; the others lead to a conclusion.
_ANY = 0.26
_BUCKETS = 16
# All pairs of attributes.
_FIRST, _SECOND = np.triu_indices(len(ATTRIBUTES), 1)
# `_SURFACES[attribute, i % _WAYS[attribute]]` are its spellings' codes.
_WAYS = np.array([1 + len(SYNONYMS.get(a, ())) for a in ATTRIBUTES])
_SURFACES = np.zeros((len(ATTRIBUTES), _WAYS.max()), np.uint8)
for _i, _a in enumerate(ATTRIBUTES):
  for _j, _w in enumerate((_a, *SYNONYMS.get(_a, ()))):
    _SURFACES[_i, _j] = _FACT_CODE[_w]
_MEMBERS = [
  [_SUBJECT_CODE[name] for name in names] for names in CLASSES.values()
]
_CLASS_CODE = np.array(
  [_SUBJECT_CODE[CLASS_OF.get(s, s)] for s in _SUBJECTS], np.uint8
)


def _mix(x: np.ndarray) -> np.ndarray:
  """The finaliser of splitmix64: well-mixed 64 bits of a counter."""
  x = np.asarray(x, np.uint64)
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


class Codes(NamedTuple):
  """Rows as codes: B rows of K = 5 rules.

  Attributes:
    words_BK3: two antecedents (the second counts under and/or) and conclusion.
    shapes_BK: 0 and 1 one antecedent, 2 and, 3 or.
    about_BK: the rule's subject; subject_B: the row's.
    facts_B2: as they are written.
    rules_B: how many rules count.
  """

  words_BK3: np.ndarray
  shapes_BK: np.ndarray
  about_BK: np.ndarray
  subject_B: np.ndarray
  facts_B2: np.ndarray
  rules_B: np.ndarray


class _Draws:
  """Columns of random numbers, one row per key."""

  def __init__(self, keys_B: np.ndarray):
    self._keys_B, self._count = keys_B, 0

  def bits(self, columns: int) -> np.ndarray:
    counters = self._count + np.arange(1, columns + 1, dtype=np.uint64)
    self._count += columns
    step = np.uint64(0x9E3779B97F4A7C15)
    return _mix(self._keys_B[:, None] + counters * step)

  def below(self, n, columns: int) -> np.ndarray:
    return (self.bits(columns) % np.uint64(n)).astype(np.int64)

  def uniform(self) -> np.ndarray:
    return (self.bits(1)[:, 0] >> np.uint64(11)) * 2.0**-53


def draw(
  keys_B: np.ndarray, *, difficulty: str, rules: int, curriculum: float
) -> Codes:
  """One row per 64-bit key; see `Rows` for the rest."""
  draws = _Draws(keys_B)
  size = len(keys_B)
  order = np.argsort(draws.bits(len(ATTRIBUTES)), axis=1, kind="stable")
  words_BK3 = order[:, : 3 * _RULES].reshape(size, _RULES, 3).astype(np.uint8)
  shapes_BK = draws.below(4, _RULES).astype(np.uint8)
  subject_B = _subjects(draws)
  general = draws.below(2, _RULES) & (difficulty != "easy")
  about_BK = np.where(
    general, _CLASS_CODE[subject_B][:, None], subject_B[:, None]
  )
  rules_B = np.full(size, rules)
  if rules > 1:
    fewer = 1 + draws.below(rules - 1, 1)[:, 0]
    rules_B = np.where(draws.uniform() < curriculum, fewer, rules_B)
  pair_B2 = _facts(draws, words_BK3, shapes_BK, rules_B)
  facts_B2 = _surfaces(draws, pair_B2) if difficulty == "hard" else pair_B2
  return Codes(
    words_BK3,
    shapes_BK,
    about_BK.astype(np.uint8),
    subject_B.astype(np.uint8),
    facts_B2.astype(np.uint8),
    rules_B.astype(np.uint8),
  )


def _subjects(draws: _Draws) -> np.ndarray:
  """A class, then one of its members."""
  kind, within = draws.below(len(_MEMBERS), 1)[:, 0], draws.bits(1)[:, 0]
  chosen = np.zeros(len(kind), np.int64)
  for k, members in enumerate(_MEMBERS):
    codes = np.array(members)[(within % np.uint64(len(members))).astype(int)]
    chosen = np.where(kind == k, codes, chosen)
  return chosen


def _surfaces(draws: _Draws, facts_B2: np.ndarray) -> np.ndarray:
  ways = draws.bits(2) % _WAYS[facts_B2].astype(np.uint64)
  return _SURFACES[facts_B2, ways.astype(np.int64)]


def _facts(draws, words_BK3, shapes_BK, rules_B) -> np.ndarray:
  """Any pair, or one of those that lead to a conclusion; B2, attributes."""
  alone, left, right, told = _roles(words_BK3, shapes_BK, rules_B)
  a, b = (lambda m: m[:, _FIRST]), (lambda m: m[:, _SECOND])
  fired = a(alone) | b(alone)
  fired |= (a(left) & b(right)) | (a(right) & b(left))
  fired &= ~(a(told) | b(told))
  free = draws.uniform() < _ANY
  allowed = (fired > 0) | free[:, None]
  heap = allowed.cumsum(1, dtype=np.uint16)
  point = 1 + np.floor(draws.uniform() * heap[:, -1]).astype(np.uint16)
  pair = (heap >= point[:, None]).argmax(1)
  facts = np.stack([_FIRST[pair], _SECOND[pair]], 1)
  flip = draws.below(2, 1) == 1
  return np.where(flip, facts[:, ::-1], facts)


def _roles(words_BK3, shapes_BK, rules_B):
  """Sets of rules as bits, [B, attributes]: where an attribute does what.

  Returns:
    fires the rule alone; is one of, and the other of, an `and`'s antecedents;
    is the conclusion.
  """
  size = len(rules_B)
  alone, left, right, told = np.zeros((4, size, len(ATTRIBUTES)), np.uint8)
  rows = np.arange(size)
  for k in range(_RULES):
    bit = (k < rules_B).astype(np.uint8) << k
    first, second, conclusion = words_BK3[:, k].T
    shape = shapes_BK[:, k]
    alone[rows, first] |= bit * (shape != 2)
    alone[rows, second] |= bit * (shape == 3)
    left[rows, first] |= bit * (shape == 2)
    right[rows, second] |= bit * (shape == 2)
    told[rows, conclusion] |= bit
  return alone, left, right, told


def fingerprints(codes: Codes) -> np.ndarray:
  """64 bits of what each row says, whatever the order of its parts."""
  first, second, conclusion = np.moveaxis(
    codes.words_BK3.astype(np.uint64), 2, 0
  )
  paired = codes.shapes_BK > 1
  low = np.where(paired, np.minimum(first, second), first)
  high = np.where(paired, np.maximum(first, second), np.uint64(99))
  shape = np.maximum(codes.shapes_BK, 1).astype(np.uint64)
  about = codes.about_BK.astype(np.uint64)
  rules = _number(low, high, conclusion, shape, about)
  counts = np.arange(_RULES) < codes.rules_B[:, None]
  total = np.where(counts, _mix(rules), np.uint64(0)).sum(1, dtype=np.uint64)
  facts = np.sort(codes.facts_B2, axis=1).astype(np.uint64)
  subject = codes.subject_B.astype(np.uint64)
  return _mix(total + _mix(_number(facts[:, 0], facts[:, 1], subject)))


def _number(*digits: np.ndarray) -> np.ndarray:
  value = np.ones_like(digits[0])
  for digit in digits:
    value = value * np.uint64(100) + digit
  return value


def encode(rows: Iterable[Row]) -> Codes:
  """Rows with at most five rules, as codes."""
  rows = list(rows)
  words = np.zeros((len(rows), _RULES, 3), np.uint8)
  shapes = np.zeros((len(rows), _RULES), np.uint8)
  about = np.zeros((len(rows), _RULES), np.uint8)
  for i, row in enumerate(rows):
    for k, rule in enumerate(row.rules):
      said = (rule.antecedents[0], rule.antecedents[-1], rule.conclusion)
      words[i, k] = [_FACT_CODE[word] for word in said]
      shapes[i, k] = _OP_CODE[rule.op]
      about[i, k] = _SUBJECT_CODE[rule.subject]
  facts = [[_FACT_CODE[fact] for fact in row.facts] for row in rows]
  return Codes(
    words,
    shapes,
    about,
    np.array([_SUBJECT_CODE[row.subject] for row in rows], np.uint8),
    np.array(facts, np.uint8).reshape(len(rows), 2),
    np.array([len(row.rules) for row in rows], np.uint8),
  )


def decode(codes: Codes, index: int) -> Row:
  """Row `index` of `codes`."""
  shapes, about = (
    codes.shapes_BK[index].tolist(),
    codes.about_BK[index].tolist(),
  )
  rules = []
  for k, (first, second, conclusion) in enumerate(
    codes.words_BK3[index, : codes.rules_B[index]].tolist()
  ):
    op = _OPS[shapes[k]]
    said = (_FACTS[first], _FACTS[second]) if op else (_FACTS[first],)
    rules.append(Rule(_SUBJECTS[about[k]], said, op, _FACTS[conclusion]))
  a, b = codes.facts_B2[index].tolist()
  subject = _SUBJECTS[codes.subject_B[index]]
  return Row(subject, (_FACTS[a], _FACTS[b]), tuple(rules))


class Rows(Sequence[Mapping[str, Any]]):
  """`size` rows `{"id", "row"}` of a split, made when they are asked for.

  Args:
    size: how many; any number.
    seed: rows of different seeds are different rows.
    split: `train`, `dev` or `test`; disjoint by content for all seeds.
    difficulty: `easy` (rules about the instance), `medium` (and its class),
      `hard` (and synonyms in the fact).
    rules: rules in a row, 1 to 5.
    curriculum: share of the rows that have fewer, 1 to `rules` - 1.
    avoid: fingerprints that no row may have.
  """

  def __init__(
    self,
    size: int,
    *,
    seed: int = 0,
    split: str = "train",
    difficulty: str = "hard",
    rules: int = 5,
    curriculum: float = 0.0,
    avoid: Container[int] = frozenset(),
  ):
    if difficulty not in DIFFICULTIES:
      raise ValueError(
        f"difficulty {difficulty!r} is none of {', '.join(DIFFICULTIES)}"
      )
    if split not in SPLITS:
      raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    if not 1 <= rules <= _RULES:
      raise ValueError(f"rules must lie between 1 and 5, got {rules}")
    if not 0 <= seed < 2**31:
      raise ValueError(f"seed must lie between 0 and 2**31 - 1, got {seed}")
    if not 0 <= curriculum <= 1:
      raise ValueError(f"curriculum must lie in [0, 1], got {curriculum}")
    self._size, self._seed, self._split = size, seed, split
    self._how = {
      "difficulty": difficulty,
      "rules": rules,
      "curriculum": curriculum,
    }
    self._avoid = np.array(sorted(avoid), np.uint64)
    self._blocks: dict[int, Codes] = {}

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index):
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(self._size))]
    index = int(index)
    if not -self._size <= index < self._size:
      raise IndexError(index)
    index %= self._size
    return {
      "id": f"snlr-{self._split}-{self._seed}-{index}",
      "row": self.row(index),
    }

  def row(self, index: int) -> Row:
    """Row `index`; equal for equal arguments, in any order of asking."""
    block, place = divmod(index, BLOCK)
    codes = self._blocks.get(block)
    if codes is None:
      size = min(BLOCK, self._size - block * BLOCK)
      codes = self._blocks[block] = self._block(block * BLOCK, size)
    return decode(codes, place)

  def _block(self, start: int, size: int) -> Codes:
    """Rows that may not be in this split are drawn again."""
    indices = np.arange(start, start + size, dtype=np.uint64)
    done, good = self._draw(indices, 0)
    wrong = np.flatnonzero(~good)
    attempt = 0
    while wrong.size:
      attempt += 1
      again, good = self._draw(indices[wrong], attempt)
      for old, new in zip(done, again, strict=True):
        old[wrong[good]] = new[good]
      wrong = wrong[~good]
    return done

  def _draw(self, indices, attempt: int) -> tuple[Codes, np.ndarray]:
    """A try at each row, and which may stay."""
    seed = np.uint64([self._seed + 1]) * np.uint64(2**32)
    keys = _mix(_mix(seed + np.uint64(attempt)) + indices)
    codes = draw(keys, **self._how)
    prints = fingerprints(codes)
    mine = split_of(prints) == self._split
    return codes, mine & ~np.isin(prints, self._avoid)


def split_of(prints: np.ndarray) -> np.ndarray:
  """Every possible row belongs to one split, so that no two share any."""
  bucket = prints % np.uint64(_BUCKETS)
  return np.select([bucket == 0, bucket == 1], ["dev", "test"], "train")
