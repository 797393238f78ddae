"""Elementwise chains of a training step, each in one pass over memory.

Between two matrix products a Transformer does many cheap operations on large
arrays, and as separate kernels each of them reads and writes all of memory.
Here such a chain is one function with its own gradient, whose two directions
XLA compiles. The values are those of the plain operations to float32 rounding;
the plain forms are in `modeling.py`, and `fused_ops_test.py` compares them.

XLA compiles once for every shape, 50 to 200 ms here, so callers keep the
number of different shapes small.

Dropout needs no stored mask: whether an element is kept is a hash of its index
and of two numbers drawn for each step, which the backward pass computes again.

The loss over a vocabulary is here, too, made of TensorFlow's own kernels.

Arrays may be float32, bfloat16 or float16; arithmetic is float32.
"""

import contextlib
import functools
import math

import tensorflow.compat.v1 as tf

import compiled_functions
import onednn_ops

# Added to the attention scores of masked positions, before the softmax.
MASKED_SCORE = -10000.0


def affine(matrix, kernel, bias):
  """matrix * kernel + bias, with TensorFlow's own gradient.

  Args:
    matrix: float [M, D].
    kernel: float32 [D, units].
    bias: float32 [units].

  Returns:
    float [M, units], of the matrix's type.
  """
  return tf.nn.bias_add(tf.matmul(matrix, tf.cast(kernel, matrix.dtype)),
                        tf.cast(bias, matrix.dtype))


def dense(matrix, kernel, bias):
  """`affine`, with a faster gradient of the bias."""

  @tf.custom_gradient
  def compute(matrix, kernel, bias):
    kernel = tf.cast(kernel, matrix.dtype)

    def gradients(gradient):
      return (tf.matmul(gradient, kernel, transpose_b=True),
              _kernel_gradient(matrix, gradient), _column_sums(gradient))

    return affine(matrix, kernel, bias), gradients

  return compute(matrix, kernel, bias)


def gelu_dense(pre, kernel, bias):
  """`affine` of gelu(pre), with GELU's tanh approximation.

  In float32 only `pre`, float [M, D], waits for the backward pass, which
  computes its GELU again.
  """

  @tf.custom_gradient
  def compute(pre, kernel, bias):
    kernel = tf.cast(kernel, pre.dtype)
    wide = _gelu(pre)
    kept = wide if _is_kept(pre.dtype) else None

    def gradients(gradient):
      by_pre = _gelu_gradient(
          pre, tf.matmul(gradient, kernel, transpose_b=True))
      wide = kept
      if wide is None:
        with tf.control_dependencies([gradient]):  # Not before it is needed.
          wide = _gelu(pre)
      return by_pre, _kernel_gradient(wide, gradient), _column_sums(gradient)

    return affine(wide, kernel, bias), gradients

  return compute(pre, kernel, bias)


def dropout_add_norm(branch, residual, gamma, beta, rate, epsilon):
  """layer_norm(dropout(branch) + residual).

  Args:
    branch: float [M, D].
    residual: float [M, D].
    gamma: float32 [D], scale.
    beta: float32 [D], offset.
    rate: float, share of the branch's elements that dropout zeroes.
    epsilon: float, added to the variance.

  Returns:
    float [M, D].
  """

  @tf.custom_gradient
  def compute(branch, residual, gamma, beta):
    seed = draw_seed(rate)
    output, normal, scale = _dropout_add_norm(rate, epsilon)(
        branch, residual, gamma, beta, seed)

    def gradients(gradient):
      d_branch, d_sum, by_gamma = _dropout_add_norm_gradient(rate)(
          gradient, normal, scale, gamma, seed)
      return d_branch, d_sum, _summed(by_gamma), _column_sums(gradient)

    return output, gradients

  return compute(branch, residual, gamma, beta)


