"""Tests of run_classifier.py: `pytest tests/run_classifier_test.py`.

Whole runs are of a model of two layers and eight hidden units, on a few lines
in GLUE's layouts, inside this process.
"""

import functools
import glob
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from absl import flags
from absl.testing import flagsaver

import estimators
import input_pipeline
import modeling
import optimization
import run_classifier
import tokenization

ROOT = str(pathlib.Path(__file__).resolve().parent.parent)

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film",
         "plot", "the", "is", "a", "##s", ".", "not"]
CONFIG = {
    "vocab_size": len(VOCAB), "hidden_size": 8, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 16,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 16,
    "type_vocab_size": 2, "initializer_range": 0.02,
}

pytestmark = pytest.mark.usefixtures("graph")


class Log(list):
  """Collects the lines of the "tensorflow" logger, as "LEVEL message"."""

  def __enter__(self):
    logger = logging.getLogger("tensorflow")
    self._level = logger.level
    self._handler = logging.Handler()
    self._handler.emit = lambda record: self.append(
        "%s %s" % (record.levelname, record.getMessage()))
    logger.addHandler(self._handler)
    logger.setLevel(logging.INFO)
    return self

  def __exit__(self, *error):
    logger = logging.getLogger("tensorflow")
    logger.removeHandler(self._handler)
    logger.setLevel(self._level)

  def warnings_with(self, text):
    return [line for line in self
            if line.startswith("WARNING") and text in line]


@pytest.fixture
def log():
  with Log() as lines:
    yield lines


def write(path, *lines, **kwargs):
  """Writes lines to a file, whose folder is made; returns its path."""
  path = pathlib.Path(str(path))
  path.parent.mkdir(parents=True, exist_ok=True)
  text = "".join(line + "\n" for line in lines)
  path.write_bytes(kwargs.get("prefix", b"") + text.encode("utf-8"))
  return str(path)


def tsv(*rows):
  """Rows of fields written "a|b|c" as tab-separated lines."""
  return [row.replace("|", "\t") for row in rows]


# Each task's columns.


GET = {"train": "get_train_examples", "dev": "get_dev_examples",
       "test": "get_test_examples"}

# Task, set, file, its lines, and (guid, text_a, text_b, label) of each example.
LAYOUTS = [
    ("cola", "train", "train.tsv",
     ["gj04|1||The film ends.", "gj04|0|*|The film end."],
     [("train-0", "The film ends.", None, "1"),
      ("train-1", "The film end.", None, "0")]),
    ("cola", "dev", "dev.tsv", ["gj04|1||It is."],
     [("dev-0", "It is.", None, "1")]),
    ("cola", "test", "test.tsv", ["index|sentence", "0|It is."],
     [("test-1", "It is.", None, "0")]),
    ("sst-2", "train", "train.tsv", ["sentence|label", "a good film |1"],
     [("train-1", "a good film ", None, "1")]),
    ("sst-2", "dev", "dev.tsv", ["sentence|label", "a bad film |0"],
     [("dev-1", "a bad film ", None, "0")]),
    ("sst-2", "test", "test.tsv", ["index|sentence", "0|a plot"],
     [("test-1", "a plot", None, "0")]),
    ("mrpc", "train", "train.tsv",
     ["Quality|#1 ID|#2 ID|#1 String|#2 String", '1|7|8|He "said|She said'],
     [("train-1", 'He "said', "She said", "1")]),
    ("mrpc", "dev", "dev.tsv",
     ["Quality|#1 ID|#2 ID|#1 String|#2 String", "0|7|8|a|b", "", "1|7|8|c|d"],
     [("dev-1", "a", "b", "0"), ("dev-3", "c", "d", "1")]),
    ("mrpc", "test", "test.tsv",
     ["index|#1 ID|#2 ID|#1 String|#2 String", "0|7|8|a|b"],
     [("test-1", "a", "b", "0")]),
    ("qqp", "train", "train.tsv",
     ["id|qid1|qid2|question1|question2|is_duplicate", "133273|1|2|a?|b?|1"],
     [("train-1", "a?", "b?", "1")]),
    ("qqp", "dev", "dev.tsv",
     ["id|qid1|qid2|question1|question2|is_duplicate", "201359|1|2|a?|b?|0"],
     [("dev-1", "a?", "b?", "0")]),
    ("qqp", "test", "test.tsv", ["id|question1|question2", "0|a?|b?"],
     [("test-1", "a?", "b?", "0")]),
    ("sts-b", "train", "train.tsv",
     ["index|genre|filename|year|old_index|source1|source2|sentence1|"
      "sentence2|score", "0|main-captions|MSRvid|2012test|0001|none|none|A|B|"
      "3.800"],
     [("train-1", "A", "B", "3.800")]),
    ("sts-b", "test", "test.tsv",
     ["index|genre|filename|year|old_index|source1|source2|sentence1|"
      "sentence2", "0|main-captions|MSRvid|2012test|0024|none|none|A|B"],
     [("test-1", "A", "B", 0.0)]),
    ("mnli", "train", "train.tsv",
     ["index|promptID|pairID|genre|s1b|s2b|s1p|s2p|sentence1|sentence2|label1|"
      "gold_label", "7|31|31n|tv|(|(|(|(|A|B|neutral|entailment"],
     [("train-7", "A", "B", "entailment")]),
    ("mnli", "dev", "dev_matched.tsv",
     ["index|promptID|pairID|genre|s1b|s2b|s1p|s2p|sentence1|sentence2|label1|"
      "label2|label3|label4|label5|gold_label",
      "9|31|31n|tv|(|(|(|(|A|B|entailment|entailment|neutral|neutral|neutral|"
      "neutral"],
     [("dev_matched-9", "A", "B", "neutral")]),
    ("mnli", "test", "test_matched.tsv",
     ["index|promptID|pairID|genre|s1b|s2b|s1p|s2p|sentence1|sentence2",
      "0|31|31n|tv|(|(|(|(|A|B"],
     [("test-0", "A", "B", "contradiction")]),
    ("mnli-mm", "dev", "dev_mismatched.tsv",
     ["header", "3|31|31n|tv|(|(|(|(|A|B|neutral"],
     [("dev_mismatched-3", "A", "B", "neutral")]),
    ("mnli-mm", "test", "test_mismatched.tsv",
     ["header", "3|31|31n|tv|(|(|(|(|A|B"],
     [("test-3", "A", "B", "contradiction")]),
    ("ax", "test", "diagnostic.tsv",
     ["index|sentence1|sentence2", "0|A|B"],
     [("test-0", "A", "B", "contradiction")]),
    ("qnli", "train", "train.tsv",
     ["index|question|sentence|label", "0|Q?|S|not_entailment"],
     [("train-1", "Q?", "S", "not_entailment")]),
    ("qnli", "test", "test.tsv", ["index|question|sentence", "0|Q?|S"],
     [("test-1", "Q?", "S", "entailment")]),
    ("rte", "dev", "dev.tsv",
     ["index|sentence1|sentence2|label", "0|A|B|entailment"],
     [("dev-1", "A", "B", "entailment")]),
    ("wnli", "train", "train.tsv",
     ["index|sentence1|sentence2|label", "0|A|B|1"],
     [("train-1", "A", "B", "1")]),
    ("wnli", "test", "test.tsv", ["index|sentence1|sentence2", "0|A|B"],
     [("test-1", "A", "B", "0")]),
    ("xnli", "train", "multinli/multinli.train.zh.tsv",
     ["premise|hypo|label", "A|B|contradictory", "C|D|neutral"],
     [("train-1", "A", "B", "contradiction"),
      ("train-2", "C", "D", "neutral")]),
    ("xnli", "dev", "xnli.dev.tsv",
     ["language|gold_label|x|x|x|x|sentence1|sentence2",
      "en|neutral|||||A|B", "zh|entailment|||||C|D|more"],
     [("dev-2", "C", "D", "entailment")]),
    ("xnli", "test", "xnli.test.tsv",
     ["language|gold_label|x|x|x|x|sentence1|sentence2",
      "zh|neutral|||||A|B"],
     [("test-1", "A", "B", "contradiction")]),
]


