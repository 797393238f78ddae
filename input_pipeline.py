"""Tokens to ids, to `tf.train.Example` records, to batches.

  tokens, segment_ids = input_pipeline.pack_segments(["hello"], ["world"])
  record = input_pipeline.serialize_example({"input_ids": [101, 7592, 102]})
  with input_pipeline.atomic_record_writer("train.tf_record") as writer:
    writer.write(record)
  input_fn = input_pipeline.record_input_fn(
      "train.tf_record", feature_spec, is_training=True, drop_remainder=True)

Nothing here knows a task's file format, what a label means, or the model.
"""

import contextlib
import glob
import os
import struct

import numpy as np


class _LazyTensorFlow:
  """TensorFlow, imported when first used.

  The import takes seconds and 400 MB, and to write text as records on a local
  disk does not need it.
  """

  def __getattr__(self, name):
    import tensorflow.compat.v1 as tensorflow
    return getattr(tensorflow, name)


tf = _LazyTensorFlow()

# A training set of up to this many records is shuffled as a whole; the buffer
# holds serialised records, about 1 kB each at 128 tokens.
FULL_SHUFFLE_BUFFER = 1 << 20

# How many batches' records are sorted by length at a time.
BATCHES_SORTED_TOGETHER = 64

# The feature that says where in the file a record of a sorted batch stands.
EXAMPLE_INDEX = "example_index"

# `memory_input_fn` puts arrays up to this size into the graph, whose hard
# limit is 2 GB; larger ones are fed by a generator.
MAX_GRAPH_CONSTANT_BYTES = 256 << 20


# Text and files.


def read_text_lines(path):
  """Yields a file's lines as str without their line ends.

  Lines end at "\\n" only (a "\\r" before it is dropped). Bytes that are not
  UTF-8 are left out and a byte order mark is skipped, so no input file can
  stop a run halfway. Reads a block at a time.

  Args:
    path: str, any path `tf.gfile` understands.

  Raises:
    ValueError: the file does not exist.
  """
  if not tf.gfile.Exists(path) or tf.gfile.IsDirectory(path):
    raise ValueError("No such file: %s" % path)
  with tf.gfile.GFile(path, "rb") as reader:
    rest = reader.read(3)
    if rest == b"\xef\xbb\xbf":
      rest = b""
    while True:
      block = reader.read(1 << 20)
      lines = (rest + block).split(b"\n")
      rest = lines.pop()
      for line in lines:
        yield _decode_line(line)
      if not block:
        break
  if rest:
    yield _decode_line(rest)


def _decode_line(line):
  if line.endswith(b"\r"):
    line = line[:-1]
  return line.decode("utf-8", "ignore")


def expand_files(patterns, flag_name):
  """Files that a comma-separated list of globs matches, in the order given.

  Args:
    patterns: str, for example "a.txt,data/part-*.txt"; every pattern's
      matches come sorted.
    flag_name: str, the flag the patterns came from, for the message.

  Raises:
    ValueError: a pattern matches nothing.
  """
  files = []
  for pattern in patterns.split(","):
    pattern = pattern.strip()
    if not pattern:
      continue
    find = tf.gfile.Glob if "://" in pattern else glob.glob
    matches = find(pattern)
    if not matches:
      raise ValueError(
          "`--%s`: no file matches `%s`. Give existing files or globs, "
          "separated by commas." % (flag_name, pattern))
    files.extend(sorted(matches))
  if not files:
    raise ValueError("`--%s` names no file: `%s`." % (flag_name, patterns))
  return files


@contextlib.contextmanager
def atomic_path(path):
  """Yields a path to write to, renamed to `path` when the block succeeds.

  The name beside it is always the same (`<path>.incomplete`), so that what a
  killed run left is overwritten by the next one. An exception inside the block
  deletes it and leaves an earlier `path` as it was.
  """
  partial = path + ".incomplete"
  try:
    yield partial
  except BaseException:
    _remove_if_there(partial)
    raise
  if "://" in path:
    tf.gfile.Rename(partial, path, overwrite=True)
  else:
    os.replace(partial, path)


def _remove_if_there(path):
  if "://" not in path:
    if os.path.exists(path):
      os.remove(path)
  elif tf.gfile.Exists(path):
    tf.gfile.Remove(path)


@contextlib.contextmanager
def atomic_folder(path):
  """Like `atomic_path`, for a folder; `path` is empty or not there yet.

  The folder yielded does not exist: the block has to make it.
  """
  path = path.rstrip("/")
  partial = path + ".incomplete"
  _delete_folder(partial)
  try:
    yield partial
  except BaseException:
    _delete_folder(partial)
    raise
  _delete_folder(path)
  tf.gfile.Rename(partial, path)


