"""One face over tokenizers: Hugging Face, sentencepiece, words and bytes.

`decode(encode(text)) == text` holds exactly for the byte tokenizer, for
byte-level Hugging Face tokenizers and for everything `tokenizer_training`
makes, as far as their vocabulary reaches. A foreign sentencepiece model keeps
its convention: LLaMA's puts a space before every text it is given and T5's
also squeezes white space, so there every segment of a prompt is encoded as a
text of its own, in training and in inference alike.
"""

import abc
import base64
import json
import logging
import pathlib
import re
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import sentencepiece

from refine_jax import files, records

_LOG = logging.getLogger(__name__)


class Tokenizer(abc.ABC):
  """Text to ids and back; ids of special tokens never come out as text.

  Attributes:
    vocab_size: ids are below it; a model's table may have more rows.
    pad_id: any id that is safe to feed; masks, not ids, say what exists.
    eos_id: ends every target.
    bos_id, unk_id: None where the vocabulary has none.
  """

  kind: str
  vocab_size: int
  pad_id: int
  eos_id: int
  bos_id: int | None = None
  unk_id: int | None = None

  @abc.abstractmethod
  def encode(self, text: str) -> list[int]:
    """Ids without special tokens."""

  @abc.abstractmethod
  def decode(self, ids: Sequence[int]) -> str:
    """Text; special and impossible ids are dropped.

    Ids that end inside a character give U+FFFD there.
    """

  @abc.abstractmethod
  def files(self) -> dict[str, bytes]:
    """Everything the tokenizer is, as the files `save` writes."""

  @classmethod
  @abc.abstractmethod
  def of_files(cls, files: dict[str, bytes]) -> "Tokenizer":
    """The inverse of `files`."""

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    """`encode` of each; in parallel where the library can."""
    return [self.encode(text) for text in texts]

  def tokens_unknown(self, markers: Iterable[str]) -> list[str]:
    """The markers that do not survive encoding; also logged as a warning."""
    lost = [m for m in markers if not self._survives(m)]
    if lost:
      _LOG.warning("the tokenizer cannot represent %s", ", ".join(lost))
    return lost

  def _survives(self, marker: str) -> bool:
    ids = self.encode(marker)
    return self.unk_id not in ids and self.decode(ids).strip() == marker.strip()

  def save(self, folder: str | pathlib.Path) -> None:
    folder = files.path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in self.files().items():
      files.write(folder / name, data)

  def state(self) -> dict[str, Any]:
    """Self-contained JSON, for checkpoints; `from_state` reads it."""
    files = {}
    for name, data in self.files().items():
      try:
        files[name] = {"text": data.decode("utf-8")}
      except UnicodeDecodeError:
        files[name] = {"base64": base64.b64encode(data).decode("ascii")}
    return {"kind": self.kind, "files": files}


class ByteTokenizer(Tokenizer):
  """UTF-8 bytes; needs no files. Byte b is id b + 3."""

  kind = "byte"
  vocab_size, pad_id, bos_id, eos_id = 259, 0, 1, 2

  def encode(self, text: str) -> list[int]:
    return [b + 3 for b in text.encode("utf-8")]

  def decode(self, ids: Sequence[int]) -> str:
    data = bytes(int(i) - 3 for i in ids if 3 <= i < self.vocab_size)
    return data.decode("utf-8", errors="replace")

  def files(self) -> dict[str, bytes]:
    return {"bytes.json": b"{}"}

  @classmethod
  def of_files(cls, files: dict[str, bytes]) -> "ByteTokenizer":
    return cls()


