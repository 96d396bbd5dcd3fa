"""A user's own task: write the letters in reverse."""

from refine_jax import records
from refine_jax.tasks import base


class Reverse(base.Task):
  markers = ("#0",)

  def __init__(self, letters="abcd", length=3):
    self.letters, self.length = letters, length

  def source(self, split):
    start = {"train": 0, "dev": 40, "test": 52}[split]
    rows = [{"n": n} for n in range(start, start + (40 if not start else 12))]
    return records.Source(rows=rows, name=f"reverse-{split}")

  def problem(self, row):
    number, letters = row["n"], []
    for _ in range(self.length):
      number, digit = divmod(number, len(self.letters))
      letters.append(self.letters[digit])
    return records.Problem(
      id=f"r{row['n']}",
      question=" ".join(letters),
      gold=" ".join(reversed(letters)),
    )
