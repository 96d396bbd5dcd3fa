"""From logits to tokens: the sampling distribution and draws from it.

Everything here is per row and traced, so a batch mixes settings freely and no
change of them compiles anything.
"""

import jax
import jax.numpy as jnp

from refine_jax.sampling.settings import Rows

CUT = -1e30  # a logit that is never drawn; finite, so differences stay numbers
BLOCK = 128


def keys(rows: Rows) -> jax.Array:
  """One key per row, a function of (seed, request, sample) alone.

  The draw at a position uses it folded with the position.
  """

  def one(seed, request, sample):
    key = jax.random.key(seed, impl="threefry2x32")
    return jax.random.fold_in(jax.random.fold_in(key, request), sample)

  return jax.vmap(one)(rows.seeds_B, rows.requests_B, rows.samples_B)


def _uniform(rows: Rows, keys_B: jax.Array, counts_B: jax.Array) -> jax.Array:
  positions_B = rows.offsets_B + counts_B
  return jax.vmap(lambda k, p: jax.random.uniform(jax.random.fold_in(k, p)))(
    keys_B, positions_B
  )


def allowed(
  logits_BV: jax.Array, rows: Rows, counts_B: jax.Array, seen_BV: jax.Array
) -> jax.Array:
  """Logits after the repetition penalty and the ban on stopping too early."""
  penalty_B = rows.repetition_penalty_B

  def penalised():
    scale_BV = jnp.where(
      logits_BV > 0, 1 / penalty_B[:, None], penalty_B[:, None]
    )
    return jnp.where(seen_BV, logits_BV * scale_BV, logits_BV)

  def without_stops(logits_BV):
    early_B = counts_B < rows.min_tokens_B
    # Compared, not scattered: on CPU a scatter goes through its ids one by one.
    token_V = jnp.arange(logits_BV.shape[1])
    banned_BV = jnp.zeros(logits_BV.shape, bool)
    for stop_B1 in jnp.split(rows.stop_ids_BE, rows.stop_ids_BE.shape[1], 1):
      banned_BV |= stop_B1 == token_V
    return jnp.where(early_B[:, None] & banned_BV, CUT, logits_BV)

  logits_BV = jax.lax.cond(
    jnp.any(penalty_B != 1), penalised, lambda: logits_BV
  )
  return jax.lax.cond(
    jnp.any(counts_B < rows.min_tokens_B),
    without_stops,
    lambda logits_BV: logits_BV,
    logits_BV,
  )


def weights(logits_BV: jax.Array, rows: Rows) -> jax.Array:
  """The sampling distribution, unnormalised: 1 for the best token, 0 if cut.

  In order, as Hugging Face has it: temperature, top-k, top-p of what top-k
  left, min-p. Rows of temperature 0 are taken at temperature 1.
  """
  temperature_B = jnp.where(rows.temperature_B > 0, rows.temperature_B, 1)
  scaled_BV = logits_BV / temperature_B[:, None]
  weights_BV = jnp.exp(scaled_BV - jnp.max(scaled_BV, axis=1, keepdims=True))

  def top_k(weights_BV):
    ones_BV = jnp.ones_like(weights_BV)
    threshold_B = _threshold(weights_BV, ones_BV, rows.top_k_B)
    return _keep(weights_BV, jnp.where(rows.top_k_B > 0, threshold_B, 0))

  def top_p(weights_BV):
    mass_B = rows.top_p_B * jnp.sum(weights_BV, axis=1)
    threshold_B = _threshold(weights_BV, weights_BV, mass_B)
    return _keep(weights_BV, jnp.where(rows.top_p_B < 1, threshold_B, 0))

  for used_B, cut in ((rows.top_k_B > 0, top_k), (rows.top_p_B < 1, top_p)):
    weights_BV = jax.lax.cond(jnp.any(used_B), cut, lambda w: w, weights_BV)
  return _keep(weights_BV, rows.min_p_B)


def _keep(weights_BV, threshold_B):
  return jnp.where(weights_BV >= threshold_B[:, None], weights_BV, 0)


