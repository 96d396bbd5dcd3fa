"""Programs that must give no answer and harm nobody. Never run them outside.

`PROGRAMS` maps a name to the text; each defines, or fails to define,
`solution()`. In a real Python many of these would hang, exhaust memory, reach
files or kill processes.
"""


def _body(*lines: str, before: str = "") -> str:
  return before + "def solution():\n" + "".join(f"  {x}\n" for x in lines)


# fmt: off
# ruff: noqa: E501

_SHARED = ("x = [1]", "for i in range(40): x = [x, x]")  # 2**40 if written out

LOOPS = {
  "while true": _body("while True: pass"),
  "for ever": _body("import itertools", "for i in itertools.count(): pass"),
  "sum of a trillion": _body("return sum(range(10**12))"),
  "largest of a trillion": _body("return max(range(10**12))"),
  "endless iterator": _body("return sum(iter(int, 1))"),
  "loop at the top": "while True: pass\n" + _body("return 1"),
  "loop that catches": _body(
    "while True:", "  try:", "    while True: pass", "  except: pass"
  ),
  "a loop in a condition": _body(
    "return 1 if any(False for _ in iter(int, 1)) else 2"
  ),
  "fibonacci": _body(
    "f = lambda n: n if n < 2 else f(n - 1) + f(n - 2)", "return f(60)"
  ),
  "growing string": _body("s = 'a'", "while True: s = s.replace('a', 'a')"),
}

MEMORY = {
  "list of ten billion": _body("return len([0] * 10**10)"),
  "string of a terabyte": _body("return len('a' * 10**12)"),
  "bytes": _body("return len(bytes(10**11))"),
  "doubling list": _body("x = [1]", "while True: x = x + x"),
  "appending": _body("x = []", "while True: x.append('a' * 1000)"),
  "dict without end": _body(
    "d = {}", "n = 0", "while True:", "  n += 1", "  d[n] = n"
  ),
  "set of all": _body("return len(set(range(10**9)))"),
  "sorted range": _body("return sorted(range(10**9))[0]"),
  "permutations": _body(
    "import itertools", "return len(list(itertools.permutations(range(20))))"
  ),
  "wide format": _body("return len(f'{1:>10000000000}')"),
  "percent format": _body("return len('%9999999999d' % 1)"),
  "join": _body("return len(','.join(['a' * 10**6] * 10**6))"),
  "written-out list": _body(*_SHARED, "return len(str(x))"),
  "bomb that is caught": _body(
    "try:",
    "  x = 'a' * 10**12",
    "except BaseException: pass",
    "while True: pass",
  ),
}

INTEGERS = {
  "tower": _body("return 9**9**9"),
  "long power": _body("return 7**(10**7)"),
  "factorial": _body("import math", "return math.factorial(10**9)"),
  "binomial": _body("import math", "return math.comb(10**9, 5 * 10**8)"),
  "shift": _body("return 1 << 10**12"),
  "modular power": _body("return pow(3, 10**10000, 10**10000)"),
  "decimal precision": _body("import decimal", "decimal.getcontext().prec = 10**8", "return decimal.Decimal(2).sqrt()"),
  "digits to a number": _body("return int('9' * 10**6)"),
  "number to digits": _body("return len(str(7**(10**6)))"),
  "beyond floats": _body("return 10**400"),
}  # fmt: skip

DEPTH = {
  "recursion": _body("return solution()"),
  "mutual recursion": "def f():\n  return g()\ndef g():\n  return f()\n"
  + _body("return f()"),
  "lambda of itself": _body("f = lambda f: f(f)", "return f(f)"),
  "deep brackets": _body("return " + "(" * 5000 + "1" + ")" * 5000),
  "deep minus": _body("return " + "-" * 9000 + "1"),
  "deep blocks": "def solution():\n"
  + "".join("  " * i + "  if 1:\n" for i in range(900)),
  "deep list": _body("x = []", "for i in range(10**6): x = [x]", "return x"),
  "deep json": _body("import json", "return json.loads('[' * 100000)"),
  "endless pattern": _body(
    "import re", "return re.match('(a*)*' * 20 + 'b', 'a' * 5000).group()"
  ),
}

