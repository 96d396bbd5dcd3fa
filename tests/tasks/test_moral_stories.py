"""Moral Stories: rows, the critic builder, the oracle, metrics."""

import collections

import numpy as np
import pytest

from refine_jax import records
from refine_jax.tasks import base, moral_critic, moral_stories, text_metrics

FIRE = {
  "id": "fire",
  "situation": "Brian notices his neighbor's house is on fire.",
  "intention": "Brian wants to keep the fire from spreading to his house.",
  "moral_action": "Brian drags his hose next door.",
  "immoral_action": "Brian carefully protects his property.",
  "norm": "You should help others when they're in danger.",
  "norm_sentiment": 2.0,
  "norm_action": "helping others when they're in danger.",
  "anti_norm": "It's wrong not to help others when they're in danger.",
  "other_norms": ["It's good to help others when they're in danger."] * 2,
  "other_anti_norms": ["It's wrong to help others when they're in danger."],
  "fake_norms": [
    "you must keep the fire",
    "it's rude to put out the fire at house",
    "it's right to protect property",
  ],
  "fake_norm_sentiments": [1, -1, 1],
}
QUESTION = (
  "<|SIT|> Brian notices his neighbor's house is on fire. <|INT|> Brian wants "
  "to keep the fire from spreading to his house. <|I_ACT|> Brian carefully "
  "protects his property. <|NRM|>"
)
GOLD = (
  "You should help others when they're in danger. <|M_ACT|> "
  "Brian drags his hose next door."
)


@pytest.fixture(scope="module")
def task():
  return base.load("moral_stories")


def test_both_kinds_of_rows_are_one_problem(task):
  one = task.problem(FIRE)
  assert (one.question, one.gold) == (QUESTION, GOLD)
  actor = {"id": "fire", "actor_input": QUESTION, "actor_output": GOLD}
  two = task.problem(actor)
  assert (two.question, two.gold, two.answer) == (QUESTION, GOLD, one.answer)
  with pytest.raises(records.BadRow, match="M_ACT"):
    task.problem({**actor, "actor_output": "You should help."})


def test_norm_and_action_are_split_and_joined():
  assert moral_stories.split_completion(GOLD) == (
    *("You should help others when they're in danger.",),
    "Brian drags his hose next door.",
  )
  assert moral_stories.split_completion("only a norm") == ("only a norm", None)
  assert moral_stories.split_completion("<|M_ACT|> act") == ("", "act")
  assert moral_stories.join_completion("a", "b") == "a <|M_ACT|> b"


def test_a_missing_tag_scores_the_norm_alone(task):
  problem = task.problem(FIRE)
  assert task.answer("no tag") is None
  scores = task.metrics(
    problem, "you should help others when they're in danger"
  )
  assert scores["norm_exact"] == 1.0
  assert scores["action_bleu"] == scores["action_rouge_l"] == 0.0


def test_metrics_of_the_gold_are_one(task):
  problem = task.problem(FIRE)
  assert task.metrics(problem, problem.gold) == pytest.approx(
    dict.fromkeys(
      (
        *("norm_exact", "norm_bleu", "norm_rouge_l"),
        *("action_bleu", "action_rouge_l"),
      ),
      1.0,
    )
  )
  assert text_metrics.corpus_bleu(
    ["a b c d e"], ["a b c d e"]
  ) == pytest.approx(1)
  assert text_metrics.rouge_l("the cat", "the dog") == pytest.approx(0.5)


@pytest.mark.parametrize(
  ("norm", "said"),
  [
    ("You should help others when they're in danger.", "no hint"),
    ("it's good to help others when they're in danger", "no hint"),
    ("It is right to help others when they're in danger.", "no hint"),
    ("It's wrong not to help others when they're in danger.", "contradiction"),
    ("You shouldn't help others when they're in danger.", "contradiction"),
    ("You must keep the fire", "helping others when they're in danger."),
    (
      "It's rude to put out the fire at house",
      "not helping others when they're in danger.",
    ),
    ("It is bad to dance", "not helping others when they're in danger."),
    ("", "helping others when they're in danger."),
  ],
)
def test_the_oracle(task, norm, said):
  problem = task.problem(FIRE)
  assert task.feedback(problem, f"{norm} <|M_ACT|> something") == said


