"""SQuAD without the model: questions to features, logits to answers, scores.

  examples = squad.read_squad_examples("dev-v1.1.json", is_training=False)
  squad.convert_examples_to_features(
      examples, tokenizer, max_seq_length=384, doc_stride=128,
      max_query_length=64, is_training=False, output_fn=features.append)
  squad.write_predictions(examples, features, results, ...)

A context longer than the model's input is read through overlapping chunks. One
(question, chunk) pair is a *feature*; a question has as many as its context
has chunks, and their candidate answers compete.

No graph is built here, so that a served model answers with the same code as
run_squad.py.

SQuAD: Rajpurkar et al. 2016, arXiv:1606.05250; 2.0: 2018, arXiv:1806.03822.
"""

import bisect
import collections
import contextlib
import dataclasses
import functools
import json
import math
import re
import string

import numpy as np
import tensorflow.compat.v1 as tf
import tqdm

import input_pipeline
import tokenization

# Features are numbered from here on, over all questions.
FIRST_UNIQUE_ID = 1000000000

# The features of this many questions are logged.
NUM_LOGGED_QUESTIONS = 20

# What separates the words of a context. Other Unicode spaces stay inside them.
_WORD = re.compile("[^ \t\r\n\u202f]+")

# Score of "no answer" before any chunk was looked at: higher than any logits.
_NO_NULL_SCORE = 1000000


# Questions.


@dataclasses.dataclass(eq=False)
class SquadExample:
  """A question about a context.

  Attributes:
    qas_id: str, the question's id in the file.
    question_text: str.
    doc_tokens: list of str, the context's words; one list object shared by
      all questions about a context.
    orig_answer_text: str, the annotated answer (training only), "" for none.
    start_position: int, the answer's first word (training only), -1 for none.
    end_position: int, its last word, inclusive.
    is_impossible: bool, the context does not answer the question.
  """
  qas_id: str
  question_text: str
  doc_tokens: list
  orig_answer_text: str = None
  start_position: int = None
  end_position: int = None
  is_impossible: bool = False

  def __str__(self):
    return repr(self)

  def __repr__(self):
    parts = ["qas_id: %s" % tokenization.printable_text(self.qas_id),
             "question_text: %s" % tokenization.printable_text(
                 self.question_text),
             "doc_tokens: [%s]" % " ".join(self.doc_tokens)]
    if self.start_position is not None:
      parts.append("start_position: %d" % self.start_position)
      parts.append("end_position: %d" % self.end_position)
      parts.append("is_impossible: %r" % self.is_impossible)
    return ", ".join(parts)


def read_squad_examples(input_file, is_training,
                        version_2_with_negative=False):
  """Reads the questions of a SQuAD file.

  Questions whose annotated answer cannot be found in their context are left
  out of training, each with a warning; a last line counts them by reason.

  Args:
    input_file: str, path of a SQuAD 1.1 or 2.0 JSON file.
    is_training: bool, read the answers too.
    version_2_with_negative: bool, some questions have no answer.

  Returns:
    list of SquadExample, in file order.

  Raises:
    ValueError: the file is not SQuAD JSON, or a question to train on has not
      exactly one answer.
  """
  examples = []
  skipped = collections.Counter()
  marks = set()  # the values of `is_impossible` met, None where absent
  for context, questions in _paragraphs(input_file):
    words, word_starts = split_words(context)
    for question in questions:
      marks.add(question.get("is_impossible"))
      example = SquadExample(question["id"], question["question"], words)
      if is_training:
        problem = _add_answer(example, question, word_starts, len(context),
                              version_2_with_negative, input_file)
        if problem:
          skipped[problem] += 1
          continue
      examples.append(example)
  _report_reading(input_file, examples, skipped, marks, version_2_with_negative)
  return examples


def _paragraphs(input_file):
  """Yields (context, list of question dicts) of a SQuAD file."""
  for article_index, article in enumerate(load_json(input_file, "data")):
    if "paragraphs" not in article:
      raise ValueError("%s: data[%d] has no `paragraphs`."
                       % (input_file, article_index))
    for index, paragraph in enumerate(article["paragraphs"]):
      where = "%s: data[%d].paragraphs[%d]" % (input_file, article_index, index)
      if "context" not in paragraph or "qas" not in paragraph:
        raise ValueError("%s has no `context` or no `qas`." % where)
      for question in paragraph["qas"]:
        if "id" not in question or "question" not in question:
          raise ValueError("%s: a question has no `id` or no `question`: %r"
                           % (where, question))
      yield paragraph["context"], paragraph["qas"]


def load_json(path, key=None):
  """A JSON file's content, or its member `key`; ValueError names the file."""
  if not tf.gfile.Exists(path) or tf.gfile.IsDirectory(path):
    raise ValueError("No such file: %s" % path)
  with tf.gfile.GFile(path, "rb") as reader:
    text = reader.read().decode("utf-8-sig", "ignore")
  try:
    content = json.loads(text)
  except ValueError as error:
    raise ValueError("%s is not JSON: %s" % (path, error)) from error
  if key is None:
    return content
  if not isinstance(content, dict) or key not in content:
    raise ValueError("%s is not a SQuAD file: it has no `%s`." % (path, key))
  return content[key]


