"""Makes tests/goldens/model*: what the published original computes.

Run it with the Python of the original (TensorFlow 1.15, package `bert`), from
the root of the project:

  python tests/make_model_goldens.py goldens

Two more modes show that a training run can change hands. They run with either
implementation (`bert.modeling` where there is a package `bert`, else this
project's modules, found with `PYTHONPATH=.`), each time on the same tiny task:

  python tests/make_model_goldens.py train --steps=5 --save=/tmp/a
  python tests/make_model_goldens.py train --resume=/tmp/a --steps=10 \
      --save=/tmp/b
  python tests/make_model_goldens.py compare --checkpoints=/tmp/b,/tmp/c
"""

import argparse
import json
import os
import zlib
from unittest import mock

import numpy as np
import tensorflow.compat.v1 as tf

try:
  from bert import modeling, optimization, run_classifier
except ImportError:
  import modeling
  import optimization
  import run_classifier

GOLDENS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "goldens")
NUM_LABELS = 3
NUM_BATCHES = 4
NUM_STEPS = 20
INIT_LR = 2e-4
NUM_WARMUP_STEPS = 6

# Name: config, one-hot embeddings, batch size, length, mask, token types.
# A mask is None, "prefix" (padding at the end) or "holes".
CASES = {
    "gelu_prefix": (
        dict(vocab_size=31, hidden_size=16, num_hidden_layers=2,
             num_attention_heads=4, intermediate_size=24, hidden_act="gelu",
             max_position_embeddings=12, type_vocab_size=2),
        False, 4, 9, "prefix", True),
    "gelu_prefix_one_hot": (
        dict(vocab_size=31, hidden_size=16, num_hidden_layers=2,
             num_attention_heads=4, intermediate_size=24, hidden_act="gelu",
             max_position_embeddings=12, type_vocab_size=2),
        True, 4, 9, "prefix", True),
    "relu_holes": (
        dict(vocab_size=17, hidden_size=24, num_hidden_layers=1,
             num_attention_heads=3, intermediate_size=40, hidden_act="relu",
             max_position_embeddings=8, type_vocab_size=3),
        False, 3, 8, "holes", True),
    "tanh_no_mask": (
        dict(vocab_size=23, hidden_size=8, num_hidden_layers=3,
             num_attention_heads=2, intermediate_size=32, hidden_act="tanh",
             max_position_embeddings=16, type_vocab_size=16),
        False, 2, 5, None, False),
    "linear_no_types": (
        dict(vocab_size=40, hidden_size=12, num_hidden_layers=2,
             num_attention_heads=1, intermediate_size=12, hidden_act="linear",
             max_position_embeddings=7, type_vocab_size=2),
        True, 5, 7, "prefix", False),
    "one_head_one_token": (
        dict(vocab_size=9, hidden_size=8, num_hidden_layers=1,
             num_attention_heads=8, intermediate_size=16, hidden_act="gelu",
             max_position_embeddings=4, type_vocab_size=1),
        False, 1, 1, "prefix", True),
}


def make_inputs(case, random):
  """Returns {name: int32 array [NUM_BATCHES, ...]} for a case."""
  config, _, batch_size, length, mask_kind, has_types = case
  shape = (NUM_BATCHES, batch_size, length)
  inputs = {
      "input_ids": random.randint(0, config["vocab_size"], shape),
      "labels": random.randint(0, NUM_LABELS, shape[:2]),
  }
  if mask_kind == "prefix":
    lengths = random.randint(1, length + 1, shape[:2])
    inputs["input_mask"] = np.arange(length) < lengths[:, :, None]
  elif mask_kind == "holes":
    inputs["input_mask"] = random.uniform(size=shape) < 0.6
    inputs["input_mask"][:, :, 0] = True
  if has_types:
    inputs["token_type_ids"] = random.randint(
        0, config["type_vocab_size"], shape)
  return {name: value.astype(np.int32) for name, value in inputs.items()}


def make_weights(variables, random):
  """Returns {variable name: float32 array}, large enough for curved layers."""
  weights = {}
  for variable in variables:
    name = variable.op.name
    scale = 0.1 if name.split("/")[-1] in ("beta", "bias") else 0.3
    value = random.normal(0.0, scale, variable.shape.as_list())
    weights[name] = (value + name.endswith("gamma")).astype(np.float32)
  return weights


