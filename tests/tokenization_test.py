"""Tests of tokenization.py: `pytest tests/tokenization_test.py`.

tests/goldens/tokenization_* hold what the original makes of the same strings
and files; tests/make_tokenization_goldens.py writes them.
"""

import collections
import copy
import hashlib
import json
import os
import pickle
import unicodedata

import pytest

import tokenization

GOLDENS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "goldens")
GOLDEN_VOCAB = os.path.join(GOLDENS, "tokenization_vocab.txt")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = ["want", "##want", "##ed", "wa", "un", "runn", "##ing", ",", "low",
          "lowest", ".", "'", "[", "]", "mask", "a", "##a"]


def read_json(name):
  with open(os.path.join(GOLDENS, name)) as reader:
    return json.load(reader)


@pytest.fixture
def write_vocab(tmp_path):
  """Writes a vocabulary, tokens or raw bytes, and returns its path."""
  def write(content):
    path = tmp_path / "vocab.txt"
    if not isinstance(content, bytes):
      content = "".join(token + "\n" for token in content).encode()
    path.write_bytes(content)
    return str(path)
  return write


@pytest.fixture
def make_tokenizer(write_vocab):
  def make(extra=(), **options):
    return tokenization.FullTokenizer(
        write_vocab(SPECIAL + PIECES + list(extra)), **options)
  return make


class StepByStep(tokenization.BasicTokenizer):
  """A subclass: its steps are called one by one."""


# The original's results.


@pytest.mark.parametrize("case", ["cased", "uncased"])
def test_words_and_pieces_of_awkward_strings_are_the_originals(case):
  rows = read_json("tokenization_strings.json")
  assert len(rows) > 200
  lower = case == "uncased"
  full = tokenization.FullTokenizer(GOLDEN_VOCAB, do_lower_case=lower)
  steps = StepByStep(do_lower_case=lower)
  for row in rows:
    text, expected = row["text"], row[case]
    assert full.tokenize(text) == expected["pieces"], text
    assert full.tokenize(text) == expected["pieces"], "second time: " + text
    assert full.basic_tokenizer.tokenize(text) == expected["words"], text
    assert steps.tokenize(text) == expected["words"], text
    pieces = [piece for word in expected["words"]
              for piece in full.wordpiece_tokenizer.tokenize(word)]
    assert pieces == expected["pieces"], text


def test_tokens_of_real_files_are_the_originals(data_dir):
  rows = read_json("tokenization_files.json")
  assert len(rows) == 4 * 2 * 7
  tokenizers = {}
  for row in rows:
    key = row["vocab"], row["do_lower_case"]
    if key not in tokenizers:
      tokenizers[key] = tokenization.FullTokenizer(
          os.path.join(data_dir, "vocab", row["vocab"], "vocab.txt"),
          do_lower_case=row["do_lower_case"])
    tokens = []
    path = os.path.join(data_dir, row["text"])
    with open(path, encoding="utf-8", newline="\n") as reader:
      for _, line in zip(range(row["lines"]), reader):
        tokens += tokenizers[key].tokenize(line)
    assert len(tokens) == row["tokens"], row
    digest = hashlib.sha256(" ".join(tokens).encode()).hexdigest()
    assert digest == row["sha256"], row


def test_words_align_as_the_readmes_recipe_says(data_dir):
  tokenizer = tokenization.FullTokenizer(
      os.path.join(data_dir, "vocab", "uncased_base", "vocab.txt"))
  orig_to_tok_map, bert_tokens = [], ["[CLS]"]
  for word in ["John", "Johanson", "'s", "house"]:
    orig_to_tok_map.append(len(bert_tokens))
    bert_tokens += tokenizer.tokenize(word)
  bert_tokens.append("[SEP]")
  assert bert_tokens == [
      "[CLS]", "john", "johan", "##son", "'", "s", "house", "[SEP]"]
  assert orig_to_tok_map == [1, 2, 4, 6]
  assert tokenizer.convert_tokens_to_ids(bert_tokens) == [
      101, 2198, 13093, 3385, 1005, 1055, 2160, 102]


# Words.


