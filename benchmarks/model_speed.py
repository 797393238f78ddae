"""Speed and memory of the model beside the original's and PyTorch's.

  python benchmarks/model_speed.py --vocab_file=vocab.txt \\
    --mrpc_dir=glue/MRPC --squad_file=dev-v1.1.json \\
    --original_python=reference/bin/python --torch_python=hf/bin/python

Trains and predicts real MRPC pairs (128 tokens) and SQuAD questions (384) with
random weights, each contender in a process of its own, in turns, by its own
estimator and input functions (PyTorch: a plain loop). The first batches do not
count: for ours in training, those in which it compiles for the usual lengths.
A Markdown row tells, for each:

- examples/s (median of the rounds), and how many times the original's in
  float32 and PyTorch's best of the same precision that is;
- peak resident memory in MB (most of the rounds), and times the original's;
  that of a GPU does not count;
- model GFLOP/s: the matrix products of all layers for the real tokens,
  without padding and output layers (training: 3 times the forward pass);
- the limit, what TensorFlow reaches here for the product of two large
  matrices, measured in the same rounds, and how much of it the model reaches.

Who skips padding, and would gain if short texts happened to be timed, is rated
by the data's mean amount of work per example. All takes some 20 minutes on two
cores; less of it:

  ... --models=base --tasks=mrpc --modes=train --precisions=float32

Pre-training's masked sentence pairs (128 tokens, 20 predictions) are timed by
--tasks=pretraining --text_file=sentences.txt.

Where a GPU is, all use it (--steps=100, then) in the libraries' default mode:
float32 products are TF32 in TensorFlow, not in PyTorch.

`--original_python` is a Python with the packages `bert-tensorflow` 1.0.4 and
`tensorflow` 1.15, `--torch_python` one with torch and transformers, and
`--other_pythons` are some with other versions of TensorFlow, to run ours with
those, too.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile

from model_speed_worker import run, write_config

# (layers, hidden size, heads); the intermediate size is four times the second.
MODELS = {"base": (12, 768, 12), "minilm": (6, 384, 12)}
DEFAULT_STEPS = {"base": 4, "minilm": 6}
SEQ_LENGTHS = {"mrpc": 128, "squad": 384, "pretraining": 128}
# The argument that says where a task's data is.
SOURCES = {"mrpc": "mrpc_dir", "squad": "squad_file",
           "pretraining": "text_file"}
MODES = ("train", "predict")
PRECISIONS = ("float32", "bfloat16")
PADDINGS = ("max", "longest", "group")
HEADER = ("| model, task, mode | who | examples/s | x original | x PyTorch | "
          "peak MB | x original's | GFLOP/s | limit | reached |\n"
          "|" + "---|" * 10)


def list_of(allowed):
  """An argparse type: names out of `allowed`, separated by commas."""
  def parse(text):
    names = text.split(",")
    for name in names:
      if name not in allowed:
        raise argparse.ArgumentTypeError(
            "%r is none of %s" % (name, ", ".join(allowed)))
    return names
  return parse


def parse_arguments():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  add = parser.add_argument
  add("--vocab_file", required=True, help="uncased vocab.txt")
  add("--mrpc_dir", help="holds train.tsv")
  add("--squad_file", help="SQuAD 1.1 JSON")
  add("--text_file", help="sentences, for --tasks=pretraining")
  add("--original_python", help="see above")
  add("--torch_python", help="see above")
  add("--other_pythons", type=lambda text: text.split(","), default=[],
      help="see above; separated by commas")
  add("--skip_original", action="store_true")
  add("--skip_torch", action="store_true")
  add("--models", type=list_of(MODELS), default="base,minilm")
  add("--tasks", type=list_of(SEQ_LENGTHS), default="mrpc,squad")
  add("--modes", type=list_of(MODES), default="train,predict")
  add("--precisions", type=list_of(PRECISIONS), default="float32,bfloat16",
      help="the original has float32 only")
  add("--torch_padding", type=list_of(PADDINGS), default="longest,group",
      help="to max, to the batch's longest, or so in batches of similar\n"
           "length (group)")
  add("--real_tokens_only", choices=("true", "false"), default="true",
      help="ours: compute nothing for padding")
  add("--group_by_length", choices=("true", "false"), default="false",
      help="ours: train on batches of similar length, too")
  add("--mrpc_batch", type=int, default=32, help="in training")
  add("--squad_batch", type=int, default=12, help="in training")
  add("--pretraining_batch", type=int, default=32)
  add("--predict_batch", type=int, default=32)
  add("--steps", type=int,
      help="training steps timed; twice as many examples are\n"
           "predicted. Default: %s"
           % ", ".join("%s %d" % item for item in DEFAULT_STEPS.items()))
  add("--warmup", type=int, default=2,
      help="batches before the clock starts; an estimator's first two steps\n"
           "each prepare a graph, for only the first writes a summary")
  add("--our_warmup", type=int, default=16,
      help="training steps before the clock starts for ours, which compiles\n"
           "pieces for every new (rounded) number of tokens")
  add("--our_steps", type=int, default=32,
      help="training steps timed for ours, so many that a piece compiled\n"
           "among them weighs little more than in a real run: three epochs\n"
           "of MRPC meet eight numbers, most of them in the first 20 steps")
  add("--rounds", type=int, default=1)
  arguments = parser.parse_args()
  for name in ("original", "torch"):
    python = getattr(arguments, name + "_python")
    if not (python or getattr(arguments, "skip_" + name)):
      parser.error("give --%s_python or --skip_%s" % (name, name))
    if python and not shutil.which(python):
      parser.error("--%s_python=%s is no program" % (name, python))
  for python in arguments.other_pythons:
    if not shutil.which(python):
      parser.error("--other_pythons: %s is no program" % python)
  for task in arguments.tasks:
    if not getattr(arguments, SOURCES[task]):
      parser.error("--tasks=%s needs --%s" % (task, SOURCES[task]))
  if min(arguments.warmup, arguments.our_warmup, arguments.our_steps,
         arguments.rounds, arguments.steps or 1) < 1:
    parser.error("--warmup, --our_warmup, --our_steps, --rounds and --steps "
                 "must be at least 1")
  return arguments


# Amounts of work.


def forward_flops(length, model):
  """Of the layers' matrix products for one text of so many tokens.

  Additions and multiplications of the dense layers (query, key, value, output:
  D x D; D x 4D and back), of the attention scores and their use.
  """
  layers, width, _ = MODELS[model]
  dense = 2 * length * (4 + 8) * width ** 2
  attention = 2 * 2 * length ** 2 * width
  return layers * (dense + attention)


def total_gflop(lengths, model, mode):
  passes = 3 if mode == "train" else 1
  return 1e-9 * passes * sum(forward_flops(n, model) for n in lengths)


def batch_size(arguments, task, mode):
  if mode == "predict":
    return arguments.predict_batch
  return getattr(arguments, task + "_batch")


def predicted_examples(arguments, task, steps):
  """Twice what is trained on, in whole batches."""
  size = arguments.predict_batch
  return -(-2 * steps * batch_size(arguments, task, "train") // size) * size


# Running.


def prepare_data(arguments, task, steps, folder):
  """{set name: list of the examples' lengths}; the sets are in `folder`."""
  source = getattr(arguments, SOURCES[task])
  lengths = run(sys.executable, {
      "role": "data", "task": task, "source": os.path.abspath(source),
      "vocab_file": os.path.abspath(arguments.vocab_file),
      "seq_length": SEQ_LENGTHS[task], "folder": folder,
      "warmup_examples": arguments.warmup * arguments.predict_batch,
      "predict_examples": predicted_examples(arguments, task, steps)})
  if lengths is None:
    sys.exit("Without data there is nothing to measure.")
  return lengths


def our_pythons(arguments):
  """[(Python, what to add to our name)]: this one, then the others."""
  pythons = [(sys.executable, "")]
  for python in arguments.other_pythons:
    result = run(python, {"role": "version"})
    if result is None:
      sys.exit("--other_pythons: %s does not run TensorFlow." % python)
    pythons.append((python, ", TensorFlow " + result["version"]))
  if len(set(suffix for _, suffix in pythons)) < len(pythons):
    sys.exit("--other_pythons: two have the same version of TensorFlow, which "
             "is all that the table tells them apart by.")
  return pythons


def list_contenders(arguments):
  """[(name, Python, what its job has of its own)]."""
  ours, original, torch = [], [], []
  pythons = our_pythons(arguments)
  for precision in arguments.precisions:
    options = {
        "real_tokens_only": arguments.real_tokens_only == "true",
        "compute_dtype": precision,
        "group_by_length": arguments.group_by_length == "true"}
    for python, suffix in pythons:
      ours.append(("ours %s%s" % (precision, suffix), python, {
          "role": "ours", "precision": precision, "options": options,
          "train_warmup": arguments.our_warmup,
          "train_steps": arguments.our_steps}))
    for padding in [] if arguments.skip_torch else arguments.torch_padding:
      torch.append((
          "PyTorch %s, %s" % (precision, padding), arguments.torch_python,
          {"role": "PyTorch", "precision": precision, "padding": padding}))
  if not arguments.skip_original:
    original = [("original float32", arguments.original_python, {
        "role": "original", "precision": "float32", "options": {}})]
  return ours + original + torch


def skips_padding(job):
  """Whether the time depends on the lengths of the texts that come up."""
  if job["role"] == "PyTorch":
    return job["padding"] == "group"
  return job.get("options", {}).get("real_tokens_only", False)


def measure(python, job, model, set_lengths):
  """(examples/s, megabytes, GFLOP/s), or None if there is no such thing."""
  result = run(python, job)
  if result is None:
    return None
  if "absent" in result:
    print("This version has no %s." % ", ".join(result["absent"]))
    return None
  lengths = result.get("lengths", set_lengths)
  gflop = total_gflop(lengths, model, job["mode"])
  mean_gflop = (total_gflop(set_lengths, model, job["mode"]) /
                len(set_lengths))
  examples = gflop / mean_gflop if skips_padding(job) else len(lengths)
  return (examples / result["seconds"], result["megabytes"],
          gflop / result["seconds"])


# Tables.


def median_row(runs):
  rates, megabytes, gflops = zip(*runs)
  return statistics.median(rates), max(megabytes), statistics.median(gflops)


def number(value, digits=3):
  """With so many digits that count, or a dash."""
  if value is None:
    return "-"
  if value >= 10 ** (digits - 1):
    return "%d" % round(value)
  return "%.*g" % (digits, value)


def format_rows(what, contenders, runs, limits):
  """Markdown rows of the contenders of one model, task and mode."""
  rows = {name: median_row(runs[name]) for name, _, _ in contenders
          if runs[name]}
  best_torch = {}
  for name, _, own in contenders:
    if own["role"] == "PyTorch" and name in rows:
      precision = own["precision"]
      best_torch[precision] = max(
          rows[name][0], best_torch.get(precision, 0.0))
  original = rows.get("original float32")
  lines = []
  for name, _, own in contenders:
    if name not in rows:
      lines.append("| %s | %s |%s" % (what, name, " - |" * 8))
      continue
    rate, megabytes, gflops = rows[name]
    peer, limit = best_torch.get(own["precision"]), limits[own["precision"]]
    lines.append("| " + " | ".join([
        what, name, number(rate),
        number(original and rate / original[0]),
        number(peer and rate / peer), "%d" % megabytes,
        number(original and megabytes / original[1], 2),
        number(gflops), number(limit),
        "%.0f%%" % (100 * gflops / limit)]) + " |")
  return lines


def compare(arguments, contenders, model, task, mode, lengths, folder):
  """Measures one model, task and mode; prints and returns its rows."""
  what = "%s %s %s" % (model, task, mode)
  job = {"task": task, "mode": mode, "folder": folder,
         "config_file": write_config(
             arguments.vocab_file, MODELS[model], folder),
         "seq_length": SEQ_LENGTHS[task], "warmup": arguments.warmup,
         "steps": arguments.steps or DEFAULT_STEPS[model],
         "batch_size": batch_size(arguments, task, mode),
         "predict_examples": len(lengths["predict"])}
  runs = {name: [] for name, _, _ in contenders}
  limits = {precision: [] for precision in arguments.precisions}
  # The original's only precision is the table's reference.
  limits.setdefault("float32", [])
  for _ in range(arguments.rounds):
    for name, python, own in contenders:
      result = measure(python, dict(job, **own), model, lengths[mode])
      if result:
        runs[name].append(result)
        print("%s, %s: %.2f examples/s, %d MB, %.0f GFLOP/s" % (
            (what, name) + result), flush=True)
    matmul = run(sys.executable,
                 {"role": "matmul", "precisions": list(limits)})
    if matmul is None:
      sys.exit("Without the limit there is no table.")
    print("limit on %s: %s GFLOP/s" % (
        matmul["device"], ", ".join("%s %.0f" % item for item in
                                    matmul["rates"].items())), flush=True)
    for precision, rate in matmul["rates"].items():
      limits[precision].append(rate)
  lines = format_rows(what, contenders, runs, {
      precision: statistics.median(rates)
      for precision, rates in limits.items()})
  print("\n".join(lines), flush=True)
  return lines


def main():
  arguments = parse_arguments()
  contenders = list_contenders(arguments)
  lines = []
  with tempfile.TemporaryDirectory() as folder:
    for model in arguments.models:
      for task in arguments.tasks:
        steps = arguments.steps or DEFAULT_STEPS[model]
        lengths = prepare_data(arguments, task, steps, folder)
        print("%s: %d examples of %.0f tokens on average" % (
            task, len(lengths["train"]),
            statistics.mean(lengths["train"])), flush=True)
        for mode in arguments.modes:
          if (task, mode) == ("pretraining", "predict"):
            continue  # The script only trains and evaluates.
          lines += compare(
              arguments, contenders, model, task, mode, lengths, folder)
  print("\nMedian of %d round(s).\n\n%s" % (
      arguments.rounds, "\n".join([HEADER] + lines)))


if __name__ == "__main__":
  main()
