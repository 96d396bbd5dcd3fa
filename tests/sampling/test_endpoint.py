"""An endpoint that fails, stalls, truncates and lies, on this machine."""

import http.server
import json
import sys
import threading
import time

import pytest

from refine_jax import records
from refine_jax.sampling.endpoint import (
  Endpoint,
  EndpointError,
  Reply,
  Settings,
  figures,
)
from refine_jax.sampling.settings import Request

KEY = "secret-of-the-test"


class Handler(http.server.BaseHTTPRequestHandler):
  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    text = body["messages"][-1]["content"]
    server = self.server
    with server.lock:
      server.seen.append((text, self.headers.get("Authorization"), body))
      script = server.scripts.get(text) or []
      act = script.pop(0) if script else "answer"
    getattr(self, f"_{act}")(text)

  def _send(self, status, data, length=None, **headers):
    self.send_response(status)
    self.send_header("Content-Length", str(length or len(data)))
    for name, value in headers.items():
      self.send_header(name.replace("_", "-"), value)
    self.end_headers()
    self.wfile.write(data)

  def _body(self, text, finish="stop"):
    message = {"message": {"content": text[::-1]}, "finish_reason": finish}
    usage = {"prompt_tokens": 10, "completion_tokens": 100}
    return json.dumps({"choices": [message], "usage": usage}).encode()

  def _answer(self, text):
    self._send(200, self._body(text))

  def _cut(self, text):
    self._send(200, self._body(text[:2], "length"))

  def _fail(self, text):
    self._send(500, b"no")

  def _busy(self, text):
    self._send(429, b"no", Retry_After="7")

  def _forbid(self, text):
    self._send(400, b"a policy")

  def _long(self, text):
    self._send(413, b"too long")

  def _refuse(self, text):
    self._send(401, f"bad key {KEY}".encode())

  def _stall(self, text):
    time.sleep(0.6)

  def _pause(self, text):
    time.sleep(0.3)
    self._answer(text)

  def _truncate(self, text):
    self._send(200, self._body(text)[:20], length=500)
    self.close_connection = True

  def _lie(self, text):
    self._send(200, b'{"choices": []}')

  def log_message(self, *_):
    pass


@pytest.fixture
def server(monkeypatch):
  monkeypatch.setenv("TEST_KEY", KEY)
  made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  made.daemon_threads = True
  made.lock, made.seen, made.scripts = threading.Lock(), [], {}
  thread = threading.Thread(target=made.serve_forever, args=(0.02,))
  thread.start()
  yield made
  made.shutdown()
  thread.join()
  made.server_close()


def endpoint(server, tmp_path, waits=None, **settings):
  url = f"http://127.0.0.1:{server.server_port}/v1"
  settings = {"key_env": "TEST_KEY", "timeout": 0.2, **settings}
  return Endpoint(
    Settings(url, "m", **settings),
    tmp_path / "replies.jsonl",
    sleep=(waits if waits is not None else []).append,
  )


def ask(*texts, n=1):
  return [Request(f"r/{t}", t, n=n) for t in texts]


def test_answers_in_order_with_the_key_of_the_environment(server, tmp_path):
  found = endpoint(server, tmp_path)(ask("abc", "de", n=2))
  assert found == [["cba", "cba"], ["ed", "ed"]]
  assert {key for _, key, _ in server.seen} == {f"Bearer {KEY}"}
  assert KEY not in (tmp_path / "replies.jsonl").read_text()


@pytest.mark.parametrize(
  "trouble", ["fail", "busy", "stall", "truncate", "lie"]
)
def test_trouble_passes(server, tmp_path, trouble):
  server.scripts["abc"] = [trouble, trouble]
  waits = []
  assert endpoint(server, tmp_path, waits)(ask("abc")) == [["cba"]]
  assert waits == ([7.0, 7.0] if trouble == "busy" else [1.0, 2.0])


def test_trouble_that_stays_is_told_and_the_rest_is_kept(server, tmp_path):
  server.scripts["bad"] = ["fail"] * 3
  made = endpoint(server, tmp_path, retries=2, workers=1)
  with pytest.raises(EndpointError, match="status 500 after 3 attempts"):
    made(ask("abc", "bad"))
  asked = len(server.seen)
  again = endpoint(server, tmp_path)
  assert again(ask("abc", "bad")) == [["cba"], ["dab"]]
  assert len(server.seen) == asked + 1  # "abc" was not asked again


def test_a_torn_reply_is_asked_again(server, tmp_path):
  endpoint(server, tmp_path)(ask("abc", "de"))
  path = tmp_path / "replies.jsonl"
  path.write_bytes(path.read_bytes()[:-9])
  assert endpoint(server, tmp_path)(ask("abc", "de")) == [["cba"], ["ed"]]
  assert len(server.seen) == 3
  assert len(list(records.read(Reply, path))) == 2


def test_another_prompt_under_the_same_id_is_another_question(server, tmp_path):
  made = endpoint(server, tmp_path)
  assert made([Request("same", "ab")]) == [["ba"]]
  assert made([Request("same", "cd")]) == [["dc"]]


def test_a_refusal_is_not_repeated_and_hides_the_key(server, tmp_path):
  server.scripts["abc"] = ["refuse"]
  with pytest.raises(EndpointError, match="status 401") as caught:
    endpoint(server, tmp_path)(ask("abc"))
  assert KEY not in str(caught.value) and len(server.seen) == 1


