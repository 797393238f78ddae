"""Tests of session_estimator.py: `pytest tests/session_estimator_test.py`.

Those whose names end in `as_with_tpu_estimator` run the same with both and
compare; they need a TensorFlow that has TPUEstimator. A model of a few weights
with all that BERT's has (random numbers, dropout, optimizer slots, metrics)
stands in for it.
"""

import glob
import logging
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import estimators
import session_estimator
from session_estimator import ModeKeys

compares = pytest.mark.skipif(
    not estimators.HAS_TPU_ESTIMATOR,
    reason="This TensorFlow has no TPUEstimator to compare with.")

BOTH = (True, False)  # Values of HAS_TPU_ESTIMATOR.
POSSIBLE = BOTH if estimators.HAS_TPU_ESTIMATOR else (False,)


# A model and its data.


def model_fn(features, labels, mode, params, config):
  """Two layers; the second needs `labels`, but to predict."""
  assert params["use_tpu"] is False and config.model_dir
  weight = tf.get_variable("weight", [3, 4])
  hidden = tf.nn.tanh(tf.matmul(features["x"], weight))
  if mode == ModeKeys.TRAIN:
    hidden = tf.nn.dropout(hidden, rate=0.5)
  logits = tf.matmul(hidden, tf.get_variable("output", [4, 1]))[:, 0]
  if mode == ModeKeys.PREDICT:
    return estimators.estimator_spec(
        mode=mode, predictions={"logits": logits, "x": features["x"]})
  losses = tf.square(logits - labels)
  loss = tf.reduce_mean(losses)
  if mode == ModeKeys.EVAL:
    return estimators.estimator_spec(mode=mode, loss=loss, eval_metrics=(
        lambda losses, labels: {
            "mean_loss": tf.metrics.mean(losses),
            "mean_label": tf.metrics.mean(labels)}, [losses, labels]))
  tf.summary.scalar("learning_rate", tf.constant(0.25))
  train_op = tf.train.AdamOptimizer(0.1).minimize(
      loss, tf.train.get_global_step())
  return estimators.estimator_spec(mode=mode, loss=loss, train_op=train_op)


def input_fn(params, is_training=True):
  """Eleven rows; repeated and shuffled to train."""
  rows = np.arange(33, dtype=np.float32).reshape(11, 3) / 33
  dataset = tf.data.Dataset.from_tensor_slices(
      ({"x": rows}, rows.sum(axis=1)))
  if is_training:
    dataset = dataset.repeat().shuffle(5)
  return dataset.batch(params["batch_size"])


def eval_input_fn(params):
  return input_fn(params, is_training=False)


def create(output_dir, **options):
  settings = dict(model_fn=model_fn, output_dir=str(output_dir), seed=1,
                  train_batch_size=2, eval_batch_size=3, predict_batch_size=4,
                  save_checkpoints_steps=3, keep_checkpoint_max=2)
  settings.update(options)
  return estimators.create_estimator(**settings)


@pytest.fixture
def session_only(monkeypatch):
  """As with a TensorFlow that has no TPUEstimator."""
  monkeypatch.setattr(estimators, "HAS_TPU_ESTIMATOR", False)


def train(output_dir, num_train_steps, **options):
  estimator = create(output_dir, **options)
  estimators.train(estimator, input_fn, num_train_steps, batch_size=2,
                   log_steps=2)
  return estimator


# What a run leaves behind.


def weights(folder, step):
  """dict of name to array, of a checkpoint."""
  reader = tf.train.load_checkpoint(
      os.path.join(str(folder), "model.ckpt-%d" % step))
  return {name: reader.get_tensor(name)
          for name in reader.get_variable_to_shape_map()}


def assert_same_weights(first, second, step):
  first, second = weights(first, step), weights(second, step)
  assert set(first) == set(second)
  for name, value in first.items():
    np.testing.assert_array_equal(value, second[name], err_msg=name)


def files(folder):
  """Relative paths; names of event files, which hold time and host, cut.

  Each once: two runs that begin in the same second write to the same file.
  """
  names = (os.path.relpath(os.path.join(parent, name), str(folder))
           for parent, _, names in os.walk(str(folder)) for name in names)
  return sorted({name.split(".out.tfevents")[0] for name in names})


