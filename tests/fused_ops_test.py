"""Tests of fused_ops.py: each piece beside the plain operations.

  pytest tests/fused_ops_test.py
"""

import re
import threading

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import fused_ops
import modeling

RATE = 0.25
EPSILON = modeling.LAYER_NORM_EPSILON
KEY_MASK = [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]

pytestmark = pytest.mark.usefixtures("compiler", "seeded_graph")


@pytest.fixture(params=["cpu", "gpu"])
def device(request):
  """The pieces are not all the same for a GPU."""
  request.getfixturevalue("as_on_" + request.param)


def normal(shape, seed, dtype=tf.float32):
  values = np.random.RandomState(seed).normal(size=shape)
  return tf.cast(tf.constant(values, tf.float32), dtype)


def run(tensors):
  with tf.Session() as session:
    return session.run(tensors)


def with_gradients(function, inputs, seed=7):
  """Returns the function's value and the gradients of all its inputs."""
  output = function(*inputs)
  direction = normal(output.shape.as_list(), seed, output.dtype)
  gradients = tf.gradients(tf.reduce_sum(
      tf.cast(output, tf.float32) * tf.cast(direction, tf.float32)), inputs)
  return [tf.cast(tensor, tf.float32) for tensor in [output] + gradients]


def plain_norm(x, gamma, beta):
  mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
  return tf.nn.batch_normalization(x, mean, variance, beta, gamma, EPSILON)


def plain_attention(query, key, value):
  mask = tf.constant(KEY_MASK, tf.float32)
  hidden = (1.0 - mask)[:, None, None, :] * fused_ops.MASKED_SCORE
  scores = tf.matmul(query, key, transpose_b=True) / 2.0
  return tf.matmul(tf.nn.softmax(scores + hidden), value) * (
      mask[:, None, :, None])


def norm_inputs(dtype=tf.float32):
  return [normal([6, 8], 1, dtype), 2.0 + normal([8], 3), normal([8], 4)]


def sum_inputs(dtype=tf.float32):
  x, gamma, beta = norm_inputs(dtype)
  return [x, normal([6, 8], 2, dtype), gamma, beta]


def fused_sum(rate):
  return lambda branch, residual, gamma, beta: fused_ops.dropout_add_norm(
      branch, residual, gamma, beta, rate, EPSILON)


def fused_norm(rate):
  return lambda x, gamma, beta: fused_ops.norm_dropout(
      x, gamma, beta, rate, EPSILON)


def fused_attention(rate):
  mask = tf.constant(KEY_MASK)
  return lambda query, key, value: fused_ops.attention(
      query, key, value, mask, mask, rate)


def attention_inputs(dtype):
  return [2.0 * normal([3, 2, 5, 4], seed, dtype) for seed in (1, 2, 3)]


def dense_inputs(dtype):
  return [2.0 * normal([6, 8], 1, dtype), normal([8, 4], 2), normal([4], 3)]


# Name: the fused function of a rate, the plain one without dropout, inputs of
# a type.
PIECES = {
    "dense": (
        lambda rate: fused_ops.dense,
        lambda matrix, kernel, bias: tf.matmul(matrix, kernel) + bias,
        dense_inputs),
    "gelu_dense": (
        lambda rate: fused_ops.gelu_dense,
        lambda pre, kernel, bias: tf.matmul(
            modeling.gelu(pre), kernel) + bias, dense_inputs),
    "dropout_add_norm": (
        fused_sum, lambda branch, residual, gamma, beta: plain_norm(
            branch + residual, gamma, beta), sum_inputs),
    "norm_dropout": (fused_norm, plain_norm, norm_inputs),
    "attention": (fused_attention, plain_attention, attention_inputs),
}


@pytest.fixture(params=PIECES)
def piece(request):
  return PIECES[request.param]


