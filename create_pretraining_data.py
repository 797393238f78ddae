"""Makes masked-LM and next-sentence training records out of plain text.

  python create_pretraining_data.py --input_file=sample_text.txt \
    --output_file=/tmp/examples.tfrecord --vocab_file=vocab.txt

The input is UTF-8 text with a sentence a line and a blank line between
documents. By default the records are those of google-research/bert for the
same files, flags and seed. `--num_workers=N` makes other records of the same
kind with N processes, the same ones whatever N is.

Documents are kept as token ids in flat files mapped into memory, instances as
rows of ids on disk, so that memory stays flat however much text there is.
TensorFlow is imported only for paths such as gs:// and for `tf.train.Feature`.

Source: Devlin et al., "BERT", 2018, https://arxiv.org/abs/1810.04805, section
3.1 and appendix A.2; whole word masking is a later change of its authors.
"""

import array
import collections
import concurrent.futures
import contextlib
import functools
import gzip
import io
import itertools
import json
import logging
import mmap
import multiprocessing
import multiprocessing.connection
import os
import random
import shutil
import sys
import tempfile
import threading
import zlib

import numpy as np
import tqdm
from absl import flags

import common_flags
import input_pipeline
import tokenization

FLAGS = flags.FLAGS

# Two segments of at least one token each, [CLS] and two [SEP].
SHORTEST_SEQUENCE = 5

NUM_LOGGED_EXAMPLES = 20

# Records put together at a time.
RECORDS_AT_A_TIME = 256

# Bytes of text that one worker tokenises at a time.
BLOCK_BYTES = 1 << 20

# With --num_workers, instances are made in parts, more than there are workers
# so that these finish together. How many depends on the text alone.
MIN_PARTS = 16
TOKENS_PER_PART = 1 << 22
MAX_PARTS_PER_FILE = 512

# The same logger as `tf.logging`.
_logger = logging.getLogger("tensorflow")

common_flags.define_tokenizer_flags()
common_flags.DEFINE_string(
    "input_file", None,
    "Text to read, a sentence a line and a blank line between documents: a "
    "comma-separated list of files or globs.")
common_flags.DEFINE_string(
    "output_file", None,
    "TFRecord file to write, or several with commas in between, among which "
    "the instances are dealt out evenly.")
common_flags.DEFINE_bool(
    "do_whole_word_mask", False,
    "Mask all pieces of a word or none, instead of single pieces.")
common_flags.DEFINE_integer(
    "max_predictions_per_seq", 20,
    "Most tokens masked in one sequence. run_pretraining.py wants the same "
    "value.")
common_flags.DEFINE_integer(
    "random_seed", 12345, "The same seed gives the same records.")
common_flags.DEFINE_integer(
    "dupe_factor", 10,
    "Passes over the text, each with other sentence pairs and other masks.")
common_flags.DEFINE_float(
    "masked_lm_prob", 0.15, "Share of a sequence's tokens that are masked.")
common_flags.DEFINE_float(
    "short_seq_prob", 0.1,
    "Share of documents whose sequences aim at a random shorter length, to "
    "look more like fine-tuning data.")
common_flags.DEFINE_integer(
    "num_workers", 0,
    "Processes to share the work among, in a mode of its own: other records "
    "than by default, of the same statistics, and the same ones for every "
    "number of workers. A run that was killed goes on where it stood. 0: the "
    "default mode, one process, the records of google-research/bert.")
common_flags.DEFINE_string(
    "work_dir", None,
    "With --num_workers: local folder for intermediate files, about 2.5 times "
    "the size of the output; deleted when all is done. Default: the first "
    "output file's name with `.work` appended.")
common_flags.DEFINE_bool(
    "gzip_output", False,
    "Compress the records (gzip; about a quarter of the size).")


# Settings and symbols.


class InstanceSettings(collections.namedtuple("InstanceSettings", [
    "max_seq_length", "short_seq_prob", "masked_lm_prob",
    "max_predictions_per_seq", "do_whole_word_mask"])):
  """What an instance may look like; each field is the flag of that name."""


# The tokens that play a part in making instances: either all str or all int
# ids, so that the same code works on both. `words` is a list of the vocabulary
# in its order; `is_continuation(token)` says whether a token begins with "##".
_Symbols = collections.namedtuple(
    "_Symbols", ["cls", "sep", "mask", "words", "is_continuation"])


def _text_symbols(vocab_words):
  return _Symbols("[CLS]", "[SEP]", "[MASK]", vocab_words,
                  lambda token: token.startswith("##"))


class _Encoder:
  """A tokenizer seen from its ids.

  Attributes:
    tokenizer: `tokenization.FullTokenizer`.
    typecode: str, array type that every id fits: "H" or "I".
    symbols: `_Symbols` of ids.
    unknown: int, the id of [UNK].
    is_continuation: bool [largest id + 1], by id.
  """

  def __init__(self, tokenizer, vocab_file):
    """Looks the special tokens up.

    Raises:
      ValueError: one is missing.
    """
    vocab = tokenizer.vocab
    missing = [token for token in ("[UNK]", "[CLS]", "[SEP]", "[MASK]")
               if token not in vocab]
    if missing:
      raise ValueError(
          "`--vocab_file=%s` lacks %s. Give the vocab.txt that belongs to the "
          "model, or add a line for each." % (vocab_file, ", ".join(missing)))
    self.tokenizer = tokenizer
    continuations = [token_id for token, token_id in vocab.items()
                     if token.startswith("##")]
    largest = max(vocab.values())
    self.typecode = "H" if largest < 1 << 16 else "I"
    self.is_continuation = np.zeros(largest + 1, bool)
    self.is_continuation[continuations] = True
    self.unknown = vocab["[UNK]"]
    self.symbols = _Symbols(
        vocab["[CLS]"], vocab["[SEP]"], vocab["[MASK]"], list(vocab.values()),
        frozenset(continuations).__contains__)


def _whole_word_setting(do_whole_word_mask=None):
  if do_whole_word_mask is None:
    return FLAGS["do_whole_word_mask"].value
  return do_whole_word_mask


# Instances.


class TrainingInstance:
  """A masked sentence pair.

  Attributes:
    tokens: list of str (or of int ids), [CLS] and [SEP] included, masked.
    segment_ids: list of int, 0 up to the first [SEP], then 1.
    masked_lm_positions: list of int, increasing positions in `tokens`.
    masked_lm_labels: list of str (or of int ids), what stood there.
    is_random_next: bool, whether the second segment is from elsewhere.
  """

  __slots__ = ("tokens", "segment_ids", "masked_lm_positions",
               "masked_lm_labels", "is_random_next", "__dict__")

  def __init__(self, tokens, segment_ids, masked_lm_positions,
               masked_lm_labels, is_random_next):
    self.tokens = tokens
    self.segment_ids = segment_ids
    self.masked_lm_positions = masked_lm_positions
    self.masked_lm_labels = masked_lm_labels
    self.is_random_next = is_random_next

  def __str__(self):
    fields = [
        ("tokens", _joined(self.tokens)),
        ("segment_ids", _joined(self.segment_ids)),
        ("is_random_next", self.is_random_next),
        ("masked_lm_positions", _joined(self.masked_lm_positions)),
        ("masked_lm_labels", _joined(self.masked_lm_labels)),
    ]
    return "".join("%s: %s\n" % field for field in fields) + "\n"

  __repr__ = __str__


