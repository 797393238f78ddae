"""Tests of estimators.py: `pytest tests/estimators_test.py`.

A model of one weight stands in for BERT.
"""

import glob
import logging
import os
import re
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import compiled_functions
import estimators
import modeling

TRAIN = estimators.ModeKeys.TRAIN
PREDICT = estimators.ModeKeys.PREDICT

pytestmark = pytest.mark.usefixtures("graph")


@pytest.fixture
def log():
  """Lines of the "tensorflow" logger, as "LEVEL message"."""
  logger = logging.getLogger("tensorflow")
  level = logger.level
  lines = []
  handler = logging.Handler()
  handler.emit = lambda record: lines.append(
      "%s %s" % (record.levelname, record.getMessage()))
  logger.addHandler(handler)
  logger.setLevel(logging.INFO)
  yield lines
  logger.removeHandler(handler)
  logger.setLevel(level)


def warnings_in(log):
  return [line for line in log if line.startswith("WARNING ")
          and "deprecated" not in line]


# The estimator and its progress line.


def model_fn(features, labels, mode, params):
  del labels, params
  weight = tf.get_variable("weight", [], initializer=tf.ones_initializer())
  loss = tf.reduce_mean(features["x"] * weight)
  rate = tf.constant(0.25)
  tf.add_to_collection(estimators.LEARNING_RATE_COLLECTION, rate)
  # The tag itself, as the optimizer writes it.
  tf.add_to_collection(
      tf.GraphKeys.SUMMARIES,
      tf.raw_ops.ScalarSummary(tags="learning_rate", values=rate))
  step = tf.train.get_or_create_global_step().assign_add(1)
  return estimators.estimator_spec(
      mode=mode, loss=loss, train_op=tf.group(step))


def batches_of(values):
  """An input function whose n-th batch is two times the n-th value."""
  def input_fn(params):
    rows = np.repeat(np.asarray(values, np.float32), params["batch_size"])
    return tf.data.Dataset.from_tensor_slices({"x": rows}).batch(
        params["batch_size"], drop_remainder=True)
  return input_fn


def run_training(output_dir, values, num_train_steps, log_steps=2):
  estimator = estimators.create_estimator(
      model_fn=model_fn, output_dir=output_dir, train_batch_size=2,
      log_steps=log_steps, save_checkpoints_steps=100)
  estimators.train(estimator, batches_of(values), num_train_steps,
                   batch_size=2, log_steps=log_steps)


LINE = re.compile(
    r"INFO step (\d+)/(\d+) \((\d+\.\d)%\), loss = (\d+\.\d+), "
    r"learning_rate = 0.25, (\d+\.\d) examples/s, (\d+:)?\d+:\d\d left$")


def progress(log):
  """(step, total, percent, loss) of each progress line."""
  matches = [LINE.match(line) for line in log if line.startswith("INFO step ")]
  return [(int(m.group(1)), int(m.group(2)), m.group(3), float(m.group(4)))
          for m in matches]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """Folder of a run to step 5 of 5, and its log."""
  output_dir = str(tmp_path_factory.mktemp("trained"))
  lines = []
  handler = logging.Handler()
  handler.emit = lambda record: lines.append(
      "%s %s" % (record.levelname, record.getMessage()))
  logger = logging.getLogger("tensorflow")
  level = logger.level
  logger.setLevel(logging.INFO)
  logger.addHandler(handler)
  try:
    with tf.Graph().as_default():
      run_training(output_dir, [1, 2, 3, 4, 6], 5)
  finally:
    logger.removeHandler(handler)
    logger.setLevel(level)
  return output_dir, lines


def test_progress_lines_hold_the_mean_loss_since_the_last(trained):
  assert progress(trained[1]) == [
      (2, 5, "40.0", 1.5), (4, 5, "80.0", 3.5), (5, 5, "100.0", 6.0)]


def test_a_resumed_run_counts_from_its_step(trained, tmp_path, log):
  output_dir = str(tmp_path / "copy")
  shutil.copytree(trained[0], output_dir)
  run_training(output_dir, [7] * 9, 8)
  # The first step of a session is not timed, so a line comes at its second.
  assert progress(log) == [(8, 8, "100.0", 7.0)]
  assert estimators.checkpoint_step(
      estimators.latest_checkpoint(output_dir)) == 8


