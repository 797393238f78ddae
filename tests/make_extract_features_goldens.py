"""Makes tests/goldens/extract_features.jsonl with the published original.

  python3.7 -m pip install bert-tensorflow==1.0.4 tensorflow==1.15.5
  python3.7 tests/make_extract_features_goldens.py

Runs the original's script on the lines below, through a tiny model with random
weights. `extract_features_test.py` makes the same model and compares.
"""

import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import tensorflow.compat.v1 as tf

GOLDENS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "goldens")
VOCAB_FILE = os.path.join(GOLDENS, "squad_vocab.txt")
GOLDEN_FILE = os.path.join(GOLDENS, "extract_features.jsonl")

CONFIG = {"vocab_size": 190, "hidden_size": 8, "num_hidden_layers": 3,
          "num_attention_heads": 2, "intermediate_size": 12,
          "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
          "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 32,
          "type_vocab_size": 2, "initializer_range": 0.02}

# A blank line, pairs, several separators, separators that are none, other
# scripts, spaces around, control characters, and texts that are cut.
LINES = [
    "John Smith",
    "Who was the King ? ||| John was.",
    "",
    "  the river bank\t",
    "one ||| two ||| three",
    "the ||| ",
    "||| the",
    "was||| the",
    "Stra\u00dfe caf\u00e9 \u5317\u4eac \u304c\u3093 \u043c\u0438\u0440",
    "the \x00\ufffd\u200d bank\u00a0\u3000",
    "John was the King of Japan and the Queen of the river bank ||| was",
    "a ||| John was the King of Japan and the Queen of the river bank",
    "John, the King, was the Queen of Japan's river bank: \"18-95\" (the end)",
    "(the) ||| \u200d",
    " ||| ",
    "one ||| ||| two",
]
FLAGS = ["--layers=-1,0,-2", "--max_seq_length=14", "--batch_size=5"]


def variable_shapes(config):
  """{variable name: shape} of a model and its pooler, in order."""
  hidden, inner = config["hidden_size"], config["intermediate_size"]
  shapes = {
      "embeddings/word_embeddings": [config["vocab_size"], hidden],
      "embeddings/token_type_embeddings": [config["type_vocab_size"], hidden],
      "embeddings/position_embeddings": [
          config["max_position_embeddings"], hidden],
      "pooler/dense/kernel": [hidden, hidden],
      "pooler/dense/bias": [hidden]}
  norms = ["embeddings"]
  for index in range(config["num_hidden_layers"]):
    layer = "encoder/layer_%d/" % index
    for name, size_in, size_out in (
        ("attention/self/query", hidden, hidden),
        ("attention/self/key", hidden, hidden),
        ("attention/self/value", hidden, hidden),
        ("attention/output/dense", hidden, hidden),
        ("intermediate/dense", hidden, inner),
        ("output/dense", inner, hidden)):
      shapes[layer + name + "/kernel"] = [size_in, size_out]
      shapes[layer + name + "/bias"] = [size_out]
    norms += [layer + "attention/output", layer + "output"]
  for norm in norms:
    shapes[norm + "/LayerNorm/beta"] = [hidden]
    shapes[norm + "/LayerNorm/gamma"] = [hidden]
  return {"bert/" + name: shape for name, shape in shapes.items()}


def write_model(folder):
  """Writes config and checkpoint of the model; returns flags that name them."""
  random = np.random.RandomState(7)
  config_file = os.path.join(folder, "bert_config.json")
  with open(config_file, "w") as writer:
    json.dump(CONFIG, writer)
  with tf.Graph().as_default(), tf.Session() as session:
    for name, shape in variable_shapes(CONFIG).items():
      scale = 0.1 if name.endswith(("beta", "bias")) else 0.5
      value = random.normal(0.0, scale, shape) + name.endswith("gamma")
      tf.get_variable(name, initializer=tf.constant(value, tf.float32))
    session.run(tf.global_variables_initializer())
    checkpoint = tf.train.Saver().save(
        session, os.path.join(folder, "bert_model.ckpt"),
        write_meta_graph=False)
  return ["--bert_config_file=" + config_file,
          "--init_checkpoint=" + checkpoint, "--vocab_file=" + VOCAB_FILE]


def write_lines(path, lines):
  with open(path, "wb") as writer:
    writer.write("".join(line + "\n" for line in lines).encode("utf-8"))
  return "--input_file=" + path


def main():
  with tempfile.TemporaryDirectory() as folder:
    flags = write_model(folder)
    flags.append(write_lines(os.path.join(folder, "input.txt"), LINES))
    flags.append("--output_file=" + GOLDEN_FILE)
    # Not beside this project's modules.
    subprocess.check_call(
        [sys.executable, "-m", "bert.extract_features"] + FLAGS + flags,
        cwd=folder)
  print("%s: %d bytes" % (GOLDEN_FILE, os.path.getsize(GOLDEN_FILE)))


if __name__ == "__main__":
  main()
