"""The cells of the plans' table, without compiling any."""

import importlib.util
import json
import pathlib
import types

TOP = pathlib.Path(__file__).parent.parent.parent


def loaded():
  path = TOP / "benchmarks/plan_matrix.py"
  found = importlib.util.spec_from_file_location("plan_matrix", path)
  module = importlib.util.module_from_spec(found)
  found.loader.exec_module(module)
  return module


def test_a_slice_that_fails_has_no_plan_of_the_one_before(monkeypatch):
  matrix = loaded()
  too_small = types.SimpleNamespace(
    returncode=1, stdout=json.dumps({"fits": False}), stderr=""
  )
  failed = types.SimpleNamespace(returncode=2, stdout="", stderr="error: no")
  answers = iter([too_small, failed])
  monkeypatch.setattr(matrix.subprocess, "run", lambda *_, **__: next(answers))
  cell = matrix.Cell("a", "embed", "config", ("v5e:2x2", "v5e:2x4"))
  row = matrix.make(cell, pathlib.Path("known"))
  assert row == {"name": "a", "topology": "v5e:2x4", "error": ["error: no"]}


def test_a_torn_last_line_is_cut(tmp_path):
  matrix, path = loaded(), tmp_path / "cells.jsonl"
  row = json.dumps({"name": "a", "plan": {"fits": True}}) + "\n"
  path.write_text(row + '{"name": "b", "pl')
  assert list(matrix.done(path)) == ["a"]
  # What is appended is a line of its own.
  with path.open("a", encoding="utf-8") as file:
    file.write(row.replace('"a"', '"b"'))
  assert list(matrix.done(path)) == ["a", "b"]