def test_a_finished_run_trains_no_further(trained, tmp_path, log):
  output_dir = str(tmp_path / "copy")
  shutil.copytree(trained[0], output_dir)
  run_training(output_dir, [7] * 9, 5)
  assert progress(log) == []


def test_a_run_of_one_step_shows_its_loss(tmp_path, log):
  run_training(str(tmp_path), [3], 1)
  (line,) = [line for line in log if "step 1/1" in line]
  assert "loss = 3.0" in line


def test_tensorboard_gets_loss_rate_and_speed(trained):
  tags = {}
  for path in glob.glob(os.path.join(trained[0], "events.out.tfevents.*")):
    for event in tf.train.summary_iterator(path):
      for value in event.summary.value:
        tags.setdefault(value.tag, []).append(event.step)
  assert set(tags) >= {"loss", "learning_rate", "examples_per_second"}
  assert max(tags["examples_per_second"]) == 5
  assert tags["loss"] == tags["learning_rate"] == [1, 2, 4]


def test_summaries_of_whole_tensors_are_computed_where_they_are_written(
    tmp_path):
  runs = []

  def model_fn_with_histogram(features, labels, mode, params):
    spec = model_fn(features, labels, mode, params)
    values, = tf.py_func(
        lambda x: (runs.append(1), x)[1], [features["x"]], [tf.float32])
    tf.summary.histogram("x", values)
    return spec

  estimator = estimators.create_estimator(
      model_fn=model_fn_with_histogram, output_dir=str(tmp_path),
      train_batch_size=2, log_steps=3)
  estimators.train(estimator, batches_of([1, 2, 3, 4, 5]), 5, 2, log_steps=3)
  assert len(runs) == 2
  steps = [event.step for path in glob.glob(str(tmp_path / "events.out.*"))
           for event in tf.train.summary_iterator(path)
           for value in event.summary.value if value.tag == "x"]
  assert steps == [1, 3]


def test_training_writes_the_files_of_an_estimator(trained):
  names = set(os.listdir(trained[0]))
  assert names >= {
      "checkpoint", "graph.pbtxt", "model.ckpt-5.index", "model.ckpt-5.meta",
      "model.ckpt-5.data-00000-of-00001", "model.ckpt-0.index"}


def test_a_loss_that_is_nan_ends_the_run_naming_the_step(tmp_path):
  with pytest.raises(ValueError, match="NaN at step 2 of 5") as error:
    run_training(str(tmp_path), [1, float("nan"), 3, 4, 5], 5)
  assert "learning rate" in str(error.value)
  assert not glob.glob(str(tmp_path / "model.ckpt-[1-9]*"))


@pytest.mark.parametrize("seconds, text", [
    (0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3725, "1:02:05"),
    (100 * 3600, "100:00:00")])
def test_time_left_reads_as_hours_minutes_seconds(seconds, text):
  assert estimators._format_seconds(seconds) == text


def test_settings_reach_the_estimator(tmp_path):
  estimator = estimators.create_estimator(
      model_fn=model_fn, output_dir=str(tmp_path), seed=3,
      keep_checkpoint_max=2, save_checkpoints_steps=11)
  config = estimator.config
  assert (config.tf_random_seed, config.keep_checkpoint_max,
          config.save_checkpoints_steps, config.model_dir) == (
              3, 2, 11, str(tmp_path))
  # Summaries are the progress hook's; ours has no setting to write them.
  assert getattr(config, "save_summary_steps", 0) == 0


def test_threads_and_xla_reach_the_session():
  session = estimators.create_estimator(
      model_fn=model_fn, output_dir=None).config.session_config
  assert session.allow_soft_placement
  assert (session.intra_op_parallelism_threads,
          session.inter_op_parallelism_threads) == (0, 0)
  assert session.graph_options.optimizer_options.global_jit_level == 0
  session = estimators.create_estimator(
      model_fn=model_fn, output_dir=None, use_xla=True, intra_op_threads=3,
      inter_op_threads=2).config.session_config
  assert (session.intra_op_parallelism_threads,
          session.inter_op_parallelism_threads) == (3, 2)
  options = session.graph_options.optimizer_options
  assert options.global_jit_level == options.ON_2


