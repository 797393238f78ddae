"""Compares the model and its training with what the original computes.

tests/goldens/model_*.npz, made by tests/make_model_goldens.py, hold for several
small configurations the weights, inputs, outputs, gradients, and all variables
after 20 training steps of the published original (TensorFlow 1.15).

  pytest tests/parity_test.py
"""

import functools
import glob
import json
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import modeling
import optimization

GOLDENS = sorted(glob.glob(
    os.path.join(os.path.dirname(__file__), "goldens", "model_*.npz")))
TOLERANCE = 2e-5
NUM_STEPS = 20


def part(arrays, prefix):
  return {name[len(prefix):]: value for name, value in arrays.items()
          if name.startswith(prefix)}


def assert_close(actual, expected, context=""):
  np.testing.assert_allclose(
      actual, expected, rtol=0, atol=TOLERANCE, err_msg=context)


class Classifier:
  """The model, the head and the loss of run_classifier, without dropout."""

  def __init__(self, golden, form):
    self.inputs = part(golden, "input/")
    self.placeholders = {
        name: tf.placeholder(tf.int32, value.shape[1:])
        for name, value in self.inputs.items()}
    config = modeling.BertConfig.from_dict(json.loads(str(golden["config"])))
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    modeling.MIN_FUSED_WIDTH = 1 if "fused" in form else 1 << 30
    model = modeling.BertModel(
        config, True, self.placeholders["input_ids"],
        self.placeholders.get("input_mask"),
        self.placeholders.get("token_type_ids"), bool(golden["one_hot"]),
        real_tokens_only="real tokens" in form)
    assert ("fused" in form) == any(
        op.type.endswith("PartitionedCall")
        for op in tf.get_default_graph().get_operations())
    shape = golden["weight/output_weights"].shape
    logits = tf.nn.bias_add(
        tf.matmul(model.get_pooled_output(),
                  tf.get_variable("output_weights", shape), transpose_b=True),
        tf.get_variable("output_bias", shape[:1]))
    self.loss = tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=self.placeholders["labels"], logits=logits))
    self.outputs = {
        "embedding_output": model.get_embedding_output(),
        "sequence_output": model.get_sequence_output(),
        "pooled_output": model.get_pooled_output(),
        "all_encoder_layers": tf.stack(model.get_all_encoder_layers()),
    }

  def feed(self, step):
    return {
        placeholder: self.inputs[name][step % len(self.inputs[name])]
        for name, placeholder in self.placeholders.items()}


def initialize(session, weights):
  """Runs all initializers, those of the weights with the given values."""
  initializers = [variable.initializer for variable in tf.global_variables()]
  session.run(initializers, {
      initializer.inputs[1]: weights[variable.op.name]
      for variable, initializer in zip(tf.global_variables(), initializers)
      if variable.op.name in weights})


@functools.lru_cache(maxsize=None)
def computed(path, form):
  """Returns what the golden file of that path holds, and ours of the same."""
  with np.load(path) as arrays:
    golden = {name: arrays[name] for name in arrays.files}
  ours = {}
  with tf.Graph().as_default(), tf.Session() as session:
    classifier = Classifier(golden, form)
    variables = tf.trainable_variables()
    gradients = tf.gradients(classifier.loss, variables)
    norm = tf.linalg.global_norm(gradients)
    dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
    train_op = optimization.create_optimizer(
        classifier.loss, 2e-4, NUM_STEPS, 6, False)
    initialize(session, part(golden, "weight/"))
    outputs, ours["global_norm"], dense = session.run(
        [classifier.outputs, norm, dense], classifier.feed(0))
    ours["losses"] = [
        session.run([classifier.loss, train_op], classifier.feed(step))[0]
        for step in range(NUM_STEPS)]
    names = [variable.op.name for variable in tf.global_variables()]
    final = session.run(tf.global_variables())
  ours.update({"output/" + name: outputs[name] for name in outputs})
  ours.update({"gradient/" + name: value for name, value in zip(names, dense)})
  ours.update({"final/" + name: value for name, value in zip(names, final)})
  ours["creation_order"] = names
  return golden, ours


@pytest.fixture(params=GOLDENS, ids=lambda path: os.path.basename(path)[6:-4])
def path(request):
  return request.param


@pytest.fixture(params=[
    "padded", "padded, fused", "real tokens", "real tokens, fused"])
def form(request, monkeypatch):
  if "fused" in request.param:
    request.getfixturevalue("compiler")
  monkeypatch.setattr(modeling, "MIN_FUSED_WIDTH", modeling.MIN_FUSED_WIDTH)
  return request.param


def test_outputs_equal_the_originals(path, form):
  golden, ours = computed(path, form)
  expected, outputs = part(golden, "output/"), part(ours, "output/")
  assert set(expected) == set(outputs)
  mask = 1
  if "real tokens" in form and "input/input_mask" in golden:
    mask = golden["input/input_mask"][0][:, :, None]
  for name, value in outputs.items():
    if name != "pooled_output":
      expected[name] = expected[name] * mask
    assert_close(value, expected[name], name)


def test_gradients_equal_the_originals(path, form):
  golden, ours = computed(path, form)
  expected, gradients = part(golden, "gradient/"), part(ours, "gradient/")
  assert list(gradients) == list(expected)
  for name in expected:
    assert_close(gradients[name], expected[name], name)
  np.testing.assert_allclose(
      ours["global_norm"], golden["global_norm"], rtol=TOLERANCE)


def test_losses_of_training_equal_the_originals(path, form):
  golden, ours = computed(path, form)
  assert_close(ours["losses"], golden["losses"])


def test_trained_weights_and_moments_equal_the_originals(path, form):
  golden, ours = computed(path, form)
  expected, final = part(golden, "final/"), part(ours, "final/")
  assert list(final) == list(golden["creation_order"])
  for name in expected:
    assert_close(final[name], expected[name], name)
  change = golden["final/output_weights"] - golden["weight/output_weights"]
  assert np.max(np.abs(change)) > 50 * TOLERANCE


def test_clipping_norm_tells_repeated_words_apart():
  norms = [
      np.load(path)["global_norm"] for path in GOLDENS if "gelu" in path]
  assert len(norms) == 2 and abs(norms[0] - norms[1]) > 1e-2