def as_tuples(examples):
  return [(e.guid, e.text_a, e.text_b, e.label) for e in examples]


@pytest.mark.parametrize(
    "task, set_name, name, lines, expected", LAYOUTS,
    ids=["%s-%s" % layout[:2] for layout in LAYOUTS])
def test_each_task_reads_its_own_columns(
    tmp_path, task, set_name, name, lines, expected):
  write(tmp_path / name, *tsv(*lines))
  processor = run_classifier.processors[task]()
  examples = getattr(processor, GET[set_name])(str(tmp_path))
  assert as_tuples(examples) == expected


def test_xnli_reads_another_language(tmp_path):
  write(tmp_path / "multinli" / "multinli.train.en.tsv",
        *tsv("premise|hypo|label", "A|B|contradictory"))
  write(tmp_path / "xnli.dev.tsv",
        *tsv("language|gold_label|x|x|x|x|sentence1|sentence2",
             "en|neutral|||||A|B", "zh|neutral|||||C|D"))
  processor = run_classifier.XnliProcessor("en")
  assert as_tuples(processor.get_train_examples(str(tmp_path))) == [
      ("train-1", "A", "B", "contradiction")]
  assert as_tuples(processor.get_dev_examples(str(tmp_path))) == [
      ("dev-1", "A", "B", "neutral")]
  with pytest.raises(ValueError, match="`sw`"):
    run_classifier.XnliProcessor("sw").get_dev_examples(str(tmp_path))


NLI = ["contradiction", "entailment", "neutral"]


@pytest.mark.parametrize("task, labels, metrics", [
    ("ax", NLI, ()), ("cola", ["0", "1"], ("matthews_correlation",)),
    ("mnli", NLI, ()), ("mnli-mm", NLI, ()), ("mrpc", ["0", "1"], ("f1",)),
    ("qnli", ["entailment", "not_entailment"], ()),
    ("qqp", ["0", "1"], ("f1",)),
    ("rte", ["entailment", "not_entailment"], ()),
    ("sst-2", ["0", "1"], ()), ("sts-b", [], ("pearson", "spearman")),
    ("wnli", ["0", "1"], ()), ("xnli", NLI, ())])
def test_labels_come_in_the_order_of_the_outputs(task, labels, metrics):
  processor = run_classifier.processors[task]()
  assert processor.get_labels() == labels
  assert tuple(processor.metrics) == metrics
  assert processor.is_regression == (task == "sts-b")


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
  (tmp_path / "train.tsv").write_bytes(
      b"\xef\xbb\xbfa\t1\t\tfirst\r\nb\t0\t\tlast")
  examples = run_classifier.ColaProcessor().get_train_examples(str(tmp_path))
  assert as_tuples(examples) == [
      ("train-0", "first", None, "1"), ("train-1", "last", None, "0")]


def test_a_short_row_names_file_line_and_columns(tmp_path):
  path = write(tmp_path / "dev.tsv", *tsv("h|h|h|h|h", "1|7|8|a|b", "1|7|8"))
  with pytest.raises(ValueError) as error:
    run_classifier.MrpcProcessor().get_dev_examples(str(tmp_path))
  assert "%s, line 3: column 4" % path in str(error.value)
  assert "has 3" in str(error.value)


def test_a_header_of_any_length_is_passed_over(tmp_path):
  write(tmp_path / "dev.tsv", *tsv("# MRPC", "", "1|7|8|a|b")[::2])
  write(tmp_path / "train.tsv", *tsv("# questions", "0|1|2|a?|b?|1"))
  examples = run_classifier.MrpcProcessor().get_dev_examples(str(tmp_path))
  assert [e.label for e in examples] == ["1"]
  examples = run_classifier.QqpProcessor().get_train_examples(str(tmp_path))
  assert [e.label for e in examples] == ["1"]


def test_a_missing_header_is_warned_of(tmp_path, log):
  write(tmp_path / "dev.tsv", *tsv("1|7|8|a|b", "0|7|8|c|d"))
  examples = run_classifier.MrpcProcessor().get_dev_examples(str(tmp_path))
  assert len(examples) == 1
  assert len(log.warnings_with("header")) == 1


def test_quoted_tsv_is_read_with_a_quote_character(tmp_path):
  path = write(tmp_path / "x.tsv", '"a\tb"\tc', '"d""e"\tf')
  assert run_classifier.DataProcessor._read_tsv(path, '"') == [
      ["a\tb", "c"], ['d"e', "f"]]
  assert run_classifier.DataProcessor._read_tsv(path) == [
      ['"a', 'b"', "c"], ['"d""e"', "f"]]


# Processors of users.


class PastedProcessor(run_classifier.DataProcessor):
  """As people wrote them for the original script."""

  def get_train_examples(self, data_dir):
    return self._create_examples(
        self._read_tsv(os.path.join(data_dir, "train.tsv")), "train")

  def get_dev_examples(self, data_dir):
    return self._create_examples(
        self._read_tsv(os.path.join(data_dir, "dev.tsv")), "dev")

  def get_test_examples(self, data_dir):
    return self._create_examples(
        self._read_tsv(os.path.join(data_dir, "test.tsv")), "test")

  def get_labels(self):
    return ["neg", "pos"]

  def _create_examples(self, lines, set_type):
    examples = []
    for i, line in enumerate(lines):
      if i > 0:
        examples.append(run_classifier.InputExample(
            guid="%s-%s" % (set_type, i),
            text_a=tokenization.convert_to_unicode(line[1]), text_b=None,
            label=None if set_type == "test" else line[0]))
    return examples


class PastedMrpcProcessor(run_classifier.MrpcProcessor):
  """Another file name, the original's row loop."""

  def get_dev_examples(self, data_dir):
    lines = self._read_tsv(os.path.join(data_dir, "held_out.tsv"))
    return self._create_examples(lines, "dev")


def test_a_subclass_of_a_task_may_call_the_row_loop(tmp_path):
  write(tmp_path / "held_out.tsv", *tsv("h|h|h|h|h", "1|7|8|a|b"))
  examples = PastedMrpcProcessor().get_dev_examples(str(tmp_path))
  assert as_tuples(examples) == [("dev-1", "a", "b", "1")]


def test_the_row_loop_takes_the_originals_set_names():
  lines = [["header"], list("7123456789") + ["neutral"]]
  examples = run_classifier.MnliProcessor()._create_examples(
      lines, "dev_matched")
  assert as_tuples(examples) == [("dev_matched-7", "8", "9", "neutral")]


@pytest.mark.parametrize("name", ["sst2", "custom", "xnli", "mine"])
def test_a_users_entry_in_processors_wins(name, monkeypatch, tmp_path):
  monkeypatch.setitem(run_classifier.processors, name, PastedProcessor)
  with set_flags(task_name=name.upper(), data_dir=str(tmp_path)):
    assert isinstance(run_classifier._create_processor(), PastedProcessor)


# Files with a header and no code.


def custom(tmp_path, **kwargs):
  arguments = dict(text_column="text")
  arguments.update(kwargs)
  return run_classifier.CustomProcessor(str(tmp_path), **arguments)


