"""Predicts with an exported model: raw text in, answers out.

  import predictor

  classifier = predictor.Predictor("/tmp/mrpc_export")
  classifier.classify(["one text", ("the first", "and the second of a pair")])
  reader = predictor.Predictor("/tmp/squad_export")
  reader.answer("Who wrote it?", "It was written by Ada Byron in 1843.")
  embedder = predictor.Predictor("/tmp/features_export")
  embedder.embed(["some text", "more text"])  # float32 [2, D]

The model is one that run_classifier.py, run_squad.py or extract_features.py
wrote with --export_dir. It is loaded once; after that a call costs what the
model costs. Calls may come from several threads. As a command, it reads lines
and writes a JSON object for each:

  python predictor.py --export_dir=/tmp/mrpc_export < lines.txt > results.jsonl

A line is a text, or a pair `first ||| second` (for a model that answers:
`question ||| context`).
"""

import collections
import itertools
import json
import sys

import numpy as np
import tensorflow.compat.v1 as tf
import tqdm
from absl import flags

import common_flags
import input_pipeline
import saved_models
import squad
import tokenization

FLAGS = flags.FLAGS

# Tokens, padding included, that go through the model at a time. Larger batches
# take memory and gain nothing: at this size the products fill the processor.
MAX_BATCH_TOKENS = 2048

# Bytes that the command reads at a time, at most; less when a pipe has less.
BLOCK_BYTES = 1 << 16

PAIR_SEPARATOR = " ||| "

Classification = collections.namedtuple(
    "Classification", ["label", "probability", "probabilities"])
Classification.__doc__ = """The most probable label of a text.

  Attributes:
    label: str.
    probability: float, of that label.
    probabilities: dict of every label to its probability.
  """

Span = collections.namedtuple(
    "Span", ["text", "start", "end", "score", "probability"])
Span.__doc__ = """A part of a context that may answer a question.

  Attributes:
    text: str, the words with single spaces in between; "" for no answer.
    start, end: int offsets into the context, None for no answer.
    score: float, sum of the start and the end logit.
    probability: float, among the spans it was found with.
  """

Answer = collections.namedtuple("Answer", Span._fields + (
    "null_score", "n_best"))
Answer.__doc__ = """The answer to a question: a `Span` and what it beat.

  Attributes:
    text, start, end, score, probability: as in `Span`.
    null_score: float, how much "no answer" scores above the best span; None
      for a model of SQuAD 1.1. The text is "" where it exceeds the threshold
      that the model was exported with.
    n_best: list of Span, best first.
  """


