"""Tests of input_pipeline.py: `pytest tests/input_pipeline_test.py`."""

import itertools
import os
import pathlib
import random

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import input_pipeline

BOM = b"\xef\xbb\xbf"

pytestmark = pytest.mark.usefixtures("graph")


@pytest.fixture
def path(tmp_path):
  return str(tmp_path / "file")


def write_bytes(path, content):
  with open(path, "wb") as writer:
    writer.write(content)
  return path


def read_bytes(path):
  with open(path, "rb") as reader:
    return reader.read()


# Text and files.


@pytest.mark.parametrize("content, lines", [
    (b"", []),
    (BOM, []),
    (b"\n", [""]),
    (b"a", ["a"]),
    (b"ab", ["ab"]),
    (b"a\n", ["a"]),
    (b"a\n\nb", ["a", "", "b"]),
    (b"a\r\nb\r\n", ["a", "b"]),
    (b"a\rb\n", ["a\rb"]),
    (BOM + b"a\nb", ["a", "b"]),
    (BOM + b"\na", ["", "a"]),
    (b"a" + BOM + b"\n", ["a\ufeff"]),
    (b"\n\n\nabc", ["", "", "", "abc"]),
    (b"x\xff\xc3y\n\xe4\xbd\xa0\n", ["xy", "\u4f60"]),
    ("a\u2028b\x0bc\x85d\n".encode(), ["a\u2028b\x0bc\x85d"]),
    (b"a\0b\n", ["a\0b"]),
])
def test_text_lines_survive_every_encoding_accident(path, content, lines):
  write_bytes(path, content)
  assert list(input_pipeline.read_text_lines(path)) == lines


def test_text_lines_are_whole_where_blocks_meet(path):
  block = 1 << 20
  # A character of three bytes, a line end and a "\r\n" lie across the ends of
  # blocks, which begin at byte 3.
  content = (b"a" * (block + 1) + "\u4f60".encode() + b"\r\n" +
             b"b" * (block - 3) + b"\r\nc\n" + b"d" * (2 * block))
  write_bytes(path, content)
  lines = list(input_pipeline.read_text_lines(path))
  assert lines == content.decode().replace("\r", "").split("\n")


def test_text_lines_of_a_missing_file_or_a_folder_are_an_error(tmp_path):
  for path in (str(tmp_path / "none"), str(tmp_path)):
    with pytest.raises(ValueError, match=path):
      list(input_pipeline.read_text_lines(path))


def test_globs_expand_in_the_order_given_and_sorted_within(tmp_path):
  for name in ("b1", "b2", "a"):
    write_bytes(str(tmp_path / name), b"")
  patterns = "%s/b*, %s/a," % (tmp_path, tmp_path)
  files = input_pipeline.expand_files(patterns, "input_file")
  assert [os.path.basename(name) for name in files] == ["b1", "b2", "a"]


@pytest.mark.parametrize("patterns", ["{0}/a,{0}/none*", "{0}/none", ",", ""])
def test_a_glob_without_a_match_names_flag_and_pattern(tmp_path, patterns):
  write_bytes(str(tmp_path / "a"), b"")
  with pytest.raises(ValueError, match="--input_file") as error:
    input_pipeline.expand_files(patterns.format(tmp_path), "input_file")
  if "none" in patterns:
    assert "%s/none" % tmp_path in str(error.value)


