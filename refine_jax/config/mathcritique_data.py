"""MathCritique's data: critiques, self-improvement, self-talk.

The paper's tables are not at hand; see `mathcritique` for what `source` means.
"""

from ml_collections import ConfigDict


def endpoint(
  url: str = "https://api.openai.com/v1",
  model: str = "gpt-4o",  # source: unverified (a third party's summary)
  *,
  key_env: str = "OPENAI_API_KEY",
  max_tokens: int = 1536,
  temperature: float = 0.0,
  timeout: float = 60.0,
  retries: int = 5,
  backoff: float = 1.0,
  per_minute: float = 60.0,
  workers: int = 4,
  price_in: float = 0.0,
  price_out: float = 0.0,
  budget: float = 0.0,
  system: str = "",
) -> ConfigDict:
  """See `sampling.endpoint.Settings`; the key is in the environment only."""
  return ConfigDict(dict(locals()))


def make_mathcritique_data(
  *,
  actor: str = "../actor0",
  grammar: str = "published",
  split: str = "train",
  rows: tuple[int, int] = (0, 0),
  published: tuple[str, ...] = (),
  annotator: str = "endpoint",
  annotator_model: str = "",
  samples: int = 10,  # source: unverified
  temperature: float = 0.7,  # source: repository (sampling of the loop)
  rg1_cap: int = 2,  # source: unverified
  ladder: tuple[float, ...] = (1.0, 1.1, 1.2, 1.3, 1.4),  # source: unverified
  tries: int = 2,  # source: unverified
  rollouts: int = 8,  # source: unverified
  rollout_temperature: float = 0.3,  # source: unverified
  before: float = 0.5,  # source: unverified
  collapse: float = 0.2,  # source: unverified
  planted: int = 2,  # source: unverified
  kinds: tuple[str, ...] = (),
  gap: str = "\n",
  positives: float = 0.4,  # source: unverified
  leaks: bool = True,
  mc: int = 10,  # source: unverified
  min_correct: int = 1,
  tau: float = 0.3,  # source: unverified
  delta: float = 0.1,  # source: unverified
  mc_temperature: float = 0.7,  # source: unverified
  study_shuffled: bool = False,
  golds: int = 0,
  gold_steps: int = 0,
  misfits: float = 0.0,
  chunk: int = 100,
  options: dict | None = None,
) -> ConfigDict:
  """AutoMathCritique: flawed solutions, critiques, filters.

  Args:
    actor: who is criticised, and refines; empty for planted errors alone, as
      `plant` wrote them, without the Monte-Carlo filter (the first critiques
      there are, before any actor can refine).
    grammar: published or compact.
    rows: first and last problem; last 0 for all.
    published: files of rows that exist already, instead of making any.
    annotator: oracle, local (`annotator_model`) or endpoint.
    samples, temperature, rg1_cap: RG1's, and how many wrong ones are kept.
    ladder, tries, rollouts, rollout_temperature, before, collapse: RG2's; see
      `methods.flawed`.
    planted, kinds, gap: RG3's errors per problem, their kinds (all the task
      or the taxonomy has), and what stands between two steps.
    positives: the share of right responses.
    mc, min_correct, tau, delta, mc_temperature: the filter's; mc 0 for none,
      delta below 0 for no advantage over the control.
    study_shuffled: judge every critique once more on another problem's
      response, for the manifest only.
    golds: how many problems' gold solutions a first actor is given; 0 for
      all, -1 for none.
    gold_steps: of those, solutions of so many steps at most; 0 for all (ours:
      an actor that has seen short solutions alone gets longer ones wrong for
      a reason that a critique can tell).
    misfits: as many revisions under another problem's critique, of the wrong
      rows, that leave the solution as it is (ours; an actor that was never
      shown one mends its solution whatever the critique says).
    chunk: problems worked on together; what is done is on disk.
    options: the task's.
  """
  return ConfigDict(
    {**locals(), "options": options or {}, "endpoint": endpoint()}
  )


def make_self_improve_data(
  *,
  actor: str = "../actor0",
  critic: str = "../critic",
  grammar: str = "published",
  split: str = "train",
  rows: tuple[int, int] = (0, 0),
  explore: str = "critic",
  samples: int = 5,  # source: repository (README)
  refinements: int = 5,  # source: repository (as many as samples)
  temperature: float = 0.7,  # source: repository
  reserved: int = 1,  # source: repository
  use_critic: bool = True,  # source: repository (script)
  use_original: bool = True,  # source: repository
  use_previous: bool = False,  # source: repository
  own_feedback: bool = False,  # source: repository (script; README has True)
  annotator_feedback: bool = True,  # source: repository
  reason0: str = "",
  refine0: str = "../bootstrap/revision_examples.jsonl",
  previous: tuple[str, ...] = (),
  barrier: bool = True,  # source: repository
  distinct: bool = True,  # source: unverified (the original keeps all)
  cap: int = 4,  # source: unverified (the original has none)
  balance: float = 0.0,  # source: unverified (the original has none)
  refine_weight: int = 1,  # source: unverified
  bins: int = 5,  # source: unverified
  difficulty: str = "",
  chunk: int = 200,
  options: dict | None = None,
) -> ConfigDict:
  """One iteration's training rows; see `methods.self_improve`.

  Args:
    actor: of the last iteration; critic: never changes.
    explore: critic; vanilla (no refinements); or matched (no refinements, but
      as many more samples as they would have cost).
    samples, refinements: N, and M per critique.
    reserved: verified refinements kept per critique.
    use_critic ... annotator_feedback: the five flags.
    reason0, refine0: the gold solutions that the first actor was trained on
      (empty for those of the loop's own problems), and the annotator's
      revision examples.
    previous: folders of earlier iterations, in order.
    barrier: refinements with too few numbers are dropped.
    distinct, cap, balance: of a problem's equal solutions one, at most so many
      (0 for all), and no bin of more than `balance` times the hardest's rows.
    refine_weight: how often (x, y, c) -> y' is in the data.
    bins, difficulty: bins of pass rates, and whose samples give the rates:
      an earlier folder's attempts; empty for this one's.
  """
  return ConfigDict({**locals(), "options": options or {}})


def make_self_talk_data(
  *,
  actor: str = "../actor0",
  critic: str = "../critic",
  annotator: str = "model",
  grammar: str = "published",
  split: str = "train",
  rows: tuple[int, int] = (0, 0),
  form: str = "talk",
  temperature: float = 0.7,
  rounds: int = 4,  # source: unverified
  shortest: float = 0.5,  # source: unverified
  longest: float = 2.0,  # source: unverified
  mask_errors: bool = False,
  doubts: tuple[str, ...] = ("Wait, that is not right:", "Let me check:"),
  mended: tuple[str, ...] = ("It should be:", "So instead:"),
  gap: str = "\n",
  chunk: int = 200,
  options: dict | None = None,
) -> ConfigDict:
  """Chains of steps, criticism and mending, as one monologue.

  Args:
    annotator: model (the critic) or oracle.
    form: talk; or the baseline trajectory (solution, critique, solution).
    rounds: regenerations at most.
    shortest, longest: of a monologue against its rigid chain.
    mask_errors: wrong steps are read but not learned.
    doubts, mended: words of the offline smoother.
  """
  return ConfigDict({**locals(), "options": options or {}})
