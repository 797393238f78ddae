"""Runs a model function: estimator, initialisation, progress, results file.

  estimator = estimators.create_estimator(
      model_fn=model_fn, output_dir="/tmp/out", train_batch_size=32)
  estimators.train(estimator, input_fn, num_train_steps=343, batch_size=32)
  estimators.write_eval_results("/tmp/out", estimator.evaluate(eval_input_fn))

The only module that names `tf.estimator`, which TensorFlow 2.16 dropped; where
it is gone, `session_estimator` takes its place. It knows no loss, head, metric
or flag.
"""

import os
import time

import numpy as np
import tensorflow.compat.v1 as tf

import compiled_functions
import input_pipeline
import modeling
import session_estimator

HAS_TPU_ESTIMATOR = hasattr(tf, "estimator")

# Equal to tf.estimator.ModeKeys, where that exists.
ModeKeys = session_estimator.ModeKeys

# The optimizer leaves its learning rate here for the progress line.
LEARNING_RATE_COLLECTION = "learning_rate"

# Scalars for the progress line besides the loss, by the name of their op.
LOGGED_SCALARS_COLLECTION = "logged_scalars"

# How many variable names a message lists before it counts the rest.
MAX_NAMES_LISTED = 8


# The estimator.


def estimator_spec(**fields):
  """What a model function returns: tf.estimator.tpu.TPUEstimatorSpec.

  Where TensorFlow has none: session_estimator.EstimatorSpec.
  """
  if not HAS_TPU_ESTIMATOR:
    return session_estimator.EstimatorSpec(**fields)
  return tf.estimator.tpu.TPUEstimatorSpec(**fields)


def check_use_tpu(use_tpu):
  """Whether this TensorFlow can use a TPU as the scripts do.

  Args:
    use_tpu: bool.

  Raises:
    ValueError: it cannot.
  """
  if use_tpu and not HAS_TPU_ESTIMATOR:
    raise ValueError(
        "--use_tpu needs TPUEstimator, which TensorFlow %s no longer has. "
        "Install one from 1.15 to 2.15, or leave --use_tpu out to run on GPU "
        "or CPU." % tf.__version__)


def create_estimator(*, model_fn, output_dir, train_batch_size=32,
                     eval_batch_size=8, predict_batch_size=8,
                     save_checkpoints_steps=1000, keep_checkpoint_max=5,
                     log_steps=100, seed=None, use_tpu=False, tpu_name=None,
                     tpu_zone=None, gcp_project=None, master=None,
                     num_tpu_cores=8, iterations_per_loop=1000, use_xla=False,
                     intra_op_threads=0, inter_op_threads=0):
  """A TPUEstimator, which without a TPU runs on GPU or CPU.

  Where TensorFlow has none, a session_estimator.Estimator, which does the same
  on GPU or CPU.

  Args:
    model_fn: function (features, labels, mode, params) to an `estimator_spec`.
    output_dir: str, for checkpoints and TensorBoard events; None makes a
      temporary one.
    train_batch_size: int, examples in a batch over all TPU cores. All three
      sizes are always given, since a TPU needs them even where unused.
    eval_batch_size: int.
    predict_batch_size: int.
    save_checkpoints_steps: int, steps between checkpoints.
    keep_checkpoint_max: int, newest checkpoints kept; 0 keeps all.
    log_steps: int, steps between TensorBoard points (and log lines on TPU).
    seed: int or None, of variable initialisation and dropout.
    use_tpu: bool.
    tpu_name: str, name or grpc address of the TPU.
    tpu_zone: str.
    gcp_project: str.
    master: str, TensorFlow master's address.
    num_tpu_cores: int.
    iterations_per_loop: int, steps a TPU runs before it returns to the host.
    use_xla: bool, let XLA compile what it can of the graph; for GPUs.
    intra_op_threads: int, threads of one operation; 0 is one for each core.
    inter_op_threads: int, operations at a time; 0 is one for each core.

  Returns:
    tf.estimator.tpu.TPUEstimator or session_estimator.Estimator.

  Raises:
    ValueError: `use_tpu` where there is no TPUEstimator.
  """
  check_use_tpu(use_tpu)
  batch_sizes = {"train_batch_size": train_batch_size,
                 "eval_batch_size": eval_batch_size,
                 "predict_batch_size": predict_batch_size}
  settings = {
      "model_dir": output_dir, "master": master, "tf_random_seed": seed,
      "save_checkpoints_steps": save_checkpoints_steps,
      "keep_checkpoint_max": keep_checkpoint_max,
      "session_config": None if use_tpu else _session_config(
          use_xla, intra_op_threads, inter_op_threads)}
  if not HAS_TPU_ESTIMATOR:
    return session_estimator.Estimator(
        model_fn, session_estimator.RunConfig(**settings), **batch_sizes)
  cluster = None
  if use_tpu and tpu_name:
    cluster = tf.distribute.cluster_resolver.TPUClusterResolver(
        tpu_name, zone=tpu_zone, project=gcp_project)
  tpu_config = tf.estimator.tpu.TPUConfig(
      iterations_per_loop=iterations_per_loop,
      num_shards=num_tpu_cores,
      per_host_input_for_training=(
          tf.estimator.tpu.InputPipelineConfig.PER_HOST_V2))
  run_config = tf.estimator.tpu.RunConfig(
      cluster=cluster,
      # Off TPU, `ProgressHook` writes them: TPUEstimator would ask for them in
      # some steps only, and TensorFlow prepares the graph anew, which takes
      # seconds, for a set of tensors it was not asked for before.
      save_summary_steps=log_steps if use_tpu else 0,
      # Off TPU, TPUEstimator would log a rate at every single step and no
      # loss; `ProgressHook` takes its place there.
      log_step_count_steps=log_steps if use_tpu else None,
      tpu_config=tpu_config,
      **settings)
  return tf.estimator.tpu.TPUEstimator(
      use_tpu=use_tpu,
      eval_on_tpu=use_tpu,
      model_fn=model_fn,
      config=run_config,
      **batch_sizes)


