"""What model_speed.py and memory.py run in processes of their own.

Each process does one job, given by `run`: a JSON object on the command line,
whose "role" says which function below does it; the last line printed is the
result as JSON. Imports are where they are needed, for each role runs in another
Python: the original's (3.7, TensorFlow 1.15), PyTorch's, or this project's.
"""

import importlib
import inspect
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LEARNING_RATE = 2e-5
# SQuAD's usual settings.
DOC_STRIDE, MAX_QUERY_LENGTH = 128, 64
# Pre-training's usual settings for 128 tokens.
MASKED_LM_PROB, MAX_PREDICTIONS_PER_SEQ, SHORT_SEQ_PROB = 0.15, 20, 0.1
# Batches among which examples of similar length are brought together.
GROUPED_BATCHES = 50
# Long enough a schedule that no measurement reaches its end.
SCHEDULE_STEPS = 10000


# For those who give the jobs.


def run(python, job):
  """A job's result; None, after a message, if it fails."""
  process = subprocess.run(
      [python, os.path.abspath(__file__), json.dumps(job)],
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3"))
  if process.returncode:
    error = process.stderr.decode("utf-8", "replace")
    print("FAILED (status %d): %s\n%s" % (
        process.returncode, json.dumps(job), error[-2000:]), file=sys.stderr)
    return None
  return json.loads(process.stdout.decode("utf-8").splitlines()[-1])


def write_config(vocab_file, shape, folder):
  """Writes the config of (layers, hidden size, heads); returns its path."""
  layers, width, heads = shape
  with open(vocab_file, "rb") as reader:
    vocab_size = sum(1 for _ in reader)
  path = os.path.join(folder, "bert_config.json")
  with open(path, "w") as writer:
    json.dump({
        "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "hidden_size": width,
        "initializer_range": 0.02, "intermediate_size": 4 * width,
        "max_position_embeddings": 512, "num_attention_heads": heads,
        "num_hidden_layers": layers, "type_vocab_size": 2,
        "vocab_size": vocab_size}, writer)
  return path


# Data: real examples as records for TensorFlow and as JSON for PyTorch.


def mrpc_rows(job, tokenizer):
  """Features of all training examples, each a dict of name to list of int."""
  import run_classifier
  processor = run_classifier.MrpcProcessor()
  features = run_classifier.convert_examples_to_features(
      processor.get_train_examples(job["source"]), processor.get_labels(),
      job["seq_length"], tokenizer)
  return [{"label_ids": [feature.label_id], "is_real_example": [1],
           **sequences(feature)} for feature in features]


def squad_rows(job, tokenizer):
  """Features of all questions; of several answers the first counts."""
  import squad
  articles = squad.load_json(job["source"], "data")
  for article in articles:
    for paragraph in article["paragraphs"]:
      for question in paragraph["qas"]:
        question["answers"] = question["answers"][:1]
  path = os.path.join(job["folder"], "squad.json")
  with open(path, "w") as writer:
    json.dump({"data": articles}, writer)
  examples = squad.read_squad_examples(path, is_training=True)
  # As run_squad does: neighbours share a context, and so have like lengths.
  random.Random(12345).shuffle(examples)
  features = []
  squad.convert_examples_to_features(
      examples, tokenizer, job["seq_length"], DOC_STRIDE, MAX_QUERY_LENGTH,
      True, features.append)
  return [{"unique_ids": [feature.unique_id],
           "start_positions": [feature.start_position],
           "end_positions": [feature.end_position],
           **sequences(feature)} for feature in features]


def pretraining_rows(job, tokenizer):
  """Masked sentence pairs of a text."""
  import tensorflow.compat.v1 as tf

  import create_pretraining_data
  create_pretraining_data.FLAGS.mark_as_parsed()
  instances = create_pretraining_data.create_training_instances(
      [job["source"]], tokenizer, job["seq_length"], 1, SHORT_SEQ_PROB,
      MASKED_LM_PROB, MAX_PREDICTIONS_PER_SEQ, random.Random(12345), False)
  path = os.path.join(job["folder"], "instances.tf_record")
  create_pretraining_data.write_instance_to_example_files(
      instances, tokenizer, job["seq_length"], MAX_PREDICTIONS_PER_SEQ, [path])
  rows = []
  for record in tf.io.tf_record_iterator(path):
    features = tf.train.Example.FromString(record).features.feature
    rows.append({
        name: list(feature.int64_list.value or feature.float_list.value)
        for name, feature in features.items()})
  return rows


def sequences(feature):
  return {name: getattr(feature, name)
          for name in ("input_ids", "input_mask", "segment_ids")}


def mrpc_targets(row):
  return row["label_ids"]


def squad_targets(row):
  return row["start_positions"] + row["end_positions"]


def pretraining_targets(row):
  """What was masked, with -100 for what was not; and the next sentence."""
  labels = [-100] * sum(row["input_mask"])
  for position, token, weight in zip(
      row["masked_lm_positions"], row["masked_lm_ids"],
      row["masked_lm_weights"]):
    if weight:
      labels[position] = token
  return [labels] + row["next_sentence_labels"]


TARGETS = {"mrpc": mrpc_targets, "squad": squad_targets,
           "pretraining": pretraining_targets}


def write_rows(job, name, rows):
  """Writes `<task>.<name>.tf_record` and `.json`; returns the lengths."""
  import input_pipeline
  path = os.path.join(job["folder"], job["task"] + "." + name)
  with input_pipeline.atomic_record_writer(path + ".tf_record") as writer:
    for row in rows:
      floats = {key: row[key] for key in row if isinstance(row[key][0], float)}
      writer.write(input_pipeline.serialize_example(
          {key: row[key] for key in row if key not in floats}, floats))
  lengths = [sum(row["input_mask"]) for row in rows]
  with open(path + ".json", "w") as writer:
    json.dump([{"input_ids": row["input_ids"][:length],
                "segment_ids": row["segment_ids"][:length],
                "targets": TARGETS[job["task"]](row)}
               for row, length in zip(rows, lengths)], writer)
  return lengths


def prepare_data(job):
  """All examples to train on; a random sample, and a warm-up, to predict.

  The sample begins anew where there are too few.
  """
  sys.path.insert(0, PROJECT)
  import tokenization
  tokenizer = tokenization.FullTokenizer(job["vocab_file"], True)
  read = {"mrpc": mrpc_rows, "squad": squad_rows,
          "pretraining": pretraining_rows}[job["task"]]
  rows = read(job, tokenizer)
  first, count = job["warmup_examples"], job["predict_examples"]
  shuffled = random.Random(1).sample(rows, len(rows))
  sample = list(itertools.islice(itertools.cycle(shuffled), first + count))
  write_rows(job, "warmup", sample[:first])
  return {"train": write_rows(job, "train", rows),
          "predict": write_rows(job, "predict", sample[first:])}


def prepare_full_data(job):
  """Random pairs without any padding, for what takes the most memory."""
  sys.path.insert(0, PROJECT)
  draw = random.Random(1)
  with open(job["config_file"]) as reader:
    vocab_size = json.load(reader)["vocab_size"]
  length, rows = job["seq_length"], []
  for _ in range(job["batch_size"]):
    rows.append({
        "input_ids": [draw.randrange(vocab_size) for _ in range(length)],
        "input_mask": [1] * length,
        "segment_ids": [int(i > length // 2) for i in range(length)],
        "label_ids": [draw.randrange(2)], "is_real_example": [1]})
  return {"train": write_rows(job, "train", rows)}


# This project and the original, through their own model and input functions.


def accepted(function, options):
  """Those of the options that are arguments of the function."""
  names = inspect.signature(function).parameters
  return {name: value for name, value in options.items() if name in names}


def load_module(job):
  """The task's script, this project's or the original's."""
  name = {"mrpc": "run_classifier", "squad": "run_squad",
          "pretraining": "run_pretraining"}[job["task"]]
  if job["role"] == "original":
    return importlib.import_module("bert." + name)
  sys.path.insert(0, PROJECT)
  return importlib.import_module(name)


def builders(job, module):
  """The module's builders of `model_fn` and of `input_fn`."""
  return module.model_fn_builder, (
      module.file_based_input_fn_builder if job["task"] == "mrpc"
      else module.input_fn_builder)


def absent_options(job, module):
  """Names of the options asked for that this version does not have."""
  known = set()
  for build in builders(job, module):
    known.update(accepted(build, job["options"]))
  return sorted(name for name, value in job["options"].items()
                if name not in known and value not in ("float32", False))


def step_timer(warmup):
  """A hook that keeps the time after each step and the examples' lengths."""
  import tensorflow.compat.v1 as tf

  class StepTimer(tf.train.SessionRunHook):
    lengths_tensor = None

    def __init__(self):
      self._times, self._lengths = [], []

    def before_run(self, run_context):
      del run_context  # Part of the interface.
      return tf.train.SessionRunArgs(self.lengths_tensor)

    def after_run(self, run_context, run_values):
      del run_context  # Part of the interface.
      self._times.append(time.time())
      self._lengths.append(run_values.results.tolist())

    def result(self):
      return {"seconds": self._times[-1] - self._times[warmup - 1],
              "lengths": sum(self._lengths[warmup:], [])}

  return StepTimer()


def model_function(job, module, timer):
  """The script's own `model_fn`, watched by the timer when it trains."""
  import tensorflow.compat.v1 as tf
  build, _ = builders(job, module)
  options = dict(job["options"], num_labels=2)
  if "compute_dtype" in options:
    options["compute_dtype"] = tf.as_dtype(options["compute_dtype"])
  model_fn = build(
      bert_config=module.modeling.BertConfig.from_json_file(
          job["config_file"]),
      init_checkpoint=None, learning_rate=LEARNING_RATE,
      num_train_steps=SCHEDULE_STEPS, num_warmup_steps=SCHEDULE_STEPS // 10,
      use_tpu=False, use_one_hot_embeddings=False,
      **accepted(build, options))

  def timed_model_fn(features, labels, mode, params):
    spec = model_fn(features, labels, mode, params)
    if mode != "train":  # ModeKeys.TRAIN, where TensorFlow still has it.
      return spec
    timer.lengths_tensor = tf.reduce_sum(features["input_mask"], axis=1)
    return spec._replace(training_hooks=(timer,))

  return timed_model_fn


def input_function(job, module, name):
  """The script's own `input_fn` over a set of `prepare_data`."""
  _, build = builders(job, module)
  is_training = job["mode"] == "train"
  options = dict(job["options"])
  if not is_training:
    options["group_by_length"] = True  # As the scripts have it.
  options["drop_remainder"] = is_training
  path = os.path.join(job["folder"], "%s.%s.tf_record" % (job["task"], name))
  if job["task"] == "pretraining":
    return build([path], job["seq_length"], MAX_PREDICTIONS_PER_SEQ,
                 is_training=is_training, **accepted(build, options))
  return build(path, job["seq_length"], is_training=is_training,
               **accepted(build, options))


def original_estimator(model_fn, output_dir, batch_size):
  """Set up as the original's scripts do it."""
  import tensorflow.compat.v1 as tf
  return tf.estimator.tpu.TPUEstimator(
      use_tpu=False, model_fn=model_fn, train_batch_size=batch_size,
      eval_batch_size=batch_size, predict_batch_size=batch_size,
      config=tf.estimator.tpu.RunConfig(
          model_dir=output_dir, save_checkpoints_steps=1000,
          tpu_config=tf.estimator.tpu.TPUConfig(iterations_per_loop=1000)))


def time_predictions(job, estimator, warmup_fn, input_fn):
  """Seconds from the last warm-up example's result to the last one's."""
  def both(params):
    # Either part in its own batches, whatever the input functions group.
    return warmup_fn(params).concatenate(input_fn(params))

  first = job["warmup"] * job["batch_size"]
  marks = first, first + job["predict_examples"]
  times = [time.time() for count, _ in enumerate(estimator.predict(both), 1)
           if count in marks]
  return {"seconds": times[1] - times[0]}


def run_estimator(job):
  """Trains or predicts; seconds and lengths of what came after the warm-up.

  The lengths only in training: what is predicted is always the same.
  """
  is_original = job["role"] == "original"
  module = load_module(job)
  absent = absent_options(job, module)
  if absent:
    return {"absent": absent}
  warmup = job.get("train_warmup", job["warmup"])
  timer = step_timer(warmup)
  model_fn = model_function(job, module, timer)
  with tempfile.TemporaryDirectory() as output_dir:
    batch_size = job["batch_size"]
    if is_original:
      estimator = original_estimator(model_fn, output_dir, batch_size)
    else:
      estimator = module.estimators.create_estimator(
          model_fn=model_fn, output_dir=output_dir,
          train_batch_size=batch_size, predict_batch_size=batch_size)
    input_fn = input_function(job, module, job["mode"])
    if job["mode"] == "predict":
      return time_predictions(
          job, estimator, input_function(job, module, "warmup"), input_fn)
    steps = warmup + job.get("train_steps", job["steps"])
    if is_original:
      estimator.train(input_fn=input_fn, max_steps=steps)
    else:
      module.estimators.train(estimator, input_fn, steps, batch_size)
  return timer.result()


# PyTorch and transformers.


def torch_model(job):
  """(model, function of rows to a batch's loss or predictions, device)."""
  import torch
  import transformers
  device = "cuda" if torch.cuda.is_available() else "cpu"
  with open(job["config_file"]) as reader:
    config = transformers.BertConfig(**json.load(reader))
  model = {"mrpc": transformers.BertForSequenceClassification,
           "squad": transformers.BertForQuestionAnswering,
           "pretraining": transformers.BertForPreTraining}[job["task"]](config)
  model = model.to(device).train(job["mode"] == "train")
  names = {"mrpc": ["labels"], "squad": ["start_positions", "end_positions"],
           "pretraining": ["labels", "next_sentence_label"]}

  def forward(rows):
    lengths = [len(row["input_ids"]) for row in rows]
    longest = job["seq_length"] if job["padding"] == "max" else max(lengths)

    def tensor(values, filler=0):
      if isinstance(values[0], list):
        values = [row + [filler] * (longest - len(row)) for row in values]
      return torch.tensor(values, device=device)

    inputs = {"input_ids": tensor([row["input_ids"] for row in rows]),
              "token_type_ids": tensor([row["segment_ids"] for row in rows]),
              "attention_mask": tensor([[1] * length for length in lengths])}
    if job["mode"] == "train":
      for index, name in enumerate(names[job["task"]]):
        inputs[name] = tensor([row["targets"][index] for row in rows], -100)
    with torch.autocast(device, dtype=torch.bfloat16,
                        enabled=job["precision"] == "bfloat16"):
      outputs = model(**inputs)
    if job["mode"] == "train":
      return outputs.loss
    if job["task"] == "mrpc":
      return outputs.logits.float().softmax(-1).cpu()
    return torch.stack([outputs.start_logits, outputs.end_logits]).cpu()

  return model, forward, device


def torch_step(job, model, forward):
  """A function of rows that trains on them, or predicts them."""
  import torch
  if job["mode"] == "predict":
    return torch.inference_mode()(forward)
  optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

  def train(rows):
    forward(rows).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()

  return train


def torch_batches(job, name, is_shuffled):
  """A set's examples in batches, grouped by length if the job says so."""
  path = os.path.join(job["folder"], "%s.%s.json" % (job["task"], name))
  with open(path) as reader:
    rows = json.load(reader)
  size = job["batch_size"]
  generator = random.Random()
  if is_shuffled:
    generator.shuffle(rows)
    rows = rows[:len(rows) // size * size]
  if job["padding"] == "group":
    window = GROUPED_BATCHES * size
    rows = [row for start in range(0, len(rows), window)
            for row in sorted(rows[start:start + window],
                              key=lambda row: len(row["input_ids"]))]
  batches = [rows[start:start + size] for start in range(0, len(rows), size)]
  if is_shuffled:
    generator.shuffle(batches)
  return batches


def run_torch(job):
  """Trains or predicts; seconds and lengths of what came after the warm-up."""
  import torch
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  model, forward, device = torch_model(job)
  step = torch_step(job, model, forward)
  if job["mode"] == "train":
    batches = torch_batches(job, "train", is_shuffled=True)
    batches *= -(-(job["warmup"] + job["steps"]) // len(batches))
    warmup, batches = batches[:job["warmup"]], batches[job["warmup"]:]
    batches = batches[:job["steps"]]
  else:
    warmup = torch_batches(job, "warmup", is_shuffled=False)
    batches = torch_batches(job, "predict", is_shuffled=False)

  def time_after(batches):
    for rows in batches:
      step(rows)
    if device == "cuda":
      torch.cuda.synchronize()
    return time.time()

  start = time_after(warmup)
  return {"seconds": time_after(batches) - start,
          "lengths": [len(row["input_ids"]) for rows in batches
                      for row in rows]}


# The machine.


def measure_matmul(job):
  """{precision: GFLOP/s} of TensorFlow's product of two large matrices."""
  import tensorflow.compat.v1 as tf
  on_gpu = bool(tf.config.experimental.list_physical_devices("GPU"))
  size, repeats = (8192, 50) if on_gpu else (4096, 1)
  rates = {}
  for precision in job["precisions"]:
    with tf.Graph().as_default(), tf.Session() as session:
      # Variables, so that nothing is computed beforehand; scaled so that
      # products of products keep their size.
      first, second = [
          tf.Variable(tf.cast(
              tf.random.normal([size, size], stddev=size ** -0.5), precision),
                      use_resource=True) for _ in range(2)]
      product = first.read_value()
      for _ in range(repeats):
        product = tf.matmul(product, second)
      checksum = tf.reduce_sum(tf.cast(product, tf.float32))
      session.run(tf.global_variables_initializer())
      session.run(checksum)
      seconds = []
      for _ in range(5):
        start = time.time()
        session.run(checksum)
        seconds.append(time.time() - start)
    rates[precision] = 2e-9 * size ** 3 * repeats / min(seconds)
  return {"rates": rates, "device": "GPU" if on_gpu else "CPU"}


def tensorflow_version(job):
  """{"version": that of the TensorFlow that jobs run with}."""
  del job  # Part of the interface.
  import tensorflow.compat.v1 as tf
  return {"version": tf.__version__}


ROLES = {"data": prepare_data, "full_data": prepare_full_data,
         "ours": run_estimator, "original": run_estimator,
         "PyTorch": run_torch, "matmul": measure_matmul,
         "version": tensorflow_version}


def main():
  job = json.loads(sys.argv[1])
  del sys.path[0]  # The files here have names of the project's modules.
  result = ROLES[job["role"]](job)
  # Kilobytes on Linux.
  result["megabytes"] = resource.getrusage(
      resource.RUSAGE_SELF).ru_maxrss / 1024
  print("\n" + json.dumps(result))


if __name__ == "__main__":
  main()
