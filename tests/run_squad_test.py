"""Tests of run_squad: reading, features, answers, scores, model and run.

  python -m pytest tests/run_squad_test.py

The goldens are the published original's, see make_squad_goldens.py.
"""

import gzip
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import make_squad_goldens
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from absl.testing import flagsaver

import modeling
import run_squad
import squad
import tokenization

GOLDENS = pathlib.Path(__file__).parent / "goldens"
VOCAB_FILE = str(GOLDENS / "squad_vocab.txt")
CONFIG = {"vocab_size": 200, "hidden_size": 16, "num_hidden_layers": 2,
          "num_attention_heads": 2, "intermediate_size": 32,
          "max_position_embeddings": 64, "type_vocab_size": 2}


def goldens(kind):
  with gzip.open(str(GOLDENS / "squad_goldens.json.gz")) as reader:
    return json.loads(reader.read().decode("utf-8"))[kind]


def write_squad(path, contexts_and_questions):
  """Writes a SQuAD file; questions are dicts that get an id and a text."""
  paragraphs = []
  for number, (context, questions) in enumerate(contexts_and_questions):
    paragraphs.append({"context": context, "qas": [
        dict({"id": "%d-%d" % (number, i), "question": "Who was John?"},
             **question) for i, question in enumerate(questions)]})
  path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
  return str(path)


def answer(text, start):
  return {"answers": [{"text": text, "answer_start": start}]}


def tokenizer(lower=True):
  return tokenization.FullTokenizer(VOCAB_FILE, do_lower_case=lower)


def convert(examples, max_seq_length=32, doc_stride=8, max_query_length=8,
            is_training=False, lower=True, **options):
  features = []
  run_squad.convert_examples_to_features(
      examples, tokenizer(lower), max_seq_length, doc_stride,
      max_query_length, is_training, features.append, **options)
  return features


def predict(tmp_path, examples, features, results, n_best_size=20,
            version_2=False, threshold=0.0):
  """(predictions, n-best, null odds or None) that write_predictions writes."""
  paths = [str(tmp_path / name) for name in ("p.json", "n.json", "o.json")]
  run_squad.write_predictions(
      examples, features, results, n_best_size, 30, True, *paths,
      version_2_with_negative=version_2, null_score_diff_threshold=threshold,
      verbose_logging=False)
  return [json.loads(pathlib.Path(path).read_text())
          if os.path.exists(path) else None for path in paths]


def flat_results(features, length=32, start=None, end=None):
  """Results with logit 0 everywhere, or higher ones at given positions."""
  results = []
  for feature in features:
    logits = np.zeros((2, length))
    for side, peaks in enumerate((start or {}, end or {})):
      for position, value in peaks.items():
        logits[side, position] = value
    results.append(run_squad.RawResult(feature.unique_id, *logits.tolist()))
  return results


# Against the original.


@pytest.mark.parametrize("golden", goldens("features"),
                         ids=lambda golden: str(golden["case"]))
def test_features_equal_the_originals(golden):
  case = golden["case"]
  examples = run_squad.read_squad_examples(
      make_squad_goldens.input_path(case["data"]), case["training"],
      version_2_with_negative=case["data"] == "v2")
  features = convert(
      examples, case["max_seq_length"], case["doc_stride"],
      case["max_query_length"], case["training"], case["lower"])
  assert [vars(example) for example in examples] == golden["examples"]
  for feature, expected in zip(features, golden["features"]):
    assert make_squad_goldens.feature_fields(feature) == {
        name: [list(item) for item in value] if name.startswith("token_")
        else value for name, value in expected.items()}
  assert len(features) == len(golden["features"])


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("golden", goldens("answers"),
                         ids=lambda golden: str(golden["case"]))
def test_answer_files_equal_the_originals_byte_for_byte(
    golden, in_order, tmp_path):
  case = golden["case"]
  version_2 = case["data"] == "v2"
  examples = run_squad.read_squad_examples(
      make_squad_goldens.input_path(case["data"]), False, version_2)
  features = convert(examples, lower=case["lower"],
                     **make_squad_goldens.ANSWER_FEATURES)
  results = [
      run_squad.RawResult(feature.unique_id, *(
          make_squad_goldens.random_logits(
              case["seed"] + side, feature.unique_id, 64, case["decimals"])
          for side in (0, 100)))
      for feature in features]
  names = ["predictions.json", "nbest_predictions.json", "null_odds.json"]
  run_squad.write_predictions(
      examples, features, results if in_order else results[::-1],
      case["n_best_size"], case["max_answer_length"], case["lower"],
      *[str(tmp_path / name) for name in names],
      version_2_with_negative=version_2,
      null_score_diff_threshold=case["threshold"])
  written = {path.name: path.read_text() for path in tmp_path.iterdir()}
  assert written == golden["files"]