def norm_dropout(x, gamma, beta, rate, epsilon):
  """dropout(layer_norm(x)); arguments as in `dropout_add_norm`."""

  @tf.custom_gradient
  def compute(x, gamma, beta):
    seed = draw_seed(rate)
    output, normal, scale = _norm_dropout(rate, epsilon)(x, gamma, beta, seed)

    def gradients(gradient):
      d_x, by_gamma, by_beta = _norm_dropout_gradient(rate)(
          gradient, normal, scale, gamma, seed)
      return d_x, _summed(by_gamma), _summed(by_beta)

    return output, gradients

  return compute(x, gamma, beta)


def attention(query, key, value, query_mask, key_mask, rate):
  """dropout(softmax(query * key / sqrt(H))) * value, in each head.

  In float32 only the probabilities before dropout wait for the backward pass.

  Args:
    query: float [B, N, F, H].
    key: float [B, N, T, H].
    value: float [B, N, T, H].
    query_mask: int [B, F], 1 at real tokens and 0 at padding, whose
      result is 0, with gradient 0.
    key_mask: int [B, T], likewise; padding is not attended to.
    rate: float, share of the probabilities that dropout zeroes.

  Returns:
    float [B, N, F, H].
  """
  query_mask = tf.cast(query_mask, tf.float32)
  score_scale = _score_scale(query)

  @tf.custom_gradient
  def compute(query, key, value):
    seed = draw_seed(rate)
    if compiled_functions.has_gpu():
      probabilities, dropped = _softmax_dropout(score_scale, rate)(
          tf.matmul(query, key, transpose_b=True), key_mask, query_mask, seed)
    else:
      probabilities = attention_probabilities(query, key, key_mask)
      dropped = _mask_dropout(rate)(probabilities, query_mask, seed)
    kept = dropped if _is_kept(query.dtype) else None

    def gradients(gradient):
      by_scores = _softmax_dropout_gradient(score_scale, rate)(
          tf.matmul(gradient, value, transpose_b=True), probabilities,
          query_mask, seed)
      dropped = kept
      if dropped is None:
        with tf.control_dependencies([gradient]):
          dropped = _mask_dropout(rate)(probabilities, query_mask, seed)
      return (tf.matmul(by_scores, key),
              tf.matmul(by_scores, query, transpose_a=True),
              tf.matmul(dropped, gradient, transpose_a=True))

    return tf.matmul(dropped, value), gradients

  return compute(query, key, value)


def sparse_softmax_cross_entropy(logits, labels):
  """`tf.nn.sparse_softmax_cross_entropy_with_logits`, several times faster.

  On CPUs, that kernel takes the gradient's exponentials one at a time, which
  shows where there is a logit for each word. Softmax does it many at a time,
  and the rest is a few numbers a row.

  Args:
    logits: float32 [M, V].
    labels: int32 or int64 [M], from 0 to V - 1.

  Returns:
    float32 [M].
  """
  rows = tf.range(tf.size(labels, out_type=labels.dtype))
  indices = tf.stack([rows, labels], axis=1)  # [M, 2]

  @tf.custom_gradient
  def compute(logits):
    probabilities = tf.nn.softmax(logits)

    def gradients(gradient):
      return tf.tensor_scatter_sub(
          probabilities * gradient[:, tf.newaxis], indices, gradient)

    # The largest of them is at least 1 / V, the label's may well be 0.
    behind = tf.reduce_max(logits, 1) - tf.gather_nd(logits, indices)
    return behind - tf.math.log(tf.reduce_max(probabilities, 1)), gradients

  return compute(logits)


def attention_probabilities(query, key, key_mask):
  """softmax(query * key / sqrt(H)), in each head; no gradient.

  Args:
    query: float [B, N, F, H].
    key: float [B, N, T, H].
    key_mask: int [B, T], 1 at real tokens and 0 at padding, which gets none.

  Returns:
    float [B, N, F, T].
  """
  scale, dtype = _score_scale(query), query.dtype
  hidden = _key_scores(key_mask)
  if onednn_ops.are_available() and dtype in onednn_ops.DTYPES:
    return tf.nn.softmax(onednn_ops.scores(
        query, key, scale, tf.cast(hidden, dtype)))
  scores = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)
  return tf.cast(tf.nn.softmax(scores * scale + hidden), dtype)


