"""Fine-tunes BERT to classify texts or pairs of texts; evaluates; predicts.

  python run_classifier.py --task_name=MRPC --data_dir=glue/MRPC \\
      --do_train=true --do_eval=true --do_predict=true \\
      --vocab_file=$BERT_BASE_DIR/vocab.txt \\
      --bert_config_file=$BERT_BASE_DIR/bert_config.json \\
      --init_checkpoint=$BERT_BASE_DIR/bert_model.ckpt \\
      --max_seq_length=128 --train_batch_size=32 --learning_rate=2e-5 \\
      --num_train_epochs=3.0 --output_dir=/tmp/mrpc_output/

A task of your own needs no code: --task_name=custom reads train.tsv, dev.tsv
and test.tsv (or .csv) with a header, whose columns --text_column,
--text_b_column and --label_column name. What a header cannot describe is a
subclass of `DataProcessor` and a line in `processors`.
"""

import csv
import dataclasses
import os

import tensorflow.compat.v1 as tf
import tqdm
from absl import flags

import common_flags
import estimators
import input_pipeline
import modeling
import optimization
import saved_models
import tokenization

FLAGS = flags.FLAGS

common_flags.define_model_flags()
common_flags.define_tokenizer_flags(max_seq_length=128)
common_flags.define_training_flags()
common_flags.define_fine_tuning_flags()
common_flags.define_evaluation_flags()
common_flags.define_prediction_flags()
common_flags.define_export_flag()
common_flags.define_tpu_flags()
common_flags.DEFINE_string(
    "data_dir", None, "Folder with the task's train, dev and test files.")
common_flags.DEFINE_string(
    "task_name", None,
    "Task to run, in any case: ax, cola, custom, mnli, mnli-mm, mrpc, qnli, "
    "qqp, rte, sst-2, sts-b, wnli, xnli.")
common_flags.DEFINE_string(
    "xnli_language", "zh", "XNLI only: language code of the texts.")
common_flags.DEFINE_string(
    "text_column", "text",
    "Custom task: name in the header of the column with the (first) text.")
common_flags.DEFINE_string(
    "text_b_column", None,
    "Custom task: name of the column with the second text of a pair.")
common_flags.DEFINE_string(
    "label_column", "label", "Custom task: name of the column with the label.")
common_flags.DEFINE_list(
    "labels", None,
    "Custom task: the labels, separated by commas, in the order of the "
    "output's columns. Unset: those of the training file, sorted.")
common_flags.DEFINE_bool(
    "regression", False,
    "Custom task: the label is a number to predict, not a class.")

# How many converted examples are logged.
NUM_EXAMPLES_LOGGED = 5


# Examples and features.


@dataclasses.dataclass(eq=False)
class InputExample:
  """A text, or pair of texts, to classify.

  Args:
    guid: str, unique id.
    text_a: str, untokenised first (or only) text.
    text_b: str or None, second text of a pair.
    label: str or None; a number as str or float for regression.
    source: str or None, where it was read ("train.tsv, line 7").
  """

  guid: str
  text_a: str
  text_b: str = None
  label: str = None
  source: str = None


class PaddingInputExample:
  """Fills the last batch up on TPUs, which need all batches of one size.

  A class rather than None, so that a None that slips in is not taken for it.
  """


@dataclasses.dataclass(eq=False)
class InputFeatures:
  """The numbers the model reads, all of one length.

  Args:
    input_ids: list of int, token ids, zero padded.
    input_mask: list of int, 1 at tokens and 0 at padding.
    segment_ids: list of int, 0 for the first text and 1 for the second.
    label_id: int, index of the label; float for regression.
    is_real_example: bool, False for a `PaddingInputExample`.
  """

  input_ids: list
  input_mask: list
  segment_ids: list
  label_id: int
  is_real_example: bool = True


# Reading the tasks' files.


class Row(list):
  """Fields of a line; a missing one is an error that says where."""

  def __init__(self, fields, path, line_number):
    super().__init__(fields)
    self.path = path
    self.line_number = line_number

  @property
  def source(self):
    """str, file and line."""
    return "%s, line %d" % (self.path, self.line_number)

  def __getitem__(self, index):
    try:
      return super().__getitem__(index)
    except IndexError:
      raise ValueError(
          "%s: column %d is needed, but the line has %d: %r" % (
              self.source, index + 1 if index >= 0 else -index, len(self),
              "\t".join(self)[:200])) from None


class DataProcessor:
  """Reads a task's files. Subclasses say which columns are what."""

  # Further metrics: "f1" (of label 1), "matthews_correlation", "pearson",
  # "spearman".
  metrics = ()
  # True if labels are numbers to predict.
  is_regression = False

  def get_train_examples(self, data_dir):
    """list of InputExample to train on."""
    raise ValueError(self._lacks("training"))

  def get_dev_examples(self, data_dir):
    """list of InputExample to evaluate on."""
    raise ValueError(self._lacks("dev"))

  def get_test_examples(self, data_dir):
    """list of InputExample to predict; their labels do not count."""
    raise ValueError(self._lacks("test"))

  def get_labels(self):
    """list of str, in the order of the model's outputs."""
    raise NotImplementedError("%s has no labels." % type(self).__name__)

  def _lacks(self, set_name):
    return "%s has no %s set." % (type(self).__name__, set_name)

  @classmethod
  def _read_tsv(cls, input_file, quotechar=None):
    """A tab-separated file as a list of `Row`.

    Args:
      input_file: str.
      quotechar: str or None: quotes then are characters like any other, as in
        GLUE's files.

    Raises:
      ValueError: the file does not exist.
    """
    lines = input_pipeline.read_text_lines(input_file)
    if quotechar is None:
      return [Row(line.split("\t") if line else [], input_file, number)
              for number, line in enumerate(lines, 1)]
    return _read_quoted(lines, input_file, "\t", quotechar)