WRITERS = {
    "text": (input_pipeline.atomic_writer, "new"),
    "records": (input_pipeline.atomic_record_writer, b"new"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, kind):
  open_writer, content = WRITERS[kind]
  path = str(tmp_path / "file")
  write_bytes(path, b"old")
  for error in (RuntimeError, KeyboardInterrupt):
    with pytest.raises(error):
      with open_writer(path) as writer:
        writer.write(content)
        raise error()
  assert read_bytes(path) == b"old"
  assert os.listdir(str(tmp_path)) == ["file"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_appears_only_when_it_is_whole(tmp_path, kind):
  open_writer, content = WRITERS[kind]
  path = str(tmp_path / "file")
  write_bytes(path, b"old")
  with open_writer(path) as writer:
    writer.write(content)
    assert read_bytes(path) == b"old"
  assert os.listdir(str(tmp_path)) == ["file"]
  assert b"new" in read_bytes(path) and b"old" not in read_bytes(path)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_to_which_nothing_is_written_is_empty(tmp_path, kind):
  path = str(tmp_path / "file")
  write_bytes(path, b"old")
  with WRITERS[kind][0](path):
    pass
  assert os.listdir(str(tmp_path)) == ["file"]
  assert read_bytes(path) == b""


def test_a_partial_file_of_a_killed_run_is_written_over(path):
  write_bytes(path + ".incomplete", b"half a line of a killed run")
  with input_pipeline.atomic_writer(path) as writer:
    writer.write("new\n")
  assert read_bytes(path) == b"new\n"
  assert not os.path.exists(path + ".incomplete")


# Tokens to fixed-length inputs.


@pytest.mark.parametrize("tokens_a, tokens_b, tokens, segment_ids", [
    (["is", "it"], ["yes"],
     ["[CLS]", "is", "it", "[SEP]", "yes", "[SEP]"], [0, 0, 0, 0, 1, 1]),
    (["a"], None, ["[CLS]", "a", "[SEP]"], [0, 0, 0]),
    (["a"], [], ["[CLS]", "a", "[SEP]"], [0, 0, 0]),
    ([], None, ["[CLS]", "[SEP]"], [0, 0]),
    ([], ["b"], ["[CLS]", "[SEP]", "b", "[SEP]"], [0, 0, 1, 1]),
])
def test_segments_are_packed_between_markers(
    tokens_a, tokens_b, tokens, segment_ids):
  before = list(tokens_a)
  packed = input_pipeline.pack_segments(tokens_a, tokens_b)
  assert packed == (tokens, segment_ids)
  assert tokens_a == before


def test_padding_fills_with_zeros_and_never_cuts():
  values = [7, 8]
  assert input_pipeline.pad_to(values, 4) == [7, 8, 0, 0]
  assert input_pipeline.pad_to(values, 2) == [7, 8]
  assert input_pipeline.pad_to(values, 2) is not values
  with pytest.raises(ValueError, match="2 values do not fit in 1"):
    input_pipeline.pad_to(values, 1)


def test_pairs_are_truncated_token_by_token_from_the_longer():
  for len_a, len_b, limit in itertools.product(range(9), range(9), range(19)):
    expected = [list(range(len_a)), list(range(len_b))]
    while sum(map(len, expected)) > limit:
      (expected[0] if len(expected[0]) > len(expected[1])
       else expected[1]).pop()
    pair = [list(range(len_a)), list(range(len_b))]
    input_pipeline.truncate_seq_pair(pair[0], pair[1], limit)
    assert pair == expected, (len_a, len_b, limit)


# Records.

INTS = [
    [0], [1, 127, 128, 16383, 16384], [-1, -2**63, 2**63 - 1, 2**31],
    list(range(300)) * 2, (3, 4), range(5), np.arange(-3, 200),
    np.array([7, 300000], np.int32), np.array([True, False]), [True, False],
    [np.int32(123457), np.int64(-123457)],
]
FLOATS = [[0.0], [0.5, -1e-40, 3e38, float("inf")], (1,),
          np.array([0.1, 2.5]), np.arange(70, dtype=np.float32)]


@pytest.mark.parametrize("ints", INTS, ids=str)
def test_int_features_equal_protobufs_bytes(ints):
  expected = tf.train.Example(features=tf.train.Features(
      feature={"x": input_pipeline.int_feature(ints)}))
  record = input_pipeline.serialize_example({"x": ints})
  assert record == expected.SerializeToString()


@pytest.mark.parametrize("floats", FLOATS, ids=str)
def test_float_features_equal_protobufs_bytes(floats):
  expected = tf.train.Example(features=tf.train.Features(
      feature={"x": input_pipeline.float_feature(floats)}))
  record = input_pipeline.serialize_example({}, {"x": floats})
  assert record == expected.SerializeToString()


def test_a_record_of_many_features_is_read_back_by_protobuf_and_tensorflow():
  long_name = "n" * 200
  record = input_pipeline.serialize_example(
      {"input_ids": [101, -5, 102], long_name: [2**40], "none": []},
      {"weights": [0.5, 1.5], "no_floats": np.array([])})
  feature = tf.train.Example.FromString(record).features.feature
  assert sorted(feature) == [
      "input_ids", long_name, "no_floats", "none", "weights"]
  assert feature["input_ids"].int64_list.value == [101, -5, 102]
  assert feature[long_name].int64_list.value == [2**40]
  assert feature["none"].WhichOneof("kind") == "int64_list"
  assert feature["no_floats"].WhichOneof("kind") == "float_list"
  parsed = tf.parse_single_example(record, {
      "input_ids": tf.FixedLenFeature([3], tf.int64),
      "none": tf.FixedLenFeature([0], tf.int64),
      "weights": tf.FixedLenFeature([2], tf.float32)})
  with tf.Session() as session:
    values = session.run(parsed)
  assert values["input_ids"].tolist() == [101, -5, 102]
  assert values["none"].tolist() == []
  assert values["weights"].tolist() == [0.5, 1.5]


def test_random_records_are_read_back_by_protobuf():
  rng = random.Random(5)
  for _ in range(100):
    ints = [rng.randrange(-2**rng.randrange(1, 63), 2**rng.randrange(1, 63))
            for _ in range(rng.randrange(200))]
    record = input_pipeline.serialize_example({"x": ints, "y": ints[:1]})
    feature = tf.train.Example.FromString(record).features.feature
    assert list(feature["x"].int64_list.value) == ints
    assert list(feature["y"].int64_list.value) == ints[:1]


# Batches.

SPEC = {"x": tf.FixedLenFeature([], tf.int64),
        "w": tf.FixedLenFeature([2], tf.float32)}


@pytest.fixture
def records(path):
  """A file of ten records, `x` = 0 to 9."""
  with input_pipeline.atomic_record_writer(path) as writer:
    for x in range(10):
      writer.write(input_pipeline.serialize_example(
          {"x": [x]}, {"w": [x, -x]}))
  return path


def batches(input_fn, batch_size, num_batches):
  """Up to `num_batches` of the input function's batches."""
  with tf.Graph().as_default():
    dataset = input_fn({"batch_size": batch_size})
    batch = tf.data.make_one_shot_iterator(dataset).get_next()
    found = []
    with tf.Session() as session:
      while len(found) < num_batches:
        try:
          found.append(session.run(batch))
        except tf.errors.OutOfRangeError:
          break
  return found


def xs(found):
  return [int(x) for batch in found for x in batch["x"]]


def input_fns(kind, records):
  """A maker of input functions over the same ten rows, from file or memory."""
  if kind == "records":
    return lambda *args, **kwargs: input_pipeline.record_input_fn(
        records, SPEC, *args, **kwargs)
  rows = {"x": list(range(10)),
          "w": np.array([[x, -x] for x in range(10)], np.float32)}
  return lambda *args, **kwargs: input_pipeline.memory_input_fn(
      rows, *args, **kwargs)


@pytest.fixture(params=["records", "constants", "generator"])
def make_input_fn(request, records, monkeypatch):
  if request.param == "generator":
    monkeypatch.setattr(input_pipeline, "MAX_GRAPH_CONSTANT_BYTES", 0)
  return input_fns(request.param, records)


def test_evaluation_reads_every_row_once_in_order(make_input_fn):
  found = batches(make_input_fn(False, False), 4, 99)
  assert [batch["w"].shape for batch in found] == [(4, 2), (4, 2), (2, 2)]
  assert xs(found) == list(range(10))
  assert found[2]["w"].tolist() == [[8, -8], [9, -9]]


def test_a_batch_that_is_not_full_can_be_dropped(make_input_fn):
  assert xs(batches(make_input_fn(False, True), 4, 99)) == list(range(8))


def test_training_shuffles_all_rows_anew_in_each_pass(make_input_fn):
  order = xs(batches(make_input_fn(True, True, seed=3), 5, 6))
  passes = [order[:10], order[10:20], order[20:]]
  assert [sorted(one) for one in passes] == [list(range(10))] * 3
  assert len({tuple(one) for one in passes + [sorted(order[:10])]}) == 4


def test_training_order_is_repeatable_with_a_seed_only(make_input_fn):
  def order(seed):
    return xs(batches(make_input_fn(True, True, seed=seed), 10, 2))
  assert order(3) == order(3)
  assert order(3) != order(4)


@pytest.mark.parametrize("kind", ["records", "constants", "generator"])
def test_integers_reach_the_model_as_int32(kind, records, monkeypatch):
  # TPUs have no int64.
  if kind == "generator":
    monkeypatch.setattr(input_pipeline, "MAX_GRAPH_CONSTANT_BYTES", 0)
  found = batches(input_fns(kind, records)(False, False), 4, 1)
  assert (found[0]["x"].dtype, found[0]["w"].dtype) == (np.int32, np.float32)


def test_static_shapes_are_known(make_input_fn):
  dataset = make_input_fn(True, True)({"batch_size": 4})
  shapes = tf.data.get_output_shapes(dataset)
  assert {name: shape.as_list() for name, shape in shapes.items()} == {
      "x": [4], "w": [4, 2]}


def test_the_shuffle_covers_more_than_the_first_hundred_rows(path):
  with input_pipeline.atomic_record_writer(path) as writer:
    for x in range(1000):
      writer.write(input_pipeline.serialize_example({"x": [x]}))
  input_fn = input_pipeline.record_input_fn(
      path, {"x": SPEC["x"]}, is_training=True, drop_remainder=True, seed=1)
  # The mean of 100 rows out of 1000 is 499.5, give or take 27.
  assert abs(np.mean(xs(batches(input_fn, 100, 1))) - 499.5) < 120


def test_one_record_is_decoded_like_a_batch_of_them(records):
  with tf.Session() as session:
    record = tf.data.TFRecordDataset(records).skip(3)
    record = tf.data.make_one_shot_iterator(record).get_next()
    example = session.run(input_pipeline.decode_record(record, SPEC))
  assert (example["x"], example["x"].dtype) == (3, np.int32)
  assert example["w"].tolist() == [3, -3]


def test_memory_without_rows_is_an_error():
  with pytest.raises(ValueError, match="no examples"):
    input_pipeline.memory_input_fn({"x": []}, True, True)


def test_a_resumed_training_sees_the_rest_of_the_order(records):

  def order(start_step, count):
    input_fn = input_pipeline.record_input_fn(
        records, SPEC, is_training=True, drop_remainder=True, seed=5,
        start_step=start_step)
    return [list(xs([batch])) for batch in batches(input_fn, 3, count)]

  assert order(4, 6) == order(0, 10)[4:]


# Texts, and folders.


class WordTokenizer:

  def tokenize(self, text):
    return text.split()


@pytest.mark.parametrize("text_a, text_b, length, tokens, second", [
    ("a b", None, 8, "[CLS] a b [SEP]", 0),
    ("a b c d", None, 5, "[CLS] a b c [SEP]", 0),
    ("a b", "", 8, "[CLS] a b [SEP]", 0),
    ("a b", "c", 8, "[CLS] a b [SEP] c [SEP]", 2),
    ("a b c d", "e f", 8, "[CLS] a b c [SEP] e f [SEP]", 3),
    ("a", "b", 3, "[CLS] [SEP]", 0)])
def test_texts_are_packed_and_cut(text_a, text_b, length, tokens, second):
  packed, segment_ids = input_pipeline.pack_texts(
      WordTokenizer(), text_a, text_b, length)
  assert " ".join(packed) == tokens
  assert segment_ids == [0] * (len(packed) - second) + [1] * second


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
  folder, partial = tmp_path / "new", tmp_path / "new.incomplete"
  partial.mkdir()  # What a killed run left.
  (partial / "old").write_text("x")
  with pytest.raises(OSError):
    with input_pipeline.atomic_folder(str(folder)) as path:
      pathlib.Path(path).mkdir()
      raise OSError
  assert not list(tmp_path.iterdir())
  with input_pipeline.atomic_folder(str(folder) + "/") as path:
    pathlib.Path(path).mkdir()
    (pathlib.Path(path) / "file").write_text("x")
    assert not folder.exists()
  assert [entry.name for entry in tmp_path.iterdir()] == ["new"]
  assert [entry.name for entry in folder.iterdir()] == ["file"]


# Batches of similar length.

LENGTHS = [3, 1, 7, 2, 9, 5, 8, 4, 6, 2]


@pytest.fixture
def long_and_short(path, monkeypatch):
  """An input function's maker over records of those lengths, in blocks of 6."""
  monkeypatch.setattr(input_pipeline, "BATCHES_SORTED_TOGETHER", 3)
  with input_pipeline.atomic_record_writer(path) as writer:
    for x, length in enumerate(LENGTHS):
      writer.write(input_pipeline.serialize_example(
          {"x": [x], "input_mask": [1] * length + [0] * (9 - length)}))
  spec = {"x": tf.FixedLenFeature([], tf.int64),
          "input_mask": tf.FixedLenFeature([9], tf.int64)}
  return lambda *args, **kwargs: input_pipeline.record_input_fn(
      path, spec, *args, group_by_length=True, **kwargs)


def test_prediction_batches_are_of_similar_length_and_numbered(long_and_short):
  found = batches(long_and_short(False, False), 2, 9)
  assert [batch["x"].tolist() for batch in found] == [
      [4, 2], [5, 0], [3, 1], [6, 8], [7, 9]]
  for batch in found:
    np.testing.assert_array_equal(batch["example_index"], batch["x"])
    assert batch["example_index"].dtype == np.int32
    assert batch["input_mask"].shape == (2, 9)


def test_a_last_batch_by_length_has_the_records_it_has_in_order(
    long_and_short):
  found = batches(long_and_short(False, False), 4, 9)
  assert [batch["x"].tolist() for batch in found] == [
      [4, 6, 2, 5], [7, 0, 3, 1], [8, 9]]
  found = batches(long_and_short(False, True), 4, 9)
  assert len(found) == 2


def test_training_batches_by_length_come_in_random_order(long_and_short):
  found = batches(long_and_short(True, True, seed=1), 2, 30)
  assert all("example_index" not in batch for batch in found)
  counts = np.bincount(xs(found), minlength=10)
  assert counts.tolist() == [6] * 10
  lengths = [batch["input_mask"].sum(1).tolist() for batch in found]
  assert all(a >= b for a, b in lengths)
  spread = np.mean([a - b for a, b in lengths])
  assert spread < 2  # In random pairs: 3.
  # Sorted within a block, its batches are not.
  blocks = [lengths[i:i + 3] for i in range(0, 30, 3)]
  assert sum(block == sorted(block, reverse=True) for block in blocks) < 6
  assert len({tuple(xs(found[i:i + 5])) for i in range(0, 30, 5)}) == 6


def test_a_resumed_training_by_length_sees_the_rest(long_and_short):
  whole = batches(long_and_short(True, True, seed=1), 2, 12)
  rest = batches(long_and_short(True, True, seed=1, start_step=5), 2, 7)
  assert xs(rest) == xs(whole[5:])


def test_results_get_back_into_the_order_of_the_records():
  order = [4, 2, 5, 0, 3, 1, 6, 8, 7, 9]
  results = ({"example_index": np.int32(i), "y": i * i} for i in order)
  restored = input_pipeline.restore_order(results)
  assert [result["y"] for result in restored] == [i * i for i in range(10)]
  plain = [{"y": 3}, {"y": 1}]
  assert list(input_pipeline.restore_order(plain)) == plain