def _delete_folder(path):
  if tf.gfile.Exists(path):
    tf.gfile.DeleteRecursively(path)


@contextlib.contextmanager
def atomic_writer(path, mode="w"):
  """Opens `path` for writing; it appears, whole, only when the block ends."""
  with atomic_path(path) as partial:
    with tf.gfile.GFile(partial, mode) as writer:
      # Otherwise a file to which nothing is written would never exist.
      writer.write(b"" if "b" in mode else "")
      yield writer


@contextlib.contextmanager
def atomic_record_writer(path, options=None):
  """Like `atomic_writer`, for a TFRecord file.

  Args:
    path: str, the file to make.
    options: None, or `tf.io.TFRecordOptions` (for example GZIP).
  """
  with atomic_path(path) as partial:
    with tf.io.TFRecordWriter(partial, options) as writer:
      yield writer


# Tokens to fixed-length inputs.


def pack_segments(tokens_a, tokens_b=None):
  """One input sequence out of one or two segments.

  For example (["is", "it"], ["yes"]) gives
  ["[CLS]", "is", "it", "[SEP]", "yes", "[SEP]"] and [0, 0, 0, 0, 1, 1].

  Args:
    tokens_a: list of str, WordPiece tokens of the first segment.
    tokens_b: list of str or None. An empty list makes no second segment.

  Returns:
    (tokens, segment_ids): lists of str and of int, of one length.
  """
  tokens = ["[CLS]"] + tokens_a + ["[SEP]"]
  segment_ids = [0] * len(tokens)
  if tokens_b:
    tokens = tokens + tokens_b + ["[SEP]"]
    segment_ids += [1] * (len(tokens_b) + 1)
  return tokens, segment_ids


def pack_texts(tokenizer, text_a, text_b, max_seq_length):
  """`pack_segments` of one or two texts, cut to fit.

  Args:
    tokenizer: tokenization.FullTokenizer.
    text_a: str.
    text_b: str or None. A text without tokens makes no second segment.
    max_seq_length: int, tokens, [CLS] and [SEP] included; at least 3.

  Returns:
    (tokens, segment_ids): lists of str and of int, of one length.
  """
  tokens_a = tokenizer.tokenize(text_a)
  tokens_b = tokenizer.tokenize(text_b) if text_b else []
  # [CLS], [SEP] and, for a pair, another [SEP].
  truncate_seq_pair(tokens_a, tokens_b, max_seq_length - (3 if tokens_b else 2))
  return pack_segments(tokens_a, tokens_b)


def pad_to(values, length):
  """`values` followed by zeros up to `length`, as a new list.

  Raises:
    ValueError: there are more values than `length`.
  """
  missing = length - len(values)
  if missing < 0:
    raise ValueError("%d values do not fit in %d." % (len(values), length))
  return list(values) + [0] * missing


def truncate_seq_pair(tokens_a, tokens_b, max_length):
  """Shortens two lists in place until both together fit.

  Tokens go one by one from the end of the longer list, from `tokens_b` when
  both are equally long; the short list of a lopsided pair, whose tokens carry
  more each, so stays whole. Matches google-research/bert.

  Args:
    tokens_a: list, cut in place.
    tokens_b: list, cut in place.
    max_length: int, tokens that may stay in both together.
  """
  len_a, len_b = len(tokens_a), len(tokens_b)
  excess = len_a + len_b - max_length
  if excess <= 0:
    return
  # First the lengths are levelled; then they shrink in turn, `tokens_b` first.
  levelling = min(excess, abs(len_a - len_b))
  if len_a > len_b:
    len_a -= levelling
  else:
    len_b -= levelling
  in_turn = excess - levelling
  len_a -= in_turn // 2
  len_b -= in_turn - in_turn // 2
  del tokens_a[max(len_a, 0):]
  del tokens_b[max(len_b, 0):]


def log_example(name, identifier, tokens, **fields):
  """Logs one converted example under the heading `*** Example ***`.

  Args:
    name: str, what the identifier is called ("guid", "unique_id").
    identifier: the example's id.
    tokens: list of str.
    **fields: further lines in order; lists are written space-separated.
  """
  tf.logging.info("*** Example ***")
  tf.logging.info("%s: %s", name, identifier)
  tf.logging.info("tokens: %s", " ".join(tokens))
  for field, value in fields.items():
    if isinstance(value, (list, tuple)):
      value = " ".join(str(item) for item in value)
    tf.logging.info("%s: %s", field, value)


# Records.