def test_custom_tsv_finds_columns_by_name(tmp_path):
  write(tmp_path / "train.tsv",
        *tsv("label|more|b|a", 'yes|x|B "|A', "no|x|D|C"),
        prefix=b"\xef\xbb\xbf")
  write(tmp_path / "test.tsv", *tsv("a|b", "E|F"))
  processor = custom(tmp_path, text_column="a", text_b_column="b")
  assert as_tuples(processor.get_train_examples(str(tmp_path))) == [
      ("train-0", "A", 'B "', "yes"), ("train-1", "C", "D", "no")]
  assert processor.get_labels() == ["no", "yes"]
  assert as_tuples(processor.get_test_examples(str(tmp_path))) == [
      ("test-0", "E", "F", "no")]


def test_custom_csv_takes_quotes_newlines_nuls_and_long_fields(tmp_path):
  long_field = "x" * 200000
  write(tmp_path / "dev.csv", "label,text",
        '1,"a, ""quoted""', 'text"', "2,nul\0byte", "",
        '1,"%s"' % long_field)
  processor = custom(tmp_path, labels=["1", "2"])
  assert as_tuples(processor.get_dev_examples(str(tmp_path))) == [
      ("dev-0", 'a, "quoted"\ntext', None, "1"),
      ("dev-1", "nulbyte", None, "2"),
      ("dev-2", long_field, None, "1")]


def test_an_open_quote_does_not_swallow_the_rest_of_the_file(tmp_path):
  path = write(tmp_path / "dev.csv", "label,text", '1,"open', "2,next",
               "1,last")
  with pytest.raises(ValueError, match=path):
    custom(tmp_path, labels=["1", "2"]).get_dev_examples(str(tmp_path))


@pytest.mark.parametrize("given, found", [
    (["10", "9", "-1"], ["-1", "9", "10"]),
    (["b", "a", "c"], ["a", "b", "c"]),
    (["x", "2"], ["2", "x"]),
])
def test_labels_are_found_in_the_training_file_and_sorted(
    tmp_path, given, found, log):
  write(tmp_path / "train.tsv", "label\ttext",
        *[label + "\tt" for label in given * 2])
  assert custom(tmp_path).get_labels() == found
  assert any(", ".join(found) in line for line in log)


def test_given_labels_keep_their_order(tmp_path):
  processor = custom(tmp_path, labels=["pos", "neg"])
  assert processor.get_labels() == ["pos", "neg"]


def test_an_empty_label_in_the_training_file_is_an_error(tmp_path):
  path = write(tmp_path / "train.tsv", *tsv("label|text", "a|t", "|t", "b|t"))
  with pytest.raises(ValueError, match="%s, line 3" % path):
    custom(tmp_path).get_labels()


def test_a_missing_column_lists_those_there_are(tmp_path):
  path = write(tmp_path / "train.tsv", "Label\tsentence", "a\tt")
  with pytest.raises(ValueError) as error:
    custom(tmp_path).get_train_examples(str(tmp_path))
  for part in (path, "`text`", "`Label`", "`sentence`", "--text_column"):
    assert part in str(error.value)


def test_missing_custom_files_are_named(tmp_path):
  with pytest.raises(ValueError, match="dev.tsv nor .*dev.csv"):
    custom(tmp_path, labels=["a"]).get_dev_examples(str(tmp_path))


def test_custom_regression_needs_no_label_list(tmp_path):
  write(tmp_path / "train.tsv", *tsv("label|text", "-1.5|t"))
  write(tmp_path / "test.tsv", "text", "t")
  processor = custom(tmp_path, is_regression=True)
  assert processor.get_labels() == []
  assert processor.metrics == ("pearson", "spearman")
  assert processor.get_train_examples(str(tmp_path))[0].label == "-1.5"
  assert processor.get_test_examples(str(tmp_path))[0].label == 0.0


# Conversion.


@pytest.fixture(scope="module")
def model_files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  write(folder / "vocab.txt", *VOCAB)
  write(folder / "bert_config.json", json.dumps(CONFIG))
  return folder


@pytest.fixture(scope="module")
def tokenizer(model_files):
  return tokenization.FullTokenizer(str(model_files / "vocab.txt"))


def convert(tokenizer, text_a, text_b=None, label="b", length=9,
            labels=("a", "b"), ex_index=9):
  features = run_classifier.convert_single_example(
      ex_index, run_classifier.InputExample("g", text_a, text_b, label),
      list(labels), length, tokenizer)
  return (features.input_ids, features.input_mask, features.segment_ids,
          features.label_id, features.is_real_example)


def test_one_text_becomes_padded_ids(tokenizer):
  assert convert(tokenizer, "The FILMS is good") == (
      [2, 9, 7, 12, 10, 5, 3, 0, 0], [1] * 7 + [0] * 2, [0] * 9, 1, True)


def test_a_pair_gets_two_segments(tokenizer):
  assert convert(tokenizer, "good film", "bad zz") == (
      [2, 5, 7, 3, 6, 1, 3, 0, 0], [1] * 7 + [0] * 2,
      [0] * 4 + [1] * 3 + [0] * 2, 1, True)


@pytest.mark.parametrize("text_a, text_b, length, ids", [
    ("the film is good", None, 5, [2, 9, 7, 10, 3]),
    ("the film is good", None, 6, [2, 9, 7, 10, 5, 3]),
    ("the film is good", "bad plot", 7, [2, 9, 7, 3, 6, 8, 3]),
    ("the film", "is bad", 6, [2, 9, 7, 3, 10, 3]),
    ("the film", "is bad", 3, [2, 3, 0]),
    ("the film", "", 5, [2, 9, 7, 3, 0]),
    ("the film", " ", 5, [2, 9, 7, 3, 0]),
    ("", None, 3, [2, 3, 0]),
])
def test_long_texts_are_cut(tokenizer, text_a, text_b, length, ids):
  for _ in range(2):  # Cutting must not reach a cached result.
    assert convert(tokenizer, text_a, text_b, length=length)[0] == ids


def test_padding_examples_are_all_zeros(tokenizer):
  features = run_classifier.convert_single_example(
      0, run_classifier.PaddingInputExample(), ["a"], 3, tokenizer)
  assert (features.input_ids, features.input_mask, features.segment_ids,
          features.label_id, features.is_real_example) == (
              [0] * 3, [0] * 3, [0] * 3, 0, False)


def test_the_first_five_examples_are_logged_as_ever(tokenizer, log):
  for index in range(7):
    convert(tokenizer, "good", length=4, ex_index=index)
  assert log[:7] == [
      "INFO *** Example ***", "INFO guid: g", "INFO tokens: [CLS] good [SEP]",
      "INFO input_ids: 2 5 3 0", "INFO input_mask: 1 1 1 0",
      "INFO segment_ids: 0 0 0 0", "INFO label: b (id = 1)"]
  assert log.count("INFO *** Example ***") == 5


def test_an_unknown_label_is_named_with_the_known(tokenizer):
  with pytest.raises(ValueError) as error:
    convert(tokenizer, "good", label="2")
  for part in ("g: ", "`2`", "`a`, `b`"):
    assert part in str(error.value)


@pytest.mark.parametrize("label", ["high", None, ""])
def test_a_regression_label_must_be_a_number(tokenizer, label):
  assert convert(tokenizer, "good", label="2.5", labels=())[3] == 2.5
  with pytest.raises(ValueError, match="number"):
    convert(tokenizer, "good", label=label, labels=())


def make_examples(*labels):
  return [run_classifier.InputExample("g%d" % index, "good film", None, label)
          for index, label in enumerate(labels)]


