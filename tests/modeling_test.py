"""Tests of modeling.py: `pytest tests/modeling_test.py`."""

import json
import math
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import modeling
import optimization

CONFIG = {
    "vocab_size": 11, "hidden_size": 6, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 8, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 9, "type_vocab_size": 3,
    "initializer_range": 0.5}
INPUT_IDS = [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0], [8, 9, 10, 0, 0]]
INPUT_MASK = [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
TOKEN_TYPE_IDS = [[0, 0, 0, 1, 1], [0, 1, 0, 0, 0], [0, 1, 2, 0, 0]]

pytestmark = pytest.mark.usefixtures("seeded_graph")


@pytest.fixture
def fused(request, monkeypatch):
  """Whether training uses `fused_ops`, a parameter of the test.

  "in groups": with attention in groups of one sequence each; "on a GPU": as on
  a GPU.
  """
  form = request.param
  monkeypatch.setattr(modeling, "MIN_FUSED_WIDTH", 1 if form else 1 << 30)
  if form == "in groups":
    monkeypatch.setattr(modeling, "_GROUP_SCORES", 1)
  if form == "on a GPU":
    request.getfixturevalue("as_on_gpu")
  return bool(form)


def create_config(**changes):
  return modeling.BertConfig(**dict(CONFIG, **changes))


def create_model(config=None, is_training=False, input_ids=INPUT_IDS,
                 input_mask=INPUT_MASK, token_type_ids=TOKEN_TYPE_IDS,
                 **kwargs):
  return modeling.BertModel(
      config or create_config(), is_training,
      tf.convert_to_tensor(input_ids, tf.int32),
      None if input_mask is None else tf.constant(input_mask),
      None if token_type_ids is None else tf.constant(token_type_ids),
      **kwargs)


def evaluate(tensors, seed=0, feed=None):
  """Returns the tensors' values for random values of all variables."""
  random = np.random.RandomState(seed)
  initializers = [variable.initializer for variable in tf.global_variables()]
  with tf.Session() as session:
    session.run(initializers, {
        initializer.inputs[1]: random.normal(
            0, 0.5, initializer.inputs[1].shape.as_list())
        for initializer in initializers})
    return session.run(tensors, feed)


# Variables.


def test_variables_are_those_of_the_original_in_its_order():
  create_model(create_config(num_hidden_layers=1))
  assert [(v.op.name, v.shape.as_list()) for v in tf.global_variables()] == [
      ("bert/embeddings/word_embeddings", [11, 6]),
      ("bert/embeddings/token_type_embeddings", [3, 6]),
      ("bert/embeddings/position_embeddings", [9, 6]),
      ("bert/embeddings/LayerNorm/beta", [6]),
      ("bert/embeddings/LayerNorm/gamma", [6]),
      ("bert/encoder/layer_0/attention/self/query/kernel", [6, 6]),
      ("bert/encoder/layer_0/attention/self/query/bias", [6]),
      ("bert/encoder/layer_0/attention/self/key/kernel", [6, 6]),
      ("bert/encoder/layer_0/attention/self/key/bias", [6]),
      ("bert/encoder/layer_0/attention/self/value/kernel", [6, 6]),
      ("bert/encoder/layer_0/attention/self/value/bias", [6]),
      ("bert/encoder/layer_0/attention/output/dense/kernel", [6, 6]),
      ("bert/encoder/layer_0/attention/output/dense/bias", [6]),
      ("bert/encoder/layer_0/attention/output/LayerNorm/beta", [6]),
      ("bert/encoder/layer_0/attention/output/LayerNorm/gamma", [6]),
      ("bert/encoder/layer_0/intermediate/dense/kernel", [6, 8]),
      ("bert/encoder/layer_0/intermediate/dense/bias", [8]),
      ("bert/encoder/layer_0/output/dense/kernel", [8, 6]),
      ("bert/encoder/layer_0/output/dense/bias", [6]),
      ("bert/encoder/layer_0/output/LayerNorm/beta", [6]),
      ("bert/encoder/layer_0/output/LayerNorm/gamma", [6]),
      ("bert/pooler/dense/kernel", [6, 6]),
      ("bert/pooler/dense/bias", [6]),
  ]
  assert tf.trainable_variables() == tf.global_variables()


@pytest.mark.parametrize("real_tokens_only", [False, True])
@pytest.mark.parametrize("one_hot", [False, True])
def test_every_form_of_the_model_has_the_same_variables(
    real_tokens_only, one_hot):
  create_model(scope="a")
  names = [v.op.name[2:] for v in tf.global_variables()]
  create_model(scope="b", use_one_hot_embeddings=one_hot,
               real_tokens_only=real_tokens_only)
  assert [v.op.name[2:] for v in tf.global_variables("b/")] == names


def test_initial_weights_are_normal_within_two_deviations():
  create_model(create_config(vocab_size=400, initializer_range=0.02))
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    values = {v.op.name: session.run(v) for v in tf.global_variables()}
  words = values["bert/embeddings/word_embeddings"]
  assert 0.016 < np.std(words) < 0.019  # The cut takes 12% of 0.02 off.
  assert 0.035 < np.max(np.abs(words)) <= 0.04
  for name, value in values.items():
    if name.endswith(("bias", "beta")):
      assert not np.any(value), name
    elif name.endswith("gamma"):
      assert np.all(value == 1), name
    else:
      assert np.std(value) > 0.01 and np.max(np.abs(value)) <= 0.04, name


def test_all_variables_but_the_pooler_get_a_gradient_from_any_layer():
  model = create_model()
  loss = tf.reduce_sum(model.get_sequence_output())
  without = [variable.op.name for variable, gradient in zip(
      tf.trainable_variables(),
      tf.gradients(loss, tf.trainable_variables())) if gradient is None]
  assert without == ["bert/pooler/dense/kernel", "bert/pooler/dense/bias"]


def test_embedding_table_is_the_variable_to_tie_an_output_layer_to():
  assert create_model().get_embedding_table() is tf.global_variables()[0]


# Numbers, against NumPy.


def layer_norm(x, beta=0.0, gamma=1.0):
  centered = x - x.mean(-1, keepdims=True)
  return gamma * centered / np.sqrt(
      np.square(centered).mean(-1, keepdims=True) + 1e-12) + beta


def softmax(x):
  exponentials = np.exp(x - x.max(-1, keepdims=True))
  return exponentials / exponentials.sum(-1, keepdims=True)


def gelu(x):
  return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attention(x, y, mask, weights, num_heads):
  """Attention of one sequence, head by head."""
  query, key, value = [
      z @ weights[name + "/kernel"] + weights[name + "/bias"]
      for name, z in (("query", x), ("key", y), ("value", y))]
  size = query.shape[-1] // num_heads
  heads = []
  for start in range(0, query.shape[-1], size):
    head = slice(start, start + size)
    scores = query[:, head] @ key[:, head].T / math.sqrt(size)
    heads.append(softmax(scores - 10000.0 * (1 - mask)) @ value[:, head])
  return np.concatenate(heads, -1)


class Weights:
  """Weights by name; `under` enters a scope."""

  def __init__(self, values, scope=""):
    self.values, self.scope = values, scope

  def under(self, scope):
    return Weights(self.values, self.scope + scope + "/")

  def __getitem__(self, name):
    return self.values[self.scope + name]

  def dense(self, x, scope="dense"):
    return x @ self[scope + "/kernel"] + self[scope + "/bias"]

  def norm(self, x):
    return layer_norm(x, self["LayerNorm/beta"], self["LayerNorm/gamma"])


def bert(weights, ids, mask, types, num_heads):
  """Returns the layers of one sequence, embeddings first, and the pooled."""
  scope = weights.under("bert/embeddings")
  x = scope.norm(
      scope["word_embeddings"][ids] + scope["token_type_embeddings"][types]
      + scope["position_embeddings"][:len(ids)])
  layers = [x]
  for index in range(CONFIG["num_hidden_layers"]):
    scope = weights.under("bert/encoder/layer_%d" % index)
    context = attention(x, x, mask, scope.under("attention/self"), num_heads)
    output = scope.under("attention/output")
    x = output.norm(output.dense(context) + x)
    wide = gelu(scope.under("intermediate").dense(x))
    output = scope.under("output")
    x = output.norm(output.dense(wide) + x)
    layers.append(x)
  pooled = np.tanh(weights.under("bert/pooler").dense(x[0]))
  return np.array(layers), pooled


@pytest.mark.parametrize("real_tokens_only", [False, True])
@pytest.mark.parametrize("one_hot", [False, True])
def test_outputs_equal_those_of_numpy(real_tokens_only, one_hot):
  model = create_model(use_one_hot_embeddings=one_hot,
                       real_tokens_only=real_tokens_only)
  layers, pooled, values = evaluate([
      [model.get_embedding_output()] + model.get_all_encoder_layers(),
      model.get_pooled_output(),
      {v.op.name: v for v in tf.global_variables()}])
  assert layers[0].shape == (3, 5, 6) and pooled.shape == (3, 6)
  weights = Weights({name: v.astype(np.float64) for name, v in values.items()})
  for index, mask in enumerate(np.array(INPUT_MASK)):
    expected, expected_pooled = bert(
        weights, np.array(INPUT_IDS)[index], mask,
        np.array(TOKEN_TYPE_IDS)[index], CONFIG["num_attention_heads"])
    if real_tokens_only:
      expected *= mask[:, None]
    actual = np.array([layer[index] for layer in layers])
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)
    np.testing.assert_allclose(
        pooled[index], expected_pooled, rtol=0, atol=2e-5)