def split_words(text):
  """([word], [offset of its first character in `text`])."""
  matches = list(_WORD.finditer(text))
  return [match.group() for match in matches], [m.start() for m in matches]


def _add_answer(example, question, word_starts, context_length, version_2,
                input_file):
  """Fills in the answer to train on.

  Returns:
    None, or str, why the question has to be left out.

  Raises:
    ValueError: it has no answer, or several.
  """
  if version_2 and question.get("is_impossible", False):
    example.is_impossible = True
    example.start_position = example.end_position = -1
    example.orig_answer_text = ""
    return None
  answers = question.get("answers", [])
  if len(answers) != 1:
    hint = ""
    if question.get("is_impossible") and not version_2:
      hint = " This is SQuAD 2.0 data: pass --version_2_with_negative=True."
    raise ValueError(
        "%s: question %s has %d answers; training takes exactly one.%s"
        % (input_file, example.qas_id, len(answers), hint))
  text, offset = answers[0]["text"], answers[0]["answer_start"]
  if not text.strip():
    tf.logging.warning("Question %s: the answer is empty", example.qas_id)
    return "empty answer"
  last_offset = offset + len(text) - 1
  if offset < 0 or last_offset >= context_length:
    tf.logging.warning("Question %s: answer at characters %d-%d of %d",
                       example.qas_id, offset, last_offset, context_length)
    return "answer outside the context"
  example.orig_answer_text = text
  example.start_position = bisect.bisect_right(word_starts, offset) - 1
  example.end_position = bisect.bisect_right(word_starts, last_offset) - 1
  found = " ".join(
      example.doc_tokens[example.start_position:example.end_position + 1])
  wanted = " ".join(tokenization.whitespace_tokenize(text))
  # Mostly Unicode spaces, which end a word of the answer but not one of the
  # context.
  if wanted not in found:
    tf.logging.warning("Could not find answer: '%s' vs. '%s'", found, wanted)
    return "answer not found in the context"
  return None


def _report_reading(input_file, examples, skipped, marks, version_2):
  """Logs what was read, and data that does not look like the flag says."""
  reasons = "".join("; %s: %d" % item for item in sorted(skipped.items()))
  tf.logging.info("%s: %d questions, %d skipped%s", input_file, len(examples),
                  sum(skipped.values()), reasons)
  if version_2 and marks == {None}:
    tf.logging.warning(
        "%s is SQuAD 1.1 data (no `is_impossible`), yet "
        "--version_2_with_negative is set: every question counts as "
        "answerable.", input_file)
  if not version_2 and True in marks:
    tf.logging.warning(
        "%s is SQuAD 2.0 data (it has impossible questions), yet "
        "--version_2_with_negative is not set: every question gets an answer.",
        input_file)
  repeated = len(examples) - len({example.qas_id for example in examples})
  if repeated:
    tf.logging.warning(
        "%s: %d questions repeat an earlier id; predictions keep the last.",
        input_file, repeated)


# Features.


@dataclasses.dataclass(eq=False, repr=False)
class InputFeatures:
  """One chunk of a context with its question, ready for the model.

  Attributes:
    unique_id: int, number of the feature, from 1000000000.
    example_index: int, the question's index in the list of examples.
    doc_span_index: int, the chunk's index among those of its context.
    tokens: list of str, [CLS] question [SEP] chunk [SEP], not padded.
    token_to_orig_map: dict, position in `tokens` -> index in `doc_tokens`;
      has the chunk's positions only.
    token_is_max_context: dict, position in `tokens` -> bool: of all chunks
      that hold this token, this one shows it with the most context.
    input_ids, input_mask, segment_ids: lists of int, [max_seq_length].
    start_position: int, the answer's first token (training only); 0, the
      position of [CLS], when the chunk does not hold the answer.
    end_position: int, its last token, inclusive.
    is_impossible: bool, the question has no answer.
  """
  unique_id: int
  example_index: int
  doc_span_index: int
  tokens: list
  token_to_orig_map: dict
  token_is_max_context: dict
  input_ids: list
  input_mask: list
  segment_ids: list
  start_position: int = None
  end_position: int = None
  is_impossible: bool = None


_DocSpan = collections.namedtuple("_DocSpan", ["start", "length"])

# A context in WordPiece tokens ("pieces"); the two maps have an entry a piece
# and an entry a word.
_Pieces = collections.namedtuple(
    "_Pieces", ["tokens", "ids", "piece_to_word", "word_to_piece"])


def convert_examples_to_features(examples, tokenizer, max_seq_length,
                                 doc_stride, max_query_length, is_training,
                                 output_fn, drop_out_of_span=False):
  """Cuts questions and contexts into features, in order.

  For example, a question of 10 tokens about a context of 600 leaves 371 of 384
  tokens for the context; with a stride of 128 the chunks hold its tokens
  0-370, 128-498 and 256-599.

  Args:
    examples: list of SquadExample.
    tokenizer: tokenization.FullTokenizer.
    max_seq_length: int, tokens of a feature, padding included.
    doc_stride: int, tokens from one chunk's start to the next's.
    max_query_length: int, tokens kept of a question.
    is_training: bool, find the answers' positions too.
    output_fn: function called with each InputFeatures.
    drop_out_of_span: bool, leave out training chunks without the answer.

  Raises:
    ValueError: `doc_stride` is not positive, or a question leaves no room for
      its context.
  """
  examples = list(examples)
  builder = FeatureBuilder(examples, tokenizer, max_seq_length, doc_stride,
                            max_query_length, is_training, drop_out_of_span)
  unique_id = FIRST_UNIQUE_ID
  for index in tqdm.trange(len(examples), desc="features", unit="question",
                           disable=None):
    for feature in builder.build(index, unique_id):
      if index < NUM_LOGGED_QUESTIONS:
        _log_feature(feature, is_training)
      output_fn(feature)
      unique_id += 1
  builder.log_counts()