def test_training_asks_whether_its_sessions_can_compile_for_a_gpu(
    monkeypatch, tmp_path):
  asked = []
  monkeypatch.setattr(
      compiled_functions, "enable_on_gpu",
      lambda config: asked.append(config.intra_op_parallelism_threads))
  estimator = estimators.create_estimator(
      model_fn=model_fn, output_dir=str(tmp_path), intra_op_threads=3)
  assert not asked
  estimators.train(estimator, batches_of([1, 2]), 1, 2)
  assert asked == [3]


def test_the_estimators_defaults_are_the_originals():
  config = estimators.create_estimator(
      model_fn=model_fn, output_dir=None).config
  assert (config.tf_random_seed, config.keep_checkpoint_max,
          config.save_checkpoints_steps) == (None, 5, 1000)


# Initialisation.


def save_checkpoint(folder, values, name="bert_model.ckpt", step=None):
  """Writes a checkpoint with these variables; returns its prefix."""
  with tf.Graph().as_default(), tf.Session() as session:
    for key, value in values.items():
      tf.get_variable(key, initializer=tf.constant(value, tf.float32))
    if step is not None:
      tf.get_variable("global_step", initializer=tf.constant(step, tf.int64))
    session.run(tf.global_variables_initializer())
    os.makedirs(str(folder), exist_ok=True)
    return tf.train.Saver().save(session, os.path.join(str(folder), name))


def make_variables(**shapes):
  for name, shape in sorted(shapes.items()):
    tf.get_variable(name, shape, initializer=tf.zeros_initializer())


def values_of_variables():
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    return {v.op.name: session.run(v).tolist() for v in tf.global_variables()}


CHECKPOINT = {"a": [1.0, 2.0], "b": [3.0], "b/adam_m": [9.0], "extra": [0.0]}
OTHER_SLOTS = {"a/lamb_v": [1.0], "b/adafactor_row": [0.0], "b/Adam_1": [1.0]}


@pytest.mark.parametrize("suffix", ["", ".index", ".data-00000-of-00001",
                                    ".meta", None])
def test_every_name_of_a_checkpoint_is_accepted(tmp_path, suffix):
  prefix = save_checkpoint(tmp_path, CHECKPOINT)
  make_variables(a=[2], b=[1])
  path = str(tmp_path) if suffix is None else prefix + suffix
  assert estimators.init_from_checkpoint(path, False, TRAIN) is None
  assert values_of_variables() == {"a": [1.0, 2.0], "b": [3.0]}


def test_a_folder_without_a_checkpoint_file_is_accepted(tmp_path):
  # As the released models are packed.
  save_checkpoint(tmp_path, CHECKPOINT)
  os.remove(str(tmp_path / "checkpoint"))
  make_variables(a=[2])
  estimators.init_from_checkpoint(str(tmp_path) + "/", False, TRAIN)
  assert values_of_variables() == {"a": [1.0, 2.0]}


def test_a_missing_checkpoint_is_named(tmp_path):
  make_variables(a=[2])
  with pytest.raises(ValueError, match="no checkpoint at .*none.ckpt"):
    estimators.init_from_checkpoint(
        str(tmp_path / "none.ckpt"), False, TRAIN)


def test_when_nothing_matches_both_sides_are_listed(tmp_path):
  prefix = save_checkpoint(tmp_path, {"theirs/x": [0.0], "theirs/y": [0.0]})
  make_variables(**{"ours/x": [1], "ours/z": [1]})
  with pytest.raises(ValueError) as error:
    estimators.init_from_checkpoint(prefix, False, TRAIN)
  for name in (prefix, "ours/x", "ours/z", "theirs/x", "theirs/y"):
    assert name in str(error.value)


