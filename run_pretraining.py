"""Pre-trains BERT: masked language model and next sentence prediction.

  python create_pretraining_data.py --input_file=./sample_text.txt \\
      --output_file=/tmp/tf_examples.tfrecord --vocab_file=... \\
      --max_seq_length=128 --max_predictions_per_seq=20 --dupe_factor=5
  python run_pretraining.py --input_file=/tmp/tf_examples.tfrecord \\
      --output_dir=/tmp/pretraining_output --do_train=True --do_eval=True \\
      --bert_config_file=... --train_batch_size=32 --max_seq_length=128 \\
      --max_predictions_per_seq=20 --num_train_steps=20 \\
      --num_warmup_steps=10 --learning_rate=2e-5

Both losses are those of Devlin et al., arXiv:1810.04805, section 3.1.
"""

import tensorflow.compat.v1 as tf
from absl import flags

import common_flags
import estimators
import fused_ops
import input_pipeline
import modeling
import optimization

FLAGS = flags.FLAGS

common_flags.define_model_flags()
common_flags.define_sequence_length_flag(max_seq_length=128)
common_flags.define_training_flags()
common_flags.define_evaluation_flags()
common_flags.define_tpu_flags()
common_flags.DEFINE_string(
    "input_file", None,
    "TFRecord files of create_pretraining_data.py, plain or gzip: a "
    "comma-separated list of files and globs.")
common_flags.DEFINE_string(
    "eval_input_file", None,
    "Held-out files to evaluate on, all of them exactly once. Unset: "
    "--max_eval_steps batches of --input_file.")
common_flags.DEFINE_integer(
    "max_predictions_per_seq", 20,
    "Masked tokens in a sequence at most; as in create_pretraining_data.py.")
common_flags.DEFINE_integer("num_train_steps", 100000, "Training steps.")
common_flags.DEFINE_integer(
    "num_warmup_steps", 10000,
    "Steps in which the learning rate climbs from 0.")
common_flags.DEFINE_integer(
    "max_eval_steps", 100,
    "Batches to evaluate on, where --eval_input_file is unset.")

# How many records of a file are looked at before the run.
NUM_RECORDS_CHECKED = 100


# The model.