def features_of_records(path):
  """Of each record: a dict of feature to (kind, values)."""
  found = []
  for record in tf.io.tf_record_iterator(path):
    feature = tf.train.Example.FromString(record).features.feature
    found.append({
        name: (value.WhichOneof("kind"), list(
            getattr(value, value.WhichOneof("kind")).value))
        for name, value in feature.items()})
  return found


def test_records_hold_the_five_int64_features(tmp_path, tokenizer):
  path = str(tmp_path / "train.tf_record")
  examples = make_examples("b") + [run_classifier.PaddingInputExample()]
  run_classifier.file_based_convert_examples_to_features(
      examples, ["a", "b"], 5, tokenizer, path)
  assert features_of_records(path) == [
      {"input_ids": ("int64_list", [2, 5, 7, 3, 0]),
       "input_mask": ("int64_list", [1, 1, 1, 1, 0]),
       "segment_ids": ("int64_list", [0] * 5),
       "label_ids": ("int64_list", [1]),
       "is_real_example": ("int64_list", [1])},
      {"input_ids": ("int64_list", [0] * 5),
       "input_mask": ("int64_list", [0] * 5),
       "segment_ids": ("int64_list", [0] * 5),
       "label_ids": ("int64_list", [0]),
       "is_real_example": ("int64_list", [0])}]


def test_regression_records_hold_a_float_label(tmp_path, tokenizer):
  path = str(tmp_path / "train.tf_record")
  run_classifier.file_based_convert_examples_to_features(
      make_examples("2.5"), [], 5, tokenizer, path)
  (record,) = features_of_records(path)
  assert record["label_ids"] == ("float_list", [2.5])


def test_a_bad_example_leaves_no_record_file(tmp_path, tokenizer):
  with pytest.raises(ValueError):
    run_classifier.file_based_convert_examples_to_features(
        make_examples("a", "zz"), ["a"], 5, tokenizer,
        str(tmp_path / "train.tf_record"))
  assert os.listdir(str(tmp_path)) == []


def one_batch(input_fn, batch_size=8):
  batch = tf.data.make_one_shot_iterator(
      input_fn({"batch_size": batch_size})).get_next()
  with tf.Session() as session:
    return session.run(batch)


def test_memory_and_file_give_the_model_the_same_batch(tmp_path, tokenizer):
  examples = make_examples("a", "b", "b")
  path = str(tmp_path / "eval.tf_record")
  run_classifier.file_based_convert_examples_to_features(
      examples, ["a", "b"], 5, tokenizer, path)
  from_file = one_batch(run_classifier.file_based_input_fn_builder(
      path, seq_length=5, is_training=False, drop_remainder=False))
  from_memory = one_batch(run_classifier.input_fn_builder(
      run_classifier.convert_examples_to_features(
          examples, ["a", "b"], 5, tokenizer),
      seq_length=5, is_training=False, drop_remainder=False))
  for batch in (from_file, from_memory):
    assert batch["input_ids"].tolist() == [[2, 5, 7, 3, 0]] * 3
    assert batch["label_ids"].tolist() == [0, 1, 1]
    assert batch["is_real_example"].tolist() == [1, 1, 1]


def test_features_of_another_length_are_an_error(tokenizer):
  features = run_classifier.convert_examples_to_features(
      make_examples("a"), ["a"], 5, tokenizer)
  with pytest.raises(ValueError, match="`seq_length` is 6"):
    run_classifier.input_fn_builder(features, 6, True, True)


# The model.


