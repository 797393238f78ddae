"""Compares run_squad.py with the original on whole SQuAD files.

  python tests/compare_squad.py --data_dir=../shared/data \\
    --original_python=reference/bin/python

For each case below, both sides make the features of a file and, out of the
same random logits, the answer files. Compared are digests of every example's
and every feature's every field, and of every answer file. The original is the
package `bert` of `--original_python` (bert-tensorflow 1.0.4, TensorFlow 1.15).
Ends with status 1 when a case differs.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile

import make_squad_goldens

HERE = os.path.dirname(os.path.abspath(__file__))
VOCABS = {True: "uncased_base", False: "cased_base"}


def case(data, training, lower=True, lengths=(384, 128, 64), n_best_size=20,
         max_answer_length=30, threshold=0.0, seed=1, decimals=3):
  """A dict; `lengths` are max_seq_length, doc_stride, max_query_length."""
  return dict(locals())


# For SQuAD 2.0 the original stops where a question has no candidate, so that
# n_best_size cannot be small there.
CASES = [
    case("dev-v1.1", False),
    case("dev-v1.1", False, False, (128, 32, 20), 5, 8, seed=2, decimals=0),
    case("dev-v1.1", False, True, (64, 50, 10), 1, 100, seed=3, decimals=1),
    case("dev-v2.0-half", False, seed=4),
    case("dev-v2.0-half", False, True, (96, 16, 24), 30, 15, -2.0, 5, 0),
    case("dev-v2.0-half", False, False, (256, 200, 3), 20, 30, 1.5, 6, 1),
    case("dev-v2.0-half", False, True, (512, 128, 64), 64, 30, 0.5, 7),
    case("train-v1.1", True),
    case("train-v1.1", True, False, (200, 64, 12)),
    case("train-v2.0", True),
    case("train-v2.0", True, True, (128, 128, 64)),
]


def question_file(name, data_dir, folder):
  """Path of a case's file; a training file of 2.0 is made of the half.

  Training takes one answer a question, so the first one stays.
  """
  squad = os.path.join(data_dir, "squad")
  if name != "train-v2.0":
    return os.path.join(squad, name + ".json")
  with open(os.path.join(squad, "dev-v2.0-half.json")) as reader:
    content = json.load(reader)
  for article in content["data"]:
    for paragraph in article["paragraphs"]:
      for question in paragraph["qas"]:
        question["answers"] = question["answers"][:1]
  path = os.path.join(folder, "train-v2.0.json")
  with open(path, "w") as writer:
    json.dump(content, writer)
  return path


class Digest(object):
  """A checksum of everything added, through its JSON."""

  def __init__(self):
    self._hash = hashlib.sha256()
    self.count = 0

  def add(self, value):
    self.count += 1
    self._hash.update(json.dumps(value, sort_keys=True).encode("ascii"))

  def __str__(self):
    return "%d %s" % (self.count, self._hash.hexdigest()[:16])


def run_case(run_squad, tokenization, setting, data_dir, folder):
  """Digests of one side: of examples, features and files, by name."""
  run_squad.FLAGS([
      "compare",
      "--version_2_with_negative=%s" % ("v2" in setting["data"]),
      "--null_score_diff_threshold=%s" % setting["threshold"]])
  tokenizer = tokenization.FullTokenizer(
      os.path.join(data_dir, "vocab", VOCABS[setting["lower"]], "vocab.txt"),
      do_lower_case=setting["lower"])
  examples = run_squad.read_squad_examples(
      question_file(setting["data"], data_dir, folder), setting["training"])
  of_examples, of_features = Digest(), Digest()
  for example in examples:
    of_examples.add(vars(example))
  features, results = [], []

  def keep(feature):
    of_features.add(make_squad_goldens.feature_fields(feature))
    if not setting["training"]:
      feature.input_ids = feature.input_mask = feature.segment_ids = None
      features.append(feature)
      # Padding, of which there may be most, is no answer to a trained model.
      padding = [-20.0] * (setting["lengths"][0] - len(feature.tokens))
      results.append(run_squad.RawResult(feature.unique_id, *[
          make_squad_goldens.random_logits(
              setting["seed"] + side, feature.unique_id, len(feature.tokens),
              setting["decimals"]) + padding
          for side in (0, 100)]))

  run_squad.convert_examples_to_features(
      examples, tokenizer, *setting["lengths"],
      is_training=setting["training"], output_fn=keep)
  digests = {"examples": str(of_examples), "features": str(of_features)}
  if setting["training"]:
    return digests
  names = ["predictions.json", "nbest_predictions.json", "null_odds.json"]
  paths = [os.path.join(folder, name) for name in names]
  for path in paths:
    if os.path.exists(path):
      os.remove(path)
  run_squad.write_predictions(
      examples, features, results, setting["n_best_size"],
      setting["max_answer_length"], setting["lower"], *paths)
  for name, path in zip(names, paths):
    if os.path.exists(path):
      with open(path, "rb") as reader:
        digests[name] = hashlib.sha256(reader.read()).hexdigest()[:16]
  return digests


def run_side(side, data_dir, index):
  """Prints a case's digests as JSON, the last line of the output."""
  if side == "original":
    from bert import run_squad, tokenization
  else:
    sys.path.insert(0, os.path.dirname(HERE))
    import run_squad
    import tokenization
  digests = run_case(run_squad, tokenization, CASES[index], data_dir,
                     tempfile.mkdtemp())
  print("\n" + json.dumps(digests, sort_keys=True))


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--data_dir", required=True)
  parser.add_argument("--original_python")
  parser.add_argument("--cases", help="numbers from 0, comma separated")
  parser.add_argument("--side", help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  data_dir = os.path.abspath(arguments.data_dir)
  indexes = range(len(CASES))
  if arguments.cases:
    indexes = map(int, arguments.cases.split(","))
  if arguments.side:
    run_side(arguments.side, data_dir, next(iter(indexes)))
    return
  failed = False
  for index in indexes:
    digests = {}
    for side, python in (("ours", sys.executable),
                         ("original", arguments.original_python)):
      output = subprocess.check_output(
          [python, os.path.abspath(__file__), "--side=" + side,
           "--data_dir=" + data_dir, "--cases=%d" % index],
          stderr=subprocess.DEVNULL, cwd=tempfile.gettempdir())
      digests[side] = json.loads(output.decode("ascii").splitlines()[-1])
    equal = digests["ours"] == digests["original"]
    failed = failed or not equal
    print("%s %s\n  %s" % ("equal " if equal else "DIFFER", CASES[index],
                           digests["ours"] if equal else digests), flush=True)
  sys.exit(failed)


if __name__ == "__main__":
  main()