def test_best_indexes_are_those_of_a_stable_sort():
  rng = np.random.RandomState(0)
  for size, n_best_size in ((1, 1), (5, 20), (64, 20), (384, 1), (384, 60)):
    for decimals in (0, 6):
      logits = np.round(rng.randn(size), decimals).tolist()
      expected = sorted(range(size), key=lambda i: -logits[i])[:n_best_size]
      assert run_squad._get_best_indexes(logits, n_best_size) == expected
  assert run_squad._get_best_indexes([3.0, 1.0], 0) == []


def test_best_indexes_pass_over_nan():
  nan = float("nan")
  assert run_squad._get_best_indexes([nan, 1.0, 2.0], 3) == [2, 1]
  assert run_squad._get_best_indexes([nan, 1.0, 2.0, 0.0], 2) == [2, 1]


@pytest.mark.parametrize("room, stride", [(10, 3), (10, 10), (7, 1), (20, 19)])
def test_max_context_is_that_of_comparing_all_chunks(room, stride):
  num_pieces = 43
  starts = range(0, num_pieces - room + stride, stride)
  spans = [squad._DocSpan(start, min(room, num_pieces - start))
           for start in starts]
  for position in range(num_pieces):
    scores = [
        min(position - span.start, span.start + span.length - 1 - position)
        + 0.01 * span.length
        if span.start <= position < span.start + span.length else -1
        for span in spans]
    for index in range(len(spans)):
      assert run_squad._check_is_max_context(spans, index, position) == (
          index == scores.index(max(scores)))


def test_max_context_of_a_piece_in_no_chunk_is_false():
  spans = [squad._DocSpan(0, 4), squad._DocSpan(6, 4)]
  assert not run_squad._check_is_max_context(spans, 0, 5)
  assert not run_squad._check_is_max_context(spans, 1, 10)


def test_answer_span_narrows_to_the_answers_pieces():
  pieces = "the leader was john smith ( 1895 - 1943 ) .".split()

  class Words(object):

    def tokenize(self, text):
      return text.lower().split()

  assert run_squad._improve_answer_span(
      pieces, 5, 10, Words(), "1895") == (6, 6)
  assert run_squad._improve_answer_span(
      pieces, 3, 4, Words(), "John Smith") == (3, 4)
  assert run_squad._improve_answer_span(
      pieces, 5, 10, Words(), "Japan") == (5, 10)
  assert run_squad._improve_answer_span(pieces, 5, 10, Words(), "") == (5, 10)


@pytest.mark.parametrize("predicted, original, expected", [
    ("steve smith", "Steve Smith's", "Steve Smith"),
    ("1895", "(1895-1943).", "1895"),
    ("fiancee", "my Fianc\u00e9e,", "Fianc\u00e9e"),
    ("not there", "Steve Smith's", "Steve Smith's"),
    # Characters are lost in cleaning: no alignment.
    ("a b", "a\u200d b", "a\u200d b"),
    ("", "Steve", "Steve"),
    ("x", "", ""),
])
def test_final_text_is_cut_out_of_the_original_words(
    predicted, original, expected):
  assert run_squad.get_final_text(predicted, original, True) == expected


def test_softmax_of_scores():
  assert run_squad._compute_softmax([]) == []
  assert run_squad._compute_softmax([2.0, 2.0]) == [0.5, 0.5]
  assert run_squad._compute_softmax([1e4, -1e4]) == [1.0, 0.0]


# Reading.


def test_words_split_at_the_readers_spaces_only(tmp_path):
  path = write_squad(tmp_path / "q.json", [
      (" a\u00a0b\tc\u202fd\r\ne  f", [{}])])
  example, = run_squad.read_squad_examples(path, False, False)
  assert example.doc_tokens == ["a\u00a0b", "c", "d", "e", "f"]


