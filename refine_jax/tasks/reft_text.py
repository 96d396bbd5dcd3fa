"""ReFT's texts: prompts, targets, and where in a completion the answer is.

`strict` reads what a person would; `compat` follows the published code line
by line. Section 3 of the specification of both is ReFT's (arXiv 2401.08967).
"""

import re

INSTRUCTION = "Question:\n"
TRIGGER = "\nAnswer reasoning:\n"
ANSWER = "\nTherefore, the answer is: "
SENTENCE = "\nThe answer is {}."
_MANY = 50  # markers that are looked at
_HEADER = re.compile(r'def solution\(\):\n\s+""".*?"""[ \t]*\n', re.DOTALL)
_DEFINES = re.compile(r"^def solution\b", re.MULTILINE)
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_MARKER = re.compile(
  r"(?:\banswer(?:\s+is|\s*:)\s*:?|####|(?=\\boxed\s*\{))\s*", re.IGNORECASE
)
_BOXED = re.compile(r"\$?\s*\\boxed\s*\{([^{}]{0,200})\}")
_SENTENCE = re.compile(r"[.;,](?=\s)|\s(?:because|since|as)\s")


def prompt(question: str) -> str:
  return f"{INSTRUCTION}{question.strip()}{TRIGGER}"


def header(question: str) -> str:
  """What a program is made to begin with, its question in the docstring."""
  quoted = question.strip().replace('"""', "'''").replace("\\", "\\\\")
  if quoted.endswith('"'):
    quoted += " "  # four quotes would not end the docstring
  return f'def solution():\n    """{quoted}"""\n'


def body(program: str) -> str:
  """A gold program without its header; ValueError if it has none."""
  found = _HEADER.match(program.strip())
  if not found:
    raise ValueError("does not begin with solution() and its docstring")
  return program.strip()[found.end() :]


def said(
  completion: str, mode: str = "strict", *, remarks: bool = False
) -> list[str]:
  """Where a text's answer is: candidates, the first that can be read counts.

  In `strict` what follows the last marker (`the answer is`, `answer:`,
  `####`, a box), the line and then its first part; nothing without a marker.
  With `remarks` also what follows the markers before, the later the better: a
  model may go on to say that its answer is correct. In `compat` what follows
  the exact trigger, or the whole text.
  """
  if mode == "compat":
    text = completion.strip().split(TRIGGER)[-1].strip()
    return [text.split(ANSWER)[-1].strip()]
  markers = list(_MARKER.finditer(completion))
  ends = [*(m.start() for m in markers[1:]), len(completion)]
  found = []
  for marker, end in list(zip(markers, ends, strict=False))[-_MANY:][::-1]:
    rest = completion[marker.end() : end].lstrip()
    if boxed := _BOXED.match(rest):
      found.append(boxed[1])
    else:
      line = rest.partition("\n")[0][:400]
      found += [line, _SENTENCE.split(line, maxsplit=1)[0]]
    if not remarks:
      break
  return found


def program(completion: str, mode: str = "strict") -> str:
  """The program of a completion that continues `header`, or is whole."""
  if mode == "compat":
    return _published(completion)
  text = completion
  if (fenced := _FENCE.search(text)) and "```" not in text[: fenced.start()]:
    text = fenced[1]
  if _DEFINES.search(text):
    return text.strip("\n")
  return f"def solution():\n{_indented(text)}"


def _indented(text: str) -> str:
  """The lines of a body; decoding may have taken the first one's indent."""
  lines = text.strip("\n").split("\n")
  if lines[0][:1] in (" ", "\t"):
    return "\n".join(lines)
  rest = [line for line in lines[1:] if line.strip()]
  flat = not all(line[0] in " \t" for line in rest)
  indent = re.match(r"[ \t]*", rest[0])[0] if rest and not flat else "    "
  lines[0] = indent + lines[0]
  if flat:
    lines[1:] = ["    " + line for line in lines[1:]]
  return "\n".join(lines)


def _published(completion: str) -> str:
  """As the published code runs it.

  Everything after a blank line is lost, and the function sees nothing but
  itself and `math`: its globals are apart from where helpers are defined.
  """
  text = completion.split(TRIGGER)[-1].replace("sys.exit", "print")
  if not _DEFINES.search(text):
    text = f"def solution():\n{text}"
  kept = []
  for line in text.strip().split("\n"):
    if not line.strip() and not line.startswith("def solution"):
      break
    kept.append(line)
  starts = [i for i, line in enumerate(kept) if line.startswith("def solution")]
  if not starts:
    return ""
  end = starts[-1] + 1
  while end < len(kept) and kept[end][:1] in (" ", "\t", "#"):
    end += 1
  function = kept[starts[-1] : end]
  others = []
  if len(function) < len(kept):  # they have to run, and are not seen
    others = ["def _module():", *("  " + x for x in kept), "_module()"]
  return "\n".join(("import math", *others, *function))
