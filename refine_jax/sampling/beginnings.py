"""What prompts have in common, and which of them need not be read."""

from collections.abc import Sequence

# A copy of a row has to save so many tokens.
WORTH = 8


def followers(
  prompts: Sequence[tuple[int, ...]], held: Sequence[int]
) -> dict[int, tuple[int, int]]:
  """Prompts that begin like an earlier one: place -> (its place, how far).

  Only where that is more than their own rows hold (`held`) by WORTH; the
  earlier one follows nobody itself. A prompt's last token is never shared.
  """
  first: list[int] = []
  found = {}
  for i, ids in enumerate(prompts):
    alike = {j: shared(prompts[j], ids) for j in first}
    best = max(alike, key=alike.__getitem__, default=None)
    count = 0 if best is None else min(alike[best], len(ids) - 1)
    if best is not None and count >= held[i] + WORTH:
      found[i] = (best, count)
    else:
      first.append(i)
  return found


def shared(one: Sequence[int], other: Sequence[int]) -> int:
  """How many tokens both begin with."""
  count = 0
  for a, b in zip(one, other, strict=False):
    if a != b:
      break
    count += 1
  return count
