"""Text to WordPiece tokens to ids, and back.

  tokenizer = FullTokenizer("vocab.txt", do_lower_case=True)
  tokens = tokenizer.tokenize("John Johanson's")  # john johan ##son ' s
  ids = tokenizer.convert_tokens_to_ids(tokens)

Two steps: `BasicTokenizer` cleans the text and cuts it into words and
punctuation marks, `WordpieceTokenizer` cuts each word into vocabulary entries.
Tokens equal those of google-research/bert for every string. What makes it fast
is that nothing reaches across a space: the tokens of each stretch between two
spaces are worked out once and then looked up.

Reference: Wu et al., "Google's Neural Machine Translation System", 2016,
https://arxiv.org/abs/1609.08144, section 4.1 (WordPiece).
"""

import collections
import itertools
import logging
import os
import re
import unicodedata

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Entries per cache before it starts afresh, about 60 MB of ordinary text: 2.2
# million words of Wikipedia hold 150,000 different ones.
CACHE_ENTRIES = 1 << 18

# Characters. Longer stretches (a Chinese sentence, a URL) hardly ever recur.
LONGEST_CACHED = 32

# The same logger as `tf.logging`.
_logger = logging.getLogger("tensorflow")

# The released checkpoints whose names decide the case beyond doubt.
_LOWER_CASE_MODELS = frozenset((
    "uncased_L-12_H-768_A-12",
    "uncased_L-24_H-1024_A-16",
    "chinese_L-12_H-768_A-12",
    "multilingual_L-12_H-768_A-12",
))
_CASED_MODELS = frozenset((
    "cased_L-12_H-768_A-12",
    "cased_L-24_H-1024_A-16",
    "multi_cased_L-12_H-768_A-12",
))
_CHECKPOINT_MODEL = re.compile(r"^.*?([A-Za-z0-9_-]+)/bert_model.ckpt")
# wwm_uncased_L-24_H-1024_A-16, uncased_L-2_H-128_A-2, scibert_cased, ...
_CASE_IN_NAME = re.compile(r"(?:^|[_-])(un)?cased(?=[_-]|$)")

# First and last code point of each CJK ideograph block. Kana and Hangul are
# not among them: they are written in words.
_CJK_BLOCKS = (
    (0x3400, 0x4DBF),  # Extension A
    (0x4E00, 0x9FFF),  # Unified Ideographs
    (0xF900, 0xFAFF),  # Compatibility Ideographs
    (0x20000, 0x2A6DF),  # Extension B
    (0x2A700, 0x2B73F),  # Extension C
    (0x2B740, 0x2B81F),  # Extension D
    (0x2B820, 0x2CEAF),  # Extension E; later blocks stay unspaced
    (0x2F800, 0x2FA1F),  # Compatibility Supplement
)

_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_ASCII_WORD_OR_MARK = re.compile(r"[0-9A-Za-z]+|[!-/:-@\[-`{-~]")


# Does the case setting fit the model?


def validate_case_matches_checkpoint(do_lower_case, init_checkpoint):
  """Checks the case setting against what the checkpoint is called.

  Args:
    do_lower_case: bool, as given to the tokenizer.
    init_checkpoint: str path or None, for example
      ".../uncased_L-12_H-768_A-12/bert_model.ckpt".

  Raises:
    ValueError: `bert_model.ckpt` in a directory named like one of the seven
      models released in 2018 goes with the other setting. For any other name
      that says "cased" or "uncased" there is only a warning.
  """
  if not init_checkpoint:
    return
  match = _CHECKPOINT_MODEL.match(init_checkpoint)
  name = match.group(1) if match else ""
  if name in _LOWER_CASE_MODELS or name in _CASED_MODELS:
    wants_lower_case = name in _LOWER_CASE_MODELS
    if wants_lower_case != bool(do_lower_case):
      raise ValueError(
          _wrong_case("`--init_checkpoint=%s` names" % init_checkpoint,
                      do_lower_case) +
          " If the model is yours and only shares the name, rename its "
          "directory.")
    return
  for part in init_checkpoint.split("/")[-2:]:
    match = _CASE_IN_NAME.search(part)
    if match and bool(match.group(1)) != bool(do_lower_case):
      _logger.warning(
          _wrong_case("`--init_checkpoint=%s` looks like" % init_checkpoint,
                      do_lower_case))
      return