def _threshold(weights_BV, counted_BV, need_B):
  """The largest t for which the entries with weight >= t count up to `need`.

  Found bit by bit, since non-negative floats order as their bits do: thirty
  sums instead of a sort, and equal weights stay together.
  """
  bits_BV = jax.lax.bitcast_convert_type(weights_BV, jnp.int32)

  def one(i, found_B):
    trial_B = found_B | (1 << (29 - i))
    reached_B = jnp.sum(
      jnp.where(bits_BV >= trial_B[:, None], counted_BV, 0), axis=1
    )
    return jnp.where(reached_B >= need_B, trial_B, found_B)

  found_B = jax.lax.fori_loop(
    0, 30, one, jnp.zeros(weights_BV.shape[0], jnp.int32)
  )
  # The best token has weight 1 and is kept whatever rounding does.
  return jnp.minimum(
    jax.lax.bitcast_convert_type(found_B, jnp.float32), jnp.float32(1)
  )


def pick(weights_BV: jax.Array, uniform_B: jax.Array) -> jax.Array:
  """Inverts the distribution function: first the block, then the token."""
  batch, vocab = weights_BV.shape
  padded_BV = jnp.pad(weights_BV, ((0, 0), (0, -vocab % BLOCK)))
  blocks_BCW = padded_BV.reshape(batch, -1, BLOCK)
  sums_BC = jnp.sum(blocks_BCW, axis=2)
  edges_BC = jnp.cumsum(sums_BC, axis=1)
  target_B = uniform_B * edges_BC[:, -1]
  block_B = _first(edges_BC, sums_BC, target_B)
  within_BW = jnp.take_along_axis(blocks_BCW, block_B[:, None, None], axis=1)[
    :, 0
  ]
  before_B = jnp.take_along_axis(edges_BC - sums_BC, block_B[:, None], axis=1)
  edges_BW = before_B + jnp.cumsum(within_BW, axis=1)
  return block_B * BLOCK + _first(edges_BW, within_BW, target_B)


def _first(edges_BC, weights_BC, target_B):
  """The first entry whose edge passes the target; never one of weight 0."""
  hit_BC = (edges_BC > target_B[:, None]) & (weights_BC > 0)
  # Rounding can put the target past the last edge: then the heaviest entry.
  return jnp.where(
    jnp.any(hit_BC, axis=1),
    jnp.argmax(hit_BC, axis=1),
    jnp.argmax(weights_BC, axis=1),
  )


def _best(logits_BV: jax.Array) -> jax.Array:
  """The first of the largest; two reductions, which a CPU vectorises."""
  vocab = logits_BV.shape[1]
  top_B1 = jnp.max(logits_BV, axis=1, keepdims=True)
  token_BV = jnp.where(logits_BV == top_B1, jnp.arange(vocab), vocab)
  # Of NaNs none is the largest: the id then still has to be one.
  return jnp.minimum(jnp.min(token_BV, axis=1), vocab - 1)


def _at(values_BV, tokens_B):
  return jnp.take_along_axis(values_BV, tokens_B[:, None], axis=1)[:, 0]


def sample(
  logits_BV: jax.Array,
  rows: Rows,
  keys_B: jax.Array,
  counts_B: jax.Array,
  seen_BV: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Draws one token per row.

  Args:
    logits_BV: the model's, float32.
    rows: settings; keys_B: see `keys`.
    counts_B: how many tokens each row has sampled so far.
    seen_BV: which tokens the repetition penalty applies to.

  Returns:
    tokens_B, their log-probabilities under the sampling distribution (0 where
    temperature is 0: that distribution has one token), and under the model.
  """
  allowed_BV = allowed(logits_BV, rows, counts_B, seen_BV)
  best_B = _best(allowed_BV)

  def draw():
    weights_BV = weights(allowed_BV, rows)
    uniform_B = _uniform(rows, keys_B, counts_B)
    greedy_B = rows.temperature_B == 0
    tokens_B = jnp.where(greedy_B, best_B, pick(weights_BV, uniform_B))
    logprobs_B = jnp.log(_at(weights_BV, tokens_B)) - jnp.log(
      jnp.sum(weights_BV, axis=1)
    )
    return tokens_B, jnp.where(greedy_B, 0.0, logprobs_B)

  tokens_B, logprobs_B = jax.lax.cond(
    jnp.any(rows.temperature_B > 0),
    draw,
    lambda: (best_B, jnp.zeros(best_B.shape, jnp.float32)),
  )
  model_logprobs_B = _at(logits_BV, tokens_B) - jax.nn.logsumexp(
    logits_BV, axis=1
  )
  return tokens_B.astype(jnp.int32), logprobs_B, model_logprobs_B
