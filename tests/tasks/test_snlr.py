"""The sNLR task: both forms, oracle, perturbations, metrics."""

import collections
import itertools

import numpy as np
import pytest

from refine_jax import records
from refine_jax.tasks import base, snlr_language, snlr_oracle, snlr_prover

POPPY = {
  "id": "p",
  "rules": [
    "If a plant is boring or weak, then the plant is beautiful.",
    "If a poppy is round, then the poppy is young.",
    "If a plant is purple, then the plant is happy.",
    "If a poppy is slow and old, then the poppy is red.",
    "If a plant is scary, then the plant is good.",
  ],
  "fact": "The poppy is violet and slow.",
  "consequents": "The poppy is happy",
  "explanations": "#0: violet is purple #1: poppy is plant "
  "#2: poppy is purple #3: poppy is happy ",
}
GOLD = "#0 violet purple #1 poppy plant #2 poppy purple #3 poppy happy"


def _task(**options):
  return base.load("snlr", **{"form": "compact", **options})


@pytest.fixture(scope="module")
def problems():
  rows = _task().source("train").rows
  return [rows[i] for i in range(400)]


def test_a_published_row_in_both_forms():
  text, compact = _task(form="text"), _task()
  one, two = text.problem(POPPY), compact.problem(POPPY)
  assert one.question == " ".join([*POPPY["rules"], POPPY["fact"]])
  assert one.gold == POPPY["explanations"].strip()
  assert two.question.startswith("poppy violet slow ; plant boring or weak > ")
  assert two.gold == GOLD
  assert one.answer == two.answer == "The poppy is happy."
  assert text.answer(one.gold) == compact.answer(two.gold) == one.answer
  assert compact.published_text(two.gold) == one.gold


@pytest.mark.parametrize(
  ("ours", "said", "text"),
  [
    (GOLD, "no hint", "no hint"),
    (
      "#0 poppy plant #1 poppy purple #2 poppy happy",
      "#0 implicit",
      "The implicit knowledge is missing in #0.",
    ),
    (
      "#0 violet purple #1 poppy purple #2 poppy happy",
      "#1 implicit",
      "The implicit knowledge is missing in #1.",
    ),
    (
      "#0 violet purple #1 poppy plant #2 poppy happy",
      "#2 link",
      "Missing link between fact and rules in #2.",
    ),
    (
      "#0 poppy slow #1 poppy red",
      "#0 operator and",
      "The and operator makes #0 invalid.",
    ),
    (
      "#0 violet purple #1 poppy plant #2 poppy weak #3 poppy happy",
      "#2 invalid",
      "The inference in #2 is invalid.",
    ),
    (
      "#0 violet purple #1 poppy plant #2 poppy purple #3 poppy good",
      "#3 conclusion",
      "The conclusion in #3 is incorrect.",
    ),
    (
      "#0 violet purple #1 poppy plant #2 poppy purple #3 nothing",
      "#3 conclusion",
      "The conclusion in #3 is incorrect.",
    ),
    (
      "#0 violet purple #1 poppy plant #2 violet purple #3 poppy purple "
      "#4 poppy happy",
      "#2 extra",
      "The step #2 is not needed.",
    ),
    (
      "#0 poppy plant #1 violet purple #2 poppy purple #3 poppy happy",
      "#0 order",
      "The step #0 is out of order.",
    ),
    ("poppy happy", "#0 malformed", "The steps from #0 cannot be read."),
    ("", "#0 malformed", "The steps from #0 cannot be read."),
  ],
)
def test_the_oracle_and_its_two_wordings(ours, said, text):
  task = _task()
  problem = task.problem(POPPY)
  assert task.feedback(problem, ours) == said
  assert task.convert_feedback(said, compact=False) == text
  wordy = _task(form="text")
  assert wordy.convert_feedback(text, compact=True) == said
  kinds = {said.split()[1]} if said != "no hint" else set()
  assert set(task.error_types(said)) == set(wordy.error_types(text)) == kinds


