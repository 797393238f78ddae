"""Writes the activations of BERT's layers for the lines of a text file.

  python extract_features.py --input_file=input.txt --output_file=out.jsonl \\
    --vocab_file=$BERT_DIR/vocab.txt \\
    --bert_config_file=$BERT_DIR/bert_config.json \\
    --init_checkpoint=$BERT_DIR/bert_model.ckpt --layers=-1,-2,-3,-4

A line holds a text, or two as `first ||| second`. The input is streamed: it
may be of any size, and results come in its order.

--output_format=jsonl, the default, writes one JSON object per line. Its values
are rounded to 6 decimals, and `linex_index` is the line's number from 0:

  {"linex_index": 0, "features": [
    {"token": "[CLS]", "layers": [{"index": -1, "values": [0.5, ...]}, ...]},
    ...]}

and with --pooling, one vector for each line and layer (the pooler has none):

  {"linex_index": 0, "layers": [{"index": -1, "values": [0.5, ...]}, ...]}
  {"linex_index": 0, "values": [0.5, ...]}              # --pooling=pooler

--output_format=npz and hdf5 hold float32 (--float16: float16) arrays, both
under the same names: one for each of `layers`, in which the tokens of all lines
follow one another. Line i has the rows offsets[i] to offsets[i + 1]:

  data = numpy.load("out.npz")                          # or
  data = h5py.File("out.h5", "r")
  rows = slice(*data["offsets"][i:i + 2])
  tokens = data["tokens"][rows]       # hdf5: data["tokens"].asstr()[rows]
  vectors = data["layer_-1"][rows]    # [tokens, hidden size]

With --pooling, data["layer_-1"][i] or data["pooled_output"][i] is the vector
of line i. npz members are read whole; hdf5, the choice for results that exceed
the memory, only where sliced.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import json
import logging
import os
import queue
import shutil
import tempfile
import zipfile

import numpy as np
import tensorflow.compat.v1 as tf
import tqdm
from absl import flags

import common_flags
import estimators
import input_pipeline
import modeling
import saved_models
import tokenization

FLAGS = flags.FLAGS

common_flags.define_model_flags()
common_flags.define_tokenizer_flags(max_seq_length=128)
common_flags.define_export_flag()
common_flags.define_tpu_flags()
common_flags.DEFINE_string(
    "input_file", None,
    "Text file, a line for each text or pair of texts (`first ||| second`).")
common_flags.DEFINE_string("output_file", None, "File to write.")
common_flags.DEFINE_string(
    "layers", "-1,-2,-3,-4",
    "Layers to write, separated by commas: 0 is the first, -1 the last.")
common_flags.DEFINE_integer(
    "batch_size", 32,
    "Lines of --max_seq_length in a batch; of shorter lines it takes more, as "
    "many as have so many tokens. (On a TPU always so many lines.)")
common_flags.DEFINE_bool(
    "use_one_hot_embeddings", False,
    "Look words up by a product with one-hot vectors; may be faster on TPUs.")
common_flags.DEFINE_enum(
    "output_format", "jsonl", ["jsonl", "npz", "hdf5"],
    "jsonl: one JSON object per line. npz (NumPy) and hdf5 (needs h5py): "
    "arrays `layer_<index>`, a third of the size; the head of this script "
    "says how to read them.")
common_flags.DEFINE_enum(
    "pooling", "none", ["none", "cls", "mean", "max", "pooler"],
    "none: a vector for each token. cls, mean, max: one for each line, that of "
    "[CLS], or the mean or maximum over its tokens, [CLS] and [SEP] included. "
    "pooler: the model's pooled output, a trained layer over [CLS]; then "
    "--layers does not apply.")
common_flags.DEFINE_bool(
    "float16", False,
    "Store float16 values, half the size, in npz and hdf5. (JSON has "
    "decimals.)")
common_flags.DEFINE_enum(
    "long_text", "cut", ["cut", "window"],
    "Texts longer than --max_seq_length. cut: the rest is left out. window: "
    "they are read through windows that overlap by half or more, and each "
    "token comes once, from the window that shows it with most context ([CLS] "
    "from the first, [SEP] from the last). --pooling=mean and max go over "
    "these tokens, cls and pooler give the mean of the windows' vectors. "
    "Pairs are always cut.")

# How many converted lines are logged.
NUM_EXAMPLES_LOGGED = 5

# Lines are batched by length, and held until their order is restored, within
# a group of at most this many, with at most this many bytes of results.
GROUP_LINES = 4096
GROUP_BYTES = 64 << 20

# Numbers formatted at a time.
VALUES_PER_CHUNK = 1 << 16

# Rows of a chunk of an HDF5 dataset, the least that is read.
HDF5_CHUNK_ROWS = 64

# The model's inputs: int32 [B, T], but for the ids of rows, [B].
_FEATURE_NAMES = ("unique_ids", "input_ids", "input_mask", "input_type_ids",
                  "kept")

# What a prediction calls the output of --pooling=pooler.
POOLED_OUTPUT = "pooled_output"

_PAIR_SEPARATOR = " ||| "


# Examples.


@dataclasses.dataclass(eq=False)
class InputExample:
  """A text or pair of texts.

  Attributes:
    unique_id: int, the line's number from 0.
    text_a: str, untokenised first (or only) text.
    text_b: str or None, second text of a pair.
  """
  unique_id: int
  text_a: str
  text_b: str


@dataclasses.dataclass(eq=False)
class InputFeatures:
  """The numbers the model reads, all of one length.

  Attributes:
    unique_id: int, the example's.
    tokens: list of str with [CLS] and [SEP], not padded.
    input_ids: list of int, token ids, zero padded.
    input_mask: list of int, 1 at tokens and 0 at padding.
    input_type_ids: list of int, segment ids: 1 over the second text.
  """
  unique_id: int
  tokens: list
  input_ids: list
  input_mask: list
  input_type_ids: list


def read_examples(input_file):
  """All lines of a file as a list of InputExample."""
  return list(iterate_examples(input_file))


def iterate_examples(input_file):
  """Yields a file's lines as InputExample; blank ones are empty texts.

  For example "yes ||| it is" gives the texts "yes" and "it is". The last
  separator counts.

  Args:
    input_file: str.

  Raises:
    ValueError: the file does not exist.
  """
  for index, line in enumerate(input_pipeline.read_text_lines(input_file)):
    line = line.strip()
    text_a, separator, text_b = line.rpartition(_PAIR_SEPARATOR)
    if separator:
      yield InputExample(index, text_a, text_b)
    else:
      yield InputExample(index, line, None)


# Conversion.

_truncate_seq_pair = input_pipeline.truncate_seq_pair


def convert_examples_to_features(examples, seq_length, tokenizer):
  """Tokenises examples and pads them to `seq_length`.

  Args:
    examples: iterable of InputExample.
    seq_length: int, tokens, [CLS] and [SEP] included; the rest is cut.
    tokenizer: tokenization.FullTokenizer.

  Returns:
    list of InputFeatures.
  """
  features = []
  for index, example in enumerate(examples):
    tokens, type_ids = input_pipeline.pack_texts(
        tokenizer, example.text_a, example.text_b, seq_length)
    ids = tokenizer.convert_tokens_to_ids(tokens)
    features.append(InputFeatures(
        example.unique_id, tokens, *_padded(ids, type_ids, seq_length)))
    if index < NUM_EXAMPLES_LOGGED:
      _log_features(features[-1])
  return features


def _tokenize(example, tokenizer):
  """([token], [token]) of the two texts; the second is empty for one text."""
  tokens_b = tokenizer.tokenize(example.text_b) if example.text_b else []
  return tokenizer.tokenize(example.text_a), tokens_b


def _room(tokens_b, seq_length):
  """Tokens of text that fit beside [CLS] and one or two [SEP]."""
  return seq_length - (3 if tokens_b else 2)


def _padded(ids, type_ids, length):
  """Ids, mask and type ids, lists of int [length]."""
  return [input_pipeline.pad_to(values, length)
          for values in (ids, [1] * len(ids), type_ids)]


def _log_features(features):
  input_pipeline.log_example(
      "unique_id", features.unique_id, features.tokens,
      input_ids=features.input_ids, input_mask=features.input_mask,
      input_type_ids=features.input_type_ids)


@dataclasses.dataclass(eq=False)
class Sequence:
  """One input of the model: a whole line, or a window of a long one.

  Attributes:
    ids: list of int, token ids, not padded.
    type_ids: list of int, segment ids.
    kept: slice, the tokens whose vectors the line takes from here.
    outputs: list of float arrays, one for each output of the model: [tokens
      kept, D], or [D] if pooled. None until the model has run.
  """
  ids: list
  type_ids: list
  kept: slice
  outputs: list = None


@dataclasses.dataclass(eq=False)
class Line:
  """A line of the input.

  Attributes:
    index: int, its number from 0.
    tokens: list of str, with [CLS] and [SEP].
    sequences: list of Sequence that together hold each token.
  """
  index: int
  tokens: list
  sequences: list

  def vectors(self, pooling):
    """The results, an array [rows, D] for each output of the model.

    Args:
      pooling: str, the value of --pooling. A row is a token if it is "none",
        otherwise there is one row.
    """
    columns = list(zip(*(sequence.outputs for sequence in self.sequences)))
    if pooling == "none":
      return [parts[0] if len(parts) == 1 else np.concatenate(parts)
              for parts in columns]
    return [_merge_pooled(np.stack(parts), self.sequences, pooling)
            for parts in columns]


def _merge_pooled(parts, sequences, pooling):
  """One row [1, D] of the pooled vectors of a line's windows, [W, D]."""
  if len(parts) == 1:
    return parts
  if pooling == "max":
    return parts.max(axis=0, keepdims=True)
  if pooling == "mean":
    counts = [s.kept.stop - s.kept.start for s in sequences]
    return np.average(parts, axis=0, weights=counts)[np.newaxis].astype(
        parts.dtype)
  return parts.mean(axis=0, keepdims=True)


