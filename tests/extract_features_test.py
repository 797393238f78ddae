"""Tests of extract_features: lines, windows, numbers as text, files, runs.

  python -m pytest tests/extract_features_test.py

The golden file is the published original's, see
make_extract_features_goldens.py.
"""

import contextlib
import itertools
import json
import logging
import os
import subprocess
import sys
import tempfile
import time

import make_extract_features_goldens as goldens
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from absl.testing import flagsaver

import estimators
import extract_features
import modeling
import tokenization

LAYERS = [-1, 0, -2]
HIDDEN_SIZE = goldens.CONFIG["hidden_size"]
# A token a word.
LONG = ("the John was King bank Japan Queen north river und cafe Smith "
        "Japanese the river was")


@pytest.fixture(scope="session")
def model_flags(tmp_path_factory):
  """Flags of the goldens' model: {name: value}."""
  folder = str(tmp_path_factory.mktemp("model"))
  return dict(flag.lstrip("-").split("=", 1)
              for flag in goldens.write_model(folder))


@pytest.fixture
def extract(model_flags, tmp_path):
  """Function (lines, **flags) that runs main; returns the output's path."""
  if not extract_features.FLAGS.is_parsed():
    extract_features.FLAGS.mark_as_parsed()

  def run(lines, **flags):
    input_file = str(tmp_path / "input.txt")
    goldens.write_lines(input_file, lines)
    settings = dict(
        model_flags, input_file=input_file, layers="-1,0,-2", batch_size=5,
        output_file=str(tmp_path / "out"), max_seq_length=14, use_tpu=False,
        do_lower_case=True, real_tokens_only=True, output_format="jsonl",
        pooling="none", float16=False, long_text="cut",
        use_one_hot_embeddings=False)
    settings.update(flags)
    with flagsaver.flagsaver(**settings):
      extract_features.main(["extract_features"])
    return settings["output_file"]

  return run


def read_json(path):
  with open(path) as reader:
    return [json.loads(line) for line in reader]


def vectors_of(line):
  """A JSON line's values, float [tokens, layers, D] (no tokens if pooled)."""
  if "features" in line:
    return np.array([[layer["values"] for layer in token["layers"]]
                     for token in line["features"]])
  return np.array([layer["values"] for layer in line["layers"]])


def tokens_of(line):
  return [token["token"] for token in line["features"]]


def tokenizer():
  return tokenization.FullTokenizer(goldens.VOCAB_FILE, do_lower_case=True)


def make_lines(texts, max_seq_length=14, **options):
  converter = extract_features.LineConverter(
      tokenizer(), max_seq_length, **options)
  return [converter.convert(extract_features.InputExample(index, text, None))
          for index, text in enumerate(texts)]


def line_with(vectors, tokens, index=0):
  """A Line that the model has run on; `vectors`: [L, rows, D] or [L, D]."""
  sequence = extract_features.Sequence(
      [0] * len(tokens), [0] * len(tokens), slice(0, len(tokens)),
      list(np.asarray(vectors, np.float32)))
  return extract_features.Line(index, tokens, [sequence])


# Examples and features.


def test_lines_are_split_at_the_last_separator_between_spaces(tmp_path):
  path = str(tmp_path / "input.txt")
  goldens.write_lines(path, [
      "one", " a ||| b ", "a ||| b ||| c", "a ||| ||| b", "", "a |||",
      "||| b", "a||| b", "\u3000caf\u00e9\r"])
  examples = extract_features.read_examples(path)
  assert [(e.unique_id, e.text_a, e.text_b) for e in examples] == [
      (0, "one", None), (1, "a", "b"), (2, "a ||| b", "c"), (3, "a |||", "b"),
      (4, "", None), (5, "a |||", None), (6, "||| b", None),
      (7, "a||| b", None), (8, "caf\u00e9", None)]


def test_features_are_padded_and_the_first_five_logged(caplog):
  examples = [extract_features.InputExample(7, "the King", "was"),
              extract_features.InputExample(8, "was was was was", "the the")]
  with caplog.at_level(logging.INFO, "tensorflow"):
    features = extract_features.convert_examples_to_features(
        examples * 3, 8, tokenizer())
  vocab = tokenizer().vocab
  assert features[0].unique_id == 7
  assert features[0].tokens == ["[CLS]", "the", "king", "[SEP]", "was", "[SEP]"]
  assert features[0].input_ids == [
      vocab[token] for token in features[0].tokens] + [0, 0]
  assert features[0].input_mask == [1, 1, 1, 1, 1, 1, 0, 0]
  assert features[0].input_type_ids == [0, 0, 0, 0, 1, 1, 0, 0]
  assert features[1].tokens == [
      "[CLS]", "was", "was", "was", "[SEP]", "the", "the", "[SEP]"]
  assert caplog.text.count("*** Example ***") == 5
  assert "input_type_ids: 0 0 0 0 1 1 0 0\n" in caplog.text