def events(folder):
  """dict of tag, or kind of event, to (step, value) in order."""
  found = {}
  for path in sorted(glob.glob(os.path.join(str(folder), "events.out.*"))):
    for event in tf.train.summary_iterator(path):
      if event.WhichOneof("what") != "summary":
        found.setdefault(event.WhichOneof("what"), []).append(event.step)
      for value in event.summary.value:
        number = value.simple_value
        if value.tag in ("examples_per_second", "checkpoint_path"):
          number = None  # A time and a folder.
        found.setdefault(value.tag, []).append((event.step, number))
  return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """For each, a folder and what evaluation and prediction returned."""
  found = {}
  for has_tpu_estimator in POSSIBLE:
    folder = str(tmp_path_factory.mktemp("run"))
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(estimators, "HAS_TPU_ESTIMATOR", has_tpu_estimator)
      estimator = train(folder, 7)
      results = estimator.evaluate(eval_input_fn)
      named = estimator.evaluate(
          eval_input_fn, steps=2, name="first",
          checkpoint_path=os.path.join(folder, "model.ckpt-6"))
      predictions = list(estimator.predict(eval_input_fn))
      batches = list(estimator.predict(
          eval_input_fn, yield_single_examples=False))
    found[has_tpu_estimator] = (
        folder, [results, named], predictions, batches)
  tf.summary.FileWriterCache.clear()  # Closes, and so writes, the events.
  return found


@compares
def test_training_leaves_the_same_files_as_with_tpu_estimator(runs):
  theirs, ours = runs[True][0], runs[False][0]
  assert files(ours) == files(theirs)
  assert {"checkpoint", "graph.pbtxt", "events", "model.ckpt-6.meta",
          "eval/events", "eval_first/events"} <= set(files(ours))
  with open(os.path.join(theirs, "checkpoint")) as one:
    with open(os.path.join(ours, "checkpoint")) as other:
      assert one.read() == other.read()


@compares
def test_training_gives_the_same_weights_as_with_tpu_estimator(runs):
  for step in (6, 7):
    assert_same_weights(runs[True][0], runs[False][0], step)
  assert weights(runs[False][0], 7)["global_step"] == 7


@compares
@pytest.mark.parametrize("part", ["", "eval", "eval_first"])
def test_events_hold_the_same_as_with_tpu_estimator(runs, part):
  theirs, ours = (
      events(os.path.join(runs[kind][0], part)) for kind in BOTH)
  assert ours == theirs
  assert set(ours) >= ({"mean_loss", "loss", "checkpoint_path"} if part else
                       {"loss", "learning_rate", "examples_per_second"})


@compares
def test_results_are_the_same_as_with_tpu_estimator(runs):
  for theirs, ours in zip(runs[True][1], runs[False][1]):
    assert ours == theirs
    assert set(ours) == {"loss", "global_step", "mean_loss", "mean_label"}
    for key, value in ours.items():
      assert type(value) is type(theirs[key])
  assert [results["global_step"] for results in runs[False][1]] == [7, 6]


@compares
def test_predictions_are_the_same_as_with_tpu_estimator(runs):
  for part in (2, 3):
    theirs, ours = runs[True][part], runs[False][part]
    assert len(theirs) == len(ours)
    for one, other in zip(theirs, ours):
      assert set(one) == set(other) == {"logits", "x"}
      for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])


@compares
@pytest.mark.parametrize("began", BOTH)
def test_either_goes_on_from_the_other_as_with_tpu_estimator(
    runs, began, tmp_path, monkeypatch):
  for goes_on in BOTH:
    folder = str(tmp_path / str(goes_on))
    shutil.copytree(runs[began][0], folder)
    monkeypatch.setattr(estimators, "HAS_TPU_ESTIMATOR", goes_on)
    train(folder, 11)
  first, second = (str(tmp_path / str(goes_on)) for goes_on in BOTH)
  assert files(first) == files(second)
  for step in (10, 11):
    assert_same_weights(first, second, step)


# What holds with any TensorFlow.


