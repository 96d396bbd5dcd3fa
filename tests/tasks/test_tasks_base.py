"""Loading tasks, the defaults of Task, and what every task promises."""

import json
import textwrap

import numpy as np
import pytest

from refine_jax import records
from refine_jax.tasks import base, tables

OWN = """
from refine_jax import records
from refine_jax.tasks import base


class Doubling(base.Task):
  def __init__(self, top=3):
    self.top = top

  def source(self, split):
    rows = [{"n": n} for n in range(self.top)]
    return records.Source(rows=rows, name=split)

  def problem(self, row):
    n = row["n"]
    return records.Problem(f"d{n}", f"twice {n}", f"it is {2 * n}")
"""


@pytest.fixture
def own_task(tmp_path, monkeypatch):
  (tmp_path / "doubling_task.py").write_text(textwrap.dedent(OWN))
  monkeypatch.syspath_prepend(tmp_path)
  return "doubling_task:Doubling"


def test_a_task_of_one_s_own_is_loaded_from_its_file(own_task):
  task = base.load(own_task, top=5)
  assert len(task.source("train").rows) == 5


def test_defaults_make_a_whole_task(own_task):
  task = base.load(own_task)
  problem = task.problem({"n": 2})
  assert task.prompt(problem) == "twice 2"
  assert task.feedback(problem, "it is 4") == task.no_hint
  assert task.feedback(problem, "it was 4") == "the word in #1 is incorrect."
  assert task.feedback(problem, "it is") == "the word in #2 is incorrect."
  assert task.metrics(problem, "it  is 4") == {"exact": 1.0, "answer": 1.0}
  assert task.check(problem, "it is 5") is False
  assert task.reward(problem, "it is 4") == 1.0
  rows = task.perturb(problem, np.random.default_rng(0))
  assert [row.errors for row in rows][:1] == [()]
  assert all((r.feedback == task.no_hint) == (not r.errors) for r in rows)


def test_an_unknown_task_lists_those_there_are_and_suggests_one():
  with pytest.raises(ValueError, match="did you mean 'snlr'") as error:
    base.load("snrl")
  for name in ("moral_stories", "mwp", "snlr"):
    assert name in str(error.value)
  with pytest.raises(ValueError, match="no task"):
    base.load("no_such_package.module:Task")
  with pytest.raises(ValueError, match="no task 'snlr_prover'"):
    base.load("snlr_prover")


def test_an_unknown_option_is_an_error_with_a_suggestion():
  with pytest.raises(TypeError, match="did you mean 'difficulty'"):
    base.load("snlr", dificulty="easy")


@pytest.mark.parametrize("name", base.available())
def test_an_unknown_split_names_the_splits(name):
  with pytest.raises(ValueError, match=r"has no split 'tset'.*it has .*dev"):
    base.load(name).source("tset")


def test_an_import_error_inside_a_task_is_not_hidden(tmp_path, monkeypatch):
  (tmp_path / "broken_task.py").write_text("import no_such_module_at_all\n")
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
    base.load("broken_task:Any")


def test_feedback_is_compared_as_a_set_of_sentences(own_task):
  task = base.load(own_task)
  one = task.normalise_feedback("The b in #0 is wrong. Add  an operator.")
  two = task.normalise_feedback("add an operator. the b in #0 is wrong.")
  assert one == two == {"add an operator", "the b in #0 is wrong"}


def test_tables_keep_file_lines(tmp_path):
  path = tmp_path / "rows.csv"
  path.write_text('a,b\n1,"two\nlines"\n3,4\n')
  table = tables.Table(path, name="t", keep=lambda row: row["a"] == "3")
  assert list(table) == [{"id": "t-1", "a": "3", "b": "4", "line": 4}]
  assert len(tables.Table(path, name="t", start=1)) == 1


def test_a_broken_file_is_named(tmp_path):
  path = tmp_path / "rows.json"
  path.write_text("[{")
  with pytest.raises(records.BadRow, match=r"rows\.json"):
    tables.read(path)
  path.write_text(json.dumps({"a": 1}))
  with pytest.raises(records.BadRow, match="not a list"):
    tables.read(path)


def test_bad_rows_name_line_field_and_value():
  with pytest.raises(records.BadRow) as error:
    tables.field({"line": 7, "Body": 3}, "Body")
  assert (error.value.line, error.value.field, error.value.value) == (
    *(7, "Body"),
    3,
  )