def test_importers_get_every_layer_at_every_position(
    model_flags, extract, tmp_path):
  examples = [extract_features.InputExample(i + 10, text, None)
              for i, text in enumerate(["the King", "", "John"])]
  features = extract_features.convert_examples_to_features(
      examples, 9, tokenizer())
  model_fn = extract_features.model_fn_builder(
      bert_config=modeling.BertConfig.from_dict(goldens.CONFIG),
      init_checkpoint=model_flags["init_checkpoint"], layer_indexes=[-1, 0],
      use_tpu=False, use_one_hot_embeddings=False)
  estimator = estimators.create_estimator(
      model_fn=model_fn, output_dir=str(tmp_path / "model"),
      predict_batch_size=2)
  results = list(estimator.predict(extract_features.input_fn_builder(
      features=features, seq_length=9), yield_single_examples=True))
  assert [int(result["unique_id"]) for result in results] == [10, 11, 12]
  lines = read_json(extract(["the King", "", "John"], layers="-1,0"))
  for result, line in zip(results, lines):
    assert set(result) == {"unique_id", "layer_output_0", "layer_output_1"}
    assert result["layer_output_0"].shape == (9, HIDDEN_SIZE)
    expected = vectors_of(line)
    for i in range(2):
      np.testing.assert_allclose(
          result["layer_output_%d" % i][:len(expected)], expected[:, i],
          atol=2e-5)


def test_features_of_another_length_are_named():
  features = extract_features.convert_examples_to_features(
      [extract_features.InputExample(3, "the", None)], 8, tokenizer())
  with pytest.raises(ValueError, match="Features 3 have 8 ids"):
    extract_features.input_fn_builder(features, 9)


# Windows.