class WordTokenizer(Tokenizer):
  """One id per whitespace-separated word, for tiny vocabularies.

  The single space between two words is implied and every other white space
  is a token of its own, so a word has one id wherever it stands and a text of
  known words decodes to itself.
  """

  kind = "word"
  pad_id, bos_id, eos_id, unk_id = 0, 1, 2, 3
  SPACES = (" ", "\n")  # always known
  _UNKNOWN = "\N{DOUBLE QUESTION MARK}"  # an unknown word's text
  _PIECE = re.compile(r"(\S+)(?: (?=\S))?|(\s)")

  def __init__(self, words: Sequence[str]):
    self.words = tuple(dict.fromkeys([*self.SPACES, *words]))
    self._ids = {w: i for i, w in enumerate(self.words, 4)}
    self.vocab_size = 4 + len(self.words)

  @classmethod
  def pieces(cls, text: str) -> list[str]:
    return [m[1] or m[2] for m in cls._PIECE.finditer(text)]

  def encode(self, text: str) -> list[int]:
    return [self._ids.get(p, self.unk_id) for p in self.pieces(text)]

  def decode(self, ids: Sequence[int]) -> str:
    out, after_word = [], False
    for i in ids:
      if not 3 <= i < self.vocab_size:
        continue
      piece = self._UNKNOWN if i == self.unk_id else self.words[int(i) - 4]
      is_word = not piece.isspace()
      if after_word and is_word:
        out.append(" ")
      out.append(piece)
      after_word = is_word
    return "".join(out)

  def files(self) -> dict[str, bytes]:
    words = json.dumps(self.words, ensure_ascii=False, indent=0)
    return {"words.json": words.encode()}

  @classmethod
  def of_files(cls, files: dict[str, bytes]) -> "WordTokenizer":
    return cls(json.loads(files["words.json"]))


class SentencePieceTokenizer(Tokenizer):
  """A sentencepiece `.model`, ours or a foreign one (LLaMA, T5)."""

  kind = "sentencepiece"

  def __init__(self, proto: bytes):
    self._proto = proto
    self._model = sentencepiece.SentencePieceProcessor(model_proto=proto)
    present = [
      i if i >= 0 else None
      for i in (
        self._model.eos_id(),
        self._model.bos_id(),
        self._model.unk_id(),
        self._model.pad_id(),
      )
    ]
    self.eos_id, self.bos_id, self.unk_id, pad = present
    if self.eos_id is None:
      raise ValueError("the sentencepiece model has no end-of-sequence piece")
    self.pad_id = self.eos_id if pad is None else pad
    self.vocab_size = self._model.get_piece_size()

  def encode(self, text: str) -> list[int]:
    return self._model.encode(text)

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    return self._model.encode(list(texts))

  def decode(self, ids: Sequence[int]) -> str:
    return self._model.decode([int(i) for i in ids if 0 <= i < self.vocab_size])

  def files(self) -> dict[str, bytes]:
    return {"tokenizer.model": self._proto}

  @classmethod
  def of_files(cls, files: dict[str, bytes]) -> "SentencePieceTokenizer":
    return cls(files["tokenizer.model"])


class HuggingFaceTokenizer(Tokenizer):
  """A fast tokenizer of `transformers` (tokenizer.json)."""

  kind = "huggingface"

  def __init__(self, fast: Any, name: str = "the tokenizer"):
    # BERT calls what a text begins and ends with CLS and SEP.
    bos, eos = (
      first if first is not None else second
      for first, second in (
        (fast.bos_token_id, fast.cls_token_id),
        (fast.eos_token_id, fast.sep_token_id),
      )
    )
    if eos is None:
      raise ValueError(f"{name} names no end-of-sequence token (eos_token)")
    self._fast, self._name = fast, name
    self.vocab_size = len(fast)
    self.eos_id, self.bos_id = eos, bos
    self.unk_id = fast.unk_token_id
    pad = fast.pad_token_id
    self.pad_id = self.eos_id if pad is None else pad

  def encode(self, text: str) -> list[int]:
    return self._fast.encode(text, add_special_tokens=False)

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
      return []
    return self._fast(
      list(texts), add_special_tokens=False, return_attention_mask=False
    )["input_ids"]

  def decode(self, ids: Sequence[int]) -> str:
    return self._fast.decode(
      [int(i) for i in ids if 0 <= i < self.vocab_size],
      skip_special_tokens=True,
      clean_up_tokenization_spaces=False,
    )

  def files(self) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
      self._fast.save_pretrained(folder)
      return {
        p.name: p.read_bytes() for p in sorted(pathlib.Path(folder).iterdir())
      }

  @classmethod
  def of_files(cls, files: dict[str, bytes]) -> "HuggingFaceTokenizer":
    with tempfile.TemporaryDirectory() as folder:
      for name, data in files.items():
        (pathlib.Path(folder) / name).write_bytes(data)
      return cls.of_folder(folder)

  @classmethod
  def of_folder(cls, folder: str | pathlib.Path) -> "HuggingFaceTokenizer":
    import transformers  # seconds; only who has such a folder pays

    if (pathlib.Path(folder) / "tokenizer.json").exists():
      # Read as it stands: AutoTokenizer may rebuild it as its model's class.
      loader = transformers.PreTrainedTokenizerFast
    else:
      loader = transformers.AutoTokenizer
    return cls(loader.from_pretrained(str(folder)), str(folder))


