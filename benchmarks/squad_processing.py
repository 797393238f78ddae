"""Speed of run_squad's work before and after the model, beside the original's.

  python benchmarks/squad_processing.py --squad_file=dev-v1.1.json \\
    --vocab_file=vocab.txt --original_python=reference/bin/python

Reads the first paragraphs of a SQuAD file, cuts their questions into features,
writes these to a TFRecord file, and turns random logits into the answer files.
Every contender runs in a process of its own, in turns; the table shows median
seconds of processor time, how many times faster ours is, and how far memory
grew beyond what the imports take. The answer files of both are compared byte
for byte.

`--original_python` is a Python with the packages `bert-tensorflow` 1.0.4 and
`tensorflow` 1.15. Without it only ours is measured.
"""

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STAGES = ("features", "answers")
MAX_SEQ_LENGTH, DOC_STRIDE, MAX_QUERY_LENGTH = 384, 128, 64
N_BEST_SIZE, MAX_ANSWER_LENGTH = 20, 30


def parse_arguments():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--squad_file", required=True, help="SQuAD 1.1 JSON")
  parser.add_argument("--vocab_file", required=True, help="uncased vocab.txt")
  parser.add_argument("--original_python", help="see above")
  parser.add_argument("--paragraphs", type=int, default=300)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--contender", help=argparse.SUPPRESS)
  return parser.parse_args()


def first_paragraphs(path, count):
  """The start of a SQuAD file, as its JSON content."""
  with open(path) as reader:
    articles = json.load(reader)["data"]
  for article in articles:
    article["paragraphs"] = article["paragraphs"][:max(count, 0)]
    count -= len(article["paragraphs"])
  return {"data": articles}


def load_contender(name):
  """The modules (run_squad, tokenization) of "ours" or "original"."""
  if name == "original":
    from bert import run_squad, tokenization
  else:
    sys.path.insert(0, PROJECT)
    import run_squad
    import tokenization
  run_squad.FLAGS(["benchmark"])
  return run_squad, tokenization


def make_results(run_squad, features):
  """Random logits as an Estimator's predictions are handed over."""
  import numpy as np
  rng = np.random.RandomState(0)
  return [run_squad.RawResult(
      feature.unique_id, *rng.randn(2, MAX_SEQ_LENGTH).tolist())
          for feature in features]


def peak_megabytes():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_contender(arguments):
  """Prints a line of JSON: seconds per stage, memory, digest of the files."""
  run_squad, tokenization = load_contender(arguments.contender)
  megabytes = peak_megabytes()
  tokenizer = tokenization.FullTokenizer(arguments.vocab_file, True)
  folder = tempfile.mkdtemp()
  features = []
  seconds = {}

  start = time.process_time()
  examples = run_squad.read_squad_examples(arguments.squad_file, False)
  writer = run_squad.FeatureWriter(
      os.path.join(folder, "eval.tf_record"), False)

  def keep_and_write(feature):
    features.append(feature)
    writer.process_feature(feature)

  run_squad.convert_examples_to_features(
      examples, tokenizer, MAX_SEQ_LENGTH, DOC_STRIDE, MAX_QUERY_LENGTH, False,
      keep_and_write)
  writer.close()
  seconds["features"] = time.process_time() - start

  results = make_results(run_squad, features)
  paths = [os.path.join(folder, name) for name in ("p.json", "n.json", "o")]
  start = time.process_time()
  run_squad.write_predictions(examples, features, results, N_BEST_SIZE,
                              MAX_ANSWER_LENGTH, True, *paths)
  seconds["answers"] = time.process_time() - start

  digest = hashlib.sha256()
  for path in paths[:2]:
    with open(path, "rb") as reader:
      digest.update(reader.read())
  print(json.dumps({
      "seconds": seconds, "features": len(features),
      "questions": len(examples), "digest": digest.hexdigest(),
      "megabytes": peak_megabytes() - megabytes}))


def measure(python, contender, squad_file, vocab_file):
  command = [python, os.path.abspath(__file__), "--contender=" + contender,
             "--squad_file=" + squad_file, "--vocab_file=" + vocab_file]
  output = subprocess.run(command, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=True).stdout
  return json.loads(output.decode().splitlines()[-1])


def median_seconds(runs):
  """{stage: median seconds} with the sum under "both"."""
  medians = {stage: statistics.median(run["seconds"][stage] for run in runs)
             for stage in STAGES}
  medians["both"] = sum(medians.values())
  return medians


def main():
  arguments = parse_arguments()
  if arguments.contender:
    run_contender(arguments)
    return
  pythons = {"ours": sys.executable}
  if arguments.original_python:
    pythons["original"] = arguments.original_python
  runs = {name: [] for name in pythons}
  with tempfile.TemporaryDirectory() as folder:
    squad_file = os.path.join(folder, "squad.json")
    with open(squad_file, "w") as writer:
      json.dump(first_paragraphs(arguments.squad_file, arguments.paragraphs),
                writer)
    for _ in range(arguments.rounds):
      for name, python in pythons.items():
        runs[name].append(
            measure(python, name, squad_file, arguments.vocab_file))

  first = runs["ours"][0]
  print("%d paragraphs, %d questions, %d features of %d tokens" % (
      arguments.paragraphs, first["questions"], first["features"],
      MAX_SEQ_LENGTH))
  medians = {name: median_seconds(runs[name]) for name in runs}
  for stage in STAGES + ("both",):
    line = "%-9s" % stage
    for name in medians:
      line += " %s %7.2f s" % (name, medians[name][stage])
    if "original" in medians:
      line += "  ratio %.1f" % (
          medians["original"][stage] / medians["ours"][stage])
    print(line)
  print("memory   " + "".join(
      " %s %7.0f MB" % (name, runs[name][0]["megabytes"]) for name in runs))
  if "original" in runs:
    same = first["digest"] == runs["original"][0]["digest"]
    print("answer files: %s" % ("the same bytes" if same else "DIFFERENT"))


if __name__ == "__main__":
  main()
