"""Question answering on SQuAD 1.1 and 2.0: train, predict, score.

  python run_squad.py --vocab_file=$BERT_DIR/vocab.txt \
    --bert_config_file=$BERT_DIR/bert_config.json \
    --init_checkpoint=$BERT_DIR/bert_model.ckpt \
    --do_train=True --train_file=train-v1.1.json \
    --do_predict=True --do_eval=True --predict_file=dev-v1.1.json \
    --max_seq_length=384 --doc_stride=128 --output_dir=/tmp/squad

Here are the model and the run; questions become features, and logits answers
and scores, in squad.py.

SQuAD: Rajpurkar et al. 2016, arXiv:1606.05250; 2.0: 2018, arXiv:1806.03822.
"""

import collections
import contextlib
import os
import random

import numpy as np
import tensorflow.compat.v1 as tf
from absl import flags

import common_flags
import estimators
import input_pipeline
import modeling
import optimization
import saved_models
import squad
import tokenization

FLAGS = flags.FLAGS

common_flags.define_model_flags()
common_flags.define_tokenizer_flags(max_seq_length=384)
common_flags.define_training_flags()
common_flags.define_fine_tuning_flags()
common_flags.define_prediction_flags()
common_flags.define_export_flag()
common_flags.define_tpu_flags()
common_flags.DEFINE_string(
    "train_file", None, "SQuAD JSON to train on, for example train-v1.1.json.")
common_flags.DEFINE_string(
    "predict_file", None,
    "SQuAD JSON to answer, for example dev-v1.1.json; --do_eval takes the "
    "reference answers from it.")
common_flags.DEFINE_bool(
    "do_eval", False,
    "Score the answers against --predict_file (exact match and F1) and write "
    "eval_results.txt. With --do_predict=False the model is not run: the "
    "answers saved in --output_dir are scored, and with "
    "--version_2_with_negative chosen again from nbest_predictions.json and "
    "null_odds.json under the given --null_score_diff_threshold.")
common_flags.DEFINE_integer(
    "doc_stride", 128,
    "Tokens from the start of one chunk of a long context to the start of the "
    "next.")
common_flags.DEFINE_integer(
    "max_query_length", 64,
    "Tokens kept of a question; the rest of a longer one is dropped.")
common_flags.DEFINE_bool(
    "drop_out_of_span", False,
    "Leave out training chunks that do not hold the question's answer. By "
    "default they teach the model to point at [CLS].")
# Declared anew, for here the choice shows in the loss.
common_flags.DEFINE_bool(
    "real_tokens_only", True,
    "On CPU and GPU, compute nothing for padding and leave it out of the "
    "softmax over positions. False: padding is computed and competes with the "
    "real tokens, as in google-research/bert; needed to get its loss exactly. "
    "(A TPU always computes whole batches.)")
common_flags.DEFINE_integer(
    "n_best_size", 20,
    "Best starts and ends combined per chunk, and answers a question gets in "
    "nbest_predictions.json.")
common_flags.DEFINE_integer(
    "max_answer_length", 30, "Longest answer, in tokens.")
common_flags.DEFINE_bool(
    "verbose_logging", False,
    "Log every answer whose text could not be aligned with the context.")
common_flags.DEFINE_bool(
    "version_2_with_negative", False,
    "The data is SQuAD 2.0: some questions have no answer.")
common_flags.DEFINE_float(
    "null_score_diff_threshold", 0.0,
    "SQuAD 2.0: a question is left unanswered when the score of no answer "
    "exceeds that of the best answer by more than this (in logits).")

# Logit of a position that the model did not compute: never among the best, and
# no share in a softmax.
PADDING_LOGIT = -1e9


# Questions, features, answers. They are in squad.py; these are the names that
# google-research/bert has for them here.


SquadExample = squad.SquadExample
InputFeatures = squad.InputFeatures
RawResult = squad.RawResult
convert_examples_to_features = squad.convert_examples_to_features
_improve_answer_span = squad.improve_answer_span
_check_is_max_context = squad.check_is_max_context
_get_best_indexes = squad.get_best_indexes
_compute_softmax = squad.compute_softmax