def test_answer_positions_are_words_around_the_answers_characters(tmp_path):
  path = write_squad(tmp_path / "q.json", [
      ("  The bank (1895-1943).", [answer("1895", 12), answer("T", 2)])])
  examples = run_squad.read_squad_examples(path, True, False)
  assert [(example.start_position, example.end_position)
          for example in examples] == [(2, 2), (0, 0)]


def test_unusable_answers_are_skipped_and_counted_by_reason(tmp_path, caplog):
  path = write_squad(tmp_path / "q.json", [("one two three", [
      answer("two", 4), answer("", 4), answer("  ", 3), answer("three", 9),
      answer("one", -1), answer("one", 400), answer("two", 0)])])
  with caplog.at_level(logging.INFO):
    examples = run_squad.read_squad_examples(path, True, False)
  assert [example.qas_id for example in examples] == ["0-0"]
  assert ("1 questions, 6 skipped; answer not found in the context: 1; answer "
          "outside the context: 3; empty answer: 2") in caplog.text
  assert "Could not find answer: 'one' vs. 'two'" in caplog.text


def test_several_answers_or_none_stop_training(tmp_path):
  path = write_squad(tmp_path / "q.json", [("one", [
      {"answers": 2 * answer("one", 0)["answers"]}])])
  with pytest.raises(ValueError, match="question 0-0 has 2 answers"):
    run_squad.read_squad_examples(path, True, False)


def test_version_2_data_without_the_flag_names_the_flag(tmp_path, caplog):
  path = write_squad(tmp_path / "q.json", [
      ("one", [{"answers": [], "is_impossible": True}])])
  with pytest.raises(ValueError, match="pass --version_2_with_negative=True"):
    run_squad.read_squad_examples(path, True, False)
  assert len(run_squad.read_squad_examples(path, False, False)) == 1
  assert "SQuAD 2.0 data" in caplog.text
  example, = run_squad.read_squad_examples(path, True, True)
  assert (example.is_impossible, example.start_position,
          example.orig_answer_text) == (True, -1, "")


def test_version_1_data_under_the_version_2_flag_is_answerable(
    tmp_path, caplog):
  path = write_squad(tmp_path / "q.json", [("one", [answer("one", 0)])])
  example, = run_squad.read_squad_examples(path, True, True)
  assert not example.is_impossible
  assert "SQuAD 1.1 data" in caplog.text


@pytest.mark.parametrize("text, message", [
    ("{", "is not JSON"),
    ("{}", "has no `data`"),
    ('{"data": [{}]}', r"data\[0\] has no `paragraphs`"),
    ('{"data": [{"paragraphs": [{"qas": []}]}]}',
     r"data\[0\].paragraphs\[0\] has no `context`"),
    ('{"data": [{"paragraphs": [{"context": "", "qas": [{"id": "x"}]}]}]}',
     "a question has no `id` or no `question`"),
])
def test_what_is_no_squad_file_is_named(tmp_path, text, message):
  path = tmp_path / "q.json"
  path.write_text(text)
  with pytest.raises(ValueError, match=message) as error:
    run_squad.read_squad_examples(str(path), False, False)
  assert str(path) in str(error.value)


def test_byte_order_mark_is_skipped(tmp_path):
  path = tmp_path / "q.json"
  path.write_bytes(b'\xef\xbb\xbf{"data": []}')
  assert run_squad.read_squad_examples(str(path), False, False) == []


def test_example_shows_a_position_of_zero():
  example = run_squad.SquadExample("i", "q", ["a"], "a", 0, 0)
  assert str(example) == ("qas_id: i, question_text: q, doc_tokens: [a], "
                          "start_position: 0, end_position: 0, "
                          "is_impossible: False")


# Features.


def examples_of(contexts, **fields):
  return [run_squad.SquadExample(str(i), "was?", context.split(), **fields)
          for i, context in enumerate(contexts)]


def test_feature_is_laid_out_as_question_and_chunk():
  feature, = convert(examples_of(["John Smith was"]), max_seq_length=12)
  assert feature.tokens == ["[CLS]", "was", "?", "[SEP]", "john", "smith",
                            "was", "[SEP]"]
  assert feature.segment_ids == [0] * 4 + [1] * 4 + [0] * 4
  assert feature.input_mask == [1] * 8 + [0] * 4
  assert feature.token_to_orig_map == {4: 0, 5: 1, 6: 2}
  assert (feature.unique_id, feature.start_position) == (1000000000, None)


