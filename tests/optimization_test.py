"""Tests of optimization.py: `pytest tests/optimization_test.py`."""

import json
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import optimization

GOLDENS = os.path.join(os.path.dirname(__file__), "goldens")

pytestmark = pytest.mark.usefixtures("graph")


@pytest.fixture(params=["plain", "compiled", "together"])
def each_update(request, monkeypatch):
  """Runs a test with small variables in the way of the large ones, too.

  And in that of a GPU.
  """
  if request.param == "compiled":
    monkeypatch.setattr(optimization, "_MIN_COMPILED_SIZE", 0)
  elif request.param == "together":
    request.getfixturevalue("as_on_gpu")


def variable(name, value, **kwargs):
  value = np.asarray(value, np.float32)
  return tf.get_variable(
      name, value.shape, initializer=tf.constant_initializer(value), **kwargs)


def started_session():
  session = tf.Session()
  session.run(tf.global_variables_initializer())
  return session


def values_by_name(session):
  variables = tf.global_variables()
  return dict(zip([v.op.name for v in variables], session.run(variables)))


# The schedule.


def learning_rates(init_lr, num_train_steps, num_warmup_steps, steps):
  step = tf.placeholder(tf.int64, [])
  rate = optimization.learning_rate(
      init_lr, num_train_steps, num_warmup_steps, step)
  with tf.Session() as session:
    return [session.run(rate, {step: value}) for value in steps]


def test_learning_rate_warms_up_then_falls_to_zero():
  rates = learning_rates(1.0, 10, 4, [0, 1, 3, 4, 5, 9, 10, 11])
  np.testing.assert_allclose(
      rates, [0.0, 0.25, 0.75, 0.6, 0.5, 0.1, 0.0, 0.0], atol=1e-7)


@pytest.mark.parametrize("num_warmup_steps", [0, None])
def test_learning_rate_without_warmup_starts_at_its_peak(num_warmup_steps):
  assert learning_rates(3.0, 2, num_warmup_steps, [0, 1]) == [3.0, 1.5]


def test_learning_rates_equal_the_originals_to_the_bit():
  with open(os.path.join(GOLDENS, "model_learning_rates.json")) as reader:
    goldens = json.load(reader)
  assert len(goldens) == 4
  for settings, expected in goldens.items():
    init_lr, num_train_steps, num_warmup_steps = settings.split()
    rates = learning_rates(float(init_lr), int(num_train_steps),
                           int(num_warmup_steps), range(len(expected)))
    assert [float(rate) for rate in rates] == expected


@pytest.mark.parametrize("num_train_steps", [0, -3, None])
def test_training_for_no_steps_is_refused(num_train_steps):
  loss = tf.square(variable("w", 1.0))
  with pytest.raises(ValueError, match="num_train_steps.*train_batch_size"):
    optimization.create_optimizer(loss, 1e-3, num_train_steps, 0, False)


# The optimizer.


def test_first_step_with_and_without_decay_is_as_computed_by_hand(each_update):
  # m = 0.1 * 0.5, v = 0.001 * 0.25, so m / (sqrt(v) + 1e-6) = 3.16208.
  kernel, bias = variable("kernel", [2.0]), variable("bias", [2.0])
  gradient = tf.constant([0.5])
  train_op = optimization.AdamWeightDecayOptimizer(
      learning_rate=0.1, weight_decay_rate=0.01,
      exclude_from_weight_decay=["bias"]).apply_gradients(
          [(gradient, kernel), (gradient, bias)])
  with started_session() as session:
    session.run(train_op)
    values = values_by_name(session)
  np.testing.assert_allclose(values["kernel"], [2 - 0.1 * (3.16208 + 0.02)],
                             rtol=1e-6)
  np.testing.assert_allclose(values["bias"], [2 - 0.1 * 3.16208], rtol=1e-6)
  np.testing.assert_allclose(values["kernel/adam_m"], [0.05], rtol=1e-6)
  np.testing.assert_allclose(values["kernel/adam_v"], [0.00025], rtol=1e-6)