_KINDS: dict[str, type[Tokenizer]] = {
  k.kind: k
  for k in (
    ByteTokenizer,
    WordTokenizer,
    SentencePieceTokenizer,
    HuggingFaceTokenizer,
  )
}


def from_state(state: dict[str, Any]) -> Tokenizer:
  """The tokenizer whose `state()` this is."""
  files = {
    name: base64.b64decode(f["base64"]) if "base64" in f else f["text"].encode()
    for name, f in state["files"].items()
  }
  return _KINDS[state["kind"]].of_files(files)


# Of a folder of Hugging Face's, which may hold weights as well.
_TOKENIZER = re.compile(r"\.(json|model|txt|jinja)$")


def load(path: str | pathlib.Path) -> Tokenizer:
  """`byte`, a sentencepiece `.model` file, or a folder with a tokenizer.

  In a folder tokenizer.json is taken first, then words.json, bytes.json, a
  single `.model` file, and last whatever `transformers` makes of it.

  Raises:
    FileNotFoundError: nothing there.
  """
  if path == "byte":
    return ByteTokenizer()
  path = files.path(path)
  if path.is_file():
    if path.suffix == ".model":
      return SentencePieceTokenizer(path.read_bytes())
    if path.name == "words.json":
      return WordTokenizer.of_files({path.name: path.read_bytes()})
    raise ValueError(f"{path}: a tokenizer is a .model file or a folder")
  if not path.is_dir():
    raise FileNotFoundError(
      f"{path}: no tokenizer there (a folder, a .model file, or 'byte')"
    )
  if not (path / "tokenizer.json").exists():
    if (path / "words.json").exists():
      return load(path / "words.json")
    if (path / "bytes.json").exists():
      return ByteTokenizer()
    if len(models := sorted(path.glob("*.model"))) == 1:
      return load(models[0])
  if not files.remote(path):
    return HuggingFaceTokenizer.of_folder(path)
  found = [file for file in path.iterdir() if _TOKENIZER.search(file.name)]
  return HuggingFaceTokenizer.of_files({f.name: f.read_bytes() for f in found})


def encode_prompt(
  tokenizer: Tokenizer,
  prompt: records.Prompt,
  bos: bool = False,
  eos: bool = False,
) -> list[int]:
  """A prompt's ids: text is encoded segment by segment, ids pass through.

  Args:
    tokenizer: who encodes.
    prompt: its segments.
    bos: begin with the tokenizer's BOS (LLaMA).
    eos: end with EOS, as T5's encoder was trained.

  Raises:
    ValueError: BOS is asked for and there is none, or an id that is negative.
  """
  if bos and tokenizer.bos_id is None:
    raise ValueError("this tokenizer has no beginning-of-sequence token")
  ids = [tokenizer.bos_id] if bos else []
  for segment in prompt:
    if isinstance(segment, str):
      ids += tokenizer.encode(segment)
    elif segment == records.END:
      ids.append(tokenizer.eos_id)
    elif segment and min(segment) < 0:
      raise ValueError(f"negative token id in segment {segment}")
    else:
      ids += (int(i) for i in segment)
  return ids + [tokenizer.eos_id] * eos