def read_squad_examples(input_file, is_training, version_2_with_negative=None):
  """`squad.read_squad_examples`; None means the flag of that name."""
  if version_2_with_negative is None:
    version_2_with_negative = FLAGS["version_2_with_negative"].value
  return squad.read_squad_examples(
      input_file, is_training, version_2_with_negative)


def write_predictions(
    all_examples, all_features, all_results, n_best_size, max_answer_length,
    do_lower_case, output_prediction_file, output_nbest_file,
    output_null_log_odds_file, version_2_with_negative=None,
    null_score_diff_threshold=None, verbose_logging=None):
  """`squad.write_predictions`; the last three default to their flags."""
  if version_2_with_negative is None:
    version_2_with_negative = FLAGS["version_2_with_negative"].value
  if null_score_diff_threshold is None:
    null_score_diff_threshold = FLAGS["null_score_diff_threshold"].value
  if verbose_logging is None:
    verbose_logging = FLAGS["verbose_logging"].value
  squad.write_predictions(
      all_examples, all_features, all_results, n_best_size, max_answer_length,
      do_lower_case, output_prediction_file, output_nbest_file,
      output_null_log_odds_file, version_2_with_negative,
      null_score_diff_threshold, verbose_logging)


def get_final_text(pred_text, orig_text, do_lower_case, verbose_logging=None):
  """`squad.get_final_text`; `verbose_logging` None means its flag."""
  if verbose_logging is None:
    verbose_logging = FLAGS["verbose_logging"].value
  return squad.get_final_text(
      pred_text, orig_text, do_lower_case, verbose_logging)


# Records.


class FeatureWriter:
  """Writes features to a TFRecord file, which appears when it is closed.

    with FeatureWriter("train.tf_record", is_training=True) as writer:
      convert_examples_to_features(..., output_fn=writer.process_feature)

  After an exception in the block nothing is left behind.

  Attributes:
    filename: str, the file.
    num_features: int, features written so far.
  """

  def __init__(self, filename, is_training):
    self._stack = contextlib.ExitStack()
    self._writer = self._stack.enter_context(
        input_pipeline.atomic_record_writer(filename))
    self.num_features = 0
    self.filename, self.is_training = filename, is_training

  def process_feature(self, feature):
    """Appends one InputFeatures."""
    self.num_features += 1
    ints = {name: getattr(feature, name)
            for name in ("input_ids", "input_mask", "segment_ids")}
    ints["unique_ids"] = [feature.unique_id]
    if self.is_training:
      ints["start_positions"] = [feature.start_position]
      ints["end_positions"] = [feature.end_position]
      ints["is_impossible"] = [int(bool(feature.is_impossible))]
    self._writer.write(input_pipeline.serialize_example(ints))

  def close(self):
    """Finishes the file. Closing again does nothing."""
    self._stack.close()

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    return self._stack.__exit__(*exception)


# The model.


def create_model(bert_config, is_training, input_ids, input_mask, segment_ids,
                 use_one_hot_embeddings, real_tokens_only=False,
                 compute_dtype=tf.float32, inference_kernels=False,
                 gradient_checkpointing=0, whole_batches=False):
  """BERT with a linear layer that scores each token as start and as end.

  Args:
    bert_config: modeling.BertConfig.
    is_training: bool, use dropout.
    input_ids: int [B, T].
    input_mask: int [B, T], 1 at real tokens.
    segment_ids: int [B, T], 0 over the question, 1 over the context.
    use_one_hot_embeddings: bool, as for modeling.BertModel.
    real_tokens_only: bool, leave padding out of the computation. Its logits
      are then PADDING_LOGIT; otherwise they are values like any other.
    compute_dtype: as for modeling.BertModel.
    inference_kernels: bool, likewise.
    gradient_checkpointing: int, likewise.
    whole_batches: bool, compute padding even so.

  Returns:
    (start_logits, end_logits), float [B, T] each.
  """
  model = modeling.BertModel(
      bert_config, is_training, input_ids, input_mask, segment_ids,
      use_one_hot_embeddings, scope="bert",
      real_tokens_only=real_tokens_only and not whole_batches,
      compute_dtype=compute_dtype, inference_kernels=inference_kernels,
      gradient_checkpointing=gradient_checkpointing)
  hidden = model.get_sequence_output()  # [B, T, D]
  weights = tf.get_variable(
      "cls/squad/output_weights", [2, bert_config.hidden_size],
      initializer=modeling.create_initializer(0.02))
  bias = tf.get_variable(
      "cls/squad/output_bias", [2], initializer=tf.zeros_initializer())
  matrix = modeling.reshape_to_matrix(hidden)  # [B * T, D]
  logits = tf.matmul(matrix, weights, transpose_b=True) + bias  # [B * T, 2]
  both = []
  for logit in tf.unstack(logits, axis=1):
    logit = tf.reshape(logit, tf.shape(input_ids))  # [B, T]
    if real_tokens_only:
      logit = tf.where(tf.cast(input_mask, tf.bool), logit,
                       tf.fill(tf.shape(logit), PADDING_LOGIT))
    both.append(logit)
  return tuple(both)


