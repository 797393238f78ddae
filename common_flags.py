"""Declares, once, every flag that more than one script takes.

A script calls the groups it needs at import time and declares the rest itself:

  import common_flags

  common_flags.define_model_flags()
  common_flags.define_tokenizer_flags(max_seq_length=384)
  common_flags.DEFINE_integer("doc_stride", 128, "...")

Names, types and defaults match google-research/bert. Every declaration may be
repeated: importing two scripts in one process, or reloading one in a notebook,
keeps the flag that was declared last instead of failing.
"""

import difflib
import functools
import logging
import os
import sys
import traceback

from absl import app, flags

# The flags then count as the calling script's own, and its --help lists them.
flags.disclaim_key_flags()

DEFINE_string = functools.partial(flags.DEFINE_string, allow_override=True)
DEFINE_bool = functools.partial(flags.DEFINE_bool, allow_override=True)
DEFINE_integer = functools.partial(flags.DEFINE_integer, allow_override=True)
DEFINE_float = functools.partial(flags.DEFINE_float, allow_override=True)
DEFINE_enum = functools.partial(flags.DEFINE_enum, allow_override=True)
DEFINE_list = functools.partial(flags.DEFINE_list, allow_override=True)


class _LayersParser(flags.ArgumentParser):
  """Parses a number of layers; the flag alone stands for 1, `--no...` for 0."""

  syntactic_help = "a number of layers"

  def parse(self, argument):
    value = {"true": "1", "false": "0"}.get(str(argument).lower(), argument)
    try:
      number = int(value)
    except ValueError:
      number = -1
    if number < 0:
      raise ValueError("expected a number of layers, as in =2, or nothing")
    return number

  def flag_type(self):
    return "int"


def _define_layers_flag(name, help_text):
  flags.DEFINE_flag(flags.Flag(
      _LayersParser(), flags.ArgumentSerializer(), name, 0, help_text,
      boolean=True, allow_override=True))


def define_alias(alias, name):
  """Lets `--<alias>` stand for `--<name>`; a second declaration is harmless.

  `flags.DEFINE_alias` would stay bound to the flag as it was declared when the
  alias was made, which the next declaration replaces.
  """
  if alias in flags.FLAGS:
    return
  flag = flags.FLAGS[name]

  class Alias(flags.Flag):

    def parse(self, argument):
      target = flags.FLAGS[name]
      target.parse(argument)
      target.using_default_value = False
      self.present += 1

  flags.DEFINE_flag(Alias(
      flag.parser, flag.serializer, alias, flag.default,
      "Alias for --%s." % name, boolean=flag.boolean))


def define_model_flags():
  """--bert_config_file and --init_checkpoint."""
  DEFINE_string(
      "bert_config_file", None,
      "JSON file with the model's hyperparameters (bert_config.json).")
  DEFINE_string(
      "init_checkpoint", None,
      "Checkpoint that the weights start from, usually a pre-trained "
      "bert_model.ckpt. A prefix, one of the checkpoint's files, or a "
      "directory (its newest checkpoint) are all accepted.")
  DEFINE_bool(
      "real_tokens_only", True,
      "On CPU and GPU, compute nothing for padding. The results are the same, "
      "sooner. (A TPU always computes whole batches.)")
  DEFINE_enum(
      "mixed_precision", "none", ["none", "bfloat16", "float16", "auto"],
      "Type of activations and matrix products: less time and memory, a little "
      "less precision. Weights, optimizer, normalisation, softmax and loss "
      "stay float32, and so do checkpoints. auto: bfloat16 where the processor "
      "or the GPU has it (a TPU always does), else float16 on a GPU.")
  DEFINE_bool(
      "use_xla", False,
      "Let XLA compile whatever it can of the graph, with padding, for it "
      "compiles each shape anew; a minute of compiling. In training, what "
      "gains most is compiled anyway: on CPU and, where XLA can, on a GPU.")
  DEFINE_integer(
      "intra_op_threads", 0,
      "CPU threads that one operation is spread over; 0: one for each core.")
  DEFINE_integer(
      "inter_op_threads", 0,
      "Operations that run at the same time; 0: as many as there are cores.")


def define_tokenizer_flags(max_seq_length=128):
  """--vocab_file, --do_lower_case (alias --do_lower) and --max_seq_length."""
  DEFINE_string(
      "vocab_file", None,
      "WordPiece vocabulary the model was trained with, a token a line.")
  DEFINE_bool(
      "do_lower_case", True,
      "Lower-case the text and strip its accents: True for uncased models, "
      "False (--do_lower_case=False) for cased ones.")
  # A widely copied command line spells it --do_lower=False.
  define_alias("do_lower", "do_lower_case")
  define_sequence_length_flag(max_seq_length)


