"""SVAMP: simple word problems, as ReFT trains on them (MAWPS, ASDiv, SVAMP).

`reft/svamp_{nl,python_sdp,test_set}.json`: 3,076 solutions in words, 3,043
programs, 1,000 test problems.
"""

from refine_jax.tasks import reft_rows


class Svamp(reft_rows.NumericTask):
  """See `reft_rows.ReftTask` for the options."""

  name = "svamp"