@pytest.mark.parametrize("room", [1, 2, 3, 4, 7, 10])
def test_each_token_comes_from_the_window_with_most_context(room):
  for num_tokens in range(room + 1, 5 * room + 3):
    spans = extract_features._window_spans(num_tokens, room)
    assert spans[0][0] == 0 and spans[-1][0] == num_tokens - room
    assert [token for _, first, stop in spans
            for token in range(first, stop)] == list(range(num_tokens))
    starts = [start for start, _, _ in spans]
    assert all(0 < b - a <= max(room // 2, 1)
               for a, b in zip(starts, starts[1:]))
    for start, first, stop in spans:
      for token in range(first, stop):
        context = [min(token - other, other + room - 1 - token)
                   for other in starts]
        assert context[starts.index(start)] == max(context) >= 0


def test_window_spans_of_the_example():
  assert extract_features._window_spans(7, 4) == [
      (0, 0, 3), (1, 3, 4), (3, 4, 7)]


def test_windows_hold_the_line_without_gap_or_repetition():
  line, = make_lines([LONG], 8, long_text="window")
  assert line.tokens[0] == "[CLS]" and line.tokens[-1] == "[SEP]"
  assert line.tokens[1:-1] == tokenizer().tokenize(LONG)
  ids = tokenizer().convert_tokens_to_ids(line.tokens)
  kept = []
  for sequence in line.sequences:
    assert len(sequence.ids) == 8 == len(sequence.type_ids)
    assert (sequence.ids[0], sequence.ids[-1]) == (ids[0], ids[-1])
    kept += sequence.ids[sequence.kept]
  assert kept == ids
  assert len(line.sequences) == 5


def test_windows_vectors_are_those_of_their_texts(extract):
  words = LONG.split()
  spans = extract_features._window_spans(len(words), 6)
  texts = [" ".join(words[start:start + 6]) for start, _, _ in spans]
  whole, short = read_json(extract(
      [LONG, "was"], max_seq_length=8, long_text="window"))
  parts = read_json(extract(texts))
  assert tokens_of(whole)[1:-1] == [word.lower() for word in words]
  expected = np.concatenate(
      [vectors_of(parts[0])[:1]] +
      [vectors_of(part)[first - start + 1:stop - start + 1]
       for part, (start, first, stop) in zip(parts, spans)] +
      [vectors_of(parts[-1])[-1:]])
  np.testing.assert_allclose(vectors_of(whole), expected, atol=2e-5)
  assert tokens_of(short) == ["[CLS]", "was", "[SEP]"]


def test_cut_lines_are_counted_in_one_warning(extract, caplog):
  lines = ["the", LONG, LONG + " ||| the", LONG + " ||| " + LONG]
  with caplog.at_level(logging.WARNING, "tensorflow"):
    cut = read_json(extract(lines))
  assert [len(tokens_of(line)) for line in cut] == [3, 14, 14, 14]
  assert [message for message in caplog.messages if "longer" in message] == [
      "3 of 4 lines are longer than --max_seq_length=14 tokens and were cut. "
      "--long_text=window reads single texts whole."]
  caplog.clear()
  with caplog.at_level(logging.INFO, "tensorflow"):
    windowed = read_json(extract(lines, long_text="window"))
  assert [len(tokens_of(line)) for line in windowed] == [3, 18, 14, 14]
  assert list(map(tokens_of, windowed[2:])) == list(map(tokens_of, cut[2:]))
  assert ("1 of 4 lines are longer than --max_seq_length=14 tokens and were "
          "read through 2 windows." in caplog.text)
  assert "2 of 4 lines (pairs) are longer" in caplog.text


# Batches.


def test_groups_are_bounded_and_read_no_further(monkeypatch):
  monkeypatch.setattr(extract_features, "GROUP_LINES", 3)
  taken = []
  lines = (taken.append(line.index) or line
           for line in make_lines(["the"] * 8))
  groups = extract_features.group_lines(lines)
  assert [line.index for line in next(groups)] == [0, 1, 2]
  assert taken == [0, 1, 2, 3]
  assert [[line.index for line in group] for group in groups] == [
      [3, 4, 5], [6, 7]]


def test_groups_are_bounded_by_the_bytes_of_their_results(monkeypatch):
  monkeypatch.setattr(extract_features, "GROUP_BYTES", 70)
  lines = make_lines(["the", "was", "the", LONG, "the"])  # 3 and 14 tokens
  groups = list(extract_features.group_lines(lines, bytes_per_token=10))
  assert [[line.index for line in group] for group in groups] == [
      [0, 1], [2], [3], [4]]


def test_batches_have_similar_lengths_and_tell_when_a_group_is_done():
  lines = make_lines(["the " * n for n in (1, 5, 2, 6, 3)])
  batches = list(extract_features.make_batches([lines[:4], lines[4:]], 3))
  assert [[len(sequence.ids) for sequence in batch] for batch, _ in batches
          ] == [[8, 7, 4], [3], [5]]
  assert [group for _, group in batches] == [None, lines[:4], lines[4:]]


def test_short_lines_fill_up_a_batch():
  lines = make_lines(["the " * n for n in (10, 4, 4, 3, 0, 0)])
  batches = extract_features.make_batches([lines], 2, batch_tokens=24)
  assert [[len(sequence.ids) for sequence in batch] for batch, _ in batches
          ] == [[12, 6], [6, 5, 2, 2]]


def test_batches_are_padded_to_the_longest_line():
  lines = make_lines(["the was", ""])
  arrays = extract_features.batch_arrays(
      [line.sequences[0] for line in lines])
  assert arrays["input_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
  assert arrays["input_ids"][1].tolist() == [2, 3, 0, 0]
  assert arrays["unique_ids"].tolist() == [0, 1]


def test_input_is_read_only_a_little_ahead(monkeypatch):
  monkeypatch.setattr(extract_features, "GROUP_LINES", 4)
  line, = make_lines(["the"])
  taken = []
  lines = (taken.append(1) or line for _ in itertools.count())  # Without end.
  input_fn, plan = extract_features._generator_input_fn(
      extract_features.make_batches(extract_features.group_lines(lines), 2))
  with tf.Graph().as_default(), tf.Session() as session:
    batch = tf.data.make_one_shot_iterator(input_fn({})).get_next()
    for _ in range(10):
      assert session.run(batch)["input_ids"].shape == (2, 3)
      assert len(next(plan)[0]) == 2
    # Another thread reads on, up to a limit.
    before = -1
    while before < len(taken) < 200:
      before = len(taken)
      time.sleep(0.1)
  # 20 lines are used; a few batches wait, and a group is being made.
  assert 20 <= len(taken) < 50


def test_a_failure_to_read_comes_without_tensorflows_frames():
  def batches():
    yield make_lines(["the"])[0].sequences, None
    raise ValueError("line 2 is bad")

  input_fn, plan = extract_features._generator_input_fn(batches())
  with tf.Graph().as_default(), tf.Session() as session:
    batch = tf.data.make_one_shot_iterator(input_fn({})).get_next()
    session.run(batch)
    next(plan)
    with pytest.raises(tf.errors.OutOfRangeError):
      session.run(batch)
  with pytest.raises(ValueError, match="line 2 is bad"):
    next(plan)


def test_records_for_tpus_have_whole_batches(tmp_path):
  lines = make_lines(["the was", "", "John"])
  batches = list(extract_features.make_batches([lines], 2))
  input_fn = extract_features._record_input_fn(
      str(tmp_path / "records"), batches, 2, 6)
  with tf.Graph().as_default(), tf.Session() as session:
    dataset = input_fn({"batch_size": 2})
    assert {name: shape.as_list() for name, shape in
            tf.data.get_output_shapes(dataset).items()} == dict(
                {name: [2, 6] for name in ("input_ids", "input_mask",
                                           "input_type_ids", "kept")},
                unique_ids=[2])
    batch = tf.data.make_one_shot_iterator(dataset).get_next()
    for sequences, _ in batches:
      arrays = session.run(batch)
      for name, expected in extract_features.batch_arrays(
          sequences, 2, 6).items():
        assert arrays[name].tolist() == expected.tolist()
    with pytest.raises(tf.errors.OutOfRangeError):
      session.run(batch)


# Numbers as text.


def check_numbers(values):
  values = np.asarray(values, np.float32).reshape(-1)
  expected = json.dumps([round(float(value), 6) if np.isfinite(value)
                         else float(value) for value in values])
  text, = extract_features.format_vectors(values[np.newaxis])
  if text.decode() != expected[1:-1]:  # A diff of the whole is unreadable.
    pairs = zip(values.tolist(), text.decode().split(", "),
                expected[1:-1].split(", "))
    assert [pair for pair in pairs if pair[1] != pair[2]] == []


def test_numbers_are_written_as_json_does():
  random = np.random.RandomState(0)
  for scale in (1e-7, 1e-5, 1e-3, 0.1, 1.0, 10.0, 60.0, 1e4, 1e12, 1e30):
    check_numbers(random.standard_normal(30000) * scale)


def test_numbers_with_few_decimals_lose_their_zeros():
  random = np.random.RandomState(1)
  for decimals in range(7):
    check_numbers(np.round(random.uniform(-100, 100, 5000), decimals))
    check_numbers(np.round(random.uniform(-1, 1, 5000), decimals))


def test_numbers_at_the_edges_are_written_as_json_does():
  edges = np.array([0.0, 1e-6, 5e-7, 9.9e-5, 1e-4, 0.0001235, 0.01, 0.0999995,
                    1.0, 9.999999, 9.9999995, 10.0, 99.99999, 99.999995, 100.0,
                    1e9, 2147.483648, 1e15, 1e16, 1e22, 3.4e38, 1e-45, np.inf],
                   np.float32)
  near = [edges, np.nextafter(edges, np.float32(0)),
          np.nextafter(edges, np.float32(np.inf))]
  values = np.concatenate(near + [-v for v in near] + [[np.nan]])
  check_numbers(values)
  # Halves of a millionth, which go to the even neighbour.
  check_numbers(np.arange(-2001, 2001) / 128.0)
  check_numbers(np.arange(-300, 300) / np.float32(1e6))


def test_rows_stay_apart():
  rows = extract_features.format_vectors(np.array(
      [[0.5, -1e-9], [0.00001, 7.0], [1000.0, np.nan], [-3.25, 1e10]]))
  assert rows == [b"0.5, -0.0", b"1e-05, 7.0", b"1000.0, NaN",
                  b"-3.25, 10000000000.0"]
  assert extract_features.format_vectors(np.zeros([0, 3])) == []


def test_chunks_do_not_show(monkeypatch):
  random = np.random.RandomState(2)
  vectors = random.standard_normal([50, 7]) * 40
  expected = extract_features.format_vectors(vectors)
  lines = [line_with(random.standard_normal([2, n, 5]), ["x"] * n, n)
           for n in (3, 1, 20, 2)]
  whole = b"".join(extract_features._json_chunks(lines, [0, 1], "none"))
  monkeypatch.setattr(extract_features, "VALUES_PER_CHUNK", 17)
  assert extract_features.format_vectors(vectors) == expected
  chunks = list(extract_features._json_chunks(lines, [0, 1], "none"))
  assert len(chunks) > 10 and b"".join(chunks) == whole


# Files.


def test_json_of_a_line_is_as_the_original_writes_it(tmp_path):
  path = str(tmp_path / "out.jsonl")
  line = line_with([[[0.5, -1.0], [1e-6, 0.0]], [[2.0, 3.0], [4.0, -0.0]]],
                   ["[CLS]", '\u5317"'], 3)
  with extract_features.json_writer(path, [-1, 11], "none") as write:
    write([line])
    write([line])
  expected = (
      '{"linex_index": 3, "features": ['
      '{"token": "[CLS]", "layers": [{"index": -1, "values": [0.5, -1.0]}, '
      '{"index": 11, "values": [2.0, 3.0]}]}, '
      '{"token": "\\u5317\\"", "layers": [{"index": -1, "values": [1e-06, 0.0]'
      '}, {"index": 11, "values": [4.0, -0.0]}]}]}\n')
  with open(path) as reader:
    assert reader.read() == 2 * expected


def test_json_of_pooled_lines(tmp_path):
  path = str(tmp_path / "out.jsonl")
  with extract_features.json_writer(path, [-1, 0], "mean") as write:
    write([line_with([[0.5, 1.0], [2.0, 3.0]], ["x"]),
           line_with([[1.5, 1.0], [2.0, 3.0]], ["x"], 1)])
  with open(path) as reader:
    assert reader.read() == (
        '{"linex_index": 0, "layers": [{"index": -1, "values": [0.5, 1.0]}, '
        '{"index": 0, "values": [2.0, 3.0]}]}\n'
        '{"linex_index": 1, "layers": [{"index": -1, "values": [1.5, 1.0]}, '
        '{"index": 0, "values": [2.0, 3.0]}]}\n')
  with extract_features.json_writer(path, [-1], "pooler") as write:
    write([line_with([[0.5, 1.0]], ["x"], 9)])
  with open(path) as reader:
    assert reader.read() == '{"linex_index": 9, "values": [0.5, 1.0]}\n'


@contextlib.contextmanager
def open_arrays(path, output_format):
  """The file as an object with arrays by name, and a reader of its tokens."""
  if output_format == "npz":
    with np.load(path) as data:
      yield data, lambda rows: data["tokens"][rows].tolist()
  else:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "r") as data:
      # bytes; str before h5py 3.
      yield data, lambda rows: [
          token.decode() if isinstance(token, bytes) else token
          for token in data["tokens"][rows].tolist()]


@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.parametrize("output_format", ["npz", "hdf5"])
def test_arrays_hold_what_json_does(
    extract, monkeypatch, output_format, float16):
  if output_format == "hdf5":
    pytest.importorskip("h5py")
  lines = read_json(extract(goldens.LINES))
  monkeypatch.setattr(extract_features, "GROUP_LINES", 6)
  path = extract(goldens.LINES, output_format=output_format, float16=float16)
  with open_arrays(path, output_format) as (data, read_tokens):
    assert data["layers"][:].tolist() == LAYERS
    assert len(data["offsets"]) == len(lines) + 1
    for i, line in enumerate(lines):
      rows = slice(*data["offsets"][i:i + 2])
      assert read_tokens(rows) == tokens_of(line)
      for j, layer in enumerate(LAYERS):
        vectors = data["layer_%d" % layer][rows]
        assert vectors.dtype == (np.float16 if float16 else np.float32)
        np.testing.assert_allclose(
            vectors, vectors_of(line)[:, j], rtol=1e-3 if float16 else 0,
            atol=1e-4 if float16 else 3e-6)
    assert len(data["layer_0"]) == data["offsets"][-1]


@pytest.mark.parametrize("output_format", ["npz", "hdf5"])
def test_pooled_arrays_have_a_row_for_each_line(extract, output_format):
  if output_format == "hdf5":
    pytest.importorskip("h5py")
  lines = read_json(extract(goldens.LINES, pooling="mean"))
  path = extract(goldens.LINES, pooling="mean", output_format=output_format)
  with open_arrays(path, output_format) as (data, _):
    assert set(data) == {"layer_-1", "layer_0", "layer_-2", "layers"}
    for j, layer in enumerate(LAYERS):
      np.testing.assert_allclose(
          data["layer_%d" % layer][:],
          [vectors_of(line)[j] for line in lines], atol=3e-6)
  path = extract(goldens.LINES, pooling="pooler", output_format=output_format)
  with open_arrays(path, output_format) as (data, _):
    assert set(data) == {"pooled_output"}
    assert data["pooled_output"].shape == (len(lines), HIDDEN_SIZE)


def test_a_layer_named_twice_is_one_array(extract):
  path = extract(["the"], layers="-1,-1,2", output_format="npz")
  with np.load(path) as data:
    assert data["layers"].tolist() == [-1, 2]
    assert data["layer_-1"].tolist() == data["layer_2"].tolist()


@pytest.mark.parametrize("output_format", ["jsonl", "npz", "hdf5"])
@pytest.mark.usefixtures("tensorflow_2")  # For ram://.
def test_files_may_lie_on_any_file_system(extract, tmp_path, output_format):
  if output_format == "hdf5":
    pytest.importorskip("h5py")
  lines = ["the King", "was"]
  local = extract(lines, output_format=output_format)
  goldens.write_lines(str(tmp_path / "copied.txt"), lines)
  folder = "ram://features_" + output_format
  tf.gfile.MakeDirs(folder)
  tf.gfile.Copy(str(tmp_path / "copied.txt"), folder + "/input.txt")
  remote = extract(lines, output_format=output_format,
                   input_file=folder + "/input.txt",
                   output_file=folder + "/new/out")
  copied = str(tmp_path / "copied")
  tf.gfile.Copy(remote, copied)
  assert tf.gfile.ListDirectory(folder + "/new") == ["out"]
  tf.gfile.DeleteRecursively(folder)
  if output_format == "jsonl":
    assert read_json(copied) == read_json(local)
    return
  with open_arrays(copied, output_format) as (data, _):
    with open_arrays(local, output_format) as (local_data, _):
      assert data["layer_-1"][:].tolist() == local_data["layer_-1"][:].tolist()


@pytest.mark.parametrize("output_format", ["jsonl", "npz", "hdf5"])
def test_an_empty_input_makes_an_empty_file(extract, output_format, caplog):
  if output_format == "hdf5":
    pytest.importorskip("h5py")
  path = extract([], output_format=output_format)
  assert "is empty" in caplog.text
  if output_format == "jsonl":
    assert os.path.getsize(path) == 0
    return
  with open_arrays(path, output_format) as (data, _):
    assert data["offsets"][:].tolist() == [0]
    assert data["layer_-1"].shape == (0, HIDDEN_SIZE)


@pytest.mark.parametrize("output_format", ["jsonl", "npz", "hdf5"])
def test_a_failure_leaves_nothing_behind(
    extract, tmp_path, monkeypatch, output_format):
  if output_format == "hdf5":
    pytest.importorskip("h5py")
  monkeypatch.setattr(extract_features, "GROUP_LINES", 2)
  convert = extract_features.LineConverter.convert

  def fail_late(self, example):
    if example.unique_id == 5:
      raise ValueError("a bad line")
    return convert(self, example)

  monkeypatch.setattr(extract_features.LineConverter, "convert", fail_late)
  (tmp_path / "out").write_text("earlier")
  with pytest.raises(ValueError, match="a bad line"):
    extract(["the"] * 9, output_format=output_format)
  assert sorted(path.name for path in tmp_path.iterdir()) == [
      "input.txt", "out"]
  assert (tmp_path / "out").read_text() == "earlier"


def test_a_full_disk_ends_the_run(extract, tmp_path, monkeypatch):
  @contextlib.contextmanager
  def failing_writer(*arguments):
    del arguments  # Part of the interface.

    def write(lines):
      raise OSError("No space left")

    yield write

  monkeypatch.setattr(extract_features, "json_writer", failing_writer)
  with pytest.raises(OSError, match="No space left"):
    extract(["the"] * 9)


# Pooling.


def test_pooling_combines_the_tokens_vectors(extract):
  texts = goldens.LINES + [LONG]
  options = {"long_text": "window", "max_seq_length": 12}
  lines = read_json(extract(texts, **options))
  means = read_json(extract(texts, pooling="mean", **options))
  highest = read_json(extract(texts, pooling="max", **options))
  for i, line in enumerate(lines):
    assert means[i]["linex_index"] == highest[i]["linex_index"] == i
    vectors = vectors_of(line)
    np.testing.assert_allclose(
        vectors_of(means[i]), vectors.mean(axis=0), atol=2e-5)
    np.testing.assert_allclose(
        vectors_of(highest[i]), vectors.max(axis=0), atol=2e-5)


def test_cls_pooling_is_the_mean_of_the_windows_first_vectors(extract):
  words = LONG.split()
  spans = extract_features._window_spans(len(words), 10)
  texts = [" ".join(words[start:start + 10]) for start, _, _ in spans]
  parts = read_json(extract(texts, max_seq_length=12))
  pooled = read_json(extract(
      texts + [LONG], max_seq_length=12, long_text="window", pooling="cls"))
  firsts = np.array([vectors_of(part)[0] for part in parts])
  for part, line in zip(firsts, pooled):
    np.testing.assert_allclose(vectors_of(line), part, atol=2e-6)
  np.testing.assert_allclose(
      vectors_of(pooled[-1]), firsts.mean(axis=0), atol=2e-5)


def test_pooler_is_the_models_pooled_output(extract, model_flags, caplog):
  lines = read_json(extract(goldens.LINES, layers="-1"))
  pooled = read_json(extract(goldens.LINES, layers="1,9", pooling="pooler"))
  assert "--layers=1,9 does not apply" in caplog.text
  reader = tf.train.load_checkpoint(model_flags["init_checkpoint"])
  kernel, bias = (reader.get_tensor("bert/pooler/dense/" + name)
                  for name in ("kernel", "bias"))
  for line, result in zip(lines, pooled):
    assert set(result) == {"linex_index", "values"}
    np.testing.assert_allclose(
        result["values"], np.tanh(vectors_of(line)[0, 0] @ kernel + bias),
        atol=2e-5)


@pytest.mark.parametrize("pooling, expected", [
    ("cls", [[1.0, -2.0], [7.0, 7.0], [9.0, 9.0]]),
    ("mean", [[2.0, -4.0], [7.0, 7.0], [0.0, 0.0]]),
    ("max", [[3.0, -2.0], [7.0, 7.0]])])
def test_pooling_passes_over_what_the_mask_hides(pooling, expected):
  layer = [[[1.0, -2.0], [3.0, -6.0]], [[7.0, 7.0], [100.0, 100.0]],
           [[9.0, 9.0], [9.0, 9.0]]]
  with tf.Graph().as_default(), tf.Session() as session:
    pooled = session.run(extract_features.pool(
        tf.constant(layer), tf.constant([[1, 1], [1, 0], [0, 0]]), pooling))
  assert pooled[:len(expected)].tolist() == expected
  assert np.isfinite(pooled).all()


# The run.


@pytest.mark.parametrize("real_tokens_only", [True, False])
@pytest.mark.parametrize("one_hot", [True, False])
def test_output_is_the_originals(extract, real_tokens_only, one_hot):
  # The model is so narrow that its LayerNorm magnifies rounding. TensorFlow 1
  # rounds products of other shapes otherwise on some processors: one of 336
  # values was 2.2e-5 off there, on others none 6e-6.
  is_rounded_otherwise = real_tokens_only and tf.__version__.startswith("1.")
  tolerance = 5e-5 if is_rounded_otherwise else 2e-5
  path = extract(goldens.LINES, real_tokens_only=real_tokens_only,
                 use_one_hot_embeddings=one_hot)
  with open(path) as ours, open(goldens.GOLDEN_FILE) as originals:
    our_lines, original_lines = ours.readlines(), originals.readlines()
  assert len(our_lines) == len(original_lines) == len(goldens.LINES)
  for our_line, original_line in zip(our_lines, original_lines):
    line, original = json.loads(our_line), json.loads(original_line)
    assert our_line == json.dumps(line) + "\n"  # Separators, keys' order
    np.testing.assert_allclose(
        vectors_of(line), vectors_of(original), rtol=0, atol=tolerance)
    # With the values replaced, all that remains is to be the same text.
    for ours, other in zip(line["features"], original["features"]):
      for our_layer, other_layer in zip(ours["layers"], other["layers"]):
        our_layer["values"] = other_layer["values"]
    assert json.dumps(line) == json.dumps(original)


def test_order_and_results_do_not_depend_on_batches(extract, monkeypatch):
  texts = ["the " * (n * 5 % 11) + "was" for n in range(23)]
  expected = read_json(extract(texts, batch_size=100))
  monkeypatch.setattr(extract_features, "GROUP_LINES", 7)
  lines = read_json(extract(texts, batch_size=2))
  assert [line["linex_index"] for line in lines] == list(range(23))
  for line, other in zip(lines, expected):
    assert tokens_of(line) == tokens_of(other)
    np.testing.assert_allclose(vectors_of(line), vectors_of(other), atol=2e-5)


def test_a_run_logs_examples_and_no_alarm_and_leaves_no_folder(
    extract, tmp_path, monkeypatch, caplog):
  folder = tmp_path / "temporary"
  folder.mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(folder))
  # A folder that is not there yet.
  output_file = str(tmp_path / "new" / "out")
  with caplog.at_level(logging.INFO, "tensorflow"):
    extract(["the King ||| was"] * 7, output_file=output_file)
  assert os.path.exists(output_file)
  assert list(folder.iterdir()) == []
  assert caplog.text.count("*** Example ***") == 5
  for line in ("unique_id: 4", "tokens: [CLS] the king [SEP] was [SEP]",
               "input_mask: 1 1 1 1 1 1 0 0 0 0 0 0 0 0\n",
               "input_type_ids: 0 0 0 0 1 1 0 0 0 0 0 0 0 0\n",
               "Wrote features of 7 lines"):
    assert line in caplog.text
  for line in ("unique_id: 5", "Could not find trained model",
               "temporary folder"):
    assert line not in caplog.text
  # The goldens' vocabulary has words in both cases; main's wrapper filters the
  # notice about `params`.
  assert [record for record in caplog.records
          if record.levelno > logging.INFO and
          "vocabulary" not in record.getMessage() and
          "params are not passed" not in record.getMessage()] == []