@pytest.mark.parametrize("doc_stride", [0, -1])
def test_stride_that_does_not_advance_is_rejected(doc_stride):
  with pytest.raises(ValueError, match="`doc_stride`"):
    convert(examples_of(["a b c"]), doc_stride=doc_stride)


def test_length_without_room_for_context_is_rejected():
  with pytest.raises(ValueError, match="`max_seq_length` 5 leaves no room"):
    convert(examples_of(["a b c"]), max_seq_length=5)


def test_blank_context_has_no_features():
  assert convert(examples_of([" ", "was"]))[0].example_index == 1


def test_a_context_is_tokenised_once_for_all_its_questions():
  words = "John Smith was".split()
  examples = [run_squad.SquadExample(str(i), "Who?", words) for i in range(5)]
  seen = []

  class Counting(tokenization.FullTokenizer):

    def tokenize(self, text):
      seen.append(text)
      return super(Counting, self).tokenize(text)

  run_squad.convert_examples_to_features(
      examples, Counting(VOCAB_FILE), 32, 8, 8, False, lambda feature: None)
  assert [text for text in seen if text != "Who?"] == words


def test_chunks_without_the_answer_can_be_dropped():
  example = run_squad.SquadExample(
      "i", "was?", ["john"] + ["was"] * 40, "john", 0, 0)
  kept = convert([example], is_training=True)
  assert kept[0].start_position == kept[0].end_position == 4
  assert [feature.start_position for feature in kept[1:]] == [0] * 2
  dropped = convert([example], is_training=True, drop_out_of_span=True)
  assert [feature.unique_id for feature in dropped] == [1000000000]


def test_feature_file_reads_back_through_the_input_function(tmp_path):
  path = str(tmp_path / "train.tf_record")
  example = run_squad.SquadExample("i", "was?", ["was", "john"], "john", 1, 1)
  with run_squad.FeatureWriter(path, is_training=True) as writer:
    run_squad.convert_examples_to_features(
        [example], tokenizer(), 12, 8, 8, True, writer.process_feature)
    assert not os.path.exists(path)
  assert writer.num_features == 1
  record, = tf.python_io.tf_record_iterator(path)
  fields = tf.train.Example.FromString(record).features.feature
  assert {name: list(field.int64_list.value)
          for name, field in fields.items() if name != "input_ids"} == {
              "unique_ids": [1000000000], "input_mask": [1] * 7 + [0] * 5,
              "segment_ids": [0] * 4 + [1] * 3 + [0] * 5,
              "start_positions": [5], "end_positions": [5],
              "is_impossible": [0]}
  input_fn = run_squad.input_fn_builder(path, 12, False, False)
  with tf.Graph().as_default(), tf.Session() as session:
    batch = session.run(tf.data.make_one_shot_iterator(
        input_fn({"batch_size": 2})).get_next())
  assert batch["unique_ids"].tolist() == [1000000000]
  assert batch["input_ids"].dtype == np.int32


def test_interrupted_writing_leaves_no_file(tmp_path):
  with pytest.raises(KeyError):
    with run_squad.FeatureWriter(str(tmp_path / "x"), is_training=False):
      raise KeyError()
  assert not list(tmp_path.iterdir())


# Answers where the original stops.


def test_blank_context_is_answered_by_nothing_or_empty(tmp_path):
  examples = examples_of([" "])
  predictions, nbest, _ = predict(tmp_path, examples, [], [])
  assert predictions == {"0": "empty"}
  assert nbest["0"] == [{"text": "empty", "probability": 1.0,
                         "start_logit": 0.0, "end_logit": 0.0}]
  predictions, nbest, odds = predict(
      tmp_path, examples, [], [], version_2=True, threshold=5.0)
  assert (predictions, nbest["0"][0]["text"]) == ({"0": ""}, "")
  assert odds["0"] == 1000000.0


def test_null_on_top_of_a_single_best_still_finds_the_best_answer(tmp_path):
  examples = examples_of(["John Smith was"])
  features = convert(examples)
  results = flat_results(features, start={0: 5, 5: 1}, end={0: 5, 5: 1})
  arguments = (tmp_path, examples, features, results)
  # The only best start and end are the null answer's: no other candidate.
  predictions, nbest, odds = predict(
      *arguments, n_best_size=1, version_2=True)
  assert (predictions, odds) == ({"0": ""}, {"0": 10.0})
  assert [entry["text"] for entry in nbest["0"]] == [""]
  # Two bests: the answer comes behind the null.
  predictions, nbest, odds = predict(
      *arguments, n_best_size=2, version_2=True, threshold=9.0)
  assert (predictions, odds) == ({"0": "Smith"}, {"0": 8.0})