def test_the_last_batch_of_a_prediction_is_short(runs):
  _, _, predictions, batches = runs[False]
  assert len(predictions) == 11
  assert [len(batch["logits"]) for batch in batches] == [4, 4, 3]
  np.testing.assert_array_equal(
      np.concatenate([batch["x"] for batch in batches]),
      [row["x"] for row in predictions])


def test_the_newest_checkpoints_are_kept(runs):
  folder = runs[False][0]
  states = tf.train.get_checkpoint_state(folder).all_model_checkpoint_paths
  assert [os.path.basename(path) for path in states] == [
      "model.ckpt-6", "model.ckpt-7"]
  assert not glob.glob(os.path.join(folder, "model.ckpt-[0-5].*"))


def test_the_first_checkpoint_is_of_step_zero(tmp_path, session_only):
  train(tmp_path, 2)
  assert weights(tmp_path, 0)["global_step"] == 0
  assert weights(tmp_path, 2)["global_step"] == 2


def test_what_has_been_trained_is_not_built_again(
    runs, tmp_path, session_only, caplog):
  shutil.copytree(runs[False][0], str(tmp_path / "copy"))
  before = files(tmp_path)

  def fail(params):
    raise AssertionError("There is nothing to read.")

  with caplog.at_level(logging.INFO, "tensorflow"):
    create(tmp_path / "copy").train(fail, max_steps=7)
  assert files(tmp_path) == before
  assert "Skipping training since max_steps has already saved." in caplog.text


@pytest.mark.parametrize("max_steps, reached", [(None, 6), (9, 6), (4, 4)])
def test_training_ends_with_its_data_or_its_steps(
    tmp_path, session_only, max_steps, reached):
  create(tmp_path).train(eval_input_fn, max_steps=max_steps)
  assert estimators.trained_steps(str(tmp_path)) == reached


def test_functions_are_given_their_batch_size_and_what_they_ask_for(
    tmp_path, session_only):
  seen = []

  def watching_input_fn(params, mode):
    seen.append((mode, params["batch_size"]))
    return eval_input_fn(params)

  def watching_model_fn(features, labels, mode, params, config):
    seen.append((mode, params["batch_size"]))
    return model_fn(features, labels, mode, params, config)

  estimator = create(tmp_path, model_fn=watching_model_fn)
  estimator.train(watching_input_fn, max_steps=1)
  estimator.evaluate(watching_input_fn)
  next(estimator.predict(watching_input_fn))
  assert seen == 2 * [("train", 2)] + 2 * [("eval", 3)] + 2 * [("infer", 4)]


def test_without_a_checkpoint_the_first_values_are_evaluated(
    tmp_path, session_only, caplog):
  estimator = create(tmp_path)
  with caplog.at_level(logging.INFO, "tensorflow"):
    results = estimator.evaluate(eval_input_fn)
  assert "Could not find trained model in %s" % tmp_path in caplog.text
  assert results["global_step"] == 0
  assert "checkpoint_path" not in events(tmp_path / "eval")
  assert len(list(estimator.predict(eval_input_fn))) == 11


def test_a_prediction_that_is_left_leaves_no_graph_behind(
    tmp_path, session_only):
  graph = tf.get_default_graph()
  predictions = create(tmp_path).predict(eval_input_fn)
  next(predictions)
  assert tf.get_default_graph() is graph
  predictions.close()
  assert list(predictions) == []


def test_a_loss_that_is_nan_ends_training(tmp_path, session_only):
  def input_fn_with_nan(params):
    return eval_input_fn(params).map(lambda features, labels: (
        features, labels + float("nan")))

  with pytest.raises(tf.train.NanLossDuringTrainingError):
    create(tmp_path).train(input_fn_with_nan, max_steps=5)
  assert not glob.glob(str(tmp_path / "model.ckpt-[1-9]*"))