def test_attention_of_one_tensor_to_another_equals_that_of_numpy():
  random = np.random.RandomState(2)
  x, y = random.normal(size=[2, 3, 5]), random.normal(size=[2, 4, 7])
  mask = np.array([[1, 1, 0, 1], [1, 0, 0, 0]])
  output = modeling.attention_layer(
      tf.constant(x, tf.float32), tf.constant(y, tf.float32),
      modeling.create_attention_mask_from_input_mask(
          tf.constant(x, tf.float32), tf.constant(mask)),
      num_attention_heads=2, size_per_head=4)
  with tf.variable_scope("", reuse=True):
    matrix = modeling.attention_layer(
        tf.constant(x.reshape([6, 5]), tf.float32),
        tf.constant(y.reshape([8, 7]), tf.float32),
        tf.broadcast_to(tf.constant(mask)[:, None, :], [2, 3, 4]),
        num_attention_heads=2, size_per_head=4, do_return_2d_tensor=True,
        batch_size=2, from_seq_length=3, to_seq_length=4)
  output, matrix, values = evaluate([
      output, matrix, {v.op.name: v for v in tf.global_variables()}])
  expected = np.array([
      attention(x[i], y[i], mask[i], Weights(values), 2) for i in range(2)])
  np.testing.assert_allclose(output, expected, rtol=0, atol=2e-5)
  np.testing.assert_allclose(
      matrix, expected.reshape([6, 8]), rtol=0, atol=2e-5)


def test_layer_norm_equals_that_of_numpy_even_for_tiny_differences():
  # With an epsilon of 1e-3 the second row would be nearly zero.
  x = np.array([[1.0, 2.0, 6.0], [1e-4, 2e-4, 6e-4]], np.float32)
  output = modeling.layer_norm(tf.constant(x))
  assert [v.op.name for v in tf.global_variables()] == [
      "LayerNorm/beta", "LayerNorm/gamma"]
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    output = session.run(output)
  np.testing.assert_allclose(output, layer_norm(x), rtol=0, atol=2e-5)
  np.testing.assert_allclose(
      output[0], [-0.9258201, -0.46291, 1.3887301], atol=1e-5)
  assert np.max(np.abs(output[1])) > 1