def _session_config(use_xla, intra_op_threads, inter_op_threads):
  """tf.ConfigProto, but for the arguments the one Estimator makes itself."""
  config = tf.ConfigProto(
      allow_soft_placement=True,
      intra_op_parallelism_threads=intra_op_threads,
      inter_op_parallelism_threads=inter_op_threads)
  # Once over the graph: a second time takes seconds and finds next to nothing.
  rewrites = config.graph_options.rewrite_options
  rewrites.meta_optimizer_iterations = rewrites.ONE
  if use_xla:
    level = config.graph_options.optimizer_options
    level.global_jit_level = level.ON_2
  return config


def train(estimator, input_fn, num_train_steps, batch_size, log_steps=100,
          use_tpu=False):
  """Trains up to step `num_train_steps`, with a progress line on CPU and GPU.

  Args:
    estimator: from `create_estimator`.
    input_fn: function of `params` to a dataset.
    num_train_steps: int, global step to stop at; steps already in a
      checkpoint of the output folder count.
    batch_size: int, examples in a step.
    log_steps: int, steps between two lines.
    use_tpu: bool; a TPU returns to the host too rarely, and TPUEstimator
      itself logs the loss there.

  Raises:
    ValueError: the loss became NaN, or a checkpoint in the output folder is of
      another optimizer or had more layers frozen.
  """
  hooks = [ResumptionHook(estimator.model_dir)]
  if not use_tpu:
    compiled_functions.enable_on_gpu(estimator.config.session_config)
    hooks.append(ProgressHook(
        num_train_steps, batch_size, log_steps, estimator.model_dir))
  estimator.train(input_fn=input_fn, max_steps=num_train_steps, hooks=hooks)


class ResumptionHook(tf.train.SessionRunHook):
  """Compares the optimizer's state with that of a checkpoint to go on from.

  TensorFlow would only say which name it did not find.

  Args:
    output_dir: str, folder whose newest checkpoint would be restored.
  """

  def __init__(self, output_dir):
    self._output_dir = output_dir

  def begin(self):
    checkpoint = latest_checkpoint(self._output_dir)
    if checkpoint:
      check_optimizer_state(checkpoint, tf.global_variables())


# Flag values, by what the names of an optimizer's slots start with.
_OPTIMIZERS_OF_SLOTS = {
    "adam": "adamw", "lamb": "lamb", "adafactor": "adafactor"}