def _joined(values):
  return " ".join(map(str, values))


def create_training_instances(input_files, tokenizer, max_seq_length,
                              dupe_factor, short_seq_prob, masked_lm_prob,
                              max_predictions_per_seq, rng,
                              do_whole_word_mask=None):
  """Reads text and makes all instances of it, in memory.

  Args:
    input_files: list of str paths.
    tokenizer: `tokenization.FullTokenizer`, or anything with `tokenize` and
      `vocab`.
    max_seq_length: int, tokens.
    dupe_factor: int, passes over the text.
    short_seq_prob, masked_lm_prob: float, probabilities.
    max_predictions_per_seq: int, tokens.
    rng: `random.Random`.
    do_whole_word_mask: bool; None: the flag's value.

  Returns:
    list of `TrainingInstance`, shuffled.
  """
  settings = InstanceSettings(
      max_seq_length, short_seq_prob, masked_lm_prob, max_predictions_per_seq,
      _whole_word_setting(do_whole_word_mask))
  documents = [[]]
  for path in input_files:
    for tokens in _tokenized_lines(_lines(path), tokenizer):
      if tokens is None:
        documents.append([])
      elif tokens:
        documents[-1].append(tokens)
  documents = [document for document in documents if document]
  _shuffle(documents, rng)
  symbols = _text_symbols(list(tokenizer.vocab.keys()))
  instances = [
      instance for _ in range(dupe_factor) for index in range(len(documents))
      for instance in _document_instances(
          documents, index, settings, symbols, rng)]
  _shuffle(instances, rng)
  return instances


def create_instances_from_document(
    all_documents, document_index, max_seq_length, short_seq_prob,
    masked_lm_prob, max_predictions_per_seq, vocab_words, rng,
    do_whole_word_mask=None):
  """Makes the instances of one document, in one pass.

  Args:
    all_documents: list of documents, which are lists of sentences, which are
      lists of str tokens. The random second segments come from all of them.
    document_index: int, which one to make instances of.
    vocab_words: list of str, the tokens that a random replacement is drawn
      from.
    max_seq_length, short_seq_prob, masked_lm_prob, max_predictions_per_seq,
    rng, do_whole_word_mask: see `create_training_instances`.

  Returns:
    list of `TrainingInstance`, in the text's order.

  Raises:
    ValueError: `max_seq_length` is below 5.
  """
  settings = InstanceSettings(
      max_seq_length, short_seq_prob, masked_lm_prob, max_predictions_per_seq,
      _whole_word_setting(do_whole_word_mask))
  return list(_document_instances(
      all_documents, document_index, settings, _text_symbols(vocab_words),
      rng))


def _check_sequence_length(max_seq_length):
  if max_seq_length < SHORTEST_SEQUENCE:
    raise ValueError(
        "`--max_seq_length=%d` is too short: a pair takes [CLS], two [SEP] and "
        "a token in each segment. Give %d or more, usually 128 or 512." %
        (max_seq_length, SHORTEST_SEQUENCE))


def _document_instances(documents, index, settings, symbols, rng):
  """Yields the instances of `documents[index]`; the draws' order is fixed.

  Sentences are collected until they fill a sequence. Some of them, at least
  one, become the first segment. The second segment is the rest of them, or,
  half of the time, text from a random place; the rest then starts the next
  collection.

  Args:
    documents: sequence of sequences of lists of tokens, str or int.
    index: int.
    settings: `InstanceSettings`.
    symbols: `_Symbols` of the tokens' type.
    rng: `random.Random`.
  """
  _check_sequence_length(settings.max_seq_length)
  room = settings.max_seq_length - 3  # [CLS], [SEP], [SEP].
  target = room
  if rng.random() < settings.short_seq_prob:
    target = rng.randint(2, room)
  document = documents[index]
  num_sentences = len(document)
  collected, num_tokens, position = [], 0, 0
  while position < num_sentences:
    sentence = document[position]
    collected.append(sentence)
    num_tokens += len(sentence)
    position += 1
    if num_tokens < target and position < num_sentences:
      continue
    a_end = 1
    if len(collected) > 1:
      a_end = rng.randint(1, len(collected) - 1)
    tokens_a = _concatenated(collected[:a_end])
    is_random_next = len(collected) == 1 or rng.random() < 0.5
    if is_random_next:
      tokens_b = _random_text(
          documents, index, target - len(tokens_a), rng)
      position -= len(collected) - a_end
    else:
      tokens_b = _concatenated(collected[a_end:])
    truncate_seq_pair(tokens_a, tokens_b, room, rng)
    yield _masked_pair(tokens_a, tokens_b, is_random_next, settings, symbols,
                       rng)
    collected, num_tokens = [], 0


def _concatenated(sentences):
  tokens = []
  for sentence in sentences:
    tokens += sentence
  return tokens


def _random_text(documents, index, num_tokens, rng):
  """Sentences from a random place on until there are `num_tokens` tokens.

  The place is in another document than `documents[index]`, unless ten draws
  in a row hit that one. At least one sentence is taken, and no more than the
  place's document has.
  """
  for _ in range(10):
    other = rng.randint(0, len(documents) - 1)
    if other != index:
      break
  document = documents[other]
  tokens = []
  for position in range(rng.randint(0, len(document) - 1), len(document)):
    tokens += document[position]
    if len(tokens) >= num_tokens:
      break
  return tokens


def _masked_pair(tokens_a, tokens_b, is_random_next, settings, symbols, rng):
  sep = symbols.sep
  tokens = [symbols.cls] + tokens_a + [sep] + tokens_b + [sep]
  segment_ids = [0] * (len(tokens_a) + 2) + [1] * (len(tokens_b) + 1)
  tokens, positions, labels = _mask_tokens(tokens, settings, symbols, rng)
  return TrainingInstance(
      tokens, segment_ids, positions, labels, is_random_next)


def truncate_seq_pair(tokens_a, tokens_b, max_num_tokens, rng):
  """Shortens two lists in place until both together fit.

  Tokens go one by one from the longer list (from `tokens_b` when both are
  equally long), each from its beginning or its end at random, so that neither
  end is always the one that is missing.

  Args:
    tokens_a: list, cut in place.
    tokens_b: list, cut in place.
    max_num_tokens: int, tokens that may stay in both together.
    rng: `random.Random`; one draw per token that goes.

  Raises:
    ValueError: `max_num_tokens` is negative.
  """
  if max_num_tokens < 0:
    raise ValueError("`max_num_tokens` is %d; it must not be negative." %
                     max_num_tokens)
  draw = rng.random
  left_a, left_b = len(tokens_a), len(tokens_b)
  if left_a + left_b <= max_num_tokens:
    return
  start_a = start_b = 0
  for _ in range(left_a + left_b - max_num_tokens):
    at_start = draw() < 0.5
    if left_a > left_b:
      left_a -= 1
      start_a += at_start
    else:
      left_b -= 1
      start_b += at_start
  tokens_a[:] = tokens_a[start_a:start_a + left_a]
  tokens_b[:] = tokens_b[start_b:start_b + left_b]


