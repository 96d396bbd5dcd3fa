"""An endpoint that annotates with a task's truth, or by what it is told, and
misbehaves."""

import contextlib
import http.server
import json
import re
import threading

from refine_jax.methods import annotation
from refine_jax.methods import steps as stepping
from refine_jax.methods.critique import PUBLISHED, Step, StepCritique

RATIONALES = "\nWith rationales:\n"


class Handler(http.server.BaseHTTPRequestHandler):
  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    server = self.server
    with server.lock:
      server.asked.append(body["messages"][-1]["content"])
      number = len(server.asked)
    asked = server.asked[number - 1]
    if number % 4 == 0:
      self.send_error(500)
      return
    if server.refusing and server.refusing in asked and "Solution:" in asked:
      self.send_error(400)
      return
    message = {"content": self._text(asked)}
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

  def _text(self, text):
    if text.endswith(RATIONALES):
      plain = text.removesuffix(RATIONALES).rpartition("Text:\n")[2]
      return f"<BOT>so it goes<EOT>{plain}"
    if "Write this step anew" in text:
      return f"So it is {len(text)} altogether.\n"
    if "Go on with this solution" in text:
      form = text.rpartition("\n")[2]
      return "Twice that.\n" + form.replace("...", "1234567")
    if hasattr(self.server.task, "judge"):
      return self._critique(text)
    return self._told(text)

  def _told(self, text):
    """What the prompt itself says of the solution, in form."""
    first = re.search(r"first error is in step (\d+)", text)
    at = int(first[1]) - 1 if first else None
    steps = stepping.split(text.rpartition("\n\nSolution:\n")[2])
    found = [
      Step(step, PUBLISHED.word(at is None or i < at), "")
      for i, step in enumerate(steps)
    ]
    return PUBLISHED.render(
      StepCritique(tuple(found), PUBLISHED.word(at is None), "")
    )

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
def serving(task, problems, leaking, refusing=""):
  """The server; `asked` are its prompts, `url` is where it is.

  What is `refusing` in a prompt for a critique is refused.
  """
  made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  made.daemon_threads = True
  made.lock, made.asked, made.leaking = threading.Lock(), [], leaking
  made.task, made.refusing = task, refusing
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