class Predictor:
  """A loaded model with its tokenizer.

  Attributes:
    kind: str, "classifier", "squad" or "features".
    labels: list of str, a classifier's, in the order of its output; empty for
      regression.
    settings: dict, all that was exported beside the model.
  """

  def __init__(self, export_dir, num_threads=0):
    """Loads a model; takes seconds.

    Args:
      export_dir: str, folder that --export_dir named.
      num_threads: int, of the processor to use in one call; 0 for all.

    Raises:
      ValueError: there is no whole model in the folder.
    """
    self._session = tf.Session(
        graph=tf.Graph(), config=tf.ConfigProto(
            intra_op_parallelism_threads=num_threads))
    signatures, self.settings, vocab_file = saved_models.load(
        self._session, export_dir)
    self.kind = self.settings["kind"]
    self.labels = self.settings.get("labels", [])
    self._max_seq_length = self.settings["max_seq_length"]
    self._tokenizer = tokenization.FullTokenizer(
        vocab_file, self.settings["do_lower_case"])
    signature = signatures["serving_default"]
    self._output_names = sorted(signature.outputs)
    self._run = self._session.make_callable(
        [signature.outputs[name].name for name in self._output_names],
        [signature.inputs[name].name for name in saved_models.INPUTS])

  def classify(self, texts):
    """Labels of texts, or numbers if the model was trained for regression.

    Args:
      texts: list of str, or of (str, str) for pairs.

    Returns:
      list of Classification, or of float, one for each text.

    Raises:
      ValueError: the model is no classifier.
    """
    self._check_kind("classifier", "classify")
    rows = self._run_texts(texts, "probabilities")
    if not self.labels:
      return [float(row[0]) for row in rows]
    results = []
    for row in rows:
      best = int(row.argmax())
      results.append(Classification(
          self.labels[best], float(row[best]),
          dict(zip(self.labels, row.tolist()))))
    return results

  def embed(self, texts):
    """Vectors of texts, pooled as --pooling said when they were exported.

    Args:
      texts: list of str, or of (str, str) for pairs.

    Returns:
      float32 [number of texts, D].

    Raises:
      ValueError: the model was not exported by extract_features.py.
    """
    self._check_kind("features", "embed")
    rows = self._run_texts(texts, "embedding")
    return np.stack(rows) if rows else np.zeros([0, 0], np.float32)

  def answer(self, question, context):
    """The answer to one question, an Answer; see `answer_all`."""
    return self.answer_all([(question, context)])[0]

  def answer_all(self, questions):
    """Answers questions, each out of its context.

    The answers are those of predictions.json: a long context is read in
    overlapping chunks, and a model of SQuAD 2.0 may say that there is none.

    Args:
      questions: list of (question, context), both str.

    Returns:
      list of Answer, one for each question.

    Raises:
      ValueError: the model was not exported by run_squad.py.
    """
    self._check_kind("squad", "answer")
    examples = [
        squad.SquadExample(str(number), tokenization.convert_to_unicode(text),
                           squad.split_words(context)[0])
        for number, (text, context) in enumerate(questions)]
    settings = self.settings
    builder = squad.FeatureBuilder(
        examples, self._tokenizer, self._max_seq_length,
        settings["doc_stride"], settings["max_query_length"],
        is_training=False)
    features, first_id = [], squad.FIRST_UNIQUE_ID
    for index in range(len(examples)):
      features.append(builder.build(index, first_id))
      first_id += len(features[-1])
    results = self._logits(list(itertools.chain.from_iterable(features)))
    options = squad.AnswerOptions(
        settings["n_best_size"], settings["max_answer_length"],
        settings["do_lower_case"], settings["version_2_with_negative"],
        settings["null_score_diff_threshold"], verbose=False)
    found = squad.answer_questions(
        examples, features.__getitem__, iter(results), options)
    return [_as_answer(answer, context)
            for answer, (_, context) in zip(found, questions)]

  def predict(self, texts):
    """`classify`, `answer_all` or `embed`, whatever the model is for."""
    return {"classifier": self.classify, "squad": self.answer_all,
            "features": self.embed}[self.kind](texts)

  def _check_kind(self, kind, method):
    if self.kind != kind:
      raise ValueError(
          "This model was exported as `%s`; %s() takes one exported as `%s`."
          % (self.kind, method, kind))

  def _run_texts(self, texts, output_name):
    """One row of the output for each text or pair, in order."""
    if isinstance(texts, (str, bytes)):
      raise ValueError(
          "A list of texts is needed, not a single text: [%.40r]" % texts)
    encoded = []
    for text in texts:
      text_a, text_b = (
          text if isinstance(text, (tuple, list)) else (text, None))
      tokens, segment_ids = input_pipeline.pack_texts(
          self._tokenizer, text_a, text_b, self._max_seq_length)
      encoded.append(
          (self._tokenizer.convert_tokens_to_ids(tokens), segment_ids))
    results = [None] * len(encoded)
    for indexes, outputs in self._run_batches(encoded):
      for index, row in zip(indexes, outputs[output_name]):
        results[index] = row
    return results

  def _logits(self, features):
    """A squad.RawResult for each InputFeatures, in order."""
    encoded = []
    for feature in features:
      length = len(feature.tokens)
      encoded.append(
          (feature.input_ids[:length], feature.segment_ids[:length]))
    results = [None] * len(features)
    for indexes, outputs in self._run_batches(encoded):
      for row, index in enumerate(indexes):
        length = len(encoded[index][0])
        results[index] = squad.RawResult(
            features[index].unique_id, outputs["start_logits"][row, :length],
            outputs["end_logits"][row, :length])
    return results

  def _run_batches(self, encoded):
    """Runs sequences through the model, similar lengths together.

    Args:
      encoded: list of (ids, segment_ids), lists of int.

    Yields:
      (indexes, outputs): list of indexes into `encoded`, and a dict of output
      name to array with a row for each.
    """
    lengths = [len(ids) for ids, _ in encoded]
    for indexes in _similar_length_batches(lengths):
      shape = [len(indexes), max(lengths[index] for index in indexes)]
      input_ids, input_mask, segment_ids = np.zeros([3] + shape, np.int32)
      for row, index in enumerate(indexes):
        length = lengths[index]
        input_ids[row, :length], segment_ids[row, :length] = encoded[index]
        input_mask[row, :length] = 1
      outputs = self._run(input_ids, input_mask, segment_ids)
      yield indexes, dict(zip(self._output_names, outputs))


