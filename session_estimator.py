"""Trains, evaluates and predicts where TensorFlow has no Estimator.

TensorFlow 2.16 dropped `tf.estimator`, but kept what it was made of: monitored
sessions and their hooks. `Estimator` puts them together anew, for one machine
and without a TPU. For the same model function, input functions and seed it
does what TPUEstimator does there: the same values, files, events and log; a
run that one began, the other goes on with. `session_estimator_test.py`
compares the two.

`estimators.py` chooses; nothing else needs to know this module.
"""

import collections
import inspect
import os
import tempfile

import tensorflow.compat.v1 as tf


class ModeKeys:
  """What a model function is asked for; TensorFlow's own values."""

  TRAIN = "train"
  EVAL = "eval"
  PREDICT = "infer"


EstimatorSpec = collections.namedtuple("EstimatorSpec", [
    "mode", "predictions", "loss", "train_op", "eval_metrics", "scaffold_fn",
    "training_hooks", "evaluation_hooks", "prediction_hooks"],
    defaults=(None, None, None, None, None, (), (), ()))
EstimatorSpec.__doc__ = """What a model function returns.

  Attributes:
    mode: a ModeKeys value.
    predictions: dict of str to tensor [B, ...]; to predict.
    loss: float scalar; to train and to evaluate.
    train_op: operation that makes a step and counts it in the global step.
    eval_metrics: (function, its arguments as a list or a dict), which gives a
      dict of str to (value, update operation) as from `tf.metrics`; or None.
    scaffold_fn: function without arguments to a tf.train.Scaffold, or None.
    training_hooks, evaluation_hooks, prediction_hooks: sequences of
      tf.train.SessionRunHook.
  """

RunConfig = collections.namedtuple("RunConfig", [
    "model_dir", "save_checkpoints_steps", "keep_checkpoint_max",
    "tf_random_seed", "session_config", "master"])
RunConfig.__doc__ = """The settings of a run.

  Attributes:
    model_dir: str, folder of checkpoints and events; None for a temporary one.
    save_checkpoints_steps: int, steps between checkpoints.
    keep_checkpoint_max: int, newest checkpoints kept; 0 keeps all.
    tf_random_seed: int or None.
    session_config: tf.ConfigProto.
    master: str or None, TensorFlow master's address.
  """