def validate_case_matches_vocab(do_lower_case, vocab):
  """Warns when the vocabulary's own entries contradict the case setting.

  A vocabulary is cased when at least 1 % of its entries have capitals (the
  released cased ones: 16 % and 29 %), and lower-cased when none has; entries
  in brackets such as [CLS] or <S> do not count.

  Args:
    do_lower_case: bool, as given to the tokenizer.
    vocab: iterable of str tokens.

  Returns:
    The warning, a str, also logged; None when nothing speaks against it.
  """
  words = [token for token in vocab
           if token[:1] + token[-1:] not in ("[]", "<>")]
  capitals = [word for word in words if word != word.lower()]
  message = None
  if do_lower_case and capitals and len(capitals) * 100 >= len(words):
    message = _wrong_case(
        "The vocabulary (%d of %d entries with capitals, for example %r) "
        "belongs to" % (len(capitals), len(words), capitals[0]), do_lower_case)
  elif words and not capitals and not do_lower_case:
    message = _wrong_case(
        "The vocabulary (%d entries, none with a capital) belongs to" %
        len(words), do_lower_case)
  if message:
    _logger.warning(message)
  return message


def _wrong_case(subject, do_lower_case):
  """One wording for every mismatch between the setting and a model."""
  return (
      "%s %s model, but `--do_lower_case=%s` was given: the text would not be "
      "written the way the model was trained on. Pass --do_lower_case=%s." %
      (subject, "a cased" if do_lower_case else "an uncased (lower-cased)",
       bool(do_lower_case), not do_lower_case))


# Strings and vocabularies.


def convert_to_unicode(text):
  """str as it is, bytes decoded as UTF-8 with invalid bytes left out.

  Raises:
    ValueError: `text` is neither.
  """
  if isinstance(text, bytes):
    return text.decode("utf-8", "ignore")
  if not isinstance(text, str):
    raise ValueError(
        "Text must be str or bytes, not %s: %.80r" % (type(text), text))
  return text


def printable_text(text):
  """`text` (str or bytes) as a str that can be printed or logged."""
  return convert_to_unicode(text)


def load_vocab(vocab_file):
  """Reads a vocabulary, one token a line; the line number is the id.

  Spaces around a token and a byte order mark are dropped, and bytes that are
  not UTF-8 are ignored. A token that stands on several lines gets the last
  line's id; a blank line is the token "". Both are logged as warnings, since
  usually the file was damaged.

  Args:
    vocab_file: str, any path `tf.gfile` understands.

  Returns:
    OrderedDict of str token to int id, from 0.

  Raises:
    ValueError: there is no such file, or it is empty.
  """
  if not vocab_file or not _exists(vocab_file):
    raise ValueError(
        "Vocabulary file %r does not exist. `--vocab_file` should name the "
        "vocab.txt that came with the checkpoint." % (vocab_file,))
  with _open_binary(vocab_file) as reader:
    lines = reader.read().decode("utf-8", "ignore").split("\n")
  if not lines[-1]:
    lines.pop()  # What follows the final line end is not a line.
  if not lines:
    raise ValueError("Vocabulary file %r is empty." % (vocab_file,))
  if lines[0].startswith("\ufeff"):
    lines[0] = lines[0][1:]
  vocab = collections.OrderedDict()
  for token_id, line in enumerate(lines):
    vocab[line.strip()] = token_id
  if len(vocab) < len(lines) or "" in vocab:
    _warn_of_odd_lines(vocab_file, lines)
  return vocab


# Importing TensorFlow takes seconds and hundreds of megabytes, so that only
# paths such as gs:// do.


def _exists(path):
  if "://" not in path:
    return os.path.exists(path)
  import tensorflow.compat.v1 as tf
  return tf.gfile.Exists(path)


def _open_binary(path):
  if "://" not in path:
    return open(path, "rb")
  import tensorflow.compat.v1 as tf
  return tf.gfile.GFile(path, "rb")


