"""Tests of exporting models and of predicting with them.

  pytest tests/predictor_test.py

Tiny models are trained by the scripts, exported by their --export_dir, and
asked for what the scripts predicted.
"""

import io
import json
import pathlib
import re
import shutil
import threading

import make_squad_goldens
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tensorflow.compat.v2 as tf2
from absl import flags
from absl.testing import flagsaver
from tensorflow.core.protobuf import saved_model_pb2

import extract_features
import modeling
import predictor
import run_classifier
import run_squad
import saved_models
import squad

GOLDENS = pathlib.Path(__file__).parent / "goldens"
SQUAD_VOCAB = str(GOLDENS / "squad_vocab.txt")
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film",
         "plot", "the", "is", "a", "##s", ".", "not"]
CONFIG = {"vocab_size": 200, "hidden_size": 16, "num_hidden_layers": 2,
          "num_attention_heads": 2, "intermediate_size": 32,
          "max_position_embeddings": 64, "type_vocab_size": 2}
TEXTS = ["good film", "the plot is bad", "a film", "not good . not bad",
         "films", "", "the the the the the the the the the the the the"]


def run(main, folder, **values):
  """Runs a script's `main` with these flags."""
  (folder / "config.json").write_text(json.dumps(CONFIG))
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  arguments = dict(
      bert_config_file=str(folder / "config.json"), init_checkpoint=None,
      do_lower_case=True, seed=1, do_train=False, do_eval=False,
      do_predict=False, export_dir=None, learning_rate=0.01,
      real_tokens_only=True, log_steps=100)
  arguments.update(values)
  with tf.Graph().as_default(), flagsaver.flagsaver(**arguments):
    main([])


def classify(folder, labels, **values):
  """Trains on a few texts, predicts, and exports to `<folder>/export`."""
  (folder / "vocab.txt").write_text("".join(t + "\n" for t in VOCAB))
  rows = ["%s\t%s" % (text, labels[index % len(labels)])
          for index, text in enumerate(TEXTS)]
  for name in ("train", "dev", "test"):
    (folder / (name + ".tsv")).write_text("\n".join(["text\tlabel"] + rows))
  run(run_classifier.main, folder, task_name="custom", data_dir=str(folder),
      vocab_file=str(folder / "vocab.txt"), output_dir=str(folder / "out"),
      max_seq_length=8, train_batch_size=4, num_train_epochs=2.0,
      do_train=True, do_predict=True, text_column="text", text_b_column=None,
      label_column="label", labels=None, export_dir=str(folder / "export"),
      **values)
  return folder / "export"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
  return classify(tmp_path_factory.mktemp("classifier"), ["yes", "no"],
                  regression=False)


def answer_questions(folder, data, version_2, threshold):
  """Trains and answers a little; exports to `<folder>/export`."""
  run(run_squad.main, folder, vocab_file=SQUAD_VOCAB,
      output_dir=str(folder / "out"), max_seq_length=40, doc_stride=12,
      max_query_length=10, train_batch_size=8, num_train_epochs=4.0,
      train_file=make_squad_goldens.input_path(data),
      predict_file=make_squad_goldens.input_path(data), do_train=True,
      do_predict=True, version_2_with_negative=version_2,
      null_score_diff_threshold=threshold, export_dir=str(folder / "export"))
  return folder / "export"


def save_encoder(folder):
  """Path of a checkpoint of random weights, without any head."""
  checkpoint = str(folder / "encoder.ckpt")
  with tf.Graph().as_default(), tf.Session() as session:
    modeling.BertModel(modeling.BertConfig.from_dict(CONFIG), False,
                       tf.zeros([1, 4], tf.int32))
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, checkpoint, write_meta_graph=False)
  return checkpoint


# What the scripts predicted.