def model_fn_builder(bert_config, init_checkpoint, learning_rate,
                     num_train_steps, num_warmup_steps, use_tpu,
                     use_one_hot_embeddings, real_tokens_only=False,
                     compute_dtype=tf.float32, gradient_accumulation_steps=1,
                     gradient_checkpointing=0, optimizer="adamw",
                     freeze_layers=-1):
  """A `model_fn` for `estimators.create_estimator`.

  Args:
    bert_config: modeling.BertConfig.
    init_checkpoint: str or None.
    learning_rate: float, peak.
    num_train_steps: int.
    num_warmup_steps: int.
    use_tpu: bool.
    use_one_hot_embeddings: bool, see `modeling.BertModel`.
    real_tokens_only: bool, likewise; also, guess real predictions only.
    compute_dtype: tf.float32, tf.bfloat16 or tf.float16, likewise; also of the
      product with the word embeddings.
    gradient_accumulation_steps: int, parts of a training batch, see
      `optimization.accumulate_gradients`.
    gradient_checkpointing: int, see `modeling.BertModel`.
    optimizer: str, see `optimization.create_optimizer`.
    freeze_layers: int, embeddings and layers that are not trained, see
      `modeling.lower_scopes`.

  Returns:
    function (features, labels, mode, params, config) to an `estimator_spec`.
  """

  def model_fn(features, labels, mode, params, config=None):
    del labels, params  # Labels come as features; params hold a batch size.
    estimators.log_features(features)
    is_training = mode == estimators.ModeKeys.TRAIN
    total_weight = tf.reduce_sum(
        tf.cast(features["masked_lm_weights"], tf.float32))
    if is_training:
      # A part counts as much as its share of the batch's predictions.
      total_weight /= gradient_accumulation_steps

    def build(features):
      """The outputs of both heads, each loss first."""
      model = modeling.BertModel(
          config=bert_config, is_training=is_training,
          input_ids=features["input_ids"], input_mask=features["input_mask"],
          token_type_ids=features["segment_ids"],
          use_one_hot_embeddings=use_one_hot_embeddings, scope="bert",
          real_tokens_only=real_tokens_only, compute_dtype=compute_dtype,
          inference_kernels=not use_tpu,
          gradient_checkpointing=gradient_checkpointing)
      hidden, positions = (
          model.get_sequence_output(), features["masked_lm_positions"])
      if real_tokens_only:
        hidden, positions = model.get_sequence_output_at(
            positions, features["masked_lm_weights"]), None
      masked_lm = get_masked_lm_output(
          bert_config, hidden, model.get_embedding_table(), positions,
          features["masked_lm_ids"], features["masked_lm_weights"],
          real_tokens_only, compute_dtype, total_weight)
      return masked_lm, get_next_sentence_output(
          bert_config, model.get_pooled_output(),
          features["next_sentence_labels"])

    def build_losses(features):
      losses = [output[0] for output in build(features)]
      return [sum(losses)] + losses

    def initialize():
      return estimators.init_from_checkpoint(
          init_checkpoint, use_tpu, mode, config and config.model_dir)

    if is_training:
      scale_loss = compute_dtype == tf.float16
      frozen = modeling.lower_scopes(freeze_layers)
      (loss, masked_lm_loss, next_sentence_loss), gradients = (
          optimization.accumulate_gradients(
              build_losses, features, gradient_accumulation_steps,
              scale_loss, frozen))
      scaffold_fn = initialize()
      estimators.log_scalar("masked_lm_loss", masked_lm_loss, use_tpu)
      estimators.log_scalar("next_sentence_loss", next_sentence_loss, use_tpu)
      train_op = optimization.create_optimizer(
          loss, learning_rate, num_train_steps, num_warmup_steps, use_tpu,
          scale_loss=scale_loss, gradients=gradients, optimizer=optimizer,
          frozen=frozen)
      return estimators.estimator_spec(
          mode=mode, loss=loss, train_op=train_op, scaffold_fn=scaffold_fn)
    ((masked_lm_loss, masked_lm_losses, log_probs),
     (next_sentence_loss, next_sentence_losses, next_sentence_log_probs)) = (
         build(features))
    if mode == estimators.ModeKeys.EVAL:
      # The most probable ids go to the host, not [B * P, V] probabilities.
      return estimators.estimator_spec(
          mode=mode, loss=masked_lm_loss + next_sentence_loss,
          scaffold_fn=initialize(),
          eval_metrics=(_metrics, [
              masked_lm_losses, tf.argmax(log_probs, -1, output_type=tf.int32),
              features["masked_lm_ids"], features["masked_lm_weights"],
              next_sentence_losses,
              tf.argmax(
                  next_sentence_log_probs, -1, output_type=tf.int32),
              features["next_sentence_labels"]]))
    raise ValueError("Only training and evaluation are possible, not `%s`."
                     % mode)

  return model_fn


def _metrics(masked_lm_losses, masked_lm_predictions, masked_lm_ids,
             masked_lm_weights, next_sentence_losses,
             next_sentence_predictions, next_sentence_labels):
  """Means over masked tokens and over sequences, whatever the batches."""
  ids = tf.reshape(masked_lm_ids, [-1])  # [B * P]
  weights = tf.reshape(masked_lm_weights, [-1])  # [B * P]
  labels = tf.reshape(next_sentence_labels, [-1])  # [B]
  return {
      "masked_lm_accuracy": tf.metrics.accuracy(
          ids, masked_lm_predictions, weights),
      "masked_lm_loss": tf.metrics.mean(masked_lm_losses, weights),
      "next_sentence_accuracy": tf.metrics.accuracy(
          labels, next_sentence_predictions),
      "next_sentence_loss": tf.metrics.mean(next_sentence_losses),
  }