def build_placeholders(inputs):
  return {
      name: tf.placeholder(tf.int32, value.shape[1:], name)
      for name, value in inputs.items()}


def feed(placeholders, inputs, step):
  return {
      placeholders[name]: inputs[name][step % NUM_BATCHES]
      for name in placeholders}


def build_loss(config, one_hot, placeholders):
  """Returns the loss of the classifier, without any dropout."""
  return run_classifier.create_model(
      modeling.BertConfig(**config), False, placeholders["input_ids"],
      placeholders.get("input_mask"), placeholders.get("token_type_ids"),
      placeholders["labels"], NUM_LABELS, one_hot)[0]


def forward_outputs(case, weights, inputs):
  """Returns the model's outputs for the first batch."""
  config, one_hot = case[:2]
  with tf.Graph().as_default(), tf.Session() as session:
    placeholders = build_placeholders(inputs)
    model = modeling.BertModel(
        modeling.BertConfig(**config), False, placeholders["input_ids"],
        placeholders.get("input_mask"), placeholders.get("token_type_ids"),
        one_hot)
    tensors = {
        "embedding_output": model.get_embedding_output(),
        "sequence_output": model.get_sequence_output(),
        "pooled_output": model.get_pooled_output(),
        "all_encoder_layers": tf.stack(model.get_all_encoder_layers()),
    }
    load_weights(session, weights)
    return session.run(tensors, feed(placeholders, inputs, 0))


def build_train_op(loss):
  """Returns the train op, its learning rate always that of the step.

  In the original nothing keeps the increment of the global step from running
  before the learning rate reads it, so that a run now and then takes the next
  step's rate. Here the increment waits for the updates.
  """
  train_op = optimization.create_optimizer(
      loss, INIT_LR, NUM_STEPS, NUM_WARMUP_STEPS, False)
  increments = [
      operation for operation in train_op.control_inputs
      if operation.type == "Assign"
      and operation.inputs[0].op.name == "global_step"]
  for increment in increments:
    increment._add_control_inputs([
        operation for operation in train_op.control_inputs
        if operation is not increment])
  return train_op


def load_weights(session, weights):
  session.run(tf.global_variables_initializer())
  for variable in tf.trainable_variables():
    variable.load(weights[variable.op.name], session)


def train(case, random):
  """Returns everything that the golden file of a case holds."""
  config, one_hot = case[:2]
  inputs = make_inputs(case, random)
  golden = {"input/" + name: value for name, value in inputs.items()}
  golden["config"] = json.dumps(config, sort_keys=True)
  golden["one_hot"] = one_hot
  with tf.Graph().as_default(), tf.Session() as session:
    placeholders = build_placeholders(inputs)
    loss = build_loss(config, one_hot, placeholders)
    variables = tf.trainable_variables()
    gradients = tf.gradients(loss, variables)
    global_norm = tf.global_norm(gradients)
    # In a scope, as an operation of the train step has that name otherwise.
    with tf.name_scope("dense"):
      dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
    train_op = build_train_op(loss)
    weights = make_weights(variables, random)
    load_weights(session, weights)

    golden["global_norm"] = session.run(
        global_norm, feed(placeholders, inputs, 0))
    values = session.run(dense, feed(placeholders, inputs, 0))
    for variable, value in zip(variables, values):
      golden["weight/" + variable.op.name] = weights[variable.op.name]
      golden["gradient/" + variable.op.name] = value
    golden["losses"] = np.array([
        session.run([loss, train_op], feed(placeholders, inputs, step))[0]
        for step in range(NUM_STEPS)])
    for variable, value in zip(
        tf.global_variables(), session.run(tf.global_variables())):
      golden["final/" + variable.op.name] = value
    golden["creation_order"] = np.array(
        [variable.op.name for variable in tf.global_variables()])
  for name, value in forward_outputs(case, weights, inputs).items():
    golden["output/" + name] = value
  return golden