def check_optimizer_state(checkpoint, variables):
  """Whether training can go on from a checkpoint of the output folder.

  Args:
    checkpoint: str, its prefix.
    variables: list of the graph's variables, optimizer slots included.

  Raises:
    ValueError: it lacks slots: it is another optimizer's, or none's, or its
      training left variables out that are trained now.
  """
  stored = set(tf.train.load_checkpoint(
      checkpoint).get_variable_to_shape_map())
  ours = _slots_by_optimizer([_plain_name(v) for v in variables])
  theirs = _slots_by_optimizer(stored)
  missing = sorted(set().union(*ours.values()) - stored)
  if not missing:
    return
  optimizer = sorted(ours)[0]
  if optimizer in theirs:
    problem = "trained with more layers frozen than --freeze_layers says now"
    remedy = "To go on, give the --freeze_layers it was trained with"
  elif theirs:
    problem = "trained with --optimizer=%s, not %s" % (
        sorted(theirs)[0], optimizer)
    remedy = "To go on, give --optimizer=%s" % sorted(theirs)[0]
  else:
    problem = "without any optimizer's state, so not one to go on from"
    remedy = "To go on, put the run's own checkpoint there"
  raise ValueError(
      "--output_dir holds the checkpoint %s, %s: it lacks %s. %s; to start a "
      "new training from its weights, give another --output_dir and "
      "--init_checkpoint=%s."
      % (checkpoint, problem, _list_names(missing), remedy, checkpoint))


def _slots_by_optimizer(names):
  """dict of --optimizer's values to sets of names of their slots."""
  found = {}
  for slot in modeling.find_slots(names):
    optimizer = _OPTIMIZERS_OF_SLOTS.get(
        slot.split("/")[-1].split("_")[0])
    if optimizer:
      found.setdefault(optimizer, set()).add(slot)
  return found


def log_scalar(name, tensor, use_tpu):
  """Puts a scalar into the progress line (its mean) and into TensorBoard.

  Args:
    name: str, what the line and TensorBoard call it.
    tensor: float scalar.
    use_tpu: bool; a TPU's tensors cannot be fetched, so nothing is done.
  """
  if not use_tpu:
    tf.add_to_collection(
        LOGGED_SCALARS_COLLECTION, tf.identity(tensor, name=name))
    tf.summary.scalar(name, tensor)


