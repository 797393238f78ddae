"""Makes tests/goldens/run_pretraining_*.npz: what the original computes.

Losses, log probabilities, gradients, metrics and a short training of both
pre-training tasks. Run it with the Python of the original (TensorFlow 1.15,
package `bert`), from the root of the project:

  python tests/make_run_pretraining_goldens.py
"""

import json
import os
import zlib

import numpy as np
import tensorflow.compat.v1 as tf
from bert import modeling, run_pretraining

GOLDENS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "goldens")
# The last batch is a partial one.
BATCH_SIZES = [4, 4, 4, 3]
# In these batches nothing is masked.
EMPTY_BATCHES = [2]
GRADIENT_BATCHES = [0, 2]
NUM_TRAIN_STEPS = 8
NUM_WARMUP_STEPS = 3
LEARNING_RATE = 2e-3

# Name: config, sequence length, most predictions in a sequence.
CASES = {
    "gelu": (
        dict(vocab_size=31, hidden_size=16, num_hidden_layers=2,
             num_attention_heads=4, intermediate_size=24, hidden_act="gelu",
             max_position_embeddings=12, type_vocab_size=2), 11, 4),
    "relu": (
        dict(vocab_size=23, hidden_size=8, num_hidden_layers=2,
             num_attention_heads=2, intermediate_size=20, hidden_act="relu",
             max_position_embeddings=9, type_vocab_size=2), 9, 3),
}


def make_records(vocab_size, length, most, random):
  """Returns {name: array [sum(BATCH_SIZES), ...]} of random records."""
  batches = np.repeat(np.arange(len(BATCH_SIZES)), BATCH_SIZES)
  count = len(batches)
  # Every number of tokens and of predictions occurs early on.
  lengths = 2 + (np.arange(count) * 5) % (length - 1)
  predictions = np.minimum(np.arange(count) % (most + 1), lengths)
  predictions[np.isin(batches, EMPTY_BATCHES)] = 0
  real = np.arange(length) < lengths[:, None]
  segments = np.arange(length) >= random.randint(1, lengths)[:, None]
  masked = np.arange(most) < predictions[:, None]
  positions = np.zeros([count, most], np.int32)
  for row, number in enumerate(predictions):
    positions[row, :number] = np.sort(
        random.choice(lengths[row], number, replace=False))
  return {
      "input_ids": (random.randint(1, vocab_size, real.shape) * real).astype(
          np.int32),
      "input_mask": real.astype(np.int32),
      "segment_ids": (segments * real).astype(np.int32),
      "masked_lm_positions": positions,
      "masked_lm_ids": (random.randint(1, vocab_size, masked.shape) *
                        masked).astype(np.int32),
      "masked_lm_weights": masked.astype(np.float32),
      "next_sentence_labels": random.randint(0, 2, [count, 1]).astype(
          np.int32),
  }


def make_weights(variables, random):
  """Returns {variable name: float32 array}, large enough for curved layers."""
  weights = {}
  for variable in variables:
    name = variable.op.name
    scale = 0.1 if name.split("/")[-1] in ("beta", "bias") else 0.3
    value = random.normal(0.0, scale, variable.shape.as_list())
    weights[name] = (value + name.endswith("gamma")).astype(np.float32)
  return weights


def build_placeholders(records):
  return {name: tf.placeholder(value.dtype, (None,) + value.shape[1:], name)
          for name, value in records.items()}


def make_feeds(placeholders, records):
  """A feed for each batch."""
  ends = np.cumsum(BATCH_SIZES)
  return [{placeholders[name]: records[name][end - size:end]
           for name in records} for size, end in zip(BATCH_SIZES, ends)]


def load_weights(session, weights):
  session.run([tf.global_variables_initializer(),
               tf.local_variables_initializer()])
  for variable in tf.trainable_variables():
    variable.load(weights[variable.op.name], session)


def build_outputs(config, one_hot, features):
  """Returns the tensors of both heads by name."""
  model = modeling.BertModel(
      config, True, features["input_ids"], features["input_mask"],
      features["segment_ids"], one_hot)
  names = ["loss", "losses", "log_probs"]
  outputs = dict(zip(["masked_lm_" + name for name in names],
                     run_pretraining.get_masked_lm_output(
                         config, model.get_sequence_output(),
                         model.get_embedding_table(),
                         features["masked_lm_positions"],
                         features["masked_lm_ids"],
                         features["masked_lm_weights"])))
  outputs.update(zip(["next_sentence_" + name for name in names],
                     run_pretraining.get_next_sentence_output(
                         config, model.get_pooled_output(),
                         features["next_sentence_labels"])))
  outputs["loss"] = (
      outputs["masked_lm_loss"] + outputs["next_sentence_loss"])
  return outputs