def _read_quoted(lines, path, delimiter, quotechar='"'):
  """Lines of a delimited file with quoted fields, as a list of `Row`."""
  limit = csv.field_size_limit(1 << 30)
  try:
    # NULs stop older csv modules, and mean nothing to the tokenizer.
    reader = csv.reader((line.replace("\0", "") + "\n" for line in lines),
                        delimiter=delimiter, quotechar=quotechar,
                        strict=delimiter == ",")
    rows = []
    try:
      for fields in reader:
        rows.append(Row(fields, path, reader.line_num))
    except csv.Error as error:
      raise ValueError(
          "%s, line %d: %s." % (path, reader.line_num, error)) from None
    return rows
  finally:
    csv.field_size_limit(limit)


class ColumnProcessor(DataProcessor):
  """Files whose columns have fixed numbers.

  Subclasses set the class attributes below; `_create_examples` does the rest.
  Negative numbers count from the end of the line.
  """

  labels = ("0", "1")
  files = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
  without_header = ()  # Sets whose file starts with an example.
  text_columns = (1,)
  test_text_columns = None  # If other than `text_columns`.
  label_column = -1
  guid_column = None  # None: the number of the line, from 0.
  set_names = {}  # Set to its name in guids, if another.

  def get_train_examples(self, data_dir):
    return self._read_set(data_dir, "train")

  def get_dev_examples(self, data_dir):
    return self._read_set(data_dir, "dev")

  def get_test_examples(self, data_dir):
    return self._read_set(data_dir, "test")

  def get_labels(self):
    return list(self.labels)

  def _read_set(self, data_dir, set_type):
    if set_type not in self.files:
      raise ValueError(self._lacks(set_type))
    lines = self._read_tsv(os.path.join(data_dir, self.files[set_type]))
    return self._create_examples(lines, set_type)

  def _create_examples(self, lines, set_type):
    """Examples of a file's rows; empty lines are passed over."""
    examples = []
    for number, line in enumerate(lines):
      if number == 0 and set_type not in self.without_header:
        self._warn_if_no_header(line, set_type)
        continue
      if line and self._is_wanted(line):
        examples.append(self._create_example(number, line, set_type))
    return examples

  def _create_example(self, number, line, set_type):
    columns = self.text_columns
    if set_type == "test" and self.test_text_columns:
      columns = self.test_text_columns
    texts = [line[column] for column in columns]
    guid = number if self.guid_column is None else line[self.guid_column]
    return InputExample(
        guid="%s-%s" % (self.set_names.get(set_type, set_type), guid),
        text_a=texts[0],
        text_b=texts[1] if len(texts) > 1 else None,
        label=self._label(line, set_type),
        source=getattr(line, "source", None))

  def _label(self, line, set_type):
    if set_type == "test":
      return 0.0 if self.is_regression else self.labels[0]
    return line[self.label_column]

  def _is_wanted(self, line):
    del line  # A hook for subclasses.
    return True

  def _warn_if_no_header(self, line, set_type):
    width = max(max(self.text_columns), self.label_column)
    if (set_type != "test" and len(line) > width and
        line[self.label_column] in self.labels):
      tf.logging.warning(
          "%s is taken for the header and left out, but looks like an "
          "example.", getattr(line, "source", "The first line"))


class ColaProcessor(ColumnProcessor):
  """CoLA: is a sentence grammatical?"""

  without_header = ("train", "dev")
  text_columns = (3,)
  test_text_columns = (1,)
  label_column = 1
  metrics = ("matthews_correlation",)


class Sst2Processor(ColumnProcessor):
  """SST-2: is a film review's phrase positive?"""

  text_columns = (0,)
  test_text_columns = (1,)
  label_column = 1


class MrpcProcessor(ColumnProcessor):
  """MRPC: do two sentences say the same?"""

  text_columns = (3, 4)
  label_column = 0
  metrics = ("f1",)


class QqpProcessor(ColumnProcessor):
  """QQP: do two questions ask the same?

  The official training file has some rows without all of their columns: these
  are left out, and counted.
  """

  text_columns = (3, 4)
  test_text_columns = (1, 2)
  label_column = 5
  metrics = ("f1",)

  def _create_examples(self, lines, set_type):
    if set_type != "test":
      whole = lines[:1] + [
          line for line in lines[1:] if len(line) > self.label_column]
      if len(whole) < len(lines):
        tf.logging.warning(
            "%d of %d lines of QQP's %s file lack columns and are left out.",
            len(lines) - len(whole), len(lines), set_type)
      lines = whole
    return super()._create_examples(lines, set_type)


class StsbProcessor(ColumnProcessor):
  """STS-B: how alike are two sentences, from 0 to 5?"""

  labels = ()
  text_columns = (7, 8)
  label_column = 9
  is_regression = True
  metrics = ("pearson", "spearman")


class MnliProcessor(ColumnProcessor):
  """MNLI: does a text entail, contradict, or neither, a sentence?"""

  labels = ("contradiction", "entailment", "neutral")
  files = {"train": "train.tsv", "dev": "dev_matched.tsv",
           "test": "test_matched.tsv"}
  set_names = {"dev": "dev_matched"}
  text_columns = (8, 9)
  guid_column = 0


class MnliMismatchedProcessor(MnliProcessor):
  """MNLI, evaluated on genres that training does not have."""

  files = {"train": "train.tsv", "dev": "dev_mismatched.tsv",
           "test": "test_mismatched.tsv"}
  set_names = {"dev": "dev_mismatched"}