def test_probabilities_are_those_of_test_results(classifier):
  model = predictor.Predictor(str(classifier))
  expected = np.loadtxt(str(classifier.parent / "out" / "test_results.tsv"))
  results = model.classify(TEXTS)
  assert model.labels == ["no", "yes"]
  np.testing.assert_allclose(
      [list(result.probabilities.values()) for result in results], expected,
      rtol=0, atol=1e-6)
  assert [result.label for result in results] == [
      model.labels[best] for best in expected.argmax(axis=1)]
  assert all(result.probability == result.probabilities[result.label]
             for result in results)
  # The order and the company of the texts change nothing.
  alone = [model.classify([text])[0] for text in reversed(TEXTS)][::-1]
  np.testing.assert_allclose([result.probability for result in alone],
                             [result.probability for result in results],
                             rtol=0, atol=1e-6)


def test_a_pair_is_not_the_texts_joined(classifier):
  model = predictor.Predictor(str(classifier))
  pair, joined = model.classify([("good", "film"), "good film"])
  assert pair.probability != joined.probability


def test_a_model_of_a_number_gives_numbers(tmp_path):
  export = classify(tmp_path, ["0.5", "2", "-1"], regression=True)
  expected = np.loadtxt(str(tmp_path / "out" / "test_results.tsv"))
  values = predictor.Predictor(str(export)).classify(TEXTS)
  np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)


def assert_same_scores(scores, expected):
  """Compares the best answers, dicts of text to score, best first.

  Rounding may swap two of the same score, or the last one with the next.
  """
  np.testing.assert_allclose(
      list(scores.values()), list(expected.values()), rtol=0, atol=1e-5)
  for text in set(scores) | set(expected):
    np.testing.assert_allclose(
        scores.get(text, min(scores.values())),
        expected.get(text, min(expected.values())), rtol=0, atol=1e-5)
  assert len(set(scores) - set(expected)) <= 1


@pytest.mark.parametrize("data, version_2, threshold", [
    ("v1", False, 0.0), ("v2", True, -1000.0), ("v2", True, 1000.0)])
def test_answers_are_those_of_predictions(
    tmp_path, data, version_2, threshold):
  model = predictor.Predictor(str(answer_questions(
      tmp_path, data, version_2, threshold)))
  content = json.loads(pathlib.Path(
      make_squad_goldens.input_path(data)).read_text())
  out = tmp_path / "out"
  predictions = json.loads((out / "predictions.json").read_text())
  n_best = json.loads((out / "nbest_predictions.json").read_text())
  asked = [(question["id"], question["question"], paragraph["context"])
           for paragraph in content["data"][0]["paragraphs"]
           for question in paragraph["qas"]]
  answers = model.answer_all([fields[1:] for fields in asked])
  num_spans = 0
  for (qas_id, _, context), answer in zip(asked, answers):
    assert answer.text == predictions[qas_id]
    np.testing.assert_allclose(
        [span.probability for span in answer.n_best],
        [entry["probability"] for entry in n_best[qas_id]], atol=1e-5)
    assert_same_scores(
        {span.text: span.score for span in answer.n_best},
        {entry["text"]: entry["start_logit"] + entry["end_logit"]
         for entry in n_best[qas_id]})
    for span in answer.n_best:
      if span.text:
        num_spans += 1
        # The context's words may have other spaces in between.
        found = squad.split_words(context[span.start:span.end])[0]
        assert " ".join(found) == span.text
  assert num_spans > 50
  assert (answers[0].null_score is None) == (not version_2)
  if version_2:
    # So low a threshold lets no answer pass, so high a one all of them.
    assert {bool(answer.text) for answer in answers} == {threshold > 0}


def test_vectors_are_those_of_extract_features(tmp_path):
  run_flags = dict(
      vocab_file=SQUAD_VOCAB, max_seq_length=16, layers="-1,-2",
      batch_size=4, output_format="npz", pooling="mean", float16=False,
      long_text="cut", use_one_hot_embeddings=False)
  checkpoint = save_encoder(tmp_path)
  texts = ["the king was john smith", "a river", "x"]
  (tmp_path / "in.txt").write_text("\n".join(texts + ["the king ||| the bank"]))
  run(extract_features.main, tmp_path, init_checkpoint=checkpoint,
      input_file=str(tmp_path / "in.txt"),
      output_file=str(tmp_path / "out.npz"),
      export_dir=str(tmp_path / "export"), **run_flags)
  model = predictor.Predictor(str(tmp_path / "export"))
  vectors = model.embed(texts + [("the king", "the bank")])
  expected = np.load(str(tmp_path / "out.npz"))["layer_-1"]
  np.testing.assert_allclose(vectors, expected, rtol=0, atol=2e-5)