def get_masked_lm_output(bert_config, input_tensor, output_weights, positions,
                         label_ids, label_weights,
                         real_predictions_only=False,
                         compute_dtype=tf.float32, total_weight=None):
  """Loss of guessing the masked tokens.

  A dense layer and LayerNorm over each masked position, then a product with
  the word embeddings. Variables are under `cls/predictions`.

  Args:
    bert_config: modeling.BertConfig.
    input_tensor: float [B, T, D], the last layer.
    output_weights: float [V, D], the word embedding table.
    positions: int [B, P], the masked positions; None if `input_tensor`, then
      [B, P, D], is the last layer there.
    label_ids: int [B, P], the tokens that were there.
    label_weights: float [B, P], 1 for a prediction and 0 for padding.
    real_predictions_only: bool, compute nothing where the weight is 0. The
      other two results are then zeros there.
    compute_dtype: type of the products.
    total_weight: float scalar that the sum of weighted losses is divided by;
      None for the sum of the weights.

  Returns:
    (loss, per_example_loss, log_probs): float [], the mean over predictions;
    [B * P]; [B * P, V].
  """
  masked = (modeling.reshape_to_matrix(input_tensor) if positions is None
            else gather_indexes(input_tensor, positions))  # [B * P, D]
  label_ids = tf.reshape(label_ids, [-1])  # [B * P]
  weights = tf.cast(tf.reshape(label_weights, [-1]), tf.float32)  # [B * P]
  if real_predictions_only:
    chosen = tf.where(tf.not_equal(weights, 0))  # [R, 1]
    everything = tf.shape(weights, out_type=tf.int64)
    masked, label_ids, weights = [
        tf.gather_nd(values, chosen) for values in
        (masked, label_ids, weights)]
  with tf.variable_scope("cls/predictions"):
    with tf.variable_scope("transform"):
      masked = modeling.layer_norm(modeling.dense(
          tf.cast(masked, compute_dtype), bert_config.hidden_size,
          bert_config.initializer_range,
          modeling.get_activation(bert_config.hidden_act)))
    output_bias = tf.get_variable(
        "output_bias", [bert_config.vocab_size],
        initializer=tf.zeros_initializer())
    logits = tf.matmul(masked, tf.cast(output_weights, masked.dtype),
                       transpose_b=True)
    logits = tf.nn.bias_add(
        tf.cast(logits, tf.float32), output_bias)  # [B * P, V]
    # On TPUs, which compute everything, all is as in the original.
    cross_entropy = (
        fused_ops.sparse_softmax_cross_entropy if real_predictions_only
        else tf.nn.sparse_softmax_cross_entropy_with_logits)
    per_example_loss = cross_entropy(
        labels=label_ids, logits=logits)  # [B * P]
    if total_weight is None:
      total_weight = tf.reduce_sum(weights)
    # The constant is for a batch without any prediction.
    loss = tf.reduce_sum(weights * per_example_loss) / (total_weight + 1e-5)
  log_probs = tf.nn.log_softmax(logits)
  if real_predictions_only:
    log_probs = tf.scatter_nd(chosen, log_probs, tf.concat(
        [everything, [bert_config.vocab_size]], 0))  # [B * P, V]
    per_example_loss = tf.scatter_nd(
        chosen, per_example_loss, everything)  # [B * P]
  return loss, per_example_loss, log_probs