class AxProcessor(MnliProcessor):
  """AX: GLUE's diagnostic sentence pairs, for a model trained on MNLI."""

  files = dict(MnliProcessor.files, test="diagnostic.tsv")
  test_text_columns = (1, 2)


class QnliProcessor(ColumnProcessor):
  """QNLI: does a sentence answer a question?"""

  labels = ("entailment", "not_entailment")
  text_columns = (1, 2)
  label_column = 3


class RteProcessor(QnliProcessor):
  """RTE: does a text entail a sentence?"""


class WnliProcessor(ColumnProcessor):
  """WNLI: does a sentence resolve another's pronoun rightly?"""

  text_columns = (1, 2)
  label_column = 3


class XnliProcessor(ColumnProcessor):
  """XNLI: MNLI in 15 languages; trains on machine translations.

  Args:
    language: str, code of the language ("zh").
  """

  labels = ("contradiction", "entailment", "neutral")

  def __init__(self, language="zh"):
    self.language = language
    self.files = {
        "train": os.path.join(
            "multinli", "multinli.train.%s.tsv" % language),
        "dev": "xnli.dev.tsv",
        "test": "xnli.test.tsv",
    }

  def _create_examples(self, lines, set_type):
    if set_type == "train":
      self.text_columns, self.label_column = (0, 1), 2
      self._is_wanted = lambda line: True
    else:
      self.text_columns, self.label_column = (6, 7), 1
      self._is_wanted = lambda line: line[0] == self.language
    examples = super()._create_examples(lines, set_type)
    if not examples:
      raise ValueError(
          "No line of the %s file is in the language `%s` "
          "(--xnli_language)." % (set_type, self.language))
    return examples

  def _label(self, line, set_type):
    label = super()._label(line, set_type)
    # The translated training files spell this one differently.
    return "contradiction" if label == "contradictory" else label


class CustomProcessor(DataProcessor):
  """Files with a header that names the columns, as TSV or CSV.

  CSV fields may be quoted; in TSV, quotes are ordinary characters.

  Args:
    data_dir: str, folder with train, dev and test files.
    text_column: str, header of the first text.
    text_b_column: str or None, header of the second text.
    label_column: str, header of the label.
    labels: list of str, or None to take those of the training file.
    is_regression: bool, the label is a number.
  """

  def __init__(self, data_dir, text_column, text_b_column=None,
               label_column="label", labels=None, is_regression=False):
    self._data_dir = data_dir
    self._text_columns = [text_column] + [text_b_column] * bool(text_b_column)
    self._label_column = label_column
    self._labels = labels
    self.is_regression = is_regression
    self.metrics = ("pearson", "spearman") if is_regression else ()

  def get_train_examples(self, data_dir):
    return self._read_set(data_dir, "train")

  def get_dev_examples(self, data_dir):
    return self._read_set(data_dir, "dev")

  def get_test_examples(self, data_dir):
    return self._read_set(data_dir, "test")

  def get_labels(self):
    if self.is_regression:
      return []
    if self._labels is None:
      found = {example.label
               for example in self._read_set(self._data_dir, "train")}
      self._labels = sorted(found, key=_number_or_text)
      tf.logging.info("Labels in the training file: %s",
                      ", ".join(self._labels))
      if len(found) < 2:
        raise ValueError(
            "The column `%s` of the training file holds the same label "
            "everywhere: %s. There is nothing to tell apart."
            % (self._label_column, ", ".join(found)))
    return self._labels

  def _read_set(self, data_dir, set_type):
    rows = self._read_rows(data_dir, set_type)
    rows = [row for row in rows if row]
    if not rows:
      raise ValueError("The %s file in %s is empty." % (set_type, data_dir))
    header = rows[0]
    texts = [self._find_column(header, name) for name in self._text_columns]
    label = None
    if set_type != "test":
      label = self._find_column(header, self._label_column)
    return [self._create_example(row, index, texts, label, set_type)
            for index, row in enumerate(rows[1:])]

  def _create_example(self, row, index, texts, label, set_type):
    fields = [row[column] for column in texts]
    if label is None:
      value = 0.0 if self.is_regression else self.get_labels()[0]
    else:
      value = row[label].strip()
      if not value:
        raise ValueError("%s: the label is empty." % row.source)
    return InputExample(
        guid="%s-%d" % (set_type, index), text_a=fields[0],
        text_b=fields[1] if len(fields) > 1 else None,
        label=value, source=row.source)

  def _read_rows(self, data_dir, set_type):
    base = os.path.join(data_dir, set_type)
    if tf.gfile.Exists(base + ".tsv"):
      return self._read_tsv(base + ".tsv")
    if tf.gfile.Exists(base + ".csv"):
      path = base + ".csv"
      return _read_quoted(input_pipeline.read_text_lines(path), path, ",")
    raise ValueError("There is neither %s.tsv nor %s.csv." % (base, base))

  @staticmethod
  def _find_column(header, name):
    names = [field.strip() for field in header]
    if name not in names:
      raise ValueError(
          "%s: the header has no column `%s`; it has: %s. Name the columns "
          "with --text_column, --text_b_column and --label_column."
          % (header.source, name, ", ".join("`%s`" % n for n in names)))
    return names.index(name)


def _number_or_text(label):
  """Sorts labels that are numbers by value, before other labels."""
  try:
    return (0, float(label), label)
  except ValueError:
    return (1, 0.0, label)