class ProgressHook(tf.train.SessionRunHook):
  """Logs step, total, mean loss, learning rate, examples/s and time left.

  The loss is the mean since the last line; the rate, too, is that of these
  steps. The graph's summaries (loss and learning rate among them) and
  `examples_per_second` go to TensorBoard.

  Args:
    num_train_steps: int, global step at which training ends.
    batch_size: int, examples in a step.
    log_steps: int, steps between two lines.
    output_dir: str, folder of the TensorBoard events.
  """

  def __init__(self, num_train_steps, batch_size, log_steps, output_dir):
    self._num_train_steps = num_train_steps
    self._batch_size = batch_size
    self._log_steps = max(log_steps, 1)
    self._output_dir = output_dir

  def begin(self):
    graph = tf.get_default_graph()
    self._tensors = {"loss": graph.get_collection(tf.GraphKeys.LOSSES)[-1]}
    rates = graph.get_collection(LEARNING_RATE_COLLECTION)
    if rates:
      self._tensors["learning_rate"] = rates[-1]
    self._parts = {scalar.op.name.split("/")[-1]: scalar for scalar in
                   graph.get_collection(LOGGED_SCALARS_COLLECTION)}
    self._tensors.update(self._parts)
    summaries = graph.get_collection(tf.GraphKeys.SUMMARIES)
    self._summary = tf.summary.merge(summaries) if summaries else None
    # A model function of the user's may summarise whole tensors.
    self._has_scalars_only = all(
        summary.op.type == "ScalarSummary" for summary in summaries)

  def after_create_session(self, session, coord):
    del coord  # Part of the interface.
    self._step = session.run(tf.train.get_global_step())
    self._first_step = self._step + 1
    self._start_interval()
    # The first step traces and compiles; its time says nothing of the rest.
    self._timed_from = None

  def before_run(self, run_context):
    del run_context  # Part of the interface.
    tensors = dict(self._tensors)
    if self._summary is not None and (
        self._has_scalars_only or self._is_summary_step(self._step + 1)):
      tensors["summary"] = self._summary
    return tf.train.SessionRunArgs(tensors)

  def _is_summary_step(self, step):
    return step == self._first_step or step % self._log_steps == 0

  def after_run(self, run_context, run_values):
    del run_context  # Part of the interface.
    self._step += 1
    loss = run_values.results["loss"]
    if np.isnan(loss):
      raise ValueError(
          "The loss is NaN at step %d of %d. The usual causes are a learning "
          "rate that is too high and ids outside the vocabulary."
          % (self._step, self._num_train_steps))
    if "summary" in run_values.results and self._is_summary_step(self._step):
      tf.summary.FileWriterCache.get(self._output_dir).add_summary(
          run_values.results["summary"], self._step)
    self._losses.append(loss)
    for name in self._parts:
      self._part_values[name].append(run_values.results[name])
    if self._timed_from is None and self._step < self._num_train_steps:
      self._timed_from = (self._step, time.time())
      self._interval_start = self._timed_from
    elif (self._step % self._log_steps == 0 or
          self._step >= self._num_train_steps):
      self._write_line(run_values.results.get("learning_rate"))
      self._start_interval()

  def end(self, session):
    del session  # Part of the interface.
    # Else readers would find half a record until the process ends.
    tf.summary.FileWriterCache.get(self._output_dir).flush()

  def _start_interval(self):
    self._losses = []
    self._part_values = {name: [] for name in self._parts}
    self._interval_start = (self._step, time.time())

  def _write_line(self, learning_rate):
    now = time.time()
    steps, seconds = (self._step - self._interval_start[0],
                      now - self._interval_start[1])
    rate = steps * self._batch_size / max(seconds, 1e-9)
    left = 0.0
    if self._step < self._num_train_steps:
      left = (now - self._timed_from[1]) / (self._step - self._timed_from[0])
      left *= self._num_train_steps - self._step
    numbers = ["loss = %.5f" % np.mean(self._losses)]
    numbers += ["%s = %.5f" % (name, np.mean(values))
                for name, values in self._part_values.items()]
    if learning_rate is not None:
      numbers.append("learning_rate = %.3g" % learning_rate)
    tf.logging.info(
        "step %d/%d (%.1f%%), %s, %.1f examples/s, %s left",
        self._step, self._num_train_steps,
        100.0 * self._step / self._num_train_steps, ", ".join(numbers),
        rate, _format_seconds(left))
    summary = tf.Summary(value=[tf.Summary.Value(
        tag="examples_per_second", simple_value=rate)])
    tf.summary.FileWriterCache.get(self._output_dir).add_summary(
        summary, self._step)