def test_whole_passes_equal_single_steps_for_every_character():
  for lower in (True, False):
    fast = tokenization.BasicTokenizer(lower)
    steps = StepByStep(lower)
    for code in range(0, 0x110000, 7 if lower else 13):
      text = "A\u03a3%c\u03b1 %c\u03a3" % (code, code)
      assert fast.tokenize(text) == steps.tokenize(text), hex(code)


def test_deleted_characters_glue_their_neighbours():
  tokenizer = tokenization.BasicTokenizer()
  text = "a\x0bb c\x00d e\ufffdf g\x1ch i\u200dj k\x85l"
  assert tokenizer.tokenize(text) == ["ab", "cd", "ef", "gh", "ij", "kl"]


def test_line_and_paragraph_separators_cut_words():
  assert tokenization.BasicTokenizer().tokenize("a\u2028b\u2029c\u3000d") == [
      "a", "b", "c", "d"]


def test_final_sigma_follows_from_the_whole_word():
  tokenizer = tokenization.BasicTokenizer()
  assert tokenizer.tokenize("\u0391\u03a3 \u0391\u03a3\u0391") == [
      "\u03b1\u03c2", "\u03b1\u03c3\u03b1"]
  assert tokenizer.tokenize("\u0391\u03a3.\u0391") == [
      "\u03b1\u03c3", ".", "\u03b1"]


def test_ideographs_stand_alone_but_kana_do_not():
  assert tokenization.BasicTokenizer().tokenize(
      "ah\u535a\u63a8zz \u304b\u306a") == [
          "ah", "\u535a", "\u63a8", "zz", "\u304b\u306a"]


def test_bytes_are_decoded_and_other_types_refused():
  assert tokenization.BasicTokenizer().tokenize(b"caf\xc3\xa9 \xffx") == [
      "cafe", "x"]
  assert tokenization.convert_to_unicode(b"\xe4\xbd") == ""
  assert tokenization.printable_text("x\ud800") == "x\ud800"
  with pytest.raises(ValueError, match="NoneType"):
    tokenization.convert_to_unicode(None)


@pytest.mark.parametrize("lower,strip,expected", [
    (True, None, ["ecole"]), (False, None, ["\u00c9cole"]),
    (True, False, ["\u00e9cole"]), (False, True, ["Ecole"])])
def test_accents_are_stripped_apart_from_lower_casing(lower, strip, expected):
  for kind in (tokenization.BasicTokenizer, StepByStep):
    tokenizer = kind(do_lower_case=lower, strip_accents=strip)
    assert tokenizer.tokenize("\u00c9cole") == expected


def test_single_steps_do_what_their_names_say():
  basic = tokenization.BasicTokenizer()
  assert basic._clean_text("a\tb\x00c\u3000d") == "a bc d"
  assert basic._tokenize_chinese_chars("a\u4e00b") == "a \u4e00 b"
  assert basic._run_strip_accents("\u00c9\u0301x") == "Ex"
  assert basic._run_split_on_punc("a-b, c!") == ["a", "-", "b", ",", " c", "!"]
  assert basic._is_chinese_char(0x4E00) is True
  assert basic._is_chinese_char(0x3042) is False
  assert basic._is_chinese_char(0x2CEB0) is False
  assert tokenization.whitespace_tokenize("  a \u2003b ") == ["a", "b"]


def test_character_classes_follow_the_unicode_categories():
  for char in map(chr, range(0x3100)):
    category = unicodedata.category(char)
    is_break = char in "\t\n\r"
    assert tokenization._is_whitespace(char) == (is_break or category == "Zs")
    assert tokenization._is_control(char) == (
        category in ("Cc", "Cf") and not is_break)
    if ord(char) > 127:
      assert tokenization._is_punctuation(char) == category.startswith("P")
  assert all(map(tokenization._is_punctuation, "-$`^~|<=>+"))
  assert not any(map(tokenization._is_punctuation, "A 0\t"))


# Pieces.


def test_longest_entry_is_taken_first():
  wordpiece = tokenization.WordpieceTokenizer(
      vocab=["[UNK]", "wa", "want", "##want", "##ed", "un", "runn", "##ing"])
  assert wordpiece.tokenize("unwanted running") == [
      "un", "##want", "##ed", "runn", "##ing"]
  assert wordpiece.tokenize("unwantedX running") == ["[UNK]", "runn", "##ing"]
  assert wordpiece.tokenize(" \t ") == []