def get_next_sentence_output(bert_config, input_tensor, labels):
  """Loss of guessing whether segment B follows segment A.

  Adds `cls/seq_relationship/output_weights` [2, D] and `output_bias` [2].

  Args:
    bert_config: modeling.BertConfig.
    input_tensor: float [B, D], the pooled output.
    labels: int [B] or [B, 1], 0 if it follows, 1 if it is a random one.

  Returns:
    (loss, per_example_loss, log_probs): float [], [B], [B, 2].
  """
  with tf.variable_scope("cls/seq_relationship"):
    output_weights = tf.get_variable(
        "output_weights", [2, bert_config.hidden_size],
        initializer=modeling.create_initializer(
            bert_config.initializer_range))
    output_bias = tf.get_variable(
        "output_bias", [2], initializer=tf.zeros_initializer())
    logits = tf.nn.bias_add(
        tf.matmul(input_tensor, output_weights, transpose_b=True),
        output_bias)  # [B, 2]
    per_example_loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.reshape(labels, [-1]), logits=logits)  # [B]
  return (tf.reduce_mean(per_example_loss), per_example_loss,
          tf.nn.log_softmax(logits))


def gather_indexes(sequence_tensor, positions):
  """Vectors at given positions of each sequence.

  Args:
    sequence_tensor: float [B, T, D].
    positions: int [B, P].

  Returns:
    float [B * P, D].
  """
  batch_size, length, _ = modeling.get_shape_list(
      sequence_tensor, expected_rank=3)
  first_rows = tf.expand_dims(tf.range(batch_size) * length, 1)  # [B, 1]
  rows = tf.reshape(positions + first_rows, [-1])  # [B * P]
  return tf.gather(modeling.reshape_to_matrix(sequence_tensor), rows)


# Records.


def feature_spec(max_seq_length, max_predictions_per_seq):
  """What a record of create_pretraining_data.py holds."""
  sequence = tf.FixedLenFeature([max_seq_length], tf.int64)
  predictions = tf.FixedLenFeature([max_predictions_per_seq], tf.int64)
  return {
      "input_ids": sequence,
      "input_mask": sequence,
      "segment_ids": sequence,
      "masked_lm_positions": predictions,
      "masked_lm_ids": predictions,
      "masked_lm_weights": tf.FixedLenFeature(
          [max_predictions_per_seq], tf.float32),
      "next_sentence_labels": tf.FixedLenFeature([1], tf.int64),
  }


def input_fn_builder(input_files, max_seq_length, max_predictions_per_seq,
                     is_training, num_cpu_threads=4, repeat=True, seed=None,
                     drop_remainder=True, start_step=0,
                     group_by_length=False):
  """An `input_fn` over files of records (see `feature_spec`).

  Training mixes several files, in an order that changes with every pass;
  evaluation reads one after the other.

  Args:
    input_files: list of str.
    max_seq_length: int, WordPiece tokens.
    max_predictions_per_seq: int.
    is_training: bool, shuffle.
    num_cpu_threads: int, files read at a time.
    repeat: bool, start over at the end; training always does.
    seed: int or None, makes the order repeatable.
    drop_remainder: bool, leave out a last batch that is not full.
    start_step: int, steps an earlier run has trained. Their batches are
      passed over: with a seed, or a single file, a run that is resumed so
      sees what it would have seen, not the first records again.
    group_by_length: bool, see `input_pipeline.record_input_fn`; for training.

  Returns:
    function of `params`, whose "batch_size" it reads, to a `tf.data.Dataset`
    of dicts of [B, ...] tensors.
  """
  spec = feature_spec(max_seq_length, max_predictions_per_seq)
  kinds = [_compression(path) for path in input_files]

  def input_fn(params):
    files = tf.data.Dataset.from_tensor_slices((input_files, kinds))
    if is_training:
      files = files.repeat().shuffle(len(input_files), seed=seed)
      records = files.interleave(
          tf.data.TFRecordDataset,
          cycle_length=min(num_cpu_threads, len(input_files)),
          num_parallel_calls=tf.data.experimental.AUTOTUNE)
      records = records.shuffle(100, seed=seed)
      if group_by_length:
        return input_pipeline.prefetch(input_pipeline.batches_by_length(
            records, spec, params["batch_size"], is_training, drop_remainder,
            seed).skip(start_step))
      if start_step:
        records = records.skip(start_step * params["batch_size"])
    else:
      records = files.flat_map(tf.data.TFRecordDataset)
      if repeat:
        records = records.repeat()
    batches = records.batch(
        params["batch_size"], drop_remainder=drop_remainder)
    batches = batches.map(
        lambda batch: _decode_record(batch, spec),
        num_parallel_calls=tf.data.experimental.AUTOTUNE)
    return input_pipeline.prefetch(batches)

  return input_fn


