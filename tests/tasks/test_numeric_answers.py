"""Numbers and letters as models write them."""

import math

import pytest

from refine_jax.tasks import numeric_answers as answers

# text, strict, compat
NUMBERS = [
  ("18", 18.0, 18.0),
  ("  18 ", 18.0, 18.0),
  ("18.", 18.0, 18.0),
  ("1,000", 1000.0, None),
  ("1,234,567.5", 1234567.5, None),
  ("1,00", None, None),
  ("$18", 18.0, None),
  ("-$5", -5.0, None),
  ("$-5", -5.0, None),
  ("18 dollars", 18.0, None),
  ("18 red apples.", 18.0, None),
  ("18€", 18.0, None),
  ("50%", 50.0, None),
  ("50 %", 50.0, None),
  ("1/2", 0.5, None),
  ("3 1/2", 3.5, None),
  ("1/0", None, None),
  ("<203>.", 203.0, None),
  ("**7**", 7.0, None),
  ("x = 5", 5.0, None),
  (".5", 0.5, 0.5),
  ("05", 5.0, 5.0),
  ("1e3", 1000.0, 1000.0),
  ("-3.5", -3.5, -3.5),
  ("\N{MINUS SIGN}4", -4.0, None),
  ("five", None, None),
  ("5 or 6", None, None),
  ("5 of the 7", None, None),
  ("nan", None, math.nan),
  ("inf", None, math.inf),
  ("1e999", None, math.inf),
  ("1_000", None, 1000.0),
  ("\N{ARABIC-INDIC DIGIT THREE}", None, 3.0),
  ("", None, None),
  ("9" * 400, None, math.inf),
  ("none", None, None),
]


@pytest.mark.parametrize("text, strict, compat", NUMBERS)
def test_numbers(text, strict, compat):
  assert answers.number(text) == strict
  found = answers.number(text, "compat")
  assert found == compat or (found != found and compat != compat)


@pytest.mark.parametrize(
  "value, strict, compat",
  [
    (18, 18.0, 18.0),
    (2.5, 2.5, 2.5),
    (True, None, 1.0),
    (None, None, None),
    (math.nan, None, math.nan),
    (-math.inf, None, -math.inf),
    (10**400, None, None),
  ],
)
def test_values_of_programs(value, strict, compat):
  assert answers.number(value) == strict
  found = answers.number(value, "compat")
  assert found == compat or (found != found and compat != compat)


@pytest.mark.parametrize("text", ["7" * 10**6, "1," * 10**6, "a " * 10**6])
def test_long_texts_are_quick(text):
  assert answers.number(text) is None


@pytest.mark.parametrize(
  "found, gold, strict, compat",
  [
    (203.66, 203.66666, True, True),
    (18.01, 18.0, True, False),
    (18.011, 18.0, False, False),
    (0.33, 1 / 3, True, True),
    (0.0, 0.002, False, True),
    (0.012, 0.002, False, True),
    (0.036, 0.036, True, True),
    (0.045, 0.036, False, True),
    (0.0334, 1 / 30, True, True),
    (0.005, 0.0, True, True),
    (math.nan, 1.0, False, False),
    (math.inf, 1.0, False, False),
  ],
)
def test_comparison(found, gold, strict, compat):
  assert answers.same(found, gold) == strict
  assert answers.same(found, gold, "compat") == compat


# text, strict, compat
LETTERS = [
  ("c", "c", "c"),
  ("C", "c", "c"),
  ("(c)", "c", "(c)"),
  ("c ) 198", "c", "c ) 198"),
  ("c) 198, not d) 5", "c", "c) 198, not d) 5"),
  ("c.", "c", "c."),
  ("c :", "c", "c :"),
  ("option c", "c", "option c"),
  ("Option (B).", "b", "option (b)."),
  ("'e'", "e", "e"),
  ("<a>", "a", "<a>"),
  ("a dog", None, "a dog"),
  ("f", None, "f"),
  ("cd", None, "cd"),
  ("198", None, "198"),
  ("none", None, "none"),
  ("", None, ""),
  (3, None, "3"),
  (None, None, "none"),
]


@pytest.mark.parametrize("text, strict, compat", LETTERS)
def test_letters(text, strict, compat):
  assert answers.letter(text) == strict
  assert answers.letter(text, "compat") == compat


def test_keys_join_equal_votes():
  assert answers.key(18.0) == "18"
  assert answers.key(1 / 3) == answers.key(0.3333) == "0.33"
  assert answers.key(0.002) != answers.key(0.004)
  assert answers.key(1 / 3, "compat") != answers.key(0.3333, "compat")


@pytest.mark.parametrize(
  "value", [18.0, 2.5, 0.002, 1e-7, -3.0, 1e22, 0.1 + 0.2]
)
def test_shown_numbers_are_read_back(value):
  assert answers.number(answers.shown(value)) == pytest.approx(value, rel=1e-5)
