"""The engine's greedy tokens against transformers', and int8 against float."""

import numpy as np
import pytest
import sampling_families as families
import torch
import transformers
from fake_family import Letters

from refine_jax.models import hf
from refine_jax.sampling.engine import Engine, Request, Sampling

TOKENIZER = Letters()
PROMPTS = ["abc", "hgfed", "aabbcc", "d", "cafe"]
BUDGETS = [12, 3, 9, 12, 6]


def make(family, **changes):
  # Fewer slots than requests: they are refilled.
  settings = {
    "slots": (2,),
    "prompt_buckets": (8,),
    "token_buckets": (12,),
    "chunk": 5,
  }
  return Engine(family, TOKENIZER, **{**settings, **changes})


def requests(**settings):
  return [
    Request(
      f"r{i}",
      prompt,
      sampling=Sampling(max_tokens=most, min_tokens=most - 1, **settings),
    )
    for i, (prompt, most) in enumerate(zip(PROMPTS, BUDGETS, strict=True))
  ]


@pytest.mark.parametrize("name", ["llama", "galactica", "t5"])
def test_greedy_is_generate(name, tmp_path):
  family = getattr(families, name)()
  params = families.initialised(family)
  engine = make(family)
  groups = engine.generate(params, requests())
  hf.save(tmp_path, family, params)
  auto = (
    transformers.AutoModelForSeq2SeqLM
    if name == "t5"
    else transformers.AutoModelForCausalLM
  )
  model = auto.from_pretrained(tmp_path).eval()
  for request, (sample,) in zip(requests(), groups, strict=True):
    ids = torch.tensor([engine.encode(request.prompt)])
    out = model.generate(
      ids,
      attention_mask=torch.ones_like(ids),
      max_new_tokens=request.sampling.max_tokens,
      min_new_tokens=request.sampling.min_tokens,
      do_sample=False,
      eos_token_id=TOKENIZER.eos_id,
      pad_token_id=TOKENIZER.pad_id,
    )
    expected = out[0, 1 if name == "t5" else ids.shape[1] :].tolist()
    assert list(sample.tokens) == expected


def test_int8_keys_and_values_are_near():
  family = families.llama(layers=2)
  params = families.initialised(family)
  engine = make(family, cache_dtype="int8")
  asked = requests(temperature=1.0)
  samples = [s for (s,) in engine.generate(params, asked)]
  exact = make(family).score(
    params, [r.prompt for r in asked], [(s.tokens,) for s in samples]
  )
  apart = np.concatenate(
    [
      np.abs(score - sample.model_logprobs)
      for score, sample in zip(exact, samples, strict=True)
    ]
  )
  assert 1e-6 < apart.mean() < 0.02 and apart.max() < 0.3