def _format_seconds(seconds):
  """3725 -> "1:02:05"; minutes and seconds always stand."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return "%d:%02d:%02d" % (hours, minutes, seconds)
  return "%d:%02d" % (minutes, seconds)


# Precision.


def choose_compute_dtype(mixed_precision, use_tpu):
  """The type of activations and products, and a log line that says why.

  Args:
    mixed_precision: str, "none", "bfloat16", "float16" or "auto".
    use_tpu: bool.

  Returns:
    tf.float32, tf.bfloat16 or tf.float16.

  Raises:
    ValueError: float16 on a TPU, or bfloat16 on a GPU with TensorFlow 1.
  """
  if mixed_precision == "none":
    return tf.float32
  best, reason = _best_compute_dtype(use_tpu)
  if mixed_precision == "auto":
    tf.logging.info("--mixed_precision=auto: computing in %s, because %s.",
                    best.name, reason)
    return best
  chosen = tf.as_dtype(mixed_precision)
  if use_tpu and chosen == tf.float16:
    raise ValueError("--mixed_precision=float16: a TPU does not have float16. "
                     "Give bfloat16.")
  if (chosen == tf.bfloat16 and not use_tpu and not _knows_gpus() and
      tf.config.experimental.list_physical_devices("GPU")):
    raise ValueError(
        "--mixed_precision=bfloat16: TensorFlow %s does not have it on GPUs. "
        "Give float16, or use TensorFlow 2.15 or later." % tf.__version__)
  tf.logging.info("Computing in %s, as --mixed_precision says.", chosen.name)
  if chosen != best:
    tf.logging.warning(
        "--mixed_precision=%s may be slow: %s, so %s is best here.",
        chosen.name, reason, best.name)
  return chosen


def _best_compute_dtype(use_tpu):
  """The fastest type of the device at hand, and how it is known."""
  if use_tpu:
    return tf.bfloat16, "a TPU computes in it"
  gpus = tf.config.experimental.list_physical_devices("GPU")
  if not _knows_gpus():
    return tf.float32, "TensorFlow %s %s" % (
        tf.__version__, "does not tell what the GPU is fast at" if gpus else
        "makes no use of a processor's bfloat16")
  if gpus:
    details = tf.config.experimental.get_device_details(gpus[0])
    capability = details.get("compute_capability", (0, 0))
    name = "%s has compute capability %d.%d" % (
        (details.get("device_name", "the GPU"),) + tuple(capability))
    if capability >= (8, 0):
      return tf.bfloat16, name
    return (tf.float16 if capability >= (7, 0) else tf.float32), name
  for extension in ("amx_bf16", "avx512_bf16"):
    if extension in _processor_flags():
      return tf.bfloat16, "the processor has %s" % extension
  return tf.float32, "the processor has neither amx_bf16 nor avx512_bf16"


def _knows_gpus():
  """Whether TensorFlow tells what a GPU can do; 1.15 does not."""
  return hasattr(tf.config.experimental, "get_device_details")


def _processor_flags():
  """set of str, the extensions Linux reports; empty elsewhere."""
  try:
    with open("/proc/cpuinfo") as reader:
      for line in reader:
        if line.startswith("flags"):
          return set(line.split())
  except OSError:
    pass
  return set()


# Initialisation.


def init_from_checkpoint(init_checkpoint, use_tpu, mode=None, model_dir=None,
                         outputs=None):
  """Makes the graph's trainable variables start from a checkpoint.

  To be called in a model function, after the model is built. Logs every
  trainable variable and where its value comes from, and warns by name of those
  left at random.

  Args:
    init_checkpoint: str or None.
    use_tpu: bool; then the initialisers are set in `scaffold_fn`.
    mode: a ModeKeys value; outside training a random variable is a mistake
      that a warning explains.
    model_dir: str or None, the estimator's folder. A checkpoint there is what
      the estimator restores, so `init_checkpoint` is then not even read.
    outputs: list of the tensors that the task uses, or None. A variable that
      none of them depends on, as the pooler where only tokens count, may be
      left at random without a warning.

  Returns:
    scaffold_fn for the `estimator_spec`: None without a TPU or a checkpoint.

  Raises:
    ValueError: no variable matches, or a shape differs.
  """
  variables = tf.trainable_variables()
  resumed = latest_checkpoint(model_dir)
  source = resumed or init_checkpoint
  if source:
    coverage = modeling.compare_with_checkpoint(variables, source)
    _check_coverage(coverage, source)
    if resumed and coverage.missing:
      raise ValueError(
          "--output_dir holds the checkpoint %s, of another model: it lacks "
          "%s. Give another --output_dir."
          % (resumed, _list_names(coverage.missing)))
    initialized, missing = coverage.matched, coverage.missing
  else:
    initialized, missing = [], [_plain_name(v) for v in variables]
  _log_variables(variables, initialized, resumed)
  if outputs is not None:
    used = {_plain_name(variable) for variable in
            modeling.find_used_variables(outputs, variables)}
    missing = [name for name in missing if name in used]
  _warn_of_random_variables(missing, source, mode)

  if resumed or not init_checkpoint:
    return None
  assignment_map, _ = modeling.get_assignment_map_from_checkpoint(
      variables, init_checkpoint)
  prefix = modeling.resolve_checkpoint_path(init_checkpoint)
  if not use_tpu:
    tf.train.init_from_checkpoint(prefix, assignment_map)
    return None

  def scaffold_fn():
    tf.train.init_from_checkpoint(prefix, assignment_map)
    return tf.train.Scaffold()

  return scaffold_fn


def latest_checkpoint(model_dir):
  """Prefix of a folder's newest checkpoint, or None."""
  return tf.train.latest_checkpoint(model_dir) if model_dir else None