def test_gelu_is_the_tanh_approximation_and_its_gradient_is_right():
  x = np.array([-30.0, -3.0, -1.0, -0.1, 0.0, 0.5, 2.0, 30.0], np.float32)
  tensor = tf.constant(x)
  output = modeling.gelu(tensor)
  gradient, = tf.gradients(output, tensor)
  with tf.Session() as session:
    output, gradient = session.run([output, gradient])
  x = x.astype(np.float64)
  np.testing.assert_allclose(output, gelu(x), rtol=0, atol=1e-6)
  np.testing.assert_allclose(
      output[1:4], [-0.0036373, -0.1588080, -0.0460172], atol=1e-6)
  np.testing.assert_allclose(
      gradient, (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5, rtol=0, atol=1e-5)


def test_gelu_exact_uses_the_error_function():
  x = np.array([-3.0, -1.0, 0.0, 0.5, 2.0], np.float32)
  with tf.Session() as session:
    output = session.run(modeling.gelu_exact(tf.constant(x)))
  expected = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]
  np.testing.assert_allclose(output, expected, rtol=0, atol=1e-6)
  assert modeling.get_activation("gelu_exact") is modeling.gelu_exact
  assert abs(output[0] - gelu(-3.0)) > 1e-4


def test_dropout_scales_what_it_keeps():
  with tf.Session() as session:
    kept = session.run(modeling.dropout(tf.ones([200, 100]), 0.2))
  np.testing.assert_allclose(np.unique(kept), [0.0, 1.25])
  assert abs(np.mean(kept == 0) - 0.2) < 0.02


@pytest.mark.parametrize("probability", [0.0, None])
def test_no_dropout_returns_the_tensor_itself(probability):
  tensor = tf.ones([2])
  assert modeling.dropout(tensor, probability) is tensor


@pytest.mark.parametrize("real_tokens_only", [False, True])
def test_dropout_acts_in_training_only(real_tokens_only):
  config = create_config()
  for is_training, same in ((False, True), (True, False)):
    with tf.Graph().as_default(), tf.Session() as session:
      output = create_model(
          config, is_training,
          real_tokens_only=real_tokens_only).get_sequence_output()
      session.run(tf.global_variables_initializer())
      first, second = session.run(output), session.run(output)
    assert np.array_equal(first, second) == same
  assert config.to_dict() == CONFIG


def seeds_of_dropout():
  """What all seeds of the graph are drawn by, with values to feed instead."""
  random = np.random.RandomState(9)
  drawn = [op.outputs[0] for op in tf.get_default_graph().get_operations()
           if op.type == "RandomUniformInt"]
  return {tensor: random.randint(-2 ** 31, 2 ** 31 - 1, tensor.shape.as_list())
          for tensor in drawn}


@pytest.mark.parametrize("fused", [True, "on a GPU"], indirect=True)
@pytest.mark.parametrize("real", [False, True])
def test_gradients_with_dropout_are_those_of_the_very_elements_kept(
    fused, real):
  """By a finite difference, the seeds being the same in each run."""
  model = create_model(
      create_config(num_hidden_layers=3), fused, real_tokens_only=real)
  # Not the pooled output: its attention has TensorFlow's own dropout.
  loss = tf.reduce_sum(tf.square(model.get_sequence_output()))
  variables = [v for v in tf.trainable_variables() if "pooler" not in v.name]
  gradients = [tf.convert_to_tensor(gradient)
               for gradient in tf.gradients(loss, variables)]
  seeds, random = seeds_of_dropout(), np.random.RandomState(2)
  directions = [random.normal(size=v.shape.as_list()) for v in variables]
  weights = [random.normal(0, 0.5, v.shape.as_list()) for v in variables]
  moved = [tf.placeholder(tf.float32, v.shape) for v in variables]
  moves = [v.assign(value) for v, value in zip(variables, moved)]
  start = tf.global_variables_initializer()

  with tf.Session() as session:
    session.run(start)

    def at(distance, fetched):
      session.run(moves, {
          place: weight + distance * direction for place, weight, direction
          in zip(moved, weights, directions)})
      return session.run(fetched, seeds)

    found = sum(np.sum(gradient * direction) for gradient, direction
                in zip(at(0.0, gradients), directions))
    step = 1e-3
    expected = (at(step, loss) - at(-step, loss)) / (2 * step)
  assert len(seeds) > 2 and abs(expected) > 1.0
  np.testing.assert_allclose(found, expected, rtol=5e-3)


@pytest.mark.usefixtures("as_on_gpu")
def test_layers_on_a_gpu_drop_other_elements_and_are_compiled_as_one_function(
    monkeypatch):
  monkeypatch.setattr(modeling, "MIN_FUSED_WIDTH", 1)
  names = []
  for is_training in (False, True):
    with tf.Graph().as_default() as graph:
      model = create_model(create_config(num_hidden_layers=4), is_training)
      names.append([v.name for v in tf.trainable_variables()])
      tf.gradients(model.get_sequence_output(), tf.trainable_variables())
      calls = [op for op in graph.get_operations()
               if op.type == "PartitionedCall" and "layer_" in op.name]
      functions = {}
      for call in calls:
        functions.setdefault(call.get_attr("f").name, []).append(call.name)
      seeds = [op for op in graph.get_operations()
               if op.type == "RandomUniformInt"]
  assert names[0] == names[1]
  # One in each direction, four layers each.
  assert [len(group) for group in functions.values()] == [4, 4]
  assert all(call.get_attr("_XlaMustCompile") for call in calls)
  # Three numbers of two words for each layer; one for the embeddings.
  assert [op.outputs[0].shape.as_list() for op in seeds] == [
      [2]] + 4 * [[3, 2]]


# Padding.


def test_missing_mask_and_types_are_ones_and_zeros():
  with tf.variable_scope("", reuse=tf.AUTO_REUSE):
    given = create_model(input_mask=np.ones([3, 5], np.int32).tolist(),
                         token_type_ids=np.zeros([3, 5], np.int32).tolist(),
                         scope="bert")
    left_out = create_model(input_mask=None, token_type_ids=None, scope="bert")
  expected, actual = evaluate(
      [given.get_sequence_output(), left_out.get_sequence_output()])
  np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("real_tokens_only", [False, True])