# Task name, in lower case, to the class that reads it. Add yours here.
processors = {
    "ax": AxProcessor,
    "cola": ColaProcessor,
    "mnli": MnliProcessor,
    "mnli-mm": MnliMismatchedProcessor,
    "mrpc": MrpcProcessor,
    "qnli": QnliProcessor,
    "qqp": QqpProcessor,
    "rte": RteProcessor,
    "sst-2": Sst2Processor,
    "sts-b": StsbProcessor,
    "wnli": WnliProcessor,
    "xnli": XnliProcessor,
}

_TASK_ALIASES = {"sst2": "sst-2", "stsb": "sts-b", "mnlimm": "mnli-mm",
                 "mismnli": "mnli-mm", "mnli_mismatched": "mnli-mm"}


# Conversion.

_truncate_seq_pair = input_pipeline.truncate_seq_pair


def convert_single_example(ex_index, example, label_list, max_seq_length,
                           tokenizer):
  """Tokenises an example and packs it into `max_seq_length` ids.

  Args:
    ex_index: int, position in the data set; the first five are logged.
    example: InputExample or PaddingInputExample.
    label_list: list of str; empty or None for regression.
    max_seq_length: int, WordPiece tokens.
    tokenizer: tokenization.FullTokenizer.

  Returns:
    InputFeatures.

  Raises:
    ValueError: the label is not in the list, or no number for regression.
  """
  if isinstance(example, PaddingInputExample):
    zeros = [0] * max_seq_length
    return InputFeatures(zeros, zeros, zeros, label_id=0,
                         is_real_example=False)
  tokens, segment_ids = input_pipeline.pack_texts(
      tokenizer, example.text_a, example.text_b, max_seq_length)
  ids = tokenizer.convert_tokens_to_ids(tokens)
  features = InputFeatures(
      input_ids=input_pipeline.pad_to(ids, max_seq_length),
      input_mask=input_pipeline.pad_to([1] * len(ids), max_seq_length),
      segment_ids=input_pipeline.pad_to(segment_ids, max_seq_length),
      label_id=_label_id(example, label_list))
  if ex_index < NUM_EXAMPLES_LOGGED:
    input_pipeline.log_example(
        "guid", example.guid, tokens, input_ids=features.input_ids,
        input_mask=features.input_mask, segment_ids=features.segment_ids,
        label="%s (id = %s)" % (example.label, features.label_id))
  return features


def _label_id(example, label_list):
  """Index of an example's label, or its value if there is no list."""
  where = example.source or example.guid
  if not label_list:
    try:
      return float(example.label)
    except (TypeError, ValueError):
      raise ValueError("%s: the label must be a number, not `%s`."
                       % (where, example.label)) from None
  try:
    return label_list.index(example.label)
  except ValueError:
    raise ValueError(
        "%s: unknown label `%s`; the task's labels are %s." % (
            where, example.label,
            ", ".join("`%s`" % label for label in label_list))) from None


def convert_examples_to_features(examples, label_list, max_seq_length,
                                 tokenizer):
  """list of InputFeatures, in memory (see `convert_single_example`)."""
  return list(_iterate_features(
      examples, label_list, max_seq_length, tokenizer))


def _iterate_features(examples, label_list, max_seq_length, tokenizer):
  # `disable=None`: no bar where standard error is not a terminal.
  for index, example in enumerate(
      tqdm.tqdm(examples, desc="Tokenising", unit="ex", disable=None)):
    if index % 10000 == 0:
      tf.logging.info("Writing example %d of %d", index, len(examples))
    yield convert_single_example(
        index, example, label_list, max_seq_length, tokenizer)


def file_based_convert_examples_to_features(
    examples, label_list, max_seq_length, tokenizer, output_file):
  """Writes the examples' features to a TFRecord file, whole or not at all."""
  with input_pipeline.atomic_record_writer(output_file) as writer:
    for features in _iterate_features(
        examples, label_list, max_seq_length, tokenizer):
      ints = {
          "input_ids": features.input_ids,
          "input_mask": features.input_mask,
          "segment_ids": features.segment_ids,
          "is_real_example": [int(features.is_real_example)],
      }
      label = {"label_ids": [features.label_id]}
      if label_list:
        ints.update(label)
      writer.write(input_pipeline.serialize_example(
          ints, floats=None if label_list else label))


# Input functions.


def feature_spec(seq_length, is_regression=False):
  """What a record of `file_based_convert_examples_to_features` holds."""
  sequence = tf.FixedLenFeature([seq_length], tf.int64)
  label_type = tf.float32 if is_regression else tf.int64
  return {
      "input_ids": sequence,
      "input_mask": sequence,
      "segment_ids": sequence,
      "label_ids": tf.FixedLenFeature([], label_type),
      "is_real_example": tf.FixedLenFeature([], tf.int64),
  }


def file_based_input_fn_builder(input_file, seq_length, is_training,
                                drop_remainder, is_regression=False,
                                seed=None, start_step=0,
                                group_by_length=False):
  """An `input_fn` over a file of records (see `feature_spec`)."""
  return input_pipeline.record_input_fn(
      input_file, feature_spec(seq_length, is_regression), is_training,
      drop_remainder, seed=seed, start_step=start_step,
      group_by_length=group_by_length)


def input_fn_builder(features, seq_length, is_training, drop_remainder):
  """An `input_fn` over a list of InputFeatures held in memory.

  Args:
    features: list of InputFeatures, each `seq_length` long.
    seq_length: int, WordPiece tokens.
    is_training: bool, repeat and shuffle.
    drop_remainder: bool, leave out a last batch that is not full.

  Raises:
    ValueError: the features are of another length.
  """
  for item in features:
    if len(item.input_ids) != seq_length:
      raise ValueError("`seq_length` is %d, but a feature has %d ids."
                       % (seq_length, len(item.input_ids)))
  names = {"input_ids": "input_ids", "input_mask": "input_mask",
           "segment_ids": "segment_ids", "label_ids": "label_id",
           "is_real_example": "is_real_example"}
  arrays = {name: [getattr(item, attribute) for item in features]
            for name, attribute in names.items()}
  return input_pipeline.memory_input_fn(arrays, is_training, drop_remainder)