def _key_scores(key_mask):
  """int [B, T] -> float32 [B, 1, 1, T], to be added to attention scores."""
  hidden = (1.0 - tf.cast(key_mask, tf.float32)) * MASKED_SCORE
  return hidden[:, tf.newaxis, tf.newaxis, :]  # [B, 1, 1, T]


def _score_scale(query):
  return 1.0 / math.sqrt(query.shape.as_list()[-1])


def _is_kept(dtype):
  """Whether to keep what the backward pass could compute again.

  With 16 bits it costs little memory, and all else is so fast that computing
  it again would show; so it would on a GPU. What is computed twice already is
  kept for a moment only.
  """
  return dtype.size < 4 or are_seeds_kept() or compiled_functions.has_gpu()


# Pieces. Each is traced once and compiled for each shape it meets.


@compiled_functions.compiled
def _gelu(pre):
  x = _float32(pre)
  return _rounded(0.5 * x * (1.0 + _gelu_tanh(x)), pre.dtype)


@compiled_functions.compiled
def _gelu_gradient(pre, gradient):
  x = _float32(pre)
  tanh = _gelu_tanh(x)
  slope = math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * 0.044715 * x * x)
  derivative = 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope
  return _rounded(_float32(gradient) * derivative, gradient.dtype)


def _gelu_tanh(x):
  return tf.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x))


@functools.lru_cache(maxsize=None)
def _dropout_add_norm(rate, epsilon):

  @compiled_functions.compiled
  def forward(branch, residual, gamma, beta, seed):
    total = _float32(residual) + _dropout(_float32(branch), rate, seed)
    normal, scale = _normalize(total, epsilon)
    return (_rounded(normal * gamma + beta, branch.dtype),
            _rounded(normal, branch.dtype), scale)

  return forward


@functools.lru_cache(maxsize=None)
def _dropout_add_norm_gradient(rate):

  @compiled_functions.compiled
  def backward(gradient, normal, scale, gamma, seed):
    d_total, by_gamma = _normalize_gradient(
        _float32(gradient), _float32(normal), scale, gamma)
    d_branch = _dropout(d_total, rate, seed)
    return (_rounded(d_branch, gradient.dtype),
            _rounded(d_total, gradient.dtype),
            _to_sum(by_gamma, gradient.dtype))

  return backward


@functools.lru_cache(maxsize=None)
def _norm_dropout(rate, epsilon):

  @compiled_functions.compiled
  def forward(x, gamma, beta, seed):
    normal, scale = _normalize(_float32(x), epsilon)
    output = _dropout(normal * gamma + beta, rate, seed)
    return _rounded(output, x.dtype), _rounded(normal, x.dtype), scale

  return forward


@functools.lru_cache(maxsize=None)
def _norm_dropout_gradient(rate):

  @compiled_functions.compiled
  def backward(gradient, normal, scale, gamma, seed):
    by_beta = _dropout(_float32(gradient), rate, seed)
    d_x, by_gamma = _normalize_gradient(
        by_beta, _float32(normal), scale, gamma)
    return (_rounded(d_x, gradient.dtype),
            _to_sum(by_gamma, gradient.dtype),
            _to_sum(by_beta, gradient.dtype))

  return backward


def _normalize(x, epsilon):
  """[M, D] -> it with mean 0 and variance 1, and 1 / deviation [M, 1]."""
  centered = x - tf.reduce_mean(x, -1, keepdims=True)
  variance = tf.reduce_mean(centered * centered, -1, keepdims=True)
  scale = tf.math.rsqrt(variance + epsilon)
  return centered * scale, scale


