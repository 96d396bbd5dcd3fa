"""Makes tokenizers out of a task's texts."""

import collections
import io
import pathlib
from collections.abc import Iterable, Sequence

import sentencepiece

from refine_jax import files
from refine_jax.data import tokenizer

MODEL_TYPES = ("unigram", "bpe", "char")
KINDS = (*MODEL_TYPES, "word")
_BYTES = 256


def train_tokenizer(
  texts: Iterable[str],
  folder: str | pathlib.Path,
  vocab_size: int,
  kind: str = "bpe",
  markers: Sequence[str] = (),
) -> tokenizer.Tokenizer:
  """Trains one of KINDS into a folder that `tokenizer.load` reads."""
  if kind == "word":
    return train_words(texts, folder, vocab_size, markers)
  path = files.path(folder) / "tokenizer.model"
  return train_sentencepiece(texts, path, vocab_size, kind, markers)


def train_sentencepiece(
  texts: Iterable[str],
  path: str | pathlib.Path,
  vocab_size: int,
  model_type: str = "bpe",
  markers: Sequence[str] = (),
  *,
  byte_fallback: bool | None = None,
  split_digits: bool = True,
  code: bool = False,
) -> tokenizer.SentencePieceTokenizer:
  """Trains a model whose decode(encode(text)) is text, and writes it.

  White space is kept as it is and nothing is put in front (no dummy prefix,
  identity normalisation), so that a text encoded segment by segment decodes
  to the text. U+2581 is sentencepiece's own space and comes back as one.

  Args:
    texts: what to learn from.
    path: the `.model` file to write.
    vocab_size: at most this many pieces, the four special ones included
      (pad 0, bos 1, eos 2, unk 3); fewer if the texts do not give as many.
    model_type: one of MODEL_TYPES.
    markers: pieces that are never split and always known.
    byte_fallback: unknown characters become bytes instead of `unk`; takes
      256 pieces. By default where the model type can and the size has room.
    split_digits: every digit is a piece of its own.
    code: for programs: an indentation may be one piece, and a piece may hold
      letters and underscores.

  Raises:
    ValueError: a wrong model type, or no text.
  """
  if model_type not in MODEL_TYPES:
    raise ValueError(
      f"model_type is one of {MODEL_TYPES}, not {model_type!r}; for one id per"
      " word there is train_words"
    )
  texts = [t for t in texts if t]
  if not texts:
    raise ValueError("there is no text to train a tokenizer on")
  splits = model_type != "char"
  if byte_fallback is None:
    alphabet = len(set().union(*texts))
    byte_fallback = splits and vocab_size >= 2 * (_BYTES + alphabet)
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_writer=model,
    vocab_size=vocab_size,
    hard_vocab_limit=False,
    model_type=model_type,
    user_defined_symbols=[m for m in dict.fromkeys(markers) if m],
    byte_fallback=byte_fallback,
    split_digits=split_digits and splits,
    allow_whitespace_only_pieces=code,
    split_by_unicode_script=not code,
    normalization_rule_name="identity",
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    character_coverage=1.0,
    max_sentence_length=1 << 20,  # bytes; longer texts would be left out
    pad_id=0,
    bos_id=1,
    eos_id=2,
    unk_id=3,
    num_threads=4,  # the sums of unigram training depend on it
    minloglevel=2,
  )
  files.write(path, model.getvalue())
  return tokenizer.SentencePieceTokenizer(model.getvalue())


def train_words(
  texts: Iterable[str],
  path: str | pathlib.Path,
  vocab_size: int | None = None,
  markers: Sequence[str] = (),
) -> tokenizer.WordTokenizer:
  """One id per word of the texts, most frequent first; writes a folder.

  Args:
    texts: what to take the words from.
    path: the folder to write words.json in.
    vocab_size: at most this many ids, the special ones included.
    markers: words that are kept however rare.
  """
  counts = collections.Counter()
  for text in texts:
    counts.update(tokenizer.WordTokenizer.pieces(text))
  common = sorted(counts, key=lambda word: (-counts[word], word))
  words = list(dict.fromkeys([*tokenizer.WordTokenizer.SPACES, *markers]))
  words += [w for w in common if w not in set(words)]
  if vocab_size is not None:
    words = words[: vocab_size - 4]
  made = tokenizer.WordTokenizer(words)
  made.save(path)
  return made