# The model.


def create_model(bert_config, is_training, input_ids, input_mask, segment_ids,
                 labels, num_labels, use_one_hot_embeddings,
                 real_tokens_only=False, is_regression=False,
                 compute_dtype=tf.float32, inference_kernels=False,
                 gradient_checkpointing=0):
  """BERT with a linear layer over the pooled output.

  Devlin et al., arXiv:1810.04805, section 4.1. Adds the variables
  `output_weights` [num_labels, D] and `output_bias` [num_labels].

  Args:
    bert_config: modeling.BertConfig.
    is_training: bool, apply dropout.
    input_ids: int [B, T].
    input_mask: int [B, T].
    segment_ids: int [B, T], the model's token types.
    labels: int [B] (float for regression), or None.
    num_labels: int; 1 for regression.
    use_one_hot_embeddings: bool, see `modeling.BertModel`.
    real_tokens_only: bool, likewise.
    is_regression: bool, learn the labels' values by squared error.
    compute_dtype: likewise.
    inference_kernels: bool, likewise.
    gradient_checkpointing: int, likewise.

  Returns:
    (loss, per_example_loss, logits, probabilities): float [], [B],
    [B, num_labels], [B, num_labels]. The first two are None without labels;
    for regression the last is the predicted value.
  """
  model = modeling.BertModel(
      bert_config, is_training, input_ids, input_mask, segment_ids,
      use_one_hot_embeddings, scope="bert", real_tokens_only=real_tokens_only,
      compute_dtype=compute_dtype, inference_kernels=inference_kernels,
      gradient_checkpointing=gradient_checkpointing)
  pooled = model.get_pooled_output()  # [B, D]
  output_weights = tf.get_variable(
      "output_weights", [num_labels, bert_config.hidden_size],
      initializer=modeling.create_initializer(0.02))
  output_bias = tf.get_variable(
      "output_bias", [num_labels], initializer=tf.zeros_initializer())
  with tf.variable_scope("loss"):
    pooled = modeling.dropout(pooled, 0.1 if is_training else 0.0)
    logits = tf.nn.bias_add(
        tf.matmul(pooled, output_weights, transpose_b=True), output_bias)
    probabilities = logits if is_regression else tf.nn.softmax(logits)
    if labels is None:
      return None, None, logits, probabilities
    if is_regression:
      per_example_loss = tf.square(
          logits[:, 0] - tf.cast(labels, tf.float32))  # [B]
    else:
      per_example_loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
          labels=labels, logits=logits)  # [B]
    return (tf.reduce_mean(per_example_loss), per_example_loss, logits,
            probabilities)


def model_fn_builder(bert_config, num_labels, init_checkpoint, learning_rate,
                     num_train_steps, num_warmup_steps, use_tpu,
                     use_one_hot_embeddings, real_tokens_only=False,
                     is_regression=False, metrics=(),
                     compute_dtype=tf.float32, gradient_accumulation_steps=1,
                     gradient_checkpointing=0, optimizer="adamw",
                     freeze_layers=-1):
  """A `model_fn` for `estimators.create_estimator`.

  Args:
    bert_config: modeling.BertConfig.
    num_labels: int; 1 for regression.
    init_checkpoint: str or None.
    learning_rate: float, peak.
    num_train_steps: int or None, if there is no training.
    num_warmup_steps: int or None.
    use_tpu: bool.
    use_one_hot_embeddings: bool, see `modeling.BertModel`.
    real_tokens_only: bool, likewise.
    is_regression: bool.
    metrics: iterable of str, see `DataProcessor.metrics`.
    compute_dtype: tf.float32, tf.bfloat16 or tf.float16, see
      `modeling.BertModel`.
    gradient_accumulation_steps: int, parts of a training batch, see
      `optimization.accumulate_gradients`.
    gradient_checkpointing: int, see `modeling.BertModel`.
    optimizer: str, see `optimization.create_optimizer`.
    freeze_layers: int, embeddings and layers that are not trained, see
      `modeling.lower_scopes`.

  Returns:
    function (features, labels, mode, params, config) to an EstimatorSpec.
  """

  def model_fn(features, labels, mode, params, config=None):
    del labels, params  # Labels come as a feature; params hold a batch size.
    estimators.log_features(features)

    def build(features):
      return create_model(
          bert_config, mode == estimators.ModeKeys.TRAIN,
          features["input_ids"], features["input_mask"],
          features["segment_ids"], features.get("label_ids"), num_labels,
          use_one_hot_embeddings, real_tokens_only, is_regression,
          compute_dtype, inference_kernels=not use_tpu,
          gradient_checkpointing=gradient_checkpointing)

    def initialize():
      return estimators.init_from_checkpoint(
          init_checkpoint, use_tpu, mode, config and config.model_dir)

    if mode == estimators.ModeKeys.TRAIN:
      scale_loss = compute_dtype == tf.float16
      frozen = modeling.lower_scopes(freeze_layers)
      (loss,), gradients = optimization.accumulate_gradients(
          lambda part: [build(part)[0]], features,
          gradient_accumulation_steps, scale_loss, frozen)
      scaffold_fn = initialize()
      train_op = optimization.create_optimizer(
          loss, learning_rate, num_train_steps, num_warmup_steps, use_tpu,
          scale_loss=scale_loss, gradients=gradients, optimizer=optimizer,
          frozen=frozen)
      return estimators.estimator_spec(
          mode=mode, loss=loss, train_op=train_op, scaffold_fn=scaffold_fn)
    loss, per_example_loss, logits, probabilities = build(features)
    scaffold_fn = initialize()
    if mode == estimators.ModeKeys.EVAL:
      is_real = features.get("is_real_example")
      is_real = (tf.ones_like(per_example_loss) if is_real is None
                 else tf.cast(is_real, tf.float32))
      metric_fn = (_regression_metrics if is_regression
                   else _classification_metrics)
      return estimators.estimator_spec(
          mode=mode, loss=loss, scaffold_fn=scaffold_fn,
          eval_metrics=(
              lambda *tensors: metric_fn(*tensors, names=metrics),
              [per_example_loss, features["label_ids"], logits, is_real]))
    predictions = {"probabilities": probabilities}
    if input_pipeline.EXAMPLE_INDEX in features:
      predictions[input_pipeline.EXAMPLE_INDEX] = features[
          input_pipeline.EXAMPLE_INDEX]
    return estimators.estimator_spec(
        mode=mode, predictions=predictions, scaffold_fn=scaffold_fn)

  return model_fn