def compute_outputs(config, one_hot, records, random, weights=None):
  """Returns weights and golden values of both heads and their gradients."""
  golden = {}
  with tf.Graph().as_default(), tf.Session() as session:
    placeholders = build_placeholders(records)
    outputs = build_outputs(config, one_hot, placeholders)
    variables = tf.trainable_variables()
    gradients = tf.gradients(outputs["loss"], variables)
    norm = tf.global_norm(gradients)
    dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
    weights = weights or make_weights(variables, random)
    load_weights(session, weights)
    feeds = make_feeds(placeholders, records)
    golden["global_norms"] = np.array(
        [session.run(norm, feed) for feed in feeds])
    for batch, feed in enumerate(feeds):
      for name, value in session.run(outputs, feed).items():
        golden["output/%d/%s" % (batch, name)] = value
    for batch in GRADIENT_BATCHES:
      values = session.run(dense, feeds[batch])
      for variable, value in zip(variables, values):
        golden["gradient/%d/%s" % (batch, variable.op.name)] = value
  return weights, golden


def build_spec(config, mode, features):
  model_fn = run_pretraining.model_fn_builder(
      config, None, LEARNING_RATE, NUM_TRAIN_STEPS, NUM_WARMUP_STEPS,
      use_tpu=False, use_one_hot_embeddings=False)
  return model_fn(features, None, mode, {})


def compute_metrics(config, records, weights):
  """Returns the metrics after all batches, by name."""
  with tf.Graph().as_default(), tf.Session() as session:
    placeholders = build_placeholders(records)
    spec = build_spec(config, tf.estimator.ModeKeys.EVAL, placeholders)
    metrics = spec.eval_metrics[0](*spec.eval_metrics[1])
    load_weights(session, weights)
    for feed in make_feeds(placeholders, records):
      session.run([update for _, update in metrics.values()], feed)
    return session.run({name: value for name, (value, _) in metrics.items()})


def increment_last(train_op):
  """Makes the global step's increment wait for the updates.

  Nothing in the original keeps it from running before the learning rate is
  read, so that a run now and then takes the next step's rate.
  """
  operations = train_op.control_inputs
  for operation in operations:
    if (operation.type == "Assign"
        and operation.inputs[0].op.name == "global_step"):
      operation._add_control_inputs(
          [other for other in operations if other is not operation])


def compute_training(config, records, weights):
  """Returns the losses of a short training and the weights it ends with."""
  with tf.Graph().as_default(), tf.Session() as session:
    placeholders = build_placeholders(records)
    tf.train.get_or_create_global_step()
    spec = build_spec(config, tf.estimator.ModeKeys.TRAIN, placeholders)
    increment_last(spec.train_op)
    load_weights(session, weights)
    feeds = make_feeds(placeholders, records)
    losses = [session.run([spec.loss, spec.train_op],
                          feeds[step % len(feeds)])[0]
              for step in range(NUM_TRAIN_STEPS)]
    golden = {"training_losses": np.array(losses)}
    for variable in tf.trainable_variables():
      golden["final/" + variable.op.name] = session.run(variable)
  return golden


def make_golden(name):
  """Returns all arrays of a case."""
  settings, length, most = CASES[name]
  config = modeling.BertConfig(
      hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **settings)
  random = np.random.RandomState(zlib.crc32(name.encode("ascii")))
  records = make_records(config.vocab_size, length, most, random)
  weights, golden = compute_outputs(config, False, records, random)
  # The form of the embeddings shows in the norm only.
  _, one_hot = compute_outputs(config, True, records, random, weights)
  golden["global_norms_one_hot"] = one_hot["global_norms"]
  golden.update(compute_training(config, records, weights))
  for part, arrays in (
      ("record", records), ("weight", weights),
      ("metric", compute_metrics(config, records, weights))):
    golden.update({part + "/" + key: arrays[key] for key in arrays})
  golden["config"] = json.dumps(config.to_dict(), sort_keys=True)
  golden["batch_sizes"] = np.array(BATCH_SIZES)
  return golden


def main():
  for name in sorted(CASES):
    golden = make_golden(name)
    path = os.path.join(GOLDENS, "run_pretraining_%s.npz" % name)
    np.savez_compressed(path, **golden)
    print("%s: %d bytes" % (path, os.path.getsize(path)))
    for key in sorted(golden):
      if key.startswith(("metric/", "global", "training")):
        print("  %s: %s" % (key, golden[key]))


if __name__ == "__main__":
  main()