def test_an_or_that_is_read_as_an_and():
  task = _task()
  problem = task.problem(
    {"row": snlr_language.from_compact("cat red hot ; cat red or bad > old")}
  )
  assert task.feedback(problem, "#0 nothing") == "#0 operator or"


def test_feedback_may_name_the_rule_and_every_error():
  task = _task(detail="rule", findings="every")
  problem = task.problem(POPPY)
  assert " r2 plant purple > happy r3 " in problem.question
  said = task.feedback(problem, "#0 poppy plant #1 poppy purple #2 poppy good")
  assert said == "#0 implicit r2 #2 conclusion r2"
  assert task.error_types(said) == ("implicit", "conclusion")
  assert task.normalise_feedback(said) == task.normalise_feedback(
    "#2 conclusion r2  #0 implicit r2"
  )
  wordy = task.convert_feedback(said, compact=False)
  assert wordy == (
    "The implicit knowledge is missing in #0, rule 2. "
    "The conclusion in #2 is incorrect, rule 2."
  )
  text = _task(form="text", detail="rule", findings="every")
  assert text.convert_feedback(wordy, compact=True) == said


@pytest.mark.parametrize("compact", [True, False])
def test_every_finding_is_written_losslessly(compact):
  for kind, step, rule in itertools.product(snlr_oracle.TYPES, (0, 7), (-1, 4)):
    op = "and" if kind == "operator" else ""
    finding = (snlr_oracle.Finding(kind, step, op, rule),)
    text = snlr_oracle.render(finding, compact=compact, rules=True)
    assert snlr_oracle.parse(text, compact=compact) == finding


@pytest.mark.parametrize("form", ["text", "compact"])
@pytest.mark.parametrize("mode", ["compat", "complete"])
def test_golds_are_accepted_and_perturbations_are_not(problems, form, mode):
  task = _task(form=form, mode=mode)
  made = collections.Counter()
  for i, row in enumerate(problems[:150]):
    problem = task.problem(row)
    assert task.feedback(problem, problem.gold) == task.no_hint
    for critique in task.perturb(problem, np.random.default_rng(i)):
      kind = critique.id.rpartition("/")[2]
      right = critique.feedback == task.no_hint
      assert right == (kind == "gold") == (not critique.errors)
      assert critique.feedback == task.feedback(problem, critique.hypothesis)
      assert task.error_types(critique.feedback) == critique.errors
      assert right == bool(task.metrics(problem, critique.hypothesis)["exact"])
      made[kind] += 1
  assert set(made) == {"gold", *snlr_oracle.TYPES} - {"malformed"}
  assert min(made.values()) > 30


def test_perturbations_are_seeded(problems):
  task = _task()
  problem = task.problem(problems[0])
  one, two = (task.perturb(problem, np.random.default_rng(3)) for _ in range(2))
  assert one == two


def test_dropped_steps_are_named(problems):
  task = _task()
  seen = 0
  for i, row in enumerate(problems):
    problem = task.problem(row)
    rows = {
      c.id.rpartition("/")[2]: c
      for c in task.perturb(problem, np.random.default_rng(i))
    }
    for kind in ("implicit", "link"):
      if kind in rows:
        gone = len(task.steps(problem.gold)) - len(
          task.steps(rows[kind].hypothesis)
        )
        assert gone == 1
        assert rows[kind].errors == (kind,)
        seen += 1
  assert seen > 200


def test_hostile_hypotheses_have_an_answer(problems):
  task = _task()
  problem = task.problem(problems[0])
  words = task.vocabulary()
  rng = np.random.default_rng(0)
  for _ in range(300):
    text = " ".join(rng.choice(words, size=int(rng.integers(0, 40))))
    assert task.feedback(problem, text)
    assert set(task.metrics(problem, text)) == {
      *("exact", "steps", "conclusion", "proof")
    }
  for text in ("#0 " * 5000, "#0 poppy " + "and red " * 5000, "\0", "#٣ a b"):
    assert task.feedback(problem, text) == "#0 malformed"