def test_what_is_not_in_the_checkpoint_is_warned_of_by_name(tmp_path, log):
  prefix = save_checkpoint(tmp_path, CHECKPOINT)
  make_variables(a=[2], output_bias=[1], output_weights=[1])
  estimators.init_from_checkpoint(prefix, False, TRAIN)
  (warning,) = warnings_in(log)
  assert "output_bias, output_weights" in warning and prefix in warning
  assert "INFO   name = a:0, shape = (2,), *INIT_FROM_CKPT*" in log
  assert "INFO   name = output_bias:0, shape = (1,)" in log


def test_a_full_match_gives_no_warning(tmp_path, log):
  prefix = save_checkpoint(tmp_path, CHECKPOINT)
  make_variables(a=[2], b=[1])
  estimators.init_from_checkpoint(prefix, False, TRAIN)
  assert warnings_in(log) == []


def test_other_shapes_are_one_error_with_both_shapes(tmp_path):
  prefix = save_checkpoint(tmp_path, {
      "a": [0.0], "output_weights": [[1.0], [2.0], [3.0]],
      "bert/embeddings/word_embeddings": [[1.0], [2.0]]})
  make_variables(**{"a": [1], "output_weights": [2, 1],
                    "bert/embeddings/word_embeddings": [4, 1]})
  with pytest.raises(ValueError) as error:
    estimators.init_from_checkpoint(prefix, False, TRAIN)
  message = str(error.value)
  assert "output_weights: [2, 1] in the model, [3, 1]" in message
  assert "word_embeddings: [4, 1] in the model, [2, 1]" in message
  assert prefix in message and "label" in message and "config" in message


def test_a_hundred_other_shapes_do_not_fill_the_screen(tmp_path):
  names = ["v%02d" % index for index in range(60)]
  prefix = save_checkpoint(tmp_path, {name: [0.0] for name in names})
  make_variables(**{name: [2] for name in names})
  with pytest.raises(ValueError) as error:
    estimators.init_from_checkpoint(prefix, False, TRAIN)
  assert len(str(error.value).splitlines()) <= 15
  assert "more" in str(error.value)


def test_without_a_checkpoint_training_starts_at_random_and_says_so(log):
  make_variables(a=[2])
  assert estimators.init_from_checkpoint(None, False, TRAIN) is None
  (warning,) = warnings_in(log)
  assert "random" in warning


def test_predicting_without_a_checkpoint_is_warned_of(log):
  make_variables(output_weights=[2])
  estimators.init_from_checkpoint(None, False, PREDICT)
  (warning,) = warnings_in(log)
  assert "output_weights" in warning and "untrained" in warning


def test_predicting_with_a_pretrained_checkpoint_only_is_warned_of(
    tmp_path, log):
  prefix = save_checkpoint(tmp_path, CHECKPOINT)
  make_variables(a=[2], output_weights=[2])
  estimators.init_from_checkpoint(prefix, False, PREDICT)
  (warning,) = warnings_in(log)
  assert "output_weights" in warning and prefix in warning
  assert "(output_weights)" in warning  # And not `a`, which was trained.


@pytest.mark.parametrize("mode", [TRAIN, PREDICT])
def test_what_no_output_depends_on_is_not_warned_of(tmp_path, log, mode):
  prefix = save_checkpoint(tmp_path, CHECKPOINT)
  make_variables(a=[2], head=[2], pooler=[2])
  a, head, pooler = tf.trainable_variables()
  estimators.init_from_checkpoint(
      prefix, False, mode, outputs=[tf.nn.relu(a + 1.0)])
  assert warnings_in(log) == []
  estimators.init_from_checkpoint(
      prefix, False, mode, outputs=[tf.nn.relu(a * head)])
  (warning,) = warnings_in(log)
  assert "head" in warning and "pooler" not in warning


def test_a_checkpoint_in_the_output_folder_wins(tmp_path, log):
  init = save_checkpoint(tmp_path / "init", {"a": [1.0]})
  save_checkpoint(tmp_path / "out", {"a": [5.0]}, "model.ckpt-3", step=3)
  make_variables(a=[1])
  estimators.init_from_checkpoint(
      init, False, TRAIN, model_dir=str(tmp_path / "out"))
  # Left to the estimator, which restores all of it.
  assert values_of_variables() == {"a": [0.0]}
  assert "INFO   name = a:0, shape = (1,), *RESUMED*" in log
  assert warnings_in(log) == []


