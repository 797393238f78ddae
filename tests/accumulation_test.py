"""Tests of gradient accumulation: parts of a batch beside the whole batch.

  pytest tests/accumulation_test.py
"""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import estimators
import modeling
import optimization
import run_classifier
import run_pretraining
import run_squad

BATCH_SIZE, LENGTH, VOCAB_SIZE, NUM_PREDICTIONS = 8, 12, 50, 4
NUM_STEPS = 10
# A weight whose gradient is nothing but rounding errors, such as SQuAD's output
# bias, which a softmax does not see, makes random steps of the learning rate's
# size, 1e-4. Wrong gradients show in the moments at any rate.
TOLERANCE = 2e-5


dropout = modeling.dropout


@pytest.fixture(autouse=True, scope="module")
def no_dropout():
  """Not even that of the classifier's pooled vectors, which no config sets."""
  modeling.dropout = lambda tensor, rate: tensor
  yield
  modeling.dropout = dropout


def make_config(**changes):
  values = dict(vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=1,
                num_attention_heads=2, intermediate_size=32,
                max_position_embeddings=16, type_vocab_size=2,
                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
  values.update(changes)
  return modeling.BertConfig(**values)


def make_batch(task, seed):
  """Arrays by feature name: ragged lengths, and unequal mask counts."""
  draw = np.random.RandomState(seed)
  lengths = draw.randint(3, LENGTH + 1, size=BATCH_SIZE)
  mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int32)
  batch = {
      # Few different words, so that their rows coincide.
      "input_ids": draw.randint(1, 20, size=mask.shape) * mask,
      "input_mask": mask,
      "segment_ids": draw.randint(0, 2, size=mask.shape) * mask}
  if task == "classifier":
    batch["label_ids"] = draw.randint(0, 3, size=BATCH_SIZE)
  elif task == "squad":
    batch["start_positions"] = draw.randint(0, lengths)
    batch["end_positions"] = draw.randint(0, lengths)
  else:
    shape = [BATCH_SIZE, NUM_PREDICTIONS]
    counts = draw.randint(0, NUM_PREDICTIONS + 1, size=BATCH_SIZE)
    counts[:3] = 0, NUM_PREDICTIONS, 1
    weights = np.arange(NUM_PREDICTIONS) < counts[:, None]
    batch["masked_lm_positions"] = draw.randint(
        0, lengths[:, None], size=shape) * weights
    batch["masked_lm_ids"] = draw.randint(0, VOCAB_SIZE, size=shape) * weights
    batch["masked_lm_weights"] = weights.astype(np.float32)
    batch["next_sentence_labels"] = draw.randint(0, 2, size=[BATCH_SIZE, 1])
  return {name: value if value.dtype == np.float32 else value.astype(np.int32)
          for name, value in batch.items()}


def make_model_fn(task, config, use_one_hot, **options):
  options.update(
      bert_config=config, init_checkpoint=None, learning_rate=1e-4,
      num_train_steps=100, num_warmup_steps=3, use_tpu=False,
      use_one_hot_embeddings=use_one_hot)
  if task == "classifier":
    return run_classifier.model_fn_builder(num_labels=3, **options)
  module = run_squad if task == "squad" else run_pretraining
  return module.model_fn_builder(**options)


def train(task, parts, config=None, use_one_hot=False, num_steps=NUM_STEPS,
          **options):
  """(losses, values of all variables by name) after some steps."""
  model_fn = make_model_fn(task, config or make_config(), use_one_hot,
                           gradient_accumulation_steps=parts, **options)
  with tf.Graph().as_default():
    tf.set_random_seed(1)
    features = {
        name: tf.placeholder(value.dtype, value.shape, name)
        for name, value in make_batch(task, 0).items()}
    spec = model_fn(features, None, estimators.ModeKeys.TRAIN, {})
    initial = [initial_value(variable) for variable in tf.global_variables()]
    # Rewriting these graphs would take most of the time.
    session_config = tf.ConfigProto()
    session_config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Session(config=session_config) as session:
      session.run(tf.local_variables_initializer())
      session.run([v.initializer for v in tf.global_variables()], {
          variable.initializer.inputs[1]: value
          for variable, value in zip(tf.global_variables(), initial)})
      losses = []
      for step in range(num_steps):
        feed = make_batch(task, step)
        losses.append(session.run(
            [spec.loss, spec.train_op],
            {features[name]: feed[name] for name in features})[0])
      assert session.run(tf.train.get_global_step()) == num_steps
      variables = {variable.op.name: variable
                   for variable in tf.global_variables()}
      return losses, session.run(variables)


def initial_value(variable):
  """The same in every graph: op seeds depend on the number of operations."""
  name, shape = variable.op.name, variable.shape.as_list()
  if not shape or "adam" in name or "bias" in name or "beta" in name:
    return np.zeros(shape, variable.dtype.as_numpy_dtype)
  if "gamma" in name:
    return np.ones(shape, np.float32)
  seed = sum(ord(letter) * 31 ** i for i, letter in enumerate(name[::-1][:6]))
  return np.random.RandomState((seed + len(name)) % 2 ** 32).normal(
      scale=0.3, size=shape).astype(np.float32)


