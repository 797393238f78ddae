"""Checks pre-training against the original's numbers and on awkward input.

  pytest tests/run_pretraining_test.py
"""

import json
import logging
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from absl.testing import flagsaver

import create_pretraining_data
import estimators
import input_pipeline
import modeling
import run_pretraining

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
TOLERANCE = 2e-5
FORMS = [pytest.param(one_hot, real, id="%s-%s" % (
    "one_hot" if one_hot else "gather", real or "padded"))
         for one_hot in (False, True) for real in (False, "real", "chosen")]
TINY = modeling.BertConfig(
    vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=16, max_position_embeddings=64, type_vocab_size=2)


@pytest.fixture(autouse=True)
def parsed_flags():
  run_pretraining.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver():
    yield


# The original's numbers.


class Golden:
  """A case of make_run_pretraining_goldens.py."""

  def __init__(self, name):
    arrays = np.load(
        os.path.join(HERE, "goldens", "run_pretraining_%s.npz" % name))
    self.arrays = {key: arrays[key] for key in arrays.files}
    self.config = modeling.BertConfig.from_dict(
        json.loads(str(self.arrays["config"])))
    self.weights = self.part("weight/")
    self.records = self.part("record/")
    ends = np.cumsum(self.arrays["batch_sizes"])
    self.batches = [slice(end - size, end) for size, end in zip(
        self.arrays["batch_sizes"], ends)]

  def part(self, prefix):
    return {key[len(prefix):]: value for key, value in self.arrays.items()
            if key.startswith(prefix)}

  def placeholders(self):
    return {name: tf.placeholder(value.dtype, (None,) + value.shape[1:])
            for name, value in self.records.items()}

  def feeds(self, placeholders):
    return [{placeholders[name]: self.records[name][batch]
             for name in placeholders} for batch in self.batches]

  def load(self, session):
    session.run([tf.global_variables_initializer(),
                 tf.local_variables_initializer()])
    for variable in tf.trainable_variables():
      variable.load(self.weights[variable.op.name], session)


@pytest.fixture(params=["gelu", "relu"])
def golden(request):
  with tf.Graph().as_default():
    yield Golden(request.param)


def build_outputs(config, features, one_hot, real):
  model = modeling.BertModel(
      config, True, features["input_ids"], features["input_mask"],
      features["segment_ids"], one_hot, real_tokens_only=bool(real))
  hidden, positions = (
      model.get_sequence_output(), features["masked_lm_positions"])
  if real == "chosen":
    hidden, positions = model.get_sequence_output_at(positions), None
  masked_lm = run_pretraining.get_masked_lm_output(
      config, hidden, model.get_embedding_table(), positions,
      features["masked_lm_ids"], features["masked_lm_weights"])
  next_sentence = run_pretraining.get_next_sentence_output(
      config, model.get_pooled_output(), features["next_sentence_labels"])
  outputs = {"loss": masked_lm[0] + next_sentence[0]}
  for task, values in (("masked_lm", masked_lm),
                       ("next_sentence", next_sentence)):
    for name, value in zip(("loss", "losses", "log_probs"), values):
      outputs["%s_%s" % (task, name)] = value
  return outputs


@pytest.mark.parametrize("one_hot,real", FORMS)
def test_losses_and_gradients_equal_the_originals(golden, one_hot, real):
  placeholders = golden.placeholders()
  outputs = build_outputs(golden.config, placeholders, one_hot, real)
  variables = tf.trainable_variables()
  assert sorted(v.op.name for v in variables) == sorted(golden.weights)
  gradients = tf.gradients(outputs["loss"], variables)
  dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
  norm = tf.global_norm(gradients)
  norms = golden.arrays[
      "global_norms_one_hot" if one_hot else "global_norms"]
  with tf.Session() as session:
    golden.load(session)
    for index, feed in enumerate(golden.feeds(placeholders)):
      values, gradient_values, norm_value = session.run(
          [outputs, dense, norm], feed)
      for name, expected in golden.part("output/%d/" % index).items():
        np.testing.assert_allclose(
            values[name], expected, rtol=TOLERANCE, atol=TOLERANCE,
            err_msg=name)
      np.testing.assert_allclose(norm_value, norms[index], rtol=TOLERANCE)
      expected = golden.part("gradient/%d/" % index)
      for variable, value in zip(variables, gradient_values):
        if expected:
          np.testing.assert_allclose(
              value, expected[variable.op.name], rtol=0, atol=TOLERANCE,
              err_msg=variable.op.name)