@pytest.mark.parametrize("use_resource", [True, False])
def test_steps_equal_plain_adam_to_float32_rounding(each_update, use_resource):
  random = np.random.RandomState(0)
  p = random.normal(size=[37, 11]).astype(np.float32)
  weight = variable("w", p, use_resource=use_resource)
  with tf.variable_scope("", use_resource=use_resource):
    gradient = tf.placeholder(tf.float32, p.shape)
    train_op = optimization.AdamWeightDecayOptimizer(
        learning_rate=1e-2, weight_decay_rate=0.01).apply_gradients(
            [(gradient, weight)])
  m, v = np.zeros(p.shape), np.zeros(p.shape)
  p = p.astype(np.float64)
  with started_session() as session:
    for _ in range(30):
      g = random.normal(size=p.shape).astype(np.float32)
      session.run(train_op, {gradient: g})
      g = g.astype(np.float64)
      m = 0.9 * m + 0.1 * g
      v = 0.999 * v + 0.001 * g * g
      p = p - 1e-2 * (m / (np.sqrt(v) + 1e-6) + 0.01 * p)
    values = values_by_name(session)
  np.testing.assert_allclose(values["w/adam_m"], m, rtol=0, atol=5e-7)
  np.testing.assert_allclose(values["w/adam_v"], v, rtol=2e-6, atol=0)
  np.testing.assert_allclose(values["w"], p, rtol=0, atol=2e-6)


def test_small_decay_is_not_lost_in_rounding(each_update):
  # A thousandth of the spacing of float32 numbers is taken off in each step;
  # it must still count in the sum with the rest of the update.
  weight = variable("w", [1.0])
  update = np.float32(3e-8)
  train_op = optimization.AdamWeightDecayOptimizer(
      learning_rate=1.0, weight_decay_rate=6e-8, epsilon=1.0).apply_gradients(
          [(tf.constant([10 * update]), weight)])
  with started_session() as session:
    session.run(train_op)
    assert session.run(weight)[0] < 1.0


def test_rows_of_an_embedding_gradient_are_added_and_all_rows_decay(
    each_update):
  table = np.arange(12, dtype=np.float32).reshape([4, 3])
  rows = tf.placeholder(tf.float32, [None, 3])
  indices = tf.placeholder(tf.int32, [None])
  dense = tf.placeholder(tf.float32, [4, 3])
  optimizer = optimization.AdamWeightDecayOptimizer(0.1, weight_decay_rate=0.3)
  sparse_weight, dense_weight = variable("a", table), variable("b", table)
  train_op = optimizer.apply_gradients([
      (tf.IndexedSlices(rows, indices, tf.constant([4, 3])), sparse_weight),
      (dense, dense_weight)])
  with started_session() as session:
    for row_ids in ([2, 0, 2], [1, 1, 1], [3]):
      values = np.random.RandomState(1).normal(size=[len(row_ids), 3])
      full = np.zeros([4, 3])
      np.add.at(full, row_ids, values)
      session.run(train_op, {rows: values, indices: row_ids, dense: full})
    values = values_by_name(session)
  for suffix in ("", "/adam_m", "/adam_v"):
    np.testing.assert_allclose(
        values["a" + suffix], values["b" + suffix], rtol=1e-6, atol=1e-7)
  assert np.all(values["a"][1:] != table[1:])


def test_minimum_is_found(each_update):
  weight = variable("w", [0.1, -0.2, -0.1])
  loss = tf.reduce_mean(tf.square(tf.constant([0.4, 0.2, -0.5]) - weight))
  gradients = tf.gradients(loss, [weight])
  step = tf.train.get_or_create_global_step()
  train_op = optimization.AdamWeightDecayOptimizer(
      learning_rate=0.2).apply_gradients(zip(gradients, [weight]), step)
  with started_session() as session:
    for _ in range(100):
      session.run(train_op)
    np.testing.assert_allclose(
        session.run(weight), [0.4, 0.2, -0.5], rtol=1e-2, atol=1e-2)
    # As in the original, incrementing the step is left to the caller.
    assert session.run(step) == 0


def test_moments_are_created_in_order_and_skipped_without_gradient():
  first, unused, second = [
      variable(name, [1.0]) for name in ("x/kernel", "y/kernel", "z/bias")]
  optimization.create_optimizer(
      tf.reduce_sum(first * second), 1e-3, 10, 0, False)
  assert [v.op.name for v in tf.global_variables()] == [
      "x/kernel", "y/kernel", "z/bias", "global_step",
      "x/kernel/adam_m", "x/kernel/adam_v", "z/bias/adam_m", "z/bias/adam_v"]
  assert tf.trainable_variables() == [first, unused, second]