_decode_record = input_pipeline.decode_record


def _compression(path):
  """ "GZIP" or "", by the file's first bytes."""
  with tf.gfile.GFile(path, "rb") as reader:
    return "GZIP" if reader.read(2) == b"\x1f\x8b" else ""


def _records(path):
  """Yields a file's records (bytes).

  Raises:
    ValueError: it is not a whole TFRecord file; names file and record.
  """
  options = tf.io.TFRecordOptions(_compression(path))
  number = 0
  try:
    for record in tf.io.tf_record_iterator(path, options):
      number += 1
      yield record
  except tf.errors.DataLossError as error:
    raise ValueError(
        "%s: record %d is damaged, or this is not a TFRecord file (%s). Make "
        "the file again with create_pretraining_data.py."
        % (path, number + 1, error.message)) from None


def check_records(files, flag_name, max_seq_length, max_predictions_per_seq,
                  vocab_size):
  """Looks at the first records of each file before a run.

  Args:
    files: list of str.
    flag_name: str, the flag that named them.
    max_seq_length: int, value of the flag.
    max_predictions_per_seq: int, likewise.
    vocab_size: int, V of the model.

  Raises:
    ValueError: a file is empty or damaged, or its records do not fit the
      flags or the model; names file, record, flag and value.
  """
  for path in files:
    number = 0
    for number, record in enumerate(_records(path), 1):
      _check_record("%s, record %d" % (path, number), record, max_seq_length,
                    max_predictions_per_seq, vocab_size)
      if number == NUM_RECORDS_CHECKED:
        break
    if not number:
      raise ValueError("--%s: %s holds no record." % (flag_name, path))


def _check_record(where, record, max_seq_length, max_predictions_per_seq,
                  vocab_size):
  try:
    features = tf.train.Example.FromString(record).features.feature
  except Exception:  # DecodeError differs between protobuf implementations.
    raise ValueError("%s: not a tf.train.Example." % where) from None
  for name, flag_name, expected in (
      ("input_ids", "max_seq_length", max_seq_length),
      ("masked_lm_ids", "max_predictions_per_seq", max_predictions_per_seq)):
    values = features[name].int64_list.value
    if not values:
      raise ValueError(
          "%s: there is no `%s`; was this file made by "
          "create_pretraining_data.py?" % (where, name))
    if len(values) != expected:
      raise ValueError(
          "%s: made with --%s=%d, but this run has --%s=%d. Give both scripts "
          "the same." % (where, flag_name, len(values), flag_name, expected))
    largest = max(values)
    if largest >= vocab_size:
      raise ValueError(
          "%s: token id %d, but `vocab_size` in --bert_config_file is %d. The "
          "data was made with another vocabulary than the model's."
          % (where, largest, vocab_size))


# The run.


def _train(estimator, files):
  tf.logging.info("***** Running training *****")
  tf.logging.info("  Batch size = %d", FLAGS.train_batch_size)
  start_step = estimators.trained_steps(FLAGS.output_dir)
  estimators.train(
      estimator,
      input_fn_builder(
          files, FLAGS.max_seq_length, FLAGS.max_predictions_per_seq,
          is_training=True, seed=FLAGS.seed, start_step=start_step,
          group_by_length=FLAGS.group_by_length),
      FLAGS.num_train_steps, FLAGS.train_batch_size, FLAGS.log_steps,
      FLAGS.use_tpu)