def test_word_longer_than_the_limit_is_unknown():
  wordpiece = tokenization.WordpieceTokenizer(vocab={"a": 0, "##a": 1})
  assert wordpiece.tokenize("a" * 200) == ["a"] + ["##a"] * 199
  assert wordpiece.tokenize("a" * 201) == ["[UNK]"]
  short = tokenization.WordpieceTokenizer({"ab": 0}, "<unk>", 1)
  assert short.tokenize("ab") == ["<unk>"]


# never_split.


def test_never_split_tokens_stay_whole_inside_words(make_tokenizer):
  tokenizer = make_tokenizer(never_split=["[MASK]", "[SEP]"])
  assert tokenizer.tokenize("Low[MASK]. A [SEP] [mask]") == [
      "low", "[MASK]", ".", "a", "[SEP]", "[", "mask", "]"]
  assert make_tokenizer().tokenize("[MASK]") == ["[", "mask", "]"]
  overlapping = make_tokenizer(never_split=["low", "lowest"])
  assert overlapping.tokenize("lowest") == ["lowest"]
  steps = StepByStep(never_split=["[MASK]"])
  assert steps.tokenize("Low[MASK].") == ["low", "[MASK]", "."]


def test_unusable_never_split_tokens_are_refused(make_tokenizer):
  with pytest.raises(ValueError, match=r"'\[GONE\]' is not in"):
    make_tokenizer(never_split=["[GONE]"])
  for token in ("", "two words"):
    with pytest.raises(ValueError, match="never_split"):
      tokenization.BasicTokenizer(never_split=[token])


# The caches are invisible.


def test_a_setting_changed_later_takes_effect(make_tokenizer):
  tokenizer = make_tokenizer(extra=["A", "Low"])
  assert tokenizer.tokenize("A Low") == ["a", "low"]
  tokenizer.basic_tokenizer.do_lower_case = False
  assert tokenizer.tokenize("A Low") == ["A", "Low"]
  tokenizer.wordpiece_tokenizer.max_input_chars_per_word = 2
  assert tokenizer.tokenize("A Low") == ["A", "[UNK]"]
  tokenizer.wordpiece_tokenizer.unk_token = "?"
  assert tokenizer.tokenize("A Low") == ["A", "?"]
  tokenizer.basic_tokenizer.never_split = ["Low"]
  tokenizer.wordpiece_tokenizer.max_input_chars_per_word = 200
  assert tokenizer.tokenize("ALow") == ["A", "Low"]


def test_entries_added_later_take_effect(make_tokenizer):
  tokenizer = make_tokenizer()
  assert tokenizer.tokenize("lower") == ["[UNK]"]
  tokenizer.vocab["##er"] = len(tokenizer.vocab)
  assert tokenizer.tokenize("lower") == ["low", "##er"]
  tokenizer.wordpiece_tokenizer.vocab = collections.OrderedDict(
      (token + "er" if token == "low" else token, token_id)
      for token, token_id in tokenizer.vocab.items())
  assert tokenizer.tokenize("lower") == ["lower"]


def test_a_replaced_step_is_used(make_tokenizer):
  class Letters:
    def tokenize(self, text):
      return list(text)

  class NoMarks(tokenization.BasicTokenizer):
    def _run_split_on_punc(self, text):
      return [text.replace(",", "")]

  tokenizer = make_tokenizer()
  assert tokenizer.tokenize("low, a") == ["low", ",", "a"]
  assert tokenizer.tokenize("\u00c0 low") == ["a", "low"]
  tokenizer.basic_tokenizer = NoMarks()
  assert tokenizer.tokenize("low, a") == ["low", "a"]
  tokenizer.basic_tokenizer = Letters()
  assert tokenizer.tokenize("aa") == ["a", "a"]
  tokenizer.basic_tokenizer = tokenization.BasicTokenizer(False)
  assert tokenizer.tokenize("\u00c0 low") == ["[UNK]", "low"]
  tokenizer.basic_tokenizer.do_lower_case = True
  assert tokenizer.tokenize("\u00c0 low") == ["a", "low"]
  tokenizer.wordpiece_tokenizer = Letters()
  assert tokenizer.tokenize("Low a") == ["l", "o", "w", "a"]


