"""Round trips, prompts piece by piece, and what a checkpoint carries."""

import io
import json
import logging

import pytest
import sentencepiece
import tokenizers
import transformers

from refine_jax.data import tokenizer as tok
from refine_jax.data import tokenizer_training as training

MARKERS = ("#0", "#1", "|", "number7", "number17", "<|SIT|>", "<|I_ACT|>")
TEXTS = [
  "plant bad or big > strong ;",
  " previous answer: subtract ( number0 , number1 ) |",
  "#0: add ( number7 , number17 ) | #1: divide ( #0 , 12.5 ) | EOS",
  "<|SIT|> Brian sees smoke.\n\n<|I_ACT|>  He \t calls 911 ",
  "",
  " ",
  "Größe — 東京 100 %",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("tokenizers")


def hugging_face(folder):
  level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  made = tokenizers.Tokenizer(tokenizers.models.BPE())
  made.pre_tokenizer = level
  made.decoder = tokenizers.decoders.ByteLevel()
  made.train_from_iterator(
    TEXTS,
    tokenizers.trainers.BpeTrainer(
      vocab_size=320,
      special_tokens=["<s>", "</s>", "<pad>"],
      initial_alphabet=level.alphabet(),
      show_progress=False,
    ),
  )
  fast = transformers.PreTrainedTokenizerFast(
    tokenizer_object=made,
    bos_token="<s>",
    eos_token="</s>",
    pad_token="<pad>",
    clean_up_tokenization_spaces=True,  # must not matter
  )
  fast.save_pretrained(str(folder / "hf"))
  return tok.load(folder / "hf")


@pytest.fixture(scope="module")
def made(folder):
  def train(kind, size):
    path = folder / f"{kind}.model"
    return training.train_sentencepiece(TEXTS, path, size, kind, MARKERS)

  return {
    "byte": tok.load("byte"),
    "words": training.train_words(TEXTS, folder / "words", markers=MARKERS),
    "bpe": train("bpe", 800),
    "unigram": train("unigram", 100),
    "char": train("char", 100),
    "hf": hugging_face(folder),
  }


KINDS = ("byte", "words", "bpe", "unigram", "char", "hf")
SUBWORD = ("byte", "bpe", "unigram", "char", "hf")


@pytest.mark.parametrize("kind", KINDS)
def test_decode_inverts_encode(made, kind):
  tokenizer = made[kind]
  for text in TEXTS:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.unk_id not in ids
    assert not {tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id} & {*ids}
  assert tokenizer.encode_all(TEXTS) == [tokenizer.encode(t) for t in TEXTS]
  assert tokenizer.encode_all([]) == []


def test_code_is_shorter_with_pieces_of_its_own(folder):
  program = (
    "def solution():\n    num_eggs = 3\n    return num_eggs * num_hens\n"
  )
  texts = [program.replace("eggs", word) for word in ("eggs", "hens", "cows")]
  plain, code = (
    training.train_sentencepiece(
      texts, folder / f"code{flag}.model", 60, "bpe", code=flag
    )
    for flag in (False, True)
  )
  assert plain.encode("    num_")[:3] == plain.encode("   ")
  assert len(code.encode("    num_")) <= 2 < len(plain.encode("    num_"))
  for text in [*texts, "\n      lost_eggs = 3"]:
    assert code.decode(code.encode(text)) == text
    assert len(code.encode(text)) < len(plain.encode(text))


@pytest.mark.parametrize("kind", SUBWORD)
def test_segments_decode_to_their_concatenation(made, kind):
  tokenizer = made[kind]
  prompt = ("#0: add", " previous answer: ", "  big", "|", "", " > strong ;\n")
  ids = tok.encode_prompt(tokenizer, prompt)
  assert tokenizer.decode(ids) == "".join(prompt)
  assert ids == [i for s in prompt for i in tokenizer.encode(s)]


@pytest.mark.parametrize("kind", (*SUBWORD, "words"))
def test_markers_round_trip_without_unknowns(made, kind):
  tokenizer = made[kind]
  assert tokenizer.tokens_unknown(MARKERS) == []
  if kind in ("bpe", "unigram", "char", "words"):
    assert {len(tokenizer.encode(m)) for m in MARKERS} == {1}
  if kind != "words":
    glued = "(number7|number17)<|SIT|>#1."
    assert tokenizer.decode(tokenizer.encode(glued)) == glued


def test_unknown_markers_are_told(folder, caplog):
  plain = training.train_sentencepiece(
    ["abc def"], folder / "plain.model", 40, "char"
  )
  with caplog.at_level(logging.WARNING):
    assert plain.tokens_unknown(["abc", "#0", "<|SIT|>"]) == ["#0", "<|SIT|>"]
  assert "#0, <|SIT|>" in caplog.text
  # A marker registered as a special token would vanish from decoded text.
  fast = hugging_face(folder)
  fast._fast.add_special_tokens({"additional_special_tokens": ["<|SIT|>"]})
  assert fast.tokens_unknown(["#0", "<|SIT|>"]) == ["<|SIT|>"]


@pytest.mark.parametrize("kind", KINDS)
def test_special_and_impossible_ids_are_dropped(made, kind):
  tokenizer = made[kind]
  ids = tokenizer.encode("big > strong ;")
  around = [tokenizer.pad_id, tokenizer.bos_id, *ids, tokenizer.eos_id]
  far = [tokenizer.vocab_size, tokenizer.vocab_size + 100, -1]
  assert tokenizer.decode([*around, *far]) == "big > strong ;"


@pytest.mark.parametrize("kind", ["byte", "bpe", "hf"])
def test_ids_that_end_inside_a_character(made, kind):
  tokenizer = made[kind]
  ids = tokenizer.encode("a𝄞")
  assert len(ids) >= 3
  for end in range(len(ids)):
    text = tokenizer.decode(ids[:end])
    assert text[:1] in ("", "a") and set(text[1:]) <= {"\ufffd"}
    tokenizer.decode(ids[end:])
  assert tokenizer.decode(ids) == "a𝄞"


@pytest.mark.parametrize("kind", KINDS)
def test_state_and_files_rebuild_the_tokenizer(made, kind, tmp_path):
  tokenizer = made[kind]
  state = json.loads(json.dumps(tokenizer.state()))
  tokenizer.save(tmp_path / "saved")
  for again in (tok.from_state(state), tok.load(tmp_path / "saved")):
    assert type(again) is type(tokenizer)
    for name in ("vocab_size", "pad_id", "bos_id", "eos_id", "unk_id"):
      assert getattr(again, name) == getattr(tokenizer, name)
    assert again.encode_all(TEXTS) == tokenizer.encode_all(TEXTS)
    assert again.decode(again.encode(TEXTS[3])) == TEXTS[3]
    assert again.state() == tokenizer.state()


def test_byte_ids():
  byte = tok.load("byte")
  assert byte.encode("a\0é") == [100, 3, 0xC3 + 3, 0xA9 + 3]
  assert (byte.pad_id, byte.bos_id, byte.eos_id) == (0, 1, 2)
  assert (byte.vocab_size, byte.unk_id) == (259, None)


def test_words_have_one_id_each_wherever_they_stand(made):
  words = made["words"]
  ids = words.encode("plant bad or big > strong ;")
  assert len(ids) == 7 and len(set(ids)) == 7
  # At the start of a segment a word is what it is in the middle.
  assert tok.encode_prompt(words, ("plant bad", "or big")) == ids[:4]
  assert words.decode(ids[2:4]) == "or big"
  # Other white space is kept as it is.
  for text in ("a  b", " a", "a ", "\n", "a\nb", "a \n b", "a\t\tb"):
    known = tok.WordTokenizer(["a", "b", "\t"])
    assert known.decode(known.encode(text)) == text
  unknown = words.encode("plant zebra")
  assert unknown[1] == words.unk_id
  assert words.decode(unknown) == "plant ⁇"


def test_words_are_limited_by_frequency_but_keep_markers(tmp_path):
  made = training.train_words(["b b a c", "a b"], tmp_path, 9, markers=["#9"])
  assert made.words == (" ", "\n", "#9", "b", "a")
  assert made.vocab_size == 9
  assert tok.load(tmp_path).words == made.words


def test_trained_vocabulary_is_bounded_and_the_same_again(folder):
  for kind in ("bpe", "unigram", "char"):
    first = training.train_sentencepiece(TEXTS, folder / "x.model", 90, kind)
    again = training.train_sentencepiece(TEXTS, folder / "y.model", 90, kind)
    assert first.vocab_size <= 90
    assert first.encode_all(TEXTS) == again.encode_all(TEXTS)
  with pytest.raises(ValueError, match="no text"):
    training.train_sentencepiece(["", ""], folder / "x.model", 90)
  with pytest.raises(ValueError, match="model_type"):
    training.train_sentencepiece(TEXTS, folder / "x.model", 90, "wordpiece")


@pytest.mark.parametrize("kind", training.KINDS)
def test_every_kind_is_trained_into_a_folder(tmp_path, kind):
  trained = training.train_tokenizer(TEXTS, tmp_path, 120, kind, MARKERS)
  loaded = tok.load(tmp_path)
  assert loaded.state() == trained.state()
  assert loaded.vocab_size <= 120 and loaded.tokens_unknown(MARKERS) == []


def test_a_long_text_is_not_left_out_of_training(folder):
  text = "ab " * 5000 + "Q"
  made = training.train_sentencepiece([text], folder / "l.model", 30, "char")
  assert made.unk_id not in made.encode("Q")


def foreign(folder, **options):
  """A model with the conventions of LLaMA's: a space before every text."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS[:4]),
    model_writer=model,
    vocab_size=60,
    model_type="char",
    hard_vocab_limit=False,
    minloglevel=2,
    **options,
  )
  path = folder / "foreign.model"
  path.write_bytes(model.getvalue())
  return tok.load(path)


def test_foreign_models_keep_their_convention(folder):
  llama = foreign(
    folder, remove_extra_whitespaces=False, normalization_rule_name="identity"
  )
  assert (llama.unk_id, llama.bos_id, llama.eos_id) == (0, 1, 2)
  assert llama.pad_id == llama.eos_id  # the model has none of its own
  for text in (" previous answer: ", "plant", "  big"):
    assert llama.decode(llama.encode(text)) == text
  space = llama.encode(" ")[0]
  assert llama.encode("big")[0] == space
  assert tok.encode_prompt(llama, ("big", "big")) == 2 * llama.encode("big")
  t5 = foreign(folder, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
  assert (t5.pad_id, t5.eos_id, t5.unk_id, t5.bos_id) == (0, 1, 2, None)
  assert t5.decode(t5.encode(" big  > ")) == "big >"
  with pytest.raises(ValueError, match="no beginning-of-sequence"):
    tok.encode_prompt(t5, ("big",), bos=True)
  with pytest.raises(ValueError, match="no end-of-sequence"):
    foreign(folder, eos_id=-1)


def test_prompt_segments_of_ids_pass_through(made):
  bpe = made["bpe"]
  text, sampled = "big > ", (7, 300, 7)
  ids = tok.encode_prompt(bpe, (text, sampled, "|", ()), bos=True, eos=True)
  assert ids == [
    bpe.bos_id, *bpe.encode(text), *sampled, *bpe.encode("|"), bpe.eos_id,
  ]  # fmt: skip
  assert tok.encode_prompt(bpe, ()) == []
  with pytest.raises(ValueError, match="negative"):
    tok.encode_prompt(bpe, ((3, -1),))


def test_load_says_what_is_wrong(folder, tmp_path):
  with pytest.raises(FileNotFoundError, match="no tokenizer there"):
    tok.load(tmp_path / "nothing")
  (tmp_path / "a.txt").touch()
  with pytest.raises(ValueError, match=r"\.model file or a folder"):
    tok.load(tmp_path / "a.txt")
  fast = hugging_face(folder)
  fast._fast.eos_token = None
  with pytest.raises(ValueError, match="no end-of-sequence"):
    tok.HuggingFaceTokenizer(fast._fast)


def test_hugging_face_matches_the_file(made, folder):
  file = tokenizers.Tokenizer.from_file(str(folder / "hf" / "tokenizer.json"))
  for text in TEXTS:
    want = file.encode(text, add_special_tokens=False).ids
    assert made["hf"].encode(text) == want
  assert made["hf"].vocab_size == file.get_vocab_size()


@pytest.mark.slow  # the automatic classes import torch
def test_a_folder_without_tokenizer_json(made, folder, tmp_path):
  state = json.loads((folder / "hf" / "tokenizer.json").read_text())["model"]
  (tmp_path / "vocab.json").write_text(json.dumps(state["vocab"]))
  merges = "".join(f"{a} {b}\n" for a, b in state["merges"])
  (tmp_path / "merges.txt").write_text("#version: 0.2\n" + merges)
  config = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>"}
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
  loaded = tok.load(tmp_path)
  assert loaded.encode("big > strong") == made["hf"].encode("big > strong")
  again = tok.from_state(loaded.state())
  assert again.encode_all(TEXTS) == loaded.encode_all(TEXTS)