class FeatureBuilder:
  """Makes the features of one question at a time.

  A context is tokenised for the first of its questions and forgotten after
  the last, whatever order they come in.
  """

  def __init__(self, examples, tokenizer, max_seq_length, doc_stride,
               max_query_length, is_training, drop_out_of_span=False):
    if doc_stride < 1:
      raise ValueError(
          "`doc_stride` is %d; chunks must advance by at least 1 token (128 is "
          "usual)." % doc_stride)
    self._examples = examples
    self._tokenizer = tokenizer
    self._max_seq_length = max_seq_length
    self._doc_stride = doc_stride
    self._max_query_length = max_query_length
    self._is_training = is_training
    self._drop_out_of_span = drop_out_of_span
    self._cls_id, self._sep_id = tokenizer.convert_tokens_to_ids(
        ["[CLS]", "[SEP]"])
    self._contexts = {}
    self._uses_left = collections.Counter(
        id(example.doc_tokens) for example in examples)
    self._counts = collections.Counter()

  def build(self, example_index, first_unique_id):
    """The features of question `example_index`, a list of InputFeatures."""
    example = self._examples[example_index]
    context = self._context(example.doc_tokens)
    query = self._tokenizer.tokenize(example.question_text)
    if len(query) > self._max_query_length:
      self._counts["questions cut to max_query_length"] += 1
      query = query[:self._max_query_length]
    spans = self._doc_spans(len(context.tokens), len(query), example)
    best_spans = _max_context_spans(spans, len(context.tokens))
    answer = None
    if self._is_training and not example.is_impossible:
      answer = _answer_pieces(example, context, self._tokenizer)
    prefix_ids = [self._cls_id]
    prefix_ids += self._tokenizer.convert_tokens_to_ids(query)
    prefix_ids.append(self._sep_id)

    features = []
    for span_index, span in enumerate(spans):
      start, end = self._answer_in_span(span, answer, len(query) + 2)
      if answer and start == 0:
        self._counts["features without the answer"] += 1
        if self._drop_out_of_span:
          continue
      pieces = slice(span.start, span.start + span.length)
      tokens, segment_ids = input_pipeline.pack_segments(
          query, context.tokens[pieces])
      ids = prefix_ids + context.ids[pieces] + [self._sep_id]
      positions = range(len(query) + 2, len(tokens) - 1)
      features.append(InputFeatures(
          first_unique_id + len(features), example_index, span_index, tokens,
          dict(zip(positions, context.piece_to_word[pieces])),
          dict(zip(positions, (best_spans[pieces] == span_index).tolist())),
          input_pipeline.pad_to(ids, self._max_seq_length),
          input_pipeline.pad_to([1] * len(ids), self._max_seq_length),
          input_pipeline.pad_to(segment_ids, self._max_seq_length),
          start, end, example.is_impossible))
    self._counts["features"] += len(features)
    self._counts["questions about a blank context"] += int(not spans)
    return features

  def log_counts(self):
    """Logs how many features were made, and what was cut or left out."""
    tf.logging.info(
        "%d questions: %s", len(self._examples),
        ", ".join("%d %s" % (count, name)
                  for name, count in sorted(self._counts.items()) if count))

  def _context(self, doc_tokens):
    """`doc_tokens` as _Pieces."""
    key = id(doc_tokens)
    context = self._contexts.pop(key, None)
    if context is None:
      context = self._tokenize_words(doc_tokens)
    self._uses_left[key] -= 1
    if self._uses_left[key] > 0:
      self._contexts[key] = context
    return context

  def _tokenize_words(self, words):
    tokens, piece_to_word, word_to_piece = [], [], []
    for index, word in enumerate(words):
      word_to_piece.append(len(tokens))
      pieces = self._tokenizer.tokenize(word)
      tokens += pieces
      piece_to_word += [index] * len(pieces)
    return _Pieces(tokens, self._tokenizer.convert_tokens_to_ids(tokens),
                   piece_to_word, word_to_piece)

  def _doc_spans(self, num_pieces, query_length, example):
    """The chunks of a context, a list of _DocSpan; none when it is blank."""
    # Besides question and chunk: [CLS], [SEP] and [SEP].
    room = self._max_seq_length - query_length - 3
    if room < 1:
      raise ValueError(
          "`max_seq_length` %d leaves no room for a context beside the %d "
          "tokens of question %s; it must exceed `max_query_length` (%d) + 3."
          % (self._max_seq_length, query_length, example.qas_id,
             self._max_query_length))
    spans = []
    start = 0
    while start < num_pieces:
      spans.append(_DocSpan(start, min(room, num_pieces - start)))
      if start + room >= num_pieces:
        break
      start += min(room, self._doc_stride)
    return spans

  def _answer_in_span(self, span, answer, offset):
    """The answer's (first, last) position in a feature, (0, 0) for none.

    Args:
      span: _DocSpan.
      answer: (first, last) piece of the context, or None.
      offset: int, position of the chunk's first piece in the feature.
    """
    if not self._is_training:
      return None, None
    if (answer is None or answer[0] < span.start
        or answer[1] >= span.start + span.length):
      return 0, 0
    shift = offset - span.start
    return answer[0] + shift, answer[1] + shift