def test_an_output_folder_of_another_model_is_an_error(tmp_path):
  # The estimator would restore and stop with TensorFlow's own message.
  save_checkpoint(tmp_path, {"a": [5.0]}, "model.ckpt-3", step=3)
  make_variables(a=[1], output_weights=[2])
  with pytest.raises(ValueError, match="output_weights"):
    estimators.init_from_checkpoint(
        None, False, TRAIN, model_dir=str(tmp_path))


def test_on_a_tpu_the_scaffold_initialises(tmp_path):
  prefix = save_checkpoint(tmp_path, CHECKPOINT)
  make_variables(a=[2])
  scaffold_fn = estimators.init_from_checkpoint(prefix, True, TRAIN)
  assert values_of_variables() == {"a": [0.0, 0.0]}
  assert isinstance(scaffold_fn(), tf.train.Scaffold)
  assert values_of_variables() == {"a": [1.0, 2.0]}


def test_optimizer_slots_are_not_counted_as_unused(tmp_path):
  prefix = save_checkpoint(tmp_path, dict(CHECKPOINT, **OTHER_SLOTS), step=7)
  make_variables(a=[2])
  coverage = modeling.compare_with_checkpoint(
      tf.trainable_variables(), prefix)
  assert coverage == (["a"], [], ["b", "extra"], [])


# Whether an optimizer can go on from a checkpoint.


SLOTS = {"adamw": ["adam_m", "adam_v"], "lamb": ["lamb_m", "lamb_v"],
         "adafactor": ["adafactor_row", "adafactor_column"]}


def with_slots(optimizer, variables=("a", "b"), weights=("a", "b")):
  """Values by name: two weights, and slots for some of them."""
  slots = ["%s/%s" % (name, slot) for name in variables
           for slot in SLOTS.get(optimizer, ())]
  return {name: [1.0] for name in list(weights) + slots}


def resume(folder, **shapes):
  make_variables(**shapes)
  hook = estimators.ResumptionHook(str(folder))
  hook.begin()


@pytest.mark.parametrize("optimizer", SLOTS)
def test_the_same_optimizer_goes_on(tmp_path, optimizer):
  resume(tmp_path / "none", c=[1])
  values = with_slots(optimizer)
  save_checkpoint(tmp_path, values, step=3)
  resume(tmp_path, global_step=[], **{name: [1] for name in values})


def test_more_frozen_layers_than_before_go_on(tmp_path):
  save_checkpoint(tmp_path, with_slots("adamw"), step=3)
  resume(tmp_path, **{name: [1] for name in with_slots("adamw", ["b"])})


@pytest.mark.parametrize("theirs, ours, parts", [
    (with_slots("adamw"), with_slots("lamb"),
     ["trained with --optimizer=adamw, not lamb", "lacks a/lamb_m, a/lamb_v",
      "give --optimizer=adamw"]),
    (with_slots("adafactor"), with_slots("adamw"),
     ["trained with --optimizer=adafactor, not adamw"]),
    (with_slots("lamb", ["b"]), with_slots("lamb"),
     ["more layers frozen than --freeze_layers says", "lacks a/lamb_m",
      "give the --freeze_layers it was trained with"]),
    (with_slots(None), with_slots("adafactor"),
     ["without any optimizer's state", "a/adafactor_column"])])
def test_a_checkpoint_without_the_state_needed_says_what_to_do(
    tmp_path, theirs, ours, parts):
  prefix = save_checkpoint(tmp_path, theirs, step=3)
  with pytest.raises(ValueError) as error:
    resume(tmp_path, **{name: [1] for name in ours})
  for part in parts + ["--output_dir holds the checkpoint " + prefix,
                       "another --output_dir",
                       "--init_checkpoint=" + prefix]:
    assert part in str(error.value)


