"""Speed and memory of create_pretraining_data.py beside the original's.

  python benchmarks/pretraining_data.py --text_file=wiki.sentences.txt \\
    --vocab_file=vocab.txt --original_python=reference/bin/python

Cuts the first `--megabytes` out of the text and makes records of it with the
original, with the default mode and with `--num_workers`, one after the other,
in several rounds. The table shows the median of the wall-clock seconds, the
most memory in use at a time (proportional set size, all processes together,
Linux only; from a run of its own, since looking takes time) and how many times
better than the original that is. The last lines are our two modes on the whole
text: memory stays where it was. The machine should have nothing else to do and
as many free cores as there are workers.

`--original_python` is a Python with the published package `bert`
(bert-tensorflow 1.0.4, TensorFlow 1.15); without it only ours is measured.
"""

import argparse
import glob
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = os.path.join(PROJECT, "create_pretraining_data.py")


def parse_arguments():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--text_file", required=True,
                      help="UTF-8, a sentence a line, blank between documents")
  parser.add_argument("--vocab_file", required=True, help="vocab.txt")
  parser.add_argument("--original_python", help="see above")
  parser.add_argument("--megabytes", type=float, default=3.6)
  parser.add_argument("--dupe_factor", type=int, default=5)
  parser.add_argument("--num_workers", type=int, default=2)
  parser.add_argument("--rounds", type=int, default=3)
  return parser.parse_args()


def cut_text(path, megabytes, output):
  """Copies whole lines of up to so many million bytes."""
  with open(path, "rb") as reader, open(output, "wb") as writer:
    text = reader.read(int(megabytes * 1e6))
    writer.write(text[:text.rfind(b"\n") + 1])


def memory_of_tree(process_id):
  """Bytes that a process and its descendants take, shared ones counted once.

  Processes that come to an end meanwhile count as nothing.
  """
  total = 0
  try:
    with open("/proc/%d/smaps_rollup" % process_id) as lines:
      total += sum(int(line.split()[1]) * 1024 for line in lines
                   if line.startswith("Pss:"))
    for path in glob.glob("/proc/%d/task/*/children" % process_id):
      with open(path) as reader:
        total += sum(map(memory_of_tree, map(int, reader.read().split())))
  except (OSError, ValueError):
    pass
  return total


def run(command, while_running=lambda process: None):
  """Runs a command; returns how many seconds it took."""
  environment = dict(os.environ, PYTHONPATH=PROJECT)
  with tempfile.TemporaryFile() as log:
    start = time.time()
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    while_running(process)
    process.wait()
    seconds = time.time() - start
    if process.returncode:
      log.seek(0)
      sys.exit("%s failed:\n%s" % (" ".join(command),
                                   log.read().decode()[-2000:]))
  return seconds


def peak_memory(command):
  """Most bytes that a command's processes take at a time."""
  peak = 0

  def watch(process):
    nonlocal peak
    while process.poll() is None:
      peak = max(peak, memory_of_tree(process.pid))
      time.sleep(0.02)

  run(command, watch)
  return peak


def contenders(arguments, text, folder):
  """Dict of name to (command, output file)."""

  def command(start, name, *options):
    output = os.path.join(folder, name + ".tfrecord")
    return start + [
        "--input_file=" + text, "--output_file=" + output,
        "--vocab_file=" + arguments.vocab_file,
        "--dupe_factor=%d" % arguments.dupe_factor] + list(options), output

  commands = {}
  if arguments.original_python:
    commands["original"] = command(
        [arguments.original_python, "-m", "bert.create_pretraining_data"],
        "original")
  commands["default mode"] = command([sys.executable, SCRIPT], "default")
  commands["%d workers" % arguments.num_workers] = command(
      [sys.executable, SCRIPT], "workers",
      "--num_workers=%d" % arguments.num_workers)
  return commands


def read_examples(path):
  """Parsed records: the order of a map's entries within them is free."""
  import tensorflow.compat.v1 as tf
  for record in tf.io.tf_record_iterator(path):
    yield tf.train.Example.FromString(record)


def print_row(name, seconds, peak, original=None):
  line = "%-14s %8.2f s %8.0f MB" % (name, seconds, peak / 1e6)
  if original:
    line += "   %5.1f times the speed, %3.0f %% of the memory" % (
        original[0] / seconds, 100 * peak / original[1])
  print(line, flush=True)


def compare(commands, rounds):
  seconds = {name: [] for name in commands}
  for _ in range(rounds):
    for name, (command, _) in commands.items():
      seconds[name].append(run(command))
  rows = {name: (statistics.median(seconds[name]), peak_memory(command))
          for name, (command, _) in commands.items()}
  for name, row in rows.items():
    print_row(name, *row, original=rows.get("original"))


def main():
  arguments = parse_arguments()
  with tempfile.TemporaryDirectory() as folder:
    text = os.path.join(folder, "text.txt")
    cut_text(arguments.text_file, arguments.megabytes, text)
    commands = contenders(arguments, text, folder)
    print("%.1f MB of text, dupe_factor %d, median of %d runs" % (
        os.path.getsize(text) / 1e6, arguments.dupe_factor, arguments.rounds))
    compare(commands, arguments.rounds)
    if "original" in commands:
      same = all(
          ours == theirs for ours, theirs in itertools.zip_longest(
              read_examples(commands["default mode"][1]),
              read_examples(commands["original"][1])))
      print("records of the default mode as original: %s" %
            ("yes" if same else "NO"))
    print("%.1f MB of text" % (os.path.getsize(arguments.text_file) / 1e6))
    whole = contenders(arguments, arguments.text_file, folder)
    whole.pop("original", None)
    compare(whole, 1)


if __name__ == "__main__":
  main()