OUTSIDE = {
  "read a file": _body("return len(open('/etc/passwd').read())"),
  "write a file": _body("open('/tmp/hostile', 'w').write('x')", "return 1"),
  "path": _body(
    "from pathlib import Path", "return len(Path('/etc/passwd').read_text())"
  ),
  "list a folder": _body("import os", "return len(os.listdir('/'))"),
  "environment": _body("import os", "return len(os.environ)"),
  "remove": _body("import os", "os.remove('/tmp/hostile')", "return 1"),
  "shell": _body("import os", "return os.system('true')"),
  "subprocess": _body("import subprocess", "return subprocess.call(['true'])"),
  "fork bomb": _body("import os", "while True: os.fork()"),
  "kill all": _body("import os", "os.kill(-1, 9)", "return 1"),
  "exit": _body("import sys", "sys.exit(0)", "return 1"),
  "hard exit": _body("import os", "os._exit(0)", "return 1"),
  "raise exit": _body("raise SystemExit(0)"),
  "interrupt": _body("raise KeyboardInterrupt"),
  "socket": _body(
    "import socket", "return socket.create_connection(('127.0.0.1', 80)) and 1"
  ),
  "http": _body(
    "import urllib.request",
    "return len(urllib.request.urlopen('http://localhost').read())",
  ),
  "threads": _body(
    "import threading", "while True: threading.Thread(target=solution).start()"
  ),
  "ctypes": _body("import ctypes", "return ctypes.string_at(0)"),
  "signals": _body("import signal", "signal.alarm(0)", "while True: pass"),
  "input": _body("return float(input())"),
  "limits": _body(
    "import resource", "resource.setrlimit(1, (1, 1))", "return 1"
  ),
}

ESCAPES = {
  "subclasses": _body("return len(().__class__.__bases__[0].__subclasses__())"),
  "globals of a function": _body("return len(solution.__globals__)"),
  "code object": _body("return len(solution.__code__.co_code)"),
  "builtins": _body("import builtins", "return len(dir(builtins))"),
  "exec": _body("exec('while True: pass')", "return 1"),
  "eval": _body("return eval('len(().__class__.__mro__)')"),
  "compile": _body("return compile('1', 'x', 'eval') and 1"),
  "dunder import": _body("return __import__('os').getpid()"),
  "frames": _body("import sys", "return sys._getframe().f_lineno"),
  "garbage": _body("import gc", "return len(gc.get_objects())"),
  "importlib": _body(
    "import importlib", "return importlib.import_module('os').getpid()"
  ),
  "attribute format": _body("return len('{0.__class__.__mro__}'.format(1))"),
  "pickle": _body(
    "import pickle", "return pickle.loads(b'cos\\nsystem\\n(S\"true\"\\ntR.')"
  ),
  "cut off": "def solution():\n  return ((((",
  "open string": 'def solution():\n  """' + "x" * 100,
  "null byte": "def solution():\n  return 1\0",
  "lone surrogate": _body("return '\ud800'"),
  "no solution": "x = 1\n",
  "solution is no function": "solution = 1\n",
  "needs arguments": "def solution(a):\n  return a\n",
  "too long": _body("return " + "1 + " * 20_000 + "1"),
}

OUTPUT = {
  "flood": _body("while True: print('x' * 1000)"),
  "long line": _body("print('x' * 10**7)", "return 'done'"),
  "written-out print": _body(*_SHARED, "print(x)", "return 1"),
  "long message": _body("raise ValueError('x' * 10**7)"),
  "shared message": _body(*_SHARED, "raise ValueError(x)"),
  "assert message": _body(*_SHARED, "assert not x, x"),
}

_CLASS = "class A:\n  def __repr__(self):\n    while True: pass\n  __str__ = __repr__\n  __float__ = __repr__\n"

RETURNS = {
  "nothing": _body("x = 1"),
  "list": _body("return [1]"),
  "shared list": _body(*_SHARED, "return x"),
  "list of itself": _body("x = []", "x.append(x)", "return x"),
  "dict": _body("return {'answer': 1}"),
  "function": _body("return solution"),
  "not a number": _body("return float('nan')"),
  "infinity": _body("return 1e999"),
  "complex": _body("return (-8) ** 0.5"),
  "prose": _body("return 'I do not know'"),
  "long string": _body("return '7' * 10**7"),
  "hostile float": _CLASS + _body("return A()"),
  "hostile repr in an error": _CLASS + _body("raise ValueError(f'{A()}')"),
  "hostile error": "class E(Exception):\n  def __str__(self):\n    while True: pass\n" + _body("raise E()"),
  "another type": "type = lambda x: int\nfloat = list\n" + _body("return [1, 2]"),
  "module": _body("import math", "return math"),
  "truth": _body("return True"),
  "coroutine": "async def solution():\n  return 1\n",
  "generator": _body("yield 1"),
}  # fmt: skip

PROGRAMS = {
  f"{group}/{name}": text
  for group, programs in {
    "loops": LOOPS,
    "memory": MEMORY,
    "integers": INTEGERS,
    "depth": DEPTH,
    "outside": OUTSIDE,
    "escapes": ESCAPES,
    "output": OUTPUT,
    "returns": RETURNS,
  }.items()
  for name, text in programs.items()
}
