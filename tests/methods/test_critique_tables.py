"""MathCritique's tables on two seeds made by hand."""

import numpy as np
import pytest

from refine_jax.methods import (
  critique_plots,
  critique_systems,
  critique_tables,
)


def share(mean):
  return {"mean": mean, "low": mean, "high": mean}


def arm(before, after, critic=None, chains=1, ks=(1,)):
  names = [f"p{i}" for i in range(len(before))]
  made = {
    "metric": "answer",
    "chains": chains,
    "turns": [{"answer": share(100 * np.mean(x))} for x in (before, after)],
    "transitions": {"c2c": 50, "c2i": 0, "i2c": 25, "i2i": 25},
    "changed": 100
    * np.mean([a != b for a, b in zip(before, after, strict=True)]),
    "prefill": {"actor": {"read": 10, "kept": 5}},
    "curve": {
      str(k): {
        "tokens": 10.0 * k,
        "tokens_per_solved": 40.0,
        "tokens_weighted": 50.0,
        "vote": share(50.0 + k),
        "weighted": share(1.0),
        "pass": share(2.0),
      }
      for k in ks
    },
  }
  if chains == 1:
    made["before"] = dict(zip(names, before, strict=True))
    made["after"] = dict(zip(names, after, strict=True))
  return made | ({"critic": critic} if critic else {})


def cells(lines, name):
  (row,) = [line for line in lines if line.startswith(f"| {name} |")]
  return [cell.strip() for cell in row.strip("|").split("|")]


def test_gains_are_pooled_over_seeds():
  seeds = [arm([0, 1, 1, 0], [1, 1, 1, 0]), arm([1, 1, 0, 0], [1, 1, 1, 1])]
  row = cells(critique_tables.arms({"critique": seeds}), "critique")
  assert row[1:3] == ["50.0", "87.5"]
  gain, low, high = (
    float(x) for x in row[3].replace("[", "").replace("]", "").replace(
      ",", "").split()
  )  # fmt: skip
  # Three of the eight problems of both seeds were gained, none was lost.
  assert gain == 37.5 and 0 <= low < gain < high < 100
  assert row[4:9] == ["37.5", "50.0", "0.0", "25.0", "25.0"]
  assert row[-4:] == ["40", "", "10", "5"]
  vote = [arm([0], [0], chains=4, ks=(1, 4))]
  found = {"critique": seeds, "vote": vote}
  row = cells(critique_tables.arms(found), "critique")
  assert row[-5:-2] == ["10.0", "40", "51.0"]


def test_accuracy_by_difficulty():
  seeds = [arm([0, 1], [1, 1]), arm([0, 1], [0, 1])]
  rates = [{"p0": 0.1, "p1": 0.9}, {"p0": 0.0, "p1": 1.0}]
  vote = [arm([0], [0], chains=4)]
  lines = critique_tables.by_difficulty(
    {"critique": seeds, "vote": vote}, rates
  )
  row = cells(lines, "critique")
  assert row[1:] == ["0 -> 50 (2)", "", "", "", "100 -> 100 (2)"]
  assert len(lines) == 3  # votes have no pairs
  # A seed whose problems nobody sampled is left out.
  lines = critique_tables.by_difficulty({"critique": seeds}, [{}, rates[1]])
  assert cells(lines, "critique")[1] == "0 -> 0 (1)"
  assert critique_tables.by_difficulty({"critique": seeds}, [{}, {}]) == []


def test_critics_have_intervals():
  critic = {"values": {"disc": [1, 1, 1, 0], "disc_c": []}, "ece": 0.25}
  found = {"critique": [arm([0], [1], critic)] * 2, "vote": [arm([0], [1])]}
  lines = critique_tables.critics(found)
  row = cells(lines, "critique")
  assert row[1].startswith("75.0 [") and row[2] == ""
  assert row[-2:] == ["0.250", ""]
  assert not any(line.startswith("| vote") for line in lines)


def test_critics_that_were_held_out():
  rows = [
    {"disc": 90.0, "disc_i": 80.0, "first_error": 50.0, "cases": 10.0,
     "flawed": 5.0},
    {"disc": 70.0, "disc_c": 40.0, "disc_i": 100.0, "cases": 10.0,
     "flawed": 5.0},
    {"disc": 1.0},  # of an older run, that did not count
  ]  # fmt: skip
  lines = critique_tables.held_out(rows)
  row = cells(lines, "20, 2 seeds")
  # 16 of 20, 2 of 5, 9 of 10 and 2.5 of 5, by Wilson's formula.
  assert row[1] == "80.0 [58.4, 91.9]"
  assert row[2] == "40.0 [11.8, 76.9]"
  assert row[3].startswith("90.0 [59.6") and row[4].startswith("50.0 [")
  assert critique_tables.held_out([]) == []