def test_values_and_gradients_are_those_of_the_plain_operations(device, piece):
  fused, plain, inputs = piece
  inputs = inputs(tf.float32)
  expected, actual = run([with_gradients(plain, inputs),
                          with_gradients(fused(0.0), inputs)])
  assert np.abs(expected[1]).max() > 0.1
  for left, right in zip(actual, expected):
    np.testing.assert_allclose(left, right, rtol=0, atol=5e-6)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_low_precision_only_rounds_what_goes_in_and_out(device, piece, dtype):
  fused, plain, inputs = piece
  low = inputs(dtype)
  output = fused(0.0)(*low)
  assert output.dtype == dtype
  assert [gradient.dtype for gradient in tf.gradients(output, low)] == [
      tensor.dtype for tensor in low]
  actual = with_gradients(fused(0.0), low)
  expected = with_gradients(
      plain, [tf.cast(tensor, tf.float32) for tensor in low])
  actual, expected = run([actual, expected])
  # Values kept for the gradient are rounded, too.
  unit = 2.0 ** -8 if dtype == tf.bfloat16 else 2.0 ** -11
  # What goes into a product is rounded, too.
  has_product = fused in [
      PIECES[name][0] for name in ("dense", "gelu_dense", "attention")]
  if not has_product:
    np.testing.assert_allclose(actual[0], expected[0], rtol=unit, atol=1e-6)
  for left, right in zip(actual, expected):
    assert np.abs(left - right).max() < 4 * unit * np.abs(right).max()


@pytest.mark.parametrize("name", [
    "dropout_add_norm", "norm_dropout", "attention"])
def test_gradient_with_dropout_is_that_of_the_very_elements_kept(device, name):
  """By finite differences in float32, the seed being the same in each run."""
  fused, _, inputs = PIECES[name]
  x, *others = [tensor for tensor in run(inputs(tf.float32))]
  fed = tf.placeholder(tf.float32, x.shape)
  output = fused(RATE)(fed, *map(tf.constant, others))
  loss = tf.reduce_sum(output * normal(x.shape, 7))
  gradient, = tf.gradients(loss, [fed])
  seeds = [op.outputs[0] for op in tf.get_default_graph().get_operations()
           if op.type == "RandomUniformInt"]
  assert len(seeds) == 1
  step, differences = 1e-2, np.zeros_like(x)
  with tf.Session() as session:
    def loss_at(values):
      return session.run(loss, {fed: values, seeds[0]: [123, -456]})
    actual = session.run(gradient, {fed: x, seeds[0]: [123, -456]})
    for index in np.ndindex(*x.shape):
      move = np.zeros_like(x)
      move[index] = step
      differences[index] = (
          loss_at(x + move) - loss_at(x - move)) / (2 * step)
  np.testing.assert_allclose(actual, differences, rtol=0, atol=2e-2)
  assert np.abs(actual).max() > 0.2


def test_dropout_keeps_and_scales_the_right_share():
  ones = tf.ones([200, 1000])
  output = fused_ops.norm_dropout(
      normal([200, 1000], 1), tf.zeros([1000]), tf.ones([1000]), RATE, EPSILON)
  first, second = run(output), run(output + 0 * ones)
  for kept in (first, second):
    np.testing.assert_allclose(np.unique(kept), [0.0, 1.0 / (1.0 - RATE)])
    assert abs(np.mean(kept == 0) - RATE) < 0.004
    # Neither columns, rows nor neighbours go together. The greatest of 1,000
    # columns is within 5 standard deviations, the greatest of 200 rows in 4.
    dropped = kept == 0
    assert np.abs(dropped.mean(0) - RATE).max() < 0.16
    assert np.abs(dropped.mean(1) - RATE).max() < 0.06
    pairs = dropped[:, 1:] & dropped[:, :-1]
    assert abs(pairs.mean() - RATE ** 2) < 0.003
    pairs = dropped[1:] & dropped[:-1]
    assert abs(pairs.mean() - RATE ** 2) < 0.003


def test_dropout_is_new_in_each_step_and_repeats_with_the_seed():
  draws = []
  for _ in range(2):
    with tf.Graph().as_default(), tf.Session() as session:
      tf.set_random_seed(3)
      outputs = [fused_ops.norm_dropout(
          normal([40, 50], 1), tf.zeros([50]), tf.ones([50]), RATE, EPSILON)
          for _ in range(2)]
      draws.append([session.run(outputs) for _ in range(2)])
  np.testing.assert_array_equal(draws[0], draws[1])
  masks = np.reshape(draws[0], [4, -1]) == 0
  for index, mask in enumerate(masks):
    for other in masks[index + 1:]:
      assert abs((mask & other).mean() - RATE ** 2) < 0.03