# Masks.

# Part of the public interface; nothing here needs it.
MaskedLmInstance = collections.namedtuple(
    "MaskedLmInstance", ["index", "label"])


def create_masked_lm_predictions(tokens, masked_lm_prob,
                                 max_predictions_per_seq, vocab_words, rng,
                                 do_whole_word_mask=None):
  """Masks tokens of one sequence at random.

  Of the tokens chosen, 80 % become [MASK], 10 % a random token of the
  vocabulary (any entry, [PAD] and [unused1] included) and 10 % stay.

  Args:
    tokens: list of str, with [CLS] and [SEP], which are never chosen.
    masked_lm_prob: float, share of `tokens` to choose; at least one is.
    max_predictions_per_seq: int, most tokens to choose.
    vocab_words: list of str.
    rng: `random.Random`.
    do_whole_word_mask: bool, choose a word's "##" pieces with it; words that
      would exceed the number of tokens to choose are passed over. None: the
      flag's value.

  Returns:
    (tokens, masked_lm_positions, masked_lm_labels): a masked copy, the
    increasing positions chosen, and the tokens that stood there.
  """
  settings = InstanceSettings(
      len(tokens), 0.0, masked_lm_prob, max_predictions_per_seq,
      _whole_word_setting(do_whole_word_mask))
  return _mask_tokens(tokens, settings, _text_symbols(vocab_words), rng)


def _mask_tokens(tokens, settings, symbols, rng):
  """`create_masked_lm_predictions` for tokens of either type."""
  kept = (symbols.cls, symbols.sep)
  candidates = [
      position for position, token in enumerate(tokens) if token not in kept]
  rest_of_word = {}
  if settings.do_whole_word_mask:
    candidates, rest_of_word = _words_among(candidates, tokens, symbols)
  _shuffle(candidates, rng)
  num_to_predict = min(
      settings.max_predictions_per_seq,
      max(1, int(round(len(tokens) * settings.masked_lm_prob))))
  masked_tokens = list(tokens)
  chosen = []
  draw, words = rng.random, symbols.words
  for first in candidates:
    if len(chosen) >= num_to_predict:
      break
    pieces = [first]
    if first in rest_of_word:
      pieces += rest_of_word[first]
      if len(chosen) + len(pieces) > num_to_predict:
        continue
    for position in pieces:
      if draw() < 0.8:
        masked_tokens[position] = symbols.mask
      elif draw() >= 0.5:
        masked_tokens[position] = words[rng.randint(0, len(words) - 1)]
    chosen += pieces
  chosen.sort()
  return masked_tokens, chosen, [tokens[position] for position in chosen]


def _words_among(candidates, tokens, symbols):
  """Positions of words' first pieces, and of the other pieces by the first.

  A "##" piece that begins the second segment, because truncation cut its word,
  counts as the end of the first segment's last word, as in
  google-research/bert.
  """
  firsts, rest_of_word = [], {}
  for position in candidates:
    if firsts and symbols.is_continuation(tokens[position]):
      rest_of_word.setdefault(firsts[-1], []).append(position)
    else:
      firsts.append(position)
  return firsts, rest_of_word


def _shuffle(items, rng):
  """`rng.shuffle(items)`, with the same draws, in half the time.

  Like `random.Random.shuffle` of Python 3.2 and later: from the last place
  down, a partner by rejection among numbers of as many bits as are needed.
  """
  getrandbits = rng.getrandbits
  last = len(items) - 1
  while last > 0:
    bits = (last + 1).bit_length()
    first_of_width = max((1 << (bits - 1)) - 1, 1)
    for place in range(last, first_of_width - 1, -1):
      partner = getrandbits(bits)
      while partner > place:
        partner = getrandbits(bits)
      items[place], items[partner] = items[partner], items[place]
    last = first_of_width - 1


# Text.


def _open(path, mode):
  """`open`, without TensorFlow's weight unless the path needs it."""
  if "://" not in path:
    return open(path, mode)
  import tensorflow.compat.v1 as tf
  return tf.gfile.GFile(path, mode)


def _size_and_time(path):
  """A file's (size in bytes, time of its last change in ns)."""
  if "://" not in path:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns
  import tensorflow.compat.v1 as tf
  stat = tf.gfile.Stat(path)
  return stat.length, stat.mtime_nsec


def _lines(path, start=0, end=float("inf")):
  """Yields, as str, the lines that begin at bytes [start, end) of a file.

  Bytes that are not UTF-8 are left out. A byte order mark stays: no token
  comes of it.
  """
  with _open(path, "rb") as reader:
    position = start
    if start:
      # Up to the first line that begins here; it may be this byte's.
      reader.seek(start - 1)
      position += len(reader.readline()) - 1
    while position < end:
      line = reader.readline()
      if not line:
        break
      position += len(line)
      yield line.decode("utf-8", "ignore")


def _tokenized_lines(lines, tokenizer):
  """Yields each line's tokens, a list; None for a line that is blank."""
  for line in lines:
    line = line.strip()
    yield tokenizer.tokenize(line) if line else None


# A stretch of a text file, tokenised: ids [tokens], lengths [sentences] in
# tokens, breaks [blank lines] as numbers of sentences before them, and counts
# by name.
_Block = collections.namedtuple(
    "_Block", ["ids", "lengths", "breaks", "counts"])


def _tokenized_block(path, start, end, encoder, max_seq_length):
  """The `_Block` of bytes [start, end) of a file."""
  ids, lengths, breaks = array.array(encoder.typecode), [], []
  num_lines, long_lines = 0, []
  convert = encoder.tokenizer.convert_tokens_to_ids
  lines = _lines(path, start, end)
  for tokens in _tokenized_lines(lines, encoder.tokenizer):
    num_lines += 1
    if tokens is None:
      breaks.append(len(lengths))
    elif tokens:
      ids.extend(convert(tokens))
      lengths.append(len(tokens))
      if len(tokens) > 2 * max_seq_length:
        long_lines.append(num_lines)
  ids = np.asarray(ids)
  counts = {
      "lines": num_lines,
      "long_sentences": len(long_lines),
      "first_long_line": long_lines[0] if long_lines else 0,
      # Newer NumPy counts in its own type, which JSON does not know.
      "words": len(ids) - int(np.count_nonzero(encoder.is_continuation[ids])),
      "unknown_words": int(np.count_nonzero(ids == encoder.unknown)),
  }
  return _Block(ids, np.asarray(lengths, np.int64),
                np.asarray(breaks, np.int64), counts)