# Metrics.


def _classification_metrics(per_example_loss, label_ids, logits, is_real,
                            names=()):
  """Accuracy, mean loss and what `names` asks for, over real examples."""
  predictions = tf.argmax(logits, axis=-1, output_type=tf.int32)
  results = {
      "eval_accuracy": tf.metrics.accuracy(
          label_ids, predictions, weights=is_real),
      "eval_loss": tf.metrics.mean(per_example_loss, weights=is_real),
  }
  if not names:
    return results
  counts, update = _confusion_counts(
      label_ids, predictions, is_real, logits.shape.as_list()[-1])
  functions = {"f1": f1_score, "matthews_correlation": matthews_correlation}
  for name in names:
    # The counts are updated once, with the first metric that needs them.
    results["eval_" + name] = (functions[name](counts), update)
  return results


def _confusion_counts(label_ids, predictions, weights, num_labels):
  """Counts [label, prediction] summed over batches, and the op that adds."""
  counts = tf.Variable(
      tf.zeros([num_labels, num_labels], tf.float64), trainable=False,
      collections=[tf.GraphKeys.LOCAL_VARIABLES,
                   tf.GraphKeys.METRIC_VARIABLES])
  batch = tf.math.confusion_matrix(
      label_ids, predictions, num_labels, dtype=tf.float64,
      weights=tf.cast(weights, tf.float64))
  return counts, tf.assign_add(counts, batch)


def f1_score(counts):
  """F1 of label 1: harmonic mean of precision and recall.

  Args:
    counts: float [2, 2], examples by label and prediction.

  Returns:
    float scalar; 0 if label 1 neither occurs nor is predicted.
  """
  return tf.math.divide_no_nan(
      2.0 * counts[1, 1],
      2.0 * counts[1, 1] + counts[0, 1] + counts[1, 0])


def matthews_correlation(counts):
  """Correlation of labels and predictions over two classes, from -1 to 1.

  Matthews, "Comparison of the predicted and observed secondary structure of
  T4 phage lysozyme" (1975).

  Args:
    counts: float [2, 2], examples by label and prediction.

  Returns:
    float scalar; 0 if all labels, or all predictions, are the same.
  """
  covariance = counts[0, 0] * counts[1, 1] - counts[0, 1] * counts[1, 0]
  # The product of the two labels' and the two predictions' totals.
  totals = tf.concat([tf.reduce_sum(counts, 0), tf.reduce_sum(counts, 1)], 0)
  return tf.math.divide_no_nan(
      covariance, tf.sqrt(tf.reduce_prod(totals)))


def _regression_metrics(per_example_loss, label_ids, logits, is_real,
                        names=()):
  """Mean squared error and what `names` asks for, over real examples."""
  results = {
      "eval_loss": tf.metrics.mean(per_example_loss, weights=is_real)}
  is_real = tf.greater(is_real, 0)
  pairs = tf.stack([tf.boolean_mask(tf.cast(label_ids, tf.float32), is_real),
                    tf.boolean_mask(logits[:, 0], is_real)])  # [2, B]
  seen, update = _seen_so_far(pairs)
  functions = {"pearson": pearson_correlation,
               "spearman": spearman_correlation}
  for name in names:
    results["eval_" + name] = (functions[name](seen[0], seen[1]), update)
  return results


def _seen_so_far(columns):
  """All batches' columns side by side, and the op that appends to them."""
  seen = tf.Variable(
      tf.zeros([2, 0]), shape=tf.TensorShape([2, None]), trainable=False,
      use_resource=True,  # Of no fixed shape.
      collections=[tf.GraphKeys.LOCAL_VARIABLES,
                   tf.GraphKeys.METRIC_VARIABLES])
  update = tf.assign(seen, tf.concat([seen.read_value(), columns], axis=1),
                     validate_shape=False)
  return seen.read_value(), update


def pearson_correlation(x, y):
  """Pearson's correlation of two float [n]; 0 if either is constant."""
  x -= tf.reduce_mean(x)
  y -= tf.reduce_mean(y)
  return tf.math.divide_no_nan(
      tf.reduce_sum(x * y),
      tf.sqrt(tf.reduce_sum(x * x) * tf.reduce_sum(y * y)))


