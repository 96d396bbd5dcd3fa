"""Nouns on disk: what a stage reads and writes, one JSON object per line.

Every record is a frozen dataclass with an `id`. Files are `.jsonl`; a stage
that runs in several processes writes one shard per process,
`name-00001-of-00004.jsonl`, and `read` puts the shards back into one order.
"""

from refine_jax.records.appending import Appender
from refine_jax.records.nouns import (
  END,
  Annotated,
  Attempts,
  Candidate,
  Critique,
  Document,
  Example,
  Feedback,
  Problem,
  Prompt,
  Rationale,
  Sample,
  Segment,
  Source,
  Trajectory,
  Turn,
)
from refine_jax.records.rows import BadRow, from_mapping, to_json
from refine_jax.records.shards import read, shard, shards, write

__all__ = [
  "END",
  "Annotated",
  "Appender",
  "Attempts",
  "BadRow",
  "Candidate",
  "Critique",
  "Document",
  "Example",
  "Feedback",
  "Problem",
  "Prompt",
  "Rationale",
  "Sample",
  "Segment",
  "Source",
  "Trajectory",
  "Turn",
  "from_mapping",
  "read",
  "shard",
  "shards",
  "to_json",
  "write",
]
