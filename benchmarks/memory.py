"""The largest training batch for a given memory, and what a batch takes.

  python benchmarks/memory.py --vocab_file=vocab.txt \\
    --original_python=reference/bin/python --limit_gb=12

For each model, sequence length and way of training, a line of Markdown tells
how many examples without padding fit into the memory, in one batch of a
classifier: plain, with --gradient_checkpointing, and by the original. Each
figure is measured as the peak resident memory of a process that trains two
steps by the script's own estimator: of a small batch and a larger one, a line
through which gives the batch to try, until one fits and one that is larger by a
sixteenth, at least by an example, does not. A GPU's memory is not measured
here; there, TensorFlow says when it is full.

With --gradient_accumulation_steps any batch fits if one example does:

  python benchmarks/memory.py --vocab_file=vocab.txt --skip_original \\
    --models=large --lengths=512 --batch=32 --parts=32

measures one batch of that size instead, in so many parts, and its time.

`--original_python` is a Python with the packages `bert-tensorflow` 1.0.4 and
`tensorflow` 1.15.
"""

import argparse
import sys
import tempfile

from model_speed_worker import run, write_config

# (layers, hidden size, heads).
MODELS = {"base": (12, 768, 12), "large": (24, 1024, 16)}
LENGTHS = (64, 128, 256, 320, 384, 512)
WAYS = ("original", "plain", "checkpointing")
# From the original's README, for a GPU of 12 GB.
PUBLISHED = {
    "base": dict(zip(LENGTHS, (64, 32, 16, 14, 12, 6))),
    "large": dict(zip(LENGTHS, (12, 6, 2, 1, 0, 0)))}


def parse_arguments():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  add = parser.add_argument
  add("--vocab_file", required=True, help="gives the model's vocabulary size")
  add("--original_python", help="see above")
  add("--skip_original", action="store_true")
  add("--models", default="base,large")
  add("--lengths", default="128,512")
  add("--limit_gb", type=float, default=12.0, help="10^9 bytes")
  add("--precision", choices=("float32", "bfloat16"), default="float32",
      help="of ours")
  add("--checkpointing", type=int, default=1,
      help="N of --gradient_checkpointing")
  add("--batch", type=int, help="measure this batch only")
  add("--parts", type=int, default=1,
      help="--gradient_accumulation_steps, for --batch")
  arguments = parser.parse_args()
  arguments.models = arguments.models.split(",")
  arguments.lengths = [int(text) for text in arguments.lengths.split(",")]
  if not arguments.skip_original and not arguments.original_python:
    parser.error("give --original_python or --skip_original")
  return arguments


def measure(arguments, model, length, way, batch_size, parts=1):
  """(gigabytes, seconds a step) of training, or None if it fails."""
  is_original = way == "original"
  python = arguments.original_python if is_original else sys.executable
  with tempfile.TemporaryDirectory() as folder:
    job = {"task": "mrpc", "mode": "train", "folder": folder,
           "config_file": write_config(
               arguments.vocab_file, MODELS[model], folder),
           "seq_length": length, "batch_size": batch_size, "warmup": 1,
           "steps": 1}
    run(sys.executable, dict(job, role="full_data"))
    options = {} if is_original else {
        "real_tokens_only": True, "compute_dtype": arguments.precision,
        "gradient_checkpointing":
            arguments.checkpointing if way == "checkpointing" else 0,
        "gradient_accumulation_steps": parts}
    result = run(python, dict(
        job, role="original" if is_original else "ours", options=options))
  if result is None:
    return None
  gigabytes = result["megabytes"] * 2 ** 20 / 1e9
  print("%s, %d tokens, %s, batch %d%s: %.2f GB, %.1f s a step" % (
      model, length, way, batch_size, " in %d parts" % parts if parts > 1
      else "", gigabytes, result["seconds"]), flush=True)
  return gigabytes, result["seconds"]


def find_largest_batch(limit, gigabytes_of):
  """The largest batch within the limit, 0 if not even one example is.

  Args:
    limit: float.
    gigabytes_of: function of a batch size, None where it fails.
  """
  known = {}

  def fits(batch_size):
    if batch_size not in known:
      known[batch_size] = gigabytes_of(batch_size)
    return known[batch_size] is not None and known[batch_size] <= limit

  if not fits(1):
    return 0
  fits(3)
  if known[3] is None:
    return 2 if fits(2) else 1
  per_example = max((known[3] - known[1]) / 2, 1e-3)
  best = max(int((limit - known[1]) / per_example) + 1, 1)
  while not fits(best):
    best -= 1
  while fits(best + max(1, best // 16)):
    best += max(1, best // 16)
  return best


def main():
  arguments = parse_arguments()
  ways = [way for way in WAYS
          if not (way == "original" and arguments.skip_original)]
  lines = ["| model | tokens | published, 12 GB GPU | " +
           " | ".join(ways) + " |", "|" + "---|" * (3 + len(ways))]
  for model in arguments.models:
    for length in arguments.lengths:
      cells = [model, str(length), str(PUBLISHED[model].get(length, "-"))]
      for way in ways:
        if arguments.batch:
          parts = 1 if way == "original" else arguments.parts
          result = measure(
              arguments, model, length, way, arguments.batch, parts)
          cells.append("%.1f GB, %.0f s" % result if result else "failed")
          continue

        def gigabytes_of(batch_size, model=model, length=length, way=way):
          result = measure(arguments, model, length, way, batch_size)
          return result and result[0]

        cells.append(str(find_largest_batch(arguments.limit_gb, gigabytes_of)))
      lines.append("| " + " | ".join(cells) + " |")
      print(lines[-1], flush=True)
  print("\n" + "\n".join(lines))


if __name__ == "__main__":
  main()