def define_sequence_length_flag(max_seq_length=128):
  """--max_seq_length, in WordPiece tokens."""
  DEFINE_integer(
      "max_seq_length", max_seq_length,
      "Longest input in WordPiece tokens, [CLS] and [SEP] included. Longer "
      "inputs are cut, shorter ones padded.")


def define_training_flags():
  """Where to write, whether and how to train, what to log and keep."""
  DEFINE_string(
      "output_dir", None,
      "Folder for checkpoints, records, results and TensorBoard events. A "
      "checkpoint found there is resumed from and wins over "
      "--init_checkpoint.")
  DEFINE_bool("do_train", False, "Train the model.")
  DEFINE_integer("train_batch_size", 32, "Training examples in a step.")
  DEFINE_integer(
      "gradient_accumulation_steps", 1,
      "Parts of equal size that a training batch is computed in, one after the "
      "other: the same step, in the memory of "
      "train_batch_size / gradient_accumulation_steps examples.",
      lower_bound=1)
  _define_layers_flag(
      "gradient_checkpointing",
      "Keep only each layer's input and compute the layer again for the "
      "gradients: a fraction of the memory, a third more time, the same "
      "result. =N keeps the input of every Nth layer and of the last.")
  DEFINE_float("learning_rate", 5e-5, "Peak of the learning rate.")
  DEFINE_enum(
      "optimizer", "adamw", ["adamw", "lamb", "adafactor"],
      "adamw: what BERT was trained with. lamb: for batches of thousands, with "
      "a rate of about 1e-3. adafactor: keeps next to nothing in memory, where "
      "the others keep two numbers a weight.")
  DEFINE_integer(
      "freeze_layers", -1,
      "Leave the embeddings and this many of the lowest layers as they are: "
      "less time and memory. 0 freezes the embeddings, -1 nothing.")
  DEFINE_bool(
      "group_by_length", False,
      "Make training batches of examples of similar length, in random order: "
      "faster on CPU and GPU, but the batches are less random.")
  DEFINE_integer(
      "save_checkpoints_steps", 1000, "Steps between two checkpoints.")
  DEFINE_integer(
      "keep_checkpoint_max", 5,
      "How many of the newest checkpoints stay on disk; 0 keeps all.")
  DEFINE_integer(
      "iterations_per_loop", 1000,
      "TPU only: steps a TPU runs between two returns to its host.")
  DEFINE_integer(
      "log_steps", 100,
      "Training steps between two progress lines (step, loss, learning rate, "
      "examples/s, time left) and between two TensorBoard points.")
  DEFINE_integer(
      "seed", None,
      "Seed of weight initialisation, dropout and shuffling. Unset: a "
      "different run each time.")


def define_evaluation_flags():
  """--do_eval and --eval_batch_size."""
  DEFINE_bool("do_eval", False, "Evaluate the model.")
  DEFINE_integer("eval_batch_size", 8, "Evaluation examples in a batch.")


def define_prediction_flags():
  """--do_predict and --predict_batch_size."""
  DEFINE_bool("do_predict", False, "Predict with the model.")
  DEFINE_integer("predict_batch_size", 8, "Prediction examples in a batch.")


def define_export_flag():
  """--export_dir."""
  DEFINE_string(
      "export_dir", None,
      "Folder to write the trained model to, as a SavedModel with vocabulary "
      "and settings, for predictor.py, TensorFlow Serving and "
      "tf.saved_model.load. It must not exist yet.")


def define_fine_tuning_flags():
  """--num_train_epochs and --warmup_proportion."""
  DEFINE_float("num_train_epochs", 3.0, "Passes over the training examples.")
  DEFINE_float(
      "warmup_proportion", 0.1,
      "Share of the training steps in which the learning rate climbs from 0; "
      "0.1 is a tenth.")


def define_tpu_flags():
  """Cloud TPU address and size."""
  DEFINE_bool("use_tpu", False, "Run on a Cloud TPU instead of CPU or GPU.")
  DEFINE_string(
      "tpu_name", None,
      "Cloud TPU to use: its name, or its grpc://ip:port address.")
  DEFINE_string(
      "tpu_zone", None,
      "GCE zone of the TPU; found from the environment when unset.")
  DEFINE_string(
      "gcp_project", None,
      "Google Cloud project of the TPU; found from the environment when "
      "unset.")
  DEFINE_string("master", None, "Address of a TensorFlow master, if any.")
  DEFINE_integer("num_tpu_cores", 8, "TPU cores in use (with --use_tpu).")