def _evaluate(estimator, files):
  tf.logging.info("***** Running evaluation *****")
  tf.logging.info("  Batch size = %d", FLAGS.eval_batch_size)
  held_out = bool(FLAGS.eval_input_file)
  steps = FLAGS.max_eval_steps
  if held_out:
    # Off TPU the data ends by itself, with a batch that may be smaller.
    steps = None
    if FLAGS.use_tpu:
      num_records = sum(1 for path in files for _ in _records(path))
      steps = num_records // FLAGS.eval_batch_size
  results = estimator.evaluate(
      input_fn=input_fn_builder(
          files, FLAGS.max_seq_length, FLAGS.max_predictions_per_seq,
          is_training=False, repeat=not held_out,
          drop_remainder=FLAGS.use_tpu or not held_out),
      steps=steps)
  estimators.write_eval_results(FLAGS.output_dir, results)


def _naming_damaged_records(function, estimator, files):
  """Calls `function`; if a record turns out damaged, says which."""
  try:
    function(estimator, files)
  except tf.errors.DataLossError:
    for path in files:
      for _ in _records(path):
        pass
    raise


def _check_flags():
  """What can be known to be wrong before anything is read or made."""
  if not FLAGS.do_train and not FLAGS.do_eval:
    raise ValueError("Nothing to do: at least one of --do_train and --do_eval "
                     "must be True.")
  config = modeling.BertConfig.from_json_file(FLAGS.bert_config_file)
  estimators.check_sequence_length(FLAGS.max_seq_length, config)
  estimators.check_freeze_layers(FLAGS.freeze_layers, config)
  estimators.check_use_tpu(FLAGS.use_tpu)
  if FLAGS.init_checkpoint:
    modeling.resolve_checkpoint_path(FLAGS.init_checkpoint)
  return config


def _find_files(config):
  """The files of --input_file and those to evaluate on, looked at."""
  files = input_pipeline.expand_files(FLAGS.input_file, "input_file")
  tf.logging.info("*** Input Files ***")
  for path in files:
    tf.logging.info("  %s", path)
  named = [("input_file", files)]
  if FLAGS.do_eval and FLAGS.eval_input_file:
    named.append(("eval_input_file", input_pipeline.expand_files(
        FLAGS.eval_input_file, "eval_input_file")))
  for flag_name, paths in named:
    check_records(paths, flag_name, FLAGS.max_seq_length,
                  FLAGS.max_predictions_per_seq, config.vocab_size)
  return files, named[-1][1]


def main(_):
  """Trains and evaluates as the flags say."""
  tf.logging.set_verbosity(tf.logging.INFO)
  config = _check_flags()
  files, eval_files = _find_files(config)
  tf.gfile.MakeDirs(FLAGS.output_dir)
  estimators.report_existing_checkpoint(
      FLAGS.output_dir, FLAGS.init_checkpoint, FLAGS.do_train,
      FLAGS.num_train_steps)

  model_fn = model_fn_builder(
      config, FLAGS.init_checkpoint, FLAGS.learning_rate,
      FLAGS.num_train_steps, FLAGS.num_warmup_steps, FLAGS.use_tpu,
      use_one_hot_embeddings=FLAGS.use_tpu,
      real_tokens_only=common_flags.skips_padding(FLAGS),
      compute_dtype=estimators.choose_compute_dtype(
          FLAGS.mixed_precision, FLAGS.use_tpu),
      gradient_accumulation_steps=FLAGS.gradient_accumulation_steps,
      gradient_checkpointing=FLAGS.gradient_checkpointing,
      optimizer=FLAGS.optimizer, freeze_layers=FLAGS.freeze_layers)
  estimator = estimators.create_estimator(
      model_fn=model_fn, **common_flags.estimator_arguments(FLAGS))
  if FLAGS.do_train:
    _naming_damaged_records(_train, estimator, files)
  if FLAGS.do_eval:
    _naming_damaged_records(_evaluate, estimator, eval_files)


if __name__ == "__main__":
  flags.mark_flags_as_required(
      ["input_file", "bert_config_file", "output_dir"])
  common_flags.run(main)
