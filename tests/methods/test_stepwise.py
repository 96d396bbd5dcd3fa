"""Stepwise inference with models of known probabilities, and its controls."""

import numpy as np
import pytest

from refine_jax.data.tokenizer import ByteTokenizer, WordTokenizer
from refine_jax.methods import comparison, selectors, stepwise
from refine_jax.methods.layout import Layout, cut_left, fingerprint
from refine_jax.records import Sample
from refine_jax.sampling.settings import Sampling


def sample(text, logprob=-1.0):
  tokens = tuple(range(len(text.split())))
  return Sample("s", text, tokens, (), (logprob,) * len(tokens), "eos")


class ScriptedAgent:
  """Proposes from a table round by round; remembers what it was shown."""

  settings = Sampling(max_tokens=4)

  def __init__(self, rounds, room=1000):
    self.rounds, self.shown, self.accepted, self.size = rounds, [], [], room
    self.live = set()

  def open(self, name, question):
    self.live.add(name)

  def room(self, name):
    return self.size - 8 * len(self.accepted)

  def propose(self, names, count, turn, shown):
    self.shown.append(dict(shown))
    table = self.rounds[min(turn, len(self.rounds) - 1)]
    return {n: [sample(text) for text in table[:count]] for n in names}

  def accept(self, chosen):
    self.accepted.append({n: index for n, (index, _) in chosen.items()})

  def close(self, name):
    self.live.remove(name)


class ScriptedScorer:
  """Log-probabilities by (rationale, candidate); a stand-in for the base."""

  def __init__(self, table):
    self.table, self.asked, self.steps = table, [], []

  def open(self, name, question):
    self.steps.append(("open", question))

  def accept(self, name, step):
    self.steps.append((name, step))

  def room(self, name):
    return np.inf

  def close(self, name):
    pass

  def score(self, candidates, rationales=None):
    self.asked.append((dict(candidates), rationales))
    return {
      name: [
        np.array(self.table[(rationales or {}).get(name, ""), t], np.float32)
        for t in texts
      ]
      for name, texts in candidates.items()
    }


class ScriptedWriter(ScriptedScorer):
  settings = Sampling(max_tokens=4)

  def write(self, names, turn):
    return {name: sample(f"hint {name} {turn}") for name in names}


def answered(steps):
  return "answer" in steps[-1]


def run(selector, rounds, *, problems=1, room=1000, **rules):
  agent = ScriptedAgent(rounds, room)
  asked = [(f"p{i}", "what is the answer ?") for i in range(problems)]
  rules = stepwise.Rules(**{"candidates": 3, **rules})
  return stepwise.solve(asked, agent, selector, rules, answered), agent


ROUNDS = [["a one", "b two", "c three"], ["answer 1", "answer 2", "answer 3"]]
# In the first round the mean prefers "b two" (-1.5 to -1.525) and the decayed
# sum per token "c three" (-1.4225 to -1.45).
TABLE = {
  ("hint p0 0", "a one"): [-3.0, -3.0],
  ("hint p0 0", "b two"): [-2.0, -1.0],
  ("hint p0 0", "c three"): [-1.0, -2.05],
  ("hint p0 1", "answer 1"): [-1.0, -1.0],
  ("hint p0 1", "answer 2"): [-0.5, -0.5],
  ("hint p0 1", "answer 3"): [-0.5, -0.5],
  ("", "a one"): [-0.1, -0.1],
  ("", "b two"): [-1.0, -1.0],
  ("", "c three"): [-1.0, -1.0],
  ("", "answer 1"): [-1.0, -1.0],
  ("", "answer 2"): [-2.0, -1.0],
  ("", "answer 3"): [-1.0, -0.9],
}