@pytest.mark.parametrize("changes, message", [
    ({"layers": "-1,3"}, "--layers=-1,3: `3` is not a layer. The model has 3"),
    ({"layers": "-4"}, "`-4` is not a layer"),
    ({"layers": "last"}, "`last` is not a layer"),
    ({"layers": ""}, "`` is not a layer"),
    ({"max_seq_length": 33}, "--max_seq_length=33 is out of range"),
    ({"max_seq_length": 2}, "--max_seq_length=2 is out of range"),
    ({"batch_size": 0}, "--batch_size=0 must be at least 1"),
    ({"float16": True}, "--float16 is for --output_format=npz and hdf5"),
    ({"input_file": "missing.txt"}, "No such file: missing.txt"),
    ({"input_file": "."}, "No such file: ."),
    ({"output_file": "."}, "--output_file=. is a folder"),
    ({"init_checkpoint": "missing.ckpt"}, "no checkpoint at missing.ckpt"),
    ({"bert_config_file": "missing.json"}, "missing.json"),
    ({"vocab_file": "missing.txt"}, "missing.txt"),
    ({"init_checkpoint": "cased_L-12_H-768_A-12/bert_model.ckpt"},
     "--do_lower_case=False"),
])
def test_flags_that_cannot_work_are_named(extract, tmp_path, changes, message):
  with pytest.raises(ValueError) as error:
    extract(["the"], **changes)
  assert message in str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ["input.txt"]