def test_a_missing_key_is_told_at_once(server, tmp_path, monkeypatch):
  monkeypatch.delenv("TEST_KEY")
  with pytest.raises(EndpointError, match="TEST_KEY holds no key"):
    endpoint(server, tmp_path)


def test_cost_budget_and_cut_replies(server, tmp_path):
  server.scripts["abc"] = ["cut"]
  prices = {"price_in": 1.0, "price_out": 10.0, "workers": 1}
  made = endpoint(server, tmp_path, **prices)
  assert made(ask("abc")) == [["ba"]]
  assert made.cut == 1
  assert made.cost == pytest.approx((10 * 1 + 100 * 10) / 1e6)
  assert made.figures == {
    "replies": 1, "refused": 0, "cut": 1, "prompt_tokens": 10, "tokens": 100,
    "cost": made.cost,
  }  # fmt: skip
  poor = endpoint(server, tmp_path, budget=0.001, **prices)
  with pytest.raises(EndpointError, match="budget"):
    poor(ask("xyz"))


def test_rate_limit(server, tmp_path):
  waits = []
  now = [0.0]
  url = f"http://127.0.0.1:{server.server_port}/v1"
  made = Endpoint(
    Settings(url, "m", key_env="", per_minute=30, workers=1),
    tmp_path / "r.jsonl",
    sleep=waits.append,
    clock=lambda: now[0],
  )
  made(ask("a", "b", "c"))
  assert waits == [2.0, 4.0]
  assert server.seen[0][1] is None


def test_figures_are_those_of_the_file(server, tmp_path, monkeypatch):
  """Also for a run that asks for nothing any more, and has no key."""
  server.scripts.update(abc=["cut"], no=["forbid"])
  made = endpoint(server, tmp_path, price_out=1.0)
  made(ask("abc", "de", "no"))
  monkeypatch.delenv("TEST_KEY")
  settings = Settings("nowhere", "m", price_out=1.0)
  path = tmp_path / "replies.jsonl"
  assert figures(settings, path) == made.figures
  assert (made.refused, made.cut) == (1, 1)
  assert figures(settings, tmp_path / "none.jsonl")["replies"] == 0


@pytest.mark.parametrize("act", ["forbid", "long"])
def test_a_refused_request_is_empty_and_stays_so(server, tmp_path, act):
  server.scripts["bad"] = [act]
  made = endpoint(server, tmp_path)
  assert made(ask("bad", "abc", "de")) == [[""], ["cba"], ["ed"]]
  asked = len(server.seen)
  assert asked == 3 and made.refused == 1
  again = endpoint(server, tmp_path)
  assert again(ask("bad", "abc", "de")) == [[""], ["cba"], ["ed"]]
  # One alone, of an endpoint that has answered before.
  server.scripts["worse"] = [act]
  assert again(ask("worse")) == [[""]]
  assert len(server.seen) == asked + 1


def test_many_refusals_are_kept_where_others_are_answered(server, tmp_path):
  """However many come back before the first answer."""
  bad = [f"bad{i}" for i in range(20)]
  server.scripts.update({text: ["forbid"] for text in bad})
  server.scripts["slow"] = ["pause"]
  made = endpoint(server, tmp_path, workers=8, timeout=5.0)
  assert made(ask("slow", *bad)) == [["wols"], *([""] for _ in bad)]
  assert made.refused == 20


@pytest.mark.parametrize("count", [3, 40])
def test_an_endpoint_that_refuses_all_is_an_error(server, tmp_path, count):
  texts = [f"bad{i}" for i in range(count)]
  server.scripts.update({text: ["forbid"] for text in texts})
  made = endpoint(server, tmp_path, workers=2)
  with pytest.raises(EndpointError, match="all refused: status 400: a policy"):
    made(ask(*texts))
  assert len(server.seen) < 16
  # Nothing of it is kept: the settings were wrong.
  assert endpoint(server, tmp_path).figures["replies"] == 0
  server.scripts.clear()
  assert endpoint(server, tmp_path)(ask("bad1")) == [["1dab"]]


def test_another_limit_is_another_question(server, tmp_path):
  server.scripts["abc"] = ["cut"]
  assert endpoint(server, tmp_path, max_tokens=1)(ask("abc")) == [["ba"]]
  assert endpoint(server, tmp_path, max_tokens=9)(ask("abc")) == [["cba"]]
  assert [body["max_tokens"] for *_, body in server.seen] == [1, 9]


def test_workers_look_at_the_budget_while_replies_come(server, tmp_path):
  """Each before its request, whatever another thread is doing just then."""
  kept = [Reply(f"old/{i}", "", "stop", 1, 1) for i in range(20_000)]
  records.write(tmp_path / "replies.jsonl", kept)
  before = sys.getswitchinterval()
  sys.setswitchinterval(1e-6)
  try:
    made = endpoint(
      server, tmp_path, workers=8, budget=9.0, price_in=1.0, timeout=5.0
    )
    texts = [str(i) for i in range(100)]
    assert made(ask(*texts)) == [[t[::-1]] for t in texts]
  finally:
    sys.setswitchinterval(before)
  assert made.cost == pytest.approx((20_000 + 100 * 10) / 1e6)