def test_padding_does_not_change_real_positions(real_tokens_only):
  with tf.variable_scope("", reuse=tf.AUTO_REUSE):
    short = create_model(
        input_ids=[[6, 7]], input_mask=[[1, 1]], token_type_ids=[[0, 1]],
        scope="bert", real_tokens_only=real_tokens_only)
    ids = tf.placeholder_with_default(tf.constant(INPUT_IDS), [3, 5])
    padded = create_model(
        input_ids=ids, scope="bert", real_tokens_only=real_tokens_only)
  short, padded = [(model.get_sequence_output(), model.get_pooled_output())
                   for model in (short, padded)]
  # Other words behind the mask.
  filled = evaluate(padded, feed={
      ids: [[1, 2, 3, 4, 5], [6, 7, 1, 2, 3], [8, 9, 10, 4, 5]]})
  short, padded = evaluate([short, padded])
  np.testing.assert_allclose(padded[0][1, :2], short[0][0], atol=2e-6)
  np.testing.assert_allclose(padded[1][1], short[1][0], atol=2e-6)
  mask = np.array(INPUT_MASK, bool)
  np.testing.assert_array_equal(filled[0][mask], padded[0][mask])
  np.testing.assert_array_equal(filled[1], padded[1])


def build_both_forms(mask, one_hot=False, **kwargs):
  """Returns the padded and the other form of the model, and their mask."""
  with tf.variable_scope("", reuse=tf.AUTO_REUSE):
    models = [
        create_model(input_mask=mask, scope="bert", real_tokens_only=value,
                     use_one_hot_embeddings=one_hot, **kwargs)
        for value in (False, True)]
  return models + [np.array(mask)[:, :, None]]