class LineConverter:
  """Tokenises examples one by one, and counts what did not fit.

  Args:
    tokenizer: tokenization.FullTokenizer.
    max_seq_length: int, tokens of a sequence.
    long_text: str, the value of --long_text.
    num_logged: int, examples that are logged.

  Attributes:
    counts: collections.Counter of "lines", "cut", "windowed" (lines longer
      than a sequence) and "windows" (that those were read through).
  """

  def __init__(self, tokenizer, max_seq_length, long_text="cut",
               num_logged=NUM_EXAMPLES_LOGGED):
    self._tokenizer = tokenizer
    self._max_seq_length = max_seq_length
    self._long_text = long_text
    self._num_logged = num_logged
    self.counts = collections.Counter()

  def convert(self, example):
    """An InputExample as a Line."""
    tokens_a, tokens_b = _tokenize(example, self._tokenizer)
    room = _room(tokens_b, self._max_seq_length)
    is_long = len(tokens_a) + len(tokens_b) > room
    if is_long and self._long_text == "window" and not tokens_b:
      spans = _window_spans(len(tokens_a), room)
      self.counts["windowed"] += 1
      self.counts["windows"] += len(spans)
    else:
      _truncate_seq_pair(tokens_a, tokens_b, room)
      self.counts["cut"] += is_long
      spans = None
    tokens, type_ids = input_pipeline.pack_segments(tokens_a, tokens_b)
    ids = self._tokenizer.convert_tokens_to_ids(tokens)
    if spans is None:
      sequences = [Sequence(ids, type_ids, slice(0, len(ids)))]
    else:
      sequences = [_window(ids, room, *span) for span in spans]
    if self.counts["lines"] < self._num_logged:
      self._log(example, tokens, sequences[0])
    self.counts["lines"] += 1
    return Line(example.unique_id, tokens, sequences)

  def _log(self, example, tokens, sequence):
    _log_features(InputFeatures(
        example.unique_id, tokens, *_padded(
            sequence.ids, sequence.type_ids, self._max_seq_length)))

  def report(self):
    """Warns, once, of lines that were cut."""
    counts = self.counts
    if counts["windowed"]:
      tf.logging.info(
          "%d of %d lines are longer than --max_seq_length=%d tokens and were "
          "read through %d windows.", counts["windowed"], counts["lines"],
          self._max_seq_length, counts["windows"])
    if counts["cut"]:
      what, remedy = "lines", " --long_text=window reads single texts whole."
      if self._long_text == "window":
        what, remedy = "lines (pairs)", ""
      tf.logging.warning(
          "%d of %d %s are longer than --max_seq_length=%d tokens and were "
          "cut.%s", counts["cut"], counts["lines"], what,
          self._max_seq_length, remedy)


