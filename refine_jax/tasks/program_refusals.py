"""What the sandbox lacks, by name, and the little of it that is made good."""

import builtins
import math
import re

import pydantic_monty

_NEWER = ("fma", "sumprod")  # of Python's, not of the sandbox's `math`
_EXPECTED = ("np", "numpy", "sp", "sympy")  # used without an import
# `from x import *` is not known there: the names are written out.
_STARS = {
  "math": ", ".join(n for n in dir(math) if n[0] != "_" and n not in _NEWER),
  "datetime": "date, datetime, timedelta, timezone",
}
_STAR = re.compile(r"^from (math|datetime) import \*[ \t]*$", re.MULTILINE)
_MODULE = re.compile(r"No module named '([\w.]{1,60})'")
_MEMBER = re.compile(r"module '([\w.]{1,60})' has no attribute '(\w{1,60})'")
_IMPORT = re.compile(r"cannot import name '(\w{1,60})' from '([\w.]{1,60})'")
_METHOD = re.compile(r"'(\w{1,60})' object has no attribute '(\w{1,60})'")
_NAME = re.compile(r"name '(\w{1,60})' is not defined")
_SYNTAX = re.compile(r"does not yet support (?:the )?([\w' ]{1,60})")
_PLACE = re.compile(r"'([\w.]{1,60})' is not supported in this environment")


def rewritten(program: str) -> str:
  """The program with its star imports written out."""
  return _STAR.sub(lambda m: f"from {m[1]} import {_STARS[m[1]]}", program)


def explain(error: pydantic_monty.MontyError) -> tuple[str, str]:
  """The exception's name, and what was refused ("" if it is no refusal)."""
  # Model-written text may be in the message: of any length, never trusted.
  text = error.display("type-msg")[:400]
  name, _, message = text.partition(": ")
  if isinstance(error, pydantic_monty.MontySyntaxError):
    name, message = "SyntaxError", text
  return name[:60], _refused(name, message)


def _refused(name: str, message: str) -> str:
  if name == "ModuleNotFoundError" and (found := _MODULE.search(message)):
    return f"module {found[1]}"
  if name == "ImportError" and (found := _IMPORT.search(message)):
    return f"{found[2]}.{found[1]}"
  if name == "AttributeError":
    return _attribute(message)
  if name == "NameError" and (found := _NAME.search(message)):
    if found[1] in _EXPECTED:
      return f"module {found[1]}"
    return f"builtin {found[1]}" if hasattr(builtins, found[1]) else ""
  if name == "PermissionError":
    return "files"
  if name in ("NotImplementedError", "SyntaxError"):
    found = _SYNTAX.search(message)
    return f"syntax: {found[1].strip()}" if found else ""
  if name == "RuntimeError" and (found := _PLACE.search(message)):
    return found[1]
  return ""


def _attribute(message: str) -> str:
  """A module's function, or a method that Python itself has."""
  if found := _MEMBER.search(message):
    return f"{found[1]}.{found[2]}"
  found = _METHOD.search(message)
  if found and hasattr(getattr(builtins, found[1], None), found[2]):
    return f"{found[1]}.{found[2]}"
  return ""