def test_a_tpu_without_tpu_estimator_stops_the_run_before_it_writes(
    extract, tmp_path, monkeypatch):
  monkeypatch.setattr(estimators, "HAS_TPU_ESTIMATOR", False)
  with pytest.raises(ValueError, match="--use_tpu needs TPUEstimator"):
    extract(["the"], use_tpu=True)
  assert [path.name for path in tmp_path.iterdir()] == ["input.txt"]


def test_a_vocabulary_of_another_model_is_named(extract, tmp_path):
  vocab_file = tmp_path / "vocab.txt"
  with open(goldens.VOCAB_FILE) as reader:
    vocab_file.write_text(reader.read() + "more\n")
  with pytest.raises(ValueError, match="has 191 tokens"):
    extract(["the"], vocab_file=str(vocab_file))


def test_missing_h5py_is_said_before_anything_runs(extract, monkeypatch):
  monkeypatch.setattr(
      extract_features.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match="needs h5py: pip install h5py"):
    extract(["the"], output_format="hdf5")


def test_command_line_ends_with_one_message(model_flags, tmp_path):
  command = [sys.executable, extract_features.__file__,
             "--max_seq_length=32", "--layers=-1",
             "--input_file=" + str(tmp_path / "missing.txt"),
             "--output_file=" + str(tmp_path / "out")]
  command += ["--%s=%s" % item for item in model_flags.items()]
  result = subprocess.run(command, stderr=subprocess.PIPE, text=True)
  assert result.returncode == 1
  assert result.stderr.rstrip().endswith(
      "ERROR: No such file: %s" % (tmp_path / "missing.txt"))
  assert "Traceback" not in result.stderr


def test_a_trained_model_sees_which_sentences_mean_the_same(
    extract, data_dir, tmp_path):
  folder = os.path.join(data_dir, "checkpoints", "minilm_l6_h384_uncased")
  if not os.path.exists(os.path.join(folder, "bert_model.ckpt.index")):
    pytest.skip("No checkpoint in %s." % folder)
  path = extract(
      ["A man is eating food.", "A man is eating a piece of bread.",
       "The girl is carrying a baby.", "A cheetah is running behind its prey."],
      bert_config_file=os.path.join(folder, "bert_config.json"),
      init_checkpoint=os.path.join(folder, "bert_model.ckpt"),
      vocab_file=os.path.join(folder, "vocab.txt"), layers="-1",
      pooling="mean", output_format="npz", max_seq_length=128)
  with np.load(path) as data:
    vectors = data["layer_-1"]
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  similarity = vectors[0] @ vectors[1:].T
  assert similarity[0] > 0.7
  assert similarity[1:].max() < 0.2