MASKS = {
    "prefix": INPUT_MASK,
    "longest is shorter than the batch": [
        [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]],
    "holes": [[1, 0, 1, 0, 1], [1, 1, 0, 1, 0], [1, 0, 0, 0, 0]],
    "no padding": [[1] * 5] * 3,
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("one_hot", [False, True])
def test_computing_real_tokens_only_changes_nothing_but_padding(mask, one_hot):
  padded, real, mask = build_both_forms(mask, one_hot)
  expected, actual = evaluate([
      {"embeddings": model.get_embedding_output(),
       "layers": tf.stack(model.get_all_encoder_layers()),
       "sequence": model.get_sequence_output(),
       "pooled": model.get_pooled_output()} for model in (padded, real)])
  np.testing.assert_allclose(actual.pop("pooled"), expected.pop("pooled"),
                             rtol=0, atol=2e-6)
  for name, value in actual.items():
    np.testing.assert_allclose(
        value, expected[name] * mask, rtol=0, atol=2e-6, err_msg=name)
    assert not np.any(value * (1 - mask)), name


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize(
    "fused", [False, True, "in groups", "on a GPU"], indirect=True)
def test_gradients_of_real_tokens_are_the_same_in_both_forms(
    mask, one_hot, fused):
  padded, real, mask = build_both_forms(
      mask, one_hot, is_training=fused, config=create_config(
          hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
  direction = np.random.RandomState(5).normal(size=[3, 5, 6]) * mask
  gradients = []
  for model in (padded, real):
    loss = tf.reduce_sum(
        model.get_sequence_output() * tf.constant(direction, tf.float32))
    loss += tf.reduce_sum(tf.square(model.get_pooled_output()))
    gradients.append([
        tf.convert_to_tensor(gradient)
        for gradient in tf.gradients(loss, tf.trainable_variables())])
  expected, actual = evaluate(gradients)
  for variable, left, right in zip(
      tf.trainable_variables(), expected, actual):
    np.testing.assert_allclose(
        right, left, rtol=0, atol=2e-5, err_msg=variable.op.name)
  assert np.max(np.abs(expected[0])) > 0.05


def test_probabilities_are_dropped_alike_in_both_forms(monkeypatch):

  def drop_every_third(probabilities, dropout_prob):
    if not dropout_prob:
      return probabilities
    kept = tf.range(tf.shape(probabilities)[-1]) % 3 != 1
    return probabilities * 1.5 * tf.cast(kept, tf.float32)

  monkeypatch.setattr(modeling, "dropout", drop_every_third)
  padded, real, mask = build_both_forms(
      MASKS["holes"], is_training=True,
      config=create_config(hidden_dropout_prob=0.0))
  (padded, padded_pooled), (real, real_pooled) = evaluate([
      (model.get_sequence_output(), model.get_pooled_output())
      for model in (padded, real)])
  np.testing.assert_allclose(real, padded * mask, rtol=0, atol=2e-6)
  np.testing.assert_allclose(real_pooled, padded_pooled, rtol=0, atol=2e-6)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("real,fused", [
    (False, False), (True, False), (True, True), (True, "in groups"),
    (True, "on a GPU")], indirect=["fused"])
def test_the_last_layer_at_some_positions(mask, real, fused):
  model = create_model(
      create_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
      is_training=True, input_mask=mask, scope="bert",
      real_tokens_only=real)
  positions = np.array([[1, 4, 0, 2], [3, 0, 0, 0], [0, 2, 1, 0]])
  is_needed = np.array([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 0, 0]])
  sequences = np.arange(3)[:, None]
  is_needed_there = is_needed * np.array(mask)[sequences, positions]
  whole = model.get_sequence_output()
  chosen = model.get_sequence_output_at(
      tf.constant(positions), tf.constant(is_needed, tf.float32))
  direction = np.random.RandomState(5).normal(size=[3, 4, 6])
  direction *= is_needed_there[:, :, None]
  losses = [
      tf.reduce_sum(output * tf.constant(direction, tf.float32)) for output in
      (tf.gather(whole, tf.constant(positions), batch_dims=1), chosen)]
  gradients = [[
      tf.convert_to_tensor(gradient) for gradient in
      tf.gradients(loss, tf.trainable_variables()) if gradient is not None]
               for loss in losses]
  whole, chosen, (expected, actual) = evaluate([whole, chosen, gradients])
  wanted = whole[sequences, positions]
  if real:
    wanted *= is_needed_there[:, :, None]
  np.testing.assert_allclose(chosen, wanted, rtol=0, atol=2e-6)
  assert np.abs(chosen).max() > 0.1
  assert len(actual) == len(expected) > 30
  for left, right in zip(expected, actual):
    np.testing.assert_allclose(right, left, rtol=0, atol=2e-5)


def test_all_positions_are_needed_if_nothing_else_is_said():
  model = create_model(real_tokens_only=True)
  positions = tf.constant([[1, 4], [0, 1], [2, 0]])
  whole, chosen = evaluate([
      model.get_sequence_output(), model.get_sequence_output_at(positions)])
  np.testing.assert_allclose(
      chosen, whole[[[0, 0], [1, 1], [2, 2]], [[1, 4], [0, 1], [2, 0]]],
      rtol=0, atol=2e-6)


@pytest.mark.parametrize("checkpointing", [0, 1, 2, 3])
def test_the_rest_of_the_last_layer_is_left_out(ancestors, checkpointing):
  """Nor do the gradients need it, where layers are computed again."""
  config = create_config(num_hidden_layers=4)
  model = create_model(config, is_training=True, real_tokens_only=True,
                       gradient_checkpointing=checkpointing)
  some = tf.reduce_sum(model.get_sequence_output_at(tf.constant([[0, 1]] * 3)))
  outputs = [some, tf.reduce_sum(model.get_pooled_output())]
  whole = model.get_sequence_output()
  for output in outputs + [tf.reduce_sum(whole)]:
    gradient, = tf.gradients(output, model.get_embedding_table())
    needed = ancestors(output.op, tf.convert_to_tensor(gradient).op)
    assert (whole.op in needed) == (output not in outputs)
    # Dense layers of intermediate size, one in each layer of the encoder.
    wide = [op for op in needed if op.type == "MatMul"
            and op.outputs[0].shape.as_list()[1] == 8
            and "/intermediate/" in op.name and "gradients" not in op.name]
    assert len(wide) == 4


def batch_of_lengths(lengths, width=64):
  mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int32)
  ids = np.random.RandomState(3).randint(1, 11, mask.shape) * mask
  return {"input_ids": ids.tolist(), "input_mask": mask.tolist(),
          "token_type_ids": None, "scope": "bert", "real_tokens_only": True}


@pytest.mark.usefixtures("as_on_cpu")
def test_rows_of_padding_that_round_their_number_up_change_nothing(
    monkeypatch):
  monkeypatch.setattr(modeling, "_GROUP_SCORES", 6 * 64 * 64)
  lengths = np.random.RandomState(2).randint(5, 41, 24)
  config = create_config(hidden_dropout_prob=0.0, max_position_embeddings=64,
                         attention_probs_dropout_prob=0.0)
  found, rows = [], []
  with tf.variable_scope("", reuse=tf.AUTO_REUSE):
    for width in (1 << 30, 1):
      monkeypatch.setattr(modeling, "MIN_FUSED_WIDTH", width)
      model = create_model(config, True, **batch_of_lengths(lengths))
      loss = tf.reduce_sum(model.get_sequence_output()[:, :, 0] ** 3)
      loss += tf.reduce_sum(model.get_pooled_output())
      found.append([model.get_sequence_output(), model.get_pooled_output()] + [
          tf.convert_to_tensor(gradient) for gradient in
          tf.gradients(loss, tf.trainable_variables())])
      layout = modeling._RealTokens(
          tf.constant(batch_of_lengths(lengths)["input_mask"]), width == 1)
      rows.append([tf.size(layout.positions)] + layout.longest)
  (plain, fused), (exact, rounded) = evaluate([found, rows])
  for left, right in zip(fused, plain):
    np.testing.assert_allclose(
        left, right, rtol=0, atol=1e-5 * max(1.0, np.abs(right).max()))
  assert list(exact) == [lengths.sum(), lengths.max()]
  assert exact[0] < rounded[0] <= exact[0] * 17 / 16
  assert rounded[0] % 32 == 0 and exact[0] % 32
  assert list(rounded[1:]) == [16, 32, 32, 48]  # In four groups.


@pytest.mark.usefixtures("as_on_cpu")
@pytest.mark.parametrize("lengths, rows", [
    ([1], 1), ([64] * 3, 192), ([5, 4, 3], 12), ([33], 34), ([40, 23], 64),
    ([63, 60, 64, 64], 256), ([64, 1, 1, 64], 136), ([48] + [30] * 15, 512)])
def test_the_number_of_rows_takes_few_values(monkeypatch, lengths, rows):
  monkeypatch.setattr(modeling, "_GROUP_SCORES", 4 * 64 * 64)
  layout = modeling._RealTokens(
      tf.constant(batch_of_lengths(lengths)["input_mask"]), True)
  positions, flat, (in_groups, in_rows) = evaluate([
      layout.positions, layout.flat_indices, layout._indices(2)])
  assert len(positions) == len(set(flat)) == rows
  # Padding that is computed has a place in its group, too.
  assert len(set(in_rows.ravel())) == 2 * rows
  assert in_rows.max() < sum(indices.size for indices in in_groups)
  taken = set(flat)
  assert all(64 * row + column in taken for row, length in enumerate(lengths)
             for column in range(length))


@pytest.mark.usefixtures("as_on_gpu")
@pytest.mark.parametrize("lengths, rows, longest", [
    ([1], 1, 1), ([64] * 3, 192, 64), ([33], 40, 48), ([40, 23], 64, 48),
    ([60, 50, 40, 33, 30], 224, 64), ([64, 1, 1, 64], 160, 64)])
def test_on_a_gpu_rows_and_length_take_fewer_values(lengths, rows, longest):
  layout = modeling._RealTokens(
      tf.constant(batch_of_lengths(lengths)["input_mask"]), True)
  count, (mask,) = evaluate([
      tf.size(layout.positions), [group.key_mask for group in layout.groups]])
  assert (count, mask.shape) == (rows, (len(lengths), longest))


@pytest.mark.usefixtures("as_on_cpu")
@pytest.mark.parametrize("lengths, members, longest", [
    ([5, 60, 33, 20, 47, 3, 64, 18], [2] * 4, [16, 32, 48, 64]),
    ([5, 60, 33, 20, 47, 3, 64], [1, 2, 2, 2], [16, 32, 48, 64]),
    ([17, 64], [1, 1], [32, 64])])
def test_attention_takes_sequences_of_similar_length_together(
    monkeypatch, lengths, members, longest):
  monkeypatch.setattr(modeling, "_GROUP_SCORES", 64 * 64)
  monkeypatch.setattr(modeling, "_MAX_GROUPS", 4)
  mask = batch_of_lengths(lengths)["input_mask"]
  layout = modeling._RealTokens(tf.constant(mask), True)
  matrix = tf.random.normal([tf.size(layout.positions), 6])
  heads = layout.split_heads(matrix, 2)
  merged = layout.merge_heads(heads)
  # A result that weighs nothing where there is padding.
  weights = [tf.random.normal(tf.shape(value)) * tf.cast(
      group.key_mask, tf.float32)[:, None, :, None]
             for value, group in zip(heads, layout.groups)]
  by_matrix, = tf.gradients(heads, matrix, weights)
  by_heads = tf.gradients(merged, heads, matrix)
  masks = [group.key_mask for group in layout.groups]
  (masks, matrix, heads, merged, by_matrix, by_heads, weights,
   places) = evaluate([
       masks, matrix, heads, merged, by_matrix, by_heads,
       layout.merge_heads(weights), layout.flat_indices])
  assert [value.shape for value in masks] == list(zip(members, longest))
  assert sorted(np.concatenate([value.sum(1) for value in masks])) == sorted(
      lengths)
  np.testing.assert_array_equal(merged, matrix)
  np.testing.assert_array_equal(by_matrix, weights)
  rows = {place: row for place, row in zip(
      places, matrix.reshape([-1, 2, 3]))}  # Of each position, [N, H].
  order = np.argsort(lengths, kind="stable")
  sequences = iter(order)
  for value, by_value in zip(heads, by_heads):
    for head_rows, head_gradients in zip(value, by_value):
      sequence = next(sequences)
      for column in range(lengths[sequence]):
        expected = rows[64 * sequence + column]
        np.testing.assert_array_equal(head_rows[:, column], expected)
        np.testing.assert_array_equal(head_gradients[:, column], expected)


@pytest.mark.usefixtures("as_on_cpu")
@pytest.mark.parametrize("batch_size, length, groups", [
    (32, 128, 4), (33, 128, 5), (32, 64, 1), (12, 384, 8), (4, 384, 4),
    (1, 512, 1), (None, 128, 1), (32, None, 1)])
def test_groups_do_similar_amounts_of_work(batch_size, length, groups):
  mask = tf.placeholder(tf.int32, [batch_size, length])
  assert len(modeling._RealTokens(mask, True).groups) == groups
  assert len(modeling._RealTokens(mask, False).groups) == 1


@pytest.mark.parametrize(
    "fused", [False, "in groups", "on a GPU"], indirect=True)
def test_a_sequence_that_starts_with_padding_pools_nothing(fused):
  model = create_model(
      create_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
      is_training=fused,
      input_mask=[[0, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0] * 5], scope="bert",
      real_tokens_only=True)
  bias, = [v for v in tf.trainable_variables() if "pooler/dense/bias" in v.name]
  pooled, bias = evaluate([model.get_pooled_output(), bias])
  np.testing.assert_allclose(pooled[[0, 2]], np.tanh([bias, bias]), atol=1e-6)
  assert np.abs(pooled[1] - np.tanh(bias)).max() > 0.1


# Precision.


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("fused", [False, True, "on a GPU"], indirect=True)
def test_mixed_precision_only_rounds(dtype, real, fused):
  config = create_config(hidden_dropout_prob=0.0,
                         attention_probs_dropout_prob=0.0)
  found = []
  with tf.variable_scope("", reuse=tf.AUTO_REUSE):
    for compute_dtype in (tf.float32, dtype):
      model = create_model(config, True, scope="bert", real_tokens_only=real,
                           compute_dtype=compute_dtype)
      outputs = [model.get_sequence_output(), model.get_pooled_output(),
                 model.get_embedding_output()]
      outputs += model.get_all_encoder_layers()
      assert all(output.dtype == tf.float32 for output in outputs)
      gradients = tf.gradients(
          tf.reduce_sum(model.get_pooled_output()), tf.trainable_variables())
      found.append((outputs, [
          tf.convert_to_tensor(gradient) for gradient in gradients]))
  assert all(v.dtype.base_dtype == tf.float32 for v in tf.global_variables())
  exact, rounded = evaluate(found)
  unit = 2.0 ** -8 if dtype == tf.bfloat16 else 2.0 ** -11
  for left, right in zip(rounded[0], exact[0]):
    assert 0 < np.abs(left - right).max() < 30 * unit
  exact, rounded = [
      np.concatenate([gradient.ravel() for gradient in gradients])
      for _, gradients in (exact, rounded)]
  error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
  assert 0 < error < 30 * unit


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_dropout_of_low_precision_has_the_right_share(dtype):
  with tf.Session() as session:
    kept = session.run(tf.cast(
        modeling.dropout(tf.ones([400, 500], dtype), 0.1), tf.float32))
  assert abs(np.mean(kept == 0) - 0.1) < 0.003
  np.testing.assert_allclose(np.unique(kept), [0.0, 1 / 0.9], rtol=5e-3)


@pytest.mark.parametrize("num_real_sequences", [0, 1])
@pytest.mark.parametrize(
    "fused", [False, "in groups", "on a GPU"], indirect=True)
def test_sequences_without_tokens_give_finite_numbers(
    num_real_sequences, fused):
  mask = [[1, 1, 0, 0, 0]] * num_real_sequences
  mask += [[0] * 5] * (3 - num_real_sequences)
  padded, real, mask = build_both_forms(
      mask, is_training=fused, config=create_config(
          hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
  tensors = []
  for model in (padded, real):
    loss = tf.reduce_sum(model.get_pooled_output())
    tensors.append([
        model.get_sequence_output(), model.get_pooled_output(),
        [tf.convert_to_tensor(gradient) for gradient in
         tf.gradients(loss, tf.trainable_variables())]])
  padded, real = evaluate(tensors)
  for value in padded[2] + real[2] + [padded[0], padded[1], real[1]]:
    assert np.all(np.isfinite(value))
  np.testing.assert_allclose(
      real[0][:num_real_sequences], padded[0][:num_real_sequences] * mask[
          :num_real_sequences], rtol=0, atol=2e-6)
  assert not np.any(real[0][num_real_sequences:])


@pytest.mark.parametrize("real_tokens_only", [False, True])
def test_sizes_of_the_batch_may_be_unknown(real_tokens_only):
  ids, mask, types = [tf.placeholder(tf.int32, [None, None]) for _ in range(3)]
  model = modeling.BertModel(
      create_config(), False, ids, mask, types,
      real_tokens_only=real_tokens_only)
  outputs = [model.get_sequence_output(), model.get_pooled_output()]
  assert outputs[0].shape.as_list()[2] == 6
  assert outputs[1].shape.as_list()[1] == 6
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for rows, columns in ((3, 5), (1, 2)):
      feed_dict = {
          placeholder: np.array(values)[:rows, :columns]
          for placeholder, values in zip(
              (ids, mask, types), (INPUT_IDS, INPUT_MASK, TOKEN_TYPE_IDS))}
      sequence, pooled = session.run(outputs, feed_dict)
      assert sequence.shape == (rows, columns, 6)
      assert pooled.shape == (rows, 6)
    with pytest.raises(tf.errors.InvalidArgumentError,
                       match="longer than max_position_embeddings"):
      session.run(outputs, {
          ids: [[1] * 10], mask: [[1] * 10], types: [[0] * 10]})


# XLA.


def xla_outputs(build):
  outputs = tf.xla.experimental.compile(build)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    return [session.run(outputs) for _ in range(3)]


def test_prediction_graph_compiles_with_xla():
  def predict():
    model = create_model(use_one_hot_embeddings=True)
    return model.get_sequence_output(), model.get_pooled_output()

  (sequence, pooled), _, _ = xla_outputs(predict)
  assert sequence.shape == (3, 5, 6) and pooled.shape == (3, 6)
  assert np.all(np.isfinite(sequence))


def test_training_graph_compiles_with_xla():
  def train():
    model = create_model(is_training=True, use_one_hot_embeddings=True)
    loss = tf.reduce_sum(tf.square(model.get_pooled_output() - 0.5))
    step = optimization.create_optimizer(loss, 0.1, 100, 0, False)
    with tf.control_dependencies([step]):
      return tf.identity(loss)

  losses = [loss for loss, in xla_outputs(train)]
  assert np.all(np.isfinite(losses)) and len(set(losses)) == 3


# Optimizer slots, and freezing lower layers.


def test_slots_are_found_by_the_variable_they_belong_to():
  model = ["output_bias", "bert/encoder/layer_1/kernel", "global_step"]
  slots = {"output_bias/adam_m": model[0], model[1] + "/lamb_v": model[1],
           model[1] + "/adafactor_row": model[1], "output_bias/x/y": model[0]}
  assert modeling.find_slots(model + list(slots)) == slots
  assert modeling.find_slots(model) == {}


def test_lower_scopes_are_the_embeddings_and_the_first_layers():
  assert modeling.lower_scopes(-1) == []
  assert modeling.lower_scopes(0) == ["bert/embeddings/"]
  assert modeling.lower_scopes(2, "model/bert") == [
      "model/bert/embeddings/", "model/bert/encoder/layer_0/",
      "model/bert/encoder/layer_1/"]


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("real_tokens_only", [False, True])
def test_no_gradient_is_computed_below_the_trained_layers(
    graph, monkeypatch, is_fused, real_tokens_only):
  monkeypatch.setattr(
      modeling, "MIN_FUSED_WIDTH", 1 if is_fused else 1 << 30)
  config = modeling.BertConfig.from_dict(dict(CONFIG, num_hidden_layers=12))
  model = modeling.BertModel(
      config, True, tf.constant([[1, 2, 3], [4, 5, 0]]),
      tf.constant([[1, 1, 1], [1, 1, 0]]), real_tokens_only=real_tokens_only)
  before = len(graph.get_operations())
  optimization.create_optimizer(
      tf.reduce_sum(model.get_pooled_output()), 0.1, 10, 0, False,
      frozen=modeling.lower_scopes(2))
  # Backward operations are named after those they belong to.
  text = " ".join(op.name for op in graph.get_operations()[before:])
  assert "layer_2/" in text and "layer_10/" in text and "pooler/" in text
  assert "layer_0/" not in text and "layer_1/" not in text
  assert "embeddings/" not in text


# Configuration.


def test_config_survives_a_round_trip_with_keys_it_does_not_know(tmp_path):
  released = dict(CONFIG, directionality="bidi", pooler_fc_size=768)
  path = tmp_path / "bert_config.json"
  path.write_text(json.dumps(released))
  config = modeling.BertConfig.from_json_file(str(path))
  assert config.to_dict() == released
  assert config.directionality == "bidi"
  text = config.to_json_string()
  assert json.loads(text) == released
  assert text.startswith('{\n  "attention_probs_dropout_prob": 0.1,\n  "dir')
  assert text.endswith("}\n")
  assert modeling.BertConfig.from_dict(json.loads(text)).to_dict() == released


def test_config_has_the_defaults_of_the_original():
  assert modeling.BertConfig(30522).to_dict() == {
      "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12,
      "num_attention_heads": 12, "intermediate_size": 3072,
      "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
      "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 512,
      "type_vocab_size": 16, "initializer_range": 0.02}


def test_config_without_a_vocabulary_size_is_explained(tmp_path):
  with pytest.raises(ValueError, match="vocab_size"):
    modeling.BertConfig.from_dict({"hidden_size": 8})
  path = tmp_path / "bert_config.json"
  path.write_text('{"hidden_size": 8}')
  with pytest.raises(ValueError, match="vocab_size"):
    modeling.BertConfig.from_json_file(str(path))


# Bad input.


def test_hidden_size_must_be_a_multiple_of_the_heads():
  with pytest.raises(ValueError, match=r"\b6\b.*multiple.*heads.*\b4\b"):
    create_model(create_config(num_attention_heads=4))


def test_unknown_activation_is_refused():
  with pytest.raises(ValueError, match="Unsupported activation.*swish.*gelu"):
    create_model(create_config(hidden_act="swish"))


def test_activations_are_found_by_name():
  assert modeling.get_activation("ReLU") is tf.nn.relu
  assert modeling.get_activation("gelu") is modeling.gelu
  assert modeling.get_activation("tanh") is tf.tanh
  assert modeling.get_activation("linear") is None
  assert modeling.get_activation("") is None
  assert modeling.get_activation(None) is None
  assert modeling.get_activation(math.exp) is math.exp


def test_ids_of_another_rank_are_refused():
  with pytest.raises(ValueError, match="rank"):
    create_model(input_ids=[1, 2], input_mask=None, token_type_ids=None)


def test_sequence_longer_than_the_position_table_is_refused():
  with pytest.raises(ValueError, match="max_position_embeddings.*9"):
    create_model(input_ids=[[1] * 10], input_mask=None, token_type_ids=None)


def test_token_types_must_be_given_if_used():
  with pytest.raises(ValueError, match="token_type_ids"):
    modeling.embedding_postprocessor(tf.zeros([1, 2, 3]), use_token_type=True)


def test_attention_on_matrices_needs_the_sizes():
  with pytest.raises(ValueError, match="from_seq_length"):
    modeling.attention_layer(tf.zeros([4, 3]), tf.zeros([4, 3]))
  with pytest.raises(ValueError, match="rank"):
    modeling.attention_layer(tf.zeros([4, 3]), tf.zeros([2, 2, 3]))


def test_input_of_the_encoder_must_be_as_wide_as_its_layers():
  with pytest.raises(ValueError, match=r"\b5\b.*\b6\b"):
    modeling.transformer_model(
        tf.zeros([1, 2, 5]), hidden_size=6, num_attention_heads=2)


# Shapes.


def test_shape_list_prefers_known_sizes():
  tensor = tf.placeholder(tf.float32, [None, 3])
  rows, columns = modeling.get_shape_list(tensor, expected_rank=[2, 3])
  assert columns == 3
  with tf.Session() as session:
    assert session.run(rows, {tensor: np.zeros([4, 3])}) == 4
  with pytest.raises(ValueError, match="`ids`.*rank"):
    modeling.get_shape_list(tensor, expected_rank=3, name="ids")
  with pytest.raises(ValueError, match="Placeholder"):
    modeling.assert_rank(tensor, [1, 3])


def test_shape_list_works_eagerly():
  with tf.init_scope():
    tensor = tf.zeros([2, 3])
    assert modeling.get_shape_list(tensor, expected_rank=2) == [2, 3]
    with pytest.raises(ValueError, match="rank"):
      modeling.get_shape_list(tensor, expected_rank=1)


def test_matrix_and_back():
  tensor = tf.zeros([2, 3, 4])
  matrix = modeling.reshape_to_matrix(tensor)
  assert matrix.shape.as_list() == [6, 4]
  assert modeling.reshape_to_matrix(matrix) is matrix
  back = modeling.reshape_from_matrix(tf.zeros([6, 7]), [2, 3, 4])
  assert back.shape.as_list() == [2, 3, 7]
  assert modeling.reshape_from_matrix(matrix, [6, 4]) is matrix
  with pytest.raises(ValueError, match="rank"):
    modeling.reshape_to_matrix(tf.zeros([3]))


# Checkpoints.


@pytest.fixture
def checkpoint(tmp_path):
  with tf.Graph().as_default(), tf.Session() as session:
    for name in ("shared/b", "shared/a", "only/there"):
      tf.get_variable(name, [2], initializer=tf.ones_initializer())
    session.run(tf.global_variables_initializer())
    return tf.train.Saver().save(session, str(tmp_path / "model.ckpt"))


def test_assignment_map_names_what_graph_and_checkpoint_share(checkpoint):
  tvars = [tf.get_variable(name, [2])
           for name in ("shared/a", "only/here", "shared/b")]
  assignment_map, names = modeling.get_assignment_map_from_checkpoint(
      tvars, checkpoint)
  assert list(assignment_map.items()) == [
      ("shared/a", "shared/a"), ("shared/b", "shared/b")]
  assert names == {
      "shared/a": 1, "shared/a:0": 1, "shared/b": 1, "shared/b:0": 1}
  tf.train.init_from_checkpoint(checkpoint, assignment_map)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    assert session.run(tvars[0]).tolist() == [1.0, 1.0]


def test_comparison_with_a_checkpoint_tells_what_does_not_fit(checkpoint):
  tvars = [tf.get_variable("shared/a", [2]), tf.get_variable("only/here", [2]),
           tf.get_variable("shared/b", [3])]
  coverage = modeling.compare_with_checkpoint(tvars, checkpoint)
  assert coverage.matched == ["shared/a"]
  assert coverage.missing == ["only/here"]
  assert coverage.unused == ["only/there"]
  assert coverage.mismatched == [("shared/b", [3], [2])]


def test_checkpoint_is_found_by_any_of_its_names(checkpoint):
  for name in (checkpoint, checkpoint + ".index", os.path.dirname(checkpoint),
               checkpoint + ".data-00000-of-00001"):
    assert modeling.resolve_checkpoint_path(name) == checkpoint


def test_checkpoint_of_the_first_format_is_found(tmp_path):
  variable = tf.get_variable("a", [2], initializer=tf.ones_initializer())
  with tf.Session() as session:
    session.run(variable.initializer)
    prefix = tf.train.Saver(write_version=tf.train.SaverDef.V1).save(
        session, str(tmp_path / "model.ckpt"), write_meta_graph=False)
  assert modeling.resolve_checkpoint_path(prefix) == prefix
  assert modeling.compare_with_checkpoint([variable], prefix).matched == ["a"]


def test_missing_checkpoint_is_reported_with_what_there_is(checkpoint):
  with pytest.raises(ValueError, match="no checkpoint at .*modle.ckpt"):
    modeling.resolve_checkpoint_path(
        os.path.join(os.path.dirname(checkpoint), "modle.ckpt"))