def _answer_pieces(example, context, tokenizer):
  """The (first, last) piece of the annotated answer."""
  first = context.word_to_piece[example.start_position]
  if example.end_position < len(example.doc_tokens) - 1:
    last = context.word_to_piece[example.end_position + 1] - 1
  else:
    last = len(context.tokens) - 1
  return improve_answer_span(context.tokens, first, last, tokenizer,
                              example.orig_answer_text)


def improve_answer_span(doc_tokens, input_start, input_end, tokenizer,
                         orig_answer_text):
  """Narrows a span of whole words to the pieces that spell the answer.

  Annotations are in characters, contexts are split at spaces. Where "Apollo
  flew (1961-1972)" answers "1972", the word is "(1961-1972)", whose pieces are
  "( 1961 - 1972 )"; the last but one is the answer. If the answer's pieces are
  not among them, as with "art" in the word "artist", the whole word stays.

  Args:
    doc_tokens: list of str, the context's pieces.
    input_start: int, first piece of the span.
    input_end: int, its last piece, inclusive.
    tokenizer: tokenization.FullTokenizer.
    orig_answer_text: str, the annotated answer.

  Returns:
    (first, last), the leftmost place of the answer's pieces in the span, or
    the span itself.
  """
  answer = tokenizer.tokenize(orig_answer_text)
  if answer:
    for first in range(input_start, input_end - len(answer) + 2):
      if doc_tokens[first:first + len(answer)] == answer:
        return first, first + len(answer) - 1
  return input_start, input_end


def _max_context_spans(doc_spans, num_pieces):
  """For each piece, the chunk that shows it with the most context.

  A piece's context in a chunk is the smaller number of neighbours it has on
  its left and on its right, plus a hundredth of the chunk's length, which
  separates a full chunk from a shorter last one. The first chunk wins a tie.

  Args:
    doc_spans: list of _DocSpan.
    num_pieces: int, pieces of the context.

  Returns:
    int array [num_pieces], indexes into `doc_spans`; constant time per piece
    of a chunk.
  """
  best_scores = np.full(num_pieces, -np.inf)
  best_spans = np.zeros(num_pieces, np.int32)
  for index, span in enumerate(doc_spans):
    pieces = slice(span.start, span.start + span.length)
    left = np.arange(span.length)
    scores = np.minimum(left, left[::-1]) + 0.01 * span.length
    better = scores > best_scores[pieces]
    best_scores[pieces][better] = scores[better]
    best_spans[pieces][better] = index
  return best_spans


def check_is_max_context(doc_spans, cur_span_index, position):
  """Whether this chunk shows a piece with the most context of all.

  The conversion asks for all pieces of a context at once,
  `_max_context_spans`; this is for callers with one.

  Args:
    doc_spans: list of objects with `start` and `length`, in pieces.
    cur_span_index: int, index into `doc_spans`.
    position: int, the piece's index in the context.

  Returns:
    bool, False when no chunk holds the piece.
  """
  num_pieces = max([0] + [span.start + span.length for span in doc_spans])
  if not 0 <= position < num_pieces:
    return False
  span = doc_spans[cur_span_index]
  holds = span.start <= position < span.start + span.length
  best_spans = _max_context_spans(doc_spans, num_pieces)
  return bool(holds and best_spans[position] == cur_span_index)


def _log_feature(feature, is_training):
  """Logs one feature, the way the first ones of a run are."""
  fields = collections.OrderedDict()
  fields["example_index"] = feature.example_index
  fields["doc_span_index"] = feature.doc_span_index
  for name in ("token_to_orig_map", "token_is_max_context"):
    mapping = getattr(feature, name)
    fields[name] = ["%d:%s" % item for item in mapping.items()]
  for name in ("input_ids", "input_mask", "segment_ids"):
    fields[name] = getattr(feature, name)
  if is_training and not feature.is_impossible:
    fields["start_position"] = feature.start_position
    fields["end_position"] = feature.end_position
    fields["answer"] = feature.tokens[
        feature.start_position:feature.end_position + 1]
  input_pipeline.log_example("unique_id", feature.unique_id, feature.tokens,
                             **fields)
  if is_training and feature.is_impossible:
    tf.logging.info("impossible example")


# Answers.


RawResult = collections.namedtuple(
    "RawResult", "unique_id start_logits end_logits")

# What one feature's logits keep: its n best starts and ends (index lists and
# float64 arrays) and the two logits of [CLS].
_BestLogits = collections.namedtuple(
    "_BestLogits", ["starts", "start_logits", "ends", "end_logits", "null"])

# The spans a question's features propose, best first: float64 or int arrays
# of one length. `start` is 0 for the null answer.
_Candidates = collections.namedtuple(
    "_Candidates", ["feature", "start", "end", "start_logit", "end_logit"])

# An answer. `place` is where it stands: the index of a word of the context and
# the number of characters from that word's beginning, words being a space
# apart; None for the answers "" and "empty".
Entry = collections.namedtuple("Entry", "text start_logit end_logit place")