class Estimator:
  """Runs a model function.

  Attributes:
    config: RunConfig.
    model_dir: str.
  """

  def __init__(self, model_fn, config, train_batch_size, eval_batch_size,
               predict_batch_size):
    """Sets up; nothing is built or written yet.

    Args:
      model_fn: function to an EstimatorSpec. It takes `features` and those it
        wants of `labels`, `mode`, `params` (a dict with "batch_size") and
        `config` (a RunConfig).
      config: RunConfig.
      train_batch_size: int, examples; what input functions are told.
      eval_batch_size: int.
      predict_batch_size: int.
    """
    if config.model_dir is None:
      config = config._replace(model_dir=tempfile.mkdtemp())
      tf.logging.warning("No output folder is given: using %s, a temporary "
                         "one.", config.model_dir)
    self.config = config
    self.model_dir = config.model_dir
    self._model_fn = model_fn
    self._batch_sizes = {ModeKeys.TRAIN: train_batch_size,
                         ModeKeys.EVAL: eval_batch_size,
                         ModeKeys.PREDICT: predict_batch_size}

  def train(self, input_fn, hooks=(), max_steps=None):
    """Trains from the newest checkpoint in `model_dir`, or from the start.

    Checkpoints are written before the first step, as the config says, and
    after the last step.

    Args:
      input_fn: function of `params` to a dataset of features, or of (features,
        labels).
      hooks: sequence of tf.train.SessionRunHook.
      max_steps: int, global step at which to end; None for the data's end.

    Raises:
      tf.train.NanLossDuringTrainingError: the loss became NaN.
    """
    if max_steps is not None and max_steps <= _saved_step(self.model_dir):
      tf.logging.info("Skipping training since max_steps has already saved.")
      return
    with tf.Graph().as_default():
      self._create_global_step()
      stop = tf.train.StopAtStepHook(last_step=max_steps or float("inf"))
      # Already here, where TPUEstimator has it: TensorFlow 1 makes seeds out of
      # the number of operations so far.
      stop.begin()
      spec, input_hooks = self._build(input_fn, ModeKeys.TRAIN)
      if not any(summary.op.name == "loss" for summary in
                 tf.get_collection(tf.GraphKeys.SUMMARIES)):
        tf.summary.scalar("loss", spec.loss)
      tf.add_to_collection(tf.GraphKeys.LOSSES, spec.loss)
      scaffold = _scaffold(spec)
      saver_hook = self._saver_hook(scaffold)
      with self._session(
          scaffold, [saver_hook] + input_hooks + list(hooks) +
          [stop, tf.train.NanTensorHook(spec.loss)] +
          list(spec.training_hooks),
          checkpoint_dir=self.model_dir) as session:
        loss = None
        while not session.should_stop():
          _, loss = session.run([spec.train_op, spec.loss])
    if loss is None:
      tf.logging.warning("There was no batch to train on.")
    tf.logging.info("Loss for final step: %s.", loss)

  def _saver_hook(self, scaffold):
    """The hook that writes checkpoints, unless the model has a saver."""
    if not (scaffold.saver or tf.get_collection(tf.GraphKeys.SAVERS)):
      # As Estimator's: with a data file for each device that has variables.
      tf.add_to_collection(tf.GraphKeys.SAVERS, tf.train.Saver(
          sharded=True, max_to_keep=self.config.keep_checkpoint_max,
          defer_build=True, save_relative_paths=True))
    return tf.train.CheckpointSaverHook(
        self.model_dir, save_steps=self.config.save_checkpoints_steps,
        scaffold=scaffold)

  def evaluate(self, input_fn, steps=None, hooks=(), checkpoint_path=None,
               name=None):
    """Evaluates a checkpoint.

    Args:
      input_fn: as of `train`.
      steps: int, batches; None for all.
      hooks: sequence of tf.train.SessionRunHook.
      checkpoint_path: str, prefix; None for the newest in `model_dir`, or if
        there is none, the values that the model starts from.
      name: str or None; events go to the folder `eval` or `eval_<name>`.

    Returns:
      dict of str to NumPy scalar: the metrics, `loss` (mean over the batches)
      and `global_step`.
    """
    checkpoint_path = checkpoint_path or self._newest_checkpoint()
    with tf.Graph().as_default():
      values = {"global_step": self._create_global_step()}
      spec, input_hooks = self._build(input_fn, ModeKeys.EVAL)
      metrics = _eval_metrics(spec)
      values.update((key, metrics[key][0]) for key in metrics)
      updates = tf.group(*[metrics[key][1] for key in sorted(metrics)])
      final_values = tf.train.FinalOpsHook(values)
      tf.logging.info("Starting evaluation.")
      with self._session(
          _scaffold(spec), input_hooks + list(hooks) +
          list(spec.evaluation_hooks) + [final_values],
          checkpoint_filename_with_path=checkpoint_path) as session:
        done = 0
        while not session.should_stop() and (steps is None or done < steps):
          session.run(updates)
          done += 1
      tf.logging.info("Finished evaluation.")
      results = final_values.final_ops_values
      folder = os.path.join(self.model_dir, "eval_" + name if name else "eval")
      _write_results(folder, results, checkpoint_path)
    return results

  def predict(self, input_fn, hooks=(), checkpoint_path=None,
              yield_single_examples=True):
    """Yields predictions; the model is built when the first is asked for.

    Args:
      input_fn: as of `train`.
      hooks: sequence of tf.train.SessionRunHook.
      checkpoint_path: as of `evaluate`.
      yield_single_examples: bool; False for whole batches.

    Yields:
      dict of str to array: `predictions` of the spec for one example, or for a
      batch.
    """
    checkpoint_path = checkpoint_path or self._newest_checkpoint()
    # Only while building: a generator must not leave its graph the default.
    with tf.Graph().as_default():
      self._create_global_step()
      spec, input_hooks = self._build(input_fn, ModeKeys.PREDICT)
      new_session = self._session(
          _scaffold(spec),
          input_hooks + list(hooks) + list(spec.prediction_hooks),
          checkpoint_filename_with_path=checkpoint_path)
    with new_session as session:
      while not session.should_stop():
        batch = session.run(spec.predictions)
        if yield_single_examples:
          for row in zip(*batch.values()):
            yield dict(zip(batch, row))
        else:
          yield batch

  def _create_global_step(self):
    """Begins a graph, with its seed and what counts its steps."""
    tf.set_random_seed(self.config.tf_random_seed)
    # Of the kind that TPUEstimator's is; before TensorFlow 2, not the default.
    with tf.variable_scope(tf.get_variable_scope(), use_resource=True):
      return tf.train.create_global_step()

  def _build(self, input_fn, mode):
    """Adds input and model to the graph; returns a spec and input hooks."""
    params = {"batch_size": self._batch_sizes[mode]}
    with tf.device("/device:CPU:0"):
      dataset = _call(
          input_fn, params=dict(params), config=self.config, mode=mode)
    iterator = tf.data.make_initializable_iterator(dataset)
    batch = iterator.get_next()
    features, labels = batch if isinstance(batch, tuple) else (batch, None)
    tf.logging.info("Building the model to %s.",
                    "predict" if mode == ModeKeys.PREDICT else mode)
    spec = _call(self._model_fn, features=features, labels=labels, mode=mode,
                 params=dict(params, use_tpu=False), config=self.config)
    return spec, [_InitializerHook(iterator.initializer)]

  def _newest_checkpoint(self):
    checkpoint = tf.train.latest_checkpoint(self.model_dir)
    if not checkpoint:
      tf.logging.info("Could not find trained model in %s: using the values "
                      "the model starts from.", self.model_dir)
    return checkpoint

  def _session(self, scaffold, hooks, **checkpoint):
    return tf.train.MonitoredSession(
        tf.train.ChiefSessionCreator(
            scaffold, master=self.config.master or "",
            config=self.config.session_config, **checkpoint),
        hooks)


