"""A round of PPO against a plain torch loop on the same CPU cores.

    python benchmarks/ppo_vs_torch.py --json

Both start from the same weights, answer the same prompts with as many tokens,
are judged by the same task, and update twice by the same losses in float32.
Theirs is the loop that most people have: transformers' generate on a static
batch padded left, old, value and reference by two forwards without gradient,
two passes with AdamW. Rounds alternate, ours and theirs, and a ratio of
samples per second is taken of each pair. The last line of stdout is one JSON
object. Needs the test extra.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
  sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from refine_jax.stages import allocator  # noqa: E402

# Before anything allocates; for torch as well as for us.
KEPT = allocator.keep_memory()

import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from refine_jax.data import tokenizer_training  # noqa: E402
from refine_jax.models import hf  # noqa: E402
from refine_jax.stages import (  # noqa: E402
  build,
  launch,
  on_policy,
  train_reft,
)

PARTS = ("generate", "check", "score", "update", "idle")


def settings(args) -> Any:
  """The config of the arithmetic experiment, at the size asked for."""
  config = launch.load_config(str(ROOT / "configs/reft/arithmetic.py"))
  config.train_reft.train.batch_size = args.rows
  config.engine.slots = args.rows
  config.model.overrides.update(
    width=args.width, layers=args.layers, head_dim=args.width // 4
  )
  config.model.overrides.mlp = 4 * args.width
  config.model.overrides.unroll = args.layers
  config.mesh.devices = 1
  # Theirs has no schedule.
  config.train_reft.train.optimizer.update(schedule="constant", warmup_steps=0)
  return config


class Ours:
  """The stage's own rounds and learner."""

  def __init__(self, model, task, problems, config):
    section = config.train_reft
    self._rounds = on_policy.Rounds(model, task, problems, config, section)
    self._learner = train_reft.learner(model, config, self._rounds.shape)

  def round(self, number: int) -> dict[str, float]:
    rollouts, made = self._rounds.make(self._learner.policy, number)
    figures = {**made, **self._learner.learn(number, rollouts)}
    jax.block_until_ready(self._learner.policy)
    return figures


class Theirs:
  """Generate, judge, score, update; as ReFT's released code goes about it."""

  def __init__(self, folder, task, problems, config, tokenizer, encode):
    self._task, self._problems, self._config = task, problems, config
    self._tokenizer, self._encode = tokenizer, encode
    load = transformers.LlamaForCausalLM.from_pretrained
    self._policy, self._reference = load(folder), load(folder)
    self._head = torch.nn.Linear(self._policy.config.hidden_size, 1)
    torch.nn.init.zeros_(self._head.weight)
    torch.nn.init.zeros_(self._head.bias)
    self._params = [*self._policy.parameters(), *self._head.parameters()]
    section = config.train_reft.train.optimizer
    self._optimizer = torch.optim.AdamW(
      self._params,
      lr=section.learning_rate,
      betas=(section.b1, section.b2),
      weight_decay=0.0,
      fused=True,
    )
    self._policy.eval()
    self._reference.eval()

  def round(self, number: int) -> dict[str, float]:
    size = self._config.train_reft.train.batch_size
    start = (number * size) % (len(self._problems) - size)
    problems = self._problems[start : start + size]
    clock = [time.perf_counter()]
    ids, mask, prompt = self._generate(problems)
    clock.append(time.perf_counter())
    acts = _actions(ids, prompt, self._tokenizer.eos_id)
    texts = [
      self._tokenizer.decode(
        [t for t, a in zip(i, m, strict=True) if a and t != self._eos]
      )
      for i, m in zip(ids[:, prompt:].tolist(), acts.tolist(), strict=True)
    ]
    rewards = self._task.rewards(problems, texts)
    accuracy = np.mean(self._task.check_all(problems, texts))
    clock.append(time.perf_counter())
    made = self._experience(ids, mask, prompt, acts, torch.tensor(rewards))
    clock.append(time.perf_counter())
    for _ in range(self._config.train_reft.ppo.passes):
      loss = self._update(ids, mask, prompt, acts, *made)
    clock.append(time.perf_counter())
    spent = np.diff(clock)
    return {
      "loss": loss,
      "accuracy": float(accuracy),
      "length": float(acts.sum(1).mean()),
      "seconds/generate": spent[0],
      "seconds/check": spent[1],
      "seconds/score": spent[2],
      "seconds/update": spent[3],
      "seconds/idle": 0.0,
    }

  @property
  def _eos(self) -> int:
    return self._tokenizer.eos_id

  @torch.no_grad()
  def _generate(self, problems):
    rows = [self._encode(self._task.prompt(p)) for p in problems]
    prompt = max(map(len, rows))
    ids = torch.full((len(rows), prompt), self._tokenizer.pad_id)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
      ids[i, prompt - len(row) :] = torch.tensor(row)
      mask[i, prompt - len(row) :] = 1
    out = self._policy.generate(
      input_ids=ids,
      attention_mask=mask,
      do_sample=True,
      temperature=1.0,
      top_k=0,
      top_p=1.0,
      max_new_tokens=self._config.completion.max_tokens,
      eos_token_id=self._eos,
      pad_token_id=self._tokenizer.pad_id,
    )
    acts = _actions(out, prompt, self._eos)
    return out, torch.cat([mask, acts.long()], 1), prompt

  def _look(self, model, ids, mask, prompt):
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = model.model(
      input_ids=ids,
      attention_mask=mask,
      position_ids=positions,
      use_cache=False,
    )
    hidden = out.last_hidden_state[:, prompt - 1 : -1]
    logp = torch.log_softmax(model.lm_head(hidden).float(), -1)
    return logp.gather(2, ids[:, prompt:, None])[..., 0], hidden

  @torch.no_grad()
  def _experience(self, ids, mask, prompt, acts, scores):
    ppo = self._config.train_reft.ppo
    old, hidden = self._look(self._policy, ids, mask, prompt)
    values = self._head(hidden)[..., 0] * acts
    reference, _ = self._look(self._reference, ids, mask, prompt)
    rewards = -ppo.kl_coefficient * (old - reference) * acts
    last = acts.sum(1).long() - 1
    rewards[torch.arange(len(ids)), last] += scores.float()
    advantages, trace = torch.zeros_like(rewards), 0.0
    after = 0.0
    for t in reversed(range(rewards.shape[1])):
      delta = rewards[:, t] + ppo.gamma * after - values[:, t]
      trace = delta + ppo.gamma * ppo.lam * trace
      trace = trace * acts[:, t]
      advantages[:, t], after = trace, values[:, t]
    returns = advantages + values
    on = acts.bool()
    mean, var = advantages[on].mean(), advantages[on].var()
    return old, values, (advantages - mean) / torch.sqrt(var + 1e-8), returns

  def _update(self, ids, mask, prompt, acts, old, before, advantages, returns):
    ppo = self._config.train_reft.ppo
    logp, hidden = self._look(self._policy, ids, mask, prompt)
    values = self._head(hidden)[..., 0]
    ratio = torch.exp((logp - old) * acts)
    clip = ppo.policy_clip
    policy = torch.maximum(
      -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    )
    near = before + (values - before).clamp(-ppo.value_clip, ppo.value_clip)
    value = torch.maximum((values - returns) ** 2, (near - returns) ** 2) / 2
    each = (policy + ppo.value_coefficient * value) * acts
    loss = (each.sum(1) / acts.sum(1).clamp(min=1)).mean()
    self._optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self._params, 1.0)
    self._optimizer.step()
    return loss.item()


