"""Generated rows: determinism, splits, and likeness to the published ones."""

import collections
import json
import time

import numpy as np
import pytest

from refine_jax.tasks import base, snlr_generator, snlr_language, snlr_prover
from refine_jax.tasks.snlr_generator import Rows

SIZE = 4 * snlr_generator.BLOCK


@pytest.fixture(scope="module")
def rows():
  made = Rows(SIZE)
  return [made.row(i) for i in range(SIZE)]


def test_a_row_is_a_function_of_seed_and_index(rows):
  for index in (SIZE - 1, 0, 1500):
    assert Rows(10 * SIZE).row(index) == rows[index]
  assert Rows(SIZE, seed=1).row(0) != rows[0]
  # Guards recipes against a change of the generator that nobody notices.
  assert snlr_language.to_compact(rows[0]) == (
    "tiger chill soft ; animal round and happy > scary ; tiger slow and "
    "boring > purple ; tiger soft > fast ; animal green and good > big ; "
    "animal beautiful or clean > young"
  )


def test_rows_are_a_sequence(rows):
  made = Rows(10)
  assert len(made) == 10
  assert made[-1]["row"] == rows[9]
  assert [r["id"] for r in made[2:4]] == ["snlr-train-0-2", "snlr-train-0-3"]
  with pytest.raises(IndexError):
    made[10]
  again = json.loads(json.dumps(made[3]))
  assert snlr_language.from_mapping(again) == rows[3]


def test_splits_share_no_row_whatever_the_seed(rows):
  kinds = {"train": snlr_generator.fingerprints(snlr_generator.encode(rows))}
  for split in ("dev", "test"):
    made = Rows(200, split=split, seed=5)
    prints = snlr_generator.encode([made.row(i) for i in range(200)])
    kinds[split] = snlr_generator.fingerprints(prints)
  for split, prints in kinds.items():
    assert set(snlr_generator.split_of(prints)) == {split}


def test_forbidden_rows_are_not_made(rows):
  first = snlr_generator.encode(rows[:100])
  avoid = frozenset(snlr_generator.fingerprints(first).tolist())
  made = Rows(200, avoid=avoid)
  new = [made.row(i) for i in range(200)]
  prints = snlr_generator.fingerprints(snlr_generator.encode(new))
  assert not avoid & set(prints.tolist())
  # Only those are replaced.
  assert new[100:] == rows[100:200]


def test_fingerprints_ignore_order_and_nothing_else(rows):
  def shuffled(row):
    rules = tuple(
      r._replace(antecedents=r.antecedents[::-1]) for r in row.rules[::-1]
    )
    return row._replace(facts=row.facts[::-1], rules=rules)

  encode, prints = snlr_generator.encode, snlr_generator.fingerprints
  one = prints(encode(rows[:500]))
  assert (one == prints(encode(map(shuffled, rows[:500])))).all()
  assert len(set(one.tolist())) == 500
  contents = {snlr_language.content(r) for r in rows[:500]}
  assert len(contents) == 500
  other = [r._replace(facts=(r.facts[0], "soft")) for r in rows[:500]]
  changed = [a.facts != b.facts for a, b in zip(rows, other, strict=False)]
  assert ((one != prints(encode(other))) == changed).mean() > 0.99


def test_codes_round_trip(rows):
  codes = snlr_generator.encode(rows[:100])
  assert [snlr_generator.decode(codes, i) for i in range(100)] == rows[:100]


def test_words_of_a_row_are_distinct(rows):
  for row in rows[:500]:
    words = [w for r in row.rules for w in (*r.antecedents, r.conclusion)]
    assert len(set(words)) == len(words)
    assert len({snlr_language.BASE.get(f, f) for f in row.facts}) == 2
    assert all(
      r.subject in (row.subject, snlr_language.CLASS_OF[row.subject])
      for r in row.rules
    )


def _shares(rows):
  """What the published rows were measured by."""
  counts = collections.Counter()
  for row in rows:
    counts[f"conclusions {len(snlr_prover.conclusions(row))}"] += 1
    counts[f"class {snlr_language.CLASS_OF[row.subject]}"] += 1
    roles = {}
    for i, rule in enumerate(row.rules):
      counts[f"rule {rule.op}"] += 0.2
      counts[f"general {rule.subject != row.subject}"] += 0.2
      roles |= dict.fromkeys(rule.antecedents, (i, rule.op or "one"))
      roles[rule.conclusion] = (i, "told")
    kinds = []
    for fact in row.facts:
      counts[f"synonym {fact in snlr_language.BASE}"] += 0.5
      kinds.append(
        roles.get(snlr_language.BASE.get(fact, fact), (9, "none"))[1]
      )
    counts["facts " + " ".join(sorted(kinds))] += 1
  return {k: v / len(rows) for k, v in counts.items()}


def test_rows_are_like_the_published_ones(rows, data_dir):
  path = data_dir / "refiner/srn/srn_val.json"
  published = [
    snlr_language.from_sentences(r["rules"], r["fact"])
    for r in json.loads(path.read_text())
  ]
  ours, theirs = _shares(rows), _shares(published)
  assert set(ours) == set(theirs)
  worst = max(theirs, key=lambda k: abs(ours[k] - theirs[k]))
  # Two standard errors of the difference are 0.02 at a share of 0.5.
  assert abs(ours[worst] - theirs[worst]) < 0.025, worst


@pytest.mark.parametrize("difficulty", ["easy", "medium"])
def test_easier_rows(difficulty):
  made = Rows(1000, difficulty=difficulty)
  shares = _shares([made.row(i) for i in range(1000)])
  assert shares["synonym False"] == 1.0
  assert ("general True" in shares) == (difficulty == "medium")


def test_a_curriculum_mixes_in_rows_with_fewer_rules():
  made = Rows(2000, curriculum=0.7)
  sizes = collections.Counter(len(made.row(i).rules) for i in range(2000))
  assert sizes[5] / 2000 == pytest.approx(0.3, abs=0.05)
  assert set(sizes) == {1, 2, 3, 4, 5}
  one = Rows(500, rules=1)
  found = [len(snlr_prover.conclusions(one.row(i))) for i in range(500)]
  assert np.mean(found) == pytest.approx(0.8, abs=0.1)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"difficulty": "harder"}, "difficulty"),
    ({"rules": 6}, "rules"),
    ({"curriculum": 1.5}, "curriculum"),
    ({"split": "held_out"}, "split"),
    ({"seed": -1}, "seed"),
  ],
)
def test_what_cannot_be_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    Rows(10, **options)


def test_no_generated_row_is_in_the_published_files(data_dir):
  task = base.load("snlr", path=str(data_dir))
  published = task._fingerprints()
  assert len(published) == 6000
  for split in ("train", "dev"):
    made = task.source(split).rows
    codes = snlr_generator.encode([made.row(i) for i in range(500)])
    prints = set(snlr_generator.fingerprints(codes).tolist())
    assert not prints & published


def test_rows_are_made_fast_enough_to_train_on():
  """40,000 a second of processor time; a tenth is asked for here."""
  made = Rows(SIZE, seed=9)
  start = time.process_time()
  for i in range(SIZE):
    made.row(i)
  assert SIZE / (time.process_time() - start) > 4000