def _warn_of_odd_lines(vocab_file, lines):
  """Logs which vocabulary lines are blank or repeat a token."""
  numbers = collections.OrderedDict()
  for number, line in enumerate(lines, 1):
    numbers.setdefault(line.strip(), []).append(number)
  blank = numbers.pop("", None)
  if blank:
    _logger.warning(
        "%s: blank line(s) %s. Each takes an id that no text ever gets.",
        vocab_file, _first_few(map(str, blank)))
  repeated = [
      "%r (lines %s)" % (token, ", ".join(map(str, where)))
      for token, where in numbers.items() if len(where) > 1]
  if repeated:
    _logger.warning(
        "%s: %d token(s) on more than one line; the last line's id counts: %s",
        vocab_file, len(repeated), _first_few(repeated))


def _first_few(items, limit=10):
  items = list(items)
  rest = ", ... (%d in all)" % len(items) if len(items) > limit else ""
  return ", ".join(items[:limit]) + rest


def convert_by_vocab(vocab, items):
  """List of `vocab[item]` for each item.

  Raises:
    KeyError: an item is missing; the message names it.
  """
  return _look_up(vocab, items, "the vocabulary")


def convert_tokens_to_ids(vocab, tokens):
  """Ids (list of int) of an iterable of str tokens; see `convert_by_vocab`."""
  return convert_by_vocab(vocab, tokens)


def convert_ids_to_tokens(inv_vocab, ids):
  """Tokens (list of str) of an iterable of int ids; see `convert_by_vocab`."""
  return convert_by_vocab(inv_vocab, ids)


def _look_up(vocab, items, where):
  try:
    return list(map(vocab.__getitem__, items))
  except KeyError as error:
    missing = error.args[0]
  hint = ""
  if missing in SPECIAL_TOKENS:
    hint = " BERT needs that entry: is this the model's own vocab.txt?"
  raise KeyError("%r is not in %s (%d entries).%s" %
                 (missing, where, len(vocab), hint))


def whitespace_tokenize(text):
  """The pieces of `text` (str) between runs of Unicode white space."""
  return text.split()


# Classes of characters.


def _is_whitespace(char):
  """Tab, line feed, carriage return or a Unicode space (category Zs)."""
  return char in "\t\n\r" or unicodedata.category(char) == "Zs"


def _is_control(char):
  """Category Cc or Cf, save the three that count as white space."""
  return char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf")


def _is_punctuation(char):
  """Any ASCII mark, symbols such as "$" included, or Unicode category P*."""
  return char in _ASCII_PUNCTUATION or unicodedata.category(char)[0] == "P"


def _is_ideograph(code):
  return code >= 0x3400 and any(
      first <= code <= last for first, last in _CJK_BLOCKS)


class _CharTable(dict):
  """A table for `str.translate` that grows as characters turn up.

  `rule` maps one character to its replacement, a str of any length, or None.
  """

  def __init__(self, rule):
    super(_CharTable, self).__init__()
    self._rule = rule

  def __missing__(self, code):
    replacement = self[code] = self._rule(chr(code))
    return replacement


def _clean(char):
  if char in "\0\ufffd" or _is_control(char):
    return None
  return " " if _is_whitespace(char) else char


def _space_ideograph(char):
  return " " + char + " " if _is_ideograph(ord(char)) else char


def _drop_accent(char):
  return None if unicodedata.category(char) == "Mn" else char


def _space_punctuation(char):
  return " " + char + " " if _is_punctuation(char) else char


_CLEANED = _CharTable(_clean)
_IDEOGRAPHS_SPACED = _CharTable(_space_ideograph)
_ACCENTS_DROPPED = _CharTable(_drop_accent)
_MARKS_SPACED = _CharTable(_space_punctuation)
# Two tables in one pass over the text.
_CLEANED_IDEOGRAPHS_SPACED = _CharTable(
    lambda char: char.translate(_CLEANED).translate(_IDEOGRAPHS_SPACED))