def test_without_any_gradient_nothing_changes(each_update):
  weight = variable("w", [2.0])
  update = optimization.AdamWeightDecayOptimizer(0.1).apply_gradients(
      [(None, weight)])
  with started_session() as session:
    session.run(update)
    assert session.run(weight).tolist() == [2.0]


def test_a_second_optimizer_shares_the_moments_of_its_scope():
  weight = variable("w", [1.0])
  gradient = tf.constant([1.0])
  first = optimization.AdamWeightDecayOptimizer(0.1)
  second = optimization.AdamWeightDecayOptimizer(0.1)
  third = optimization.AdamWeightDecayOptimizer(0.1)
  first.apply_gradients([(gradient, weight)])
  second.apply_gradients([(gradient, weight)])
  with tf.variable_scope("other"):
    third.apply_gradients([(gradient, weight)])
  assert first.variables() == second.variables()
  assert [v.op.name for v in third.variables()] == [
      "other/w/adam_m", "other/w/adam_v"]


def test_only_matching_names_are_excluded_from_decay():
  optimizer = optimization.AdamWeightDecayOptimizer(
      0.1, weight_decay_rate=0.01,
      exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"])
  decayed = {
      name: optimizer._do_use_weight_decay(name) for name in (
          "bert/embeddings/LayerNorm/gamma", "x/layer_norm/beta",
          "bert/pooler/dense/bias", "output_bias", "bert/pooler/dense/kernel")}
  assert list(decayed.values()) == [False, False, False, False, True]
  assert not optimization.AdamWeightDecayOptimizer(0.1)._do_use_weight_decay(
      "kernel")
  assert optimizer._get_variable_name("a/b:0") == "a/b"
  assert optimizer._get_variable_name("a/b") == "a/b"


# LAMB and Adafactor.


def stepped(optimizer, start, gradients, use_resource=None):
  """Weight `w` (decayed) and `bias` (excluded) after steps from `start`.

  Returns:
    list of dicts of values by name, one for each of the gradients.
  """
  with tf.variable_scope("", use_resource=use_resource):
    step = tf.train.get_or_create_global_step()
    weights = [variable(name, start, use_resource=use_resource)
               for name in ("w", "bias")]
    gradient = tf.placeholder(tf.float32, start.shape)
    update = optimizer.apply_gradients([(gradient, w) for w in weights], step)
    with tf.control_dependencies([update]):
      train_op = step.assign_add(1)
  results = []
  with started_session() as session:
    for value in gradients:
      session.run(train_op, {gradient: value})
      results.append(values_by_name(session))
  return results


def random_steps(shape, num_steps=5):
  random = np.random.RandomState(0)
  arrays = random.normal(size=[num_steps + 1] + shape).astype(np.float32)
  return arrays[0], arrays[1:]


@pytest.mark.parametrize("use_resource", [True, False])
@pytest.mark.parametrize("decay_rate", [0.0, 0.1])
def test_lamb_equals_its_algorithm(each_update, use_resource, decay_rate):
  start, gradients = random_steps([7, 3])
  results = stepped(optimization.LambOptimizer(
      0.01, decay_rate, exclude_from_weight_decay=["bias"]), start, gradients,
                    use_resource)
  w = bias = start.astype(np.float64)
  m = v = np.zeros_like(w)
  for number, (gradient, values) in enumerate(zip(gradients, results), 1):
    gradient = gradient.astype(np.float64)
    m = 0.9 * m + 0.1 * gradient
    v = 0.999 * v + 0.001 * gradient**2
    ratio = m / (1 - 0.9**number) / (
        np.sqrt(v / (1 - 0.999**number)) + 1e-6)
    change = ratio + decay_rate * w
    w = w - 0.01 * np.linalg.norm(w) / np.linalg.norm(change) * change
    bias = bias - 0.01 * ratio
    for name, expected in (("w", w), ("bias", bias), ("w/lamb_m", m),
                           ("w/lamb_v", v), ("bias/lamb_v", v)):
      np.testing.assert_allclose(
          values[name], expected, rtol=2e-6, atol=2e-6, err_msg=name)
  assert len(values) == 7


@pytest.mark.parametrize("start, gradient, expected", [
    (0.0, 0.5, -0.1), (3.0, 0.0, 3.0)])
def test_lamb_does_not_scale_by_a_norm_of_zero(start, gradient, expected):
  values, = stepped(optimization.LambOptimizer(0.1), np.full([2], start),
                    [np.full([2], gradient)])
  np.testing.assert_allclose(values["w"], [expected] * 2, rtol=1e-5)


def adafactor_steps(start, gradients, rate, decay_rate):
  """Yields the weight and its slots: the paper's algorithms 4 and 5."""
  x = start.astype(np.float64)
  slots = [np.zeros(1), np.zeros(1)]
  for number, gradient in enumerate(gradients, 1):
    gradient = gradient.astype(np.float64)
    beta = 1 - number**-0.8
    squares = gradient**2 + 1e-30
    sums = ([squares.sum(1), squares.sum(0)] if x.ndim == 2 else [squares])
    slots = [beta * slot + (1 - beta) * total
             for slot, total in zip(slots, sums)]
    v = (np.outer(slots[0], slots[1]) / slots[0].sum() if x.ndim == 2
         else slots[0])
    change = gradient / np.sqrt(v)
    change /= max(1.0, np.sqrt(np.mean(change**2)))
    x = x - rate * (change + decay_rate * x)
    yield x, slots


@pytest.mark.parametrize("use_resource", [True, False])
@pytest.mark.parametrize("shape", [[7, 3], [5], [2, 3, 4]])
def test_adafactor_equals_its_algorithm(each_update, use_resource, shape):
  start, gradients = random_steps(shape)
  gradients[3] *= 20.0  # An update to be clipped.
  results = stepped(optimization.AdafactorOptimizer(
      0.01, 0.1, exclude_from_weight_decay=["bias"]), start, gradients,
                    use_resource)
  for name, decay_rate in (("w", 0.1), ("bias", 0.0)):
    expected = adafactor_steps(start, gradients, 0.01, decay_rate)
    for values, (weight, slots) in zip(results, expected):
      np.testing.assert_allclose(values[name], weight, rtol=2e-6, atol=2e-6)
      if len(shape) == 2:
        # Here means, in the paper sums.
        pairs = [("row", slots[0] / shape[1]), ("column", slots[1] / shape[0])]
      else:
        pairs = [("v", slots[0])]
      for slot, value in pairs:
        np.testing.assert_allclose(
            values["%s/adafactor_%s" % (name, slot)], value, rtol=2e-6)


def test_adafactor_takes_small_and_missing_gradients(each_update):
  # Squares of 1e-18, whose products float32 does not hold; a row without any.
  gradient = np.full([3, 2], 1e-9, np.float32)
  gradient[1] = 0.0
  values, = stepped(optimization.AdafactorOptimizer(0.1), np.zeros([3, 2]),
                    [gradient])
  # Means of 1 and 0 in rows and 2/3 in columns: 1 / sqrt(1 / (2/3) * (2/3)).
  np.testing.assert_allclose(
      values["w"], [[-0.1, -0.1], [0, 0], [-0.1, -0.1]], rtol=1e-6)


SLOTS = {
    "adamw": {"w/adam_m": [9, 8], "w/adam_v": [9, 8], "b/adam_m": [8],
              "b/adam_v": [8]},
    "lamb": {"w/lamb_m": [9, 8], "w/lamb_v": [9, 8], "b/lamb_m": [8],
             "b/lamb_v": [8]},
    "adafactor": {"w/adafactor_row": [9], "w/adafactor_column": [8],
                  "b/adafactor_v": [8]}}


def matrix_and_vector_loss():
  weight, bias = variable("w", np.ones([9, 8])), variable("b", np.ones([8]))
  return tf.reduce_mean(tf.square(tf.matmul(tf.ones([1, 9]), weight) + bias))


@pytest.mark.parametrize("use_tpu", [False, True])
@pytest.mark.parametrize("name", SLOTS)
def test_each_optimizer_keeps_its_slots(name, use_tpu):
  optimization.create_optimizer(
      matrix_and_vector_loss(), 0.1, 10, 0, use_tpu, optimizer=name)
  shapes = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
  assert shapes == dict(SLOTS[name], w=[9, 8], b=[8], global_step=[])


@pytest.mark.parametrize("name", SLOTS)
@pytest.mark.parametrize("scale_loss", [False, True])
def test_each_optimizer_lowers_the_loss(each_update, name, scale_loss):
  loss = matrix_and_vector_loss()
  train_op = optimization.create_optimizer(
      loss, 0.1, 100, 5, False, scale_loss, optimizer=name)
  with started_session() as session:
    session.run(tf.local_variables_initializer())
    first = session.run(loss)
    for _ in range(60):
      session.run(train_op)
    assert session.run(loss) < 0.1 * first
    assert session.run(tf.train.get_global_step()) == 60


@pytest.mark.parametrize("name", ["lamb", "adafactor"])
def test_the_other_optimizers_training_steps_compile_with_xla(name):
  loss, = tf.xla.experimental.compile(lambda: [tf.identity(
      _stepped_loss(name))])
  with started_session() as session:
    assert session.run(loss) > session.run(loss)


def _stepped_loss(name):
  loss = matrix_and_vector_loss()
  step = optimization.create_optimizer(loss, 0.1, 10, 0, False, optimizer=name)
  with tf.control_dependencies([step]):
    return tf.identity(loss)


def test_an_unknown_optimizer_is_named():
  with pytest.raises(ValueError, match="'sgd', only adafactor, adamw, lamb"):
    optimization.create_optimizer(
        matrix_and_vector_loss(), 0.1, 10, 0, False, optimizer="sgd")


@pytest.mark.parametrize("name", SLOTS)
def test_frozen_variables_stay_and_have_no_slots_and_no_part_in_the_norm(name):
  a, b = variable("a", [1.0]), variable("b", [1.0])
  train_op = optimization.create_optimizer(
      tf.reduce_sum(30.0 * a + 0.5 * b), 0.1, 10, 0, False, optimizer=name,
      frozen=["a"])
  with started_session() as session:
    session.run(train_op)
    values = values_by_name(session)
  assert values["a"] == [1.0] and values["b"] < 1.0
  assert {n for n in values if "/" in n and n.startswith("a")} == set()
  if name == "adamw":
    np.testing.assert_allclose(values["b/adam_m"], [0.05], rtol=1e-6)


def test_with_everything_frozen_there_is_nothing_to_train():
  loss = matrix_and_vector_loss()
  with pytest.raises(ValueError, match="none of the 0 trainable"):
    optimization.create_optimizer(
        loss, 0.1, 10, 0, False, frozen=["w", "b"])


# The training step.


def trained(loss, steps=1, init_lr=0.1, num_train_steps=10, feed_dict=None):
  train_op = optimization.create_optimizer(
      loss, init_lr, num_train_steps, 0, False)
  with started_session() as session:
    for _ in range(steps):
      session.run(train_op, feed_dict)
    return values_by_name(session)


@pytest.mark.parametrize("scale,norm", [(0.1, 0.5), (10.0, 1.0)])
def test_gradients_are_clipped_to_a_global_norm_of_one(
    each_update, scale, norm):
  a, b = variable("a", [1.0]), variable("b", [1.0])
  values = trained(tf.reduce_sum(3 * scale * a + 4 * scale * b))
  gradients = [values["a/adam_m"][0] * 10, values["b/adam_m"][0] * 10]
  np.testing.assert_allclose(gradients, [0.6 * norm, 0.8 * norm], rtol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 4.0])