def _window_spans(num_tokens, room):
  """Where the windows over a long text start, and what each contributes.

  The windows are spread evenly and overlap by half or more. A token comes from
  the window whose middle is nearest, where the smaller of its left and right
  context is largest; the earlier one wins a tie. For example, 7 tokens through
  windows of 4 give (0, 0, 3), (1, 3, 4), (3, 4, 7).

  Args:
    num_tokens: int, more than `room`.
    room: int, tokens of a window.

  Returns:
    list of (start, first, stop): the window starts at token `start`, and the
    tokens `first` to `stop` - 1 come from it.
  """
  stride = max(room // 2, 1)
  excess = num_tokens - room
  steps = -(-excess // stride)
  starts = [step * excess // steps for step in range(steps + 1)]
  borders = [(left + right + room + 1) // 2
             for left, right in zip(starts, starts[1:])]
  return list(zip(starts, [0] + borders, borders + [num_tokens]))


def _window(ids, room, start, first, stop):
  """The Sequence of one of `_window_spans`, out of a line's [CLS] ... [SEP]."""
  # Token t of the text is ids[t + 1], and position t - start + 1 here.
  window = ids[:1] + ids[start + 1:start + room + 1] + ids[-1:]
  is_first, is_last = first == 0, stop == len(ids) - 2
  kept = slice(0 if is_first else first - start + 1,
               len(window) if is_last else stop - start + 1)
  return Sequence(window, [0] * len(window), kept)


# Batches.


def group_lines(lines, bytes_per_token=0):
  """Yields lists of consecutive Lines whose results fit in memory.

  Reads `lines` no further than the one that no longer fits.

  Args:
    lines: iterable of Line.
    bytes_per_token: int, of results; 0 if they are pooled.
  """
  group, size = [], 0
  for line in lines:
    line_size = bytes_per_token * sum(
        len(sequence.ids) for sequence in line.sequences)
    if group and (len(group) == GROUP_LINES or
                  size + line_size > GROUP_BYTES):
      yield group
      group, size = [], 0
    group.append(line)
    size += line_size
  if group:
    yield group


def make_batches(groups, batch_size, batch_tokens=0):
  """Yields batches of sequences of similar length, the longest first.

  What does not fit in memory so shows at the start.

  Args:
    groups: iterable of lists of Line.
    batch_size: int, sequences in a batch.
    batch_tokens: int, tokens up to which a batch takes more sequences than
      that, padding included.

  Yields:
    (list of Sequence, group): the list of Line that is complete with this
    batch, or None.
  """
  for group in groups:
    sequences = [sequence for line in group for sequence in line.sequences]
    sequences.sort(key=lambda sequence: -len(sequence.ids))
    start = 0
    while start < len(sequences):
      longest = len(sequences[start].ids)
      stop = start + max(batch_size, batch_tokens // longest)
      yield sequences[start:stop], group if stop >= len(sequences) else None
      start = stop


def batch_arrays(sequences, num_rows=None, length=None):
  """A batch as the model reads it, a dict of int32 arrays [B, T].

  Besides the features of `input_fn_builder` there is `kept`, 1 at the tokens
  that pooling goes over.

  Args:
    sequences: list of Sequence.
    num_rows: int, B; None means one for each.
    length: int, T; None means that of the longest.
  """
  num_rows = num_rows or len(sequences)
  length = length or max(len(sequence.ids) for sequence in sequences)
  arrays = {name: np.zeros([num_rows, length], np.int32)
            for name in _FEATURE_NAMES}
  for row, sequence in enumerate(sequences):
    tokens = slice(0, len(sequence.ids))
    arrays["input_ids"][row, tokens] = sequence.ids
    arrays["input_mask"][row, tokens] = 1
    arrays["input_type_ids"][row, tokens] = sequence.type_ids
    arrays["kept"][row, sequence.kept] = 1
  arrays["unique_ids"] = np.arange(num_rows, dtype=np.int32)
  return arrays


def input_fn_builder(features, seq_length):
  """An Estimator `input_fn` over features in memory, for prediction.

  Args:
    features: list of InputFeatures of length `seq_length`.
    seq_length: int, T.

  Returns:
    function of `params`, whose "batch_size" it reads, to a dataset of dicts of
    int32 tensors `unique_ids` [B], `input_ids`, `input_mask` and
    `input_type_ids` [B, T].

  Raises:
    ValueError: there are no features, or one has another length.
  """
  arrays = {name: [getattr(feature, name) for feature in features]
            for name in ("input_ids", "input_mask", "input_type_ids")}
  for feature in features:
    if len(feature.input_ids) != seq_length:
      raise ValueError("Features %s have %d ids; `seq_length` is %d."
                       % (feature.unique_id, len(feature.input_ids),
                          seq_length))
  arrays["unique_ids"] = [feature.unique_id for feature in features]
  return input_pipeline.memory_input_fn(
      arrays, is_training=False, drop_remainder=False)


def _generator_input_fn(batches):
  """An `input_fn` that reads what `make_batches` yields as it goes.

  Args:
    batches: iterator; it is read by another thread, a few batches ahead.

  Returns:
    (input_fn, plan): `plan` iterates over the batches that the dataset has
    read. It raises what `batches` raised, without TensorFlow's frames.
  """
  read = queue.Queue()

  def generate():
    try:
      for batch in batches:
        arrays = batch_arrays(batch[0])
        read.put(batch)
        yield arrays
      read.put(None)
    except Exception as error:
      read.put(error)

  def plan():
    for batch in iter(read.get, None):
      if isinstance(batch, Exception):
        raise batch
      yield batch

  def input_fn(params):
    del params  # The batches are made already.
    dataset = tf.data.Dataset.from_generator(
        generate,
        {name: tf.int32 for name in _FEATURE_NAMES},
        {name: [None] if name == "unique_ids" else [None, None]
         for name in _FEATURE_NAMES})
    return input_pipeline.prefetch(dataset)

  return input_fn, plan()


def _record_input_fn(path, batches, batch_size, max_seq_length):
  """An `input_fn` that reads batches from a TFRecord file, written first.

  All batches are of full size, padding included, as a TPU needs them.
  """
  with input_pipeline.atomic_record_writer(path) as writer:
    for sequences, _ in batches:
      arrays = batch_arrays(sequences, batch_size, max_seq_length)
      for row in range(batch_size):
        writer.write(input_pipeline.serialize_example(
            {name: np.atleast_1d(values[row])
             for name, values in arrays.items()}))
  spec = {name: tf.FixedLenFeature(
      [] if name == "unique_ids" else [max_seq_length], tf.int64)
          for name in _FEATURE_NAMES}
  return input_pipeline.record_input_fn(
      path, spec, is_training=False, drop_remainder=True)


# The model.


def model_fn_builder(bert_config, init_checkpoint, layer_indexes, use_tpu,
                     use_one_hot_embeddings, real_tokens_only=False,
                     pooling="none", compute_dtype=tf.float32):
  """Makes the `model_fn` of an Estimator, for prediction only.

  Args:
    bert_config: modeling.BertConfig.
    init_checkpoint: str, the trained weights.
    layer_indexes: list of int, layers as a Python list is indexed.
    use_tpu: bool.
    use_one_hot_embeddings: bool, see `modeling.BertModel`.
    real_tokens_only: bool, likewise. Vectors at padding are then zeros.
    pooling: str, "none", "cls", "mean", "max" or "pooler". Mean and maximum go
      over the tokens where the feature `kept` is 1, without it over all.
    compute_dtype: tf.float32, tf.bfloat16 or tf.float16, see
      `modeling.BertModel`.

  Returns:
    function (features, labels, mode, params) to an estimator spec. Its
    predictions are `unique_id` [B] and, for the i-th of `layer_indexes`,
    `layer_output_<i>`: float [B, T, D], or [B, D] if pooled. Instead of
    these, "pooler" gives `pooled_output` [B, D].
  """

  def model_fn(features, labels, mode, params):
    del labels, params  # There are none; the batches are made already.
    if mode != estimators.ModeKeys.PREDICT:
      raise ValueError("Features are for prediction; there is no mode %s here."
                       % mode)
    estimators.log_features(features)
    model = modeling.BertModel(
        bert_config, is_training=False, input_ids=features["input_ids"],
        input_mask=features["input_mask"],
        token_type_ids=features["input_type_ids"],
        use_one_hot_embeddings=use_one_hot_embeddings,
        real_tokens_only=real_tokens_only, compute_dtype=compute_dtype,
        inference_kernels=not use_tpu)
    predictions = {"unique_id": features["unique_ids"]}
    if pooling == "pooler":
      predictions[POOLED_OUTPUT] = model.get_pooled_output()
    else:
      layers = model.get_all_encoder_layers()
      kept = features.get("kept", features["input_mask"])
      for i, layer_index in enumerate(layer_indexes):
        predictions["layer_output_%d" % i] = pool(
            layers[layer_index], kept, pooling)
    scaffold_fn = estimators.init_from_checkpoint(
        init_checkpoint, use_tpu, mode, outputs=list(predictions.values()))
    return estimators.estimator_spec(
        mode=mode, predictions=predictions, scaffold_fn=scaffold_fn)

  return model_fn


def pool(layer, mask, pooling):
  """Combines the vectors of a sequence's tokens.

  Args:
    layer: float [B, T, D].
    mask: int [B, T], 1 at the tokens to combine (cls: always the first).
    pooling: str, "none", "cls", "mean" or "max".

  Returns:
    float [B, D]; `layer` as it is for "none". A sequence without tokens has
    the mean 0 and the lowest float as maximum.
  """
  if pooling == "none":
    return layer
  if pooling == "cls":
    return layer[:, 0]
  weights = tf.cast(mask, layer.dtype)  # [B, T]
  if pooling == "max":
    lowest = (1.0 - weights) * layer.dtype.min
    return tf.reduce_max(layer + lowest[:, :, tf.newaxis], axis=1)
  sums = tf.matmul(weights[:, tf.newaxis], layer)  # [B, 1, D]
  counts = tf.reduce_sum(weights, axis=1, keepdims=True)  # [B, 1]
  return tf.squeeze(sums, axis=1) / tf.maximum(counts, 1.0)


# Numbers as JSON.

# The text of a number with its separator in 12 bytes: ", -12.34" and "5678".
# NUL fills up what is shorter.
_NUMBER = np.dtype([("head", "<u8"), ("tail", "<u4")])

# Heads in their table: those with two decimals come in hundredths, followed by
# their negatives; then the same for numbers whose last four decimals are zero,
# without needless zeros; then numbers below 0.0001 in millionths, followed by
# their negatives; then one that marks a number beyond the table.
_HUNDREDTHS = 100 * 100
_FIRST_SHORT = 2 * _HUNDREDTHS
_FIRST_TINY = 2 * _FIRST_SHORT
_TINY = 100
_BEYOND = _FIRST_TINY + 2 * _TINY
_BEYOND_MARK = "\1"
_SEPARATOR = ", "
# Tails: four decimals without trailing zeros, then the last of an exponent.
_FIRST_EXPONENT = 10000


@functools.lru_cache(maxsize=None)
def _number_tables():
  """(heads, tails): uint64 and uint32 arrays of text."""
  heads = ["%s%d.%02d" % (sign, hundredths // 100, hundredths % 100)
           for sign in ("", "-") for hundredths in range(_HUNDREDTHS)]
  heads += [repr(float(head)) for head in heads]
  tiny = [repr(sign * millionths / 1e6)
          for sign in (1.0, -1.0) for millionths in range(_TINY)]
  # "1.2e-05" in two parts; "0.0" in one.
  heads += [text[:-2] if "e" in text else text for text in tiny]
  heads.append(_BEYOND_MARK)
  tails = [("%04d" % tail).rstrip("0") for tail in range(_FIRST_EXPONENT)]
  tails += ["05", "06"]

  def pack(texts, dtype):
    width = np.dtype(dtype).itemsize
    return np.frombuffer(b"".join(
        text.encode().ljust(width, b"\0") for text in texts), dtype)

  return (pack([_SEPARATOR + head for head in heads], _NUMBER["head"]),
          pack(tails, _NUMBER["tail"]))


def format_vectors(vectors):
  """Numbers as `json.dumps` writes them when rounded to six decimals.

  For example [[0.5, -1e-9], [0.00001, 7]] gives [b"0.5, -0.0", b"1e-05, 7.0"].

  Numbers below 100 are looked up in two halves of their decimal digits; all of
  a row's together cost a few array operations. Rounding is exact: the product
  of a float32 and 1000000 has at most 38 significant bits, fewer than a float64
  holds.

  Args:
    vectors: float32 [R, D].

  Returns:
    list of R bytes.
  """
  vectors = np.ascontiguousarray(vectors, np.float32)
  numbers = np.empty(vectors.shape, _NUMBER)
  beyond = []
  step = max(VALUES_PER_CHUNK // max(vectors.shape[1], 1), 1)
  for start in range(0, len(vectors), step):
    rows = slice(start, start + step)
    beyond += _format_into(vectors[rows].ravel(), numbers[rows].ravel())
  # Without the separator before the first number, and then without NULs.
  separator = len(_SEPARATOR)
  rows = [row.tobytes()[separator:].translate(None, b"\0") for row in numbers]
  if beyond:
    texts = iter([json.dumps(round(number, 6)) for number in beyond])
    rows = [_replace_marks(row, texts) for row in rows]
  return rows


def _replace_marks(row, texts):
  """Puts the next of an iterator of str in each mark's place."""
  first, *rest = row.split(_BEYOND_MARK.encode())
  return first + b"".join(next(texts).encode() + part for part in rest)


def _format_into(values, numbers):
  """Fills _NUMBER [n] from float32 [n]; returns those beyond the table."""
  heads, tails = _number_tables()
  scaled = np.multiply(values, 1e6, dtype=np.float64)
  np.abs(np.rint(scaled, out=scaled), out=scaled)
  beyond = np.flatnonzero(~(scaled < 100e6))  # NaN is not below either.
  scaled[beyond] = 0
  millionths = scaled.astype(np.int32)
  head = millionths // 10000
  tail = millionths - head * 10000
  is_negative = (values.view(np.uint32) >> 31).view(np.int32)
  head += is_negative * _HUNDREDTHS
  head += (tail == 0) * np.int32(_FIRST_SHORT)
  tiny = np.flatnonzero(millionths < _TINY)
  if tiny.size:
    exact = millionths[tiny]
    head[tiny] = _FIRST_TINY + is_negative[tiny] * _TINY + exact
    tail[tiny] = np.where(exact, _FIRST_EXPONENT + (exact < 10), 0)
  head[beyond] = _BEYOND
  # Without a mode `take` would check all indices first.
  numbers["head"] = heads.take(head, mode="clip")
  numbers["tail"] = tails.take(tail, mode="clip")
  return values[beyond].tolist()


# Output files. A writer is a context manager that gives a function to call
# with consecutive lists of Line; the file appears when the block ends.


@contextlib.contextmanager
def json_writer(path, layer_indexes, pooling):
  """Writes JSON lines.

  Args:
    path: str.
    layer_indexes: list of int, as they are to be called.
    pooling: str, the value of --pooling.
  """
  with input_pipeline.atomic_writer(path, "wb") as file:

    def write(lines):
      for chunk in _json_chunks(lines, layer_indexes, pooling):
        file.write(chunk)

    yield write


def _json_chunks(lines, layer_indexes, pooling):
  """Yields the JSON text of Lines, a bounded number of vectors at a time."""
  texts, vectors, size = [], [], 0
  end = b""
  for line in lines:
    line_texts, next_end = _json_frame(line, layer_indexes, pooling)
    line_texts[0] = end + line_texts[0]
    end = next_end
    # [rows, L, D] -> [rows * L, D], in the order of the texts.
    matrix = np.stack(line.vectors(pooling), axis=1)
    matrix = matrix.reshape(-1, matrix.shape[-1])
    step = max(VALUES_PER_CHUNK // matrix.shape[1], 1)
    for start in range(0, len(matrix), step):
      texts += line_texts[start:start + step]
      vectors.append(matrix[start:start + step])
      size += vectors[-1].size
      if size >= VALUES_PER_CHUNK:
        yield _interleave(texts, vectors)
        texts, vectors, size = [], [], 0
  if texts:
    yield _interleave(texts, vectors)
  yield end


def _interleave(texts, vectors):
  """Each vector's numbers after its text."""
  numbers = format_vectors(
      vectors[0] if len(vectors) == 1 else np.concatenate(vectors))
  return b"".join(itertools.chain.from_iterable(zip(texts, numbers)))


def _json_frame(line, layer_indexes, pooling):
  """A line's JSON but for the numbers.

  Returns:
    (texts, end): list of bytes, what comes before each vector, and bytes, what
    comes after the last.
  """
  start = b'{"linex_index": %d, ' % line.index
  if pooling == "pooler":
    return [start + b'"values": ['], b"]}\n"
  layers = [b'{"index": %d, "values": [' % index for index in layer_indexes]
  layers[1:] = [b"]}, " + layer for layer in layers[1:]]
  if pooling != "none":
    layers[0] = start + b'"layers": [' + layers[0]
    return layers, b"]}]}\n"
  texts = []
  before = start + b'"features": ['
  for token in line.tokens:
    texts.append(b'%s{"token": %s, "layers": [%s' % (
        before, json.dumps(token).encode(), layers[0]))
    texts += layers[1:]
    before = b"]}]}, "
  return texts, b"]}]}]}\n"


@contextlib.contextmanager
def array_writer(path, output_format, layer_indexes, pooling, hidden_size,
                 dtype, longest_token):
  """Writes arrays `layer_<index>` or `pooled_output`, `layers`, and without
  pooling `tokens` and `offsets`.

  Args:
    path: str.
    output_format: str, "npz" or "hdf5".
    layer_indexes: list of int; one named twice is written once.
    pooling: str, the value of --pooling.
    hidden_size: int, D.
    dtype: NumPy dtype of the vectors.
    longest_token: int, characters.
  """
  names = [POOLED_OUTPUT]
  if pooling != "pooler":
    names = ["layer_%d" % index for index in layer_indexes]
  columns = {name: (np.dtype(dtype), (hidden_size,)) for name in names}
  if pooling == "none":
    columns["tokens"] = (np.dtype("U%d" % longest_token), ())
    columns["offsets"] = (np.dtype(np.int64), ())
  if pooling != "pooler":
    columns["layers"] = (np.dtype(np.int64), ())
  open_table = npz_table if output_format == "npz" else hdf5_table
  with _local_file(path) as local_path, open_table(
      local_path, columns) as append:
    if "layers" in columns:
      append("layers", np.array(list(dict.fromkeys(layer_indexes)), np.int64))
    offset = 0
    if "offsets" in columns:
      append("offsets", np.zeros([1], np.int64))

    def write(lines):
      nonlocal offset
      vectors = zip(*(line.vectors(pooling) for line in lines))
      for name, parts in dict(zip(names, vectors)).items():
        append(name, np.concatenate(parts).astype(dtype, copy=False))
      if "offsets" in columns:
        append("tokens", np.array(
            [token for line in lines for token in line.tokens],
            columns["tokens"][0]))
        ends = offset + np.cumsum([len(line.tokens) for line in lines])
        append("offsets", ends.astype(np.int64))
        offset = ends[-1]

    yield write


@contextlib.contextmanager
def _local_file(path):
  """Yields a local path to write, which becomes `path` when the block ends."""
  with input_pipeline.atomic_path(path) as partial:
    if "://" not in path:
      yield partial
      return
    with tempfile.TemporaryDirectory() as folder:
      local_path = os.path.join(folder, "features")
      yield local_path
      tf.gfile.Copy(local_path, partial, overwrite=True)


@contextlib.contextmanager
def npz_table(path, columns):
  """Makes an npz file of arrays that grow side by side.

  A zip file takes one member after the other, so until the block ends the
  arrays lie in files of their own beside it.

  Args:
    path: str, local.
    columns: dict of name to (dtype, shape of a row).

  Yields:
    function (name, array) that appends rows.
  """
  with contextlib.ExitStack() as stack:
    files, num_rows = {}, collections.Counter()
    for name in columns:
      files[name] = stack.enter_context(_scratch_file(path + "." + name))

    def append(name, rows):
      rows.tofile(files[name])
      num_rows[name] += len(rows)

    yield append

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
      for name, (dtype, row_shape) in columns.items():
        with archive.open(name + ".npy", "w", force_zip64=True) as member:
          np.lib.format.write_array_header_1_0(member, {
              "descr": np.lib.format.dtype_to_descr(dtype),
              "fortran_order": False,
              "shape": (num_rows[name],) + row_shape})
          files[name].seek(0)
          shutil.copyfileobj(files[name], member, 1 << 20)
        files[name].truncate(0)


@contextlib.contextmanager
def _scratch_file(path):
  """A file to write and read, deleted when the block ends."""
  try:
    with open(path, "w+b") as file:
      yield file
  finally:
    os.remove(path)


@contextlib.contextmanager
def hdf5_table(path, columns):
  """Like `npz_table`, for an HDF5 file, into which the rows go directly.

  Text becomes UTF-8 of fixed width.
  """
  import h5py  # Optional, and only this format needs it.

  with h5py.File(path, "w") as file:
    for name, (dtype, row_shape) in columns.items():
      if dtype.kind == "U":
        # Up to four bytes a character.
        dtype = h5py.string_dtype("utf-8", dtype.itemsize)
      chunk_rows = HDF5_CHUNK_ROWS if row_shape else 4096
      file.create_dataset(
          name, (0,) + row_shape, dtype, maxshape=(None,) + row_shape,
          chunks=(chunk_rows,) + row_shape)

    def append(name, rows):
      dataset = file[name]
      if rows.dtype.kind == "U":
        rows = np.char.encode(rows, "utf-8").astype(dataset.dtype)
      dataset.resize(len(dataset) + len(rows), axis=0)
      if len(rows):
        dataset[-len(rows):] = rows

    yield append


# The run.


def _check_flags():
  """What can be known to be wrong before anything is made.

  Returns:
    (modeling.BertConfig, list of int, the layers; none for the pooler).
  """
  tokenization.validate_case_matches_checkpoint(
      FLAGS.do_lower_case, FLAGS.init_checkpoint)
  config = modeling.BertConfig.from_json_file(FLAGS.bert_config_file)
  estimators.check_sequence_length(FLAGS.max_seq_length, config)
  estimators.check_use_tpu(FLAGS.use_tpu)
  layer_indexes = []
  if FLAGS.pooling != "pooler":
    layer_indexes = parse_layers(FLAGS.layers, config.num_hidden_layers)
  elif FLAGS.layers != FLAGS["layers"].default:
    tf.logging.warning(
        "--layers=%s does not apply: --pooling=pooler gives the model's pooled "
        "output, a single vector.", FLAGS.layers)
  if FLAGS.batch_size < 1:
    raise ValueError("--batch_size=%d must be at least 1." % FLAGS.batch_size)
  if FLAGS.float16 and FLAGS.output_format == "jsonl":
    raise ValueError(
        "--float16 is for --output_format=npz and hdf5; JSON lines hold "
        "decimals.")
  if FLAGS.output_format == "hdf5" and not importlib.util.find_spec("h5py"):
    raise ValueError("--output_format=hdf5 needs h5py: pip install h5py")
  saved_models.check_export_dir(FLAGS.export_dir)
  modeling.resolve_checkpoint_path(FLAGS.init_checkpoint)
  if not FLAGS.input_file:
    return config, layer_indexes
  if tf.gfile.IsDirectory(FLAGS.output_file):
    raise ValueError("--output_file=%s is a folder; give the file to write."
                     % FLAGS.output_file)
  if next(iterate_examples(FLAGS.input_file), None) is None:
    tf.logging.warning("--input_file=%s is empty.", FLAGS.input_file)
  return config, layer_indexes


def parse_layers(text, num_layers):
  """The layers that --layers names.

  Args:
    text: str, for example "-1,-2".
    num_layers: int, layers of the model.

  Returns:
    list of int, from -num_layers to num_layers - 1.

  Raises:
    ValueError: one is not a layer of the model.
  """
  indexes = []
  for part in text.split(","):
    try:
      index = int(part)
    except ValueError:
      index = None
    if index is None or not -num_layers <= index < num_layers:
      raise ValueError(
          "--layers=%s: `%s` is not a layer. The model has %d, 0 to %d, or "
          "counted from the last, -1 to -%d; separate several by commas."
          % (text, part, num_layers, num_layers - 1, num_layers))
    indexes.append(index)
  return indexes


def _create_tokenizer(config):
  tokenizer = tokenization.FullTokenizer(
      FLAGS.vocab_file, do_lower_case=FLAGS.do_lower_case)
  estimators.check_vocab(tokenizer.vocab, config, FLAGS.vocab_file)
  return tokenizer


def _create_estimator(config, layer_indexes, model_dir):
  model_fn = model_fn_builder(
      config, FLAGS.init_checkpoint, layer_indexes, FLAGS.use_tpu,
      FLAGS.use_one_hot_embeddings,
      real_tokens_only=common_flags.skips_padding(FLAGS),
      pooling=FLAGS.pooling,
      compute_dtype=estimators.choose_compute_dtype(
          FLAGS.mixed_precision, FLAGS.use_tpu))
  arguments = common_flags.estimator_arguments(FLAGS)
  arguments.update(output_dir=model_dir, predict_batch_size=FLAGS.batch_size)
  return estimators.create_estimator(model_fn=model_fn, **arguments)


def _open_writer(config, layer_indexes, tokenizer):
  """The writer of --output_file."""
  folder = os.path.dirname(FLAGS.output_file)
  if folder:
    tf.gfile.MakeDirs(folder)
  if FLAGS.output_format == "jsonl":
    return json_writer(FLAGS.output_file, layer_indexes, FLAGS.pooling)
  return array_writer(
      FLAGS.output_file, FLAGS.output_format, layer_indexes, FLAGS.pooling,
      config.hidden_size, np.float16 if FLAGS.float16 else np.float32,
      longest_token=max(map(len, tokenizer.vocab)))


def _plan(converter, bytes_per_token):
  """What `make_batches` makes of --input_file."""
  lines = map(converter.convert, iterate_examples(FLAGS.input_file))
  groups = group_lines(lines, bytes_per_token)
  # Short lines share a batch as long as it takes no more memory than a batch
  # of the longest would. A TPU has room for just so many.
  batch_tokens = 0 if FLAGS.use_tpu else (
      FLAGS.batch_size * FLAGS.max_seq_length)
  return make_batches(groups, FLAGS.batch_size, batch_tokens)


def _open_input(tokenizer, bytes_per_token, scratch_dir):
  """Prepares to read --input_file.

  Returns:
    (input_fn, plan, converter): the dataset's function; the iterator that
    tells, batch by batch as the dataset reads them, what `make_batches` made;
    the LineConverter that counts.
  """
  converter = LineConverter(tokenizer, FLAGS.max_seq_length, FLAGS.long_text)
  if FLAGS.use_tpu:
    # A TPU's host cannot call Python functions, so it reads from a file. To
    # plan the same again takes no memory.
    input_fn = _record_input_fn(
        os.path.join(scratch_dir, "features.tf_record"),
        _plan(converter, bytes_per_token), FLAGS.batch_size,
        FLAGS.max_seq_length)
    again = LineConverter(tokenizer, FLAGS.max_seq_length, FLAGS.long_text,
                          num_logged=0)
    return input_fn, _plan(again, bytes_per_token), converter
  input_fn, plan = _generator_input_fn(_plan(converter, bytes_per_token))
  return input_fn, plan, converter


def _predict(estimator, input_fn, plan, output_names):
  """Runs the model; yields the groups of Lines as they are completed.

  Args:
    estimator: from `estimators.create_estimator`.
    input_fn: function of `params` to a dataset of `batch_arrays`.
    plan: iterator of what `make_batches` yields, in the dataset's order.
    output_names: list of str, predictions that go into Sequence.outputs.
  """
  with _without_restore_notice(), contextlib.closing(estimator.predict(
      input_fn, yield_single_examples=False)) as results:
    for result in results:
      sequences, group = next(plan)
      outputs = [result[name] for name in output_names]
      for row, sequence in enumerate(sequences):
        # Tokens of a sequence, or its one vector.
        sequence.outputs = [
            output[row, sequence.kept] if output.ndim == 3 else output[row]
            for output in outputs]
      if group:
        yield group
    # Nothing is left, unless reading the input failed: then this raises.
    for _ in plan:
      raise RuntimeError("The model returned too few results.")


@contextlib.contextmanager
def _without_restore_notice():
  """Leaves out the estimator's notice that its folder holds no checkpoint.

  It alarms people, and the weights come from --init_checkpoint.
  """
  logger = logging.getLogger("tensorflow")

  def is_wanted(record):
    return not record.getMessage().startswith("Could not find trained model")

  logger.addFilter(is_wanted)
  try:
    yield
  finally:
    logger.removeFilter(is_wanted)


def _write_groups(groups, write, num_lines):
  """Writes groups of Lines while the model works on the next."""
  progress = tqdm.tqdm(desc="Extracting", total=num_lines, unit="line",
                       disable=None)
  with progress, concurrent.futures.ThreadPoolExecutor(1) as executor:
    pending = None
    for group in groups:
      if pending:
        pending.result()
      pending = executor.submit(write, group)
      progress.update(len(group))
    if pending:
      pending.result()


def _count_lines(path):
  """Lines of a local file, for the progress bar; None for others."""
  if "://" in path:
    return None
  count, block = 0, b"\n"
  with open(path, "rb") as reader:
    for block in iter(lambda: reader.read(1 << 20), b""):
      count += block.count(b"\n")
  return count + (not block.endswith(b"\n"))


def _extract(config, layer_indexes, tokenizer):
  """Writes the features of --input_file to --output_file."""
  output_names = ["layer_output_%d" % i for i in range(len(layer_indexes))]
  if FLAGS.pooling == "pooler":
    output_names = [POOLED_OUTPUT]
  bytes_per_token = 0
  if FLAGS.pooling == "none":
    bytes_per_token = 4 * config.hidden_size * len(layer_indexes)
  with contextlib.ExitStack() as stack:
    model_dir = stack.enter_context(tempfile.TemporaryDirectory())
    write = stack.enter_context(
        _open_writer(config, layer_indexes, tokenizer))
    input_fn, plan, converter = _open_input(
        tokenizer, bytes_per_token, model_dir)
    estimator = _create_estimator(config, layer_indexes, model_dir)
    groups = stack.enter_context(contextlib.closing(
        _predict(estimator, input_fn, plan, output_names)))
    _write_groups(groups, write, _count_lines(FLAGS.input_file))
  converter.report()
  tf.logging.info("Wrote features of %d lines to %s",
                  converter.counts["lines"], FLAGS.output_file)


def _export(config, layer_indexes):
  """Writes the model to --export_dir.

  The default signature gives a vector for each text, `embedding`: the first of
  --layers, pooled as --pooling says (the mean if it says none). "layers" gives
  the tokens' vectors, `layer_<index>`.
  """
  pooling = "mean" if FLAGS.pooling == "none" else FLAGS.pooling

  def build_signatures(inputs):
    model = modeling.BertModel(
        config, False, *[inputs[name] for name in saved_models.INPUTS],
        real_tokens_only=FLAGS.real_tokens_only)
    if pooling == "pooler":
      return {"serving_default": {"embedding": model.get_pooled_output()}}
    layers = model.get_all_encoder_layers()
    return {
        "serving_default": {"embedding": pool(
            layers[layer_indexes[0]], inputs["input_mask"], pooling)},
        "layers": {"layer_%d" % index: layers[index]
                   for index in layer_indexes}}

  saved_models.write(
      FLAGS.export_dir, build_signatures, FLAGS.init_checkpoint,
      saved_models.make_assets(
          FLAGS.vocab_file, config, kind="features", pooling=pooling,
          layers=layer_indexes, do_lower_case=FLAGS.do_lower_case,
          max_seq_length=FLAGS.max_seq_length))


def main(_):
  """Extracts what the flags ask for."""
  tf.logging.set_verbosity(tf.logging.INFO)
  config, layer_indexes = _check_flags()
  tokenizer = _create_tokenizer(config)
  if FLAGS.input_file:
    _extract(config, layer_indexes, tokenizer)
  if FLAGS.export_dir:
    _export(config, layer_indexes)


if __name__ == "__main__":
  flags.mark_flags_as_required([
      "vocab_file", "bert_config_file", "init_checkpoint"])
  flags.register_multi_flags_validator(
      ["input_file", "output_file", "export_dir"],
      lambda values: bool(values["input_file"]) == bool(values["output_file"])
      and (values["input_file"] or values["export_dir"]),
      "--input_file and --output_file must both have a value, unless there is "
      "only a model to export (--export_dir).")
  common_flags.run(main)
