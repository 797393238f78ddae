"""Speed and memory of extract_features.py beside the original's.

  python benchmarks/extract_features.py --text_file=text.txt \\
    --bert_dir=uncased_L-12_H-768_A-12 --original_python=reference/bin/python

Both scripts extract the features of the same lines, each in a process of its
own and timed from start to end, loading included. The table shows lines per
second, how many times faster ours is, and the peak memory of the process; the
files are compared at the end.

  python benchmarks/extract_features.py --text_file=text.txt \\
    --bert_dir=... --no_original --lines=200000 --words=8 --layers=-1

shows that memory does not grow with the input: peaks for a tenth of the lines
and for all. (--words shortens the lines, as the full text would make 100 GB of
JSON. --pooling=mean is another way.)

`--original_python` is a Python with the packages `bert-tensorflow` 1.0.4 and
`tensorflow` 1.15; the original must fit `--bert_dir` (--layers too).
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Lines whose values are compared.
NUM_COMPARED = 200


def parse_arguments():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--text_file", required=True, help="a sentence a line")
  parser.add_argument(
      "--bert_dir", required=True,
      help="folder of bert_config.json, bert_model.ckpt and vocab.txt")
  parser.add_argument("--original_python", help="see above")
  parser.add_argument("--no_original", action="store_true")
  parser.add_argument("--lines", type=int, default=5000)
  parser.add_argument("--words", type=int, help="words kept of a line")
  parser.add_argument("--rounds", type=int, default=1)
  parser.add_argument("--layers", default="-1,-2,-3,-4")
  parser.add_argument("--max_seq_length", type=int, default=128)
  parser.add_argument("--batch_size", type=int, default=32)
  parser.add_argument("--pooling", default="none", help="ours only")
  parser.add_argument("--output_format", default="jsonl", help="ours only")
  arguments = parser.parse_args()
  if not (arguments.original_python or arguments.no_original):
    parser.error("give --original_python or --no_original")
  if arguments.original_python:
    # It will run in another folder.
    path = shutil.which(arguments.original_python)
    if not path:
      parser.error("--original_python=%s is no program"
                   % arguments.original_python)
    arguments.original_python = os.path.abspath(path)
  return arguments


def write_lines(source, count, words, path):
  """Writes the first lines of a text that are not blank, over and over."""
  with open(source, encoding="utf-8") as reader:
    lines = [line.split()[:words] for line in reader if line.strip()]
  with open(path, "w", encoding="utf-8") as writer:
    for line in itertools.islice(itertools.cycle(lines), count):
      writer.write(" ".join(line) + "\n")


def run(arguments, contender, input_file, output_file):
  """Runs a script; returns (seconds, peak megabytes)."""
  if contender == "original":
    command = [arguments.original_python, "-m", "bert.extract_features"]
  else:
    command = [sys.executable, os.path.join(PROJECT, "extract_features.py"),
               "--pooling=" + arguments.pooling,
               "--output_format=" + arguments.output_format]
  bert_dir = os.path.abspath(arguments.bert_dir)
  command += [
      "--bert_config_file=" + os.path.join(bert_dir, "bert_config.json"),
      "--init_checkpoint=" + os.path.join(bert_dir, "bert_model.ckpt"),
      "--vocab_file=" + os.path.join(bert_dir, "vocab.txt"),
      "--layers=" + arguments.layers,
      "--max_seq_length=%d" % arguments.max_seq_length,
      "--batch_size=%d" % arguments.batch_size,
      "--input_file=" + input_file, "--output_file=" + output_file]
  start = time.time()
  # The original's package must not be shadowed by this project's modules.
  process = subprocess.Popen(
      command, cwd=os.path.dirname(input_file), stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL)
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    raise SystemExit("Failed: " + " ".join(command))
  return time.time() - start, usage.ru_maxrss / 1024


def largest_difference(path, other_path):
  """Between the values of the first lines; None if anything else differs."""
  largest = 0.0
  with open(path) as reader, open(other_path) as other_reader:
    for text, other_text in itertools.islice(
        zip(reader, other_reader), NUM_COMPARED):
      line, other = json.loads(text), json.loads(other_text)
      for token, other_token in zip(line["features"], other["features"]):
        for layer, other_layer in zip(token["layers"], other_token["layers"]):
          largest = max(largest, max(
              abs(a - b) for a, b in
              zip(layer["values"], other_layer["values"])))
          layer["values"] = other_layer["values"]
      if line != other:
        return None
  return largest


def print_row(name, lines, seconds, megabytes):
  print("%-9s %7d lines %8.1f s %8.1f lines/s %7.0f MB" % (
      name, lines, seconds, lines / seconds, megabytes), flush=True)


def show_flatness(arguments, folder):
  for count in (arguments.lines // 10, arguments.lines):
    input_file = os.path.join(folder, "input.txt")
    output_file = os.path.join(folder, "ours")
    write_lines(arguments.text_file, count, arguments.words, input_file)
    print_row("ours", count, *run(arguments, "ours", input_file, output_file))


def compare(arguments, folder):
  input_file = os.path.join(folder, "input.txt")
  write_lines(arguments.text_file, arguments.lines, arguments.words,
              input_file)
  outputs = {name: os.path.join(folder, name) for name in ("ours", "original")}
  best = {}
  for _ in range(arguments.rounds):
    for name, output_file in outputs.items():
      seconds, megabytes = run(arguments, name, input_file, output_file)
      print_row(name, arguments.lines, seconds, megabytes)
      best[name] = min(seconds, best.get(name, seconds))
  print("ratio %.1f" % (best["original"] / best["ours"]))
  if arguments.pooling == "none" and arguments.output_format == "jsonl":
    difference = largest_difference(*outputs.values())
    print("first %d lines: %s" % (
        min(NUM_COMPARED, arguments.lines),
        "DIFFERENT" if difference is None else
        "the same but for values, which differ by %.1e at most" % difference))


def main():
  arguments = parse_arguments()
  with tempfile.TemporaryDirectory() as folder:
    if arguments.no_original:
      show_flatness(arguments, folder)
    else:
      compare(arguments, folder)


if __name__ == "__main__":
  main()