def test_norm_counts_each_occurrence_of_a_word_by_itself(each_update, weight):
  # Two rows of norm 3 for the same word: norm sqrt(18), not 6.
  table = variable("table", np.ones([5, 1]))
  loss = 3.0 * tf.reduce_sum(tf.nn.embedding_lookup(table, [2, 2]))
  if weight:
    loss += tf.reduce_sum(weight * variable("other", [1.0]))
  np.testing.assert_allclose(
      trained(loss)["table/adam_m"][2], [0.1 * 6 / np.sqrt(18 + weight ** 2)],
      rtol=1e-6)


def test_overflow_reaches_every_weight(each_update):
  variable("a", [1.0])
  b = variable("b", [1.0])
  a = tf.trainable_variables()[0]
  values = trained(tf.reduce_sum(a * float("inf") + b))
  assert np.isnan(values["a"]) and np.isnan(values["b"])


def test_step_is_incremented_and_sets_the_rate(each_update):
  weight = variable("w", [5.0])
  values = trained(tf.reduce_sum(weight), steps=12, num_train_steps=10)
  assert values["global_step"] == 12
  # Gradient 1: m = 1 - 0.9^n, v = 1 - 0.999^n; nothing moves after step 10.
  expected = 5.0
  for step in range(10):
    ratio = (1 - 0.9**(step + 1)) / (np.sqrt(1 - 0.999**(step + 1)) + 1e-6)
    expected -= 0.1 * (1 - step / 10) * (ratio + 0.01 * expected)
  np.testing.assert_allclose(values["w"], [expected], rtol=1e-5)