def test_null_comes_behind_an_answer_of_the_same_score(tmp_path):
  examples = examples_of(["John"])
  features = convert(examples)
  peaks = {0: 3, 4: 3}
  results = flat_results(features, start=peaks, end=peaks)
  predictions, nbest, odds = predict(
      tmp_path, examples, features, results, version_2=True)
  assert (predictions, odds) == ({"0": "John"}, {"0": 0.0})
  assert [entry["text"] for entry in nbest["0"]] == ["John", ""]


def test_answer_behind_a_full_n_best_is_appended():
  example, = examples_of(["John Smith was"])
  features = convert([example])
  options = squad.AnswerOptions(1, 30, True, True, 0.0, False)
  candidates = squad._Candidates(
      [0, 0], [0, 5], [0, 5], [5.0, 1.0], [5.0, 1.0])
  nbest = squad._n_best(
      example, features, candidates, (5.0, 5.0), options)
  assert [entry.text for entry in nbest] == ["", "Smith"]


def test_nan_logits_are_never_chosen(tmp_path, caplog):
  examples = examples_of(["John Smith was"])
  features = convert(examples)
  nan = float("nan")
  results = flat_results(features, start={4: nan, 5: 1}, end={5: 1, 6: nan})
  predictions, _, _ = predict(tmp_path, examples, features, results)
  assert predictions == {"0": "Smith"}
  assert "NaN" in caplog.text
  everywhere = {position: nan for position in range(32)}
  results = flat_results(features, start=everywhere, end=everywhere)
  predictions, _, _ = predict(tmp_path, examples, features, results)
  assert predictions == {"0": "empty"}
  predictions, _, _ = predict(
      tmp_path, examples, features, results, version_2=True)
  assert predictions == {"0": ""}


def test_repeated_id_keeps_its_place_and_the_last_answer(tmp_path):
  examples = examples_of(["John", "Smith", "was"])
  examples[2].qas_id = "0"
  features = convert(examples)
  predictions, nbest, _ = predict(
      tmp_path, examples, features, flat_results(features))
  assert list(predictions.items()) == [("0", "was"), ("1", "Smith")]
  assert list(nbest) == ["0", "1"]


def test_feature_without_a_result_is_named(tmp_path):
  examples = examples_of(["John", "Smith"])
  features = convert(examples)
  with pytest.raises(ValueError, match=r"feature 1000000001 \(question 1\)"):
    predict(tmp_path, examples, features, flat_results(features[:1]))
  assert not list(tmp_path.iterdir())


def test_no_question_writes_empty_objects(tmp_path):
  assert predict(tmp_path, [], [], []) == [{}, {}, None]
  assert (tmp_path / "n.json").read_text() == "{}\n"


def test_results_in_order_are_not_kept():
  examples = examples_of(["John"] * 50)
  features = convert(examples)
  taken = []

  def results():
    for result in flat_results(features):
      taken.append(result.unique_id)
      yield result

  options = squad.AnswerOptions(20, 30, True, False, 0.0, False)
  answers = squad.answer_questions(
      examples, lambda index: [features[index]], results(), options)
  for number, _ in enumerate(answers):
    assert len(taken) == number + 1


# Scores.


def test_scores_of_a_published_system_on_dev(data_dir):
  path = os.path.join(str(data_dir), "squad", "%s.json")
  with open(path % "predictions-v1.1-logistic-regression") as reader:
    predictions = json.load(reader)
  scores = squad.score_predictions(path % "dev-v1.1", predictions)
  assert round(scores["exact_match"], 2) == 40.14
  assert round(scores["f1"], 2) == 50.98
  assert scores["total"] == 10570


@pytest.mark.parametrize("text, expected", [
    ("The  U.S.A.", "usa"), ("an apple a day", "apple day"),
    ("theatre", "theatre"), ("Re-use\tit", "reuse it"), ("The.", "")])
def test_answers_are_compared_without_case_punctuation_and_articles(
    text, expected):
  assert squad.normalize_answer(text) == expected