Answer = collections.namedtuple("Answer", "qas_id text nbest null_odds")

AnswerOptions = collections.namedtuple("AnswerOptions", [
    "n_best_size", "max_answer_length", "do_lower_case", "version_2",
    "null_threshold", "verbose"])


def write_predictions(
    all_examples, all_features, all_results, n_best_size, max_answer_length,
    do_lower_case, output_prediction_file, output_nbest_file,
    output_null_log_odds_file, version_2_with_negative=False,
    null_score_diff_threshold=0.0, verbose_logging=False):
  """Turns logits into answers and writes the JSON files.

  Args:
    all_examples: list of SquadExample.
    all_features: list of InputFeatures made from them.
    all_results: list of RawResult, one per feature, in any order; logits are
      sequences of float, [max_seq_length].
    n_best_size: int, starts and ends combined per feature, and answers kept
      per question.
    max_answer_length: int, tokens.
    do_lower_case: bool, as for the tokenizer.
    output_prediction_file: str, where {question id: answer} goes.
    output_nbest_file: str, where {question id: [entry]} goes; an entry has
      text, probability, start_logit and end_logit.
    output_null_log_odds_file: str, where {question id: score of no answer
      minus score of the best answer} goes; SQuAD 2.0 only.
    version_2_with_negative: bool, questions may be left unanswered.
    null_score_diff_threshold: float, logits; unanswered above it.
    verbose_logging: bool, log answers that could not be aligned.

  Raises:
    ValueError: a feature has no result.
  """
  options = AnswerOptions(
      n_best_size, max_answer_length, do_lower_case, version_2_with_negative,
      null_score_diff_threshold, verbose_logging)

  features = collections.defaultdict(list)
  for feature in all_features:
    features[feature.example_index].append(feature)
  answers = answer_questions(all_examples, lambda index: features[index],
                     iter(all_results), options)
  write_answers(answers, options, output_prediction_file, output_nbest_file,
                 output_null_log_odds_file)


def answer_questions(examples, features_of, results, options):
  """Answers questions one after the other while the results come in.

  Only what answering needs is kept of a result that comes before its turn, so
  memory does not grow with the features as long as they come in order.

  Args:
    examples: list of SquadExample.
    features_of: function, index of an example -> list of its InputFeatures.
    results: iterator of RawResult, in any order.
    options: AnswerOptions.

  Yields:
    Answer.

  Raises:
    ValueError: a feature has no result.
  """
  waiting = {}
  for index in _answer_order(examples):
    features = features_of(index)
    for feature in features:
      while feature.unique_id not in waiting:
        result = next(results, None)
        if result is None:
          raise ValueError("The model returned nothing for feature %d "
                           "(question %s)."
                           % (feature.unique_id, examples[index].qas_id))
        waiting[result.unique_id] = _best_logits(result, options.n_best_size)
    best_logits = [waiting.pop(feature.unique_id) for feature in features]
    yield _answer(examples[index], features, best_logits, options)


def _answer_order(examples):
  """Indexes of the questions to answer; of a repeated id, the last question.

  A repeated id is answered in the place where it first appeared.
  """
  last = collections.OrderedDict()
  for index, example in enumerate(examples):
    last[example.qas_id] = index
  return last.values()


def _best_logits(result, n_best_size):
  """A RawResult cut down to what answering needs, a _BestLogits."""
  start_logits = np.asarray(result.start_logits, np.float64)
  end_logits = np.asarray(result.end_logits, np.float64)
  if np.isnan(start_logits).any() or np.isnan(end_logits).any():
    tf.logging.log_first_n(
        tf.logging.WARN, "Feature %d has NaN logits, which no answer will use: "
        "has the training diverged?", 5, result.unique_id)
  starts = get_best_indexes(start_logits, n_best_size)
  ends = get_best_indexes(end_logits, n_best_size)
  return _BestLogits(starts, start_logits[starts], ends, end_logits[ends],
                     (float(start_logits[0]), float(end_logits[0])))


def get_best_indexes(logits, n_best_size):
  """Indexes of the largest logits, largest first.

  Args:
    logits: sequence of float; NaN is never among the best.
    n_best_size: int, indexes to return at most.

  Returns:
    list of int; equal logits come in the order of their indexes.
  """
  if n_best_size < 1:
    return []
  logits = np.asarray(logits, np.float64)
  indexes = np.flatnonzero(logits == logits)  # NaN differs from itself.
  if len(indexes) > n_best_size:
    # Everything that reaches the n-th largest: ties may make it a few more.
    bar = np.partition(logits[indexes], -n_best_size)[-n_best_size]
    indexes = np.flatnonzero(logits >= bar)
  order = np.argsort(-logits[indexes], kind="stable")
  return indexes[order[:n_best_size]].tolist()