class _Document:
  """Sentences of one document, each a list of ids made when asked for."""

  __slots__ = ("_ids", "_starts", "_first", "_length")

  def __init__(self, ids, starts, first, length):
    self._ids, self._starts = ids, starts
    self._first, self._length = first, length

  def __len__(self):
    return self._length

  def __getitem__(self, position):
    start = self._first + position
    return self._ids[self._starts[start]:self._starts[start + 1]].tolist()


class _Corpus:
  """Tokenised documents in three flat files that are mapped into memory.

  `ids` holds the tokens, `sentences` where each sentence starts among them,
  `documents` where each document starts among the sentences; the latter two
  end with the total.
  """

  COLUMNS = ("ids", "sentences", "documents")

  def __init__(self, files, typecode):
    """Maps the columns.

    Args:
      files: the three columns as binary file objects; they may be closed and
        unlinked afterwards.
      typecode: "H" or "I", the ids' type.
    """
    columns = []
    for column, code in zip(files, (typecode, "q", "q")):
      size = column.seek(0, io.SEEK_END)
      mapped = mmap.mmap(
          column.fileno(), size, access=mmap.ACCESS_READ) if size else b""
      columns.append(memoryview(mapped).cast(code))
    self._ids, self._sentences, self._documents = columns
    self._order = range(len(self._documents) - 1)

  @classmethod
  def open(cls, folder, typecode):
    with contextlib.ExitStack() as stack:
      return cls([
          stack.enter_context(open(os.path.join(folder, name), "rb"))
          for name in cls.COLUMNS], typecode)

  def __len__(self):
    return len(self._order)

  def __getitem__(self, index):
    document = self._order[index]
    first, end = self._documents[document], self._documents[document + 1]
    return _Document(self._ids, self._sentences, first, end - first)

  @property
  def num_tokens(self):
    return len(self._ids)

  def shuffle(self, rng):
    self._order = array.array("q", self._order)
    _shuffle(self._order, rng)


class _CorpusWriter:
  """Appends blocks to the columns of a `_Corpus`, and finds what looks odd."""

  def __init__(self, files, max_seq_length):
    """Begins with nothing.

    Args:
      files: the three columns as binary file objects, in `_Corpus.COLUMNS`'
        order.
      max_seq_length: int, tokens.
    """
    self._columns = files
    self._ids, self._sentences, self._documents = files
    self._max_seq_length = max_seq_length
    self._num_tokens = self._num_sentences = self._last_start = 0
    self._num_documents = 0
    self._sentences.write(_int64([0]))
    self._documents.write(_int64([0]))
    self._path = self._path_of_open_document = None
    self._num_lines = 0
    self._counts = collections.Counter()
    self._first_long_sentence = None

  def add(self, path, block):
    """Appends the next block of `path`, or the first one of another file."""
    if path != self._path:
      is_open = self._num_sentences > self._last_start
      self._path_of_open_document = self._path if is_open else None
      self._path, self._num_lines = path, 0
    self._warn_of_merged_document(block)
    if block.counts["long_sentences"] and not self._first_long_sentence:
      self._first_long_sentence = "%s:%d" % (
          path, self._num_lines + block.counts["first_long_line"])
    self._num_lines += block.counts["lines"]
    self._counts.update(block.counts)
    self._ids.write(block.ids.tobytes())
    ends = self._num_tokens + np.cumsum(block.lengths)
    self._sentences.write(_int64(ends))
    for start in (self._num_sentences + block.breaks).tolist():
      self._start_document(start)
    self._num_tokens += len(block.ids)
    self._num_sentences += len(block.lengths)

  def _start_document(self, start):
    # Blank lines in a row, and at the very beginning, start nothing new.
    if start > self._last_start:
      self._documents.write(_int64([start]))
      self._last_start = start
      self._num_documents += 1

  def _warn_of_merged_document(self, block):
    if not self._path_of_open_document:
      return
    if len(block.lengths) and not (len(block.breaks) and not block.breaks[0]):
      _logger.warning(
          "%s does not end with a blank line, so its last document goes on "
          "with the first one of %s. If they are two documents, add a blank "
          "line at its end.", self._path_of_open_document, self._path)
    if len(block.lengths) or len(block.breaks):
      self._path_of_open_document = None

  def finish(self):
    """Completes the columns and logs what was read."""
    self._start_document(self._num_sentences)  # The end of the last one.
    for column in self._columns:
      column.flush()
    _logger.info("Read %d documents, %d sentences, %d tokens.",
                 self._num_documents, self._num_sentences, self._num_tokens)
    self._warn_of_odd_text(self._counts)

  def _warn_of_odd_text(self, counts):
    if not self._num_documents:
      _logger.warning("There is no text in the input files: no instances.")
    if self._num_documents == 1:
      _logger.warning(
          "There is only one document, so random next sentences come "
          "from it too and may well be the true ones. Put a blank line "
          "between documents.")
    if counts["long_sentences"]:
      _logger.warning(
          "%d of %d sentences are more than twice as long as "
          "`--max_seq_length=%d`, so most of them is cut; the first is %s. "
          "Put each sentence on a line of its own.",
          counts["long_sentences"], self._num_sentences, self._max_seq_length,
          self._first_long_sentence)
    if 2 * counts["unknown_words"] > counts["words"]:
      _logger.warning(
          "%d of %d words are [UNK]: the vocabulary does not fit the text. "
          "Check `--vocab_file` and `--do_lower_case`.",
          counts["unknown_words"], counts["words"])


def _int64(values):
  return np.asarray(values, np.int64).tobytes()


def _blocks(input_files):
  """Yields (path, start, end) for all stretches of all files, in order."""
  for path in input_files:
    size, _ = _size_and_time(path)
    for start in range(0, size, BLOCK_BYTES):
      yield path, start, min(start + BLOCK_BYTES, size)


# Instances as rows of numbers.