class _InitializerHook(tf.train.SessionRunHook):
  """Runs an operation in a new session."""

  def __init__(self, initializer):
    self._initializer = initializer

  def after_create_session(self, session, coord):
    del coord  # Part of the interface.
    session.run(self._initializer)


def _call(function, **arguments):
  """Calls with those of the arguments that the function takes."""
  names = inspect.signature(function).parameters
  return function(**{name: value for name, value in arguments.items()
                     if name in names})


def _scaffold(spec):
  return spec.scaffold_fn() if spec.scaffold_fn else tf.train.Scaffold()


def _eval_metrics(spec):
  """dict of str to (value, update operation), the mean loss included."""
  metrics = {}
  if spec.eval_metrics:
    metric_fn, arguments = spec.eval_metrics
    metrics.update(metric_fn(**arguments) if isinstance(arguments, dict)
                   else metric_fn(*arguments))
  metrics["loss"] = tf.metrics.mean(spec.loss)
  return metrics


def _saved_step(model_dir):
  """The global step of the newest checkpoint; 0 without one."""
  checkpoint = tf.train.latest_checkpoint(model_dir)
  if not checkpoint:
    return 0
  reader = tf.train.load_checkpoint(checkpoint)
  return (reader.get_tensor("global_step")
          if reader.has_tensor("global_step") else 0)


def _write_results(folder, results, checkpoint_path):
  """Logs an evaluation's results and writes them as TensorBoard events."""
  step = results["global_step"]
  tf.logging.info("Saving dict for global step %d: %s", step, ", ".join(
      "%s = %s" % (key, results[key]) for key in sorted(results)))
  values = [tf.Summary.Value(tag=key, simple_value=results[key])
            for key in sorted(results) if key != "global_step"]
  if checkpoint_path:
    values.append(tf.Summary.Value(
        tag="checkpoint_path", tensor=tf.make_tensor_proto(checkpoint_path)))
  writer = tf.summary.FileWriterCache.get(folder)
  writer.add_summary(tf.Summary(value=values), step)
  writer.flush()