def int_feature(values):
  """A `tf.train.Feature` holding int64 values, or truth values as 0 and 1."""
  # protobuf 7 takes no truth values for integers.
  values = [int(value) if isinstance(value, (bool, np.bool_)) else value
            for value in values]
  return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def float_feature(values):
  """A `tf.train.Feature` holding float32 values."""
  return tf.train.Feature(float_list=tf.train.FloatList(value=list(values)))


def _varint(value):
  """Protocol buffers' base-128 encoding of an int64."""
  # NumPy's integers would overflow. Negative: two's complement, ten bytes.
  value = int(value) & (1 << 64) - 1
  encoded = bytearray()
  while value > 0x7F:
    encoded.append(value & 0x7F | 0x80)
    value >>= 7
  encoded.append(value)
  return bytes(encoded)


class _VarintTable(dict):
  """Encodings met so far of small numbers, as ids, masks and labels are."""

  def __missing__(self, value):
    encoded = _varint(value)
    if 0 <= value < 1 << 17:
      self[value] = encoded
    return encoded


_VARINTS = _VarintTable()


def _delimited(tag, payload):
  return tag + _VARINTS[len(payload)] + payload


# Field numbers: Example.features 1, Features.feature 1 (a map: key 1, value
# 2), Feature.float_list 2 and int64_list 3, both with a packed value 1.
_FIELD_1, _FIELD_2, _FIELD_3 = b"\x0a", b"\x12", b"\x1a"


def serialize_example(ints, floats=None):
  """Bytes of a `tf.train.Example`, several times faster than through protobuf.

  `tf.train.Example.FromString` and `tf.parse_example` read them back.

  Args:
    ints: dict of str to a sequence or 1-D array of integers (int64 features).
    floats: None, or such a dict for float32 features.

  Returns:
    bytes.
  """
  entries = []
  for name, values in ints.items():
    if isinstance(values, np.ndarray):
      values = values.tolist()
    packed = b"".join(map(_VARINTS.__getitem__, values))
    feature = _delimited(_FIELD_3, _delimited(_FIELD_1, packed))
    entries.append((name, feature))
  for name, values in (floats or {}).items():
    packed = struct.pack("<%df" % len(values), *values)
    feature = _delimited(_FIELD_2, _delimited(_FIELD_1, packed))
    entries.append((name, feature))
  body = b"".join(
      _delimited(_FIELD_1,
                 _delimited(_FIELD_1, name.encode("utf-8")) +
                 _delimited(_FIELD_2, feature))
      for name, feature in sorted(entries))
  return _delimited(_FIELD_1, body)


# Batches.


def decode_record(record, name_to_features):
  """Parses one record, or a batch of them, with integers as int32.

  TPUs have no int64, and ids, masks and labels all fit.

  Args:
    record: string tensor, [] or [B].
    name_to_features: dict of name to `tf.FixedLenFeature`.

  Returns:
    dict of name to tensor, of the feature's shape, after [B] if batched.
  """
  if record.shape.ndims == 0:
    example = tf.parse_single_example(record, name_to_features)
  else:
    example = tf.parse_example(record, name_to_features)
  return {
      name: tf.cast(value, tf.int32) if value.dtype == tf.int64 else value
      for name, value in example.items()
  }


def prefetch(batches):
  """Has a dataset's next two batches made while the model works on one.

  Nothing is left to TensorFlow to tune: there is nothing to gain, and its
  tuner's thread, which sleeps for seconds, holds up the end of a run.
  """
  options = tf.data.Options()
  if hasattr(options, "autotune"):
    options.autotune.enabled = False
  else:  # Before TensorFlow 2.7.
    options.experimental_optimization.autotune = False
  return batches.prefetch(2).with_options(options)


def record_input_fn(input_file, name_to_features, is_training, drop_remainder,
                    shuffle_buffer_size=FULL_SHUFFLE_BUFFER, seed=None,
                    start_step=0, group_by_length=False):
  """An Estimator `input_fn` over a TFRecord file.

  Training repeats the records for ever, shuffled anew in each pass; evaluation
  and prediction read them once, in order.

  Args:
    input_file: str or list of str.
    name_to_features: dict of name to `tf.FixedLenFeature`.
    is_training: bool.
    drop_remainder: bool, leave out a last batch that is not full (TPUs need
      every batch of one size).
    shuffle_buffer_size: int, records held to draw the next one from; at least
      the number of records gives a full shuffle.
    seed: int or None, makes the order repeatable.
    start_step: int, training steps an earlier run has done; their batches are
      passed over, so that with a seed a resumed run sees the rest.
    group_by_length: bool, make batches of records with nearly the same sum of
      `input_mask`, which need least work. In training, these batches come in
      random order. Otherwise the longest come first, and a record's number in
      the file is the feature `EXAMPLE_INDEX`; a last batch that is not full
      holds the file's last records, as without this.

  Returns:
    function of `params`, whose "batch_size" it reads, to a `tf.data.Dataset`
    of dicts of [B, ...] tensors.
  """

  def input_fn(params):
    records = tf.data.TFRecordDataset(input_file)
    if is_training:
      records = records.shuffle(shuffle_buffer_size, seed=seed).repeat()
      if start_step and not group_by_length:
        records = records.skip(start_step * params["batch_size"])
    if group_by_length:
      return prefetch(batches_by_length(
          records, name_to_features, params["batch_size"], is_training,
          drop_remainder, seed).skip(start_step))
    # Parsing a whole batch in one op is several times faster than record by
    # record.
    batches = records.batch(params["batch_size"],
                            drop_remainder=drop_remainder)
    batches = batches.map(
        lambda batch: decode_record(batch, name_to_features),
        num_parallel_calls=tf.data.experimental.AUTOTUNE)
    return prefetch(batches)

  return input_fn