def test_votes_are_read_at_equal_tokens():
  found = {
    "vote": [arm([0], [0], chains=8, ks=(1, 2, 4, 8))],
    "parallel": [arm([0], [0], chains=4, ks=(3, 16))],
  }
  lines = critique_tables.votes(found)
  # Between 20 and 40 tokens: 52 and 54 percent; 160 are beyond the last.
  rows = [line for line in lines if line.startswith("| parallel")]
  assert [r.split("|")[7].strip() for r in rows] == ["53.0", ""]
  assert critique_tables.at_tokens([(1, 10, 5.0), (2, 20, 7.0)], 15) == 6.0
  assert critique_tables.at_tokens([(1, 10, 5.0), (2, 20, 7.0)], 9) is None


def manifest(share_0, coverage, distinct=(1.0, 2.0)):
  return {
    "solved": 3,
    "problems": 4,
    "trained": {"share": [share_0, 1 - share_0], "all_gini": 0.5},
    "verified": {
      "problems": [1, 3],
      "coverage": coverage,
      "distinct": list(distinct),
      "words": [4.0, 6.0],
    },
  }


LOOPS = {
  "critic": [
    [manifest(0.2, [0.5, 1.0]), manifest(0.1, [0.25, 1.0])],
    [manifest(0.4, [None, 1.0]), manifest(0.6, [0.75, 0.5])],
  ]
}


def test_tails_show_every_bin_of_every_iteration():
  lines = critique_tables.tails(LOOPS)
  first, second = (
    [cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]
  )
  assert first[:3] == ["critic", "1", "75.0"]
  assert first[4] == "50 / 100"  # the seed without such problems left out
  assert second[4] == "50 / 75" and second[5] == "35 / 65"
  assert second[6] == "1.00 / 2.00"
  assert second[7] == "4 / 6"
  assert second[8] == "1.00"  # 0.1 / 0.2 and 0.6 / 0.4


def test_all_arms_stand_in_one_table():
  def system(seed, greedy, **training):
    return {"seed": seed, "greedy": greedy, **training}

  found = {
    "vanilla": [system("a", [0, 100]), system("b", [0, 0])],
    "critic": [
      system("a", [100, 100], rows=7, updates=5, rate=0.003),
      system("b", [100, 0], rows=9, updates=5, rate=0.003),
    ],
    "talk": [system("c", [100, 100])],
    "plain": [],
  }
  lines = critique_systems.systems(found, LOOPS)
  row = cells(lines, "critique in the loop")
  assert row[1].startswith("75.0 [") and row[4].startswith("50.0 [")
  assert row[5:] == ["50", "7, 9", "5", "0.003"]
  assert cells(lines, "vanilla self-improvement")[4] == ""
  # Of another seed: there is nothing to pair it with.
  assert cells(lines, "self-talk")[4] == ""
  assert not any("gold solutions alone" in line for line in lines)


def test_the_hardest_bin_is_compared_problem_by_problem():
  def run(seed, *solved):
    return [
      {"seed": seed, "hardest": {f"p{i}": v for i, v in enumerate(values)}}
      for values in solved
    ]

  loops = {
    "critic": [run("a", [1, 1], [1, 1]), run("b", [0, 1], [1, 1])],
    "vanilla": [run("b", [0, 0], [0, 0]), run("a", [1, 0], [1, 0])],
    "matched": [run("a", [1, 1])],
  }
  lines = critique_systems.hardest(loops)
  assert "critic minus vanilla | critic minus matched" in lines[0]
  first, second = cells(lines, "1"), cells(lines, "2")
  assert first[1].startswith("50.0 [") and first[2] == "0.0 [0.0, 0.0]"
  assert second[1].startswith("75.0 [") and second[2] == ""
  assert critique_systems.hardest({"vanilla": loops["vanilla"]}) == []


def test_plots_of_what_there_is():
  made = critique_plots.plots(
    {"vote": [arm([0], [0], chains=2, ks=(1, 2))], "critique": []}, LOOPS
  )
  assert set(made) == {
    "votes.svg", "votes_k.svg", "tails.svg", "narrowing.svg",
    "coverage_critic.svg", "distinct_critic.svg",
  }  # fmt: skip
  assert all(chart.startswith("<svg") for chart in made.values())
  assert made["distinct_critic.svg"].count("<polyline") == 2
  empty = critique_plots.plots({}, {})
  assert not any(empty.values())


def test_pooling_nothing_says_nothing():
  assert critique_tables.pooled([]) == ""
  assert critique_tables.pooled([[1.0, 1.0]]) == "1.0 [1.0, 1.0]"


@pytest.mark.parametrize("key", critique_systems.SYSTEMS)
def test_every_arm_of_the_script_has_a_name(key):
  assert key.split("+")[0] in (
    "actor0", "plain", "vanilla", "matched", "critic", "talk", "trajectory",
  )  # fmt: skip
