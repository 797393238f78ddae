"""Checks that checkpoints of the original load and resume here.

  pytest tests/checkpoint_test.py
"""

import os

import make_model_goldens
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import modeling
import optimization

GOLDENS = os.path.join(os.path.dirname(__file__), "goldens")
ENCODER_VARIABLES_PER_LAYER = 16

pytestmark = pytest.mark.usefixtures("graph")


def shapes_in_graph():
  return {variable.op.name: variable.shape.as_list()
          for variable in tf.global_variables()}


def shapes_in_checkpoint(path):
  return tf.train.load_checkpoint(path).get_variable_to_shape_map()


def pretraining_loss(config):
  """Builds the model and both heads on a batch of two sequences."""
  run_pretraining = pytest.importorskip("run_pretraining")
  model = modeling.BertModel(
      config, True, tf.constant([[1, 2, 3, 4], [5, 6, 7, 0]]),
      tf.constant([[1, 1, 1, 1], [1, 1, 1, 0]]),
      tf.constant([[0, 0, 1, 1], [0, 0, 1, 0]]))
  masked_lm_loss = run_pretraining.get_masked_lm_output(
      config, model.get_sequence_output(), model.get_embedding_table(),
      tf.constant([[1, 2], [2, 0]]), tf.constant([[8, 9], [10, 0]]),
      tf.constant([[1.0, 1.0], [1.0, 0.0]]))[0]
  next_sentence_loss = run_pretraining.get_next_sentence_output(
      config, model.get_pooled_output(), tf.constant([[0], [1]]))[0]
  return masked_lm_loss + next_sentence_loss


@pytest.mark.parametrize("name,num_layers", [
    ("uncased_L-8_H-512_A-8", 8), ("chinese_L-12_H-768_A-12", 12)])
def test_released_checkpoints_hold_exactly_our_variables(
    data_dir, name, num_layers):
  directory = os.path.join(data_dir, "checkpoints", name)
  config = modeling.BertConfig.from_json_file(
      os.path.join(directory, "bert_config.json"))
  pretraining_loss(config)
  ours = shapes_in_graph()
  assert ours == shapes_in_checkpoint(
      os.path.join(directory, "bert_model.ckpt"))
  assert len(ours) == 14 + ENCODER_VARIABLES_PER_LAYER * num_layers


def test_pretraining_resumes_from_a_checkpoint_with_its_moments(data_dir):
  directory = os.path.join(data_dir, "checkpoints", "keras-bert-tiny")
  config = modeling.BertConfig.from_json_file(
      os.path.join(directory, "bert_config.json"))
  loss = pretraining_loss(config)
  train_op = optimization.create_optimizer(loss, 1e-2, 100, 10, False)
  path = os.path.join(directory, "bert_model.ckpt")
  assert shapes_in_graph() == shapes_in_checkpoint(path)
  stored = tf.train.load_checkpoint(path)
  with tf.Session() as session:
    tf.train.Saver().restore(session, path)
    assert session.run(tf.train.get_global_step()) == 20
    assert np.isfinite(session.run([loss, train_op])[0])
    names = [variable.op.name for variable in tf.global_variables()]
    values = dict(zip(names, session.run(tf.global_variables())))
  assert values.pop("global_step") == 21
  for name, value in values.items():
    assert np.all(np.isfinite(value)), name
    old = stored.get_tensor(name)
    if name.endswith("adam_v"):
      # Restored: what a step adds is added to nearly all of the old value.
      assert np.all(value >= 0.998 * old), name
    if name.endswith("_embeddings/adam_v"):
      assert np.any(old > 0), name


def test_a_run_of_the_original_goes_on_here_to_the_same_weights(tmp_path):
  halfway = os.path.join(GOLDENS, "model_halfway", "model.ckpt-5")
  finished = os.path.join(GOLDENS, "model_finished", "model.ckpt-10")
  ours = str(tmp_path / "model.ckpt")
  make_model_goldens.run_steps(halfway, 10, ours)
  expected = tf.train.load_checkpoint(finished)
  actual = tf.train.load_checkpoint(ours + "-10")
  # All that the original needs to go on from our checkpoint.
  assert (actual.get_variable_to_shape_map()
          == expected.get_variable_to_shape_map())
  assert (actual.get_variable_to_dtype_map()
          == expected.get_variable_to_dtype_map())
  start = tf.train.load_checkpoint(halfway)
  changes = []
  for name in expected.get_variable_to_shape_map():
    value = expected.get_tensor(name)
    np.testing.assert_allclose(
        actual.get_tensor(name), value, rtol=0, atol=2e-5, err_msg=name)
    changes.append(np.max(np.abs(value - start.get_tensor(name))))
  assert np.median(changes) > 1e-4
