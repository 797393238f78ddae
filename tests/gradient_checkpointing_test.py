"""Tests of gradient checkpointing: the same gradients, with dropout.

  pytest tests/gradient_checkpointing_test.py
"""

import itertools

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from absl import flags

import common_flags
import fused_ops
import modeling
import optimization

INPUT_MASK = [[1] * 7, [1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0]]
INPUT_IDS = np.random.RandomState(5).randint(0, 50, size=[3, 7])


@pytest.fixture
def numbered_seeds(monkeypatch):
  """The i-th seed drawn is always the same; seeds used again are not drawn."""
  draw = tf.random.uniform

  def start():
    numbers = itertools.count(1)

    def uniform(shape, *args, **kwargs):
      if list(shape) == [2] and args and args[-1] == tf.int32:
        number = next(numbers)
        return tf.constant([number * 7919, -number * 104729], tf.int32)
      return draw(shape, *args, **kwargs)

    monkeypatch.setattr(tf.random, "uniform", uniform)

  return start


def make_config(**changes):
  values = dict(vocab_size=50, hidden_size=16, num_hidden_layers=3,
                num_attention_heads=2, intermediate_size=32,
                max_position_embeddings=16, type_vocab_size=2,
                hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
  values.update(changes)
  return modeling.BertConfig(**values)


def loss_and_gradients(config, step, numbered_seeds, **options):
  """The loss, and the gradients of all variables, by name."""
  numbered_seeds()
  with tf.Graph().as_default():
    tf.set_random_seed(1)
    # Makes plain dropout, too, draw the seeds it is checked with.
    with fused_ops.kept_seeds([]):
      model = modeling.BertModel(
          config, True, tf.constant(INPUT_IDS, tf.int32),
          tf.constant(INPUT_MASK), gradient_checkpointing=step, **options)
    sequence = model.get_sequence_output()  # [B, T, D]
    weights = tf.constant(np.random.RandomState(2).normal(
        size=sequence.shape.as_list()), tf.float32)
    mask = tf.cast(tf.constant(INPUT_MASK)[:, :, tf.newaxis], tf.float32)
    loss = tf.reduce_sum(sequence * weights * mask) + tf.reduce_sum(
        model.get_pooled_output() * weights[:, 0])
    variables = {variable.op.name: variable
                 for variable in tf.trainable_variables()}
    gradients = tf.gradients(loss, list(variables.values()))
    with tf.Session() as session:
      session.run([variable.initializer for variable in variables.values()], {
          variable.initializer.inputs[1]: np.random.RandomState(seed).normal(
              "gamma" in name, scale=0.1, size=variable.shape.as_list())
          for seed, (name, variable) in enumerate(variables.items())})
      return session.run([loss, dict(zip(variables, gradients))])


@pytest.mark.parametrize("form,step", [
    ("plain", 1), ("plain", 2), ("real", 1), ("real", 2), ("real", 3),
    ("real", 5), ("fused", 1), ("fused", 2)])
def test_gradients_are_the_same(numbered_seeds, form, step):
  config = make_config()
  if form == "fused":
    config = make_config(hidden_size=modeling.MIN_FUSED_WIDTH)
  options = {"real_tokens_only": form != "plain"}
  expected = loss_and_gradients(config, 0, numbered_seeds, **options)
  actual = loss_and_gradients(config, step, numbered_seeds, **options)
  np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
  values = {name: dense_values(gradient)
            for name, gradient in expected[1].items()}
  largest = max(np.abs(value).max() for value in values.values())
  for name, value in values.items():
    # A key's bias has no gradient but rounding errors of larger ones.
    scale = max(np.abs(value).max(), 0.1 * largest)
    np.testing.assert_allclose(dense_values(actual[1][name]), value,
                               rtol=0.0, atol=1e-5 * scale, err_msg=name)


def dense_values(gradient):
  return np.asarray(getattr(gradient, "values", gradient))


def test_other_dropout_would_show(numbered_seeds, monkeypatch):
  config = make_config()
  expected = loss_and_gradients(config, 0, numbered_seeds)
  kept_seeds = fused_ops.kept_seeds
  monkeypatch.setattr(fused_ops, "kept_seeds",
                      lambda seeds, are_used_again=False: kept_seeds([]))
  actual = loss_and_gradients(config, 1, numbered_seeds)
  np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
  name = "bert/encoder/layer_0/output/dense/kernel"
  assert np.abs(actual[1][name] - expected[1][name]).max() > 1e-3


def test_nothing_of_a_layer_is_kept_but_its_input():
  """No operation of the backward pass reads one of a layer's insides."""
  with tf.Graph().as_default() as graph:
    model = modeling.BertModel(
        make_config(), True, tf.constant(INPUT_IDS, tf.int32),
        tf.constant(INPUT_MASK), gradient_checkpointing=1)
    forward = set(graph.get_operations())
    tf.gradients(tf.reduce_sum(model.get_sequence_output()),
                 tf.trainable_variables())
    kept = set()
    for operation in set(graph.get_operations()) - forward:
      kept.update(tensor for tensor in operation.inputs
                  if tensor.op in forward)
  # Row matrices [B * T, any width] that wait for the backward pass: the
  # input of each layer, and the embeddings' and the output's own.
  inside = [tensor.name for tensor in kept
            if "encoder/layer_" in tensor.name and tensor.shape.rank == 2
            and tensor.shape.as_list()[0] == 21
            and tensor.op.type not in ("Identity", "IdentityN", "Reshape")]
  assert inside == []


def test_prediction_is_not_touched():
  with tf.Graph().as_default() as graph:
    modeling.BertModel(make_config(), False, tf.constant(INPUT_IDS, tf.int32),
                       gradient_checkpointing=1)
    assert not any(operation.type == "IdentityN"
                   for operation in graph.get_operations())


def test_checkpoints_and_parts_go_together():
  """Each part's layers are computed again with that part's dropout."""
  def loss_fn(features):
    model = modeling.BertModel(
        make_config(), True, features["input_ids"], features["input_mask"],
        scope="bert", gradient_checkpointing=1)
    return [tf.reduce_sum(model.get_sequence_output() ** 3)]

  with tf.Graph().as_default():
    tf.set_random_seed(1)
    losses, gradients = optimization.accumulate_gradients(
        loss_fn, {"input_ids": tf.constant(INPUT_IDS, tf.int32),
                  "input_mask": tf.constant(INPUT_MASK)}, 3)
    with tf.Session() as session:
      session.run(tf.global_variables_initializer())
      values = session.run([g for g in gradients if g is not None])
  assert len(values) > 30
  assert all(np.isfinite(value).all() for value in values)


@pytest.mark.parametrize("argument,expected", [
    ("--gradient_checkpointing", 1), ("--nogradient_checkpointing", 0),
    ("--gradient_checkpointing=3", 3), ("--gradient_checkpointing=true", 1),
    ("--gradient_checkpointing=0", 0), (None, 0)])
def test_flag(argument, expected):
  values = flags.FlagValues()
  flag = flags.Flag(
      common_flags._LayersParser(), flags.ArgumentSerializer(),
      "gradient_checkpointing", 0, "", boolean=True)
  flags.DEFINE_flag(flag, values)
  values(["program"] + ([argument] if argument else []))
  assert values.gradient_checkpointing == expected


@pytest.mark.parametrize("value", ["-1", "many", "1.5"])
def test_flag_refuses(value):
  values = flags.FlagValues()
  flags.DEFINE_flag(flags.Flag(
      common_flags._LayersParser(), flags.ArgumentSerializer(),
      "gradient_checkpointing", 0, "", boolean=True), values)
  with pytest.raises(flags.IllegalFlagValueError, match="number of layers"):
    values(["program", "--gradient_checkpointing=" + value])