class _Rows(collections.namedtuple("_Rows", [
    "max_seq_length", "max_predictions_per_seq", "typecode"])):
  """How an instance of ids is laid out as a row of numbers, all of one size.

  First four numbers: tokens, tokens with segment id 0, masked tokens, and
  is_random_next. Then tokens, positions and labels, each padded with zeros.
  """

  @property
  def width(self):
    return 4 + self.max_seq_length + 2 * self.max_predictions_per_seq

  @property
  def num_bytes(self):
    return self.width * array.array(self.typecode).itemsize

  def pack(self, instance):
    """The row of a `TrainingInstance`, bytes.

    Raises:
      ValueError: the instance is too long.
    """
    num_masked = len(instance.masked_lm_positions)
    values = [len(instance.tokens), instance.segment_ids.count(0), num_masked,
              int(instance.is_random_next)]
    padding = [0] * (self.max_predictions_per_seq - num_masked)
    values += instance.tokens
    values += [0] * (self.max_seq_length - len(instance.tokens))
    values += instance.masked_lm_positions
    values += padding
    values += instance.masked_lm_labels
    values += padding
    if len(values) != self.width:
      raise ValueError(
          "An instance of %d tokens, %d of them masked, does not fit in "
          "`max_seq_length` %d and `max_predictions_per_seq` %d." % (
              len(instance.tokens), num_masked, self.max_seq_length,
              self.max_predictions_per_seq))
    return array.array(self.typecode, values).tobytes()

  def features(self, data):
    """The records' features of N packed rows.

    Args:
      data: list of N bytes objects.

    Returns:
      dict of name to array: integers or bool [N, length], float32 [N, length]
      for the weights; zero-padded.
    """
    rows = np.frombuffer(b"".join(data), self.typecode)
    rows = rows.reshape(len(data), self.width)  # [N, width]
    num_tokens, num_first, num_masked, is_random = np.split(
        rows[:, :4], 4, axis=1)  # each [N, 1]
    ids, positions, labels = np.split(
        rows[:, 4:], [self.max_seq_length,
                      self.max_seq_length + self.max_predictions_per_seq],
        axis=1)
    place = np.arange(self.max_seq_length)
    is_token = place < num_tokens
    is_masked = np.arange(self.max_predictions_per_seq) < num_masked
    return {
        "input_ids": ids,
        "input_mask": is_token,
        "segment_ids": is_token & (place >= num_first),
        "masked_lm_positions": positions,
        "masked_lm_ids": labels,
        "masked_lm_weights": is_masked.astype(np.float32),
        "next_sentence_labels": is_random,
    }


class _InstanceSpool:
  """Rows on disk, appended in turn and read in any order.

  The file has no name: nothing is left of it when a run is killed.
  """

  def __init__(self, layout, folder=None):
    self._layout = layout
    self._file = tempfile.TemporaryFile(dir=folder)
    self._num_rows = 0

  def __enter__(self):
    return self

  def __exit__(self, *unused_error):
    self._file.close()

  def __len__(self):
    return self._num_rows

  def append_document(self, corpus, index, settings, symbols, rng):
    """Appends one document's instances.

    Returns:
      (instances, tokens): how many were appended, and of how many tokens.
    """
    num_instances = num_tokens = 0
    for instance in _document_instances(corpus, index, settings, symbols, rng):
      self._file.write(self._layout.pack(instance))
      num_instances += 1
      num_tokens += len(instance.tokens)
    self._num_rows += num_instances
    return num_instances, num_tokens

  def shuffled(self, rng):
    """Yields all rows in random order."""
    order = array.array("q", range(self._num_rows))
    _shuffle(order, rng)
    self._file.flush()
    descriptor, num_bytes = self._file.fileno(), self._layout.num_bytes
    for number in order:
      yield os.pread(descriptor, num_bytes, number * num_bytes)


# Records.


def create_int_feature(values):
  """A `tf.train.Feature` holding int64 values."""
  return input_pipeline.int_feature(values)


def create_float_feature(values):
  """A `tf.train.Feature` holding float32 values."""
  return input_pipeline.float_feature(values)


def write_instance_to_example_files(instances, tokenizer, max_seq_length,
                                    max_predictions_per_seq, output_files):
  """Writes instances as TFRecord files, dealt out in turn.

  Args:
    instances: iterable of `TrainingInstance` with str tokens.
    tokenizer: `tokenization.FullTokenizer`.
    max_seq_length: int, length of the records' `input_ids`, `input_mask` and
      `segment_ids`.
    max_predictions_per_seq: int, length of `masked_lm_positions`,
      `masked_lm_ids` and `masked_lm_weights`.
    output_files: list of str paths. None of them appears before all are whole.

  Raises:
    ValueError: an instance is longer.
  """
  layout = _Rows(max_seq_length, max_predictions_per_seq, "I")
  to_ids = tokenizer.convert_tokens_to_ids
  rows = (
      layout.pack(TrainingInstance(
          to_ids(instance.tokens), instance.segment_ids,
          instance.masked_lm_positions, to_ids(instance.masked_lm_labels),
          instance.is_random_next))
      for instance in instances)
  with _record_writers(output_files) as writers:
    num_written = _write_records(rows, layout, writers, tokenizer)
  _logger.info("Wrote %d total instances", num_written)


def _write_records(rows, layout, writers, tokenizer,
                   num_logged=NUM_LOGGED_EXAMPLES):
  """Deals rows out to the writers and logs the first few.

  Returns:
    int, the number of rows.
  """
  num_written = 0
  rows = iter(rows)
  while True:
    batch = list(itertools.islice(rows, RECORDS_AT_A_TIME))
    if not batch:
      return num_written
    features = layout.features(batch)
    for index in range(min(num_logged - num_written, len(batch))):
      _log_example(features, index, tokenizer)
    for record in _serialize(features):
      writers[num_written % len(writers)].write(record)
      num_written += 1


def _log_example(features, index, tokenizer):
  ids = features["input_ids"][index, features["input_mask"][index]]
  _logger.info("*** Example ***")
  _logger.info("tokens: %s", _joined(tokenizer.convert_ids_to_tokens(
      ids.tolist())))
  for name, values in features.items():
    values = values[index]
    if values.dtype == bool:
      values = values.astype(int)
    _logger.info("%s: %s", name, _joined(values.tolist()))


def _serialize(features):
  """Bytes of N `tf.train.Example`s at a time.

  Like `input_pipeline.serialize_example`, ten times as fast.

  Args:
    features: dict of str to array [N, length] of bool, non-negative integers
      or float32.

  Returns:
    list of N bytes objects.
  """
  num_records = len(next(iter(features.values())))
  entries = _Cells.constant(b"", num_records)
  for name, values in sorted(features.items()):
    # Field numbers: Feature.float_list 2 and int64_list 3, their packed value
    # 1; the map's key 1 and value 2; Features.feature 1, Example.features 1.
    if values.dtype == np.float32:
      cells, field = _Cells(np.ascontiguousarray(values).view(np.uint8)), 2
    else:
      cells, field = _Cells.varints(values), 3
    feature = cells.delimited(1).delimited(field).delimited(2)
    key = _Cells.constant(name.encode("utf-8"), num_records).delimited(1)
    entries += (key + feature).delimited(1)
  return entries.delimited(1).rows()