@pytest.mark.parametrize("use_resource", [True, False])
def test_all_gradients_are_computed_from_the_old_weights(
    each_update, use_resource):
  # A chain of products: the gradient of each weight is the product of the
  # others, which is wrong if one of them has been updated already.
  random = np.random.RandomState(3)
  weights = random.uniform(0.5, 1.5, [40]).astype(np.float32)
  with tf.variable_scope("", use_resource=use_resource):
    product = tf.constant(1.0)
    for index, value in enumerate(weights):
      product *= variable("w%d" % index, value)
    train_op = optimization.create_optimizer(
        product / np.prod(weights), 0.3, 100, 0, False)
  gradients = 1 / weights.astype(np.float64)
  gradients /= max(1.0, np.linalg.norm(gradients))
  for _ in range(5):
    with started_session() as session:
      session.run(train_op)
      values = values_by_name(session)
    np.testing.assert_allclose(
        [values["w%d/adam_m" % index] for index in range(40)], 0.1 * gradients,
        rtol=1e-5)


@pytest.mark.parametrize("use_resource", [True, False])
def test_no_variable_is_overwritten_before_all_gradients_are_there(
    graph, ancestors, use_resource):
  with tf.variable_scope("", use_resource=use_resource):
    a, b = variable("a", [1.0]), variable("b", np.ones([3, 1]))
  rows = tf.IndexedSlices(
      tf.constant([[1.0]]), tf.constant([0]), tf.constant([3, 1]))
  gradient = tf.constant([2.0])
  optimization.AdamWeightDecayOptimizer(0.1).apply_gradients(
      [(gradient, a), (rows, b)])
  initializers = {v.initializer for v in tf.global_variables()}
  updates = [op for op in graph.get_operations()
             if op.type in ("Assign", "AssignVariableOp")
             and op not in initializers]
  assert len(updates) == 6
  for update in updates:
    assert {gradient.op, rows.values.op} <= ancestors(update)


