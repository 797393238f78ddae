"""Speed of an exported classifier beside PyTorch's.

  python benchmarks/predictor.py --export_dir=/tmp/mrpc_export \\
    --mrpc_dir=glue/MRPC --peer_python=hf/bin/python

From raw text to probabilities, in one process each, in turns: all pairs of
MRPC's test set through `Predictor.classify`, and through transformers'
BertForSequenceClassification of the same size in float32, in batches of 32
padded to their longest. Then one sentence at a time. The table shows medians
over the rounds, after a pass that does not count.

`--peer_python` has torch, transformers and tokenizers; without it only ours is
measured. Its weights are random, which takes the same time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SENTENCE = "The quick brown fox jumps over the lazy dog by the river today ."
BATCH_SIZE = 32
SINGLE_CALLS = 200


def parse_arguments():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--export_dir", required=True,
                      help="written by run_classifier.py --export_dir")
  parser.add_argument("--mrpc_dir", required=True, help="holds test.tsv")
  parser.add_argument("--peer_python", help="see above")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--contender", help=argparse.SUPPRESS)
  return parser.parse_args()


def read_pairs(mrpc_dir):
  with open(os.path.join(mrpc_dir, "test.tsv"), encoding="utf-8-sig") as lines:
    rows = [line.rstrip("\n").split("\t") for line in lines]
  return [(row[3], row[4]) for row in rows[1:]]


def our_classify(export_dir):
  sys.path[0] = PROJECT  # Not this file, which has the module's name.
  import predictor
  return predictor.Predictor(export_dir).classify


def peer_classify(export_dir):
  import tokenizers
  import torch
  import transformers
  torch.set_num_threads(os.cpu_count())
  assets = os.path.join(export_dir, "assets")
  with open(os.path.join(assets, "bert_config.json")) as reader:
    config = json.load(reader)
  with open(os.path.join(assets, "bert_export.json")) as reader:
    settings = json.load(reader)
  model = transformers.BertForSequenceClassification(transformers.BertConfig(
      num_labels=len(settings["labels"]), **config)).eval()
  tokenizer = tokenizers.BertWordPieceTokenizer(
      os.path.join(assets, "vocab.txt"), lowercase=settings["do_lower_case"])
  tokenizer.enable_truncation(settings["max_seq_length"])
  tokenizer.enable_padding()

  def classify(texts):
    results = []
    for start in range(0, len(texts), BATCH_SIZE):
      batch = tokenizer.encode_batch(texts[start:start + BATCH_SIZE])
      with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor([row.ids for row in batch]),
            attention_mask=torch.tensor([row.attention_mask for row in batch]),
            token_type_ids=torch.tensor([row.type_ids for row in batch])
        ).logits
      results += torch.softmax(logits, -1).tolist()
    return results

  return classify


def run_contender(arguments):
  """Prints a line of JSON: seconds for all pairs, milliseconds for one text."""
  make = our_classify if arguments.contender == "ours" else peer_classify
  classify = make(arguments.export_dir)
  pairs = read_pairs(arguments.mrpc_dir)
  classify(pairs)
  start = time.time()
  classify(pairs)
  seconds = time.time() - start
  times = []
  for _ in range(SINGLE_CALLS):
    start = time.time()
    classify([SENTENCE])
    times.append(time.time() - start)
  print("\n" + json.dumps({
      "pairs": len(pairs), "seconds": seconds,
      "milliseconds": 1000 * statistics.median(times)}))


def measure(contender, python, arguments):
  output = subprocess.check_output(
      [python, os.path.abspath(__file__), "--contender=" + contender,
       "--export_dir=" + os.path.abspath(arguments.export_dir),
       "--mrpc_dir=" + arguments.mrpc_dir], stderr=subprocess.DEVNULL)
  return json.loads(output.decode("utf-8").splitlines()[-1])


def main():
  arguments = parse_arguments()
  if arguments.contender:
    run_contender(arguments)
    return
  contenders = {"ours": sys.executable, "PyTorch": arguments.peer_python}
  results = {name: [] for name, python in contenders.items() if python}
  for _ in range(arguments.rounds):
    for name in results:
      results[name].append(measure(name, contenders[name], arguments))
  median = {
      name: {key: statistics.median(row[key] for row in rows)
             for key in rows[0]} for name, rows in results.items()}
  print("%d pairs, median of %d runs" % (
      median["ours"]["pairs"], arguments.rounds))
  for name, row in median.items():
    print("%-8s %7.1f pairs/s  %5.1f times ours   one sentence %5.1f ms" % (
        name, row["pairs"] / row["seconds"],
        median["ours"]["seconds"] / row["seconds"], row["milliseconds"]))


if __name__ == "__main__":
  main()