def test_guessing_real_predictions_only_changes_nothing_else(golden):
  placeholders = golden.placeholders()
  outputs = []
  with tf.variable_scope("", reuse=tf.AUTO_REUSE):
    model = modeling.BertModel(
        golden.config, False, placeholders["input_ids"],
        placeholders["input_mask"], placeholders["segment_ids"], scope="bert")
    for real in (False, True):
      found = run_pretraining.get_masked_lm_output(
          golden.config, model.get_sequence_output(),
          model.get_embedding_table(), placeholders["masked_lm_positions"],
          placeholders["masked_lm_ids"], placeholders["masked_lm_weights"],
          real)
      outputs.append(list(found) + [
          tf.convert_to_tensor(gradient) for gradient in
          tf.gradients(found[0], tf.trainable_variables()[:-8])])
  shares = []
  with tf.Session() as session:
    golden.load(session)
    for feed in golden.feeds(placeholders):
      every, real = session.run(outputs, feed)
      weights = feed[placeholders["masked_lm_weights"]].ravel()
      shares.append(np.mean(weights != 0))
      every[1] = every[1] * (weights != 0)
      every[2] = every[2] * (weights != 0)[:, None]
      for left, right in zip(real, every):
        np.testing.assert_allclose(left, right, rtol=0, atol=2e-6)
  assert 0 in shares and any(0 < share < 1 for share in shares)


def test_a_batch_without_predictions_has_no_masked_lm_loss(golden):
  placeholders = golden.placeholders()
  outputs = build_outputs(golden.config, placeholders, False, True)
  with tf.Session() as session:
    golden.load(session)
    feed = golden.feeds(placeholders)[2]
    assert not feed[placeholders["masked_lm_weights"]].any()
    assert session.run(outputs["masked_lm_loss"], feed) == 0.0


@pytest.mark.parametrize("real", [False, True])
def test_metrics_over_partial_batches_equal_the_originals(golden, real):
  placeholders = golden.placeholders()
  model_fn = run_pretraining.model_fn_builder(
      golden.config, None, 1e-3, 10, 1, False, False, real_tokens_only=real)
  spec = model_fn(placeholders, None, estimators.ModeKeys.EVAL, {})
  metrics = spec.eval_metrics[0](*spec.eval_metrics[1])
  with tf.Session() as session:
    golden.load(session)
    for feed in golden.feeds(placeholders):
      session.run([update for _, update in metrics.values()], feed)
    values = session.run({k: value for k, (value, _) in metrics.items()})
  expected = golden.part("metric/")
  assert sorted(values) == sorted(expected) == [
      "masked_lm_accuracy", "masked_lm_loss", "next_sentence_accuracy",
      "next_sentence_loss"]
  for name in expected:
    np.testing.assert_allclose(values[name], expected[name], rtol=TOLERANCE)


@pytest.mark.parametrize("real", [False, True])
def test_a_short_training_equals_the_originals(golden, real):
  losses = golden.arrays["training_losses"]
  placeholders = golden.placeholders()
  tf.train.get_or_create_global_step()
  model_fn = run_pretraining.model_fn_builder(
      golden.config, None, 2e-3, len(losses), 3, False, False,
      real_tokens_only=real)
  spec = model_fn(placeholders, None, estimators.ModeKeys.TRAIN, {})
  with tf.Session() as session:
    golden.load(session)
    feeds = golden.feeds(placeholders)
    ours = [session.run([spec.loss, spec.train_op],
                        feeds[step % len(feeds)])[0]
            for step in range(len(losses))]
    np.testing.assert_allclose(ours, losses, rtol=TOLERANCE)
    for variable in tf.trainable_variables():
      np.testing.assert_allclose(
          session.run(variable), golden.arrays["final/" + variable.op.name],
          rtol=0, atol=TOLERANCE, err_msg=variable.op.name)