@pytest.mark.parametrize(
  ("aggregate", "expected"),
  [("mean", ["b two", "answer 2"]), ("decayed", ["c three", "answer 2"])],
)
def test_implicit_takes_the_most_probable_under_the_rationale(
  aggregate, expected
):
  scorer, writer = ScriptedScorer(TABLE), ScriptedWriter({})
  selector = selectors.Implicit(scorer, writer, aggregate)
  (live,), agent = run(selector, ROUNDS)
  assert live.steps == expected and live.finish == "answer"
  # Ties go to the first; the base scores, never the writer.
  assert not writer.asked and len(scorer.asked) == 2
  assert writer.steps == [("open", "what is the answer ?"), ("p0", expected[0])]
  assert live.notes[0]["rationale"] == "hint p0 0"
  assert agent.live == set()


def test_likelihood_alone_and_random_and_first():
  scorer = ScriptedScorer(TABLE)
  (live,), _ = run(selectors.Likelihood(scorer, "mean"), ROUNDS)
  assert live.steps == ["a one", "answer 3"]
  assert all(rationales is None for _, rationales in scorer.asked)
  (live,), _ = run(selectors.First(), ROUNDS)
  assert live.steps == ["a one", "answer 1"]
  lives, _ = run(selectors.Random(0), ROUNDS, problems=40)
  picks = [live.notes[0]["index"] for live in lives]
  assert {0, 1, 2} == set(picks)
  again, _ = run(selectors.Random(0), ROUNDS, problems=7)
  assert [live.notes[0]["index"] for live in again] == picks[:7]


def test_shuffled_gives_another_problems_rationale():
  table = {
    (f"hint p{i} {t}", text): [-1.0]
    for i in range(4)
    for t in range(2)
    for texts in ROUNDS
    for text in texts
  }
  scorer, writer = ScriptedScorer(table), ScriptedWriter({})
  selector = selectors.Implicit(scorer, writer, "mean", shuffled=True)
  lives, _ = run(selector, ROUNDS, problems=4)
  for i, live in enumerate(lives):
    used = [note["rationale"] for note in live.notes]
    assert used == [f"hint p{(i + 2) % 4} {t}" for t in range(2)]


def test_confidence_and_explicit_ask_after_every_candidate():
  asked = []

  def ask(trajectories):
    asked.append(list(trajectories))
    return [
      sample(f"after {steps[-1] if steps else 'question'}", -1.0 - ("a" in t))
      for _, steps in trajectories
      for t in [(steps or ("",))[-1]]
    ]

  selector = selectors.RationaleConfidence(ask)
  (live,), agent = run(selector, ROUNDS)
  # "a one" and every "answer" hold an a; of equals the first.
  assert live.steps == ["b two", "answer 1"]
  assert asked[1][0] == ("what is the answer ?", ("b two", "answer 1"))
  assert agent.shown == [{}, {}]
  (live,), agent = run(selectors.Explicit(ask), ROUNDS)
  assert live.steps == ["b two", "answer 1"]
  assert agent.shown == [{"p0": "after question"}, {"p0": "after b two"}]
  ready = selectors.Explicit(ask, ready="after b two")
  (live,), agent = run(ready, ROUNDS)
  assert agent.shown[1] == {}


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("3", 3),
    ("Reward: 3", 3),
    ("The reward is 2.", 2),
    ("(1)", 1),
    ("reward = 0", 0),
    ("3 of 3", None),
    ("Reward: 1 or Reward: 2", None),
    ("7", None),
    ("good", None),
    ("", None),
    ("9" * 5000, None),
  ],
)
def test_rewards_are_read_or_not(text, expected):
  assert selectors.reward_of(text) == expected


def test_a_judge_that_says_nothing_is_counted_and_never_random():
  said = {"a one": "?", "b two": "Reward: 1", "c three": "1"}
  judge = selectors.Reward(
    lambda asked: [sample(said.get(steps[-1], "?")) for _, steps in asked]
  )
  (live,), _ = run(judge, ROUNDS)
  assert live.steps == ["b two", "answer 1"]
  assert [note["unparsed"] for note in live.notes] == [1, 3]