def checkpoint_step(checkpoint):
  """The global step a checkpoint was written at, or None if it has none."""
  reader = tf.train.load_checkpoint(checkpoint)
  if not reader.has_tensor("global_step"):
    return None
  return int(reader.get_tensor("global_step"))


def trained_steps(output_dir):
  """int, the step of a folder's newest checkpoint; 0 if there is none."""
  checkpoint = latest_checkpoint(output_dir)
  return (checkpoint_step(checkpoint) or 0) if checkpoint else 0


def _plain_name(variable):
  return variable.name.split(":")[0]


def _check_coverage(coverage, source):
  if coverage.mismatched:
    lines = ["  %s: %s in the model, %s in the checkpoint"
             % mismatch for mismatch in coverage.mismatched]
    if len(lines) > MAX_NAMES_LISTED:
      lines[MAX_NAMES_LISTED:] = [
          "  and %d more" % (len(lines) - MAX_NAMES_LISTED)]
    raise ValueError(
        "The model does not fit the checkpoint %s:\n%s\nThe word embeddings' "
        "shape is [vocab_size, hidden_size] of --bert_config_file, and "
        "`output_weights` has a row for each label of the task. Give the "
        "config that came with the checkpoint; for another task or other "
        "labels, a new --output_dir and the pre-trained checkpoint."
        % (source, "\n".join(lines)))
  if not coverage.matched:
    raise ValueError(
        "No variable of the model is in the checkpoint %s.\n  The model has: "
        "%s\n  The checkpoint has: %s" % (
            source, _list_names(coverage.missing),
            _list_names(coverage.unused)))


def _list_names(names):
  text = ", ".join(names[:MAX_NAMES_LISTED]) or "nothing"
  if len(names) > MAX_NAMES_LISTED:
    text += " and %d more" % (len(names) - MAX_NAMES_LISTED)
  return text


def _log_variables(variables, initialized, resumed):
  origin = ", *RESUMED*" if resumed else ", *INIT_FROM_CKPT*"
  initialized = set(initialized)
  tf.logging.info("**** Trainable Variables ****")
  for variable in variables:
    tf.logging.info(
        "  name = %s, shape = %s%s", variable.name, variable.shape,
        origin if _plain_name(variable) in initialized else "")


def _warn_of_random_variables(missing, source, mode):
  if not missing:
    return
  if mode in (ModeKeys.EVAL, ModeKeys.PREDICT):
    tf.logging.warning(
        "The results mean nothing yet: %d variables are untrained, at random "
        "values (%s), because %s. Train first, or give the trained model's "
        "--output_dir or --init_checkpoint.", len(missing),
        _list_names(missing),
        "they are not in %s" % source if source else
        "there is no checkpoint to read")
  elif source:
    tf.logging.warning(
        "Not in the checkpoint %s, so starting at random: %s. For a new "
        "task's output layer that is as it should be.", source,
        _list_names(missing))
  else:
    tf.logging.warning(
        "No checkpoint is given: all %d variables start at random.",
        len(missing))


def report_existing_checkpoint(output_dir, init_checkpoint, do_train,
                               num_train_steps=None):
  """Warns that a checkpoint in `output_dir` wins over `init_checkpoint`.

  Args:
    output_dir: str.
    init_checkpoint: str or None.
    do_train: bool, whether this run trains.
    num_train_steps: int, steps this run would train to.
  """
  checkpoint = latest_checkpoint(output_dir)
  if not checkpoint:
    return
  ignored = ("; --init_checkpoint=%s is not read" % init_checkpoint
             if init_checkpoint else "")
  tf.logging.warning(
      "--output_dir holds the checkpoint %s, which wins%s. For a fresh start "
      "give another --output_dir.", checkpoint, ignored)
  if not do_train:
    return
  step = trained_steps(output_dir)
  if num_train_steps and step >= num_train_steps:
    tf.logging.warning(
        "It is at step %d, and these flags train to step %d: there is nothing "
        "left to train.", step, num_train_steps)
  else:
    tf.logging.warning("Training goes on from its step %d.", step)


# What every run checks, logs and writes.


def log_features(features):
  """Logs the names and shapes a model function was given."""
  tf.logging.info("*** Features ***")
  for name in sorted(features):
    tf.logging.info("  name = %s, shape = %s", name, features[name].shape)