@functools.lru_cache(maxsize=None)
def loss_and_gradients(is_static, is_regression=False, with_empty_row=False):
  """Loss, logits and gradients, with weights that depend on names only."""
  config = modeling.BertConfig.from_dict(dict(
      CONFIG, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
  ids = np.array([[2, 5, 7, 3, 0, 0], [2, 9, 3, 6, 5, 3], [0] * 6], np.int32)
  mask = (ids > 0).astype(np.int32)
  segments = np.array([[0] * 6, [0, 0, 0, 1, 1, 1], [0] * 6], np.int32)
  rows = slice(0, 3 if with_empty_row else 2)
  with tf.Graph().as_default(), tf.Session() as session:
    loss, per_example, logits, probabilities = run_classifier.create_model(
        config, False, tf.constant(ids[rows]), tf.constant(mask[rows]),
        tf.constant(segments[rows]), tf.constant([1, 0, 1][rows]),
        1 if is_regression else 2, use_one_hot_embeddings=is_static,
        real_tokens_only=not is_static, is_regression=is_regression)
    variables = tf.trainable_variables()
    gradients = [tf.convert_to_tensor(g)
                 for g in tf.gradients(loss, variables)]
    rng = np.random.RandomState(0)
    for variable in sorted(variables, key=lambda v: v.name):
      variable.load(rng.normal(0, 0.3, variable.shape.as_list()), session)
    names = [variable.op.name for variable in variables]
    return (session.run([loss, per_example, logits, probabilities]),
            dict(zip(names, session.run(gradients))))


def test_a_row_of_padding_only_keeps_everything_finite():
  values, gradients = loss_and_gradients(False, with_empty_row=True)
  for value in list(values) + list(gradients.values()):
    assert np.isfinite(value).all()


@pytest.mark.parametrize("is_regression", [False, True])
def test_static_one_hot_and_real_tokens_only_are_the_same_model(is_regression):
  static, static_gradients = loss_and_gradients(True, is_regression)
  packed, packed_gradients = loss_and_gradients(False, is_regression)
  for expected, value in zip(static, packed):
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=2e-6)
  assert sorted(static_gradients) == sorted(packed_gradients)
  for name, gradient in static_gradients.items():
    np.testing.assert_allclose(
        packed_gradients[name], gradient, rtol=2e-4, atol=2e-6, err_msg=name)
  assert any(np.abs(g).max() > 0.01 for g in static_gradients.values())


def test_the_loss_is_cross_entropy_of_the_probabilities():
  (loss, per_example, logits, probabilities), _ = loss_and_gradients(True)
  softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  np.testing.assert_allclose(probabilities, softmax, rtol=1e-5)
  np.testing.assert_allclose(
      per_example, -np.log(softmax[range(2), [1, 0]]), rtol=1e-5)
  np.testing.assert_allclose(loss, per_example.mean(), rtol=1e-6)


def test_the_regression_loss_is_the_squared_error():
  (loss, per_example, logits, values), _ = loss_and_gradients(True, True)
  np.testing.assert_allclose(values, logits)
  np.testing.assert_allclose(
      per_example, (logits[:, 0] - [1, 0]) ** 2, rtol=1e-5)
  np.testing.assert_allclose(loss, per_example.mean(), rtol=1e-6)


def test_training_and_prediction_graphs_compile_with_xla():
  config = modeling.BertConfig.from_dict(dict(CONFIG, num_hidden_layers=1))
  features = {
      "input_ids": np.array([[2, 5, 3, 0]] * 2, np.int32),
      "input_mask": np.array([[1, 1, 1, 0]] * 2, np.int32),
      "segment_ids": np.zeros([2, 4], np.int32),
      "label_ids": np.array([0, 1], np.int32)}
  names = sorted(features)
  model_fn = run_classifier.model_fn_builder(
      config, num_labels=2, init_checkpoint=None, learning_rate=0.1,
      num_train_steps=4, num_warmup_steps=0, use_tpu=False,
      use_one_hot_embeddings=True)

  def step(mode):
    def compiled(*values):
      with tf.variable_scope("", reuse=tf.AUTO_REUSE, use_resource=True):
        spec = model_fn(dict(zip(names, values)), None, mode, {})
      if mode == estimators.ModeKeys.PREDICT:
        return spec.predictions["probabilities"]
      with tf.control_dependencies([spec.train_op]):
        return tf.identity(spec.loss)
    return tf.xla.experimental.compile(
        compiled, [tf.constant(features[name]) for name in names])[0]

  with tf.variable_scope("", use_resource=True):
    tf.train.get_or_create_global_step(tf.get_default_graph())
  train_loss = step(estimators.ModeKeys.TRAIN)
  probabilities = step(estimators.ModeKeys.PREDICT)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    before = session.run(probabilities)
    assert np.isfinite(session.run(train_loss))
    after = session.run(probabilities)
    assert session.run(tf.train.get_global_step()) == 1
  np.testing.assert_allclose(after.sum(1), [1, 1], rtol=1e-5)
  assert np.abs(after - before).max() > 1e-4


# Metrics.


def evaluate(metric_fn, batches, num_labels=None, names=()):
  """Final values over batches of (loss, labels, logits, is_real)."""
  with tf.Graph().as_default():
    tensors = [tf.placeholder(tf.float32, [None]),
               tf.placeholder(tf.int32 if num_labels else tf.float32, [None]),
               tf.placeholder(tf.float32, [None, num_labels or 1]),
               tf.placeholder(tf.float32, [None])]
    metrics = metric_fn(*tensors, names=names)
    with tf.Session() as session:
      session.run([tf.global_variables_initializer(),
                   tf.local_variables_initializer()])
      updates = [update for _, update in metrics.values()]
      for batch in batches:
        session.run(updates, dict(zip(tensors, batch)))
      return {name: float(session.run(value))
              for name, (value, _) in metrics.items()}


def classification(labels, predictions, is_real=None, batch_size=3):
  count = len(labels)
  is_real = [1] * count if is_real is None else is_real
  logits = np.eye(2)[predictions]
  losses = np.arange(count)
  cuts = range(0, count, batch_size)
  return evaluate(
      run_classifier._classification_metrics,
      [[part[cut:cut + batch_size]
        for part in (losses, labels, logits, is_real)] for cut in cuts],
      num_labels=2, names=("f1", "matthews_correlation"))


def test_classification_metrics_agree_with_a_count_by_hand():
  # True positives 3, false positives 1, false negatives 2, true negatives 1.
  results = classification([1, 1, 0, 1, 0, 1, 1], [1, 0, 1, 1, 0, 1, 0])
  assert results == {
      "eval_accuracy": pytest.approx(4 / 7),
      "eval_loss": pytest.approx(3.0),
      "eval_f1": pytest.approx(2 * 3 / (2 * 3 + 1 + 2)),
      "eval_matthews_correlation": pytest.approx(
          (3 * 1 - 1 * 2) / (4 * 5 * 2 * 3) ** 0.5)}


def test_padding_examples_do_not_count():
  without = classification([1, 0, 1, 1], [1, 1, 0, 1])
  padded = classification([1, 0, 1, 1, 0, 0], [1, 1, 0, 1, 1, 0],
                          [1, 1, 1, 1, 0, 0])
  assert padded == without


@pytest.mark.parametrize("labels, predictions", [
    ([1, 0, 1, 0], [0, 0, 0, 0]), ([0, 0, 0, 0], [0, 0, 0, 0]),
    ([0, 0, 0], [0, 1, 0])])
def test_f1_and_matthews_are_zero_where_they_are_undefined(
    labels, predictions):
  results = classification(labels, predictions)
  assert results["eval_f1"] == 0
  assert results["eval_matthews_correlation"] == 0


def test_matthews_correlation_does_not_overflow():
  counts = tf.constant([[4e5, 1e5], [1e5, 4e5]], tf.float64)
  with tf.Session() as session:
    value = session.run(run_classifier.matthews_correlation(counts))
  assert value == pytest.approx(0.6)


def regression(labels, predictions, is_real=None, batch_size=3):
  count = len(labels)
  is_real = np.ones(count) if is_real is None else np.array(is_real)
  labels, predictions = np.array(labels), np.array(predictions, float)
  cuts = range(0, count, batch_size)
  return evaluate(
      run_classifier._regression_metrics,
      [[part[cut:cut + batch_size] for part in (
          (labels - predictions) ** 2, labels, predictions[:, None],
          is_real)] for cut in cuts],
      names=("pearson", "spearman"))


def test_correlations_agree_with_numpy_over_uneven_batches():
  rng = np.random.RandomState(1)
  labels = rng.uniform(0, 5, 50)
  predictions = labels + rng.normal(0, 1, 50)
  results = regression(labels, predictions, batch_size=8)
  ranks = [np.argsort(np.argsort(x)) for x in (labels, predictions)]
  assert results == {
      "eval_loss": pytest.approx(((labels - predictions) ** 2).mean(), 1e-5),
      "eval_pearson": pytest.approx(
          np.corrcoef(labels, predictions)[0, 1], 1e-5),
      "eval_spearman": pytest.approx(np.corrcoef(*ranks)[0, 1], 1e-5)}


def test_equal_values_share_the_mean_of_their_ranks():
  results = regression([1, 1, 2, 3], [10, 20, 20, 40])
  # Ranks 1.5, 1.5, 3, 4 and 1, 2.5, 2.5, 4.
  expected = np.corrcoef([1.5, 1.5, 3, 4], [1, 2.5, 2.5, 4])[0, 1]
  assert results["eval_spearman"] == pytest.approx(expected)


def test_correlations_leave_padding_out():
  without = regression([1, 2, 4, 3], [1, 3, 3.5, 2])
  padded = regression([1, 2, 4, 3, 0, 0], [1, 3, 3.5, 2, 9, -9],
                      [1, 1, 1, 1, 0, 0])
  assert padded == pytest.approx(without)


@pytest.mark.parametrize("value", [0.0, 2.7234, -1e-20, 1e5])
def test_a_constant_prediction_has_no_correlation(value):
  labels = np.random.RandomState(2).uniform(0, 5, 700)
  results = regression(labels, [value] * 700, batch_size=64)
  assert results["eval_pearson"] == pytest.approx(0, abs=1e-3)
  assert results["eval_spearman"] == pytest.approx(0, abs=1e-3)


def test_many_equal_labels_far_from_zero_do_not_lose_the_correlation():
  labels = np.arange(3000) % 7 + 10000.0
  results = regression(labels, labels * 2, batch_size=500)
  assert results["eval_pearson"] == pytest.approx(1, abs=1e-4)
  assert results["eval_spearman"] == pytest.approx(1, abs=1e-4)


# Whole runs.


def set_flags(**values):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  return flagsaver.flagsaver(**values)


def run(model_files, **values):
  """Runs `main` with these flags; returns the log."""
  arguments = dict(
      vocab_file=str(model_files / "vocab.txt"),
      bert_config_file=str(model_files / "bert_config.json"),
      init_checkpoint=None, do_lower_case=True, max_seq_length=8,
      task_name="MRPC", train_batch_size=4, num_train_epochs=2.0,
      learning_rate=0.01, do_train=False, do_eval=False, do_predict=False,
      eval_batch_size=4, predict_batch_size=4, log_steps=1, seed=1)
  arguments.update(values)
  with Log() as log, tf.Graph().as_default(), set_flags(**arguments):
    run_classifier.main([])
  return log


MRPC_HEADER = "Quality|#1 ID|#2 ID|#1 String|#2 String"
MRPC_ROWS = ["1|7|8|the film is good|a good film", "0|7|8|good plot|bad film",
             "1|7|8|not bad|good", "0|7|8|the plot|a bad film . not good",
             "0|7|8|film|plot", "1|7|8|is is is|is"]


@pytest.fixture(scope="module")
def mrpc(tmp_path_factory):
  folder = tmp_path_factory.mktemp("mrpc")
  write(folder / "train.tsv", *tsv(MRPC_HEADER, *(MRPC_ROWS * 2)),
        prefix=b"\xef\xbb\xbf")
  write(folder / "dev.tsv", *tsv(MRPC_HEADER, *MRPC_ROWS))
  write(folder / "test.tsv", *tsv(
      "index|#1 ID|#2 ID|#1 String|#2 String",
      *["%d%s" % (index, row[1:]) for index, row in enumerate(MRPC_ROWS)]))
  return folder


@pytest.fixture(scope="module")
def trained(mrpc, model_files, tmp_path_factory):
  """Folder and log of a run that trained, evaluated and predicted."""
  output_dir = tmp_path_factory.mktemp("run") / "new" / "folder"
  log = run(model_files, data_dir=str(mrpc), output_dir=str(output_dir),
            do_train=True, do_eval=True, do_predict=True)
  return output_dir, log


def read_lines(path):
  with open(str(path)) as reader:
    return reader.read().splitlines()


def test_a_run_writes_every_file_and_no_other(trained):
  names = set(os.listdir(str(trained[0])))
  events = {name for name in names if name.startswith("events.out")}
  assert events
  assert names - events == {
      "checkpoint", "graph.pbtxt", "eval", "train.tf_record",
      "eval.tf_record", "predict.tf_record", "eval_results.txt",
      "test_results.tsv", "predictions.tsv",
  } | {"model.ckpt-%d.%s" % (step, suffix) for step in (0, 6)
       for suffix in ("index", "meta", "data-00000-of-00001")}
  assert glob.glob(str(trained[0] / "eval" / "events.out.tfevents.*"))


def test_evaluation_results_have_the_contracts_keys_and_f1(trained):
  lines = read_lines(trained[0] / "eval_results.txt")
  values = dict(line.split(" = ") for line in lines)
  assert list(values) == [
      "eval_accuracy", "eval_f1", "eval_loss", "global_step", "loss"]
  assert values["global_step"] == "6"
  assert all(np.isfinite(float(value)) for value in values.values())


def test_test_results_are_bare_probabilities_in_label_order(trained):
  lines = read_lines(trained[0] / "test_results.tsv")
  rows = np.array([line.split("\t") for line in lines], np.float32)
  assert rows.shape == (6, 2)
  np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)
  # Written as NumPy writes a float32, without loss.
  assert [str(value) for value in rows.ravel()] == "\t".join(
      lines).split("\t")