def test_f1_counts_shared_words():
  assert squad.token_f1("the cat sat", "cat sat down here") == (
      2 * 1.0 * 0.5 / 1.5)
  assert squad.token_f1("dog", "cat") == 0.0
  assert squad.token_f1("the", "a") == 0.0
  assert squad.token_f1("the", "a", version_2=True) == 1.0
  assert squad.token_f1("", "cat", version_2=True) == 0.0


def test_version_2_scores_and_their_best_thresholds(tmp_path):
  path = write_squad(tmp_path / "q.json", [("one two", [
      dict(answer("one", 0), is_impossible=False),
      dict(answer("two", 4), is_impossible=False),
      {"answers": [], "is_impossible": True},
      {"answers": [], "is_impossible": True}])])
  predictions = {"0-0": "one", "0-1": "two three", "0-2": "one", "0-3": ""}
  null_odds = {"0-0": -3.0, "0-1": -2.0, "0-2": -1.0, "0-3": 4.0}
  scores = squad.score_predictions(path, predictions, null_odds, True)
  f1 = 100 * 2 / 3.0
  assert scores == pytest.approx({
      "exact": 50.0, "f1": (100 + f1 + 0 + 100) / 4, "total": 4,
      "HasAns_exact": 50.0, "HasAns_f1": (100 + f1) / 2, "HasAns_total": 2,
      "NoAns_exact": 50.0, "NoAns_f1": 50.0, "NoAns_total": 2,
      "best_exact": 75.0, "best_exact_thresh": -3.0,
      "best_f1": (100 + f1 + 200) / 4, "best_f1_thresh": -2.0})
  # Answering 0-2, which has no answer, on the way to 0-1 costs more than that
  # gains.
  null_odds["0-2"] = -2.5
  scores = squad.score_predictions(path, predictions, null_odds, True)
  assert (scores["best_f1"], scores["best_f1_thresh"]) == (75.0, -3.0)


def test_question_without_prediction_scores_zero(tmp_path, caplog):
  path = write_squad(tmp_path / "q.json", [
      ("one two", [answer("one", 0), answer("two", 4)])])
  scores = squad.score_predictions(path, {"0-0": "One."})
  assert scores == {"exact_match": 50.0, "f1": 50.0, "total": 2}
  assert "1 of 2 questions have no prediction" in caplog.text


def test_scoring_needs_reference_answers(tmp_path):
  path = write_squad(tmp_path / "q.json", [("one", [{}])])
  with pytest.raises(ValueError, match="no `answers` to score against"):
    squad.score_predictions(path, {})


# The model.


def build_logits(features, real_tokens_only, whole_batches=False):
  ids, mask, segments = (
      np.array([getattr(feature, name) for feature in features], np.int32)
      for name in ("input_ids", "input_mask", "segment_ids"))
  with tf.Graph().as_default(), tf.Session() as session:
    logits = run_squad.create_model(
        modeling.BertConfig.from_dict(CONFIG), False, tf.constant(ids),
        tf.constant(mask), tf.constant(segments), False, real_tokens_only,
        whole_batches=whole_batches)
    # Finding the real tokens makes shapes that the graph does not know.
    has_where = any(operation.type == "Where"
                    for operation in session.graph.get_operations())
    assert has_where == (real_tokens_only and not whole_batches)
    # The same in every graph: op seeds depend on the number of operations.
    draw = np.random.RandomState(1)
    initializers = [variable.initializer for variable in tf.global_variables()]
    session.run(initializers, {
        initializer.inputs[1]: draw.normal(
            scale=0.02, size=initializer.inputs[1].shape.as_list())
        for initializer in initializers})
    names = [variable.name for variable in tf.trainable_variables()]
    return names, mask, session.run(logits)


def test_head_has_the_originals_variables_and_skips_padding():
  features = convert(examples_of(["John Smith was", "was"]))
  names, mask, padded = build_logits(features, False)
  assert names[-2:] == ["cls/squad/output_weights:0",
                        "cls/squad/output_bias:0"]
  _, _, real = build_logits(features, True)
  for with_padding, without in zip(padded, real):
    np.testing.assert_allclose(
        with_padding[mask == 1], without[mask == 1], atol=2e-5)
    assert (without[mask == 0] == -1e9).all()
    assert (with_padding[mask == 0] > -100).all()