# Flags that name arguments of `estimators.create_estimator`.
_ESTIMATOR_FLAGS = (
    "output_dir", "train_batch_size", "eval_batch_size", "predict_batch_size",
    "save_checkpoints_steps", "keep_checkpoint_max", "log_steps", "seed",
    "use_tpu", "tpu_name", "tpu_zone", "gcp_project", "master",
    "num_tpu_cores", "iterations_per_loop", "use_xla", "intra_op_threads",
    "inter_op_threads")


def estimator_arguments(flag_values):
  """The keyword arguments that `estimators.create_estimator` takes from flags.

  Args:
    flag_values: the script's `FLAGS`.

  Returns:
    dict of name to value, of the flags that are declared.
  """
  return {name: flag_values[name].value
          for name in _ESTIMATOR_FLAGS if name in flag_values}


def skips_padding(flag_values):
  """Whether to compute real tokens only, another number of them in each step.

  Never for a TPU or with --use_xla, which compile the graph for each shape.

  Args:
    flag_values: the script's `FLAGS`.

  Returns:
    bool.
  """
  return flag_values.real_tokens_only and not (
      flag_values.use_tpu or flag_values.use_xla)


def leftover_argument_warnings(leftovers, flag_names, command_line=None):
  """Explains the arguments that flag parsing left over.

  `tf.app.run` passes on unknown flags and stray words without a sound, so a
  misspelt flag keeps its default and `--do_lower_case False` means True.

  Args:
    leftovers: list of str, what `main` received after the program's name.
    flag_names: iterable of str, the names of all declared flags.
    command_line: list of str, the arguments as typed; `sys.argv` when None.

  Returns:
    list of str, one message per left-over argument, in order. Empty when
    everything was understood.
  """
  command_line = sys.argv if command_line is None else command_line
  names = sorted(flag_names)
  messages = []
  words = list(zip(command_line, command_line[1:]))
  for argument in leftovers:
    if argument.startswith("-"):
      messages.append(_unknown_flag_message(argument, names))
    else:
      messages.append(_stray_word_message(argument, names, words))
  return messages


def _unknown_flag_message(argument, names):
  name = argument.lstrip("-").split("=")[0]
  message = "Unknown flag `%s` is ignored." % argument
  close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
  if close:
    message += " Did you mean --%s?" % close[0]
  return message


def _stray_word_message(word, names, pairs):
  for before, after in list(pairs):
    name = before.lstrip("-")
    if after == word and before.startswith("-") and name in names:
      pairs.remove((before, after))  # Blamed once.
      return ("`%s %s` sets --%s to True and drops the word `%s`: a boolean "
              "flag takes its value after an equals sign, `--%s=%s`."
              % (before, word, name, word, name, word))
  return "`%s` is not a flag and is ignored." % word


class _NoiseFilter(logging.Filter):
  """Drops TensorFlow's notices to its own callers; users cannot act on them."""

  def filter(self, record):
    message = record.getMessage()
    return not ("is deprecated" in message or
                "params are not passed to Estimator" in message)


def script_main(main):
  """Wraps a script's `main`, for `run`.

  - Arguments that flag parsing left over get a warning each.
  - A ValueError raised by this project's own code says what is wrong with the
    input and what to do: it ends the run with that message and status 1. A
    stack of frames above it would bury that. Other exceptions keep theirs.
  - TensorFlow's log lines come once, not once more in absl's format, and
    without its notices to programmers, dozens that hide what matters.

  Args:
    main: function of the arguments left over, as absl calls it.

  Returns:
    such a function.
  """
  here = os.path.dirname(os.path.abspath(__file__))

  @functools.wraps(main)
  def wrapped(argv):
    logger = logging.getLogger("tensorflow")
    logger.propagate = False
    logger.addFilter(_NoiseFilter())
    for message in leftover_argument_warnings(argv[1:], flags.FLAGS):
      logger.warning(message)
    try:
      return main(argv)
    except ValueError as error:
      raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
      if os.path.dirname(os.path.abspath(raised_in)) != here:
        raise
      sys.exit("ERROR: %s" % error)

  return wrapped


def run(main):
  """Parses the command line, then calls a script's `main`, and exits.

  What `tf.app.run` does, unknown flags passed over included, but without
  TensorFlow, and with `script_main`'s warnings and messages. A required flag
  that is missing, or a value that cannot be, ends in a message of one line
  each, too.

  Args:
    main: function of the arguments left over.
  """
  app.run(script_main(main), flags_parser=_parse_flags)


def _parse_flags(argv):
  try:
    return flags.FLAGS(argv, known_only=True)
  except flags.Error as error:
    return sys.exit("ERROR: %s\n%s --help lists all flags." % (
        error, os.path.basename(argv[0])))