def test_a_changed_result_does_not_change_the_next(make_tokenizer):
  tokenizer = make_tokenizer()
  for tokenize in (tokenizer.tokenize, tokenizer.basic_tokenizer.tokenize,
                   tokenizer.wordpiece_tokenizer.tokenize):
    tokenize("low").append("x")
    assert tokenize("low") == ["low"]


def test_caches_stay_below_their_limits(make_tokenizer, monkeypatch):
  monkeypatch.setattr(tokenization, "CACHE_ENTRIES", 10)
  tokenizer = make_tokenizer()
  for number in range(95):
    tokenizer.tokenize("low%d a" % number)
  assert 0 < len(tokenizer._chunks) <= 10
  assert 0 < len(tokenizer.wordpiece_tokenizer._pieces) <= 10
  tokenizer.tokenize("a" * (tokenization.LONGEST_CACHED + 1))
  assert max(map(len, tokenizer._chunks)) <= tokenization.LONGEST_CACHED


def test_tokenizers_can_be_pickled_and_copied(make_tokenizer):
  tokenizer = make_tokenizer()
  text = "Unwanted, running!"
  expected = tokenizer.tokenize(text)
  for twin in (pickle.loads(pickle.dumps(tokenizer)),
               copy.deepcopy(tokenizer)):
    assert not twin._chunks
    assert twin.tokenize(text) == expected
    twin.basic_tokenizer.do_lower_case = False
    assert twin.tokenize("Low") == ["[UNK]"]
  assert tokenizer.tokenize("Low") == ["low"]


# Vocabularies and ids.


def test_vocab_ids_are_line_numbers(write_vocab):
  vocab = tokenization.load_vocab(write_vocab(["[UNK]", " b\u00e9 ", "##c"]))
  assert list(vocab.items()) == [("[UNK]", 0), ("b\u00e9", 1), ("##c", 2)]


def test_damaged_vocab_files_still_load(write_vocab):
  vocab = tokenization.load_vocab(
      write_vocab(b"\xef\xbb\xbf[PAD]\r\nb\xffc\r\nlast"))
  assert vocab == {"[PAD]": 0, "bc": 1, "last": 2}


def test_repeated_and_blank_lines_are_reported_and_keep_their_ids(
    write_vocab, caplog):
  path = write_vocab(["a", "b", "", "a", "\u2028"])
  vocab = tokenization.load_vocab(path)
  assert list(vocab.items()) == [("a", 3), ("b", 1), ("", 4)]
  messages = [record.getMessage() for record in caplog.records]
  assert len(messages) == 2
  assert "blank line(s) 3, 5" in messages[0] and path in messages[0]
  assert "'a' (lines 1, 4)" in messages[1] and path in messages[1]


def test_missing_and_empty_vocab_files_are_named(write_vocab, tmp_path):
  for path in (str(tmp_path / "none.txt"), None, ""):
    with pytest.raises(ValueError, match="--vocab_file"):
      tokenization.load_vocab(path)
  with pytest.raises(ValueError, match="vocab.txt' is empty"):
    tokenization.load_vocab(write_vocab(b""))


def test_missing_special_tokens_are_named_at_the_start(write_vocab, caplog):
  tokenization.FullTokenizer(write_vocab(["[UNK]", "[CLS]", "[SEP]", "a"]))
  (record,) = caplog.records
  assert "lacks [PAD], [MASK]:" in record.getMessage()


def test_a_good_vocab_is_loaded_silently(make_tokenizer, caplog):
  make_tokenizer()
  assert not caplog.records


def test_ids_and_tokens_convert_both_ways(make_tokenizer):
  tokenizer = make_tokenizer()
  assert tokenizer.convert_tokens_to_ids(["[CLS]", "want", "##ed"]) == [2, 5, 7]
  assert tokenizer.convert_ids_to_tokens((2, 5, 7)) == ["[CLS]", "want", "##ed"]
  assert tokenization.convert_tokens_to_ids({"a": 4}, iter("aa")) == [4, 4]
  assert tokenization.convert_ids_to_tokens({4: "a"}, [4]) == ["a"]
  assert tokenization.convert_by_vocab({"a": 4}, []) == []