def test_training_checks_the_state_before_its_first_step(tmp_path):
  def model_fn_with_state(features, labels, mode, params):
    spec = model_fn(features, labels, mode, params)
    tf.get_variable("weight/lamb_m", [])
    return spec

  save_checkpoint(tmp_path, {"weight": 1.0, "weight/adam_m": 1.0},
                  "model.ckpt-3", step=3)
  before = set(os.listdir(str(tmp_path)))
  estimator = estimators.create_estimator(
      model_fn=model_fn_with_state, output_dir=str(tmp_path),
      train_batch_size=2)
  with pytest.raises(ValueError, match="--optimizer=adamw, not lamb"):
    estimators.train(estimator, batches_of([1, 2]), 5, 2)
  assert not [name for name in set(os.listdir(str(tmp_path))) - before
              if "ckpt" in name]


@pytest.mark.parametrize("layers", [-1, 0, 12])
def test_layers_to_freeze_in_range_pass(layers):
  estimators.check_freeze_layers(layers, CONFIG)


@pytest.mark.parametrize("layers", [-2, 13])
def test_layers_to_freeze_out_of_range_name_flag_value_and_limit(layers):
  with pytest.raises(ValueError, match="--freeze_layers=%d .*up to 12 "
                     % layers):
    estimators.check_freeze_layers(layers, CONFIG)


# What an output folder with a checkpoint means.


def test_an_empty_output_folder_is_not_worth_a_line(tmp_path, log):
  estimators.report_existing_checkpoint(str(tmp_path), "x.ckpt", True, 9)
  estimators.report_existing_checkpoint(
      str(tmp_path / "none"), "x.ckpt", True, 9)
  assert log == []


@pytest.mark.parametrize("num_train_steps, says", [
    (9, "goes on from its step 3"), (3, "nothing left to train")])
def test_an_existing_checkpoint_is_reported_before_training(
    tmp_path, log, num_train_steps, says):
  prefix = save_checkpoint(tmp_path, {"a": [5.0]}, "model.ckpt-3", step=3)
  estimators.report_existing_checkpoint(
      str(tmp_path), "init.ckpt", True, num_train_steps)
  first, second = warnings_in(log)
  assert prefix in first and "init.ckpt" in first
  assert says in second


# Checks and results.


CONFIG = modeling.BertConfig(vocab_size=10, max_position_embeddings=16)


@pytest.mark.parametrize("length", [3, 16])
def test_sequence_lengths_in_range_pass(length):
  estimators.check_sequence_length(length, CONFIG)


@pytest.mark.parametrize("length", [-1, 0, 2, 17])
def test_a_sequence_length_out_of_range_names_flag_value_and_limits(length):
  with pytest.raises(ValueError) as error:
    estimators.check_sequence_length(length, CONFIG)
  assert "--max_seq_length=%d" % length in str(error.value)
  assert "3 to 16" in str(error.value)


def test_a_vocabulary_larger_than_the_model_is_an_error(log):
  with pytest.raises(ValueError, match=r"my.txt has 11 tokens.* is 10"):
    estimators.check_vocab_size(11, CONFIG, "my.txt")
  estimators.check_vocab_size(10, CONFIG, "my.txt")
  assert log == []
  estimators.check_vocab_size(9, CONFIG, "my.txt")
  assert len(warnings_in(log)) == 1


@pytest.mark.parametrize("arguments, steps", [
    ((3668, 32, 3.0, 0.1), (343, 34)),
    ((100, 32, 1.0, 0.1), (3, 0)),
    ((10, 4, 0.5, 1.0), (1, 1)),
    ((4, 4, 1.0, 0.0), (1, 0)),
])
def test_epochs_become_whole_steps_rounded_down(arguments, steps):
  assert estimators.training_steps(*arguments) == steps


@pytest.mark.parametrize("arguments", [
    (3, 4, 1.0, 0.1), (100, 32, 0.0, 0.1), (100, 32, -1.0, 0.1)])
def test_less_than_one_step_is_an_error_that_names_the_flags(arguments):
  with pytest.raises(ValueError) as error:
    estimators.training_steps(*arguments)
  assert "%d training examples" % arguments[0] in str(error.value)
  assert "--train_batch_size=%d" % arguments[1] in str(error.value)


def test_a_batch_size_of_zero_is_an_error_that_names_the_flag():
  with pytest.raises(ValueError, match="--train_batch_size=0"):
    estimators.training_steps(100, 0, 3.0, 0.1)


