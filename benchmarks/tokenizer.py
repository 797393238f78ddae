"""Tokenizer speed beside the original's and Hugging Face `tokenizers`.

  python benchmarks/tokenizer.py --text_file=wiki.txt --vocab_file=vocab.txt \\
    --original_module=bert/tokenization.py --peer_python=hf/bin/python

Each line of the text goes through `tokenize` and `convert_tokens_to_ids` (the
peer: `encode`, one thread) in one process. Every contender runs in a process
of its own, in turns, several rounds; the table shows medians in megabytes of
UTF-8 text per second of processor time and how many times faster ours is.
"cold" is the first pass after start-up, "warm" the second pass over the same
text. The last column tells whether the ids are the original's.

`--original_module` is the original's tokenization.py, run by
`--original_python` (by default the Python that runs this script); without it
that Python must have the package `bert`. `--peer_python` has `tokenizers`.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def parse_arguments():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--text_file", required=True, help="UTF-8 text")
  parser.add_argument("--vocab_file", required=True, help="vocab.txt")
  parser.add_argument("--cased", action="store_true",
                      help="keep case and accents (do_lower_case=False)")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--max_mb", type=float, default=1000.0,
                      help="use only this much of the text")
  parser.add_argument("--original_python", help="see above")
  parser.add_argument("--original_module", help="see above")
  parser.add_argument("--peer_python", help="see above")
  parser.add_argument("--contender", help=argparse.SUPPRESS)
  return parser.parse_args()


def load_module(name, path):
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def bert_line_to_ids(module, arguments):
  tokenizer = module.FullTokenizer(
      arguments.vocab_file, do_lower_case=not arguments.cased)

  def line_to_ids(line):
    return tokenizer.convert_tokens_to_ids(tokenizer.tokenize(line))

  return line_to_ids


def our_line_to_ids(arguments):
  path = os.path.join(PROJECT, "tokenization.py")
  return bert_line_to_ids(load_module("our_tokenization", path), arguments)


def original_line_to_ids(arguments):
  if arguments.original_module:
    module = load_module("original_tokenization", arguments.original_module)
  else:
    from bert import tokenization as module
  from absl import flags
  flags.FLAGS(["benchmark"])  # The packaged original reads a flag per word.
  return bert_line_to_ids(module, arguments)


def peer_line_to_ids(arguments):
  os.environ["TOKENIZERS_PARALLELISM"] = "false"
  import tokenizers
  tokenizer = tokenizers.BertWordPieceTokenizer(
      arguments.vocab_file, lowercase=not arguments.cased)

  def line_to_ids(line):
    return tokenizer.encode(line, add_special_tokens=False).ids

  return line_to_ids


CONTENDERS = {
    "original": original_line_to_ids,
    "tokenizers": peer_line_to_ids,
    "ours": our_line_to_ids,
}


def read_lines(arguments):
  with open(arguments.text_file, "rb") as reader:
    text = reader.read(int(arguments.max_mb * 1e6)).decode("utf-8", "ignore")
  return text.split("\n")


def timed_pass(line_to_ids, lines):
  start = time.process_time()
  for line in lines:
    line_to_ids(line)
  return time.process_time() - start


def measure(arguments):
  """One contender's run in this process; the last line printed is JSON."""
  lines = read_lines(arguments)
  line_to_ids = CONTENDERS[arguments.contender](arguments)
  line_to_ids("a")  # Indexing the vocabulary is part of the start-up.
  result = {"cold": timed_pass(line_to_ids, lines)}
  if arguments.contender != "original":  # It keeps nothing between lines.
    result["warm"] = timed_pass(line_to_ids, lines)
  ids = json.dumps([line_to_ids(line) for line in lines[:20000]])
  result["ids"] = hashlib.sha256(ids.encode()).hexdigest()
  print(json.dumps(result))


def run_contender(name, arguments):
  python = {"original": arguments.original_python,
            "tokenizers": arguments.peer_python}.get(name)
  command = [python or sys.executable, os.path.abspath(__file__)]
  command += sys.argv[1:] + ["--contender=" + name]
  run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  if run.returncode:
    sys.exit("%s failed:\n%s" % (name, run.stderr.decode()[-2000:]))
  return json.loads(run.stdout.decode().strip().split("\n")[-1])


def main():
  arguments = parse_arguments()
  if arguments.contender:
    return measure(arguments)
  names = ["ours"]
  if arguments.original_module or arguments.original_python:
    names.append("original")
  if arguments.peer_python:
    names.append("tokenizers")
  results = {name: [] for name in names}
  for _ in range(arguments.rounds):
    for name in names:
      results[name].append(run_contender(name, arguments))
  print_table(results, len("\n".join(read_lines(arguments)).encode()) / 1e6)
  return None


def print_table(results, megabytes):
  reference = results.get("original", results["ours"])[0]["ids"]

  def seconds(name, key):
    runs = results[name]
    return statistics.median(run.get(key, run["cold"]) for run in runs)

  print("%.1f MB, median of %d runs" % (megabytes, len(results["ours"])))
  print("%-12s %9s %9s %11s %11s  %s" % (
      "", "cold MB/s", "warm MB/s", "ours, cold", "ours, warm",
      "ids as original"))
  for name in sorted(results, key=list(CONTENDERS).index):
    times = {key: seconds(name, key) for key in ("cold", "warm")}
    print("%-12s %9.2f %9.2f %10.1fx %10.1fx  %s" % (
        name, megabytes / times["cold"], megabytes / times["warm"],
        times["cold"] / seconds("ours", "cold"),
        times["warm"] / seconds("ours", "warm"),
        "yes" if results[name][0]["ids"] == reference else "no"))


if __name__ == "__main__":
  main()