def test_unknown_tokens_and_ids_are_named_with_the_vocab(make_tokenizer):
  tokenizer = make_tokenizer()
  with pytest.raises(KeyError, match=r"'gone' is not in .*vocab.txt \(22 "):
    tokenizer.convert_tokens_to_ids(["want", "gone"])
  with pytest.raises(KeyError, match=r"99 is not in .*vocab.txt"):
    tokenizer.convert_ids_to_tokens([99])
  with pytest.raises(KeyError, match=r"\[MASK\].* is not in the vocabulary.*"
                     "own vocab.txt"):
    tokenization.convert_tokens_to_ids({"a": 0}, ["[MASK]"])


# Case checks.


@pytest.mark.parametrize("name,lower", [
    ("uncased_L-24_H-1024_A-16", True), ("uncased_L-12_H-768_A-12", True),
    ("multilingual_L-12_H-768_A-12", True), ("chinese_L-12_H-768_A-12", True),
    ("cased_L-12_H-768_A-12", False), ("cased_L-24_H-1024_A-16", False),
    ("multi_cased_L-12_H-768_A-12", False)])
def test_wrong_case_for_a_model_of_2018_is_an_error(name, lower, caplog):
  check = tokenization.validate_case_matches_checkpoint
  for path in (name + "/bert_model.ckpt", "gs://b/x/" + name +
               "/bert_model.ckpt"):
    check(lower, path)
    with pytest.raises(ValueError, match="--do_lower_case=%s" % (not lower)):
      check(not lower, path)
  assert not caplog.records


@pytest.mark.parametrize("path,lower", [
    ("wwm_cased_L-24_H-1024_A-16/bert_model.ckpt", False),
    ("x/wwm_uncased_L-24_H-1024_A-16/bert_model.ckpt", True),
    ("x/uncased_L-2_H-128_A-2/bert_model.ckpt", True),
    ("x/uncased_L-12_H-768_A-12/model.ckpt-100", True),
    ("x/bert-base-cased", False),
    ("x/multi_cased_L-6_H-384_A-12/bert_model.ckpt", False)])
def test_wrong_case_for_another_name_is_a_warning(path, lower, caplog):
  tokenization.validate_case_matches_checkpoint(lower, path)
  assert not caplog.records
  tokenization.validate_case_matches_checkpoint(not lower, path)
  (record,) = caplog.records
  assert path in record.getMessage()
  assert "Pass --do_lower_case=%s." % lower in record.getMessage()


def test_names_that_tell_no_case_pass_silently(caplog):
  for path in (None, "", "out/model.ckpt-5", "x/my_model/bert_model.ckpt",
               "cased/of/mine/bert_model.ckpt", "showcased/bert_model.ckpt"):
    for lower in (True, False):
      tokenization.validate_case_matches_checkpoint(lower, path)
  assert not caplog.records


def test_wrong_case_for_the_vocab_is_a_warning(caplog):
  check = tokenization.validate_case_matches_vocab
  lower = ["[UNK]", "<S>", "the", "##ing", "\u00df"]
  assert check(True, lower) is None
  assert check(False, lower + ["The"]) is None
  assert not caplog.records
  assert "uncased" in check(False, lower)
  assert "'The'" in check(True, lower + ["The"])
  assert len(caplog.records) == 2
  # A handful of capitals among thousands does not make a model cased.
  assert check(True, ["w%d" % i for i in range(1000)] + ["NUM"]) is None


@pytest.mark.parametrize("name,lower", [
    ("uncased_base", True), ("chinese_base", True), ("cased_base", False),
    ("multi_cased", False)])
def test_released_vocabs_tell_their_case(data_dir, name, lower):
  vocab = tokenization.load_vocab(
      os.path.join(data_dir, "vocab", name, "vocab.txt"))
  assert tokenization.validate_case_matches_vocab(lower, vocab) is None
  assert tokenization.validate_case_matches_vocab(not lower, vocab)