def _normalize_gradient(gradient, normal, scale, gamma):
  """Gradients of x, and of gamma before its sum over rows; both [M, D]."""
  by_gamma = gradient * normal
  by_normal = gradient * gamma
  projection = _row_means(by_normal * normal)
  mean = _row_means(by_normal)
  return scale * (by_normal - mean - normal * projection), by_gamma


def _row_means(matrix):
  """[M, D] -> [M, 1], adding halves of rows while those are long.

  XLA adds up a row one number after the other on a CPU, halves many at a time.
  """
  if compiled_functions.has_gpu():
    return tf.reduce_mean(matrix, -1, keepdims=True)
  depth = width = matrix.shape.as_list()[1]
  while width > 16 and width % 2 == 0:
    width //= 2
    matrix = matrix[:, :width] + matrix[:, width:]
  return tf.reduce_sum(matrix, -1, keepdims=True) * (1.0 / depth)


@functools.lru_cache(maxsize=None)
def _mask_dropout(rate):

  @compiled_functions.compiled
  def forward(probabilities, query_mask, seed):
    p = _masked(probabilities, query_mask)
    return _rounded(_dropout(p, rate, seed), probabilities.dtype)

  return forward


@functools.lru_cache(maxsize=None)
def _softmax_dropout(score_scale, rate):
  """Both the probabilities and what dropout and the queries' mask leave."""

  @compiled_functions.compiled
  def forward(scores, key_mask, query_mask, seed):
    p = tf.nn.softmax(_float32(scores) * score_scale + _key_scores(key_mask))
    dropped = _dropout(_masked(p, query_mask), rate, seed)
    return _rounded(p, scores.dtype), _rounded(dropped, scores.dtype)

  return forward


@functools.lru_cache(maxsize=None)
def _softmax_dropout_gradient(score_scale, rate):

  @compiled_functions.compiled
  def backward(gradient, probabilities, query_mask, seed):
    p = _masked(probabilities, query_mask)
    product = p * _dropout(_float32(gradient), rate, seed)
    total = tf.reduce_sum(product, -1, keepdims=True)
    return _rounded((product - p * total) * score_scale, gradient.dtype)

  return backward


def _masked(probabilities, query_mask):
  """[B, N, F, T], [B, F] -> float32 with zeros where the query is padding."""
  queries = query_mask[:, tf.newaxis, :, tf.newaxis]  # [B, 1, F, 1]
  return _float32(probabilities) * queries


# What pieces are made of.


def _float32(x):
  return tf.cast(x, tf.float32)


def _rounded(x, dtype):
  """float32 to another type, to nearest, ties to even."""
  if dtype != tf.bfloat16:
    return tf.cast(x, dtype)
  # XLA's own conversion minds NaN's payload, which takes half of the time that
  # a piece has. Adding just under half a unit, or half if the last bit that
  # stays is odd, and cutting off leaves NaN and infinity what they are.
  bits = tf.bitcast(x, tf.uint32)
  odd = tf.bitwise.bitwise_and(_shifted(bits, 16), tf.constant(1, tf.uint32))
  bits += odd + tf.constant(0x7FFF, tf.uint32)
  return tf.bitcast(tf.cast(_shifted(bits, 16), tf.uint16), tf.bfloat16)


def _shifted(bits, distance):
  return tf.bitwise.right_shift(bits, tf.constant(distance, tf.uint32))


# Stack of where dropout's seeds come from: an iterator of earlier ones, or None
# and a list to add new ones to.
_seed_sources = []


@contextlib.contextmanager
def kept_seeds(seeds, are_used_again=False):
  """Makes dropout built inside add its seeds to a list, or take them from it.

  Args:
    seeds: list; empty at first.
    are_used_again: bool, take what is there, in the same order: the same
      operations, built again, drop the same elements.
  """
  _seed_sources.append((iter(seeds) if are_used_again else None, seeds))
  try:
    yield
  finally:
    _seed_sources.pop()