def check_sequence_length(max_seq_length, config, shortest=3):
  """Compares --max_seq_length with what tokens and model allow.

  Args:
    max_seq_length: int, WordPiece tokens.
    config: modeling.BertConfig.
    shortest: int, the least that leaves room for text.

  Raises:
    ValueError: it is out of range.
  """
  longest = config.max_position_embeddings
  if not shortest <= max_seq_length <= longest:
    raise ValueError(
        "--max_seq_length=%d is out of range: this model takes %d to %d "
        "tokens (the shortest holds [CLS], [SEP] and some text; the longest "
        "is `max_position_embeddings` of --bert_config_file)."
        % (max_seq_length, shortest, longest))


def check_vocab(vocab, config, vocab_file):
  """Whether a vocabulary can make this model's inputs.

  Args:
    vocab: dict of str token to int id.
    config: modeling.BertConfig.
    vocab_file: str, for the message.

  Raises:
    ValueError: [CLS] or [SEP] is missing, or an id has no embedding.
  """
  missing = [token for token in ("[CLS]", "[SEP]") if token not in vocab]
  if missing:
    raise ValueError("--vocab_file=%s lacks %s, which every input needs."
                     % (vocab_file, " and ".join(missing)))
  # Not the number of tokens: a duplicate line takes an id, too.
  check_vocab_size(max(vocab.values()) + 1, config, vocab_file)


def check_vocab_size(vocab_size, config, vocab_file):
  """Compares a vocabulary with the model's embedding table.

  Args:
    vocab_size: int, number of tokens in the vocabulary.
    config: modeling.BertConfig.
    vocab_file: str, for the message.

  Raises:
    ValueError: there are ids the table has no row for.
  """
  if vocab_size > config.vocab_size:
    raise ValueError(
        "--vocab_file=%s has %d tokens, but `vocab_size` in "
        "--bert_config_file is %d: ids beyond it have no embedding. Give the "
        "vocabulary and the config of one model."
        % (vocab_file, vocab_size, config.vocab_size))
  if vocab_size < config.vocab_size:
    tf.logging.warning(
        "%s has %d tokens and the model %d: harmless if rows were added to "
        "the model on purpose, otherwise the wrong vocabulary.",
        vocab_file, vocab_size, config.vocab_size)


def check_freeze_layers(freeze_layers, config):
  """Compares --freeze_layers with the model.

  Args:
    freeze_layers: int, as of `modeling.lower_scopes`.
    config: modeling.BertConfig.

  Raises:
    ValueError: the model has fewer layers, or it is below -1.
  """
  if not -1 <= freeze_layers <= config.num_hidden_layers:
    raise ValueError(
        "--freeze_layers=%d is out of range: -1 trains everything, 0 freezes "
        "the embeddings, and up to %d (`num_hidden_layers` of "
        "--bert_config_file) as many layers, too."
        % (freeze_layers, config.num_hidden_layers))


def training_steps(num_examples, batch_size, num_epochs, warmup_proportion):
  """Steps that epochs amount to.

  Args:
    num_examples: int.
    batch_size: int, examples in a step.
    num_epochs: float.
    warmup_proportion: float, share of the steps that warm up.

  Returns:
    (num_train_steps, num_warmup_steps), ints, rounded down.

  Raises:
    ValueError: there is not one whole step.
  """
  if batch_size < 1:
    raise ValueError(
        "--train_batch_size=%d must be at least 1." % batch_size)
  num_train_steps = int(num_examples / batch_size * num_epochs)
  if num_train_steps < 1:
    raise ValueError(
        "%d training examples with --train_batch_size=%d and "
        "--num_train_epochs=%s make less than one step. Lower the batch size "
        "or raise the epochs." % (num_examples, batch_size, num_epochs))
  return num_train_steps, int(num_train_steps * warmup_proportion)


def write_eval_results(output_dir, results, file_name="eval_results.txt"):
  """Writes and logs metrics as sorted lines `key = value`.

  Args:
    output_dir: str.
    results: dict of str to number.
    file_name: str.
  """
  path = os.path.join(output_dir, file_name)
  tf.logging.info("***** Eval results *****")
  with input_pipeline.atomic_writer(path) as writer:
    for key in sorted(results):
      tf.logging.info("  %s = %s", key, results[key])
      writer.write("%s = %s\n" % (key, results[key]))
