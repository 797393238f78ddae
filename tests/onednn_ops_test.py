"""Tests of onednn_ops.py: each kernel, and whole models, beside the plain form.

  pytest tests/onednn_ops_test.py
"""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import fused_ops
import modeling
import onednn_ops

pytestmark = pytest.mark.usefixtures("seeded_graph")

# Largest rounding error, relative to the largest value.
TOLERANCE = {"float32": 2e-6, "bfloat16": 2.0 ** -7}
DTYPES = sorted(TOLERANCE)
INPUT_MASK = [[1] * 7, [1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 0, 1, 0, 0]]


@pytest.fixture
def kernels():
  """Skips where there are none; the only test without it asks for that."""
  with tf.Graph().as_default():
    if not onednn_ops.are_available():
      pytest.skip("this TensorFlow or processor has no oneDNN kernels")


def variable(name, shape, seed, dtype=tf.float32):
  values = np.random.RandomState(seed).normal(size=shape)
  return tf.get_variable(name, initializer=tf.cast(
      tf.constant(values, tf.float32), dtype))


def run(tensors):
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    session.run(tf.local_variables_initializer())
    return session.run(tensors)


def assert_close(actual, expected, dtype):
  actual, expected = run([tf.cast(actual, tf.float32), expected])
  assert np.abs(actual - expected).max() < (
      TOLERANCE[dtype] * np.abs(expected).max())


