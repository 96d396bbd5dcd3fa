"""Moral Stories: a norm, then the moral action that follows it.

The question is a situation, an intention and an immoral action; the
completion is `{norm} <|M_ACT|> {moral action}`. Rows come from
`<path>/refiner/moral_stories/critic_{dev,test}_prep.json`, which hold the
actor's rows and the norms that a critic is trained on. The training file is
not among the published ones that can be had; without `critic_train_prep.json`
or `actor_train.json` give `train_share`, which carves a train split out of
dev.
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from refine_jax import files, records
from refine_jax.tasks import base, moral_critic, tables, text_metrics
from refine_jax.tasks.moral_critic import (
  CONTRADICTION,
  MORAL,
  NO_HINT,
  actor_input,
)

SPLITS = ("train", "dev", "test", "actor_train", "actor_dev", "actor_test")
_META = (
  "norm",
  "norm_action",
  "norm_sentiment",
  "anti_norm",
  "other_norms",
  "other_anti_norms",
  "fake_norms",
  "fake_norm_sentiments",
)


class MoralStories(base.Task):
  """Norms and actions.

  `metrics` are `norm_exact`, then BLEU and ROUGE-L of norm and action.

  Args:
    path: the data folder.
    train_share: the share of dev's norms that is the train split instead, for
      data folders without a train file.
    seed: decides which.
  """

  no_hint = NO_HINT
  markers = (
    moral_critic.SITUATION,
    moral_critic.INTENTION,
    moral_critic.IMMORAL,
    moral_critic.NORM,
    MORAL,
  )

  def __init__(
    self, path: str = "data", *, train_share: float = 0.0, seed: int = 0
  ):
    if not 0 <= train_share < 1:
      raise ValueError(f"train_share must lie in [0, 1), got {train_share}")
    self.path = files.path(path) / "refiner" / "moral_stories"
    self.train_share, self.seed = train_share, seed

  def source(self, split: str) -> records.Source:
    if split not in SPLITS:
      raise base.unknown_split(self, split, SPLITS)
    carved = self.train_share > 0 and split in ("train", "dev")
    name = "dev" if carved else split.removeprefix("actor_")
    kind = f"actor_{name}" if "actor" in split else f"critic_{name}_prep"
    table = tables.Table(
      self.path / f"{kind}.json",
      name=f"moral-{split}",
      keep=functools.partial(self._belongs, split) if carved else None,
    )
    return records.Source(rows=table, name=str(table.path), split=split)

  def _belongs(self, split: str, row: Mapping[str, Any]) -> bool:
    """Stories with one norm stay together."""
    norm = moral_critic.plain(str(row.get("norm")))
    digest = hashlib.blake2b(f"{self.seed}:{norm}".encode(), digest_size=8)
    train = int.from_bytes(digest.digest(), "little") < (
      self.train_share * 2**64
    )
    return train == (split == "train")

  def problem(self, row: Mapping[str, Any]) -> records.Problem:
    """A row of the actor's or of the critic's files."""
    if "actor_input" in row:
      question = tables.field(row, "actor_input")
      norm, action = split_completion(tables.field(row, "actor_output"))
      if action is None:
        raise tables.bad(row, f"no {MORAL}", "actor_output", norm)
      meta = {"norm": norm}
    else:
      question = actor_input(row)
      norm = tables.field(row, "norm")
      action = tables.field(row, "moral_action")
      meta = {name: row.get(name) for name in _META}
    return records.Problem(
      id=str(row.get("id") or question),
      question=question,
      gold=join_completion(norm, action),
      answer=base.squeeze(action),
      meta=meta,
    )

  def answer(self, completion: str) -> str | None:
    """The moral action; None if the tag is missing."""
    action = split_completion(completion)[1]
    return None if action is None else base.squeeze(action)

  def check(self, problem: records.Problem, completion: str) -> bool:
    """Whether the norm is the gold one; actions have no right answer."""
    return moral_critic.same(
      split_completion(completion)[0], [problem.meta["norm"]]
    )

  def canonical(self, completion: str) -> str | None:
    return moral_critic.plain(split_completion(completion)[0]) or None

  def metrics(
    self, problem: records.Problem, completion: str
  ) -> dict[str, float]:
    norm, action = split_completion(completion)
    gold_norm, gold_action = split_completion(problem.gold)
    action = action or ""
    return {
      "norm_exact": float(self.check(problem, completion)),
      "norm_bleu": text_metrics.bleu(norm, gold_norm),
      "norm_rouge_l": text_metrics.rouge_l(norm, gold_norm),
      "action_bleu": text_metrics.bleu(action, gold_action),
      "action_rouge_l": text_metrics.rouge_l(action, gold_action),
    }

  def feedback(self, problem: records.Problem, hypothesis: str) -> str:
    """Looks at the norm only.

    Known paraphrases and opposites first; then norms about the same thing
    (most words after the judgment agree) by whether they approve; all others
    are hinted at the right action.
    """
    norm, meta = split_completion(hypothesis)[0], problem.meta
    gold = meta["norm"]
    if moral_critic.same(norm, [gold, *(meta.get("other_norms") or ())]):
      return self.no_hint
    opposite = [*(meta.get("other_anti_norms") or ())]
    opposite += [meta["anti_norm"]] if meta.get("anti_norm") else []
    if moral_critic.same(norm, opposite):
      return CONTRADICTION
    fakes = zip(
      meta.get("fake_norms") or (),
      meta.get("fake_norm_sentiments") or (),
      strict=True,
    )
    for fake, sentiment in fakes:
      if moral_critic.same(norm, [fake]):
        return moral_critic.hint(meta, sentiment)
    ours, theirs = moral_critic.polarity(norm), moral_critic.polarity(gold)
    if ours and theirs and moral_critic.overlap(norm, gold) >= 0.6:
      if ours != theirs:
        return CONTRADICTION
      if moral_critic.content(norm) == moral_critic.content(gold):
        return self.no_hint
    sentiment = meta.get("norm_sentiment") or theirs
    return moral_critic.hint({**meta, "norm_sentiment": sentiment}, ours)

  def error_types(self, feedback: str) -> tuple[str, ...]:
    said = moral_critic.plain(feedback)
    if said == self.no_hint:
      return ()
    return (CONTRADICTION,) if said == CONTRADICTION else ("misaligned",)

  def normalise_feedback(self, text: str) -> frozenset[str]:
    """A hint is one phrase."""
    return frozenset({moral_critic.plain(text)} - {""})

  def perturb(
    self, problem: records.Problem, rng: np.random.Generator
  ) -> list[records.Critique]:
    """The norm or a paraphrase, an opposite, and a norm of something else."""
    meta = problem.meta
    action = split_completion(problem.gold)[1] or ""
    right = [meta["norm"], *(meta.get("other_norms") or ())]
    anti = [meta["anti_norm"]] if meta.get("anti_norm") else []
    anti += meta.get("other_anti_norms") or ()
    fakes = list(meta.get("fake_norms") or ())
    rows = []
    for kind, norms in (
      ("gold", right),
      (CONTRADICTION, anti),
      ("misaligned", fakes),
    ):
      norms = [
        n for n in norms if kind == "gold" or not moral_critic.same(n, right)
      ]
      if not norms:
        continue
      norm = norms[int(rng.integers(len(norms)))]
      text = join_completion(norm[:1].upper() + norm[1:], action)
      row = self.critique(
        problem, text, kind, () if kind == "gold" else (kind,)
      )
      rows.append(row)
    return rows

  def corpus(self) -> Iterable[str]:
    """Questions, completions and hints of the train split, or of dev."""
    try:
      rows = list(self.source("train").rows)
    except FileNotFoundError:
      rows = self.source("dev").rows
    for row in rows:
      problem = self.problem(row)
      yield problem.question
      yield problem.gold
      yield problem.meta.get("norm_action") or problem.meta["norm"]
    yield f"{self.no_hint} {CONTRADICTION}"


def split_completion(text: str) -> tuple[str, str | None]:
  """`norm <|M_ACT|> action`; the action is None where the tag is missing."""
  norm, tag, action = text.partition(MORAL)
  return norm.strip(), action.strip() if tag else None


def join_completion(norm: str, action: str) -> str:
  return f"{norm} {MORAL} {action}"
