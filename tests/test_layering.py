"""Imports point down; a new package is a decision."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "refine_jax"
LEAVES = {"files", "records", "batch", "sharding", "config"}
ALLOWED = {
    **{leaf: set() for leaf in LEAVES},
    "records": {"files"},
    "algorithms": set(),
    "tasks": {"files", "records"},
    "models": {"batch", "sharding"},
    "data": {"files", "records", "batch"},
    "training": {"files", "batch", "sharding", "algorithms"},
    "sampling": {
        "files", "batch", "sharding", "algorithms", "data", "models",
        "records",
    },
    "planning": {"batch", "sharding", "models", "training", "sampling"},
    "methods": {
        "records", "batch", "algorithms", "tasks", "data", "sampling",
    },
    "stages": {
        *LEAVES, "algorithms", "tasks", "models", "data", "training",
        "sampling", "methods", "planning",
    },
}  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}:{node.lineno}: a relative import"
      for alias in node.names:
        yield node.lineno, f"{node.module}.{alias.name}"


def layer(path):
  return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_imports_point_down(path):
  here = layer(path)
  if here == "__init__":
    return
  assert here in ALLOWED, f"{path}: {here} is not in the layering"
  for line, name in imports(path):
    top, *rest = name.split(".")
    if top == "refine_jax" and rest:
      assert rest[0] in ALLOWED[here] | {here}, (
        f"{path}:{line}: {here} imports {name}, which is not below it"
      )


@pytest.mark.parametrize(
  "path", [p for p in FILES if layer(p) == "tasks"], ids=lambda p: p.stem
)
def test_tasks_never_import_jax(path):
  tops = {name.split(".")[0] for _, name in imports(path)}
  assert not tops & {"jax", "flax", "jaxlib", "optax"}, path


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_only_stages_see_configs(path):
  if layer(path) in ("stages", "config"):
    return
  tops = {name.split(".")[0] for _, name in imports(path)}
  assert not tops & {"ml_collections", "absl"}, path
