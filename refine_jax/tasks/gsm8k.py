"""GSM8K: its own jsonl, or ReFT's json.

`reft/gsm8k_{nl,python_sdp,test_set}.json` where they are there, or else
`gsm8k/{train,test}.jsonl`, whose solutions in words are used without their
calculator marks (`<<48/2=24>>`). The jsonl has no programs: for `program` its
rows have an answer, which is enough to be rewarded, and no gold.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from refine_jax import records
from refine_jax.tasks import latex_published, reft_rows, reft_text, tables

_MARK = re.compile(r"<<[^<>\n]{0,200}>>")


class Gsm8k(reft_rows.NumericTask):
  """See `reft_rows.ReftTask` for the options.

  Of `text` there is a third mode, `mathcritique`: answers are found and
  compared as MathCritique's published code does (`latex_published`), after
  the `sentence` with which golds end whatever `ending` says.
  """

  name = "gsm8k"

  @property
  def _texts(self) -> bool:
    """Answers are texts, compared as such."""
    return self.mode == "mathcritique"

  def modes(self, form: str) -> tuple[str, ...]:
    more = ("mathcritique",) if form == "text" else ()
    return (*super().modes(form), *more)

  def ending(self, value: str) -> str:
    if self._texts:
      return reft_text.SENTENCE.format(value)
    return super().ending(value)

  def files(self, split: str) -> Sequence[pathlib.Path]:
    own = self.path / "gsm8k" / f"{split}.jsonl"
    return (*super().files(split), own)

  def problem(self, row: Mapping[str, Any]) -> records.Problem:
    if "answer_value" in row:
      return super().problem(row)
    answer = tables.field(row, "answer")
    cot, marker, value = answer.rpartition("####")
    if not marker:
      raise tables.bad(row, "has no #### before its answer", "answer", answer)
    cot = _MARK.sub("", cot).strip() if self.form == "text" else ""
    question = tables.field(row, "question").strip()
    value = value.strip().replace(",", "")
    return self.made(row, str(row["id"]), question, value, cot)

  def gold(self, text: str) -> float | str:
    return text.replace(",", "") if self._texts else super().gold(text)

  def _read_text(self, completion: str) -> float | str | None:
    if self._texts:
      return latex_published.said(completion, number=True)
    return super()._read_text(completion)

  def same(self, found: float | str, gold: float | str) -> bool:
    if self._texts:
      return latex_published.same(gold, found)
    return super().same(found, gold)

  def shown(self, answer: float | str) -> str:
    return answer if self._texts else super().shown(answer)

  def key(self, answer: float | str) -> str:
    return answer if self._texts else super().key(answer)
