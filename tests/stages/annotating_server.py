"""An endpoint that annotates with the embedded task's truth, and misbehaves."""

import contextlib
import http.server
import json
import threading

from refine_jax.methods import annotation
from refine_jax.methods.critique import PUBLISHED


class Handler(http.server.BaseHTTPRequestHandler):
  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    server = self.server
    with server.lock:
      server.asked.append(body["messages"][-1]["content"])
      number = len(server.asked)
    if number % 4 == 0:
      self.send_error(500)
      return
    message = {"content": self._critique(server.asked[number - 1])}
    data = json.dumps(
      {
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 20},
      }
    ).encode()
    self.send_response(200)
    self.send_header("Content-Length", str(len(data)))
    self.end_headers()
    # Every fifth reply is cut off on its way.
    self.wfile.write(data[:40] if number % 5 == 0 else data)

  def _critique(self, text):
    task, problems = self.server.task, self.server.problems
    said, _, response = text.rpartition("\n\nSolution:\n")
    question = said.rpartition("\n\nQuestion:\n")[2]
    problem = problems[question]
    solution = " . ".join(response.splitlines())
    found = annotation.truth(task, PUBLISHED, problem, solution)
    made = PUBLISHED.render(found)
    if problem.id == self.server.leaking:
      made += " The reference answer says so."
    return made

  def log_message(self, *_):
    pass


@contextlib.contextmanager
def serving(task, problems, leaking):
  """The server; `asked` are its prompts, `url` is where it is."""
  made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  made.daemon_threads = True
  made.lock, made.asked, made.leaking = threading.Lock(), [], leaking
  made.task = task
  made.problems = {task.prompt(p): p for p in problems}
  made.url = f"http://127.0.0.1:{made.server_port}/v1"
  thread = threading.Thread(target=made.serve_forever, args=(0.02,))
  thread.start()
  try:
    yield made
  finally:
    made.shutdown()
    thread.join()
    made.server_close()