_ACCENTS_DROPPED_MARKS_SPACED = _CharTable(
    lambda char: char.translate(_ACCENTS_DROPPED).translate(_MARKS_SPACED))


# Caches.


class _Cache(dict):
  """Results of `compute(text)`, worked out on first look-up.

  At `CACHE_ENTRIES` it starts afresh: frequent words are back within a few
  lines of text. Threads may share it. Copies and pickles are empty.
  """

  __slots__ = ("_compute",)

  def __init__(self, compute):
    super(_Cache, self).__init__()
    self._compute = compute

  def __missing__(self, text):
    result = self._compute(text)
    if len(text) <= LONGEST_CACHED:
      if len(self) >= CACHE_ENTRIES:
        self.clear()
      # A word that is an entry of the vocabulary: keep one string, not two.
      self[result[0] if result == (text,) else text] = result
    return result

  def __reduce__(self):
    return _Cache, (self._compute,)


class _Configured:
  """Empties `_caches` whenever an attribute is assigned: they may be stale."""

  _caches = ()

  def __setattr__(self, name, value):
    super(_Configured, self).__setattr__(name, value)
    for cache in self._caches:
      cache.clear()


def _flatten(lists):
  return list(itertools.chain.from_iterable(lists))


# The tokenizers.


def _reach(entries):
  """Length of the longest entry for each two-character beginning.

  A greedy match need not try anything longer, and with any other beginning
  only single characters.
  """
  longest = {}
  for entry in entries:
    start = entry[:2]
    if len(entry) > longest.get(start, 0):
      longest[start] = len(entry)
  return longest


class BasicTokenizer(_Configured):
  """Cuts text into words and punctuation marks.

  Control characters go; CJK ideographs and punctuation marks become words of
  their own; letters are lower-cased and lose their accents, as asked.

  A subclass may override `_clean_text`, `_tokenize_chinese_chars`,
  `_run_strip_accents` and `_run_split_on_punc`: they are then called one after
  the other, which is slower.
  """

  def __init__(self, do_lower_case=True, never_split=(), strip_accents=None):
    """Sets what happens to letters.

    Args:
      do_lower_case: bool, lower-case the text.
      never_split: str tokens such as "[MASK]" kept whole and unchanged
        wherever they stand in the text, even inside a word.
      strip_accents: bool, drop combining marks after canonical decomposition
        (which also takes vowel signs from Indic and voicing from kana); None:
        when lower-casing.

    Raises:
      ValueError: a `never_split` token is empty or holds white space.
    """
    self.do_lower_case = do_lower_case
    self.strip_accents = strip_accents
    self.never_split = never_split
    self._words = _Cache(self._cut)
    self._caches = [self._words]

  @property
  def never_split(self):
    return self._never_split

  @never_split.setter
  def never_split(self, tokens):
    self._never_split = (tokens,) if isinstance(tokens, str) else tuple(tokens)
    for token in self._never_split:
      if token.split() != [token]:
        raise ValueError(
            "`never_split` token %r is empty or holds white space." % (token,))
    # The longer first: "[MASK]" before "[".
    longest_first = sorted(self._never_split, key=len, reverse=True)
    self._kept_whole = re.compile(
        "(%s)" % "|".join(map(re.escape, longest_first))
    ) if longest_first else None

  def tokenize(self, text):
    """Words and marks of `text` (str or UTF-8 bytes), a list of str.

    For example "John's café" gives ["john", "'", "s", "cafe"].
    """
    text = convert_to_unicode(text)
    if type(self) is BasicTokenizer:
      return _flatten(map(self._words.__getitem__, text.split(" ")))
    return self._cut(text)

  def _cut(self, text):
    """`tokenize` without the cache; for str only."""
    plain = (self._cut_in_passes if type(self) is BasicTokenizer
             else self._cut_in_steps)
    if not self._kept_whole:
      return plain(text)
    parts = self._kept_whole.split(text)  # Every second one is a token kept.
    parts[::2] = map(plain, parts[::2])
    parts[1::2] = ([token] for token in parts[1::2])
    return _flatten(parts)

  def _cut_in_passes(self, text):
    """The steps below, each in one pass over the whole text.

    Nothing is lost by not cutting at white space first: lower-casing (final
    sigma) and decomposition never look across it.
    """
    if text.isascii():
      if not text.isprintable():
        text = text.translate(_CLEANED)
      if self.do_lower_case:
        text = text.lower()
      return [text] if text.isalnum() else _ASCII_WORD_OR_MARK.findall(text)
    text = text.translate(_CLEANED_IDEOGRAPHS_SPACED)
    if self.do_lower_case:
      text = text.lower()
    if self._strips_accents():
      text = unicodedata.normalize("NFD", text)
      return text.translate(_ACCENTS_DROPPED_MARKS_SPACED).split()
    return text.translate(_MARKS_SPACED).split()

  def _cut_in_steps(self, text):
    words = []
    text = self._tokenize_chinese_chars(self._clean_text(text))
    for word in whitespace_tokenize(text):
      word = word.lower() if self.do_lower_case else word
      if self._strips_accents():
        word = self._run_strip_accents(word)
      words += self._run_split_on_punc(word)
    return whitespace_tokenize(" ".join(words))

  def _strips_accents(self):
    if self.strip_accents is None:
      return self.do_lower_case
    return self.strip_accents

  def _clean_text(self, text):
    """Drops control characters and U+FFFD, turns white space into spaces."""
    return text.translate(_CLEANED)

  def _tokenize_chinese_chars(self, text):
    """Puts a space on either side of every CJK ideograph."""
    return text.translate(_IDEOGRAPHS_SPACED)

  def _is_chinese_char(self, cp):
    """Whether code point `cp` (int) is a CJK ideograph."""
    return _is_ideograph(cp)

  def _run_strip_accents(self, text):
    """Decomposes `text` and drops its combining marks (category Mn)."""
    return unicodedata.normalize("NFD", text).translate(_ACCENTS_DROPPED)

  def _run_split_on_punc(self, text):
    """Cuts before and after every mark: "ab,c" gives ["ab", ",", "c"]."""
    words, start = [], 0
    for position, char in enumerate(text):
      if _is_punctuation(char):
        words += [text[start:position], char]
        start = position + 1
    return [word for word in words + [text[start:]] if word]