def batches_by_length(records, name_to_features, batch_size, is_training,
                       drop_remainder, seed):
  """Batches of similar length; for the arguments see `record_input_fn`.

  Args:
    records: dataset of serialised records.
    name_to_features: dict of name to `tf.FixedLenFeature`.
    batch_size: int.
    is_training: bool.
    drop_remainder: bool.
    seed: int or None.

  Returns:
    `tf.data.Dataset` of dicts of [B, ...] tensors.
  """

  def sorted_block(indices, block):
    features = decode_record(block, name_to_features)
    if not is_training:
      features[EXAMPLE_INDEX] = tf.cast(indices, tf.int32)
    num_records = tf.size(indices)
    num_full = num_records - num_records % batch_size
    lengths = tf.reduce_sum(features["input_mask"][:num_full], axis=1)
    order = tf.concat([
        tf.argsort(lengths, direction="DESCENDING", stable=True),
        tf.range(num_full, num_records)], axis=0)
    return {name: tf.gather(values, order)
            for name, values in features.items()}

  def batches_of_block(features):
    batches = tf.data.Dataset.from_tensor_slices(features).batch(
        batch_size, drop_remainder=drop_remainder)
    if is_training:
      batches = batches.shuffle(BATCHES_SORTED_TOGETHER, seed=seed)
    return batches

  blocks = records.enumerate().batch(batch_size * BATCHES_SORTED_TOGETHER)
  return blocks.map(sorted_block).flat_map(batches_of_block)


def restore_order(results):
  """Yields a prediction's results in the order of the records.

  At most as many wait for their turn as were sorted together.

  Args:
    results: iterable of dicts, one for each example, that hold
      `EXAMPLE_INDEX` if the batches were made by length.
  """
  waiting, position = {}, 0
  for result in results:
    if EXAMPLE_INDEX not in result:
      yield result
      continue
    waiting[int(result[EXAMPLE_INDEX])] = result
    while position in waiting:
      yield waiting.pop(position)
      position += 1


def _as_model_dtype(array):
  return array.astype(np.int32 if array.dtype.kind in "iub" else np.float32)


def memory_input_fn(arrays, is_training, drop_remainder,
                    shuffle_buffer_size=None, seed=None):
  """An Estimator `input_fn` over arrays held in memory.

  Args:
    arrays: dict of name to array, all with the same number of rows.
    is_training: bool, repeat for ever, shuffled anew in each pass.
    drop_remainder: bool, leave out a last batch that is not full.
    shuffle_buffer_size: int or None (all rows).
    seed: int or None, makes the order repeatable.

  Returns:
    function of `params`, whose "batch_size" it reads, to a `tf.data.Dataset`
    of dicts of [B, ...] tensors.

  Raises:
    ValueError: there is no row.
  """
  arrays = {name: _as_model_dtype(np.asarray(values))
            for name, values in arrays.items()}
  num_rows = len(next(iter(arrays.values())))
  if not num_rows:
    raise ValueError("There are no examples to read.")

  def rows():
    for index in range(num_rows):
      yield {name: values[index] for name, values in arrays.items()}

  def input_fn(params):
    size = sum(values.nbytes for values in arrays.values())
    if size <= MAX_GRAPH_CONSTANT_BYTES:
      dataset = tf.data.Dataset.from_tensor_slices(arrays)
    else:
      dataset = tf.data.Dataset.from_generator(
          rows,
          {name: values.dtype for name, values in arrays.items()},
          {name: values.shape[1:] for name, values in arrays.items()})
    if is_training:
      dataset = dataset.shuffle(
          shuffle_buffer_size or num_rows, seed=seed).repeat()
    return dataset.batch(params["batch_size"], drop_remainder=drop_remainder)

  return input_fn
