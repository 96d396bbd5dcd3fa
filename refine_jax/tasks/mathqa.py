"""MathQA, multiple choice: five options in the question, a letter to answer.

`reft/mathqa_{nl,python_sdp,test_set}.json`. A program has to return the
letter; a number is not matched with the options.
"""

from collections.abc import Sequence

from refine_jax.tasks import numeric_answers, reft_rows


class MathQa(reft_rows.ReftTask):
  """See `reft_rows.ReftTask` for the options.

  In `compat` every completion has an answer, if only `none`, so that no
  reward is 0, as in the published code. The paper gives no partial reward
  here; `partial=0` is that.
  """

  name = "mathqa"

  def read(self, value: object) -> str | None:
    return numeric_answers.letter(value, self.mode)

  def same(self, found: str, gold: str) -> bool:
    return found == gold

  def shown(self, answer: str) -> str:
    return answer

  def canonical(self, completion: str) -> str | None:
    return self.canonicals([completion])[0]

  def canonicals(self, completions: Sequence[str]) -> list[str | None]:
    """Only single letters vote."""
    found = self.answers(completions)
    return [x if x is not None and len(x) == 1 else None for x in found]