def position_loss(logits, positions):
  """Mean cross entropy of picking one position out of each sequence.

  Args:
    logits: float [B, T].
    positions: int [B].

  Returns:
    float scalar.
  """
  losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
      labels=positions, logits=logits)  # [B]
  return tf.reduce_mean(losses)


def model_fn_builder(bert_config, init_checkpoint, learning_rate,
                     num_train_steps, num_warmup_steps, use_tpu,
                     use_one_hot_embeddings, real_tokens_only=False,
                     compute_dtype=tf.float32, gradient_accumulation_steps=1,
                     gradient_checkpointing=0, optimizer="adamw",
                     freeze_layers=-1, whole_batches=False):
  """Makes the `model_fn` of an Estimator, for training and prediction.

  Args:
    bert_config: modeling.BertConfig.
    init_checkpoint: str or None, where the weights start from.
    learning_rate: float, the peak.
    num_train_steps: int, None for prediction.
    num_warmup_steps: int, None for prediction.
    use_tpu: bool.
    use_one_hot_embeddings: bool, as for modeling.BertModel.
    real_tokens_only: bool, as for create_model.
    compute_dtype: tf.float32, tf.bfloat16 or tf.float16, likewise.
    gradient_accumulation_steps: int, parts of a training batch, see
      `optimization.accumulate_gradients`.
    gradient_checkpointing: int, see `modeling.BertModel`.
    optimizer: str, as for optimization.create_optimizer.
    freeze_layers: int, embeddings and layers that are not trained, as for
      modeling.lower_scopes.
    whole_batches: bool, as for create_model.

  Returns:
    function (features, labels, mode, params, config) -> estimator spec. Its
    predictions are `unique_ids` [B], `start_logits` and `end_logits` [B, T].
  """

  def model_fn(features, labels, mode, params, config=None):
    del labels, params  # Labels travel in `features`.
    estimators.log_features(features)
    is_training = mode == estimators.ModeKeys.TRAIN

    def build(features):
      return create_model(
          bert_config, is_training, features["input_ids"],
          features["input_mask"], features["segment_ids"],
          use_one_hot_embeddings, real_tokens_only, compute_dtype,
          inference_kernels=not use_tpu,
          gradient_checkpointing=gradient_checkpointing,
          whole_batches=whole_batches)

    def build_loss(features):
      start_logits, end_logits = build(features)
      start_loss = position_loss(start_logits, features["start_positions"])
      end_loss = position_loss(end_logits, features["end_positions"])
      return [(start_loss + end_loss) / 2.0]

    def initialize(outputs):
      return estimators.init_from_checkpoint(
          init_checkpoint, use_tpu, mode, config.model_dir if config else None,
          outputs)

    if is_training:
      scale_loss = compute_dtype == tf.float16
      frozen = modeling.lower_scopes(freeze_layers)
      (loss,), gradients = optimization.accumulate_gradients(
          build_loss, features, gradient_accumulation_steps, scale_loss, frozen)
      scaffold_fn = initialize([loss])
      train_op = optimization.create_optimizer(
          loss, learning_rate, num_train_steps, num_warmup_steps, use_tpu,
          scale_loss=scale_loss, gradients=gradients, optimizer=optimizer,
          frozen=frozen)
      return estimators.estimator_spec(
          mode=mode, loss=loss, train_op=train_op, scaffold_fn=scaffold_fn)
    start_logits, end_logits = build(features)
    scaffold_fn = initialize([start_logits, end_logits])
    if mode == estimators.ModeKeys.PREDICT:
      predictions = {"unique_ids": features["unique_ids"],
                     "start_logits": start_logits, "end_logits": end_logits}
      if input_pipeline.EXAMPLE_INDEX in features:
        predictions[input_pipeline.EXAMPLE_INDEX] = features[
            input_pipeline.EXAMPLE_INDEX]
      return estimators.estimator_spec(
          mode=mode, predictions=predictions, scaffold_fn=scaffold_fn)
    raise ValueError("There is no mode %s here: answers are scored from "
                     "predictions (--do_predict --do_eval)." % mode)

  return model_fn