def test_waiting_for_the_gradients_takes_few_edges_of_the_graph(graph):
  """Each operation waiting for each gradient made 25 of 28 MB of BERT-Base."""
  weights = [variable("w%d" % i, [1.0]) for i in range(30)]
  loss = tf.add_n([tf.reduce_sum(tf.square(w)) for w in weights])
  optimization.create_optimizer(loss, 0.1, 10, 0, False)
  operations = graph.get_operations()
  edges = sum(len(operation.control_inputs) for operation in operations)
  assert edges < 2 * len(operations)


@pytest.mark.parametrize("name", SLOTS)
def test_no_zeros_to_start_slots_with_stay_in_the_session(name):
  loss = tf.reduce_sum(tf.square(variable("w", np.ones([200, 300]))))
  optimization.create_optimizer(loss, 0.1, 10, 0, False, optimizer=name)
  slots = [v for v in tf.global_variables() if v.op.name.startswith("w/")]
  run = tf.RunMetadata()
  with tf.Session() as session:
    session.run(tf.variables_initializer(slots), run_metadata=run,
                options=tf.RunOptions(output_partition_graphs=True))
    assert all(not value.any() for value in session.run(slots))
  constants = [tf.make_ndarray(node.attr["value"].tensor)
               for graph in run.partition_graphs for node in graph.node
               if node.op == "Const"]
  assert all(constant.size <= 2 for constant in constants)  # Shapes.


def test_learning_rate_is_found_by_name_collection_and_summary(graph):
  optimization.create_optimizer(
      tf.square(variable("w", 1.0)), 0.5, 10, 0, False)
  rate, = tf.get_collection("learning_rate")
  assert rate is graph.get_tensor_by_name("learning_rate:0")
  with started_session() as session:
    assert session.run(rate) == 0.5
    summary = tf.Summary.FromString(session.run(tf.summary.merge_all()))
  assert [(v.tag, v.simple_value) for v in summary.value] == [
      ("learning_rate", 0.5)]