def make_learning_rates():
  """Returns {"peak steps warm-up": the rate at each step and beyond}."""
  rates = {}
  for settings in (
      (5e-5, 13, 0), (2e-5, 20, 6), (1e-4, 10, 10), (3e-5, 7, 20)):
    with tf.Graph().as_default(), tf.Session() as session:
      weight = tf.get_variable("w", [], initializer=tf.ones_initializer())
      with mock.patch.object(
          optimization, "AdamWeightDecayOptimizer") as optimizer:
        optimizer.return_value.apply_gradients.return_value = tf.no_op()
        train_op = optimization.create_optimizer(
            weight * 1.0, settings[0], settings[1], settings[2], False)
      rate = optimizer.call_args[1]["learning_rate"]
      session.run(tf.global_variables_initializer())
      values = []
      for _ in range(settings[1] + 3):
        values.append(float(session.run(rate)))
        session.run(train_op)
      rates["%g %d %d" % settings] = values
  return rates


def make_goldens():
  """Writes a file per case, the learning rates and a checkpoint."""
  for name in sorted(CASES):
    # The same weights and inputs for both forms of the embeddings.
    seed = zlib.crc32(name.replace("_one_hot", "").encode("ascii"))
    golden = train(CASES[name], np.random.RandomState(seed))
    path = os.path.join(GOLDENS, "model_%s.npz" % name)
    np.savez_compressed(path, **golden)
    print("%s: %d bytes, loss %s to %s, gradient norm %s" % (
        path, os.path.getsize(path), golden["losses"][0], golden["losses"][-1],
        golden["global_norm"]))
  rates_path = os.path.join(GOLDENS, "model_learning_rates.json")
  with open(rates_path, "w") as writer:
    json.dump(make_learning_rates(), writer, indent=1)
    writer.write("\n")
  halfway = os.path.join(GOLDENS, "model_halfway", "model.ckpt")
  run_steps(None, 5, halfway)
  run_steps(halfway + "-5", 10, os.path.join(
      GOLDENS, "model_finished", "model.ckpt"))


RESUMED_CASE = "gelu_prefix"


def run_steps(resume, last_step, save):
  """Trains the tiny task up to a step, from a checkpoint or from scratch."""
  case = CASES[RESUMED_CASE]
  random = np.random.RandomState(1)
  inputs = make_inputs(case, random)
  with tf.Graph().as_default(), tf.Session() as session:
    placeholders = build_placeholders(inputs)
    loss = build_loss(case[0], case[1], placeholders)
    train_op = build_train_op(loss)
    load_weights(session, make_weights(tf.trainable_variables(), random))
    saver = tf.train.Saver()
    if resume:
      saver.restore(session, resume)
    global_step = tf.train.get_global_step()
    step = session.run(global_step)
    while step < last_step:
      value, _ = session.run(
          [loss, train_op], feed(placeholders, inputs, step))
      print("step %d: loss %.9g" % (step, value))
      step = session.run(global_step)
    tf.gfile.MakeDirs(os.path.dirname(save))
    print(saver.save(
        session, save, global_step, write_meta_graph=False, write_state=False))


def compare(first, second):
  """Prints how far apart the variables of two checkpoints are."""
  readers = [tf.train.load_checkpoint(path) for path in (first, second)]
  shapes = [reader.get_variable_to_shape_map() for reader in readers]
  print("same names and shapes: %s (%d variables)" % (
      shapes[0] == shapes[1], len(shapes[0])))
  differences = {
      name: np.max(np.abs(
          np.subtract(*[reader.get_tensor(name) for reader in readers])))
      for name in shapes[0]}
  for suffix in ("adam_m", "adam_v", "global_step", ""):
    names = [name for name in differences if name.endswith(suffix)]
    worst = max(names, key=differences.get)
    print("largest difference in %s: %g (%s)" % (
        suffix or "all", differences[worst], worst))


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("mode", choices=["goldens", "train", "compare"])
  parser.add_argument("--steps", type=int, default=10)
  parser.add_argument("--resume", help="checkpoint to start from")
  parser.add_argument("--save", help="prefix of the checkpoint to write")
  parser.add_argument("--checkpoints", help="two prefixes, comma separated")
  arguments = parser.parse_args()
  if arguments.mode == "goldens":
    make_goldens()
  elif arguments.mode == "train":
    run_steps(arguments.resume, arguments.steps, arguments.save)
  else:
    compare(*arguments.checkpoints.split(","))


if __name__ == "__main__":
  main()
