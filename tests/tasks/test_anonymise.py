"""Numbers out of free text and back."""

import pytest

from refine_jax.tasks import anonymise


@pytest.mark.parametrize(
  ("text", "expected", "numbers"),
  [
    (
      "Frank had 20 pieces of candy. He lost 6 of them.",
      "Frank had number0 pieces of candy. He lost number1 of them.",
      [20, 6],
    ),
    ("It costs $4.", "It costs $number0.", [4]),
    ("1,000 or 1,234,567.5", "number0 or number1", [1000, 1234567.5]),
    ("0.5, .5 and 3.", "number0, number1 and number2.", [0.5, 0.5, 3]),
    ("1/2 of 3 1/2 and ½", "number0 of number1 and number2", [0.5, 3.5, 0.5]),
    ("50% at -3 degrees", "number0% at number1 degrees", [50, -3]),
    ("5-3", "number0-number1", [5, 3]),
    ("1,2,3", "number0,number1,number2", [1, 2, 3]),
    ("the 3rd B2B deal", "the 3rd B2B deal", []),
    ("1/0 and 1,0000", "number0/number1 and number2,number3", [1, 0, 1, 0]),
    ("5kg at 3:30", "number0kg at number1:number2", [5, 3, 30]),
    ("9" * 40, "9" * 40, []),
    ("", "", []),
  ],
)
def test_numbers_and_their_round_trip(text, expected, numbers):
  found = anonymise.anonymise(text)
  assert found.text == expected
  assert found.numbers == pytest.approx(numbers)
  assert anonymise.restore(found.text, found.surfaces) == text


def test_a_placeholder_in_the_text_is_refused():
  with pytest.raises(ValueError, match="'number3'"):
    anonymise.anonymise("number3 apples and 4 pears")


def test_placeholders_without_a_number_stay():
  assert anonymise.restore("number9 number99999 number0", ("7",)) == (
    "number9 number99999 7"
  )


def test_text_is_written_as_the_published_problems_are():
  text = anonymise.tokenised("He paid $number0, for number1kg.")
  assert text == "He paid $ number0 , for number1 kg ."


def test_long_text_is_no_trouble():
  found = anonymise.anonymise("1,234 " * 2_000)
  assert len(found.numbers) == 2_000