def _answer(example, features, best_logits, options):
  """Answers one question.

  Args:
    example: SquadExample.
    features: list of InputFeatures, its chunks.
    best_logits: list of _BestLogits, one per feature.
    options: AnswerOptions.

  Returns:
    Answer; `null_odds` is None unless SQuAD 2.0.
  """
  null_score, null_logits = _NO_NULL_SCORE, (0.0, 0.0)
  for logits in best_logits:
    if sum(logits.null) < null_score:
      null_score, null_logits = sum(logits.null), logits.null
  candidates = _span_candidates(
      features, best_logits, options.max_answer_length,
      null_logits if options.version_2 else None)
  nbest = _n_best(example, features, candidates, null_logits, options)
  if not options.version_2:
    return Answer(example.qas_id, nbest[0].text, nbest, None)
  best = next((entry for entry in nbest if entry.text),
              Entry("", 0.0, 0.0, None))
  null_odds = null_score - best.start_logit - best.end_logit
  text = choose_answer(best.text, null_odds, options.null_threshold)
  return Answer(example.qas_id, text, nbest, null_odds)


def choose_answer(best_text, null_odds, null_threshold):
  """The best answer, or "" when having none scores higher by the threshold."""
  return "" if null_odds > null_threshold else best_text


def _span_candidates(features, best_logits, max_answer_length, null_logits):
  """All spans that a question's features propose, best first.

  Every best start is paired with every best end. Pairs outside the chunk,
  reversed, too long, or starting on a token that another chunk shows with
  more context are dropped.

  Args:
    features: list of InputFeatures.
    best_logits: list of _BestLogits, one per feature.
    max_answer_length: int, tokens.
    null_logits: (start, end) logits of the null answer, or None.

  Returns:
    _Candidates. Equal sums of logits come in the order of features, then of
    best starts, then of best ends; the null answer comes last.
  """
  parts = []
  for index, (feature, best) in enumerate(zip(features, best_logits)):
    words, length = feature.token_to_orig_map, len(feature.tokens)
    is_max_context = feature.token_is_max_context
    start_ranks = [rank for rank, start in enumerate(best.starts)
                   if start < length and start in words
                   and is_max_context.get(start, False)]
    end_ranks = [rank for rank, end in enumerate(best.ends)
                 if end < length and end in words]
    starts = np.array([best.starts[rank] for rank in start_ranks], np.int64)
    ends = np.array([best.ends[rank] for rank in end_ranks], np.int64)
    distances = ends - starts[:, np.newaxis]  # [starts, ends]
    rows, columns = np.nonzero(
        (distances >= 0) & (distances < max_answer_length))
    parts.append(_Candidates(
        np.full(len(rows), index), starts[rows], ends[columns],
        best.start_logits[start_ranks][rows],
        best.end_logits[end_ranks][columns]))
  if null_logits is not None:
    parts.append(_Candidates([0], [0], [0], *([x] for x in null_logits)))
  if not parts:
    return _Candidates([], [], [], [], [])
  pool = [np.concatenate(columns) for columns in zip(*parts)]
  order = np.argsort(-(pool[3] + pool[4]), kind="stable")
  return _Candidates(*(column[order].tolist() for column in pool))


def _n_best(example, features, candidates, null_logits, options):
  """The best candidates with different texts, a list of Entry, never empty.

  SQuAD 2.0 appends the null answer, and the best answer that is not null, when
  `n_best_size` left them out; without any candidate the text is "empty".
  """
  nbest = []
  seen = set()
  for feature_index, start, end, *logits in zip(*candidates):
    # Choosing between an answer and none takes an answer, however late.
    needs_answer = options.version_2 and seen == {""}
    if len(nbest) >= options.n_best_size and not needs_answer:
      break
    text, place = "", None
    if start > 0:
      text, place = _span_text(
          example, features[feature_index], start, end, options)
      if text in seen:
        continue
    seen.add(text)
    nbest.append(Entry(text, *logits, place))
  if options.version_2 and "" not in seen:
    nbest.append(Entry("", *null_logits, None))
  return nbest or [Entry("empty", 0.0, 0.0, None)]


def _span_text(example, feature, start, end, options):
  """A span of tokens as it reads in the context, and its Entry's `place`."""
  words = feature.token_to_orig_map
  original = " ".join(example.doc_tokens[words[start]:words[end] + 1])
  pieces = " ".join(feature.tokens[start:end + 1])
  pieces = pieces.replace(" ##", "").replace("##", "")
  first, last = _align(" ".join(pieces.split()), original,
                       options.do_lower_case, options.verbose)
  return original[first:last + 1], (words[start], first)


def context_span(context, entry):
  """Where an answer stands in its context.

  Args:
    context: str, as it was split by `split_words`.
    entry: Entry.

  Returns:
    (start, end): offsets such that `context[start:end]` is the answer's text,
    but for what separates its words; None if it has no place.
  """
  if not entry.place or not entry.text:
    return None
  words, word_starts = split_words(context)

  def offset_in_context(index, offset):
    while offset >= len(words[index]):
      offset -= len(words[index]) + 1
      index += 1
    return word_starts[index] + offset

  index, offset = entry.place
  return (offset_in_context(index, offset),
          offset_in_context(index, offset + len(entry.text) - 1) + 1)


def get_final_text(pred_text, orig_text, do_lower_case, verbose_logging=False):
  """Finds the part of the original words that predicted tokens stand for.

  The tokens are lower-cased and without accents; the original words may carry
  more than was predicted. For "ada byron" predicted from "Ada Byron's" the
  answer should read "Ada Byron". So both are aligned through the words'
  basic tokens, character by character, leaving out spaces. Where the numbers
  of characters differ there is no alignment, and the whole words are returned.

  Args:
    pred_text: str, predicted tokens, WordPieces joined, a space between words.
    orig_text: str, the words of the context they lie in.
    do_lower_case: bool, as for the tokenizer.
    verbose_logging: bool, log why there is no alignment.

  Returns:
    str, a part of `orig_text`.
  """
  first, last = _align(pred_text, orig_text, do_lower_case, verbose_logging)
  return orig_text[first:last + 1]