def test_static_one_hot_training_compiles_with_xla(golden):
  """What a TPU gets."""
  features = {name: tf.constant(values[:4])
              for name, values in golden.records.items()}
  outputs = tf.xla.experimental.compile(
      lambda: [build_outputs(golden.config, features, True, False)["loss"]])
  with tf.Session() as session:
    golden.load(session)
    np.testing.assert_allclose(
        session.run(outputs[0]), golden.arrays["output/0/loss"],
        rtol=TOLERANCE)


def test_heads_have_the_variables_of_released_checkpoints():
  with tf.Graph().as_default():
    features = {
        name: tf.zeros([2] + spec.shape, spec.dtype) for name, spec in
        run_pretraining.feature_spec(16, 4).items()}
    features = {name: tf.cast(value, tf.int32)
                if value.dtype == tf.int64 else value
                for name, value in features.items()}
    build_outputs(TINY, features, False, True)
    heads = [(v.op.name, v.shape.as_list())
             for v in tf.trainable_variables() if v.op.name[:4] == "cls/"]
  assert heads == [
      ("cls/predictions/transform/dense/kernel", [8, 8]),
      ("cls/predictions/transform/dense/bias", [8]),
      ("cls/predictions/transform/LayerNorm/beta", [8]),
      ("cls/predictions/transform/LayerNorm/gamma", [8]),
      ("cls/predictions/output_bias", [50]),
      ("cls/seq_relationship/output_weights", [2, 8]),
      ("cls/seq_relationship/output_bias", [2])]


def test_gather_indexes_takes_rows_of_each_sequence():
  sequences = np.arange(2 * 3 * 2, dtype=np.float32).reshape([2, 3, 2])
  with tf.Graph().as_default(), tf.Session() as session:
    rows = session.run(run_pretraining.gather_indexes(
        tf.constant(sequences), tf.constant([[2, 0], [1, 1]])))
  assert rows.tolist() == [[4, 5], [0, 1], [8, 9], [8, 9]]


# Records.


def make_records(path, count, length=8, predictions=2, first=0, vocab=50,
                 options=None):
  """Writes `count` records whose next_sentence_labels count from `first`."""
  with tf.io.TFRecordWriter(str(path), options) as writer:
    for index in range(first, first + count):
      ids = [2 + (index + i) % (vocab - 2) for i in range(length)]
      writer.write(input_pipeline.serialize_example({
          "input_ids": ids, "input_mask": [1] * length,
          "segment_ids": [0] * length,
          "masked_lm_positions": range(1, 1 + predictions),
          "masked_lm_ids": ids[1:1 + predictions],
          "next_sentence_labels": [index]},
          {"masked_lm_weights": [1.0] * predictions}))
  return str(path)


def read(input_fn, batch_size, num_batches=None):
  """The next_sentence_labels of each batch."""
  with tf.Graph().as_default(), tf.Session() as session:
    batch = tf.data.make_one_shot_iterator(
        input_fn({"batch_size": batch_size})).get_next()
    labels = []
    try:
      while num_batches is None or len(labels) < num_batches:
        labels.append(
            session.run(batch["next_sentence_labels"]).ravel().tolist())
    except tf.errors.OutOfRangeError:
      pass
  return labels


def test_held_out_records_are_read_once_with_the_last_partial_batch(tmp_path):
  files = [make_records(tmp_path / "a", 3),
           make_records(tmp_path / "b", 4, first=3)]
  input_fn = run_pretraining.input_fn_builder(
      files, 8, 2, is_training=False, repeat=False, drop_remainder=False)
  assert read(input_fn, 3) == [[0, 1, 2], [3, 4, 5], [6]]