def _similar_length_batches(lengths):
  """Yields lists of indexes, the longest sequences first.

  Args:
    lengths: list of int, tokens of each sequence.
  """
  order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
  while order:
    size = max(MAX_BATCH_TOKENS // max(lengths[order[0]], 1), 1)
    yield order[:size]
    order = order[size:]


def _as_answer(answer, context):
  """A squad.Answer with offsets into its context."""
  probabilities = squad.compute_softmax(
      [entry.start_logit + entry.end_logit for entry in answer.nbest])
  spans = []
  for entry, probability in zip(answer.nbest, probabilities):
    start, end = squad.context_span(context, entry) or (None, None)
    spans.append(Span(entry.text if entry.place else "", start, end,
                      entry.start_logit + entry.end_logit, probability))
  chosen = next((span for span in spans if span.text == answer.text),
                Span("", None, None, 0.0, 0.0))
  return Answer(*chosen, null_score=answer.null_odds, n_best=spans)


# The command.


def _parse_line(line, kind):
  """What `Predictor.predict` takes, from a line of input."""
  first, separator, second = line.strip().rpartition(PAIR_SEPARATOR)
  if not separator:
    return (second, "") if kind == "squad" else second
  return first, second


def _as_json(result):
  """A result as an object that `json` can write."""
  if isinstance(result, Answer):
    result = result._replace(n_best=[span._asdict() for span in result.n_best])
  if hasattr(result, "_asdict"):
    return result._asdict()
  if isinstance(result, np.ndarray):
    return {"embedding": [round(value, 6) for value in result.tolist()]}
  return {"value": result}


def _available_lines(stream):
  """Yields lists of lines, as many as there are at a time, undecoded."""
  rest = b""
  while True:
    block = stream.read1(BLOCK_BYTES)
    lines = (rest + block).split(b"\n")
    rest = lines.pop()
    if not block:
      break
    if lines:
      yield lines
  if rest:
    yield [rest]


def predict_lines(predictor, reader, writer):
  """Reads lines, writes a JSON object for each in the same order.

  Works through what has arrived, so it answers at once in a dialogue and in
  large batches on a file.

  Args:
    predictor: Predictor.
    reader: binary stream with `read1`.
    writer: text stream.
  """
  with tqdm.tqdm(unit="line", disable=None) as progress:
    for lines in _available_lines(reader):
      inputs = [_parse_line(line.decode("utf-8", "ignore"), predictor.kind)
                for line in lines]
      for result in predictor.predict(inputs):
        writer.write(json.dumps(_as_json(result), ensure_ascii=False) + "\n")
      writer.flush()
      progress.update(len(lines))


def main(_):
  """Predicts for the lines of standard input."""
  predictor = Predictor(FLAGS.export_dir, FLAGS.num_threads)
  predict_lines(predictor, sys.stdin.buffer, sys.stdout)


if __name__ == "__main__":
  common_flags.DEFINE_string(
      "export_dir", None,
      "Model exported by run_classifier.py, run_squad.py or "
      "extract_features.py.")
  common_flags.DEFINE_integer(
      "num_threads", 0, "Processor threads to use; 0 for all cores.")
  flags.mark_flag_as_required("export_dir")
  common_flags.run(main)