def _align(pred_text, orig_text, do_lower_case, verbose_logging):
  """First and last character of `get_final_text`'s result in `orig_text`."""
  tok_text = _basic_text(orig_text, do_lower_case)
  start = tok_text.find(pred_text)
  end = start + len(pred_text) - 1
  stripped = orig_text.replace(" ", "")
  problem = None
  if start == -1:
    problem = "Unable to find text: '%s' in '%s'" % (pred_text, orig_text)
  elif len(stripped) != len(tok_text) - tok_text.count(" "):
    problem = "Length not equal after stripping spaces: '%s' vs '%s'" % (
        stripped, tok_text.replace(" ", ""))
  elif tok_text[start:start + 1] in ("", " "):
    problem = "Couldn't map start position"
  elif end < start or tok_text[end] == " ":
    problem = "Couldn't map end position"
  if problem:
    if verbose_logging:
      tf.logging.info("%s", problem)
    return 0, len(orig_text) - 1
  # Positions among the characters that are no spaces are common to both.
  return (_offset(orig_text, start - tok_text.count(" ", 0, start)),
          _offset(orig_text, end - tok_text.count(" ", 0, end)))


def _offset(text, position):
  """Where the `position`-th character of `text` that is no space stands."""
  offset = position
  while True:
    # As many spaces stand before it, at the least, as up to the last guess.
    further = position + text.count(" ", 0, offset + 1)
    if further == offset:
      return offset
    offset = further


@functools.lru_cache(maxsize=4096)
def _basic_text(text, do_lower_case):
  """The basic tokens of a text, joined by spaces."""
  # The tokenizer never looks across a space: words can be done, and
  # remembered, one at a time.
  words = [_basic_word(word, do_lower_case) for word in text.split(" ")]
  return " ".join(filter(None, words))


@functools.lru_cache(maxsize=1 << 16)
def _basic_word(word, do_lower_case):
  return " ".join(_basic_tokenizer(do_lower_case).tokenize(word))


@functools.lru_cache(maxsize=None)
def _basic_tokenizer(do_lower_case):
  return tokenization.BasicTokenizer(do_lower_case=do_lower_case)


def compute_softmax(scores):
  """Probabilities of a list of scores (logits), as a list of float."""
  if not scores:
    return []
  highest = max(scores)
  weights = [math.exp(score - highest) for score in scores]
  # Added up from left to right: `sum` is more exact from Python 3.12 on.
  total = functools.reduce(lambda subtotal, weight: subtotal + weight, weights)
  return [weight / total for weight in weights]


def write_answers(answers, options, prediction_file, nbest_file, odds_file):
  """Writes the JSON files; the large one, n-best, as the answers come.

  Args:
    answers: iterable of Answer.
    options: AnswerOptions.
    prediction_file: str, path.
    nbest_file: str, path.
    odds_file: str, path; SQuAD 2.0 only.

  Returns:
    (predictions, null_odds): dicts of question id to str and to float.
  """
  tf.logging.info("Writing predictions to: %s", prediction_file)
  tf.logging.info("Writing nbest to: %s", nbest_file)
  predictions = collections.OrderedDict()
  null_odds = collections.OrderedDict()
  with contextlib.ExitStack() as stack:
    nbest_writer = stack.enter_context(
        input_pipeline.atomic_writer(nbest_file))
    separator = "{\n"
    for answer in answers:
      predictions[answer.qas_id] = answer.text
      null_odds[answer.qas_id] = answer.null_odds
      nbest_writer.write(separator + _format_nbest(answer))
      separator = ",\n"
    nbest_writer.write("\n}\n" if predictions else "{}\n")
    write_json(prediction_file, predictions)
    if options.version_2:
      write_json(odds_file, null_odds)
  return predictions, null_odds


def write_json(path, content):
  with input_pipeline.atomic_writer(path) as writer:
    writer.write(json.dumps(content, indent=4) + "\n")


_NBEST_ENTRY = """        {
            "text": %s,
            "probability": %s,
            "start_logit": %s,
            "end_logit": %s
        }"""


def _format_nbest(answer):
  """One question of nbest_predictions.json, as `json.dumps(indent=4)` does.

  `json` indents in pure Python, which took longer than finding the answers.
  """
  probabilities = compute_softmax(
      [entry.start_logit + entry.end_logit for entry in answer.nbest])
  # One call for all numbers, whose text never holds the separator.
  numbers = iter(json.dumps([
      number for entry, probability in zip(answer.nbest, probabilities)
      for number in (probability, entry.start_logit, entry.end_logit)
  ])[1:-1].split(", "))
  entries = [
      _NBEST_ENTRY % (json.dumps(entry.text), next(numbers), next(numbers),
                      next(numbers))
      for entry in answer.nbest]
  return "    %s: [\n%s\n    ]" % (json.dumps(answer.qas_id),
                                   ",\n".join(entries))


