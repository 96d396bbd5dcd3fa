"""Beam search against transformers' on the same random weights."""

import numpy as np
import pytest
import sampling_families as families
import torch
import transformers
from fake_family import Letters

from refine_jax.models import hf
from refine_jax.sampling.engine import Engine, Request, Sampling

BEAMS, MAX_TOKENS = 3, 10
PROMPTS = ("abc", "hgfedcba", "d", "ccab")
TOKENIZER = Letters()
CASES = {
  "plain": {},
  "early": {"early_stopping": True},
  "short": {"length_penalty": 0.0},
  "long": {"length_penalty": 2.0, "early_stopping": True},
  "min": {"min_tokens": 4, "length_penalty": 0.5},
}


@pytest.fixture(scope="module", params=["t5", "llama"])
def pair(request, tmp_path_factory):
  family = getattr(families, request.param)()
  params = families.initialised(family, 3)
  folder = tmp_path_factory.mktemp(request.param)
  hf.save(folder, family, params)
  auto = (
    transformers.AutoModelForSeq2SeqLM
    if family.encoder_decoder
    else transformers.AutoModelForCausalLM
  )
  model = auto.from_pretrained(folder).eval()
  engine = Engine(
    family, TOKENIZER, slots=(12,), prompt_buckets=(16,), token_buckets=(16,)
  )
  return engine, params, model


def theirs(engine, model, prompt, *, min_tokens=0, **options):
  ids = torch.tensor([engine.encode(prompt)])
  with torch.no_grad():
    out = model.generate(
      ids,
      attention_mask=torch.ones_like(ids),
      num_beams=BEAMS,
      num_return_sequences=BEAMS,
      max_new_tokens=MAX_TOKENS,
      min_new_tokens=min_tokens or None,
      do_sample=False,
      eos_token_id=TOKENIZER.eos_id,
      pad_token_id=TOKENIZER.pad_id,
      return_dict_in_generate=True,
      output_scores=True,
      **options,
    )
  skip = 1 if engine.family.encoder_decoder else ids.shape[1]
  return out.sequences[:, skip:].tolist(), out.sequences_scores.tolist()


@pytest.mark.parametrize("case", CASES)
def test_sequences_and_scores(pair, case):
  engine, params, model = pair
  options = CASES[case]
  sampling = Sampling(beams=BEAMS, max_tokens=MAX_TOKENS, **options)
  requests = [Request(p, p, n=BEAMS) for p in PROMPTS]
  groups = engine.generate(params, requests, sampling)
  for prompt, samples in zip(PROMPTS, groups, strict=True):
    sequences, scores = theirs(engine, model, prompt, **options)
    for sample, sequence, score in zip(samples, sequences, scores, strict=True):
      padding = [TOKENIZER.pad_id] * (len(sequence) - len(sample.tokens))
      assert [*sample.tokens, *padding] == sequence
      length = len(sample.tokens) ** sampling.length_penalty
      np.testing.assert_allclose(
        sum(sample.model_logprobs) / length, score, atol=1e-4
      )


def test_more_samples_than_beams_is_an_error(pair):
  engine, params, _ = pair
  with pytest.raises(ValueError, match="n = 4 of 3 beams"):
    engine.generate(params, [Request("a", "abc", n=4)], Sampling(beams=3))