def are_seeds_kept():
  """Whether the code runs inside `kept_seeds`."""
  return bool(_seed_sources)


def draw_seed(rate):
  """uint32 [2], new in each step; repeatable by `tf.set_random_seed`.

  Inside `kept_seeds` it may be an earlier one. For a rate of 0 it is 0.
  """
  if not rate:
    return tf.zeros([2], tf.uint32)
  earlier, seeds = _seed_sources[-1] if _seed_sources else (None, [])
  if earlier is not None:
    return next(earlier)
  seeds.append(_new_seeds([2]))
  return seeds[-1]


def draw_seeds(rates):
  """Seeds for `draw_seed` of each rate that is not 0, by one operation.

  Args:
    rates: list of float.

  Returns:
    uint32 [draws, 2], whose rows are to be given to `kept_seeds`.
  """
  return _new_seeds([sum(1 for rate in rates if rate), 2])


def _new_seeds(shape):
  return tf.bitcast(tf.random.uniform(
      shape, tf.int32.min, tf.int32.max, tf.int32), tf.uint32)


def _dropout(x, rate, seed):
  """`x` with a share `rate` of its elements zeroed, the rest scaled up."""
  if not rate:
    return x
  threshold = tf.constant(round(rate * (1 << 32)), tf.uint32)
  kept = _hash(tf.shape(x), seed) >= threshold
  return tf.where(kept, x * (1.0 / (1.0 - rate)), tf.zeros_like(x))


def _hash(shape, seed):
  """uint32 of a shape, as good as independent and uniform.

  The index times an odd constant, mixed with the seed by the finalizer of
  MurmurHash3 (public domain).
  """
  # The seed is added to numbers of rows, of which there are few: what depends
  # on the shape alone would become a table of all the indices.
  rows, width = tf.reduce_prod(shape[:-1]), shape[-1]
  start = tf.reshape(tf.cast(tf.range(rows) * width, tf.uint32) + seed[0],
                     tf.concat([shape[:-1], [1]], 0))  # [..., 1]
  bits = start + tf.cast(tf.range(width), tf.uint32)
  bits *= tf.constant(0x9E3779B1, tf.uint32)
  bits = tf.bitwise.bitwise_xor(bits, _shifted(bits, 16))
  bits *= tf.constant(0x85EBCA6B, tf.uint32)
  bits = tf.bitwise.bitwise_xor(bits, seed[1])
  bits = tf.bitwise.bitwise_xor(bits, _shifted(bits, 13))
  bits *= tf.constant(0xC2B2AE35, tf.uint32)
  return tf.bitwise.bitwise_xor(bits, _shifted(bits, 16))


def _kernel_gradient(matrix, gradient):
  """[M, D] and [M, units] -> float32 [D, units]."""
  return tf.cast(tf.matmul(matrix, gradient, transpose_a=True), tf.float32)


def _column_sums(matrix):
  """[M, D] -> float32 [D]."""
  if compiled_functions.has_gpu():
    return tf.reduce_sum(_float32(matrix), 0)
  # As a product, the fastest way to sum rows on a CPU.
  ones = tf.ones([1, tf.shape(matrix)[0]], matrix.dtype)
  return tf.cast(tf.matmul(ones, matrix)[0], tf.float32)


# For a GPU a piece returns sums of columns, else matrices for `_column_sums`.


def _to_sum(matrix, dtype):
  """What a piece returns of a float32 [M, D] whose columns are to be summed."""
  if compiled_functions.has_gpu():
    return tf.reduce_sum(matrix, 0)
  return _rounded(matrix, dtype)


def _summed(returned):
  """What a piece returned by `_to_sum` -> float32 [D]."""
  return returned if returned.shape.ndims == 1 else _column_sums(returned)