def test_hooks_and_scaffold_of_the_model_are_used(tmp_path, session_only):
  class Counter(tf.train.SessionRunHook):
    count = 0

    def after_run(self, run_context, run_values):
      self.count += 1

  ours, models, initialized = Counter(), Counter(), []

  def model_fn_with_more(features, labels, mode, params, config):
    spec = model_fn(features, labels, mode, params, config)
    return spec._replace(
        training_hooks=[models], evaluation_hooks=[models],
        prediction_hooks=[models], scaffold_fn=lambda: tf.train.Scaffold(
            init_fn=lambda scaffold, session: initialized.append(mode)))

  estimator = create(tmp_path, model_fn=model_fn_with_more)
  estimator.train(eval_input_fn, hooks=[ours], max_steps=2)
  assert (ours.count, models.count) == (2, 2)
  estimator.evaluate(eval_input_fn, hooks=[ours], steps=1)
  assert (ours.count, models.count) == (3, 3)
  list(estimator.predict(eval_input_fn, hooks=[ours]))
  assert (ours.count, models.count) == (6, 6)
  # The others have a checkpoint to read.
  assert initialized == ["train"]


def test_without_a_folder_a_temporary_one_is_used(session_only, caplog):
  estimator = estimators.create_estimator(model_fn=model_fn, output_dir=None)
  assert os.path.isdir(estimator.model_dir)
  assert estimator.model_dir in caplog.text
  os.rmdir(estimator.model_dir)


def test_mode_keys_are_tensorflows():
  assert (ModeKeys.TRAIN, ModeKeys.EVAL, ModeKeys.PREDICT) == (
      "train", "eval", "infer")
  if estimators.HAS_TPU_ESTIMATOR:
    theirs = tf.estimator.ModeKeys
    assert (theirs.TRAIN, theirs.EVAL, theirs.PREDICT) == (
        "train", "eval", "infer")


# Ends that nobody planned.


class Killer(tf.train.SessionRunHook):
  """Kills the process, as when the machine is taken away, at a step."""

  def __init__(self, step):
    self._left = step

  def after_run(self, run_context, run_values):
    self._left -= 1
    if not self._left:
      os.kill(os.getpid(), signal.SIGKILL)


def killed(folder, has_tpu_estimator):
  """Trains to step 12, but is killed at step 8: runs in its own process."""
  estimators.HAS_TPU_ESTIMATOR = has_tpu_estimator == "True"
  create(folder).train(input_fn, hooks=[Killer(8)], max_steps=12)


def run_killed(folder, has_tpu_estimator):
  here = os.path.dirname(os.path.abspath(__file__))
  result = subprocess.run(
      [sys.executable, "-c",
       "import sys; sys.path[:0] = sys.argv[3:]\n"
       "import session_estimator_test\n"
       "session_estimator_test.killed(*sys.argv[1:3])",
       str(folder), str(has_tpu_estimator), here, os.path.dirname(here)],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  assert result.returncode == -signal.SIGKILL, result.stdout[-2000:]


def test_a_killed_run_goes_on_from_its_last_checkpoint(
    tmp_path, session_only):
  run_killed(tmp_path, False)
  assert estimators.trained_steps(str(tmp_path)) == 6
  train(tmp_path, 12)
  assert weights(tmp_path, 12)["global_step"] == 12
  assert not [name for name in files(tmp_path) if "temp" in name]


@compares
def test_a_killed_run_ends_as_with_tpu_estimator(tmp_path, monkeypatch):
  for has_tpu_estimator in BOTH:
    run_killed(tmp_path / str(has_tpu_estimator), has_tpu_estimator)
    monkeypatch.setattr(estimators, "HAS_TPU_ESTIMATOR", has_tpu_estimator)
    train(tmp_path / str(has_tpu_estimator), 12)
  theirs, ours = (tmp_path / str(kind) for kind in BOTH)
  assert files(ours) == files(theirs)
  for step in (9, 12):
    assert_same_weights(ours, theirs, step)


# Which of the two is used.


def test_tpu_estimator_is_used_where_there_is_one(tmp_path):
  is_ours = isinstance(create(tmp_path), session_estimator.Estimator)
  assert is_ours == (not hasattr(tf, "estimator"))
  assert is_ours == (tuple(map(int, tf.__version__.split(".")[:2])) >= (2, 16))


def test_a_tpu_without_tpu_estimator_is_an_error_with_the_versions(
    tmp_path, session_only):
  with pytest.raises(ValueError, match="--use_tpu .* %s .*1.15 to 2.15"
                     % tf.__version__):
    create(tmp_path / "out", use_tpu=True)
  assert not (tmp_path / "out").exists()