def spearman_correlation(x, y):
  """Pearson's correlation of the ranks of two float [n]."""
  return pearson_correlation(_average_ranks(x), _average_ranks(y))


def _average_ranks(values):
  """Each value's rank; equal ones share the mean of theirs."""
  ordered = tf.sort(values)
  below = tf.searchsorted(ordered, values, side="left")
  up_to = tf.searchsorted(ordered, values, side="right")
  return tf.cast(below + up_to, tf.float32) / 2.0


# The run.


def _create_processor():
  """The processor of --task_name, with the flags it needs."""
  task_name = FLAGS.task_name.lower()
  if task_name not in processors:
    task_name = _TASK_ALIASES.get(task_name, task_name)
  if task_name == "custom" and task_name not in processors:
    return CustomProcessor(
        FLAGS.data_dir, FLAGS.text_column, FLAGS.text_b_column,
        FLAGS.label_column, FLAGS.labels, FLAGS.regression)
  if processors.get(task_name) is XnliProcessor:
    return XnliProcessor(FLAGS.xnli_language)
  if task_name not in processors:
    raise ValueError(
        "Task not found: --task_name=%s. There are %s, and `custom` for files "
        "of your own." % (FLAGS.task_name, ", ".join(sorted(processors))))
  return processors[task_name]()


def _read_examples(processor, label_list):
  """Examples of the sets this run needs; checked before any work is done."""
  readers = {"train": (FLAGS.do_train, processor.get_train_examples),
             "eval": (FLAGS.do_eval, processor.get_dev_examples),
             "predict": (FLAGS.do_predict, processor.get_test_examples)}
  examples = {}
  for name, (is_needed, read) in readers.items():
    if not is_needed:
      continue
    examples[name] = read(FLAGS.data_dir)
    if not examples[name]:
      raise ValueError("There is no example to %s with in --data_dir=%s."
                       % (name, FLAGS.data_dir))
    for example in examples[name]:
      if name == "predict" and example.label is None:
        # A label that nothing reads: there is room for one in the records.
        example.label = label_list[0] if label_list else 0.0
      _label_id(example, label_list)
  return examples


def _write_records(name, examples, label_list, tokenizer):
  """Writes `<output_dir>/<name>.tf_record`; returns its path."""
  path = os.path.join(FLAGS.output_dir, name + ".tf_record")
  file_based_convert_examples_to_features(
      examples, label_list, FLAGS.max_seq_length, tokenizer, path)
  return path


def _pad_for_tpu(examples, batch_size):
  """On a TPU, examples filled up to whole batches; else as they are."""
  if not FLAGS.use_tpu:
    return examples
  missing = -len(examples) % batch_size
  return examples + [PaddingInputExample()] * missing


def _train(estimator, examples, label_list, tokenizer, num_train_steps):
  path = _write_records("train", examples, label_list, tokenizer)
  tf.logging.info("***** Running training *****")
  tf.logging.info("  Num examples = %d", len(examples))
  tf.logging.info("  Batch size = %d", FLAGS.train_batch_size)
  tf.logging.info("  Num steps = %d", num_train_steps)
  estimators.train(
      estimator,
      file_based_input_fn_builder(
          path, FLAGS.max_seq_length, is_training=True, drop_remainder=True,
          is_regression=not label_list, seed=FLAGS.seed,
          start_step=estimators.trained_steps(FLAGS.output_dir),
          group_by_length=FLAGS.group_by_length),
      num_train_steps, FLAGS.train_batch_size, FLAGS.log_steps, FLAGS.use_tpu)


def _evaluate(estimator, examples, label_list, tokenizer):
  padded = _pad_for_tpu(examples, FLAGS.eval_batch_size)
  path = _write_records("eval", padded, label_list, tokenizer)
  tf.logging.info("***** Running evaluation *****")
  tf.logging.info("  Num examples = %d (%d actual, %d padding)", len(padded),
                  len(examples), len(padded) - len(examples))
  tf.logging.info("  Batch size = %d", FLAGS.eval_batch_size)
  # A TPU must be told when to stop; elsewhere the data simply ends.
  steps = len(padded) // FLAGS.eval_batch_size if FLAGS.use_tpu else None
  results = estimator.evaluate(
      input_fn=file_based_input_fn_builder(
          path, FLAGS.max_seq_length, is_training=False,
          drop_remainder=FLAGS.use_tpu, is_regression=not label_list,
          group_by_length=not FLAGS.use_tpu),
      steps=steps)
  estimators.write_eval_results(FLAGS.output_dir, results)


def _predict(estimator, examples, label_list, tokenizer):
  padded = _pad_for_tpu(examples, FLAGS.predict_batch_size)
  path = _write_records("predict", padded, label_list, tokenizer)
  tf.logging.info("***** Running prediction*****")
  tf.logging.info("  Num examples = %d (%d actual, %d padding)", len(padded),
                  len(examples), len(padded) - len(examples))
  tf.logging.info("  Batch size = %d", FLAGS.predict_batch_size)
  results = estimator.predict(
      input_fn=file_based_input_fn_builder(
          path, FLAGS.max_seq_length, is_training=False,
          drop_remainder=FLAGS.use_tpu, is_regression=not label_list,
          group_by_length=not FLAGS.use_tpu))
  tf.logging.info("***** Predict results *****")
  results = tqdm.tqdm(results, "Predicting", len(padded), disable=None)
  probabilities = [result["probabilities"]
                   for result in input_pipeline.restore_order(results)]
  write_predictions(FLAGS.output_dir, examples, label_list,
                    probabilities[:len(examples)])