def test_evaluation_by_default_starts_over(tmp_path):
  files = [make_records(tmp_path / "a", 3)]
  input_fn = run_pretraining.input_fn_builder(files, 8, 2, is_training=False)
  assert read(input_fn, 2, 4) == [[0, 1], [2, 0], [1, 2], [0, 1]]


def test_training_reads_all_files_over_and_over_in_a_seeded_order(tmp_path):
  files = [make_records(tmp_path / str(i), 5, first=5 * i) for i in range(4)]

  def labels(seed):
    input_fn = run_pretraining.input_fn_builder(
        files, 8, 2, is_training=True, seed=seed)
    return sum(read(input_fn, 5, 40), [])

  first = labels(1)
  assert set(first) == set(range(20))
  assert first == labels(1) != labels(2)


@pytest.mark.parametrize("num_files", [1, 3])
def test_a_resumed_training_goes_on_in_the_data(tmp_path, num_files):
  files = [make_records(tmp_path / str(i), 50, first=50 * i)
           for i in range(num_files)]

  def batches(start_step, count):
    return read(run_pretraining.input_fn_builder(
        files, 8, 2, is_training=True, seed=3, start_step=start_step), 4,
                count)

  assert batches(7, 20) == batches(0, 27)[7:]


def test_gzip_and_plain_files_mix(tmp_path):
  files = [
      make_records(tmp_path / "a", 2),
      make_records(tmp_path / "b.gz", 2, first=2,
                   options=tf.io.TFRecordOptions("GZIP"))]
  run_pretraining.check_records(files, "input_file", 8, 2, 50)
  input_fn = run_pretraining.input_fn_builder(
      files, 8, 2, is_training=False, repeat=False, drop_remainder=False)
  assert read(input_fn, 4) == [[0, 1, 2, 3]]


def check(path, length=8, predictions=2, vocab=50):
  run_pretraining.check_records(
      [str(path)], "input_file", length, predictions, vocab)


@pytest.mark.parametrize("values,message", [
    (dict(length=16), "record 1: made with --max_seq_length=8, but this run "
     "has --max_seq_length=16"),
    (dict(predictions=5), "made with --max_predictions_per_seq=2, but this "
     "run has --max_predictions_per_seq=5"),
    (dict(vocab=40), r"record 32: token id 40, but `vocab_size` .* is 40")])
def test_records_that_do_not_fit_name_flag_and_values(
    tmp_path, values, message):
  path = make_records(tmp_path / "a", 60)
  check(path)
  with pytest.raises(ValueError, match=message):
    check(path, **values)


def test_damaged_files_name_file_and_record(tmp_path):
  path = make_records(tmp_path / "a", 5)
  with open(path, "rb") as file:
    content = file.read()
  with open(path, "wb") as file:
    file.write(content[:-7])
  with pytest.raises(ValueError, match="a: record 5 is damaged"):
    check(path)
  (tmp_path / "text").write_text("This is a text and not a TFRecord file.")
  with pytest.raises(ValueError, match="text: record 1 is damaged"):
    check(tmp_path / "text")
  (tmp_path / "empty").write_bytes(b"")
  with pytest.raises(ValueError, match="--input_file: .*empty holds no rec"):
    check(tmp_path / "empty")
  with tf.io.TFRecordWriter(str(tmp_path / "other")) as writer:
    writer.write(input_pipeline.serialize_example({"x": [1]}))
  with pytest.raises(ValueError, match="record 1: there is no `input_ids`"):
    check(tmp_path / "other")


# The script.


