"""MathQA without its options: the number itself is asked for.

`reft/mathqa-numeric_{nl,python_sdp,test_set}.json`.
"""

from refine_jax.tasks import reft_rows


class MathQaNumeric(reft_rows.NumericTask):
  """See `reft_rows.ReftTask` for the options."""

  name = "mathqa-numeric"