def test_whole_batches_give_the_logits_of_real_tokens():
  features = convert(examples_of(["John Smith was", "was"]))
  _, mask, real = build_logits(features, True)
  _, _, whole = build_logits(features, True, whole_batches=True)
  assert (mask == 0).any()
  for ours, expected in zip(whole, real):
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_loss_is_the_mean_cross_entropy_of_the_positions():
  with tf.Graph().as_default(), tf.Session() as session:
    loss = session.run(run_squad.position_loss(
        tf.constant([[0.0, 0.0, -1e9], [0.0, np.log(3.0), -1e9]]),
        tf.constant([0, 0])))
  assert loss == pytest.approx((np.log(2.0) + np.log(4.0)) / 2, abs=1e-6)


# The run.


@pytest.fixture
def run_folder(tmp_path):
  """A folder with a config, and flags set for a short run into it."""
  (tmp_path / "config.json").write_text(json.dumps(CONFIG))
  if not run_squad.FLAGS.is_parsed():
    run_squad.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(
      bert_config_file=str(tmp_path / "config.json"), vocab_file=VOCAB_FILE,
      output_dir=str(tmp_path / "out"), max_seq_length=64, doc_stride=32,
      max_query_length=10, train_batch_size=8, num_train_epochs=2.0, seed=1,
      train_file=make_squad_goldens.input_path("v2"),
      predict_file=make_squad_goldens.input_path("v2"), init_checkpoint=None,
      version_2_with_negative=True, do_train=False, do_predict=False,
      do_eval=False):
    yield tmp_path


@pytest.mark.parametrize("flag, computes_padding, scores_padding", [
    (None, False, False), ("use_xla", True, False), ("use_tpu", True, True)])
def test_what_compiles_the_whole_graph_gets_whole_batches(
    run_folder, monkeypatch, flag, computes_padding, scores_padding):
  built = {}
  monkeypatch.setattr(run_squad, "model_fn_builder",
                      lambda *_, **settings: built.update(settings))
  monkeypatch.setattr(run_squad.estimators, "create_estimator",
                      lambda **_: None)
  with flagsaver.flagsaver(**{flag: True} if flag else {}):
    run_squad._create_estimator(modeling.BertConfig.from_dict(CONFIG))
  assert built["whole_batches"] == computes_padding
  assert built["real_tokens_only"] != scores_padding


def read_results(folder):
  lines = (folder / "out" / "eval_results.txt").read_text().splitlines()
  return {key: float(value) for key, value in
          (line.split(" = ") for line in lines)}


def test_run_trains_answers_scores_and_chooses_again(run_folder, caplog):
  with flagsaver.flagsaver(do_train=True, do_predict=True, do_eval=True):
    with caplog.at_level(logging.INFO):
      run_squad.main(["run_squad"])
  out = run_folder / "out"
  for name in ("train.tf_record", "eval.tf_record", "predictions.json",
               "nbest_predictions.json", "null_odds.json"):
    assert (out / name).exists()
  assert not list(out.glob("*.incomplete"))
  for line in ("***** Running training *****", "  Num orig examples = ",
               "  Num epochs = ", "***** Running predictions *****",
               "Processing example: 0", "Writing nbest to: "):
    assert line in caplog.text
  scores = read_results(run_folder)
  assert scores["total"] == 24
  assert scores["HasAns_total"] + scores["NoAns_total"] == 24

  # A threshold below all odds leaves every question unanswered.
  odds = json.loads((out / "null_odds.json").read_text())
  with flagsaver.flagsaver(
      do_eval=True, null_score_diff_threshold=min(odds.values()) - 1):
    run_squad.main(["run_squad"])
  predictions = json.loads((out / "predictions.json").read_text())
  assert set(predictions.values()) == {""}
  assert read_results(run_folder)["NoAns_exact"] == 100.0
  # One above them answers every question with its best text.
  with flagsaver.flagsaver(
      do_eval=True, null_score_diff_threshold=max(odds.values()) + 1):
    run_squad.main(["run_squad"])
  predictions = json.loads((out / "predictions.json").read_text())
  assert "" not in predictions.values()