# Use.


def test_threads_share_a_model(classifier):
  model = predictor.Predictor(str(classifier))
  expected = model.classify(TEXTS)
  results = [None] * 8

  def work(number):
    results[number] = [model.classify(TEXTS) for _ in range(5)]

  threads = [threading.Thread(target=work, args=(number,))
             for number in range(len(results))]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert all(result == expected for several in results for result in several)


def test_no_text_gives_no_result_and_a_bare_text_is_refused(classifier):
  model = predictor.Predictor(str(classifier))
  assert model.classify([]) == []
  with pytest.raises(ValueError, match="list of texts"):
    model.classify("good film")


def test_the_wrong_method_names_the_right_kind(classifier):
  model = predictor.Predictor(str(classifier))
  with pytest.raises(ValueError, match="exported as `classifier`.*`squad`"):
    model.answer("who?", "john")
  with pytest.raises(ValueError, match="`features`"):
    model.embed(["john"])


def test_lines_become_json_lines_in_order(classifier):
  model = predictor.Predictor(str(classifier))
  text = "\n".join(TEXTS[:5]) + "\ngood ||| film\n\xff\r\nlast"
  writer = io.StringIO()
  predictor.predict_lines(
      model, io.BufferedReader(io.BytesIO(text.encode("latin-1"))), writer)
  rows = [json.loads(line) for line in writer.getvalue().splitlines()]
  expected = model.classify(TEXTS[:5] + [("good", "film"), "", "last"])
  assert [row["label"] for row in rows] == [r.label for r in expected]
  np.testing.assert_allclose([row["probability"] for row in rows],
                             [r.probability for r in expected], atol=1e-6)


def test_other_programs_can_load_the_model(classifier):
  loaded = tf2.saved_model.load(str(classifier))
  signature = loaded.signatures["serving_default"]
  shapes = {tensor.op.name: tensor.shape.as_list()
            for tensor in signature.inputs if tensor.dtype == tf.int32}
  assert shapes == {name: [None, None] for name in saved_models.INPUTS}
  model = predictor.Predictor(str(classifier))
  ids = np.array([[2, 5, 7, 3, 0]], np.int32)
  with tf.Graph().as_default(), tf.Session() as session:
    signatures, _, _ = saved_models.load(session, str(classifier))
    names = signatures["serving_default"]
    probabilities = session.run(
        names.outputs["probabilities"].name,
        {names.inputs["input_ids"].name: ids,
         names.inputs["input_mask"].name: np.sign(ids),
         names.inputs["segment_ids"].name: 0 * ids})
  np.testing.assert_allclose(
      probabilities[0],
      list(model.classify(["good film"])[0].probabilities.values()), atol=1e-6)


# Errors.


def damaged_copy(source, folder):
  copy = folder / "copy"
  shutil.copytree(str(source), str(copy))
  return copy


@pytest.mark.parametrize("name", [
    "saved_model.pb", "variables/variables.index", "assets/vocab.txt",
    "assets/bert_export.json", "assets/bert_config.json"])
def test_a_missing_file_is_named(classifier, tmp_path, name):
  copy = damaged_copy(classifier, tmp_path)
  (copy / name).unlink()
  with pytest.raises(ValueError, match="it has no %s" % name):
    predictor.Predictor(str(copy))


@pytest.mark.parametrize("name", [
    "saved_model.pb", "variables/variables.index",
    "variables/variables.data-00000-of-00001", "assets/bert_export.json"])