def test_predictions_name_id_label_and_probability(trained):
  lines = read_lines(trained[0] / "predictions.tsv")
  assert lines[0] == "id\tprediction\tprobability"
  probabilities = [line.split("\t") for line in
                   read_lines(trained[0] / "test_results.tsv")]
  for index, (line, row) in enumerate(zip(lines[1:], probabilities)):
    guid, label, probability = line.split("\t")
    assert guid == "test-%d" % (index + 1)
    assert probability == max(row, key=float) == row[int(label)]
  assert len(lines) == 7


def test_the_log_has_the_lines_people_look_for(trained):
  for line in ("***** Running training *****", "  Num examples = 12",
               "  Batch size = 4", "  Num steps = 6",
               "***** Running evaluation *****",
               "  Num examples = 6 (6 actual, 0 padding)",
               "***** Running prediction*****", "***** Predict results *****",
               "Writing example 0 of 12", "**** Trainable Variables ****",
               "*** Features ***", "  name = input_ids, shape = (4, 8)"):
    assert "INFO " + line in trained[1], line
  assert any("step 6/6 (100.0%), loss = " in line for line in trained[1])


def test_results_of_batches_by_length_are_in_the_order_of_the_examples(
    trained, mrpc, model_files, tmp_path):
  """The texts differ in length, so that batches of 2 and of 6 mix them."""
  rows = []
  for size in (1, 2, 6):
    output_dir = tmp_path / str(size)
    run(model_files, data_dir=str(mrpc), output_dir=str(output_dir),
        init_checkpoint=str(trained[0]), do_predict=True,
        predict_batch_size=size)
    rows.append(np.loadtxt(str(output_dir / "test_results.tsv")))
  assert len({tuple(row) for row in rows[0].round(5)}) > 3
  for other in rows[1:]:
    np.testing.assert_allclose(other, rows[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("fused_width", [1, 1 << 30])
def test_half_precision_trains_to_the_same_kind_of_checkpoint(
    trained, mrpc, model_files, tmp_path, monkeypatch, precision,
    fused_width):
  monkeypatch.setattr(
      run_classifier.modeling, "MIN_FUSED_WIDTH", fused_width)
  log = run(model_files, data_dir=str(mrpc), output_dir=str(tmp_path),
            do_train=True, do_eval=True, mixed_precision=precision,
            group_by_length=True)
  assert any("Computing in %s" % precision in line for line in log)
  assert dict(tf.train.list_variables(str(tmp_path))) == dict(
      tf.train.list_variables(str(trained[0])))
  first, last = [tf.train.load_checkpoint(
      str(tmp_path / ("model.ckpt-%d" % step))) for step in (0, 6)]
  for name in first.get_variable_to_shape_map():
    value = last.get_tensor(name)
    assert np.all(np.isfinite(value)), name
    # A key's bias shifts all scores of a query alike, and has no gradient.
    if "key/bias" not in name and "position" not in name:
      assert np.any(value != first.get_tensor(name)), name


def test_checkpoints_hold_the_originals_names_and_shapes(trained):
  shapes = dict(tf.train.list_variables(str(trained[0])))
  assert shapes["output_weights"] == [2, 8]
  assert shapes["output_bias"] == [2]
  assert shapes["output_weights/adam_m"] == [2, 8]
  assert shapes["bert/embeddings/word_embeddings/adam_v"] == [len(VOCAB), 8]
  assert not [name for name in shapes if "confusion" in name]


def weights_of(folder, step):
  reader = tf.train.load_checkpoint(str(folder / ("model.ckpt-%d" % step)))
  return {name: reader.get_tensor(name)
          for name in reader.get_variable_to_shape_map()}


@pytest.mark.parametrize("optimizer, slots", [
    ("lamb", {"output_bias/lamb_m", "output_bias/lamb_v"}),
    ("adafactor", {"output_bias/adafactor_v"})])
def test_another_optimizer_with_frozen_layers_resumes_and_is_not_switched(
    mrpc, model_files, tmp_path, optimizer, slots):
  values = dict(data_dir=str(mrpc), output_dir=str(tmp_path), do_train=True,
                optimizer=optimizer, freeze_layers=1)
  log = run(model_files, **values)
  assert any("INFO Trained are 20 of 41 trainable variables" in line
             for line in log)
  start, end = weights_of(tmp_path, 0), weights_of(tmp_path, 6)
  assert {name for name in end if name.startswith("output_bias/")} == slots
  for name, value in end.items():
    if name.startswith(("bert/embeddings", "bert/encoder/layer_0")):
      assert "/lamb" not in name and "/adafactor" not in name
      np.testing.assert_array_equal(value, start[name], err_msg=name)
    elif "key/bias" not in name:
      assert np.any(value != start[name]), name
  run(model_files, num_train_epochs=3.0, do_eval=True, do_predict=True,
      **values)
  assert estimators.checkpoint_step(tf.train.latest_checkpoint(
      str(tmp_path))) == 9
  for changes, message in (
      (dict(optimizer="adamw"), "--optimizer=%s, not adamw" % optimizer),
      (dict(freeze_layers=0), "--freeze_layers it was trained with")):
    with pytest.raises(ValueError, match=message):
      run(model_files, num_train_epochs=4.0, **dict(values, **changes))


def test_the_flag_offers_the_optimizers_there_are():
  offered = flags.FLAGS["optimizer"].parser.enum_values
  with pytest.raises(ValueError, match=", ".join(sorted(offered)) + r"\.$"):
    optimization.create_optimizer(
        tf.get_variable("x", []), 0.1, 10, 0, False, optimizer="other")


def test_predicting_from_another_runs_folder_gives_its_results(
    trained, mrpc, model_files, tmp_path):
  log = run(model_files, data_dir=str(mrpc), output_dir=str(tmp_path),
            do_predict=True, init_checkpoint=str(trained[0]))
  expected = np.loadtxt(str(trained[0] / "test_results.tsv"))
  found = np.loadtxt(str(tmp_path / "test_results.tsv"))
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert not log.warnings_with("untrained")


def test_a_second_run_resumes_and_says_which_checkpoint_wins(
    trained, mrpc, model_files, tmp_path):
  output_dir = str(tmp_path / "copy")
  shutil.copytree(str(trained[0]), output_dir)
  log = run(model_files, data_dir=str(mrpc), output_dir=output_dir,
            do_train=True, num_train_epochs=3.0,
            init_checkpoint=str(trained[0]))
  assert log.warnings_with("model.ckpt-6, which wins; --init_checkpoint")
  assert log.warnings_with("goes on from its step 6")
  assert estimators.checkpoint_step(
      tf.train.latest_checkpoint(output_dir)) == 9


def test_an_untrained_head_is_warned_of_and_the_run_goes_on(
    mrpc, model_files, tmp_path):
  log = run(model_files, data_dir=str(mrpc), output_dir=str(tmp_path),
            do_eval=True)
  assert log.warnings_with("untrained")
  assert len(read_lines(tmp_path / "eval_results.txt")) == 5


def test_a_pasted_processor_trains_and_predicts_without_test_labels(
    model_files, tmp_path, monkeypatch):
  monkeypatch.setitem(run_classifier.processors, "mine", PastedProcessor)
  rows = tsv("label|text", "pos|good film", "neg|bad film", "neg|not good")
  for name in ("train.tsv", "dev.tsv", "test.tsv"):
    write(tmp_path / "data" / name, *rows)
  run(model_files, task_name="Mine", data_dir=str(tmp_path / "data"),
      output_dir=str(tmp_path / "out"), do_train=True, do_predict=True,
      num_train_epochs=3.0)
  lines = read_lines(tmp_path / "out" / "predictions.tsv")
  assert [line.split("\t")[0] for line in lines] == [
      "id", "test-1", "test-2", "test-3"]
  assert {line.split("\t")[1] for line in lines[1:]} <= {"neg", "pos"}


def test_a_custom_csv_regression_runs_from_end_to_end(model_files, tmp_path):
  data = tmp_path / "data"
  write(data / "train.csv", "score,first,second", '0.5,"good, film",plot',
        "4.5,bad,bad", "2,is,a", "1,film,the")
  write(data / "dev.csv", "score,first,second", "0.5,good,plot", "3,bad,the",
        "2,is,bad")
  write(data / "test.csv", "first,second", "good,plot", "bad,film")
  run(model_files, task_name="custom", data_dir=str(data),
      output_dir=str(tmp_path / "out"), text_column="first",
      text_b_column="second", label_column="score", regression=True,
      do_train=True, do_eval=True, do_predict=True, eval_batch_size=2)
  keys = [line.split(" = ")[0] for line in
          read_lines(tmp_path / "out" / "eval_results.txt")]
  assert keys == ["eval_loss", "eval_pearson", "eval_spearman",
                  "global_step", "loss"]
  results = read_lines(tmp_path / "out" / "test_results.tsv")
  predictions = read_lines(tmp_path / "out" / "predictions.tsv")
  assert predictions == ["id\tprediction", "test-0\t" + results[0],
                         "test-1\t" + results[1]]


# Bad input: one clear error, before anything is written.


def replaced(source, target, name, *lines):
  shutil.copytree(str(source), str(target))
  write(target / name, *tsv(*lines))
  return str(target)


def expect_error(model_files, output_dir, *parts, **values):
  """The run must stop with all parts in one message, and write nothing."""
  values.setdefault("do_train", True)
  with pytest.raises(ValueError) as error:
    run(model_files, output_dir=str(output_dir), **values)
  # Raised in the project's own code: the script then ends with the message.
  assert os.path.dirname(str(error.traceback[-1].path)) == ROOT
  for part in parts:
    assert part in str(error.value)
  assert not os.path.exists(str(output_dir)) or not os.listdir(
      str(output_dir))


ROW = "1|7|8|good|bad"
BAD_DATA = {
    "short row": ("train.tsv", [MRPC_HEADER, ROW, "1|7|8|good"],
                  ["train.tsv, line 3", "column 5", "has 4"]),
    "unknown label": ("train.tsv", [MRPC_HEADER, "2|7|8|good|bad"],
                      ["train.tsv, line 2", "`2`", "`0`, `1`"]),
    "unknown dev label": ("dev.tsv", [MRPC_HEADER, "x|7|8|good|bad"],
                          ["dev.tsv, line 2", "`x`"]),
    "short test row": ("test.tsv", [MRPC_HEADER, "0|7"],
                       ["test.tsv, line 2", "column 4", "has 2"]),
    "header only": ("dev.tsv", [MRPC_HEADER], ["eval"]),
    "empty file": ("train.tsv", [], ["train"]),
    "too few": ("train.tsv", [MRPC_HEADER, ROW],
                ["1 training examples", "--train_batch_size=4"]),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_stops_the_run_before_it_writes(
    case, mrpc, model_files, tmp_path):
  name, lines, parts = BAD_DATA[case]
  data_dir = replaced(mrpc, tmp_path / "data", name, *lines)
  expect_error(model_files, tmp_path / "out", *parts, data_dir=data_dir,
               do_eval=True, do_predict=True)


@pytest.mark.parametrize("name", ["train.tsv", "dev.tsv", "test.tsv"])
def test_a_missing_file_is_found_before_training(
    name, mrpc, model_files, tmp_path):
  shutil.copytree(str(mrpc), str(tmp_path / "data"))
  os.remove(str(tmp_path / "data" / name))
  expect_error(model_files, tmp_path / "out", str(tmp_path / "data" / name),
               data_dir=str(tmp_path / "data"), do_eval=True, do_predict=True)


BAD_FLAGS = {
    "unknown task": (dict(task_name="MRPCC"), ["MRPCC", "mrpc", "custom"]),
    "nothing to do": (dict(do_train=False),
                      ["--do_train", "--do_eval", "--do_predict"]),
    "too long": (dict(max_seq_length=17), ["--max_seq_length=17", "16"]),
    "too short": (dict(max_seq_length=2), ["--max_seq_length=2", "3"]),
    "frozen layers": (dict(freeze_layers=3), ["--freeze_layers=3", "2"]),
    "no checkpoint": (dict(init_checkpoint="/none/bert_model.ckpt"),
                      ["/none/bert_model.ckpt"]),
    "no vocabulary": (dict(vocab_file="/none/vocab.txt"),
                      ["/none/vocab.txt"]),
    "no config": (dict(bert_config_file="/none/config.json"),
                  ["/none/config.json"]),
    "no data": (dict(data_dir="/none/data"), ["/none/data"]),
    "batch size": (dict(train_batch_size=0), ["--train_batch_size"]),
    "case": (dict(init_checkpoint="/x/cased_L-12_H-768_A-12/bert_model.ckpt"),
             ["cased_L-12_H-768_A-12", "do_lower_case"]),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_a_bad_flag_stops_the_run_before_it_writes(
    case, mrpc, model_files, tmp_path):
  values, parts = BAD_FLAGS[case]
  values = dict(dict(data_dir=str(mrpc)), **values)
  expect_error(model_files, tmp_path / "out", *parts, **values)


def test_a_tpu_without_tpu_estimator_stops_the_run_before_it_writes(
    mrpc, model_files, tmp_path, monkeypatch):
  monkeypatch.setattr(estimators, "HAS_TPU_ESTIMATOR", False)
  expect_error(model_files, tmp_path / "out", "--use_tpu needs TPUEstimator",
               use_tpu=True, data_dir=str(mrpc))
  assert not (tmp_path / "out").exists()


def test_a_config_that_is_no_json_is_named(mrpc, model_files, tmp_path):
  config = write(tmp_path / "config.json", "{")
  expect_error(model_files, tmp_path / "out", config,
               bert_config_file=config, data_dir=str(mrpc))


@pytest.mark.parametrize("vocab", [VOCAB + ["more"],
                                   VOCAB[:-1] + ["film", "more"]])
def test_ids_beyond_the_embedding_table_stop_the_run(
    vocab, mrpc, model_files, tmp_path):
  # The second has as many different tokens as the model has rows, but a line,
  # so an id, more.
  path = write(tmp_path / "vocab.txt", *vocab)
  expect_error(model_files, tmp_path / "out", path, "vocab_size", "15",
               vocab_file=path, data_dir=str(mrpc))


def test_a_vocabulary_without_special_tokens_stops_the_run(
    mrpc, model_files, tmp_path):
  path = write(tmp_path / "vocab.txt", *[token for token in VOCAB
                                         if token != "[SEP]"])
  expect_error(model_files, tmp_path / "out", "[SEP]", vocab_file=path,
               data_dir=str(mrpc))


def test_a_cased_vocabulary_is_warned_of(mrpc, model_files, tmp_path):
  # The run then stops for want of examples; the warning has come before.
  path = write(tmp_path / "vocab.txt", *(VOCAB[:-2] + ["Good", "Bad"]))
  with Log() as log, pytest.raises(ValueError):
    run(model_files, data_dir=str(mrpc), vocab_file=path, do_train=True,
        output_dir=str(tmp_path / "out"), train_batch_size=1000)
  assert log.warnings_with("do_lower_case")


def test_other_labels_than_the_checkpoints_are_one_clear_error(
    trained, model_files, tmp_path):
  rows = tsv("label|text", "x|good", "y|bad", "z|film", "x|plot")
  write(tmp_path / "data" / "train.tsv", *rows)
  with pytest.raises(ValueError) as error:
    run(model_files, task_name="custom", data_dir=str(tmp_path / "data"),
        output_dir=str(tmp_path / "out"), do_train=True,
        init_checkpoint=str(trained[0]))
  assert "output_weights: [3, 8] in the model, [2, 8]" in str(error.value)
  assert not glob.glob(str(tmp_path / "out" / "*.incomplete"))
  assert not glob.glob(str(tmp_path / "out" / "model.ckpt*"))


def test_a_checkpoint_of_another_model_is_one_clear_error(
    mrpc, model_files, tmp_path):
  with tf.Graph().as_default(), tf.Session() as session:
    tf.get_variable("other/weights", [1])
    session.run(tf.global_variables_initializer())
    prefix = tf.train.Saver().save(session, str(tmp_path / "other.ckpt"))
  with pytest.raises(ValueError) as error:
    run(model_files, data_dir=str(mrpc), output_dir=str(tmp_path / "out"),
        do_train=True, init_checkpoint=prefix + ".index")
  assert "other/weights" in str(error.value)
  assert "bert/embeddings" in str(error.value)


def test_no_result_file_is_written_for_too_few_results(tmp_path):
  with pytest.raises(ValueError, match="1 results for 2 examples"):
    run_classifier.write_predictions(
        str(tmp_path), make_examples("a", "b"), ["a", "b"],
        [np.array([0.5, 0.5], np.float32)])
  assert os.listdir(str(tmp_path)) == []


# The script as a program, and the folder as a package.


def test_the_program_warns_of_arguments_and_ends_with_one_message(
    mrpc, model_files, tmp_path):
  data_dir = replaced(mrpc, tmp_path / "data", "train.tsv", MRPC_HEADER,
                      "1|7|8|good")
  process = subprocess.run(
      [sys.executable, os.path.join(ROOT, "run_classifier.py"),
       "--task_name=MRPC", "--data_dir=" + data_dir, "--dotrain",
       "--vocab_file=%s" % (model_files / "vocab.txt"),
       "--bert_config_file=%s" % (model_files / "bert_config.json"),
       "--output_dir=%s" % (tmp_path / "out"), "--do_train",
       "--max_seq_length=8", "--do_lower_case", "False"],
      stderr=subprocess.PIPE, universal_newlines=True)
  assert process.returncode == 1
  assert process.stderr.count("Did you mean --do_train?") == 1
  assert process.stderr.count("--do_lower_case=False") == 1
  last = process.stderr.strip().splitlines()[-1]
  assert last.startswith("ERROR: ") and "train.tsv, line 2" in last
  assert "Traceback" not in process.stderr
  assert not os.path.exists(str(tmp_path / "out"))


PACKAGE = """
import bert
from bert import run_classifier
from bert import modeling, optimization, tokenization
print(run_classifier.MrpcProcessor().get_labels(), run_classifier.__name__)
"""


def test_a_folder_called_bert_is_a_package(tmp_path):
  os.symlink(ROOT, str(tmp_path / "bert"))
  process = subprocess.run(
      [sys.executable, "-c", PACKAGE], cwd=str(tmp_path),
      stdout=subprocess.PIPE, universal_newlines=True)
  assert process.stdout.split() == ["['0',", "'1']", "bert.run_classifier"]
  assert process.returncode == 0


# Names people import.


def test_the_names_and_arguments_of_the_original_are_there():
  import inspect

  def arguments(function):
    return list(inspect.signature(function).parameters)

  assert arguments(run_classifier.convert_single_example) == [
      "ex_index", "example", "label_list", "max_seq_length", "tokenizer"]
  assert arguments(run_classifier.convert_examples_to_features) == [
      "examples", "label_list", "max_seq_length", "tokenizer"]
  assert arguments(run_classifier.file_based_convert_examples_to_features) == [
      "examples", "label_list", "max_seq_length", "tokenizer", "output_file"]
  assert arguments(run_classifier.file_based_input_fn_builder)[:4] == [
      "input_file", "seq_length", "is_training", "drop_remainder"]
  assert arguments(run_classifier.input_fn_builder) == [
      "features", "seq_length", "is_training", "drop_remainder"]
  assert arguments(run_classifier.create_model)[:8] == [
      "bert_config", "is_training", "input_ids", "input_mask", "segment_ids",
      "labels", "num_labels", "use_one_hot_embeddings"]
  assert arguments(run_classifier.model_fn_builder)[:8] == [
      "bert_config", "num_labels", "init_checkpoint", "learning_rate",
      "num_train_steps", "num_warmup_steps", "use_tpu",
      "use_one_hot_embeddings"]
  assert arguments(run_classifier.InputExample)[:4] == [
      "guid", "text_a", "text_b", "label"]
  assert arguments(run_classifier.InputFeatures) == [
      "input_ids", "input_mask", "segment_ids", "label_id",
      "is_real_example"]
  assert run_classifier._truncate_seq_pair is (
      input_pipeline.truncate_seq_pair)