@pytest.mark.parametrize("changes, message", [
    ({}, "Nothing to do"),
    ({"do_train": True, "train_file": None}, "--do_train needs --train_file"),
    ({"do_predict": True, "predict_file": None}, "need --predict_file"),
    ({"do_eval": True, "predict_file": None}, "need --predict_file"),
    ({"do_train": True, "do_eval": True}, "needs --do_predict"),
    ({"do_predict": True, "max_seq_length": 65}, "--max_seq_length=65"),
    ({"do_predict": True, "max_query_length": 61},
     "--max_seq_length=64 must be greater than --max_query_length=61"),
    ({"do_predict": True, "doc_stride": 0}, "--doc_stride=0"),
    ({"do_train": True, "freeze_layers": 3}, "--freeze_layers=3"),
    ({"do_predict": True, "n_best_size": 0}, "--n_best_size=0"),
    ({"do_predict": True, "init_checkpoint": "/x/cased_L-12_H-768_A-12/"
      "bert_model.ckpt"}, "do_lower_case"),
])
def test_flags_that_cannot_work_are_named(run_folder, changes, message):
  del run_folder  # Sets the flags.
  with flagsaver.flagsaver(**changes):
    with pytest.raises(ValueError, match=message):
      run_squad.validate_flags_or_throw(modeling.BertConfig.from_dict(CONFIG))


def test_a_tpu_without_tpu_estimator_stops_the_run_before_it_writes(
    run_folder, monkeypatch):
  monkeypatch.setattr(run_squad.estimators, "HAS_TPU_ESTIMATOR", False)
  with flagsaver.flagsaver(do_train=True, use_tpu=True):
    with pytest.raises(ValueError, match="--use_tpu needs TPUEstimator"):
      run_squad.main(["run_squad"])
  assert not (run_folder / "out").exists()


@pytest.mark.parametrize("version_2, missing", [
    (False, "predictions.json"), (True, "null_odds.json")])
def test_scoring_alone_names_the_missing_answers(
    run_folder, version_2, missing):
  del run_folder  # Sets the flags.
  with flagsaver.flagsaver(do_eval=True, version_2_with_negative=version_2):
    with pytest.raises(ValueError, match=missing):
      run_squad.main(["run_squad"])


def test_top_layer_and_head_alone_are_trained(run_folder):
  with flagsaver.flagsaver(do_train=True, freeze_layers=1, optimizer="lamb",
                           train_batch_size=16, num_train_epochs=1.0):
    run_squad.main(["run_squad"])
  reader = tf.train.load_checkpoint(str(run_folder / "out"))
  names = set(reader.get_variable_to_shape_map())
  trained = {name[:-len("/lamb_m")] for name in names
             if name.endswith("/lamb_m")}
  # SQuAD does not use the pooler.
  assert len(trained) == 18
  assert all(name.startswith(("bert/encoder/layer_1/", "cls/squad/"))
             for name in trained)
  assert "bert/embeddings/word_embeddings" in names


def newest_step(folder):
  return max([0] + [int(path.stem.split("-")[1])
                    for path in folder.glob("model.ckpt-*.index")])


def test_killed_training_goes_on_to_the_same_step(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(CONFIG))
  out = tmp_path / "out"
  command = [
      sys.executable, run_squad.__file__, "--do_train=True",
      "--bert_config_file=%s" % (tmp_path / "config.json"),
      "--vocab_file=%s" % VOCAB_FILE, "--output_dir=%s" % out,
      "--train_file=%s" % make_squad_goldens.input_path("v1"),
      "--max_seq_length=64", "--max_query_length=10", "--train_batch_size=2",
      "--num_train_epochs=3", "--save_checkpoints_steps=1", "--seed=1"]
  with open(str(tmp_path / "log"), "w") as log:
    process = subprocess.Popen(command, stdout=log, stderr=log)
    give_up = time.time() + 120
    while (newest_step(out) < 3 and process.poll() is None
           and time.time() < give_up):
      time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
  killed_at = newest_step(out)
  # What a kill during the writing of records would leave.
  (out / "train.tf_record.incomplete").write_bytes(b"half")
  finished = subprocess.run(command, stderr=subprocess.PIPE, check=True)
  assert b"goes on from its step" in finished.stderr
  num_questions = len(run_squad.read_squad_examples(
      make_squad_goldens.input_path("v1"), True, False))
  last = int(num_questions / 2 * 3)
  assert 3 <= killed_at < last
  assert tf.train.latest_checkpoint(str(out)).endswith("model.ckpt-%d" % last)
  reader = tf.train.load_checkpoint(str(out))
  assert reader.get_tensor("global_step") == last
  assert not list(out.glob("*.incomplete"))