def write_predictions(output_dir, examples, label_list, probabilities):
  """Writes `test_results.tsv` and `predictions.tsv`, a line an example.

  The first has no header and each label's probability (for regression the
  value); the second a header, the example's id, the most probable label and
  its probability (for regression the id and the value).

  Args:
    output_dir: str.
    examples: list of InputExample.
    label_list: list of str; empty for regression.
    probabilities: list of float [num_labels], one for each example.

  Raises:
    ValueError: there are more or fewer results than examples.
  """
  if len(probabilities) != len(examples):
    raise ValueError("There are %d results for %d examples."
                     % (len(probabilities), len(examples)))
  path = os.path.join(output_dir, "test_results.tsv")
  with input_pipeline.atomic_writer(path) as writer:
    for row in probabilities:
      writer.write("\t".join(str(value) for value in row) + "\n")
  path = os.path.join(output_dir, "predictions.tsv")
  with input_pipeline.atomic_writer(path) as writer:
    writer.write("id\tprediction\tprobability\n" if label_list
                 else "id\tprediction\n")
    for example, row in zip(examples, probabilities):
      if label_list:
        best = row.argmax()
        fields = (example.guid, label_list[best], str(row[best]))
      else:
        fields = (example.guid, str(row[0]))
      writer.write("\t".join(fields) + "\n")


def _export(config, processor, label_list):
  """Writes the newest checkpoint's model to --export_dir."""

  def build_signatures(inputs):
    *_, probabilities = create_model(
        config, False, *[inputs[name] for name in saved_models.INPUTS],
        labels=None, num_labels=max(len(label_list), 1),
        use_one_hot_embeddings=False, real_tokens_only=FLAGS.real_tokens_only,
        is_regression=processor.is_regression)
    return {"serving_default": {"probabilities": probabilities}}

  saved_models.write(
      FLAGS.export_dir, build_signatures,
      estimators.latest_checkpoint(FLAGS.output_dir) or FLAGS.init_checkpoint,
      saved_models.make_assets(
          FLAGS.vocab_file, config, kind="classifier", labels=label_list,
          do_lower_case=FLAGS.do_lower_case,
          max_seq_length=FLAGS.max_seq_length))


def _check_flags():
  """What can be known to be wrong before anything is read or made."""
  tokenization.validate_case_matches_checkpoint(
      FLAGS.do_lower_case, FLAGS.init_checkpoint)
  if not (FLAGS.do_train or FLAGS.do_eval or FLAGS.do_predict or
          FLAGS.export_dir):
    raise ValueError(
        "Nothing to do: at least one of --do_train, --do_eval, --do_predict "
        "and --export_dir must be given.")
  saved_models.check_export_dir(FLAGS.export_dir)
  config = modeling.BertConfig.from_json_file(FLAGS.bert_config_file)
  estimators.check_sequence_length(FLAGS.max_seq_length, config)
  estimators.check_freeze_layers(FLAGS.freeze_layers, config)
  estimators.check_use_tpu(FLAGS.use_tpu)
  if FLAGS.init_checkpoint:
    modeling.resolve_checkpoint_path(FLAGS.init_checkpoint)
  return config


def _create_tokenizer(config):
  tokenizer = tokenization.FullTokenizer(
      FLAGS.vocab_file, do_lower_case=FLAGS.do_lower_case)
  estimators.check_vocab(tokenizer.vocab, config, FLAGS.vocab_file)
  return tokenizer


def main(_):
  """Trains, evaluates and predicts as the flags say."""
  tf.logging.set_verbosity(tf.logging.INFO)
  config = _check_flags()
  processor = _create_processor()
  tokenizer = _create_tokenizer(config)
  label_list = [] if processor.is_regression else processor.get_labels()
  examples = _read_examples(processor, label_list)
  num_train_steps = num_warmup_steps = None
  if FLAGS.do_train:
    num_train_steps, num_warmup_steps = estimators.training_steps(
        len(examples["train"]), FLAGS.train_batch_size,
        FLAGS.num_train_epochs, FLAGS.warmup_proportion)
  tf.gfile.MakeDirs(FLAGS.output_dir)
  estimators.report_existing_checkpoint(
      FLAGS.output_dir, FLAGS.init_checkpoint, FLAGS.do_train,
      num_train_steps)

  model_fn = model_fn_builder(
      config, max(len(label_list), 1), FLAGS.init_checkpoint,
      FLAGS.learning_rate, num_train_steps, num_warmup_steps, FLAGS.use_tpu,
      use_one_hot_embeddings=FLAGS.use_tpu,
      real_tokens_only=common_flags.skips_padding(FLAGS),
      is_regression=processor.is_regression, metrics=processor.metrics,
      compute_dtype=estimators.choose_compute_dtype(
          FLAGS.mixed_precision, FLAGS.use_tpu),
      gradient_accumulation_steps=FLAGS.gradient_accumulation_steps,
      gradient_checkpointing=FLAGS.gradient_checkpointing,
      optimizer=FLAGS.optimizer, freeze_layers=FLAGS.freeze_layers)
  estimator = estimators.create_estimator(
      model_fn=model_fn, **common_flags.estimator_arguments(FLAGS))
  if FLAGS.do_train:
    _train(estimator, examples["train"], label_list, tokenizer,
           num_train_steps)
  if FLAGS.do_eval:
    _evaluate(estimator, examples["eval"], label_list, tokenizer)
  if FLAGS.do_predict:
    _predict(estimator, examples["predict"], label_list, tokenizer)
  if FLAGS.export_dir:
    _export(config, processor, label_list)


if __name__ == "__main__":
  flags.mark_flags_as_required([
      "data_dir", "task_name", "vocab_file", "bert_config_file",
      "output_dir"])
  common_flags.run(main)