def test_a_not_is_taken_away_again():
  row = {**FIRE, "norm_action": "Not smoking.", "norm_sentiment": -1.0}
  assert moral_critic.hint(row, 1) == "smoking."
  assert moral_critic.hint(row, -1) == "not smoking."
  missing = {**FIRE, "norm_action": None}
  assert moral_critic.hint(missing, 1) == FIRE["norm"].lower()


def test_the_oracle_needs_no_more_than_an_actor_row(task):
  actor = {"id": "f", "actor_input": QUESTION, "actor_output": GOLD}
  problem = task.problem(actor)
  assert task.feedback(problem, GOLD) == task.no_hint
  anti = "You shouldn't help others when they're in danger. <|M_ACT|> x"
  assert task.feedback(problem, anti) == "contradiction"
  other = task.feedback(problem, "It is bad to dance. <|M_ACT|> x")
  assert other == "not you should help others when they're in danger."


def test_critic_rows_of_a_story():
  rows = moral_critic.story(FIRE, compat=True)
  said = [(r.kind, r.norm, r.critic_output) for r in rows]
  assert said[0] == ("norm", FIRE["norm"], "no hint")
  assert said[-1] == (
    *("misaligned", "It's rude to put out the fire at house"),
    "not helping others when they're in danger.",
  )
  assert len(said) == 7
  assert rows[0].critic_input == f"{QUESTION} {GOLD}"
  assert len(moral_critic.story(FIRE)) == 8


def test_repetitions_are_removed_and_counted():
  rows, counts = moral_critic.build([FIRE])
  assert counts == {
    "norm": 2,
    "contradiction": 2,
    "misaligned": 3,
    "repeated": 1,
  }
  assert len(rows) == 7
  rows, counts = moral_critic.build([FIRE], cap=1)
  assert counts["capped"] == 5
  assert len(rows) == 3


def test_perturbations(task):
  problem = task.problem(FIRE)
  rows = task.perturb(problem, np.random.default_rng(0))
  assert [r.errors for r in rows] == [(), ("contradiction",), ("misaligned",)]
  for row in rows:
    assert task.error_types(row.feedback) == row.errors
    assert row.hypothesis.endswith(f"<|M_ACT|> {FIRE['moral_action']}")
    assert row.gold == GOLD


@pytest.mark.parametrize(
  ("split", "labels", "repeated", "fakes"),
  [
    ("dev", (5594, 4913, 4937), 125, 5936),
    ("test", (5124, 4702, 4961), 110, 5959),
  ],
)
def test_the_published_critic_rows(data_dir, split, labels, repeated, fakes):
  """15,444 and 14,787 as published; ours use every fake norm, each once."""
  task = base.load("moral_stories", path=str(data_dir))
  stories = list(task.source(split).rows)
  rows, counts = moral_critic.build(stories, compat=True)
  kinds = ("norm", "contradiction", "misaligned")
  assert tuple(counts[k] for k in kinds) == labels
  assert len(rows) == sum(labels)
  made, ours = moral_critic.build(stories)
  assert (ours["repeated"], ours["misaligned"]) == (repeated, fakes)
  problems = {r["id"]: task.problem(r) for r in stories}
  said = collections.Counter(
    task.feedback(problems[r.id], r.norm) == r.critic_output for r in made
  )
  assert said == {True: len(made)}


def test_published_actor_rows_are_the_same_problems(data_dir):
  task = base.load("moral_stories", path=str(data_dir))
  actors = [task.problem(r) for r in task.source("actor_test").rows]
  stories = [task.problem(r) for r in task.source("test").rows]
  assert [(p.id, p.question, p.gold) for p in actors] == [
    (p.id, p.question, p.gold) for p in stories
  ]
  assert len(actors) == 1000


def test_train_is_carved_out_of_dev_on_request(data_dir):
  task = base.load("moral_stories", path=str(data_dir), train_share=0.8)
  train, dev = task.source("train").rows, task.source("dev").rows
  assert len(train) + len(dev) == 1000
  assert 750 < len(train) < 850
  assert not {r["norm"] for r in train} & {r["norm"] for r in dev}
  with pytest.raises(FileNotFoundError):
    len(base.load("moral_stories", path=str(data_dir)).source("train").rows)