@pytest.fixture
def run(tmp_path, caplog):
  """A function of flags that runs main; returns the log's lines."""
  config = tmp_path / "config.json"
  config.write_text(TINY.to_json_string())
  logging.getLogger("tensorflow").propagate = True

  def run_main(**options):
    values = dict(
        bert_config_file=str(config), output_dir=str(tmp_path / "out"),
        max_seq_length=8, max_predictions_per_seq=2, train_batch_size=4,
        eval_batch_size=4, num_train_steps=6, num_warmup_steps=2, log_steps=2,
        max_eval_steps=2, seed=1)
    values.update(options)
    caplog.clear()
    with caplog.at_level(logging.INFO, "tensorflow"):
      with flagsaver.flagsaver(**values):
        run_pretraining.main(["run_pretraining.py"])
    return [record.getMessage() for record in caplog.records]

  return run_main


def labelled(tmp_path, name, count):
  """Records whose next sentence labels are 0 or 1."""
  path = tmp_path / name
  with tf.io.TFRecordWriter(str(path)) as writer:
    make_records(tmp_path / "raw", count)
    for index, record in enumerate(
        run_pretraining._records(str(tmp_path / "raw"))):
      example = tf.train.Example.FromString(record)
      example.features.feature[
          "next_sentence_labels"].int64_list.value[:] = [index % 2]
      writer.write(example.SerializeToString())
  return str(path)


def results(tmp_path):
  text = (tmp_path / "out" / "eval_results.txt").read_text()
  return dict(line.split(" = ") for line in text.splitlines())


def test_training_logs_both_losses_and_resumes(tmp_path, run):
  path = labelled(tmp_path, "train", 12)
  log = run(input_file=path, do_train=True, do_eval=True)
  lines = [line for line in log if line.startswith("step ")]
  assert [line.split(" ")[1] for line in lines] == ["2/6", "4/6", "6/6"]
  number = r"\d+\.\d+"
  assert all(re.search(
      "loss = %s, masked_lm_loss = %s, next_sentence_loss = %s, " % (
          number, number, number), line) for line in lines)
  assert sorted(results(tmp_path)) == [
      "global_step", "loss", "masked_lm_accuracy", "masked_lm_loss",
      "next_sentence_accuracy", "next_sentence_loss"]

  log = run(input_file=path, do_train=True, num_train_steps=8)
  lines = [line for line in log if line.startswith("step ")]
  assert [line.split(" ")[1] for line in lines] == ["8/8"]
  assert any("Training goes on from its step 6" in line for line in log)


def test_heads_are_trained_on_a_frozen_encoder(tmp_path, run):
  run(input_file=labelled(tmp_path, "train", 12), do_train=True,
      freeze_layers=1, optimizer="adafactor", learning_rate=0.01)
  start, end = [tf.train.load_checkpoint(
      str(tmp_path / "out" / ("model.ckpt-%d" % step))) for step in (0, 6)]
  changed = {name for name in start.get_variable_to_shape_map()
             if np.any(start.get_tensor(name) != end.get_tensor(name))}
  weights = {name for name in changed
             if "adafactor" not in name and name != "global_step"}
  assert len(weights) == 9
  assert all(name.startswith(("cls/", "bert/pooler/")) for name in weights)
  assert not [name for name in end.get_variable_to_shape_map()
              if name.startswith(("bert/e")) and "adafactor" in name]


def test_held_out_evaluation_counts_every_record_once(tmp_path, run):
  path = labelled(tmp_path, "train", 12)
  run(input_file=path, do_train=True)
  held_out = labelled(tmp_path, "held", 5)
  values = []
  for batch_size in (5, 4, 1):
    run(input_file=path, eval_input_file=held_out, do_eval=True,
        eval_batch_size=batch_size)
    values.append({key: float(value)
                   for key, value in results(tmp_path).items()
                   if key != "loss"})
  for other in values[1:]:
    assert other == pytest.approx(values[0], rel=1e-5)


def test_a_loss_that_is_no_number_stops_with_the_step(tmp_path, run):
  path = labelled(tmp_path, "train", 12)
  with pytest.raises(ValueError, match=r"NaN at step \d+ of 60"):
    run(input_file=path, do_train=True, learning_rate=1e38,
        num_train_steps=60, num_warmup_steps=0)


