"""A bucket in this process, for `gs://` paths: what epath and tensorstore see.

As strict as the real one: nothing can be appended to or renamed in place, and
an object is there once it is closed. Tensorstore asks for it over HTTP, with
the few requests of Cloud Storage's JSON interface that it makes.
"""

import functools
import http.server
import io
import json
import re
import threading
import urllib.parse

import fsspec

OBJECTS: dict[str, bytes] = {}  # bucket/name -> contents
_VERSIONS: dict[str, int] = {}
_LOCK = threading.RLock()


def put(name, data):
  with _LOCK:
    OBJECTS[name] = bytes(data)
    _VERSIONS[name] = _VERSIONS.get(name, 0) + 1


class _Written(io.BytesIO):
  def __init__(self, name):
    super().__init__()
    self._name = name

  def close(self):
    if not self.closed:
      put(self._name, self.getvalue())
    super().close()


class Store(fsspec.AbstractFileSystem):
  protocol = ("gs", "gcs")
  cachable = False

  def ls(self, path, detail=True, **kwargs):
    path = self._strip_protocol(path)
    found = {}
    for name, data in sorted(OBJECTS.items()):
      if name == path:
        found[name] = {"name": name, "size": len(data), "type": "file"}
      elif name.startswith(path + "/"):
        child, *more = name[len(path) + 1 :].split("/", 1)
        full = f"{path}/{child}"
        kind = "directory" if more else "file"
        size = 0 if more else len(data)
        found[full] = {"name": full, "size": size, "type": kind}
    if not found:
      raise FileNotFoundError(path)
    return list(found.values()) if detail else list(found)

  def info(self, path, **kwargs):
    path = self._strip_protocol(path)
    if path in OBJECTS:
      return {"name": path, "size": len(OBJECTS[path]), "type": "file"}
    if any(name.startswith(path + "/") for name in OBJECTS):
      return {"name": path, "size": 0, "type": "directory"}
    raise FileNotFoundError(path)

  def open(self, path, mode="rb", **kwargs):
    if "b" not in mode:
      return io.TextIOWrapper(self.open(path, mode + "b"), encoding="utf-8")
    path = self._strip_protocol(path)
    if mode == "wb":
      return _Written(path)
    if mode != "rb":
      raise NotImplementedError(f"an object cannot be opened with {mode!r}")
    if path not in OBJECTS:
      raise FileNotFoundError(path)
    return io.BytesIO(OBJECTS[path])

  def makedirs(self, path, exist_ok=False):
    pass  # there are no folders

  mkdir = makedirs

  def rm(self, path, recursive=False, maxdepth=None):
    path = self._strip_protocol(path)
    under = [n for n in OBJECTS if n.startswith(path + "/")]
    names = [path, *(under if recursive else ())]
    found = [n for n in names if n in OBJECTS]
    if not found:
      raise FileNotFoundError(path)
    for name in found:
      del OBJECTS[name]

  def rm_file(self, path):
    self.rm(path)

  def cp_file(self, path1, path2, **kwargs):
    put(self._strip_protocol(path2), OBJECTS[self._strip_protocol(path1)])


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  wbufsize = 1 << 16  # head and body in one packet
  disable_nagle_algorithm = True

  def log_message(self, *_):
    pass

  def _parts(self):
    url = urllib.parse.urlsplit(self.path)
    found = re.search(r"/b/([^/]+)/o(?:/(.*))?$", url.path)
    name = urllib.parse.unquote(found[2] or "")
    query = dict(urllib.parse.parse_qsl(url.query))
    return found[1], name, query

  def _answer(self, code, body=b"", **headers):
    self.send_response(code)
    for key, value in headers.items():
      self.send_header(key.replace("_", "-"), value)
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def _resource(self, name):
    return {
      "name": name.split("/", 1)[1],
      "size": str(len(OBJECTS[name])),
      "generation": str(_VERSIONS[name]),
    }

  def do_GET(self):
    bucket, name, query = self._parts()
    with _LOCK:
      if not name:
        start = f"{bucket}/{query.get('prefix', '')}"
        items = [
          self._resource(o) for o in sorted(OBJECTS) if o.startswith(start)
        ]
        return self._answer(200, json.dumps({"items": items}).encode())
      name = f"{bucket}/{name}"
      if name not in OBJECTS:
        return self._answer(404, b"{}")
      data, version = OBJECTS[name], str(_VERSIONS[name])
      if query.get("alt") != "media":
        return self._answer(200, json.dumps(self._resource(name)).encode())
    if query.get("ifGenerationNotMatch") == version:
      return self._answer(304)
    if query.get("ifGenerationMatch", version) != version:
      return self._answer(412, b"{}")
    wanted = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range", ""))
    if not wanted:
      return self._answer(200, data, x_goog_generation=version)
    first = int(wanted[1])
    last = min(int(wanted[2] or len(data) - 1), len(data) - 1)
    return self._answer(
      206,
      data[first : last + 1],
      x_goog_generation=version,
      Content_Range=f"bytes {first}-{last}/{len(data)}",
    )

  def do_POST(self):
    bucket, _, query = self._parts()
    data = self.rfile.read(int(self.headers["Content-Length"]))
    name = f"{bucket}/{query['name']}"
    with _LOCK:
      wanted = query.get("ifGenerationMatch")
      if wanted is not None and wanted != str(
        _VERSIONS[name] if name in OBJECTS else 0
      ):
        return self._answer(412, b"{}")
      put(name, data)
      return self._answer(200, json.dumps(self._resource(name)).encode())

  def do_DELETE(self):
    bucket, name, _ = self._parts()
    with _LOCK:
      found = OBJECTS.pop(f"{bucket}/{name}", None)
    self._answer(204 if found is not None else 404)


@functools.cache
def serve() -> str:
  """The address of a server that answers until this process ends."""
  fsspec.register_implementation("gcs", Store, clobber=True)
  fsspec.register_implementation("gs", Store, clobber=True)
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
  server.daemon_threads = True
  threading.Thread(target=server.serve_forever, daemon=True).start()
  return f"http://127.0.0.1:{server.server_port}"