# Scores.


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text):
  """An answer as the scorer compares it: "The  U.S.A." becomes "usa".

  Lower case, without ASCII punctuation and English articles, single spaces.
  """
  text = _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION))
  return " ".join(text.split())


def exact_match(prediction, reference):
  """1.0 if two answers are equal after `normalize_answer`, else 0.0."""
  return float(normalize_answer(prediction) == normalize_answer(reference))


def token_f1(prediction, reference, version_2=False):
  """Harmonic mean of precision and recall over the words of two answers.

  Args:
    prediction: str.
    reference: str.
    version_2: bool, two answers without any word agree (1.0). In SQuAD 1.1
      they share no word (0.0).
  """
  predicted = normalize_answer(prediction).split()
  wanted = normalize_answer(reference).split()
  if version_2 and not (predicted and wanted):
    return float(predicted == wanted)
  shared = collections.Counter(predicted) & collections.Counter(wanted)
  num_shared = sum(shared.values())
  if not num_shared:
    return 0.0
  precision = num_shared / len(predicted)
  recall = num_shared / len(wanted)
  return 2 * precision * recall / (precision + recall)


def score_predictions(input_file, predictions, null_odds=None,
                      version_2=False):
  """SQuAD's own scores, in percent.

  A question scores its best match among the reference answers. One without a
  prediction scores 0.

  Args:
    input_file: str, SQuAD JSON with the reference answers.
    predictions: dict, question id -> answer, "" for none.
    null_odds: dict, question id -> score of having no answer, or None;
      SQuAD 2.0 only.
    version_2: bool, SQuAD 2.0's definitions instead of 1.1's.

  Returns:
    dict. SQuAD 1.1: exact_match, f1, total. SQuAD 2.0: exact, f1, total; the
    same over questions with (HasAns_*) and without (NoAns_*) an answer; with
    `null_odds` also best_exact, best_f1 and the thresholds of `null_odds`
    that reach them, best_exact_thresh and best_f1_thresh.

  Raises:
    ValueError: the file holds no question, or no reference answers.
  """
  references = _read_references(input_file)
  missing = [qas_id for qas_id in references if qas_id not in predictions]
  if missing:
    tf.logging.warning("%d of %d questions have no prediction and score 0, "
                       "for example %s", len(missing), len(references),
                       missing[0])
  exact, f1 = collections.OrderedDict(), collections.OrderedDict()
  for qas_id, answers in references.items():
    answer = predictions.get(qas_id)
    if version_2:
      answers = [text for text in answers if normalize_answer(text)] or [""]
    if answer is None or not answers:
      exact[qas_id] = f1[qas_id] = 0.0
      continue
    exact[qas_id] = max(exact_match(answer, text) for text in answers)
    f1[qas_id] = max(token_f1(answer, text, version_2) for text in answers)
  if not version_2:
    return _mean_scores(exact, f1, references, exact_name="exact_match")
  return _version_2_scores(references, predictions, exact, f1, null_odds)


def _read_references(input_file):
  """{question id: [reference answer]}, an empty list where there is none."""
  references = collections.OrderedDict()
  for _, questions in _paragraphs(input_file):
    for question in questions:
      if "answers" not in question:
        raise ValueError("%s: question %s has no `answers` to score against."
                         % (input_file, question["id"]))
      references[question["id"]] = [
          answer["text"] for answer in question["answers"]]
  if not references:
    raise ValueError("%s holds no question." % input_file)
  return references


def _mean_scores(exact, f1, qas_ids, prefix="", exact_name="exact"):
  total = len(qas_ids)
  return collections.OrderedDict([
      (prefix + exact_name, 100.0 * sum(exact[i] for i in qas_ids) / total),
      (prefix + "f1", 100.0 * sum(f1[i] for i in qas_ids) / total),
      (prefix + "total", total)])


def _version_2_scores(references, predictions, exact, f1, null_odds):
  has_answer = {qas_id: bool(answers)
                for qas_id, answers in references.items()}
  scores = _mean_scores(exact, f1, references)
  for prefix, wanted in (("HasAns_", True), ("NoAns_", False)):
    group = [qas_id for qas_id in references if has_answer[qas_id] == wanted]
    if group:
      scores.update(_mean_scores(exact, f1, group, prefix))
  if null_odds:
    for name, by_question in (("best_exact", exact), ("best_f1", f1)):
      scores[name], scores[name + "_thresh"] = _best_threshold(
          by_question, has_answer, predictions, null_odds)
  return scores


def _best_threshold(scores, has_answer, predictions, null_odds):
  """The best mean score that a threshold on `null_odds` can reach.

  Starts with no question answered and answers one after the other, from the
  lowest odds of having no answer.

  Args:
    scores: dict, question id -> score of its prediction, 0 to 1.
    has_answer: dict, question id -> bool.
    predictions: dict, question id -> answer.
    null_odds: dict, question id -> score of having no answer.

  Returns:
    (score in percent, threshold).
  """
  current = best = sum(not answerable for answerable in has_answer.values())
  threshold = 0.0
  for qas_id in sorted(null_odds, key=null_odds.get):
    if qas_id not in scores:
      continue
    if has_answer[qas_id]:
      current += scores[qas_id]
    elif predictions.get(qas_id):
      current -= 1
    if current > best:
      best, threshold = current, null_odds[qas_id]
  return 100.0 * best / len(scores), threshold
