"""An annotator behind an OpenAI-compatible endpoint (chat completions).

Every reply is on disk before it is used, so that a run which is killed asks
(and pays) for nothing twice. The key comes from the environment and is
written nowhere.
"""

import concurrent.futures
import dataclasses
import hashlib
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from refine_jax import files, records
from refine_jax.sampling.settings import Request

# Worth asking again: overload, time-outs and broken replies.
_AGAIN = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
# Of one request and not of all: what a policy forbids, or what is too long.
_REFUSED = frozenset((400, 413, 422))
# So many refusals with nothing answered before are of all requests.
_REFUSALS = 8
_MOST = 8 << 20  # bytes of a reply that are read


class EndpointError(OSError):
  """The endpoint did not answer, or refused; the key is not in it."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """Whom to ask, and how patiently.

  Attributes:
    url: up to and with `/v1`.
    model: by the endpoint's name.
    key_env: the environment variable that holds the key; empty for none.
    max_tokens, temperature: of a reply.
    timeout: seconds without a byte.
    retries: further attempts; between them `backoff` seconds, doubled each
      time, or what the endpoint asks for.
    per_minute: requests at most; 0 for no limit.
    workers: requests at once.
    price_in, price_out: of a million tokens.
    budget: nothing more is asked once so much was spent; 0 for no limit.
    system: a message before the prompt.
  """

  url: str
  model: str
  key_env: str = "OPENAI_API_KEY"
  max_tokens: int = 1536
  temperature: float = 0.0
  timeout: float = 60.0
  retries: int = 5
  backoff: float = 1.0
  per_minute: float = 0.0
  workers: int = 4
  price_in: float = 0.0
  price_out: float = 0.0
  budget: float = 0.0
  system: str = ""


@dataclasses.dataclass(frozen=True)
class Reply:
  """One answer of the endpoint.

  `finish` is `length` if it was cut, and `refused`, without a text, if the
  endpoint would not answer this request.
  """

  id: str
  text: str
  finish: str
  prompt_tokens: int
  tokens: int


@dataclasses.dataclass
class _Totals:
  """Of all replies kept; sums, so that no thread walks what another fills."""

  replies: int = 0
  refused: int = 0
  cut: int = 0
  prompt_tokens: int = 0
  tokens: int = 0

  def add(self, reply: Reply) -> None:
    self.replies += 1
    self.refused += reply.finish == "refused"
    self.cut += reply.finish == "length"
    self.prompt_tokens += reply.prompt_tokens
    self.tokens += reply.tokens

  def cost(self, settings: Settings) -> float:
    s = settings
    return (self.prompt_tokens * s.price_in + self.tokens * s.price_out) / 1e6


def figures(settings: Settings, path: str | os.PathLike) -> dict[str, float]:
  """What the replies of a file came to, for a manifest; needs no key.

  replies, and of those refused and cut; prompt_tokens, tokens; cost, at the
  settings' prices.
  """
  totals, path = _Totals(), files.path(path)
  if path.exists():
    for reply in records.read(Reply, path):
      totals.add(reply)
  return {**dataclasses.asdict(totals), "cost": totals.cost(settings)}


class Endpoint:
  """`Annotator`: n texts for every request, in order.

  A request that the endpoint refuses (status 400, 413 or 422) has an empty
  text, now and in later runs; where all are refused, that is an error.

  Args:
    settings: whom to ask.
    path: where replies are kept.
    before: replies of earlier runs, kept elsewhere; they count as its own.
    sleep, clock: of the waiting; tests bring their own.

  Attributes:
    cost: of all replies kept, earlier runs' included.
    cut, refused: how many reached max_tokens, and how many were refused.
    figures: as the function of that name.
  """

  def __init__(
    self,
    settings: Settings,
    path: str | os.PathLike,
    *,
    before: str | os.PathLike | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._settings, self._sleep, self._clock = settings, sleep, clock
    self._key = _key(settings.key_env)
    self._path = files.path(path)
    self._known: dict[str, Reply] = {}
    self._totals = _Totals()
    self._lock, self._next, self._refusal = threading.Lock(), 0.0, ""
    records.Appender(Reply, self._path).close()  # cuts a torn last line
    for kept in map(files.path, (*([before] if before else ()), self._path)):
      if kept.exists():
        for reply in records.read(Reply, kept):
          self._keep(reply)

  @property
  def cost(self) -> float:
    with self._lock:
      return self._totals.cost(self._settings)

  @property
  def cut(self) -> int:
    return self._totals.cut

  @property
  def refused(self) -> int:
    return self._totals.refused

  @property
  def figures(self) -> dict[str, float]:
    with self._lock:
      totals = dataclasses.asdict(self._totals)
    return {**totals, "cost": self.cost}

  def _keep(self, reply: Reply) -> None:
    with self._lock:
      self._known[reply.id] = reply
      self._totals.add(reply)

  def __call__(self, requests: Sequence[Request]) -> list[list[str]]:
    """Texts; raises EndpointError once all that could be asked was asked."""
    wanted = [
      [(self._name(request, i), _text(request)) for i in range(request.n)]
      for request in requests
    ]
    flat = [one for group in wanted for one in group]
    missing = [(n, t) for n, t in dict(flat).items() if n not in self._known]
    if missing:
      self._ask_all(missing)
    return [[self._known[name].text for name, _ in group] for group in wanted]

  def _name(self, request: Request, index: int) -> str:
    s = self._settings
    said = "\0".join(
      # A reply that was cut is no reply under a higher limit.
      (s.model, s.system, str(s.temperature), str(s.max_tokens), _text(request))
    )
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    return f"{request.id}/{index}/{digest}"

  def _ask_all(self, missing: list[tuple[str, str]]) -> None:
    first = {name for name, _ in missing[:_REFUSALS]}
    before = self._totals.replies > self._totals.refused
    known = before and len(missing) < _REFUSALS  # too few to tell by them
    held: list[Reply] = []  # refusals, while nothing was answered
    answered, error = False, None
    with (
      records.Appender(Reply, self._path) as appender,
      concurrent.futures.ThreadPoolExecutor(self._settings.workers) as pool,
    ):

      def keep(replies: list[Reply]) -> None:
        appender.append(replies)
        for reply in replies:
          self._keep(reply)

      waiting = [pool.submit(self._ask, name, text) for name, text in missing]
      for future in concurrent.futures.as_completed(waiting):
        if future.cancelled():
          continue
        found: EndpointError | None = None
        try:
          reply = future.result()
        except EndpointError as problem:
          found = problem
        else:
          held.append(reply)
          answered = answered or reply.finish != "refused"
          if answered:
            keep(held)
            held = []
          elif not known and first <= {reply.id for reply in held}:
            found = EndpointError(
              f"{self._settings.url}: the first {len(first)} requests were all"
              f" refused: {self._refusal}"
            )
        if found and not error:
          error = found
          for other in waiting:
            other.cancel()
      if held and not error:
        keep(held)
    if error:
      raise error

  def _ask(self, name: str, text: str) -> Reply:
    settings, wait = self._settings, self._settings.backoff
    for attempt in range(settings.retries + 1):
      self._take_turn()
      try:
        return self._reply(name, self._post(self._body(text)))
      except _Refused as problem:
        self._refusal = str(problem)
        return Reply(name, "", "refused", 0, 0)
      except _Again as problem:
        if attempt == settings.retries:
          raise EndpointError(
            f"{settings.url}: {problem} after {attempt + 1} attempts"
          ) from None
        self._sleep(problem.after if problem.after else wait)
        wait *= 2
    raise AssertionError("unreachable")

  def _take_turn(self) -> None:
    """Waits until another request may leave, and there is money for it."""
    settings = self._settings
    if settings.budget and (cost := self.cost) >= settings.budget:
      raise EndpointError(
        f"{settings.url}: {cost:.4f} of a budget of {settings.budget} were"
        " spent"
      )
    if not settings.per_minute:
      return
    with self._lock:
      now = self._clock()
      turn = max(now, self._next)
      self._next = turn + 60 / settings.per_minute
    if turn > now:
      self._sleep(turn - now)

  def _body(self, text: str) -> bytes:
    s = self._settings
    messages = [{"role": "user", "content": text}]
    if s.system:
      messages.insert(0, {"role": "system", "content": s.system})
    body = {"model": s.model, "messages": messages}
    body |= {"max_tokens": s.max_tokens, "temperature": s.temperature}
    return json.dumps(body).encode()

  def _post(self, body: bytes) -> bytes:
    settings = self._settings
    headers = {"Content-Type": "application/json"}
    if self._key:
      headers["Authorization"] = f"Bearer {self._key}"
    request = urllib.request.Request(
      f"{settings.url.rstrip('/')}/chat/completions", body, headers
    )
    try:
      with urllib.request.urlopen(request, timeout=settings.timeout) as found:
        return found.read(_MOST)
    except urllib.error.HTTPError as error:
      with error:
        if error.code in _AGAIN:
          raise _Again(f"status {error.code}", _after(error)) from None
        said = error.read(300).decode(errors="replace")
      if self._key:
        said = said.replace(self._key, "<key>")
      said = f"status {error.code}: {said}"
      if error.code in _REFUSED:
        raise _Refused(said) from None
      raise EndpointError(f"{settings.url}: {said}") from None
    except (OSError, http.client.HTTPException) as error:
      raise _Again(f"{type(error).__name__}: {error}") from None

  def _reply(self, name: str, data: bytes) -> Reply:
    try:
      row = json.loads(data)
      choice, usage = row["choices"][0], row.get("usage") or {}
      return Reply(
        id=name,
        text=str(choice["message"]["content"] or ""),
        finish=str(choice.get("finish_reason") or ""),
        prompt_tokens=int(usage.get("prompt_tokens", 0)),
        tokens=int(usage.get("completion_tokens", 0)),
      )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
      raise _Again(f"a reply that is none: {data[:80]!r}") from None


class _Refused(Exception):
  """This request will not be answered; others may be."""


class _Again(Exception):
  """Worth another attempt, `after` so many seconds if the endpoint said so."""

  def __init__(self, reason: str, after: float = 0.0):
    super().__init__(reason)
    self.after = after


def _after(error: Any) -> float:
  try:
    return min(120.0, max(0.0, float(error.headers.get("Retry-After") or 0)))
  except ValueError:
    return 0.0


def _key(name: str) -> str:
  if not name:
    return ""
  if not (key := os.environ.get(name, "")):
    raise EndpointError(f"the environment variable {name} holds no key")
  return key


def _text(request: Request) -> str:
  if not all(isinstance(s, str) for s in request.prompt):
    raise ValueError(f"request {request.id!r}: an endpoint reads text only")
  return "".join(request.prompt)