def test_metrics_of_steps_and_conclusion():
  task = _task()
  problem = task.problem(POPPY)

  def scores(text):
    return tuple(int(v) for v in task.metrics(problem, text).values())

  assert scores(GOLD) == (1, 1, 1, 1)
  assert scores(GOLD.replace("happy", "red")) == (0, 1, 0, 0)
  assert scores("#0 poppy happy") == (0, 0, 1, 0)
  assert scores("happy") == (0, 0, 0, 0)
  empty = task.problem(
    {"row": snlr_language.from_compact("cat red hot ; cat bad > old")}
  )
  assert task.metrics(empty, "nonsense")["steps"] == 0.0


def test_a_row_whose_answer_is_not_the_prover_s_is_bad():
  task = _task()
  with pytest.raises(records.BadRow, match="the prover says"):
    task.problem({**POPPY, "consequents": "The poppy is red"})
  with pytest.raises(records.BadRow, match="not a fact"):
    task.problem({**POPPY, "fact": "Poppies are red."})
  with pytest.raises(records.BadRow, match="rules"):
    task.problem({"fact": POPPY["fact"], "rules": "If"})


def test_the_compact_vocabulary_is_closed(problems):
  task = _task(detail="rule", findings="every")
  words = set(task.vocabulary())
  assert len(words) < 130
  assert words == set(task.markers)
  for i, row in enumerate(problems[:100]):
    problem = task.problem(row)
    texts = [problem.question, problem.gold]
    for c in task.perturb(problem, np.random.default_rng(i)):
      texts += [c.hypothesis, c.feedback]
    for text in texts:
      assert text == " ".join(text.split())
      assert set(text.split()) <= words


def test_compact_rows_are_short(problems):
  task = _task()
  made = [task.problem(row) for row in problems]
  assert np.mean([len(p.question.split()) for p in made]) < 36
  assert np.mean([len(p.gold.split()) for p in made]) < 10


def test_a_corpus_for_a_tokenizer():
  texts = list(itertools.islice(_task(size=20).corpus(), 1000))
  assert set(_task().vocabulary()) <= set(" ".join(texts).split())


def test_own_problems_in_either_form():
  task = _task()
  problem = task.own(
    "If a cat is red, then the cat is old. The cat is red and hot."
  )
  assert problem == task.own("cat red hot ; cat red > old")
  assert problem.gold == "#0 cat red #1 cat old"
  with pytest.raises(ValueError, match="unknown subject"):
    task.own("unicorn red hot ; cat red > old")


def test_options_are_checked():
  for options in ({"form": "short"}, {"difficulty": "x"}, {"mode": "x"}):
    with pytest.raises(ValueError, match="is none of"):
      _task(**options)
  with pytest.raises(ValueError, match="path"):
    _task().source("published_test")


def test_published_splits_and_the_ceiling_of_exact_match(data_dir):
  """Our own rendering is 95.0 % of the published strings of the test rows."""
  task = _task(path=str(data_dir))
  made = [task.problem(r) for r in task.source("published_test").rows]
  assert len(made) == 4000
  assert made[0].id == "snlr-val-1000"
  assert len(task.source("published_dev").rows) == 1000
  scores = [task.metrics(p, p.gold) for p in made]
  assert np.mean([s["exact"] for s in scores]) == pytest.approx(0.95025)
  assert all(s["proof"] and s["conclusion"] for s in scores)
  wordy = _task(path=str(data_dir), form="text")
  for row in wordy.source("published_dev").rows[:100]:
    said = wordy.metrics(wordy.problem(row), row["explanations"])
    assert said["exact"] == said["steps"] == 1.0


def test_easier_published_rows_are_read(data_dir):
  for difficulty in ("easy", "medium"):
    task = _task(path=str(data_dir), difficulty=difficulty)
    rows = task.source("published_train").rows
    made = [task.problem(row) for row in rows[:50]]
    assert all(task.metrics(p, p.gold)["exact"] for p in made)
    assert len(task.source("held_out").rows) == 5000


def test_steps_of_a_proof_are_pairs():
  row = snlr_language.from_compact("cat red hot ; cat red > old")
  steps = snlr_prover.pairs(snlr_prover.prove(row))
  assert _task().steps_text(steps) == "#0 cat red #1 cat old"