class WordpieceTokenizer(_Configured):
  """Cuts words into vocabulary entries, the longest first from the left."""

  def __init__(self, vocab, unk_token="[UNK]", max_input_chars_per_word=200):
    """Keeps the vocabulary.

    Args:
      vocab: dict or other collection of str tokens; "##" marks an entry that
        continues a word.
      unk_token: str, stands for a word that no entries make up.
      max_input_chars_per_word: int, characters; a longer word is `unk_token`.
    """
    self.vocab = vocab
    self.unk_token = unk_token
    self.max_input_chars_per_word = max_input_chars_per_word
    self._indexed = None
    self._pieces = _Cache(self._match)
    self._caches = [self._pieces]

  def tokenize(self, text):
    """Pieces of each word of `text` (str or UTF-8 bytes), a list of str.

    Args:
      text: words between white space, as `BasicTokenizer` makes them. For
        example "unaffable" gives ["un", "##aff", "##able"].
    """
    self._follow_vocab()
    words = convert_to_unicode(text).split()
    return _flatten(map(self._pieces.__getitem__, words))

  def _follow_vocab(self):
    """Indexes `vocab` at first and when it is another or has another size."""
    if self._indexed is self.vocab and len(self.vocab) == self._indexed_entries:
      return
    heads = {entry: entry for entry in self.vocab}
    tails = {entry[2:]: entry for entry in self.vocab if entry[:2] == "##"}
    self._heads, self._head_reach = heads, _reach(heads)
    self._tails, self._tail_reach = tails, _reach(tails)
    self._indexed, self._indexed_entries = self.vocab, len(self.vocab)

  def _match(self, word):
    """The pieces of one word, a tuple of str."""
    length = len(word)
    if length > self.max_input_chars_per_word:
      return (self.unk_token,)
    entries, reach = self._heads, self._head_reach
    pieces, start = [], 0
    while start < length:
      end = min(length, start + reach.get(word[start:start + 2], 1))
      while end > start and word[start:end] not in entries:
        end -= 1
      if end == start:
        return (self.unk_token,)
      pieces.append(entries[word[start:end]])
      entries, reach, start = self._tails, self._tail_reach, end
    return tuple(pieces)