class _Cells:
  """N byte strings side by side, as columns of a table with gaps.

  Attributes:
    blocks: list of (cells, is_used): uint8 and bool arrays [N, columns]; the
      second may be None, when all are used.
    lengths: int64 [N], how many cells of a row are used.
  """

  def __init__(self, cells, is_used=None):
    self.blocks = [(cells, is_used)]
    if is_used is None:
      self.lengths = np.full(len(cells), cells.shape[1])
    else:
      self.lengths = np.count_nonzero(is_used, axis=1)

  @classmethod
  def constant(cls, text, num_rows):
    """`text`, bytes, in each row."""
    return cls(np.tile(np.frombuffer(text, np.uint8), (num_rows, 1)))

  @classmethod
  def varints(cls, values):
    """Protocol buffers' base-128 numbers, of non-negative [N, length]."""
    largest = int(values.max()) if values.size else 0
    if largest < 128:
      return cls(values.astype(np.uint8))
    num_groups = -(-largest.bit_length() // 7)
    shifts = np.arange(0, 7 * num_groups, 7).astype(values.dtype)
    groups = values[:, :, np.newaxis] >> shifts  # [N, length, groups]
    is_used = groups != 0
    is_used[:, :, 0] = True
    cells = (groups & 127).astype(np.uint8)
    cells[:, :, :-1] |= is_used[:, :, 1:].astype(np.uint8) << 7
    num_rows = len(values)
    return cls(cells.reshape(num_rows, -1),  # [N, length * groups]
               is_used.reshape(num_rows, -1))

  def __add__(self, other):
    joined = _Cells.__new__(_Cells)
    joined.blocks = self.blocks + other.blocks
    joined.lengths = self.lengths + other.lengths
    return joined

  def delimited(self, field):
    """As a protocol buffer's field with that number: tag and length first."""
    tag = _Cells.constant(bytes([field << 3 | 2]), len(self.lengths))
    return tag + _Cells.varints(self.lengths[:, np.newaxis]) + self

  def rows(self):
    """The strings, a list of N bytes objects."""
    is_used = [np.ones(cells.shape, bool) if is_used is None else is_used
               for cells, is_used in self.blocks]
    cells = np.concatenate([cells for cells, _ in self.blocks], axis=1)
    text = cells[np.concatenate(is_used, axis=1)].tobytes()
    ends = np.cumsum(self.lengths).tolist()
    return [text[start:end] for start, end in zip([0] + ends, ends)]


@contextlib.contextmanager
def _record_writers(output_files, gzip_output=False):
  """Yields a `_RecordWriter` per file; the files appear when all are whole."""
  with contextlib.ExitStack() as stack:
    yield [_RecordWriter(stack.enter_context(_record_stream(path, gzip_output)))
           for path in output_files]


@contextlib.contextmanager
def _record_stream(path, gzip_output=False):
  """Yields a binary stream for a file that appears when it is whole."""
  with input_pipeline.atomic_path(path) as partial:
    with _open(partial, "wb") as stream:
      if not gzip_output:
        yield stream
        return
      # Without a name and a time, equal records make equal files.
      with gzip.GzipFile(filename="", mode="wb", compresslevel=6,
                         fileobj=stream, mtime=0) as compressed:
        yield compressed


class _RecordWriter:
  """Writes TFRecords to a binary stream, without TensorFlow.

  A record is its length (8 bytes), the length's checksum, the data, and the
  data's checksum.
  """

  def __init__(self, stream):
    self._stream = stream
    self._headers = {}

  def write(self, record):
    """Appends a record, bytes (at least four)."""
    length = len(record)
    header = self._headers.get(length)
    if header is None:
      header = length.to_bytes(8, "little")
      header += _masked_crc32c(header)
      self._headers[length] = header
    self._stream.write(header + record + _masked_crc32c(record))


# Bytes that a checksum is taken of at a time: at least so many, and less than
# twice as many.
_CRC_BLOCK = 1024


@functools.lru_cache(maxsize=None)
def _crc_table():
  """uint32 [distance * 256 + byte]: what a byte does to a CRC-32C.

  `distance` is the number of bytes after it. Since the checksum is linear,
  that of a message is the exclusive or of its bytes' entries.
  """
  entries = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    entries = np.where(
        entries & 1, entries >> 1 ^ np.uint32(0x82F63B78), entries >> 1)
  rows = [entries]
  for _ in range(2 * _CRC_BLOCK - 1):
    rows.append(entries[rows[-1] & 0xFF] ^ rows[-1] >> 8)
  return np.concatenate(rows)


# Index of a byte's row in the table, the last byte's last.
_CRC_ROWS = np.arange(2 * _CRC_BLOCK - 1, -1, -1, dtype=np.int64) * 256


def _masked_crc32c(data):
  """TFRecord's checksum (bytes [4]) of at least four bytes.

  It is the CRC-32C, rotated, plus a constant.
  """
  table = _crc_table()
  octets = np.frombuffer(data, np.uint8)
  crc = 0xFFFFFFFF
  start = 0
  while start < len(octets):
    rest = len(octets) - start
    end = start + (rest if rest < 2 * _CRC_BLOCK else _CRC_BLOCK)
    index = _CRC_ROWS[start - end:] + octets[start:end]
    # What went before is added to the first four bytes.
    index[:4] ^= np.frombuffer(crc.to_bytes(4, "little"), np.uint8)
    crc = int(np.bitwise_xor.reduce(table.take(index)))
    start = end
  crc ^= 0xFFFFFFFF
  masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
  return masked.to_bytes(4, "little")


# Progress.


class _Progress(tqdm.tqdm):
  """A bar: what is done, how fast, and how long the rest will take."""

  def __init__(self, iterable=None, **options):
    # In a log file every redrawing is a line more.
    interval = 0.2 if sys.stderr.isatty() else 30
    super(_Progress, self).__init__(
        iterable, mininterval=interval, maxinterval=max(10, interval),
        dynamic_ncols=True, **options)
    self._instances = self._tokens = 0

  def add(self, documents, instances, tokens):
    """Counts what was made of some documents."""
    self._instances += instances
    self._tokens += tokens
    if self.update(documents):
      elapsed = max(self.format_dict["elapsed"], 1e-3)
      self.set_postfix_str("%d instances, %s tokens/s" % (
          self._instances, self.format_sizeof(self._tokens / elapsed)))


def _bytes_progress(input_files):
  return _Progress(desc="Tokenizing", unit="B", unit_scale=True,
                   total=sum(_size_and_time(path)[0] for path in input_files))


# The default mode.


class _Job(collections.namedtuple("_Job", [
    "input_files", "output_files", "encoder", "settings", "dupe_factor",
    "random_seed", "gzip_output"])):
  """What a run is asked to do."""

  @property
  def layout(self):
    return _Rows(self.settings.max_seq_length,
                 self.settings.max_predictions_per_seq, self.encoder.typecode)


def _write_in_one_process(job):
  """The records of google-research/bert: one generator makes every draw."""
  folder = os.path.dirname(job.output_files[0]) or "."
  folder = None if "://" in folder else folder
  rng = random.Random(job.random_seed)
  with contextlib.ExitStack() as stack:
    columns = [stack.enter_context(tempfile.TemporaryFile(dir=folder))
               for _ in _Corpus.COLUMNS]
    _tokenize(job, columns)
    corpus = _Corpus(columns, job.encoder.typecode)
    corpus.shuffle(rng)
    spool = stack.enter_context(_InstanceSpool(job.layout, folder))
    with _Progress(desc="Making instances", unit="doc",
                   total=job.dupe_factor * len(corpus)) as progress:
      for _ in range(job.dupe_factor):
        for index in range(len(corpus)):
          progress.add(1, *spool.append_document(
              corpus, index, job.settings, job.encoder.symbols, rng))
    _log_output_files(job.output_files)
    rows = _Progress(spool.shuffled(rng), desc="Writing", unit="record",
                     total=len(spool))
    with _record_writers(job.output_files, job.gzip_output) as writers:
      num_written = _write_records(
          rows, job.layout, writers, job.encoder.tokenizer)
  _logger.info("Wrote %d total instances", num_written)


def _tokenize(job, columns):
  """Fills the columns of a `_Corpus` in this process."""
  max_seq_length = job.settings.max_seq_length
  writer = _CorpusWriter(columns, max_seq_length)
  with _bytes_progress(job.input_files) as progress:
    for path, start, end in _blocks(job.input_files):
      writer.add(path, _tokenized_block(
          path, start, end, job.encoder, max_seq_length))
      progress.update(end - start)
  writer.finish()


def _log_output_files(output_files):
  _logger.info("*** Writing to output files ***")
  for path in output_files:
    _logger.info("  %s", path)


# The mode with workers.
#
# 1. Blocks of text are tokenised to a file each; they are joined to a
#    `_Corpus`.
# 2. Documents are dealt to parts, to another part in each pass. The instances
#    of a part are made, shuffled and written as records.
# 3. Each output file draws its records at random from its own parts.
#
# Every piece is a file in the work folder that gets its name when it is whole
# and that does not depend on which worker made it when. The outputs move to
# their places when all are there.


def _write_with_workers(job, num_workers, folder):
  """Makes the pieces that are missing, then puts the outputs in place."""
  with _Workers(num_workers, job, folder) as workers:
    if not folder.has("documents"):
      _tokenize_with_workers(job, folder, workers)
    corpus = _Corpus.open(folder.path, job.encoder.typecode)
    num_parts = _num_parts(corpus.num_tokens, job)
    parts = [part for part in range(num_parts) if not folder.has("part", part)]
    num_documents = sum(
        len(documents) for part in parts
        for documents in _part_documents(len(corpus), part, num_parts, job))
    with _Progress(desc="Making instances", total=num_documents,
                   unit="doc") as progress:
      for result in workers.run(_make_part, parts, num_parts):
        progress.add(*result)
    _log_output_files(job.output_files)
    outputs = [number for number in range(len(job.output_files))
               if not folder.has("output", number)]
    for _ in _Progress(workers.run(_join_parts, outputs, num_parts),
                       desc="Writing", total=len(outputs), unit="file"):
      pass
  num_written = sum(_record_count(folder.file("part", part))
                    for part in range(num_parts))
  for number, path in enumerate(job.output_files):
    _put_in_place(folder.file("output", number), path)
  folder.remove()
  _logger.info("Wrote %d total instances", num_written)


def _put_in_place(source, path):
  with input_pipeline.atomic_path(path) as partial:
    if "://" in path:
      import tensorflow.compat.v1 as tf
      tf.gfile.Copy(source, partial, overwrite=True)
    else:
      shutil.move(source, partial)


class _WorkFolder:
  """The pieces of a run with workers."""

  def __init__(self, path):
    self.path = path

  def file(self, kind, number=None):
    name = kind if number is None else "%s-%06d" % (kind, number)
    return os.path.join(self.path, name)

  def has(self, kind, number=None):
    return os.path.exists(self.file(kind, number))

  def prepare(self, plan):
    """Keeps what an unfinished run left if its plan was the same.

    Args:
      plan: dict for JSON, all that the pieces depend on.

    Raises:
      ValueError: the folder holds something else.
    """
    plan = json.dumps(plan, indent=2, sort_keys=True)
    if self.has("plan.json"):
      with open(self.file("plan.json"), encoding="utf-8") as reader:
        if reader.read() == plan:
          _logger.info("Going on with the unfinished run in %s", self.path)
          return
      self.remove()
    elif os.path.exists(self.path) and (
        not os.path.isdir(self.path) or os.listdir(self.path)):
      raise ValueError(
          "`--work_dir=%s` holds other files. Name a folder that is empty or "
          "does not exist yet." % self.path)
    os.makedirs(self.path, exist_ok=True)
    with input_pipeline.atomic_path(self.file("plan.json")) as partial:
      with open(partial, "w", encoding="utf-8") as writer:
        writer.write(plan)

  def remove(self):
    shutil.rmtree(self.path)


def _plan(job, vocab_file):
  """All that the pieces in a work folder depend on."""
  tokens = "\n".join(job.encoder.tokenizer.vocab)
  return {
      "format": 1,
      "input_files": [(path,) + _size_and_time(path)
                      for path in job.input_files],
      "num_output_files": len(job.output_files),
      "gzip_output": job.gzip_output,
      "vocab_file": [vocab_file, zlib.crc32(tokens.encode("utf-8"))],
      "do_lower_case": job.encoder.tokenizer.basic_tokenizer.do_lower_case,
      "settings": job.settings._asdict(),
      "dupe_factor": job.dupe_factor,
      "random_seed": job.random_seed,
  }


# What a worker process knows, set when it starts.
_worker = None


class _Worker:
  """A worker's job and folder, and the corpus once it is there.

  Args:
    job: _Job.
    folder: _WorkFolder.
    pipe: its two ends, to read from and to write to. Nothing is ever written:
      it ends when the last process that could is gone, the parent.
  """

  def __init__(self, job, folder, pipe):
    self.job = job
    self.folder = folder
    self._pipe = pipe
    self._corpus = None

  def start(self):
    """Makes this process a worker, one that does not outlive its parent."""
    global _worker
    _worker = self
    reader, writer = self._pipe
    writer.close()

    def follow_parent():
      multiprocessing.connection.wait([reader])
      os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()

  @property
  def corpus(self):
    if self._corpus is None:
      self._corpus = _Corpus.open(
          self.folder.path, self.job.encoder.typecode)
    return self._corpus


def _in_worker(function, arguments):
  return function(_worker, *arguments)


class _Workers:
  """A pool of processes that makes pieces."""

  def __init__(self, num_workers, job, folder):
    # Forking is quick, but not safe once TensorFlow has threads.
    can_fork = ("fork" in multiprocessing.get_all_start_methods() and
                "tensorflow" not in sys.modules)
    context = multiprocessing.get_context("fork" if can_fork else "spawn")
    self._executor = concurrent.futures.ProcessPoolExecutor(
        num_workers, context,
        _Worker(job, folder, context.Pipe(duplex=False)).start)
    self._queued = 4 * num_workers
    self._pending = set()

  def __enter__(self):
    return self

  def __exit__(self, *unused_error):
    for future in self._pending:
      future.cancel()
    self._executor.shutdown(wait=True)

  def run(self, function, pieces, *arguments):
    """Yields `function(worker, piece, *arguments)` as the pieces get ready."""
    pieces = iter(pieces)
    while True:
      # There may be too many pieces to queue them all.
      for piece in itertools.islice(pieces, self._queued - len(self._pending)):
        self._pending.add(self._executor.submit(
            _in_worker, function, (piece,) + arguments))
      if not self._pending:
        return
      done, self._pending = concurrent.futures.wait(
          self._pending, return_when=concurrent.futures.FIRST_COMPLETED)
      for future in done:
        yield future.result()


def _tokenize_with_workers(job, folder, workers):
  blocks = list(_blocks(job.input_files))
  missing, bytes_done = [], 0
  for number, (path, start, end) in enumerate(blocks):
    if folder.has("block", number):
      bytes_done += end - start
    else:
      missing.append((number, path, start, end))
  with _bytes_progress(job.input_files) as progress:
    progress.update(bytes_done)
    for num_bytes in workers.run(_tokenize_to_file, missing):
      progress.update(num_bytes)
  with contextlib.ExitStack() as stack:
    # `documents` gets its name last, and says that the others are whole.
    partial = {name: stack.enter_context(
        input_pipeline.atomic_path(folder.file(name)))
               for name in reversed(_Corpus.COLUMNS)}
    columns = [stack.enter_context(open(partial[name], "wb"))
               for name in _Corpus.COLUMNS]
    writer = _CorpusWriter(columns, job.settings.max_seq_length)
    for number, (path, _, _) in enumerate(blocks):
      writer.add(path, _load_block(folder.file("block", number)))
    writer.finish()
  for number in range(len(blocks)):
    os.remove(folder.file("block", number))


def _tokenize_to_file(worker, piece):
  number, path, start, end = piece
  block = _tokenized_block(path, start, end, worker.job.encoder,
                           worker.job.settings.max_seq_length)
  with input_pipeline.atomic_path(
      worker.folder.file("block", number)) as partial:
    with open(partial, "wb") as writer:
      for values in (block.ids, block.lengths, block.breaks):
        np.save(writer, values)
      writer.write(json.dumps(block.counts).encode("utf-8"))
  return end - start


def _load_block(path):
  with open(path, "rb") as reader:
    ids, lengths, breaks = [np.load(reader) for _ in range(3)]
    return _Block(ids, lengths, breaks, json.loads(reader.read()))


def _num_parts(num_tokens, job):
  """How many parts to make; the same number for each output file."""
  num_files = len(job.output_files)
  wanted = max(MIN_PARTS, num_tokens * job.dupe_factor // TOKENS_PER_PART)
  return num_files * min(-(-wanted // num_files), MAX_PARTS_PER_FILE)


def _part_documents(num_documents, part, num_parts, job):
  """A part's document numbers, a range per pass.

  A document is in one part in each pass, and in the next one in the next.
  """
  return [range((part - pass_number) % num_parts, num_documents, num_parts)
          for pass_number in range(job.dupe_factor)]


def _make_part(worker, part, num_parts):
  """Makes, shuffles and writes the instances of one part.

  Returns:
    (documents, instances, tokens): how many.
  """
  job, corpus = worker.job, worker.corpus
  num_documents = num_tokens = 0
  with _InstanceSpool(job.layout, worker.folder.path) as spool:
    for pass_number, documents in enumerate(
        _part_documents(len(corpus), part, num_parts, job)):
      for index in documents:
        rng = random.Random("seed %d, pass %d, document %d" % (
            job.random_seed, pass_number, index))
        num_tokens += spool.append_document(
            corpus, index, job.settings, job.encoder.symbols, rng)[1]
      num_documents += len(documents)
    rng = random.Random("seed %d, part %d" % (job.random_seed, part))
    with _record_stream(worker.folder.file("part", part)) as stream:
      _write_records(
          spool.shuffled(rng), job.layout, [_RecordWriter(stream)],
          job.encoder.tokenizer, 0 if part else NUM_LOGGED_EXAMPLES)
      stream.write(_int64([len(spool)]))
    return num_documents, len(spool), num_tokens


def _record_count(part_file):
  """How many records a part holds: the number at its end."""
  with open(part_file, "rb") as reader:
    reader.seek(-8, io.SEEK_END)
    return int.from_bytes(reader.read(), "little")


def _join_parts(worker, output, num_parts):
  """Writes an output file's records, drawn at random from its parts.

  Each part is in random order already. Taking turns in a random order, each
  part as often as it has records, then makes every order equally likely.
  """
  job = worker.job
  paths = [worker.folder.file("part", part)
           for part in range(output, num_parts, len(job.output_files))]
  turns = array.array("H")
  for number, path in enumerate(paths):
    turns.extend(array.array("H", [number]) * _record_count(path))
  _shuffle(turns, random.Random(
      "seed %d, output %d" % (job.random_seed, output)))
  with contextlib.ExitStack() as stack:
    parts = [stack.enter_context(open(path, "rb")) for path in paths]
    stream = stack.enter_context(_record_stream(
        worker.folder.file("output", output), job.gzip_output))
    for turn in turns:
      header = parts[turn].read(12)
      length = int.from_bytes(header[:8], "little")
      stream.write(header + parts[turn].read(length + 4))


# The run.


def _read_job():
  """The `_Job` that the flags describe.

  Raises:
    ValueError: a flag's value, or a file it names, will not do.
  """
  settings = InstanceSettings(
      FLAGS.max_seq_length, FLAGS.short_seq_prob, FLAGS.masked_lm_prob,
      FLAGS.max_predictions_per_seq, FLAGS.do_whole_word_mask)
  _check_sequence_length(settings.max_seq_length)
  if FLAGS.num_workers < 0:
    raise ValueError("`--num_workers=%d` must be 0 or more." %
                     FLAGS.num_workers)
  output_files = FLAGS.output_file.split(",")
  for path in output_files:
    if "://" not in path:
      os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
  tokenizer = tokenization.FullTokenizer(
      vocab_file=FLAGS.vocab_file, do_lower_case=FLAGS.do_lower_case)
  return _Job(
      input_pipeline.expand_files(FLAGS.input_file, "input_file"),
      output_files, _Encoder(tokenizer, FLAGS.vocab_file), settings,
      FLAGS.dupe_factor, FLAGS.random_seed, FLAGS.gzip_output)


def _work_folder(job):
  """The `_WorkFolder` that the flags name, ready for this job."""
  path = FLAGS.work_dir or job.output_files[0] + ".work"
  if "://" in path:
    raise ValueError(
        "`--num_workers` maps intermediate files into memory, which takes a "
        "local folder, not %s. Name one with --work_dir." % path)
  folder = _WorkFolder(path)
  folder.prepare(_plan(job, FLAGS.vocab_file))
  return folder


def _show_log():
  """Logs as `tf.logging` does, which is not there to see to it."""
  _logger.setLevel(logging.INFO)
  if not _logger.hasHandlers():
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    _logger.addHandler(handler)


def main(_):
  """Makes the records that the flags describe."""
  _show_log()
  job = _read_job()
  _logger.info("*** Reading from input files ***")
  for path in job.input_files:
    _logger.info("  %s", path)
  if FLAGS.num_workers:
    _write_with_workers(job, FLAGS.num_workers, _work_folder(job))
  else:
    _write_in_one_process(job)


if __name__ == "__main__":
  _show_log()
  flags.mark_flags_as_required(["input_file", "output_file", "vocab_file"])
  common_flags.run(main)