def _actions(ids, prompt: int, eos: int):
  """Sampled tokens up to the first EOS, as floats."""
  ended = (ids[:, prompt:] == eos).long()
  return ((ended.cumsum(1) - ended) == 0).float()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--json", action="store_true", help="print JSON alone")
  parser.add_argument("--pairs", type=int, default=10)
  parser.add_argument("--warm", type=int, default=2, help="uncounted pairs")
  parser.add_argument("--rows", type=int, default=64)
  parser.add_argument("--width", type=int, default=64)
  parser.add_argument("--layers", type=int, default=3)
  parser.add_argument("--threads", type=int, default=os.cpu_count())
  parser.add_argument("--checkpoint", default="", help="a warm start of ours")
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  torch.manual_seed(0)
  transformers.logging.set_verbosity_error()
  config = settings(args)
  task = build.task(config.task)
  problems = build.problems(task, "train", config.data)
  with tempfile.TemporaryDirectory() as folder:
    sides = _sides(args, config, task, problems, pathlib.Path(folder))
  result = compare(sides, args.pairs, args.warm, args.rows)
  result |= {"allocator_kept": KEPT, "threads": args.threads}
  if not args.json:
    print(json.dumps(result, indent=1), flush=True)
  print(json.dumps(result))


def _sides(args, config, task, problems, folder: pathlib.Path):
  mesh = build.mesh(config.mesh)
  if args.checkpoint:
    model = build.load_model(pathlib.Path(args.checkpoint).absolute(), mesh)
  else:
    tokenizer_training.train_words(
      list(task.corpus()), folder / "tokenizer", 300, task.markers
    )
    config.tokenizer.path = str(folder / "tokenizer")
    model = build.fresh_model(
      config.model, config.tokenizer, mesh, folder, seed=0
    )
  hf.save(folder / "hf", model.module, model.params)
  ours = Ours(model, task, problems, config)
  encode = ours._rounds.engine.encode
  theirs = Theirs(
    folder / "hf", task, problems, config, model.tokenizer, encode
  )
  return {"ours": ours, "torch": theirs}


def compare(sides, pairs: int, warm: int, rows: int) -> dict[str, Any]:
  """Alternating rounds, samples per second of each pair, and breakdowns."""
  seconds = {side: [] for side in sides}
  told = {side: [] for side in sides}
  for index in range(warm + pairs):
    for side in sorted(sides, reverse=index % 2 == 1):
      start = time.perf_counter()
      figures = sides[side].round(index)
      if index >= warm:
        seconds[side].append(time.perf_counter() - start)
        told[side].append(figures)
  ratios = [
    t / o for o, t in zip(seconds["ours"], seconds["torch"], strict=True)
  ]

  def middle(side, name):
    return statistics.median(f[name] for f in told[side])

  return {
    "samples_per_second_ratio": round(statistics.median(ratios), 3),
    "min": round(min(ratios), 3),
    "max": round(max(ratios), 3),
    "pairs": pairs,
    **{
      f"{side}_samples_per_second": round(
        rows / statistics.median(seconds[side]), 1
      )
      for side in sides
    },
    **{
      f"{side}_{part}_seconds": round(middle(side, f"seconds/{part}"), 4)
      for side in sides
      for part in PARTS
    },
    **{
      f"{side}_{name}": round(middle(side, name), 4)
      for side in sides
      for name in ("length", "accuracy", "loss")
    },
  }


if __name__ == "__main__":
  main()
