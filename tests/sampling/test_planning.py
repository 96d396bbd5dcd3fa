"""Which jobs share a pool."""

import pytest

from refine_jax.sampling.planning import FILLS, Job, Ladders, pools
from refine_jax.sampling.settings import Request, Sampling

LADDERS = Ladders(slots=(1, 4), prompts=(8, 16, 64), tokens=(8,))


def shared(*lengths):
  """Prompt length and jobs of every pool, for jobs of these lengths."""
  settings = Sampling(max_tokens=8)
  jobs = [
    Job(Request(str(i), "", sampling=settings), settings, (1,) * n, seed=0)
    for i, n in enumerate(lengths)
  ]
  return [(s.prompt_length, len(part)) for s, part in pools(jobs, LADDERS)]


@pytest.mark.parametrize(
  ("lengths", "expected"),
  [
    # Enough to fill the slots a few times: a pool of their own.
    ([5] * 4 * FILLS + [9] * 4, [(8, 4 * FILLS), (16, 4)]),
    # One fewer: the slots that the last rows leave idle would cost more.
    ([5] * (4 * FILLS - 1) + [9] * 4, [(16, 4 * FILLS + 3)]),
    # Not with rows four times as long, unless they do not fill the slots once.
    ([9] * 4 + [50], [(16, 4), (64, 1)]),
    ([9] * 3 + [50], [(64, 4)]),
  ],
)
def test_few_jobs_join_those_of_longer_prompts(lengths, expected):
  assert shared(*lengths) == expected