@pytest.mark.parametrize("shape", [[7], [5, 24], [2, 3, 4, 5]])
def test_whether_an_element_is_kept_is_a_hash_of_its_index(shape):
  seed = np.array([0x12345678, 0xFEDCBA98], np.uint32)
  index = np.arange(np.prod(shape), dtype=np.uint32)
  expected = (index + seed[0]) * np.uint32(0x9E3779B1)
  expected = (expected ^ (expected >> 16)) * np.uint32(0x85EBCA6B) ^ seed[1]
  expected = (expected ^ (expected >> 13)) * np.uint32(0xC2B2AE35)
  expected ^= expected >> 16
  found = run(tf.bitcast(fused_ops._hash(
      tf.constant(shape), tf.constant(seed)), tf.int32))
  np.testing.assert_array_equal(
      found.view(np.uint32), expected.reshape(shape))


def test_dropout_reads_no_table_of_indices():
  programs = []

  def compile_eagerly():
    x, column = tf.zeros([32, 48]), tf.zeros([48])
    programs.append(fused_ops._dropout_add_norm(
        RATE, EPSILON).experimental_get_compiler_ir(
            x, x, column, column, tf.zeros([2], tf.uint32))(
                stage="optimized_hlo"))

  # Only eager code may see a compiled program; a new thread has no default
  # graph, so it runs eagerly.
  thread = threading.Thread(target=compile_eagerly)
  thread.start()
  thread.join()
  program, = programs
  constants = re.findall(r"= \w+\[([\d,]*)\]\S* constant\(", program)
  assert constants and "32,48" in program
  for shape in constants:
    sizes = [int(size) for size in shape.split(",") if size]
    assert np.prod(sizes) <= 48, program


def test_padding_neither_attends_nor_is_attended_to(device):
  inputs = attention_inputs(tf.float32)
  mask = np.array(KEY_MASK, bool)[:, None, :, None]
  output = fused_attention(0.0)(*inputs)
  context, gradients = run([output, tf.gradients(
      output * normal([3, 2, 5, 4], 5), inputs)])
  for values in [context] + gradients:
    assert np.any(values * mask) and not np.any(values * ~mask)


def test_rounding_is_to_the_nearest_and_leaves_infinity_and_nan():
  values = np.concatenate([
      np.random.RandomState(1).normal(size=5000) * 10.0 ** np.arange(
          -20, 30).repeat(100),
      [0.0, -0.0, 1.00390625, 1.01171875, np.inf, -np.inf, np.nan]])
  values = tf.constant(values, tf.float32)
  ours = fused_ops._rounded(values, tf.bfloat16)
  ours, expected = run([tf.cast(ours, tf.float32), tf.cast(
      tf.cast(values, tf.bfloat16), tf.float32)])
  np.testing.assert_array_equal(ours, expected)


# Loss.


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_sparse_cross_entropy_equals_tensorflows(scale):
  """Also where most probabilities are 0, and the label's may be one of them."""
  logits = scale * normal([6, 50], 1)
  likeliest = tf.argmax(logits, 1, output_type=tf.int32)
  for labels in (tf.constant([0, 3, 3, 49, 7, 20], tf.int64), likeliest):
    results = run([
        with_gradients(
            lambda logits, function=function, labels=labels: function(
                labels=labels, logits=logits), [logits])
        for function in (tf.nn.sparse_softmax_cross_entropy_with_logits,
                         fused_ops.sparse_softmax_cross_entropy)])
    for expected, actual in zip(*results):
      np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_sparse_cross_entropy_of_one_choice_or_of_no_row():
  labels = tf.placeholder_with_default(tf.zeros([2], tf.int32), [None])
  logits = tf.placeholder_with_default(tf.constant([[3.0], [-5.0]]), [None, 1])
  loss = fused_ops.sparse_softmax_cross_entropy(logits, labels)
  gradient, = tf.gradients(loss, logits)
  with tf.Session() as session:
    for value in session.run([loss, gradient]):
      np.testing.assert_array_equal(value.ravel(), [0.0, 0.0])
    values = session.run(
        [loss, gradient], {labels: np.zeros([0]), logits: np.zeros([0, 1])})
    assert [value.shape for value in values] == [(0,), (0, 1)]