def input_fn_builder(input_file, seq_length, is_training, drop_remainder,
                     seed=None, start_step=0, group_by_length=False):
  """Makes the `input_fn` that reads a FeatureWriter's file.

  Args:
    input_file: str or list of str, TFRecord files.
    seq_length: int, the `max_seq_length` of the features.
    is_training: bool, shuffle and repeat for ever; needs the answers.
    drop_remainder: bool, leave out a last batch that is not full.
    seed: int or None, makes the order repeatable.
    start_step: int, steps of an earlier run, whose batches are passed over.
    group_by_length: bool, see `input_pipeline.record_input_fn`.

  Returns:
    function of `params` to a dataset of dicts of int32 tensors: [B, T], or [B]
    for `unique_ids`, `start_positions` and `end_positions`.
  """
  spec = {name: tf.FixedLenFeature([seq_length], tf.int64)
          for name in ("input_ids", "input_mask", "segment_ids")}
  scalars = ["unique_ids"]
  if is_training:
    scalars += ["start_positions", "end_positions"]
  spec.update((name, tf.FixedLenFeature([], tf.int64)) for name in scalars)
  return input_pipeline.record_input_fn(
      input_file, spec, is_training, drop_remainder, seed=seed,
      start_step=start_step, group_by_length=group_by_length)

# The run.


def validate_flags_or_throw(bert_config):
  """Checks the flags against each other and the model.

  Args:
    bert_config: modeling.BertConfig.

  Raises:
    ValueError: a combination cannot work.
  """
  tokenization.validate_case_matches_checkpoint(
      FLAGS.do_lower_case, FLAGS.init_checkpoint)
  if not (FLAGS.do_train or FLAGS.do_predict or FLAGS.do_eval or
          FLAGS.export_dir):
    raise ValueError("Nothing to do: give at least one of --do_train, "
                     "--do_predict, --do_eval and --export_dir.")
  if FLAGS.do_train and not FLAGS.train_file:
    raise ValueError("--do_train needs --train_file, a SQuAD JSON file.")
  if (FLAGS.do_predict or FLAGS.do_eval) and not FLAGS.predict_file:
    raise ValueError("--do_predict and --do_eval need --predict_file, a SQuAD "
                     "JSON file.")
  if FLAGS.do_train and FLAGS.do_eval and not FLAGS.do_predict:
    raise ValueError("--do_eval after --do_train needs --do_predict: the "
                     "answers saved in --output_dir are not this model's.")
  estimators.check_sequence_length(FLAGS.max_seq_length, bert_config)
  estimators.check_freeze_layers(FLAGS.freeze_layers, bert_config)
  estimators.check_use_tpu(FLAGS.use_tpu)
  if FLAGS.max_seq_length <= FLAGS.max_query_length + 3:
    raise ValueError(
        "--max_seq_length=%d must be greater than --max_query_length=%d + 3: "
        "[CLS], two [SEP] and some context have to fit in too."
        % (FLAGS.max_seq_length, FLAGS.max_query_length))
  for name in ("doc_stride", "n_best_size", "max_answer_length"):
    if FLAGS[name].value < 1:
      raise ValueError("--%s=%d must be at least 1 (default %d)."
                       % (name, FLAGS[name].value, FLAGS[name].default))
  saved_models.check_export_dir(FLAGS.export_dir)


def _create_tokenizer(bert_config):
  tokenizer = tokenization.FullTokenizer(
      FLAGS.vocab_file, do_lower_case=FLAGS.do_lower_case)
  estimators.check_vocab(tokenizer.vocab, bert_config, FLAGS.vocab_file)
  return tokenizer


def _output_path(name):
  return os.path.join(FLAGS.output_dir, name)