def test_cores_of_a_tpu_clip_their_gradients_then_add_them(graph):
  weight = variable("w", [1.0])
  optimization.create_optimizer(tf.reduce_sum(weight), 0.5, 10, 0, True)
  operations = graph.get_operations()
  sums = [op for op in operations if op.type == "CrossReplicaSum"]
  assert len(sums) == 1
  assert "clip_by_global_norm" in sums[0].inputs[0].op.name
  assert not tf.get_collection(tf.GraphKeys.SUMMARIES)
  assert [v.op.name for v in tf.global_variables()] == [
      "w", "global_step", "w/adam_m", "w/adam_v"]


def test_a_loss_without_variables_is_refused():
  variable("w", [1.0])
  with pytest.raises(ValueError, match="depends on none of the 1 trainable"):
    optimization.create_optimizer(tf.constant(1.0), 0.1, 10, 0, False)


def test_training_step_compiles_with_xla(each_update):
  weight = variable("w", [[1.0], [2.0]], use_resource=True)
  table = variable("table", np.ones([3, 2]), use_resource=True)

  def train():
    inputs = tf.matmul(tf.one_hot([0, 2], 3), table)
    loss = tf.reduce_sum(tf.matmul(inputs, weight))
    step = optimization.create_optimizer(loss, 0.1, 10, 0, False)
    with tf.control_dependencies([step]):
      return tf.identity(loss)

  loss, = tf.xla.experimental.compile(train)
  with started_session() as session:
    assert session.run(loss) == 6.0
    assert session.run(loss) < 6.0
    assert values_by_name(session)["global_step"] == 2


# Loss scaling for float16.


def scaled_training(losses, growth_steps=2000):
  """Trains a weight by its product with each of `losses`, scaled.

  Returns:
    list of the weight and of the scale after each step, and the global steps.
  """
  with tf.Graph().as_default():
    factor = tf.placeholder(tf.float32, [])
    a = variable("a", [1.0, -2.0])
    original = optimization.LossScale.__init__.__defaults__
    optimization.LossScale.__init__.__defaults__ = (1024.0, growth_steps)
    try:
      train_op = optimization.create_optimizer(
          tf.reduce_sum(a * [1.0, 3.0]) * factor, 0.1, 100, 0, False,
          scale_loss=True)
    finally:
      optimization.LossScale.__init__.__defaults__ = original
    assert not [v for v in tf.global_variables() if "loss_scale" in v.name]
    scale = tf.local_variables()[0]
    weights, scales = [], []
    with started_session() as session:
      session.run(tf.local_variables_initializer())
      for loss in losses:
        session.run(train_op, {factor: loss})
        weights.append(session.run(a))
        scales.append(session.run(scale))
      return weights, scales, session.run(tf.train.get_global_step())


def test_scaling_the_loss_changes_no_update():
  losses = [0.1, 2.0, -0.01]
  weights, scales, step = scaled_training(losses)
  factor = tf.placeholder(tf.float32, [])
  a = variable("a", [1.0, -2.0])
  train_op = optimization.create_optimizer(
      tf.reduce_sum(a * [1.0, 3.0]) * factor, 0.1, 100, 0, False)
  with started_session() as session:
    for loss, weight in zip(losses, weights):
      session.run(train_op, {factor: loss})
      np.testing.assert_allclose(weight, session.run(a), rtol=1e-6)
  assert scales == [1024.0] * 3 and step == 3


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 1e36])
def test_a_step_that_overflows_changes_nothing_but_the_scale(bad):
  weights, scales, step = scaled_training([0.1, bad, bad, 0.1])
  np.testing.assert_array_equal(weights[1], weights[0])
  np.testing.assert_array_equal(weights[2], weights[0])
  assert np.all(np.isfinite(weights[3])) and np.any(weights[3] != weights[0])
  assert scales == [1024.0, 512.0, 256.0, 256.0]
  assert step == 4


def test_a_scaled_loss_is_refused_on_a_tpu():
  loss = tf.reduce_sum(variable("a", [1.0]))
  with pytest.raises(ValueError, match="float16"):
    optimization.create_optimizer(loss, 0.1, 10, 0, True, scale_loss=True)


def test_the_scale_doubles_after_enough_good_steps():
  _, scales, _ = scaled_training(
      [0.1, 0.1, float("inf"), 0.1, 0.1, 0.1, 0.1], growth_steps=3)
  assert scales == [1024.0, 1024.0, 512.0, 512.0, 512.0, 1024.0, 1024.0]