@pytest.mark.parametrize("options,message", [
    (dict(do_train=False), "at least one of --do_train and --do_eval"),
    (dict(input_file="nothing*"), "`--input_file`: no file matches `nothing"),
    (dict(max_seq_length=65), "--max_seq_length=65 is out of range"),
    (dict(max_seq_length=16), "--max_seq_length=16"),
    (dict(freeze_layers=2), "--freeze_layers=2 is out of range"),
    (dict(init_checkpoint="nowhere"), "There is no checkpoint at nowhere"),
    (dict(do_eval=True, eval_input_file="none"), "`--eval_input_file`")])
def test_bad_flags_stop_before_anything_is_made(
    tmp_path, run, options, message):
  values = dict(input_file=labelled(tmp_path, "train", 4), do_train=True)
  values.update(options)
  with pytest.raises(ValueError, match=message):
    run(**values)
  assert not (tmp_path / "out").exists()


def test_a_tpu_without_tpu_estimator_stops_the_run_before_it_writes(
    tmp_path, run, monkeypatch):
  monkeypatch.setattr(estimators, "HAS_TPU_ESTIMATOR", False)
  with pytest.raises(ValueError, match="--use_tpu needs TPUEstimator"):
    run(input_file=labelled(tmp_path, "train", 4), do_train=True,
        use_tpu=True)
  assert not (tmp_path / "out").exists()


def test_damage_met_while_training_is_located(tmp_path, run):
  path = labelled(tmp_path, "train", 150)
  with open(path, "r+b") as file:
    file.seek(-3, os.SEEK_END)
    file.write(b"xyz")
  with pytest.raises(ValueError, match="train: record 150 is damaged"):
    run(input_file=path, do_train=True, num_train_steps=100)


def test_text_to_trained_model(tmp_path, run):
  """The two commands, on the documents that come with the project."""
  records = str(tmp_path / "records")
  vocab_file = os.path.join(HERE, "goldens", "pretraining_vocab.txt")
  with flagsaver.flagsaver(
      input_file=os.path.join(ROOT, "sample_text.txt"), output_file=records,
      vocab_file=vocab_file, max_seq_length=32, max_predictions_per_seq=5,
      dupe_factor=2):
    create_pretraining_data.main(["create_pretraining_data.py"])
  with open(vocab_file, encoding="utf-8") as lines:
    size = sum(1 for _ in lines)
  config = tmp_path / "large.json"
  config.write_text(modeling.BertConfig.from_dict(
      dict(TINY.to_dict(), vocab_size=size)).to_json_string())
  run(input_file=records, do_train=True, do_eval=True, max_seq_length=32,
      max_predictions_per_seq=5, num_train_steps=20, num_warmup_steps=10,
      bert_config_file=str(config))
  assert results(tmp_path)["global_step"] == "20"


def test_flags_have_the_originals_defaults():
  expected = {
      "bert_config_file": None, "input_file": None, "output_dir": None,
      "init_checkpoint": None, "max_seq_length": 128,
      "max_predictions_per_seq": 20, "do_train": False, "do_eval": False,
      "train_batch_size": 32, "eval_batch_size": 8, "learning_rate": 5e-5,
      "num_train_steps": 100000, "num_warmup_steps": 10000,
      "save_checkpoints_steps": 1000, "iterations_per_loop": 1000,
      "max_eval_steps": 100, "use_tpu": False, "tpu_name": None,
      "tpu_zone": None, "gcp_project": None, "master": None,
      "num_tpu_cores": 8}
  # In a process of its own: other scripts have other defaults.
  program = ("import json, run_pretraining as r; print(json.dumps("
             "{n: r.FLAGS[n].default for n in %r}))" % sorted(expected))
  output = subprocess.run(
      [sys.executable, "-c", program], cwd=ROOT, check=True,
      stdout=subprocess.PIPE).stdout
  assert json.loads(output.decode().splitlines()[-1]) == expected