def _create_estimator(bert_config, num_train_steps=None,
                      num_warmup_steps=None):
  model_fn = model_fn_builder(
      bert_config, FLAGS.init_checkpoint, FLAGS.learning_rate,
      num_train_steps, num_warmup_steps, use_tpu=FLAGS.use_tpu,
      use_one_hot_embeddings=FLAGS.use_tpu,
      real_tokens_only=FLAGS.real_tokens_only and not FLAGS.use_tpu,
      whole_batches=not common_flags.skips_padding(FLAGS),
      compute_dtype=estimators.choose_compute_dtype(
          FLAGS.mixed_precision, FLAGS.use_tpu),
      gradient_accumulation_steps=FLAGS.gradient_accumulation_steps,
      gradient_checkpointing=FLAGS.gradient_checkpointing,
      optimizer=FLAGS.optimizer, freeze_layers=FLAGS.freeze_layers)
  return estimators.create_estimator(
      model_fn=model_fn, **common_flags.estimator_arguments(FLAGS))


def _train(bert_config, tokenizer):
  """Trains on --train_file."""
  examples = read_squad_examples(FLAGS.train_file, is_training=True)
  num_train_steps, num_warmup_steps = estimators.training_steps(
      len(examples), FLAGS.train_batch_size, FLAGS.num_train_epochs,
      FLAGS.warmup_proportion)
  estimators.report_existing_checkpoint(
      FLAGS.output_dir, FLAGS.init_checkpoint, True, num_train_steps)
  # The same order in every run; neighbours in the file share a context.
  random.Random(12345).shuffle(examples)
  with FeatureWriter(_output_path("train.tf_record"), True) as writer:
    convert_examples_to_features(
        examples, tokenizer, FLAGS.max_seq_length, FLAGS.doc_stride,
        FLAGS.max_query_length, True, writer.process_feature,
        FLAGS.drop_out_of_span)
  tf.logging.info("***** Running training *****")
  tf.logging.info("  Num orig examples = %d", len(examples))
  tf.logging.info("  Num split examples = %d", writer.num_features)
  tf.logging.info("  Batch size = %d", FLAGS.train_batch_size)
  tf.logging.info("  Num steps = %d", num_train_steps)
  # Steps are counted in questions, but each question's every chunk is trained.
  tf.logging.info("  Num epochs = %.2f (steps x batch size / split examples)",
                  num_train_steps * FLAGS.train_batch_size
                  / max(writer.num_features, 1))
  del examples
  input_fn = input_fn_builder(
      writer.filename, FLAGS.max_seq_length, is_training=True,
      drop_remainder=True, seed=FLAGS.seed,
      start_step=estimators.trained_steps(FLAGS.output_dir),
      group_by_length=FLAGS.group_by_length)
  estimators.train(
      _create_estimator(bert_config, num_train_steps, num_warmup_steps),
      input_fn, num_train_steps, FLAGS.train_batch_size, FLAGS.log_steps,
      FLAGS.use_tpu)


def _predict(bert_config, tokenizer):
  """Answers --predict_file; returns the predictions and null odds."""
  examples = read_squad_examples(FLAGS.predict_file, is_training=False)
  lengths = (FLAGS.max_seq_length, FLAGS.doc_stride, FLAGS.max_query_length)
  counts = np.zeros(len(examples), np.int64)
  with FeatureWriter(_output_path("eval.tf_record"), False) as writer:

    def write_feature(feature):
      counts[feature.example_index] += 1
      writer.process_feature(feature)

    convert_examples_to_features(
        examples, tokenizer, *lengths, False, write_feature)
  tf.logging.info("***** Running predictions *****")
  tf.logging.info("  Num orig examples = %d", len(examples))
  tf.logging.info("  Num split examples = %d", writer.num_features)
  tf.logging.info("  Batch size = %d", FLAGS.predict_batch_size)
  if not FLAGS.do_train:
    estimators.report_existing_checkpoint(
        FLAGS.output_dir, FLAGS.init_checkpoint, do_train=False)

  # Features are made again when their results are there: that costs less than
  # a thousandth of the model's time, and they need not be kept.
  builder = squad.FeatureBuilder(
      examples, tokenizer, *lengths, is_training=False)
  first_ids = squad.FIRST_UNIQUE_ID + np.cumsum(counts) - counts
  input_fn = input_fn_builder(
      writer.filename, FLAGS.max_seq_length, is_training=False,
      drop_remainder=False, group_by_length=not FLAGS.use_tpu)
  options = squad.AnswerOptions(
      FLAGS.n_best_size, FLAGS.max_answer_length, FLAGS.do_lower_case,
      FLAGS.version_2_with_negative, FLAGS.null_score_diff_threshold,
      FLAGS.verbose_logging)
  answers = squad.answer_questions(
      examples, lambda index: builder.build(index, int(first_ids[index])),
      _raw_results(_create_estimator(bert_config), input_fn), options)
  return squad.write_answers(
      answers, options, _output_path("predictions.json"),
      _output_path("nbest_predictions.json"), _output_path("null_odds.json"))