ACTIVATIONS = {None: lambda x: x, "gelu": modeling.gelu, "relu": tf.nn.relu,
               "gelu_exact": modeling.gelu_exact, "tanh": tf.tanh}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_with_an_activation(kernels, dtype, activation):
  matrix = variable("matrix", [6, 8], 1)
  kernel, bias = variable("kernel", [8, 4], 2), variable("bias", [4], 3)
  low = [tf.cast(value, dtype) for value in (matrix, kernel, bias)]
  product = onednn_ops.dense(low[0], kernel, bias, activation)
  assert product.dtype == dtype and product.shape.as_list() == [6, 4]
  matrix, kernel, bias = [tf.cast(value, tf.float32) for value in low]
  assert_close(
      product, ACTIVATIONS[activation](tf.matmul(matrix, kernel) + bias), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_with_a_residual(kernels, dtype):
  matrix, residual = [
      tf.cast(variable(name, shape, 1), dtype) for name, shape in
      (("matrix", [6, 8]), ("residual", [6, 4]))]
  kernel, bias = variable("kernel", [8, 4], 2), variable("bias", [4], 3)
  product = onednn_ops.dense(matrix, kernel, bias, residual=residual)
  matrix, rounded, residual = [
      tf.cast(tf.cast(value, dtype), tf.float32)
      for value in (matrix, kernel, residual)]
  assert_close(product, tf.matmul(matrix, rounded) + bias + residual, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm(kernels, dtype):
  x = tf.cast(3.0 + 2.0 * variable("x", [6, 64], 1), dtype)
  gamma, beta = variable("gamma", [64], 2), variable("beta", [64], 3)
  output = onednn_ops.layer_norm(x, gamma, beta, 1e-12)
  assert output.dtype == dtype
  mean, variance = tf.nn.moments(
      tf.cast(x, tf.float32), axes=[-1], keepdims=True)
  assert_close(output, tf.nn.batch_normalization(
      tf.cast(x, tf.float32), mean, variance, beta, gamma, 1e-12), dtype)


def test_statistics_of_half_precision_are_those_of_single(kernels):
  # In bfloat16, with 8 bits, 1024 + noise would have no variance at all.
  x = tf.cast(1024.0 + 8.0 * tf.cast(
      tf.reshape(tf.range(256) % 2, [2, 128]), tf.float32), tf.bfloat16)
  output = onednn_ops.layer_norm(
      x, tf.ones([128]), tf.zeros([128]), 1e-12)
  assert set(np.unique(run(tf.cast(output, tf.float32)))) == {-1.0, 1.0}


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores(kernels, dtype):
  query = tf.cast(variable("query", [3, 2, 4, 8], 1), dtype)
  key = tf.cast(variable("key", [3, 2, 5, 8], 2), dtype)
  bias = tf.cast(variable("bias", [3, 1, 1, 5], 3), dtype)
  scores = onednn_ops.scores(query, key, 0.25, bias)
  assert scores.shape.as_list() == [3, 2, 4, 5]
  query, key, bias = [
      tf.cast(value, tf.float32) for value in (query, key, bias)]
  assert_close(
      scores, tf.matmul(query, key, transpose_b=True) * 0.25 + bias, dtype)


# Whole models.


def make_config(**changes):
  values = dict(vocab_size=50, hidden_size=32, num_hidden_layers=3,
                num_attention_heads=4, intermediate_size=64,
                max_position_embeddings=16, type_vocab_size=2,
                initializer_range=0.3)
  values.update(changes)
  return modeling.BertConfig(**values)


def outputs_of(config, inference_kernels, **options):
  """Sequences and pooled vectors, from variables in the scope "bert"."""
  input_ids = np.random.RandomState(5).randint(0, 50, size=[3, 7])
  with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
    model = modeling.BertModel(
        config, False, tf.placeholder_with_default(
            input_ids.astype(np.int32), [None, None]),
        tf.placeholder_with_default(
            np.array(INPUT_MASK, np.int32), [None, None]),
        scope="bert", inference_kernels=inference_kernels, **options)
  return [model.get_sequence_output(), model.get_pooled_output()]


def op_types():
  return {op.type for op in tf.get_default_graph().get_operations()}


@pytest.mark.parametrize("real_tokens_only", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_exact", "relu", "linear"])
def test_models_with_the_kernels_predict_the_same(
    kernels, dtype, real_tokens_only, hidden_act):
  config = make_config(hidden_act=hidden_act)
  plain = outputs_of(config, False, real_tokens_only=real_tokens_only)
  assert "_MklLayerNorm" not in op_types()
  fast = outputs_of(config, True, real_tokens_only=real_tokens_only,
                    compute_dtype=tf.as_dtype(dtype))
  assert "_MklLayerNorm" in op_types()
  plain, fast = run([plain, fast])
  for expected, actual in zip(plain, fast):
    error = np.abs(actual - expected)
    if dtype == "float32":
      assert error.max() < 2e-5
    else:
      # Rounding passes through all layers; each value is near 1.
      assert error.mean() < 0.03 and error.max() < 0.3


def test_kernels_are_left_out_of_training_and_where_not_asked_for(kernels):
  config = make_config()
  ids = tf.ones([2, 4], tf.int32)
  modeling.BertModel(config, True, ids, scope="first", inference_kernels=True)
  modeling.BertModel(config, False, ids, scope="second")
  modeling.BertModel(config, False, ids, scope="third", inference_kernels=True,
                     compute_dtype=tf.float16)
  assert not any(name.startswith("_") for name in op_types())


def test_weights_are_converted_once_and_not_part_of_checkpoints(kernels):
  config = make_config()
  outputs = outputs_of(config, True, compute_dtype=tf.bfloat16)
  local = tf.local_variables()
  # Six kernels a layer, each in bfloat16.
  assert len(local) == 18
  assert {variable.dtype.base_dtype for variable in local} == {tf.bfloat16}
  names = {variable.op.name for variable in tf.global_variables()}
  assert not names & {variable.op.name for variable in local}
  assert len(names) == len(tf.trainable_variables())
  used = modeling.find_used_variables(outputs, tf.trainable_variables())
  assert len(used) == len(names)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    kernel = next(variable for variable in tf.trainable_variables()
                  if variable.op.name.endswith("layer_0/output/dense/kernel"))
    session.run(kernel.assign(kernel * 3.0))
    session.run(tf.local_variables_initializer())
    copy = next(variable for variable in local
                if "layer_0/output/dense/kernel" in variable.op.name)
    expected, actual = session.run(
        [tf.cast(kernel, tf.bfloat16), copy])
    np.testing.assert_array_equal(actual, expected)


def test_kernels_are_not_available_inside_a_loop():
  seen = []

  def body(i):
    seen.append(onednn_ops.are_available())
    return i + 1

  tf.while_loop(lambda i: i < 1, body, [0])
  assert seen and not any(seen)


def test_without_onednn_the_plain_operations_compute(kernels):
  code = (
      "import tensorflow.compat.v1 as tf, onednn_ops\n"
      "with tf.Graph().as_default():\n"
      "  print(onednn_ops.are_available())\n")
  result = subprocess.run(
      [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
      env=dict(os.environ, TF_ENABLE_ONEDNN_OPTS="0"),
      cwd=str(pathlib.Path(__file__).parents[1]))
  assert result.stdout.strip().endswith("False")


@pytest.mark.parametrize("available", [False, True])
def test_attention_probabilities_are_the_same_either_way(
    kernels, monkeypatch, available):
  monkeypatch.setattr(onednn_ops, "are_available", lambda: available)
  query = variable("query", [3, 2, 7, 8], 1)
  key = variable("key", [3, 2, 7, 8], 2)
  probabilities = fused_ops.attention_probabilities(
      tf.convert_to_tensor(query), tf.convert_to_tensor(key),
      tf.constant(INPUT_MASK))
  assert ("_MklFusedBatchMatMulV2" in op_types()) == available
  scores = tf.matmul(query, key, transpose_b=True) / np.sqrt(8.0)
  hidden = (1.0 - tf.constant(INPUT_MASK, tf.float32)) * -10000.0
  assert_close(probabilities, tf.nn.softmax(
      scores + hidden[:, tf.newaxis, tf.newaxis, :]), "float32")