def test_a_truncated_file_is_one_clear_error(classifier, tmp_path, name):
  copy = damaged_copy(classifier, tmp_path)
  content = (copy / name).read_bytes()
  (copy / name).write_bytes(content[:len(content) // 2])
  with pytest.raises(ValueError, match="damaged"):
    predictor.Predictor(str(copy))


def test_a_model_of_a_newer_tensorflow_is_one_clear_error(
    classifier, tmp_path):
  copy = damaged_copy(classifier, tmp_path)
  model = saved_model_pb2.SavedModel.FromString(
      (copy / "saved_model.pb").read_bytes())
  meta_graph = model.meta_graphs[0]
  meta_graph.meta_info_def.tensorflow_version = "99.1.0"
  meta_graph.graph_def.node[0].op = "FromTheFuture"
  (copy / "saved_model.pb").write_bytes(model.SerializeToString())
  with pytest.raises(ValueError, match="TensorFlow 99.1.0, and this one, %s, "
                     ".*FromTheFuture" % re.escape(tf.__version__)):
    predictor.Predictor(str(copy))


def test_another_vocabulary_is_an_error(classifier, tmp_path):
  copy = damaged_copy(classifier, tmp_path)
  with open(str(copy / "assets" / "vocab.txt"), "a") as writer:
    writer.write("more\n" * 200)
  with pytest.raises(ValueError, match="215 tokens and the model 200"):
    predictor.Predictor(str(copy))


def test_a_folder_that_is_not_there_is_named(tmp_path):
  with pytest.raises(ValueError, match="no folder .*nowhere"):
    predictor.Predictor(str(tmp_path / "nowhere"))


def test_nothing_is_exported_without_a_trained_head(classifier, tmp_path):
  checkpoint = save_encoder(tmp_path)
  values = dict(
      vocab_file=SQUAD_VOCAB, output_dir=str(tmp_path / "out"),
      max_seq_length=40, max_query_length=10,
      export_dir=str(tmp_path / "export"))
  with pytest.raises(ValueError, match="cls/squad/output"):
    run(run_squad.main, tmp_path, init_checkpoint=checkpoint, **values)
  with pytest.raises(ValueError, match="no trained model to export"):
    run(run_squad.main, tmp_path, **values)
  assert not list(tmp_path.glob("export*"))


def test_a_variable_that_no_output_needs_may_be_missing(tmp_path):
  checkpoint = str(tmp_path / "x.ckpt")
  with tf.Graph().as_default(), tf.Session() as session:
    tf.get_variable("x", [], initializer=tf.constant_initializer(3.0))
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, checkpoint)

  def build_signatures(inputs, output_of):
    variables = {name: tf.get_variable(name, []) for name in "xy"}
    return {"serving_default": {"z": variables[output_of] * tf.cast(
        inputs["input_ids"], tf.float32)}}

  export = str(tmp_path / "export")
  with pytest.raises(ValueError, match="1 of the model's variables.*y"):
    saved_models.write(
        export, lambda inputs: build_signatures(inputs, "y"), checkpoint, {})
  saved_models.write(
      export, lambda inputs: build_signatures(inputs, "x"), checkpoint, {})
  with tf.Graph().as_default(), tf.Session() as session:
    meta_graph = tf.saved_model.loader.load(session, ["serve"], export)
    tensors = meta_graph.signature_def["serving_default"]
    z = session.run(tensors.outputs["z"].name,
                    {tensors.inputs["input_ids"].name: [[1, 2]]})
  assert z.tolist() == [[3.0, 6.0]]


def test_an_export_folder_that_exists_stops_the_run_at_its_start(
    classifier, tmp_path):
  with pytest.raises(ValueError, match="is there already"):
    run(run_squad.main, tmp_path, vocab_file=SQUAD_VOCAB, do_train=True,
        train_file="not read", output_dir=str(tmp_path / "out"),
        max_seq_length=40, max_query_length=10, export_dir=str(classifier))


def test_an_interrupted_export_leaves_nothing(tmp_path, monkeypatch):
  def fail(*unused_arguments):
    raise OSError("disk full")

  checkpoint = str(tmp_path / "x.ckpt")
  with tf.Graph().as_default(), tf.Session() as session:
    tf.get_variable("x", [])
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, checkpoint)

  def build_signatures(inputs):
    x = tf.get_variable("x", [])
    return {"serving_default": {
        "y": x * tf.cast(inputs["input_ids"], tf.float32)}}

  monkeypatch.setattr(tf.saved_model.Builder, "save", fail)
  with pytest.raises(OSError, match="disk full"):
    saved_models.write(str(tmp_path / "export"), build_signatures, checkpoint,
                       {"a.txt": b"a"})
  assert not list(tmp_path.glob("export*"))