def _raw_results(estimator, input_fn):
  """Yields the model's outputs as RawResult."""
  rows = input_pipeline.restore_order(
      estimator.predict(input_fn, yield_single_examples=True))
  for index, row in enumerate(rows):
    if index % 1000 == 0:
      tf.logging.info("Processing example: %d", index)
    yield squad.RawResult(int(row["unique_ids"]), row["start_logits"].ravel(),
                    row["end_logits"].ravel())


def _saved_answers():
  """The predictions and null odds of an earlier run in --output_dir.

  SQuAD 2.0: chosen again from the n-best, under the present threshold.
  """
  if not FLAGS.version_2_with_negative:
    return _load_saved("predictions.json"), None
  null_odds = _load_saved("null_odds.json")
  predictions = collections.OrderedDict()
  for qas_id, entries in _load_saved("nbest_predictions.json").items():
    best = next((entry["text"] for entry in entries if entry["text"]), "")
    predictions[qas_id] = squad.choose_answer(
        best, null_odds[qas_id], FLAGS.null_score_diff_threshold)
  path = _output_path("predictions.json")
  tf.logging.info("Writing predictions to: %s", path)
  squad.write_json(path, predictions)
  return predictions, null_odds


def _load_saved(name):
  path = _output_path(name)
  if not tf.gfile.Exists(path):
    raise ValueError(
        "--do_eval without --do_predict scores answers already in "
        "--output_dir, but there is no %s. Run with --do_predict=True." % path)
  return squad.load_json(path)


def _export(bert_config):
  """Writes the newest checkpoint's model to --export_dir."""

  def build_signatures(inputs):
    start_logits, end_logits = create_model(
        bert_config, False, *[inputs[name] for name in saved_models.INPUTS],
        use_one_hot_embeddings=False, real_tokens_only=FLAGS.real_tokens_only)
    return {"serving_default": {"start_logits": start_logits,
                                "end_logits": end_logits}}

  settings = {name: FLAGS[name].value for name in (
      "do_lower_case", "max_seq_length", "doc_stride", "max_query_length",
      "n_best_size", "max_answer_length", "version_2_with_negative",
      "null_score_diff_threshold")}
  saved_models.write(
      FLAGS.export_dir, build_signatures,
      estimators.latest_checkpoint(FLAGS.output_dir) or FLAGS.init_checkpoint,
      saved_models.make_assets(
          FLAGS.vocab_file, bert_config, kind="squad", **settings))


def main(_):
  """Runs what the flags ask for."""
  tf.logging.set_verbosity(tf.logging.INFO)
  config = modeling.BertConfig.from_json_file(FLAGS.bert_config_file)
  validate_flags_or_throw(config)
  tokenizer = _create_tokenizer(config)
  tf.gfile.MakeDirs(FLAGS.output_dir)

  if FLAGS.do_train:
    _train(config, tokenizer)
  if FLAGS.do_predict:
    predictions, null_odds = _predict(config, tokenizer)
  elif FLAGS.do_eval:
    predictions, null_odds = _saved_answers()
  if FLAGS.do_eval:
    estimators.write_eval_results(FLAGS.output_dir, squad.score_predictions(
        FLAGS.predict_file, predictions, null_odds,
        FLAGS.version_2_with_negative))
  if FLAGS.export_dir:
    _export(config)


if __name__ == "__main__":
  flags.mark_flags_as_required(
      ["vocab_file", "bert_config_file", "output_dir"])
  common_flags.run(main)