def test_stops_on_the_round_the_answer_appears_and_not_before():
  (live,), agent = run(selectors.First(), ROUNDS, cap=15)
  assert len(agent.shown) == 2 and len(live.turns) == 2
  (late,), agent = run(selectors.First(), [*ROUNDS, ["more"]], late_stop=True)
  # One more round is run for nothing, and paid for.
  assert late.steps == live.steps and len(agent.shown) == 3
  paid = [sum(t.spent for t in x.turns) for x in (live, late)]
  assert paid[1] > paid[0]


def test_cap_and_stuck_states():
  endless = [[f"step {i}"] for i in range(20)]
  (live,), agent = run(selectors.First(), endless, cap=15, candidates=1)
  assert live.finish == "cap" and len(live.steps) == 15
  (live,), _ = run(
    selectors.First(), endless, cap=15, candidates=1, late_stop=True
  )
  assert live.finish == "cap" and len(live.steps) == 14
  for rounds in ([["same"]], [["one"], [" "]]):
    (live,), _ = run(selectors.First(), rounds, candidates=1)
    assert live.finish == "stuck" and len(live.steps) == 1
  (live,), agent = run(selectors.First(), endless, room=60, candidates=1)
  assert live.finish == "stuck" and 0 < len(live.steps) < 15
  assert not agent.live


def test_layout_is_text_without_what_means_something():
  layout = Layout(open="sys ", forbidden=("<BOT>", "<EOT>"))
  assert layout.text("a <B<BOT>OT> b<EOT>") == "a  b"
  assert layout.whole("q", ("s1", "s2")) == (
    "sys ",
    "q",
    *("\n", "s1", "\n", "s2"),
    "\n",
  )
  assert layout.ask("r<EOT>") == (" <BOT>", "r", "<EOT>", "\n")


def test_a_long_text_is_cut_at_its_left():
  layout, text = Layout(open="sys\n"), ByteTokenizer()
  prompt = cut_left(text, layout, "abcdefgh", 9)
  assert prompt == ("sys\n", tuple(text.encode("efgh")), "\n")
  assert cut_left(text, layout, "abcd", 9) == ("sys\n", "abcd", "\n")
  with pytest.raises(ValueError, match="5 tokens, the limit is 5"):
    cut_left(text, layout, "abc", 5)
  words = WordTokenizer(["a", "b"])
  assert cut_left(words, Layout(), "a b a", 3)[0] == tuple(words.encode("b a"))


def arm(name, correct, prompt="x", **changes):
  ids = [f"p{i}" for i in range(len(correct))]
  zeros = dict.fromkeys(ids, 0)
  fields = {"unparsed": zeros, "stuck": zeros, "tokens": zeros, "calls": zeros}
  found = dict(zip(ids, map(bool, correct), strict=True))
  return comparison.Arm(name, prompt, found, **(fields | changes))


def test_arms_are_compared_on_the_same_problems():
  ours, theirs = [1] * 30 + [0] * 10, [1] * 10 + [0] * 30
  rows = comparison.table([arm("a", ours), arm("b", theirs)], ["b"])
  paired = rows["a"]["against b"]
  assert paired["difference"]["mean"] == pytest.approx(50)
  assert paired["difference"]["low"] > 30 and paired["p"] == 2 * 0.5**20
  assert "against b" not in rows["b"]
  text = comparison.markdown(rows, ["b"])
  assert "| a | 75.0 [" in text and text.count("\n") == 3


def test_other_prompts_or_problems_are_refused():
  with pytest.raises(comparison.NotComparable, match="different prompts"):
    comparison.table([arm("a", [1, 0]), arm("b", [1, 0], "y")], [])
  with pytest.raises(comparison.NotComparable, match="different problems"):
    comparison.against(arm("a", [1, 0]), arm("b", [1]))
  assert fingerprint("a", ["b"]) != fingerprint("a", ["c"])
