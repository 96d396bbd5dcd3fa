"""BLEU and ROUGE of free text; the libraries are imported on first use."""

import functools
from collections.abc import Sequence


def bleu(ours: str, gold: str) -> float:
  """Sentence BLEU in [0, 1] (sacrebleu, exponential smoothing)."""
  import sacrebleu

  return sacrebleu.sentence_bleu(ours, [gold]).score / 100


def corpus_bleu(ours: Sequence[str], gold: Sequence[str]) -> float:
  """Corpus BLEU in [0, 1] (sacrebleu's defaults)."""
  import sacrebleu

  return sacrebleu.corpus_bleu(list(ours), [list(gold)]).score / 100


def rouge_l(ours: str, gold: str) -> float:
  """ROUGE-L F1 in [0, 1], with stemming."""
  return _scorer().score(gold, ours)["rougeL"].fmeasure


@functools.cache
def _scorer():
  from rouge_score import rouge_scorer

  return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