def test_results_are_written_as_sorted_lines(tmp_path, log):
  estimators.write_eval_results(str(tmp_path), {
      "loss": np.float32(0.5), "eval_accuracy": np.float32(0.7769608),
      "global_step": np.int64(343)})
  with open(str(tmp_path / "eval_results.txt")) as reader:
    assert reader.read() == (
        "eval_accuracy = 0.7769608\nglobal_step = 343\nloss = 0.5\n")
  assert log == [
      "INFO ***** Eval results *****", "INFO   eval_accuracy = 0.7769608",
      "INFO   global_step = 343", "INFO   loss = 0.5"]


# Precision.


@pytest.mark.parametrize("processor, best", [
    ({"avx512f", "avx512_bf16"}, "bfloat16"), ({"amx_bf16"}, "bfloat16"),
    ({"avx2"}, "float32")])
@pytest.mark.usefixtures("tensorflow_2")
def test_auto_precision_follows_the_processor_and_says_why(
    monkeypatch, log, processor, best):
  monkeypatch.setattr(estimators, "_processor_flags", lambda: processor)
  monkeypatch.setattr(
      tf.config.experimental, "list_physical_devices", lambda kind: [])
  assert estimators.choose_compute_dtype("auto", False).name == best
  assert "computing in %s, because the processor has" % best in log[-1]


@pytest.mark.parametrize("capability, best", [
    ((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float16"),
    ((6, 1), "float32")])
@pytest.mark.usefixtures("tensorflow_2")
def test_auto_precision_follows_the_gpu(monkeypatch, log, capability, best):
  monkeypatch.setattr(
      tf.config.experimental, "list_physical_devices", lambda kind: ["gpu"])
  monkeypatch.setattr(
      tf.config.experimental, "get_device_details", lambda gpu: {
          "device_name": "Card", "compute_capability": capability})
  assert estimators.choose_compute_dtype("auto", False).name == best
  assert "Card has compute capability %d.%d" % capability in log[-1]


def test_a_precision_that_the_device_lacks_is_warned_of(monkeypatch, log):
  monkeypatch.setattr(estimators, "_processor_flags", set)
  monkeypatch.setattr(
      tf.config.experimental, "list_physical_devices", lambda kind: [])
  assert estimators.choose_compute_dtype("none", False) == tf.float32
  assert not log
  assert estimators.choose_compute_dtype("bfloat16", False) == tf.bfloat16
  assert "may be slow" in log[-1] and "float32 is best" in log[-1]
  assert estimators.choose_compute_dtype("auto", True) == tf.bfloat16
  with pytest.raises(ValueError, match="TPU does not have float16"):
    estimators.choose_compute_dtype("float16", True)


def forget_gpus(monkeypatch, gpus):
  """Makes TensorFlow one that says nothing of GPUs but their number."""
  monkeypatch.setattr(
      tf.config.experimental, "list_physical_devices", lambda kind: gpus)
  monkeypatch.delattr(
      tf.config.experimental, "get_device_details", raising=False)


@pytest.mark.parametrize("gpus, reason", [
    ([], "no use of a processor's bfloat16"),
    (["gpu"], "what the GPU is fast at")])
def test_with_tensorflow_1_auto_precision_is_float32(
    monkeypatch, log, gpus, reason):
  forget_gpus(monkeypatch, gpus)
  monkeypatch.setattr(estimators, "_processor_flags", lambda: {"amx_bf16"})
  assert estimators.choose_compute_dtype("auto", False) == tf.float32
  assert reason in log[-1]
  assert estimators.choose_compute_dtype("auto", True) == tf.bfloat16


def test_bfloat16_on_a_gpu_is_refused_with_tensorflow_1(monkeypatch):
  forget_gpus(monkeypatch, ["gpu"])
  with pytest.raises(ValueError, match=(
      "bfloat16: TensorFlow %s does not have it on GPUs. Give float16, or use "
      "TensorFlow 2.15" % tf.__version__)):
    estimators.choose_compute_dtype("bfloat16", False)
  assert estimators.choose_compute_dtype("float16", False) == tf.float16
  assert estimators.choose_compute_dtype("bfloat16", True) == tf.bfloat16