def assert_same(actual, expected, tolerance=TOLERANCE):
  losses, values = zip(actual, expected)
  np.testing.assert_allclose(*losses, atol=tolerance, rtol=tolerance)
  assert set(values[0]) == set(values[1])
  for name in values[1]:
    np.testing.assert_allclose(
        values[0][name], values[1][name], atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def whole_batch():
  """Results without parts, by task, with the true norm of all gradients.

  Only products with one-hot vectors have that: see `create_optimizer`.
  """
  results = {}

  def get(task, is_real=False):
    # SQuAD's answers are sought among real tokens only, or among all.
    key = task, is_real and task == "squad"
    if key not in results:
      results[key] = train(
          task, 1, use_one_hot=True, real_tokens_only=key[1])
    return results[key]

  return get


@pytest.mark.parametrize("form", ["real", "padded", "one_hot"])
@pytest.mark.parametrize("parts", [2, 4, 8])
@pytest.mark.parametrize("task", ["classifier", "squad", "pretraining"])
def test_parts_are_worth_the_whole_batch(whole_batch, task, parts, form):
  result = train(task, parts, use_one_hot=form == "one_hot",
                 real_tokens_only=form == "real")
  assert_same(result, whole_batch(task, form == "real"))


def test_clipping_sees_the_true_norm_of_a_batch_in_parts():
  """The first step's mean of gradients is a tenth of the clipped ones.

  Without parts the norm is that of google-research/bert, which counts a word's
  rows one by one: smaller than the true one here, so that more is left.
  """
  def clipped_norm(parts):
    _, values = train("squad", parts, num_steps=1)
    return 10.0 * np.sqrt(sum(
        np.sum(np.square(value, dtype=np.float64))
        for name, value in values.items() if name.endswith("adam_m")))

  assert abs(clipped_norm(2) - 1.0) < 1e-5
  assert 1.005 < clipped_norm(1) < 1.02


@pytest.mark.parametrize("task,device", [
    ("classifier", "as_on_cpu"), ("pretraining", "as_on_cpu"),
    ("pretraining", "as_on_gpu")])
def test_fused_operations_work_in_parts(request, task, device):
  request.getfixturevalue(device)
  config = make_config(hidden_size=modeling.MIN_FUSED_WIDTH)
  expected = train(task, 1, config, use_one_hot=True, num_steps=3)
  actual = train(task, 4, config, num_steps=3, real_tokens_only=True)
  assert_same(actual, expected)


@pytest.mark.parametrize("optimizer", ["lamb", "adafactor"])
def test_other_optimizers_and_frozen_layers_go_with_parts(optimizer):
  options = dict(num_steps=3, optimizer=optimizer, freeze_layers=0)
  expected = train("classifier", 1, **options)
  actual = train("classifier", 4, gradient_checkpointing=1, **options)
  for _, values in (actual, expected):
    # The rounding errors that are its gradient decide where it goes.
    del values["bert/encoder/layer_0/attention/self/key/bias"]
  assert_same(actual, expected)
  assert not any(name.startswith("bert/embeddings") and "/lamb" in name
                 for name in actual[1])


def test_half_precision_works_in_parts():
  losses, _ = train("classifier", 2, compute_dtype=tf.float16, num_steps=3)
  expected, _ = train("classifier", 1, use_one_hot=True, num_steps=3)
  np.testing.assert_allclose(losses, expected, rtol=0.02)


def test_dropout_differs_between_parts_and_steps():
  """With equal examples and a rate of 0, only dropout tells losses apart."""
  def loss_fn(features):
    kept = dropout(features["x"], 0.5)
    return [tf.reduce_sum(kept * weight[:, tf.newaxis][0, 0]),
            tf.reduce_sum(tf.square(kept))]

  with tf.Graph().as_default():
    weight = tf.get_variable("weight", [1], initializer=tf.ones_initializer())
    features = {"x": tf.ones([4, 1000])}
    losses, gradients = optimization.accumulate_gradients(
        loss_fn, features, 4)
    with tf.Session() as session:
      session.run(tf.global_variables_initializer())
      draws = [session.run([losses, gradients]) for _ in range(3)]
  sums = [draw[0][0] for draw in draws]
  assert len(set(sums)) == 3
  # Four parts with the same mask would make a multiple of 2 * 1000 / 4.
  for loss, gradient in draws:
    np.testing.assert_allclose(loss[0], gradient[0][0], rtol=1e-5)
    assert abs(loss[0] - 1000) < 150


@pytest.mark.parametrize("task", ["classifier", "pretraining"])
def test_evaluation_knows_no_parts(task):
  def loss(parts):
    model_fn = make_model_fn(task, make_config(), False,
                             gradient_accumulation_steps=parts)
    with tf.Graph().as_default(), tf.Session() as session:
      batch = make_batch(task, 0)
      features = {name: tf.constant(value) for name, value in batch.items()}
      spec = model_fn(features, None, estimators.ModeKeys.EVAL, {})
      variables = tf.global_variables()
      session.run([v.initializer for v in variables], {
          v.initializer.inputs[1]: initial_value(v) for v in variables})
      session.run(tf.local_variables_initializer())
      return session.run(spec.loss)

  np.testing.assert_allclose(loss(4), loss(1), rtol=1e-6)


@pytest.mark.parametrize("parts", [3, 16])
def test_parts_that_do_not_divide_the_batch_are_refused(parts):
  with pytest.raises(ValueError, match=(
      r"--gradient_accumulation_steps=%d does not divide the batch of 8 "
      r"examples \(--train_batch_size" % parts)):
    train("classifier", parts, num_steps=1)