class FullTokenizer(_Configured):
  """Text to WordPiece tokens to ids: both tokenizers, one vocabulary.

  Attributes:
    vocab: OrderedDict of str token to int id. Entries may be added; to put one
      in another's place, do it before the first text.
    inv_vocab: dict of int id to str token.
    basic_tokenizer, wordpiece_tokenizer: the two steps. Either may be replaced
      by anything that has `tokenize(text)`, at the price of the cache.
  """

  def __init__(self, vocab_file, do_lower_case=True, never_split=(),
               strip_accents=None):
    """Reads the vocabulary and logs what looks wrong with it.

    Args:
      vocab_file: str path, see `load_vocab`.
      do_lower_case, never_split, strip_accents: see `BasicTokenizer`.

    Raises:
      ValueError: the vocabulary is missing or empty, or does not have a
        `never_split` token.
    """
    self._chunks = _Cache(self._chunk_pieces)
    self._vocab_file = vocab_file
    self.vocab = load_vocab(vocab_file)
    self.inv_vocab = {token_id: token for token, token_id in self.vocab.items()}
    self.basic_tokenizer = BasicTokenizer(
        do_lower_case, never_split, strip_accents)
    self.wordpiece_tokenizer = WordpieceTokenizer(self.vocab)
    self._check_vocab()

  def __setattr__(self, name, value):
    super(FullTokenizer, self).__setattr__(name, value)
    if isinstance(value, _Configured):
      value._caches.append(self._chunks)
      self._chunks.clear()

  def _check_vocab(self):
    for token in self.basic_tokenizer.never_split:
      if token not in self.vocab:
        raise ValueError("`never_split` token %r is not in %s." %
                         (token, self._vocab_file))
    missing = [token for token in SPECIAL_TOKENS if token not in self.vocab]
    if missing:
      _logger.warning(
          "%s lacks %s: a text that needs one will stop with a KeyError.",
          self._vocab_file, ", ".join(missing))
    validate_case_matches_vocab(self.basic_tokenizer.do_lower_case, self.vocab)

  def tokenize(self, text):
    """WordPiece tokens of `text` (str or UTF-8 bytes), a list of str.

    For example "John Johanson's" gives ["john", "johan", "##son", "'", "s"]
    with the released uncased vocabulary.
    """
    basic, wordpiece = self.basic_tokenizer, self.wordpiece_tokenizer
    if (type(basic) is not BasicTokenizer or
        type(wordpiece) is not WordpieceTokenizer):
      return _flatten(map(wordpiece.tokenize, basic.tokenize(text)))
    wordpiece._follow_vocab()
    text = convert_to_unicode(text)
    if text.isascii() and not basic.never_split:
      # These would be cut off anyway; now "house," and "house." find "house".
      # Other scripts cannot: there "." can decide on a final sigma.
      text = text.replace(",", " ,").replace(".", " .")
    return _flatten(map(self._chunks.__getitem__, text.split(" ")))

  def _chunk_pieces(self, chunk):
    """Tokens of a stretch of text between two spaces, a tuple of str."""
    pieces = self.wordpiece_tokenizer._pieces
    words = self.basic_tokenizer._cut(chunk)
    if len(words) == 1:
      return pieces[words[0]]
    return tuple(itertools.chain.from_iterable(map(pieces.__getitem__, words)))

  def convert_tokens_to_ids(self, tokens):
    """Ids (list of int) of an iterable of str tokens.

    Raises:
      KeyError: a token is not in the vocabulary; the message names both.
    """
    return _look_up(self.vocab, tokens, self._vocab_file)

  def convert_ids_to_tokens(self, ids):
    """Tokens (list of str) of an iterable of int ids.

    Raises:
      KeyError: an id is not in the vocabulary; the message names both.
    """
    return _look_up(self.inv_vocab, ids, self._vocab_file)
